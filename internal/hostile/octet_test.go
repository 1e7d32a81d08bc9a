package hostile_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// What happens to a connection after so many octets.
type fate int

const (
	dropped   fate = iota // the other side is gone
	canceled              // the context of the call is done, and nothing more comes
	stalled               // nothing more comes
	misbehave             // the context is done and all goes on
)

func (f fate) String() string {
	return [...]string{"dropped", "canceled", "stalled", "canceled and going on"}[f]
}

// A doomed connection meets its fate after up octets to the server, or down
// octets from it.
type doomed struct {
	net.Conn
	idle     net.Conn // has nothing to read and no room to write
	fate     fate
	cancel   func()
	up, down int

	mu      sync.Mutex
	met     bool
	sent    strings.Builder
	behind  int // octets written after the fate was met
	closed  bool
	written int
	read    int
}

func doom(conn net.Conn, f fate, up, down int, cancel func()) *doomed {
	idle, _ := pop3test.PipeSize(1)
	idle.Write([]byte{0})
	return &doomed{Conn: conn, idle: idle, fate: f, up: up, down: down, cancel: cancel}
}

// meet makes the fate come true, and reports whether the connection goes on.
func (d *doomed) meet() bool {
	d.mu.Lock()
	first := !d.met
	d.met = true
	d.mu.Unlock()
	switch {
	case !first:
	case d.fate == dropped:
		d.Conn.Close()
	case d.fate == canceled, d.fate == misbehave:
		d.cancel()
	}
	return d.fate == misbehave
}

func (d *doomed) Read(p []byte) (int, error) {
	if d.read >= d.down && !d.meet() {
		if d.fate == dropped {
			return 0, io.EOF
		}
		return d.idle.Read(p)
	}
	if !d.met {
		p = p[:min(len(p), d.down-d.read)]
	}
	n, err := d.Conn.Read(p)
	d.read += n
	return n, err
}

func (d *doomed) Write(p []byte) (int, error) {
	d.mu.Lock()
	if d.met && d.fate != misbehave {
		d.behind += len(p)
	}
	d.sent.Write(p)
	d.mu.Unlock()
	n := len(p)
	if !d.met {
		n = min(n, d.up-d.written)
	}
	if n > 0 {
		if n, err := d.Conn.Write(p[:n]); err != nil {
			return n, err
		}
	}
	d.written += n
	if n == len(p) {
		return n, nil
	}
	if d.meet() {
		k, err := d.Conn.Write(p[n:])
		return n + k, err
	}
	if d.fate == dropped {
		return n, syscall.ECONNRESET
	}
	k, err := d.idle.Write(p[n:])
	return n + k, err
}

func (d *doomed) Close() error {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.idle.Close()
	return d.Conn.Close()
}

func (d *doomed) SetDeadline(t time.Time) error {
	d.idle.SetDeadline(t)
	return d.Conn.SetDeadline(t)
}

// A session is what a fetching program does in one connection.
type session struct {
	texts  []string
	window int

	err     error    // the first that ended it
	calls   []string // that succeeded
	whole   map[int]string
	partial map[int]string // what was read before an error
	quit    bool           // Quit returned nil
}

const timeout = time.Minute

