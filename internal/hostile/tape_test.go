package hostile_test

import (
	"bytes"
	"io"
	"net"
	"time"
)

// A tape is a connection without a network: each line that is written is
// answered at once, and the answers are read in pieces of the sizes given. What
// is not there yet never comes, and reads as the end.
type tape struct {
	answer func(line string) string
	size   func(read int) int // of the next piece, when so much has been read

	line    []byte
	pending []byte
	read    int
	closed  bool
}

func (t *tape) Write(p []byte) (int, error) {
	if t.closed {
		return 0, net.ErrClosed
	}
	t.line = append(t.line, p...)
	for {
		i := bytes.Index(t.line, []byte("\r\n"))
		if i < 0 {
			return len(p), nil
		}
		t.pending = append(t.pending, t.answer(string(t.line[:i]))...)
		t.line = t.line[i+2:]
	}
}

func (t *tape) Read(p []byte) (int, error) {
	switch {
	case t.closed:
		return 0, net.ErrClosed
	case len(t.pending) == 0:
		return 0, io.EOF
	}
	n := min(len(p), len(t.pending))
	if t.size != nil {
		n = max(1, min(n, t.size(t.read)))
	}
	copy(p, t.pending[:n])
	t.pending = t.pending[n:]
	t.read += n
	return n, nil
}

func (t *tape) Close() error                     { t.closed = true; return nil }
func (t *tape) LocalAddr() net.Addr              { return local{} }
func (t *tape) RemoteAddr() net.Addr             { return local{} }
func (t *tape) SetDeadline(time.Time) error      { return nil }
func (t *tape) SetReadDeadline(time.Time) error  { return nil }
func (t *tape) SetWriteDeadline(time.Time) error { return nil }

// local is the address of a connection that stays on this machine.
type local struct{}

func (local) Network() string { return "pipe" }
func (local) String() string  { return "pipe" }
