package stream_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/pop3/internal/pop3test"
	"example.com/pop3/internal/stream"
)

const timeout = 10 * time.Second

// A wait is what one call of a test does, and how long it must take.
type wait struct {
	what  string
	do    func(s *stream.Stream) error
	takes time.Duration
	late  bool // it ends in a timeout of the Stream's
}

func read(s *stream.Stream) error {
	_, err := s.Read(make([]byte, 1))
	return err
}

func write(s *stream.Stream) error {
	_, err := s.Write(make([]byte, 3))
	return err
}

func await(s *stream.Stream) error {
	s.Await()
	return read(s)
}

func drain(s *stream.Stream) error {
	if !s.Drain() {
		return errors.New("it drains already")
	}
	return read(s)
}

func resume(s *stream.Stream) error {
	s.Resume()
	return read(s)
}

func TestWaits(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name  string
		every time.Duration // the peer sends an octet this often
		waits []wait
	}{
		{"one octet too late", timeout + ms, []wait{{"read", read, timeout, true}}},
		{"in time", timeout - ms, []wait{{"read", read, timeout - ms, false}}},
		{"one wait in several reads", timeout/2 + ms, []wait{
			{"read", read, timeout/2 + ms, false},
			{"read", read, timeout/2 - ms, true},
		}},
		{"a wait for each", timeout - ms, []wait{
			{"await", await, timeout - ms, false},
			{"await", await, timeout - ms, false},
			{"read", read, ms, true},
		}},
		{"a drain is one wait", timeout/4 + ms, []wait{ // no octet comes just when the wait is over
			{"read", read, timeout/4 + ms, false},
			{"drain", drain, timeout/4 + ms, false},
			{"await", await, timeout/4 + ms, false},
			{"await", await, timeout/4 + ms, false},
			{"await", await, timeout/4 - 3*ms, true},
		}},
		{"resumed", timeout - ms, []wait{
			{"drain", drain, timeout - ms, false},
			{"resume", resume, timeout - ms, false},
			{"await", await, timeout - ms, false},
		}},
		{"writing", time.Hour, []wait{
			{"write", write, 0, false},
			{"write", write, timeout, true}, // the peer holds 4 octets
		}},
		{"a write does not shorten a read", timeout - ms, []wait{
			{"write", write, 0, false},
			{"await", await, timeout - ms, false},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := pop3test.PipeSize(4)
				stop := send(far, tt.every)
				defer stop()
				s := stream.New(near, timeout)
				for i, w := range tt.waits {
					start := time.Now()
					err := w.do(s)
					if got := time.Since(start); got != w.takes {
						t.Errorf("%d, %s: it took %v, want %v", i, w.what, got, w.takes)
					}
					if s.TimedOut(err) != w.late || (err != nil) != w.late || w.late && !stream.IsTimeout(err) {
						t.Errorf("%d, %s: %v, timed out: %t, want %t", i, w.what, err, s.TimedOut(err), w.late)
					}
				}
				near.Close()
			})
		})
	}
}

// send writes an octet to conn from time to time, until stop is called or conn
// closed.
func send(conn net.Conn, every time.Duration) (stop func()) {
	ticker, done := time.NewTicker(every), make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-ticker.C:
				conn.Write([]byte{0})
			case <-done:
				return
			}
		}
	}()
	return func() {
		conn.Close()
		ticker.Stop()
		close(done)
		<-ended
	}
}

// fake returns a connection with a Read and a SetDeadline of its own.
func fake(read func(p []byte) (int, error), setDeadline error) (conn *pop3test.Conn, sets *int) {
	sets = new(int)
	return &pop3test.Conn{ReadFunc: read, WriteFunc: func(p []byte) (int, error) { return len(p), nil }, SetDeadlineFunc: func(time.Time) error { *sets++; return setDeadline }}, sets
}

