// Package stream puts a time limit on each wait for a network connection.
package stream

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// A Stream reads and writes a net.Conn, and gives up on a wait that takes longer than its
// timeout. A wait begins with the first Read after [Stream.Await], and may take several
// reads.
//
// It holds the connection behind a pointer of its own, so that printing a struct that
// holds a *Stream does not print the keys of a TLS connection: package fmt follows one
// pointer, not two.
type Stream struct {
	Conn net.Conn // raw, or TLS over it

	raw      net.Conn      // below TLS
	timeout  time.Duration // 0 means no limit
	by       time.Time     // when the wait under way must be over; zero if none is
	deadline time.Time     // the last one set on Conn
	draining bool          // by holds until Resume
}

// New returns a Stream over conn. A timeout of 0 means no limit.
func New(conn net.Conn, timeout time.Duration) *Stream {
	s := &Stream{Conn: conn, raw: conn, timeout: timeout}
	for { // TLS, perhaps over a proxy's TLS
		t, ok := s.raw.(*tls.Conn)
		if !ok {
			return s
		}
		s.raw = t.NetConn()
	}
}

// Abort closes the connection below TLS: to close a tls.Conn may wait five seconds for a
// peer that does not read. It may be called from any goroutine.
func (s *Stream) Abort() error { return s.raw.Close() }

// RemoteAddr returns the address of the peer below TLS, or nil.
func (s *Stream) RemoteAddr() net.Addr { return s.raw.RemoteAddr() }

// Await ends the wait under way: the next Read begins another. While the Stream drains it
// does nothing.
func (s *Stream) Await() {
	if !s.draining {
		s.by = time.Time{}
	}
}

// Drain makes one wait of everything that is read until [Stream.Resume]: it is for input
// that is thrown away. It reports false, and changes nothing, if the Stream drains
// already.
func (s *Stream) Drain() bool {
	if s.draining {
		return false
	}
	s.draining, s.by = true, time.Now().Add(s.timeout)
	return true
}

// Draining reports whether a drain is going on.
func (s *Stream) Draining() bool { return s.draining }

// Resume ends a drain.
func (s *Stream) Resume() { s.draining, s.by = false, time.Time{} }

// errDrain ends a drain of input that comes too fast for a deadline to pass.
var errDrain = fmt.Errorf("discarding the data took too long: %w", os.ErrDeadlineExceeded)

// Read reads from Conn.
func (s *Stream) Read(p []byte) (int, error) {
	if s.timeout > 0 {
		now := time.Now()
		switch {
		case s.by.IsZero():
			s.by = now.Add(s.timeout)
		case s.draining && !now.Before(s.by):
			return 0, errDrain
		}
		if err := s.setDeadline(s.by); err != nil {
			return 0, err
		}
	}
	return s.Conn.Read(p)
}

// Write writes to Conn. Each call is a wait of its own.
func (s *Stream) Write(p []byte) (int, error) {
	if s.timeout > 0 {
		if err := s.setDeadline(time.Now().Add(s.timeout)); err != nil {
			return 0, err
		}
	}
	return s.Conn.Write(p)
}

// Limit gives what is done with Conn directly, such as a TLS handshake, one timeout from
// now.
func (s *Stream) Limit() error {
	if s.timeout == 0 {
		return nil
	}
	return s.setDeadline(time.Now().Add(s.timeout))
}

// setDeadline sets the deadline for both directions, since TLS may have to write in order
// to read.
func (s *Stream) setDeadline(t time.Time) error {
	if t.Equal(s.deadline) {
		return nil
	}
	s.deadline = t
	err := s.Conn.SetDeadline(t)
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		return nil // reading or writing gives a better error
	}
	if err != nil { // the tunnels of some SSH libraries
		return fmt.Errorf("the connection does not support deadlines; set Options.Timeout to less than 0: %w", err)
	}
	return nil
}

// TimedOut reports whether err is a wait of the Stream's that took too long, rather than
// a timeout of something below.
func (s *Stream) TimedOut(err error) bool {
	return s.timeout > 0 && IsTimeout(err) && !time.Now().Before(s.deadline)
}

// IsTimeout reports whether err is a timeout, whoever set it.
func IsTimeout(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