func (s *session) run(ctx context.Context, conn net.Conn) (c *pop3.Client) {
	s.whole, s.partial = make(map[int]string), make(map[int]string)
	c, s.err = pop3.NewClient(ctx, conn, &pop3.Options{Timeout: timeout, Window: s.window})
	if s.err != nil {
		return nil
	}
	step := func(name string, f func() error) {
		if s.err == nil {
			if s.err = f(); s.err == nil {
				s.calls = append(s.calls, name)
			}
		}
	}
	step("Login", func() error {
		if err := c.User(ctx, "u"); err != nil {
			return err
		}
		return c.Pass(ctx, "p")
	})
	var nums []int
	step("ListAll", func() error {
		infos, err := c.ListAll(ctx)
		if err != nil && infos != nil {
			return fmt.Errorf("a listing and an error: %w", err)
		}
		for i, info := range infos {
			if info.Number != i+1 || info.Size != int64(len(s.texts[i])) {
				return fmt.Errorf("listing has %v", info)
			}
			nums = append(nums, info.Number)
		}
		return err
	})
	step("UIDLAll", func() error {
		uids, err := c.UIDLAll(ctx)
		if err == nil && len(uids) != len(s.texts) || err != nil && uids != nil {
			return fmt.Errorf("%d unique-ids, %v", len(uids), err)
		}
		return err
	})
	step("RetrAll", func() error {
		n := 0
		for m, err := range c.RetrAll(ctx, nums) {
			n++
			if err != nil {
				return err
			}
			var b strings.Builder
			if n%2 == 0 {
				_, err = io.Copy(&b, struct{ io.Reader }{m})
			} else {
				_, err = m.WriteTo(&b)
			}
			if err != nil {
				s.partial[m.Number] = b.String()
				return err
			}
			s.whole[m.Number] = b.String()
		}
		if n != len(nums) {
			return fmt.Errorf("%d messages came, not %d", n, len(nums))
		}
		return nil
	})
	step("Top", func() error {
		m, err := c.Top(ctx, 1, 2)
		if err != nil {
			return err
		}
		return m.Close()
	})
	step("DeleAll", func() error { return c.DeleAll(ctx, nums[:3]) })
	step("Dele", func() error { return c.Dele(ctx, nums[3]) })
	step("Quit", func() error { return c.Quit(ctx) })
	s.quit = slices.Contains(s.calls, "Quit")
	return c
}

// awkward is a maildrop of a few hundred octets with all that is hard about
// mail: dots, lone CR and LF, NUL, 8-bit octets, nothing at all.
var awkward = []string{
	"Subject: dots\r\n\r\n.\r\n..\r\n...a\r\n.b\r\n",
	"",
	"lone \r and \n and \n.\n and \n.\r and \r\r\n.\r\n\r.\n\r\n",
	"\x00\xff\x80 8-bit\r\n\r\n\r\n",
	"\r\n",
	".\r\n",
	"\n.\n+OK 3 4\n-ERR\n.\r\n+OK\r\n",
	"x\r\r\n\r\r\n.\r\r\n",
}

// TestEveryOctet drops the connection, cancels the context and stalls the server
// after each octet of a session, in either direction. However it ends, what was
// handed over is true, and nothing is left.
func TestEveryOctet(t *testing.T) {
	t.Parallel()
	step := 1
	if testing.Short() {
		step = 7
	}
	for _, window := range []int{0, 1} {
		// Once without harm, to learn how many octets there are.
		const far = 1 << 30
		whole := fateOf(t, dropped, window, far, far)
		if whole == nil {
			return
		}
		for _, f := range []fate{dropped, canceled, stalled, misbehave} {
			t.Run(fmt.Sprintf("window %d, %s", window, f), func(t *testing.T) {
				t.Parallel()
				for i := 0; i < whole.read; i += step {
					if fateOf(t, f, window, far, i) == nil {
						return
					}
				}
				for i := 0; i < whole.written; i += step {
					if fateOf(t, f, window, i, far) == nil {
						return
					}
				}
			})
		}
	}
}