// Data that never ceases meets no deadline: a net.Conn has them for reads that
// block.
func TestDrainThatNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, _ := fake(func(p []byte) (int, error) {
			<-time.After(time.Second)
			return len(p), nil
		}, nil)
		s := stream.New(conn, timeout)
		s.Drain()
		start := time.Now()
		n, err := io.Copy(io.Discard, struct{ io.Reader }{s})
		if !errors.Is(err, os.ErrDeadlineExceeded) || !s.TimedOut(err) || n == 0 || time.Since(start) != timeout {
			t.Errorf("%d octets, %v after %v, want a timeout after %v", n, err, time.Since(start), timeout)
		}
	})
}

func TestNoTimeout(t *testing.T) {
	conn, sets := fake(func([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }, nil)
	s := stream.New(conn, 0)
	s.Await()
	if err := read(s); s.TimedOut(err) || !stream.IsTimeout(err) {
		t.Errorf("%v is taken for a timeout of the Stream's", err)
	}
	if s.Limit(); *sets > 0 {
		t.Errorf("%d deadlines were set", *sets)
	}
}

func TestForeignTimeout(t *testing.T) {
	for _, cause := range []error{os.ErrDeadlineExceeded, &net.DNSError{IsTimeout: true}} {
		conn, _ := fake(func([]byte) (int, error) { return 0, cause }, nil)
		s := stream.New(conn, timeout)
		if err := read(s); err != cause || s.TimedOut(err) || !stream.IsTimeout(err) {
			t.Errorf("%v is taken for a timeout of the Stream's", err)
		}
	}
	if stream.IsTimeout(io.EOF) || stream.IsTimeout(nil) {
		t.Error("EOF is a timeout")
	}
}

func TestDeadlineErrors(t *testing.T) {
	unsupported := errors.New("not supported")
	for _, tt := range []struct {
		deadline, read, write error
		advice                bool // in the text
	}{
		{unsupported, unsupported, unsupported, true}, // the tunnels of some SSH libraries
		{net.ErrClosed, io.EOF, nil, false},           // reading gives a better error
		{io.ErrClosedPipe, io.EOF, nil, false},
	} {
		conn, _ := fake(func([]byte) (int, error) { return 0, io.EOF }, tt.deadline)
		s := stream.New(conn, timeout)
		if n, err := s.Read(make([]byte, 2)); n != 0 || !errors.Is(err, tt.read) || strings.Contains(err.Error(), "Options.Timeout") != tt.advice {
			t.Errorf("SetDeadline fails with %v: %d, %v, want %v", tt.deadline, n, err, tt.read)
		}
		if err := write(s); !errors.Is(err, tt.write) {
			t.Errorf("SetDeadline fails with %v: Write: %v, want %v", tt.deadline, err, tt.write)
		}
	}
}

// One deadline is set for a wait, not one for each read.
func TestDeadlineIsKept(t *testing.T) {
	conn, sets := fake(func(p []byte) (int, error) { return len(p), nil }, nil)
	s := stream.New(conn, timeout)
	read(s)
	read(s)
	if *sets != 1 {
		t.Errorf("%d deadlines were set, want 1", *sets)
	}
}

// Abort and RemoteAddr are those of what is below TLS, be it below a proxy's.
func TestBelowTLS(t *testing.T) {
	closed := 0
	raw := &pop3test.Conn{
		CloseFunc:      func() error { closed++; return nil },
		RemoteAddrFunc: func() net.Addr { return pop3test.Addr{Name: "below"} },
	}
	s := stream.New(tls.Client(tls.Client(raw, &tls.Config{ServerName: "a"}), &tls.Config{ServerName: "b"}), timeout)
	if err := s.Abort(); err != nil || closed != 1 {
		t.Errorf("Abort: %v, closed %d times", err, closed)
	}
	if got := s.RemoteAddr().String(); got != "below" {
		t.Errorf("RemoteAddr = %s", got)
	}
}
