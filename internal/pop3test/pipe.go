package pop3test

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// pipeSize is how many octets Pipe holds unread in each direction. A client
// may have 16 KiB of commands on the wire before it reads a reply, as with any
// socket.
const pipeSize = 64 << 10

// Pipe returns the two ends of an in-memory connection that behaves as a
// socket does: each direction holds up to 64 KiB that nobody has read yet, so
// unlike with [net.Pipe] neither end waits for the other to read.
//
// Deadlines are honored and follow the clock of a testing/synctest bubble, in
// which a goroutine waiting on a pipe counts as durably blocked. After one end
// is closed the other reads what is left and then [io.EOF]; writing to it
// fails with [io.ErrClosedPipe].
func Pipe() (client, server net.Conn) { return PipeSize(pipeSize) }

// PipeSize is [Pipe] with room for n octets in each direction, at least one.
func PipeSize(n int) (client, server net.Conn) {
	up, down := newHalf(max(n, 1)), newHalf(max(n, 1))
	return &pipeConn{r: down, w: up}, &pipeConn{r: up, w: down}
}

type pipeConn struct {
	r, w *half
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pop3test" } // not as net.Pipe, which holds nothing

func (c *pipeConn) LocalAddr() net.Addr  { return pipeAddr{} }
func (c *pipeConn) RemoteAddr() net.Addr { return pipeAddr{} }

func (c *pipeConn) Read(p []byte) (int, error)  { return c.r.read(p) }
func (c *pipeConn) Write(p []byte) (int, error) { return c.w.write(p) }

func (c *pipeConn) Close() error {
	c.r.closeRead()
	c.w.closeWrite()
	return nil
}

func (c *pipeConn) SetReadDeadline(t time.Time) error  { return c.r.setDeadline(&c.r.reader, t) }
func (c *pipeConn) SetWriteDeadline(t time.Time) error { return c.w.setDeadline(&c.w.writer, t) }

func (c *pipeConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// waitPeerClosed waits until the other end is closed, without reading.
func (c *pipeConn) waitPeerClosed() {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	for !c.r.writer.closed && !c.r.reader.closed {
		c.r.changed.Wait()
	}
}

// A half is one direction of a pipe.
type half struct {
	mu      sync.Mutex
	changed sync.Cond // signals any change of what follows
	buf     bytes.Buffer
	size    int
	reader  halfEnd
	writer  halfEnd
}

type halfEnd struct {
	closed  bool
	at      time.Time // deadline, zero for none
	expired bool
	timer   *time.Timer // made by the first deadline, then reset
}

func newHalf(size int) *half {
	h := &half{size: size}
	h.changed.L = &h.mu
	return h
}

func (h *half) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.reader.closed:
			return 0, net.ErrClosed
		case h.reader.expired:
			return 0, os.ErrDeadlineExceeded
		case h.buf.Len() > 0:
			n, _ := h.buf.Read(p)
			h.changed.Broadcast()
			return n, nil
		case h.writer.closed:
			return 0, io.EOF
		case len(p) == 0:
			return 0, nil
		}
		h.changed.Wait()
	}
}

func (h *half) write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	written := 0
	for {
		switch room := h.size - h.buf.Len(); {
		case h.writer.closed:
			return written, net.ErrClosed
		case h.reader.closed:
			return written, io.ErrClosedPipe
		case h.writer.expired:
			return written, os.ErrDeadlineExceeded
		case written == len(p):
			return written, nil
		case room > 0:
			n, _ := h.buf.Write(p[written:min(written+room, len(p))])
			written += n
			h.changed.Broadcast()
			if written == len(p) {
				return written, nil
			}
		default:
			h.changed.Wait()
		}
	}
}

func (h *half) closeRead()  { h.close(&h.reader) }
func (h *half) closeWrite() { h.close(&h.writer) }

func (h *half) close(end *halfEnd) {
	h.mu.Lock()
	defer h.mu.Unlock()
	end.closed = true
	if end.timer != nil {
		end.timer.Stop()
	}
	h.changed.Broadcast()
}

func (h *half) setDeadline(end *halfEnd, t time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if end.closed {
		return net.ErrClosed
	}
	if end.timer != nil {
		end.timer.Stop()
	}
	end.at, end.expired = t, false
	if t.IsZero() {
		return nil
	}
	wait := time.Until(t)
	end.at = time.Now().Add(wait) // with a monotonic reading, which the timer goes by
	switch {
	case wait <= 0:
		end.expired = true
		h.changed.Broadcast()
	case end.timer == nil:
		end.timer = time.AfterFunc(wait, func() { h.expire(end) })
	default:
		end.timer.Reset(wait)
	}
	return nil
}

func (h *half) expire(end *halfEnd) {
	h.mu.Lock()
	defer h.mu.Unlock()
	// Stop and Reset do not call back a timer that has fired already, so the
	// deadline may have been moved or lifted meanwhile.
	if end.closed || end.at.IsZero() {
		return
	}
	if left := time.Until(end.at); left > 0 {
		end.timer.Reset(left)
		return
	}
	end.expired = true
	h.changed.Broadcast()
}