// fateOf runs one session in a bubble, whose end finds any goroutine that is
// left. It returns nil if something was wrong.
func fateOf(t *testing.T, f fate, window, up, down int) (d *doomed) {
	synctest.Test(t, func(t *testing.T) {
		srv := pop3test.NewUnstartedServer()
		srv.Disable = []string{"STLS", "SASL", "UTF8", "LANG", "RESP-CODES", "AUTH-RESP-CODE", "APOP"}
		srv.TLS, srv.Greeting, srv.Implementation = nil, "hi", ""
		drop := srv.AddUser("u", "p", awkward...)
		near, far := pop3test.Pipe()
		go srv.ServeConn(far)
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		cause := errors.New("the caller is bored")
		d = doom(near, f, up, down, func() { cancel(cause) })
		defer d.Close()
		start := time.Now()
		s := &session{texts: awkward, window: window}
		c := s.run(ctx, d)
		elapsed := time.Since(start)
		// A fate that was met behind the last reply harms nobody.
		harmless := s.err == nil
		fail := func(format string, args ...any) {
			t.Helper()
			t.Errorf("%s after %d octets up, %d down: %s (after %q; error %v)", f, up, down, fmt.Sprintf(format, args...), s.calls, s.err)
			d = nil
		}
		// Time: at once, or at the timeout.
		if want := time.Duration(0); elapsed != want && (f != stalled || elapsed != timeout) {
			fail("took %v", elapsed)
			return
		}

		// What was handed over is true.
		for n, text := range s.whole {
			if text != awkward[n-1] {
				fail("message %d is %q, not %q", n, text, awkward[n-1])
				return
			}
		}
		for n, text := range s.partial {
			if !strings.HasPrefix(awkward[n-1], text) {
				fail("message %d begins %q, not %q", n, text, awkward[n-1])
				return
			}
		}

		// The error is the one that the fate makes.
		if !harmless {
			if got := kindOf(s.err); got != f.kind() && !(f == dropped && errors.Is(s.err, syscall.ECONNRESET)) {
				fail("the error is of kind %q, not %q", got, f.kind())
				return
			}
			if (f == canceled || f == misbehave) && !errors.Is(s.err, cause) {
				fail("the error is not context.Cause")
				return
			}
		}

		// The connection is closed for that reason, and stays so; or it is usable
		// because the context was done between two exchanges.
		if c != nil && !harmless {
			first := c.Err()
			if f == misbehave && first == nil {
				if err := c.Noop(t.Context()); err != nil && kindOf(err) != "refused" { // as it is before login
					fail("Noop on what should be usable: %v", err)
					return
				}
			} else if first == nil || !errors.Is(s.err, first) && kindOf(first) != f.kind() {
				fail("Err is %v", first)
				return
			} else {
				for _, err := range []error{c.Noop(t.Context()), c.Quit(t.Context()), c.Dele(t.Context(), 1)} {
					if !errors.Is(err, pop3.ErrClosed) || !errors.Is(err, first) {
						fail("then %v, want ErrClosed and %v", err, first)
						return
					}
				}
				if c.Err() != first {
					fail("Err changed to %v", c.Err())
					return
				}
			}
		}
		if c != nil {
			c.Close()
		}
		if !d.closed {
			fail("the connection is left open")
			return
		}
		// Nothing, and QUIT least of all, was written behind the failure.
		if d.behind > 0 {
			fail("%d octets were written behind the end: %q", d.behind, d.sent.String())
			return
		}
		d.Conn.Close()
		synctest.Wait()

		// Deletions: all that Quit was told of, or none.
		left := len(drop.Messages())
		switch {
		case s.quit && left != len(awkward)-4:
			fail("%d messages are left after QUIT", left)
		case !s.quit && left != len(awkward) && !strings.Contains(d.sent.String(), "QUIT\r\n"):
			fail("%d messages are left without QUIT", left)
		case left != len(awkward) && left != len(awkward)-4:
			fail("%d messages are left: half a deletion", left)
		}
	})
	return d
}

// kind is what kindOf says of the error that a fate makes.
func (f fate) kind() string {
	return [...]string{"unexpected EOF", "canceled", "timeout", "canceled"}[f]
}

// kindOf sorts errors by what a caller can do about them.
func kindOf(err error) string {
	var e *pop3.Error
	var timeout net.Error
	switch {
	case err == nil:
		return ""
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, pop3.ErrMalformed):
		return "malformed"
	case errors.Is(err, pop3.ErrTooLarge):
		return "too large"
	case errors.As(err, &e) && e.Err == io.ErrUnexpectedEOF:
		return "unexpected EOF"
	case errors.As(err, &timeout) && timeout.Timeout() && errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case errors.As(err, &e) && e.Err == nil:
		return "refused"
	case errors.Is(err, pop3.ErrClosed):
		return "closed"
	}
	return "other"
}
