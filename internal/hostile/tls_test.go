package hostile_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// Under TLS too a connection that is cut, or stalls, at any place gives an error
// and no half of a message. What is cut is a record, so that not every octet
// tells something new.
func TestEveryOctetUnderTLS(t *testing.T) {
	t.Parallel()
	const text = "Subject: x\r\n\r\n.dots\r\nand lines\r\n"
	run := func(t *testing.T, f fate, up, down int) (d *doomed, quit bool) {
		synctest.Test(t, func(t *testing.T) {
			srv := pop3test.NewUnstartedServer()
			drop := srv.AddUser("u", "p", text)
			near, far := pop3test.Pipe()
			go srv.ServeConn(far)
			d = doom(near, f, up, down, func() {})
			defer d.Close()
			start := time.Now()
			err := func() error {
				c, err := pop3.NewClient(t.Context(), d, &pop3.Options{Timeout: timeout, TLSConfig: srv.ClientTLS()})
				if err != nil {
					return err
				}
				defer c.Close()
				if err := c.StartTLS(t.Context(), nil); err != nil {
					return errors.Join(err, c.Err())
				}
				if err := c.Login(t.Context(), "u", "p"); err != nil {
					return err
				}
				m, err := c.Retr(t.Context(), 1)
				if err != nil {
					return err
				}
				var b strings.Builder
				if _, err := m.WriteTo(&b); err != nil && !strings.HasPrefix(text, b.String()) || err == nil && b.String() != text {
					t.Errorf("message is %q, %v", b.String(), err)
				} else if err != nil {
					return err
				}
				if err := c.Dele(t.Context(), 1); err != nil {
					return err
				}
				return c.Quit(t.Context())
			}()
			if took := time.Since(start); took != 0 && (f != stalled || took != timeout) && took != 5*time.Second {
				t.Errorf("%s at %d, %d took %v", f, up, down, took)
			}
			if quit = err == nil; quit && len(drop.Messages()) > 0 {
				t.Errorf("%s at %d, %d: Quit is nil, and the message is there", f, up, down)
			}
			if !quit {
				if kind := kindOf(err); kind != f.kind() && kind != "other" {
					t.Errorf("%s at %d, %d: %v", f, up, down, err)
				}
			}
			if !d.closed {
				t.Errorf("%s at %d, %d: the connection is open", f, up, down)
			}
		})
		return d, quit
	}
	const all = 1 << 30
	whole, quit := run(t, dropped, all, all)
	if !quit {
		t.Fatal("the session failed without harm")
	}
	// A handshake is dear: a few places, of which primes miss none for ever.
	for _, f := range []fate{dropped, stalled} {
		t.Run(fmt.Sprint(f), func(t *testing.T) {
			t.Parallel()
			for at := 0; at < whole.read; at += 61 {
				run(t, f, all, at)
			}
			for at := 0; at < whole.written; at += 61 {
				run(t, f, at, all)
			}
		})
	}
}

// A proxy in clear between both ends, which closes without TLS's goodbye, makes
// no message that looks whole.
func TestTruncatedUnderTLS(t *testing.T) {
	t.Parallel()
	for _, goodbye := range []bool{false, true} {
		near, far := pop3test.Pipe()
		done := make(chan bool)
		go func() {
			defer close(done)
			conn := tls.Server(far, pop3testTLS())
			io.WriteString(conn, "+OK\r\n")
			conn.Read(make([]byte, 100))
			io.WriteString(conn, "+OK\r\nhalf a message\r\n")
			if goodbye {
				conn.Close()
			}
			far.Close()
		}()
		c, err := pop3.NewClient(t.Context(), tls.Client(near, pop3test.ScriptTLS()), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := retr(t.Context(), c); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("goodbye %v: %v", goodbye, err)
		}
		closed(t, c, io.ErrUnexpectedEOF)
		<-done
	}
}

// pop3testTLS is the server's side of pop3test.ScriptTLS.
func pop3testTLS() *tls.Config { return pop3test.NewUnstartedServer().TLS }
