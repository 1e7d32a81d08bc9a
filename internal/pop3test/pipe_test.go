package pop3test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestPipeEOF(t *testing.T) {
	t.Parallel()
	a, b := Pipe()
	if _, err := io.WriteString(a, "last words"); err != nil {
		t.Fatal(err)
	}
	a.Close()
	if got, err := io.ReadAll(b); err != nil || string(got) != "last words" {
		t.Errorf("after the peer's Close: read %q, %v; want what it wrote, nil", got, err)
	}
	if _, err := b.Write([]byte("x")); err != io.ErrClosedPipe {
		t.Errorf("Write to a closed peer: %v, want io.ErrClosedPipe", err)
	}
	_, write := a.Write([]byte("x"))
	_, read := a.Read(make([]byte, 1))
	for _, err := range []error{write, read, a.SetDeadline(time.Now())} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v, want net.ErrClosed", err)
		}
	}
	if n := a.LocalAddr().Network(); n != "pipe" {
		t.Errorf("Network() = %q, want pipe", n)
	}
}

func TestPipeDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := PipeSize(4)
		defer a.Close()
		defer b.Close()
		read := func() error { _, err := a.Read(make([]byte, 1)); return err }
		for _, test := range []struct {
			name string
			set  func(now time.Time)
			do   func() error
			want time.Duration
		}{
			{"sooner", func(now time.Time) {
				a.SetReadDeadline(now.Add(time.Hour))
				a.SetReadDeadline(now.Add(time.Second))
			}, read, time.Second},
			{"moved meanwhile", func(now time.Time) {
				a.SetReadDeadline(now.Add(time.Second))
				time.AfterFunc(500*time.Millisecond, func() { a.SetReadDeadline(now.Add(time.Minute)) })
			}, read, time.Minute},
			{"interrupted", func(time.Time) {
				time.AfterFunc(time.Second, func() { a.SetDeadline(longAgo) })
				a.SetReadDeadline(time.Time{})
			}, read, time.Second},
			{"Write to a full pipe", func(now time.Time) { a.SetWriteDeadline(now.Add(time.Second)) }, func() error {
				n, err := a.Write([]byte("123456"))
				if n != 4 {
					t.Errorf("wrote %d octets, want the 4 that fit", n)
				}
				return err
			}, time.Second},
		} {
			start := time.Now()
			test.set(start)
			err := test.do()
			var ne net.Error
			if took := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() || took != test.want {
				t.Errorf("%s: %v after %v, want a timeout after %v", test.name, err, took, test.want)
			}
		}
		// Lifting the deadlines makes the ends usable again.
		a.SetDeadline(time.Time{})
		go io.WriteString(a, "56")
		got := make([]byte, 6)
		if _, err := io.ReadFull(b, got); err != nil || string(got) != "123456" {
			t.Errorf("read %q, %v", got, err)
		}
	})
}

func TestPipeCloseWakes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, closer := range []string{"own", "peer"} {
			a, b := PipeSize(1)
			var read, write error
			var wg sync.WaitGroup
			wg.Go(func() { _, read = a.Read(make([]byte, 1)) })
			wg.Go(func() { _, write = a.Write([]byte("12")) })
			synctest.Wait() // both are blocked, durably
			wantRead, wantWrite := net.ErrClosed, net.ErrClosed
			if closer == "peer" {
				b.Close()
				wantRead, wantWrite = io.EOF, io.ErrClosedPipe
			} else {
				a.Close()
			}
			wg.Wait()
			if read != wantRead || write != wantWrite {
				t.Errorf("%s Close: Read %v, Write %v; want %v, %v", closer, read, write, wantRead, wantWrite)
			}
		}
	})
}

func TestPipeBothWays(t *testing.T) {
	t.Parallel()
	a, b := PipeSize(100)
	sent := bytes.Repeat([]byte("0123456789"), 50_000)
	var wg sync.WaitGroup
	for _, c := range []net.Conn{a, b} {
		wg.Go(func() {
			if n, err := c.Write(sent); n != len(sent) || err != nil {
				t.Errorf("Write: %d, %v", n, err)
			}
		})
		wg.Go(func() {
			got := make([]byte, len(sent))
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("what was read is not what was written (%v)", err)
			}
		})
	}
	wg.Wait()
}
