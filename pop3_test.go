package pop3

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"example.com/pop3/internal/pop3test"
	"example.com/pop3/internal/stream"
	"example.com/pop3/internal/wire"
)

// A tap is a net.Conn that keeps what the client writes.
type tap struct {
	net.Conn
	addr  net.Addr // of the peer, if fake is set
	fake  bool
	reset bool // an EOF is a reset

	mu     sync.Mutex
	sent   []byte
	closed bool
}

func (c *tap) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == io.EOF && c.reset {
		err = &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	}
	return n, err
}

func (c *tap) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.sent = append(c.sent, p...)
	c.mu.Unlock()
	return c.Conn.Write(p)
}

func (c *tap) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	return c.Conn.Close()
}

func (c *tap) RemoteAddr() net.Addr {
	if c.fake {
		return c.addr
	}
	return c.Conn.RemoteAddr()
}

// take returns what was written since it was last called, when everybody in the
// bubble waits for something.
func (c *tap) take() string {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := string(c.sent)
	c.sent = nil
	return s
}

func (c *tap) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// bubble runs a test under a fake clock. It fails if a goroutine is left.
func bubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, f)
	})
}

const greeting = "+OK ready <1896.697170952@dbc.mtview.ca.us>\r\n"

// connect makes a Client whose server is the test itself.
func connect(t *testing.T, opts *Options) (c *Client, conn *tap, peer net.Conn) {
	t.Helper()
	client, peer := pop3test.Pipe()
	conn = &tap{Conn: client}
	io.WriteString(peer, greeting)
	c, err := NewClient(t.Context(), conn, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); peer.Close() })
	return c, conn, peer
}

// serve plays a script behind a greeting.
func serve(t *testing.T, opts *Options, script string) (*Client, *tap) {
	t.Helper()
	conn := play(t, "S: +OK ready <1896.697170952@dbc.mtview.ca.us>\n"+script)
	c, err := NewClient(t.Context(), conn, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, conn
}

// play plays a script to the end of the test, which fails if the client departs
// from it.
func play(t *testing.T, script string) *tap {
	t.Helper()
	s, err := pop3test.ParseScript("script", []byte(script))
	if err != nil {
		t.Fatal(err)
	}
	client, peer := pop3test.Pipe()
	played := make(chan error, 1)
	go func() { played <- s.Serve(peer) }()
	t.Cleanup(func() {
		client.Close()
		if err := <-played; err != nil {
			t.Error(err)
		}
	})
	return &tap{Conn: client}
}

// login makes a Client that is logged in to an embedded server.
func login(t *testing.T, opts *Options, messages ...string) *Client {
	t.Helper()
	s := pop3test.NewUnstartedServer()
	s.AddUser("alice", "s3cret", messages...)
	client, peer := pop3test.Pipe()
	go s.ServeConn(peer)
	c, err := NewClient(t.Context(), client, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	if err := c.Login(t.Context(), "alice", "s3cret"); err != nil {
		t.Fatal(err)
	}
	return c
}

// wantIs checks what an error is.
func wantIs(t *testing.T, what string, err error, targets ...error) {
	t.Helper()
	if len(targets) == 0 && err != nil || len(targets) > 0 && err == nil {
		t.Errorf("%s: error %v, want %v", what, err, targets)
		return
	}
	for _, target := range targets {
		if !errors.Is(err, target) {
			t.Errorf("%s: error %v (%T), want %v", what, err, err, target)
		}
	}
	if err != nil && (!strings.HasPrefix(err.Error(), prefix) || strings.Count(err.Error(), prefix) != 1) {
		t.Errorf("%s: %q does not say once where it is from", what, err)
	}
}

// wantServerError checks that an error is the server's doing: cause nil is a
// refusal.
func wantServerError(t *testing.T, what string, err error, command string, number int, cause error) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Errorf("%s: error %v (%T), want *Error", what, err, err)
		return new(Error)
	}
	if e.Command != command || e.Number != number || (cause == nil) != (e.Err == nil) || !errors.Is(e.Err, cause) {
		t.Errorf("%s: %+v, want command %q, number %d, cause %v", what, e, command, number, cause)
	}
	return e
}

func wantUsable(t *testing.T, c *Client, conn *tap) {
	t.Helper()
	if c.Err() != nil || conn.isClosed() {
		t.Errorf("Err = %v, conn closed: %t; want a usable connection", c.Err(), conn.isClosed())
	}
}

func wantClosed(t *testing.T, c *Client, conn *tap, cause ...error) {
	t.Helper()
	wantIs(t, "Err", c.Err(), cause...)
	if !conn.isClosed() {
		t.Error("the conn is open")
	}
	wantIs(t, "Noop", c.Noop(t.Context()), append(cause, ErrClosed, net.ErrClosed)...)
}

// clogged makes a Client whose server reads nothing, and has no room for a long
// command.
func clogged(t *testing.T, opts *Options, secure bool) (*Client, *tap) {
	t.Helper()
	client, peer := pop3test.PipeSize(1000)
	conn := &tap{Conn: client}
	var under net.Conn = conn
	if secure {
		under = tls.Client(conn, pop3test.ScriptTLS())
		peer = tls.Server(peer, pop3test.NewUnstartedServer().TLS)
	}
	go io.WriteString(peer, greeting)
	c, err := NewClient(t.Context(), under, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, conn
}

// everyCall is every method that talks to the server.
var everyCall = []struct {
	name string
	do   func(context.Context, *Client) error
}{
	{"User", func(ctx context.Context, c *Client) error { return c.User(ctx, "alice") }},
	{"Pass", func(ctx context.Context, c *Client) error { return c.Pass(ctx, "s3cret") }},
	{"APOP", func(ctx context.Context, c *Client) error { return c.APOP(ctx, "alice", "s3cret") }},
	{"RPOP", func(ctx context.Context, c *Client) error { return c.RPOP(ctx, "alice") }},
	{"Auth", func(ctx context.Context, c *Client) error { return c.Auth(ctx, PlainAuth("", "alice", "s3cret")) }},
	{"Login", func(ctx context.Context, c *Client) error { return c.Login(ctx, "alice", "s3cret") }},
	{"StartTLS", func(ctx context.Context, c *Client) error { return c.StartTLS(ctx, pop3test.ScriptTLS()) }},
	{"Capa", func(ctx context.Context, c *Client) error { _, err := c.Capa(ctx); return err }},
	{"UTF8", func(ctx context.Context, c *Client) error { return c.UTF8(ctx) }},
	{"Lang", func(ctx context.Context, c *Client) error { _, err := c.Lang(ctx, "de"); return err }},
	{"LangAll", func(ctx context.Context, c *Client) error { _, err := c.LangAll(ctx); return err }},
	{"Stat", func(ctx context.Context, c *Client) error { _, _, err := c.Stat(ctx); return err }},
	{"List", func(ctx context.Context, c *Client) error { _, err := c.List(ctx, 1); return err }},
	{"ListAll", func(ctx context.Context, c *Client) error { _, err := c.ListAll(ctx); return err }},
	{"UIDL", func(ctx context.Context, c *Client) error { _, err := c.UIDL(ctx, 1); return err }},
	{"UIDLAll", func(ctx context.Context, c *Client) error { _, err := c.UIDLAll(ctx); return err }},
	{"Retr", func(ctx context.Context, c *Client) error { _, err := c.Retr(ctx, 1); return err }},
	{"Top", func(ctx context.Context, c *Client) error { _, err := c.Top(ctx, 1, 0); return err }},
	{"Dele", func(ctx context.Context, c *Client) error { return c.Dele(ctx, 1) }},
	{"Noop", func(ctx context.Context, c *Client) error { return c.Noop(ctx) }},
	{"Rset", func(ctx context.Context, c *Client) error { return c.Rset(ctx) }},
	{"RetrAll", func(ctx context.Context, c *Client) error {
		for _, err := range c.RetrAll(ctx, []int{1, 2}) {
			return err
		}
		return nil
	}},
	{"TopAll", func(ctx context.Context, c *Client) error {
		for _, err := range c.TopAll(ctx, []int{1, 2}, 0) {
			return err
		}
		return nil
	}},
	{"DeleAll", func(ctx context.Context, c *Client) error { return c.DeleAll(ctx, []int{1, 2}) }},
	{"Quit", func(ctx context.Context, c *Client) error { return c.Quit(ctx) }},
}

// A reason is a cause of cancellation that errors.As can find.
type reason struct{ text string }

func (r *reason) Error() string { return r.text }

func TestContextDoneBefore(t *testing.T) {
	for _, call := range everyCall {
		bubble(t, call.name, func(t *testing.T) {
			c, conn, peer := connect(t, nil)
			why := &reason{"too late"}
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(why)
			wantIs(t, call.name, call.do(ctx, c), context.Canceled, why)
			ctx, stop := context.WithDeadline(t.Context(), time.Now())
			defer stop()
			wantIs(t, call.name, call.do(ctx, c), context.DeadlineExceeded)
			if sent := conn.take(); sent != "" {
				t.Errorf("%q was sent", sent)
			}
			wantUsable(t, c, conn)
			io.WriteString(peer, "+OK\r\n")
			wantIs(t, "Quit", c.Quit(t.Context()))
		})
	}
	bubble(t, "between the check and the write", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c, conn, peer := connect(t, &Options{Trace: &Trace{CommandStart: func(context.Context, CommandInfo) { cancel() }}})
		_, _, err := c.Stat(ctx)
		wantIs(t, "Stat", err, context.Canceled)
		if sent := conn.take(); sent != "" {
			t.Errorf("%q was sent", sent)
		}
		wantUsable(t, c, conn)
		io.WriteString(peer, "+OK\r\n")
		wantIs(t, "Noop", c.Noop(t.Context()))
	})
	bubble(t, "connecting", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		why := &reason{"too late"}
		cancel(why)
		client, peer := pop3test.Pipe()
		conn := &tap{Conn: client}
		defer peer.Close()
		_, err := NewClient(ctx, conn, nil)
		wantIs(t, "NewClient", err, context.Canceled, why)
		if !conn.isClosed() {
			t.Error("NewClient failed and left the conn open")
		}
		_, err = Dial(ctx, "127.0.0.1:1", nil)
		wantIs(t, "Dial", err, context.Canceled, why)
	})
}

func TestCancelMidExchange(t *testing.T) {
	for _, call := range everyCall {
		bubble(t, call.name, func(t *testing.T) {
			c, conn, peer := connect(t, nil)
			why := &reason{"enough"}
			ctx, cancel := context.WithCancelCause(t.Context())
			done := make(chan error, 1)
			go func() { done <- call.do(ctx, c) }()
			if conn.take() == "" {
				t.Fatal("nothing was sent")
			}
			cancel(why)
			wantIs(t, call.name, <-done, context.Canceled, why)
			wantClosed(t, c, conn, context.Canceled, why)
			for _, later := range everyCall {
				err := later.do(t.Context(), c)
				wantIs(t, later.name, err, ErrClosed, net.ErrClosed, context.Canceled, why)
				if r := new(reason); !errors.As(err, &r) {
					t.Errorf("%s: errors.As does not find the cause in %v", later.name, err)
				}
			}
			if sent := conn.take(); sent != "" {
				t.Errorf("%q was sent after the failure", sent)
			}
			if _, err := io.Copy(io.Discard, peer); err != nil {
				t.Error(err)
			}
			wantIs(t, "Close", c.Close())
			wantIs(t, "Err", c.Err(), why) // not Close's
		})
	}
	const twoMessages = "C: RETR 1\nS: +OK\nS: Subject: a\n"
	bubble(t, "waiting for text", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c, conn := serve(t, nil, twoMessages+"stall")
		m, err := c.Retr(ctx, 1)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(m)
		wantIs(t, "ReadAll", err, context.DeadlineExceeded)
		if string(text) != "Subject: a\r\n" {
			t.Errorf("read %q", text)
		}
		_, again := m.Read(make([]byte, 1))
		wantIs(t, "a second Read", again, context.DeadlineExceeded)
		wantIs(t, "Close", m.Close(), context.DeadlineExceeded)
		wantClosed(t, c, conn, context.DeadlineExceeded)
	})
	for _, under := range []string{"plain", "TLS"} {
		bubble(t, "in a write, "+under, func(t *testing.T) {
			c, conn := clogged(t, nil, under == "TLS")
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			start := time.Now()
			wantIs(t, "Pass", c.Pass(ctx, strings.Repeat("x", 4000)), context.DeadlineExceeded)
			if got := time.Since(start); got != time.Second { // crypto/tls would try for 5 s more to say goodbye
				t.Errorf("it took %v, want %v", got, time.Second)
			}
			wantClosed(t, c, conn, context.DeadlineExceeded)
		})
	}
	bubble(t, "waiting for the greeting", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		conn := play(t, "stall")
		_, err := NewClient(ctx, conn, nil)
		wantIs(t, "NewClient", err, context.DeadlineExceeded)
		if !conn.isClosed() {
			t.Error("the conn is open")
		}
	})
	bubble(t, "with text in the buffer", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c, conn := serve(t, nil, "C: RETR 1\nin one segment:\nS: +OK\nS: Subject: a\nS: .\n")
		m, err := c.Retr(ctx, 1)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		synctest.Wait()
		_, err = m.Read(make([]byte, 1))
		wantIs(t, "Read", err, context.Canceled)
		wantClosed(t, c, conn, context.Canceled)
	})
	bubble(t, "in a loop", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c, conn := serve(t, &Options{Window: 1}, "C: RETR 1\nS: +OK\nS: a\nS: .\nC: RETR 2\nS: +OK\nS: b\nstall")
		steps := 0
		for m, err := range c.RetrAll(ctx, []int{1, 2, 3}) {
			if steps++; steps == 3 {
				if m != nil {
					t.Errorf("%+v comes with the fatal error", m)
				}
				wantIs(t, "RetrAll", err, context.Canceled)
				continue
			}
			wantIs(t, "RetrAll", err)
			if steps == 2 {
				cancel()
			}
		}
		if steps != 3 {
			t.Errorf("%d steps", steps)
		}
		wantClosed(t, c, conn, context.Canceled)
	})
	bubble(t, "between the messages of a loop", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c, conn := serve(t, &Options{Window: 1}, "C: RETR 1\nS: +OK\nS: a\nS: .\nC: NOOP\nS: +OK\n")
		steps := 0
		for m, err := range c.RetrAll(ctx, []int{1, 2}) {
			if steps++; steps == 2 {
				wantIs(t, "RetrAll", err, context.Canceled)
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, m)
			cancel()
		}
		// Nothing was on its way.
		wantUsable(t, c, conn)
		wantIs(t, "Noop", c.Noop(t.Context()))
	})
}

// A cancel that comes too late, while the exchange ends, is waited for: it must
// not meet the next one.
func TestLateCancel(t *testing.T) {
	var cancel context.CancelFunc
	c := login(t, &Options{Trace: &Trace{CommandDone: func(context.Context, CommandInfo) {
		if cancel != nil {
			cancel()
		}
	}}})
	for i := range 2000 {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		cancel = stop
		if err := c.Noop(ctx); err != nil {
			t.Fatalf("exchange %d: %v", i, err)
		}
	}
}

func TestClose(t *testing.T) {
	for _, call := range everyCall {
		bubble(t, call.name, func(t *testing.T) {
			c, conn, _ := connect(t, nil)
			done := make(chan error, 1)
			go func() { done <- call.do(t.Context(), c) }()
			if conn.take() == "" {
				t.Fatal("nothing was sent")
			}
			wantIs(t, "Close", c.Close())
			wantIs(t, call.name, <-done, ErrClosed, net.ErrClosed)
			wantIs(t, call.name, call.do(t.Context(), c), ErrClosed, net.ErrClosed)
			wantIs(t, "second Close", c.Close())
			wantClosed(t, c, conn, ErrClosed)
			if sent := conn.take(); sent != "" {
				t.Errorf("%q was sent", sent)
			}
		})
	}
	bubble(t, "waiting for text", func(t *testing.T) {
		c, _ := serve(t, nil, "C: RETR 1\nS: +OK\nstall")
		m, err := c.Retr(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { _, err := io.ReadAll(m); done <- err }()
		synctest.Wait()
		c.Close()
		wantIs(t, "ReadAll", <-done, ErrClosed)
		_, err = m.Read(make([]byte, 1))
		wantIs(t, "Read", err, ErrClosed)
	})
}

// tls.Conn.Close may wait for a peer that does not read (crypto/tls gives it 5
// s), so a failure shuts what is below. QUIT, once answered, ends TLS as RFC
// 8446 section 6.1 wants.
func TestTLSClose(t *testing.T) {
	for _, tt := range []struct {
		name    string
		script  string
		end     func(context.Context, *Client) error
		ok      bool
		records int // of TLS, sent
	}{
		{"Quit", "C: QUIT\nS: +OK\n", func(ctx context.Context, c *Client) error { return c.Quit(ctx) }, true, 2},
		{"Close", "", func(_ context.Context, c *Client) error { return c.Close() }, true, 0},
		{"failure", "C: NOOP\nS: oops\n", func(ctx context.Context, c *Client) error { return c.Noop(ctx) }, false, 1},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			conn := play(t, "tls\nS: +OK\n"+tt.script)
			c, err := NewClient(t.Context(), tls.Client(conn, pop3test.ScriptTLS()), nil)
			if err != nil {
				t.Fatal(err)
			}
			conn.take()
			if err := tt.end(t.Context(), c); (err == nil) != tt.ok {
				t.Error(err)
			}
			// TLS 1.3 hides that a record is an alert, but not that there is one.
			records := 0
			for sent := conn.take(); len(sent) >= 5; records++ {
				sent = sent[5+int(sent[3])<<8+int(sent[4]):]
			}
			if records != tt.records {
				t.Errorf("%d TLS records were sent, want %d", records, tt.records)
			}
			if !conn.isClosed() {
				t.Error("the conn is open")
			}
		})
	}
}

// What the server does decides what is left of the connection.
func TestOutcomes(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		command      string
		cause        error // of the *Error
		closed       bool
	}{
		{"refused", "C: NOOP\nS: -ERR no\n", "NOOP", nil, false},
		{"refused by +ERR", "C: NOOP\nS: +ERR no\n", "NOOP", nil, false},
		{"end of input", "C: NOOP\nclose", "NOOP", io.ErrUnexpectedEOF, true},
		{"end of input in the line", "C: NOOP\nSq: \"+OK\"\nclose", "NOOP", io.ErrUnexpectedEOF, true},
		{"no status line", "C: NOOP\nS: hello\n", "NOOP", ErrMalformed, true},
		{"nothing", "C: NOOP\nS:\n", "NOOP", ErrMalformed, true},
		{"challenge", "C: NOOP\nS: + go on\n", "NOOP", ErrMalformed, true},
		{"no indicator", "C: NOOP\nS: +OKAY\n", "NOOP", ErrMalformed, true},
		{"space first", "C: NOOP\nS:  +OK\n", "NOOP", ErrMalformed, true},
		{"too long", "C: NOOP\nSq: \"+OK \"\nSrepeat: 2045 \"x\"\n", "NOOP", ErrTooLarge, true},
		{"too long for ever", "C: NOOP\nSrepeat: 1000000 \"x\"\n", "NOOP", ErrTooLarge, true},
		{"twice", "C: NOOP\nSq: \"+OK\\r\\n+OK\\r\\n\"\n", "NOOP", ErrMalformed, true},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			script := tt.script
			if !tt.closed {
				script += "C: NOOP\nS: +OK fine\n"
			}
			c, conn := serve(t, nil, script)
			err := c.Noop(t.Context())
			if tt.name == "twice" { // the second shows when the next command is due
				wantIs(t, "Noop", err)
				synctest.Wait()
				err = c.Noop(t.Context())
			}
			wantServerError(t, "Noop", err, tt.command, 0, tt.cause)
			if tt.closed {
				wantClosed(t, c, conn, err)
				var e *Error
				if later := c.Rset(t.Context()); !errors.As(later, &e) || e != err {
					t.Errorf("a later call does not hold the first cause: %v", later)
				}
				c.Close()
				wantIs(t, "Err", c.Err(), err)
				return
			}
			wantUsable(t, c, conn)
			wantIs(t, "Noop", c.Noop(t.Context()))
			if got := c.LastReply(); got != "fine" {
				t.Errorf("LastReply = %q", got)
			}
		})
	}
}

func TestEndOfInput(t *testing.T) {
	for _, call := range everyCall {
		bubble(t, call.name, func(t *testing.T) {
			c, conn, peer := connect(t, nil)
			peer.Close()
			conn.Conn = writable{conn.Conn} // as a socket is until the reset comes
			err := call.do(t.Context(), c)
			if call.name == "Quit" { // nothing was lost with it
				wantIs(t, "Quit", err)
				wantClosed(t, c, conn, ErrClosed)
				return
			}
			wantIs(t, call.name, err, io.ErrUnexpectedEOF)
			var e *Error
			if !errors.As(err, &e) {
				t.Errorf("%v (%T) is no *Error", err, err)
			}
			wantClosed(t, c, conn, io.ErrUnexpectedEOF)
		})
	}
}

// writable is a conn that takes all that is written.
type writable struct{ net.Conn }

func (writable) Write(p []byte) (int, error) { return len(p), nil }

// Of all that is wrong with a call, the first is reported: its arguments, that
// credentials would be readable, that the connection is closed, or busy, or the
// context done.
func TestOrderOfChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, conn, peer := connect(t, nil)
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		steps := []struct {
			name string
			make func()
			want error
		}{
			{"done", func() {}, context.Canceled},
			{"busy", func() {
				io.WriteString(peer, "+OK\r\n")
				_, err := c.Retr(t.Context(), 1)
				wantIs(t, "Retr", err)
			}, ErrBusy},
			{"closed", func() { c.Close() }, ErrClosed},
			{"insecure", func() { conn.fake, conn.addr = true, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)} }, ErrInsecureAuth},
		}
		for _, step := range steps {
			step.make()
			wantIs(t, step.name, c.User(canceled, "alice"), step.want)
			for _, other := range steps {
				if err := c.User(canceled, "al\nice"); errors.Is(err, other.want) {
					t.Errorf("%s: bad argument: %v", step.name, err)
				}
			}
		}
	})
}

func TestBusy(t *testing.T) {
	busy := func(t *testing.T, c *Client, conn *tap) {
		t.Helper()
		conn.take()
		for _, call := range everyCall {
			wantIs(t, call.name, call.do(t.Context(), c), ErrBusy)
		}
		if sent := conn.take(); sent != "" {
			t.Errorf("%q was sent", sent)
		}
		wantUsable(t, c, conn)
		if c.Greeting() == "" || c.LastReply() == "" {
			t.Errorf("Greeting = %q, LastReply = %q", c.Greeting(), c.LastReply())
		}
		if _, ok := c.TLSConnectionState(); ok {
			t.Error("a TLSConnectionState without TLS")
		}
	}
	const script = "C: RETR 1\nS: +OK 3 octets\nS: a\nS: .\nC: NOOP\nS: +OK\n"
	for _, tt := range []struct {
		name    string
		release func(*Message) error
	}{
		{"Read", func(m *Message) error { _, err := io.ReadAll(m); return err }},
		{"WriteTo", func(m *Message) error { _, err := m.WriteTo(io.Discard); return err }},
		{"Close", (*Message).Close},
	} {
		bubble(t, "message until "+tt.name, func(t *testing.T) {
			c, conn := serve(t, nil, script)
			m, err := c.Retr(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			busy(t, c, conn)
			wantIs(t, tt.name, tt.release(m))
			wantIs(t, "Noop", c.Noop(t.Context()))
			wantIs(t, "Close", m.Close())
			wantIs(t, "second Close", m.Close())
		})
	}
	bubble(t, "another goroutine", func(t *testing.T) {
		c, conn, peer := connect(t, nil)
		io.WriteString(peer, "+OK hello\r\n")
		wantIs(t, "Noop", c.Noop(t.Context()))
		done := make(chan error, 1)
		go func() { done <- c.Noop(t.Context()) }()
		busy(t, c, conn)
		io.WriteString(peer, "+OK\r\n")
		wantIs(t, "Noop", <-done)
	})
	bubble(t, "loop", func(t *testing.T) {
		c, conn := serve(t, &Options{Window: 1}, "C: RETR 1\nS: -ERR none\nC: RETR 2\nS: +OK yes\nS: .\n")
		for m, err := range c.RetrAll(t.Context(), []int{1, 2}) {
			if err == nil {
				io.Copy(io.Discard, m)
			}
			busy(t, c, conn)
		}
	})
	bubble(t, "message read twice at a time", func(t *testing.T) {
		c, conn := serve(t, nil, "C: RETR 1\nS: +OK\nlater 1s\nS: a\nS: .\n")
		m, err := c.Retr(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { _, err := io.ReadAll(m); done <- err }()
		synctest.Wait()
		_, err = m.Read(make([]byte, 1))
		wantIs(t, "Read", err, ErrBusy)
		_, err = m.WriteTo(io.Discard)
		wantIs(t, "WriteTo", err, ErrBusy)
		wantIs(t, "Close", m.Close(), ErrBusy)
		wantIs(t, "ReadAll", <-done)
		wantUsable(t, c, conn)
	})
}

// A Message that is over reads an error, never the buffer that is another's now.
func TestStaleMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := login(t, nil, "Subject: a\r\n\r\nfirst\r\n", "Subject: b\r\n\r\nsecond\r\n")
		stale := func(m *Message) {
			t.Helper()
			p := make([]byte, 10)
			if n, err := m.Read(p); n != 0 || err == nil || err == io.EOF {
				t.Errorf("Read = %d, %v", n, err)
			}
			if n, err := m.WriteTo(io.Discard); n != 0 || err == nil {
				t.Errorf("WriteTo = %d, %v", n, err)
			}
			wantIs(t, "Close", m.Close())
		}
		m, err := c.Retr(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		m.Read(make([]byte, 3))
		m.Close()
		stale(m)
		var last *Message
		for m, err := range c.RetrAll(t.Context(), []int{1, 2, 1}) {
			if err != nil {
				t.Fatal(err)
			}
			if last != nil {
				stale(last)
			}
			m.Read(make([]byte, 3))
			last = m
		}
		stale(last)
		wantIs(t, "Quit", c.Quit(t.Context()))
		stale(last)
	})
}

func wantTimeout(t *testing.T, what string, err error) {
	t.Helper()
	wantIs(t, what, err, os.ErrDeadlineExceeded)
	var ne net.Error
	if !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("%s: %v (%T) is no net.Error with Timeout", what, err, err)
	}
}

// drip sends a text in a script, an octet every 4 seconds.
func drip(text string) string {
	var b strings.Builder
	for _, c := range []byte(text) {
		fmt.Fprintf(&b, "later 4s\nSrepeat: 1 %q\n", string(c))
	}
	return b.String()
}

// slow sends lines in a script, one every 9 seconds.
func slow(lines ...string) string {
	var b strings.Builder
	for _, line := range lines {
		fmt.Fprintf(&b, "later 9s\nS: %s\n", line)
	}
	return b.String()
}

func TestTimeout(t *testing.T) {
	const (
		hello   = "S: +OK ready <1@x>\n"
		timeout = 10 * time.Second
	)
	noop := func(ctx context.Context, c *Client) error { return c.Noop(ctx) }
	stat := func(ctx context.Context, c *Client) error { _, _, err := c.Stat(ctx); return err }
	uidlAll := func(ctx context.Context, c *Client) error { _, err := c.UIDLAll(ctx); return err }
	retr := func(ctx context.Context, c *Client) error {
		m, err := c.Retr(ctx, 1)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, m)
		return err
	}
	starttls := func(ctx context.Context, c *Client) error { return c.StartTLS(ctx, pop3test.ScriptTLS()) }
	for _, tt := range []struct {
		name   string
		opts   Options
		script string
		do     func(context.Context, *Client) error // nil: NewClient fails
		after  time.Duration                        // in all
		ok     bool
	}{
		{"greeting", Options{}, "stall", nil, timeout, false},
		{"greeting that drips", Options{}, drip("+OK ready\r\n"), nil, timeout, false},
		{"greeting under TLS", Options{}, "tls\nstall", nil, timeout, false},
		{"handshake", Options{TLSConfig: pop3test.ScriptTLS()}, "Cq: \"\\x16\"\nstall", nil, timeout, false},
		// CVE-2011-1947: no limit on the time of a handshake.
		{"handshake that drips", Options{TLSConfig: pop3test.ScriptTLS()}, "Cq: \"\\x16\"\n" + drip("\x16\x03\x03") + "stall", nil, timeout, false},
		{"STLS handshake that drips", Options{}, hello + "C: CAPA\nS: -ERR\nC: STLS\nS: +OK\nCq: \"\\x16\"\n" + drip("\x16\x03\x03") + "stall", starttls, timeout, false},
		{"reply", Options{}, hello + "C: NOOP\nstall", noop, timeout, false},
		{"reply that drips", Options{}, hello + "C: NOOP\n" + drip("+OK\r\n"), noop, timeout, false},
		{"reply in time", Options{}, hello + "C: NOOP\n" + drip("+O") + "later 1900ms\nS: K\n", noop, 9900 * time.Millisecond, true},
		{"reply under TLS", Options{}, "tls\n" + hello + "C: NOOP\n" + drip("+OK\r\n"), noop, timeout, false},
		{"second reply", Options{}, hello + "C: NOOP\nlater 9s\nS: +OK\nC: STAT\nstall", func(ctx context.Context, c *Client) error {
			return cmp.Or(c.Noop(ctx), stat(ctx, c))
		}, 9*time.Second + timeout, false},
		{"second reply under TLS", Options{}, "tls\n" + hello + "C: NOOP\nlater 9s\nS: +OK\nC: STAT\nstall", func(ctx context.Context, c *Client) error {
			return cmp.Or(c.Noop(ctx), stat(ctx, c))
		}, 9*time.Second + timeout, false},
		{"slow rows", Options{}, hello + "C: UIDL\n" + slow("+OK", "1 a", "2 b", "3 c", "."), uidlAll, 45 * time.Second, true},
		{"row that drips", Options{}, hello + "C: UIDL\n" + slow("+OK", "1 a") + drip("2 b\r\n"), uidlAll, 18*time.Second + timeout, false},
		{"text that drips", Options{}, hello + "C: RETR 1\nS: +OK\n" + drip("Subject: dripping\r\n") + slow("."), retr, 85 * time.Second, true},
		{"text that drips under TLS", Options{}, "tls\n" + hello + "C: RETR 1\nS: +OK\n" + drip("Subject: dripping\r\n") + slow("."), retr, 85 * time.Second, true},
		{"text", Options{}, hello + "C: RETR 1\n" + slow("+OK", "a") + "stall", retr, 18*time.Second + timeout, false},
		// A deadline is not moved for so little.
		{"text, 1 s later", Options{}, hello + "C: RETR 1\nS: +OK\nlater 1s\nS: a\nlater 9900ms\nS: b\nlater 1s\nS: c\nstall", retr, 11900*time.Millisecond + timeout, false},
		{"text, 1 s later under TLS", Options{}, "tls\n" + hello + "C: RETR 1\nS: +OK\nlater 1s\nS: a\nlater 9900ms\nS: b\nlater 1s\nS: c\nstall", retr, 11900*time.Millisecond + timeout, false},
		{"row, 1 s later", Options{}, hello + "C: UIDL\nS: +OK\nlater 1s\nS: 1 a\nlater 9900ms\nS: 2 b\nlater 1s\nS: 3 c\nstall", uidlAll, 11900*time.Millisecond + timeout, false},
		{"challenge", Options{}, hello + "C: AUTH LOGIN\n" + slow("+ VXNlcm5hbWU6") + "C: YWxpY2U=\nstall", func(ctx context.Context, c *Client) error {
			return c.Auth(ctx, LoginAuth("alice", "s3cret"))
		}, 9*time.Second + timeout, false},
		{"challenge that drips", Options{}, hello + "C: AUTH LOGIN\n" + drip("+ VXNlcm5hbWU6\r\n"), func(ctx context.Context, c *Client) error {
			return c.Auth(ctx, LoginAuth("alice", "s3cret"))
		}, timeout, false},
		{"STLS handshake", Options{}, hello + "C: CAPA\nS: -ERR\nC: STLS\nS: +OK\nstall", starttls, timeout, false},
		{"message of a loop", Options{}, hello + "C: CAPA\nS: -ERR\nC: RETR 1\n" + slow("+OK", ".") + "C: RETR 2\nstall", func(ctx context.Context, c *Client) (err error) {
			for m, e := range c.RetrAll(ctx, []int{1, 2}) {
				if (m == nil) != (e != nil) {
					t.Errorf("yielded %v, %v", m, e)
				}
				err = e
			}
			return err
		}, 18*time.Second + timeout, false},
		{"deletion", Options{}, hello + "C: CAPA\nS: -ERR\nC: DELE 1\n" + slow("+OK") + "C: DELE 2\nstall", func(ctx context.Context, c *Client) error {
			return c.DeleAll(ctx, []int{1, 2})
		}, 9*time.Second + timeout, false},
		{"by default", Options{Timeout: 0}, hello + "C: NOOP\nlater 179s\nS: +OK\nC: STAT\nstall", func(ctx context.Context, c *Client) error {
			return cmp.Or(c.Noop(ctx), stat(ctx, c))
		}, 359 * time.Second, false},
		{"none", Options{Timeout: -1}, "later 24h\n" + hello + "C: NOOP\nlater 24h\nS: +OK\nC: RETR 1\nlater 24h\nS: +OK\nlater 24h\nS: .\n", func(ctx context.Context, c *Client) error {
			return cmp.Or(c.Noop(ctx), retr(ctx, c))
		}, 96 * time.Hour, true},
	} {
		if tt.name != "by default" {
			tt.opts.Timeout = cmp.Or(tt.opts.Timeout, timeout)
		}
		bubble(t, tt.name, func(t *testing.T) {
			start := time.Now()
			conn := play(t, tt.script)
			var under net.Conn = conn
			if strings.HasPrefix(tt.script, "tls\n") || tt.opts.TLSConfig != nil {
				under = tls.Client(conn, pop3test.ScriptTLS())
			}
			c, err := NewClient(t.Context(), under, &tt.opts)
			if tt.do != nil {
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				err = tt.do(t.Context(), c)
			}
			if got := time.Since(start); got != tt.after {
				t.Errorf("it took %v, want %v", got, tt.after)
			}
			if tt.ok {
				wantIs(t, tt.name, err)
				wantUsable(t, c, conn)
				return
			}
			wantTimeout(t, tt.name, err)
			if !conn.isClosed() {
				t.Error("the conn is open")
			}
			if c != nil {
				wantTimeout(t, "Err", c.Err())
				wantTimeout(t, "a later call", c.Noop(t.Context()))
			}
		})
	}
	for _, under := range []string{"plain", "TLS"} {
		bubble(t, "write, "+under, func(t *testing.T) {
			c, conn := clogged(t, &Options{Timeout: timeout}, under == "TLS")
			<-time.After(9 * time.Second) // the greeting's deadline is not the command's
			start := time.Now()
			wantTimeout(t, "Pass", c.Pass(t.Context(), strings.Repeat("x", 4000)))
			if got := time.Since(start); got != timeout {
				t.Errorf("it took %v, want %v", got, timeout)
			}
			wantClosed(t, c, conn, os.ErrDeadlineExceeded)
		})
	}
	bubble(t, "connect", func(t *testing.T) {
		hang := func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		start := time.Now()
		_, err := Dial(t.Context(), "pop.example.com", &Options{Timeout: timeout, DialContext: hang})
		wantTimeout(t, "Dial", err)
		if got := time.Since(start); got != timeout {
			t.Errorf("it took %v, want %v", got, timeout)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = DialTLS(ctx, "pop.example.com", &Options{Timeout: timeout, DialContext: hang})
		wantIs(t, "DialTLS", err, context.DeadlineExceeded)
	})
	// TLS cannot go on with a write that an early deadline has cut.
	bubble(t, "write under TLS", func(t *testing.T) {
		near, far := pop3test.PipeSize(16)
		script, err := pop3test.ParseScript("script", []byte("tls\n"+hello+"later 10500ms\nC: NOOP\nS: +OK\n"))
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- script.Serve(far) }()
		c, err := NewClient(t.Context(), tls.Client(near, pop3test.ScriptTLS()), &Options{Timeout: timeout})
		if err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Second)
		wantIs(t, "Noop", c.Noop(t.Context()))
		c.Close()
		wantIs(t, "the server", <-served)
	})
	bubble(t, "what is thrown away", func(t *testing.T) {
		c, conn := serve(t, &Options{Timeout: timeout}, "C: RETR 1\nS: +OK\n"+drip("a text without an end"))
		m, err := c.Retr(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		wantTimeout(t, "Close", m.Close())
		if got := time.Since(start); got != timeout {
			t.Errorf("it took %v, want %v", got, timeout)
		}
		wantClosed(t, c, conn, os.ErrDeadlineExceeded)
	})
}

// A restless is a server whose text never ends. Data is always there, so that no
// deadline of a read is met: net.Conn has them for reads that block.
type restless struct {
	net.Conn
	said  int
	until time.Time
}

func (s *restless) Read(p []byte) (int, error) {
	<-time.After(time.Second)
	if s.said++; s.said <= 2 {
		return copy(p, "+OK\r\n"), nil
	}
	if time.Now().After(s.until) {
		return 0, io.EOF
	}
	return copy(p, "x"), nil
}

func (s *restless) Write(p []byte) (int, error) { return len(p), nil }

func TestDrain(t *testing.T) {
	bubble(t, "data that never ceases", func(t *testing.T) {
		client, _ := pop3test.Pipe()
		c, err := NewClient(t.Context(), &restless{Conn: client, until: time.Now().Add(time.Hour)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		m, err := c.Retr(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		wantTimeout(t, "Close", m.Close())
	})
}

// A Client that nobody has any more is not kept by the pools, nor by a context
// that is still to be done.
func TestForgotten(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for name, use := range map[string]func(*Client) error{
		"at rest": func(c *Client) error { return c.Noop(ctx) },
		"closed with a message open": func(c *Client) error {
			_, err := c.Retr(ctx, 1)
			return cmp.Or(err, c.Close())
		},
	} {
		forget := func() weak.Pointer[Client] {
			c, err := NewClient(ctx, newCanned(map[string]string{"NOOP": "+OK\r\n", "RETR": "+OK\r\ntext\r\n.\r\n"}), nil)
			if err != nil {
				t.Fatal(err)
			}
			wantIs(t, name, use(c))
			return weak.Make(c)
		}
		p := forget()
		runtime.GC()
		if p.Value() != nil {
			t.Errorf("%s: the Client is still there", name)
		}
	}
}

// The pool gets no buffer that holds a password.
func TestBuffersHoldNoSecret(t *testing.T) {
	var c *Client
	lines := 0
	c, _ = serve(t, &Options{Trace: &Trace{LineSent: func(context.Context, string) {
		lines++
		buf := c.text.W.AvailableBuffer()
		for _, secret := range []string{"s3cret", "czNjcmV0", "AGFsaWNlAHMzY3JldA=="} {
			if bytes.Contains(buf[:cap(buf)], []byte(secret)) {
				t.Errorf("%q is in the write buffer", secret)
			}
		}
	}}}, "C: USER alice\nS: +OK\nC: PASS s3cret\nS: -ERR\nC: AUTH PLAIN AGFsaWNlAHMzY3JldA==\nS: -ERR\n"+
		"C: AUTH LOGIN\nS: +\nC: YWxpY2U=\nS: +\nC: czNjcmV0\nS: +OK\n")
	c.User(t.Context(), "alice")
	c.Pass(t.Context(), "s3cret")
	c.Auth(t.Context(), PlainAuth("", "alice", "s3cret"))
	wantIs(t, "Auth", c.Auth(t.Context(), LoginAuth("alice", "s3cret")))
	if lines != 6 {
		t.Errorf("%d lines were sent, want 6", lines)
	}
}

func TestQuit(t *testing.T) {
	const dele = "C: DELE 1\nS: +OK\n"
	deleted := func(t *testing.T, c *Client) { wantIs(t, "Dele", c.Dele(t.Context(), 1)) }
	nothing := func(*testing.T, *Client) {}
	refused := func(err error) bool {
		e := new(Error)
		return errors.As(err, &e) && e.Err == nil && e.Command == "QUIT"
	}
	eof := func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }
	for _, tt := range []struct {
		name, script string
		reset        bool
		before       func(*testing.T, *Client)
		want         func(error) bool // nil: no error
	}{
		{"answered", "C: QUIT\nS: +OK bye\n", false, nothing, nil},
		{"deletions answered", dele + "C: QUIT\nS: +OK bye\n", false, deleted, nil},
		{"end of input", "C: QUIT\nclose", false, nothing, nil},
		{"reset", "C: QUIT\nclose", true, nothing, nil},
		{"silence", "C: QUIT\nstall", false, nothing, nil},
		{"half a line", "C: QUIT\nSq: \"+O\"\nclose", false, nothing, nil},
		{"end of input with deletions", dele + "C: QUIT\nclose", false, deleted, eof},
		{"reset with deletions", dele + "C: QUIT\nclose", true, deleted, func(err error) bool { return errors.Is(err, syscall.ECONNRESET) }},
		{"silence with deletions", dele + "C: QUIT\nstall", false, deleted, stream.IsTimeout},
		{"end of input behind DeleAll", "C: CAPA\nS: -ERR\n" + dele + "C: DELE 2\nS: -ERR\nC: QUIT\nclose", false,
			func(t *testing.T, c *Client) { c.DeleAll(t.Context(), []int{1, 2}) }, eof},
		{"deletion refused", "C: DELE 1\nS: -ERR no\nC: QUIT\nclose", false,
			func(t *testing.T, c *Client) { c.Dele(t.Context(), 1) }, nil},
		{"all deletions refused", "C: CAPA\nS: -ERR\nC: DELE 1\nS: -ERR\nC: DELE 2\nS: -ERR\nC: QUIT\nclose", false,
			func(t *testing.T, c *Client) { c.DeleAll(t.Context(), []int{1, 2}) }, nil},
		{"deletions taken back", dele + "C: RSET\nS: +OK\nC: QUIT\nclose", false,
			func(t *testing.T, c *Client) { deleted(t, c); wantIs(t, "Rset", c.Rset(t.Context())) }, nil},
		{"deletions not taken back", dele + "C: RSET\nS: -ERR\nC: QUIT\nclose", false,
			func(t *testing.T, c *Client) { deleted(t, c); c.Rset(t.Context()) }, eof},
		{"refused", "C: QUIT\nS: -ERR busy\n", false, nothing, refused},
		{"refused with deletions", dele + "C: QUIT\nS: -ERR [SYS/TEMP] some messages not removed\n", false, deleted,
			func(err error) bool { return refused(err) && errors.Is(err, CodeSysTemp) }},
		{"malformed", "C: QUIT\nS: bye\n", false, nothing, func(err error) bool { return errors.Is(err, ErrMalformed) }},
		{"malformed with deletions", dele + "C: QUIT\nS: bye\n", false, deleted, func(err error) bool { return errors.Is(err, ErrMalformed) }},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			c, conn := serve(t, nil, tt.script)
			conn.reset = tt.reset
			tt.before(t, c)
			err := c.Quit(t.Context())
			if (tt.want == nil) != (err == nil) || err != nil && !tt.want(err) {
				t.Errorf("Quit: %v (%T)", err, err)
			}
			if unknown := err != nil && strings.Contains(err.Error(), "not known"); unknown != (tt.want != nil && strings.Contains(tt.script, "DELE") && !strings.Contains(tt.script, "S: -ERR [")) {
				t.Errorf("Quit: %v; does it say that nobody knows?", err)
			}
			if !conn.isClosed() {
				t.Error("the conn is open")
			}
			if tt.want == nil || refused(err) {
				wantClosed(t, c, conn, ErrClosed)
			}
			wantIs(t, "second Quit", c.Quit(t.Context()), ErrClosed)
			wantIs(t, "Close", c.Close())
		})
	}
	for _, tt := range []struct {
		name, script string
		unknown      bool // whether deletions were done
		stop         func(*Client, context.CancelFunc)
		want         error
	}{
		{"canceled", "C: QUIT\nstall", false, nil, context.DeadlineExceeded},
		{"canceled with deletions", dele + "C: QUIT\nstall", true, nil, context.DeadlineExceeded},
		{"canceled before QUIT", dele, false, func(_ *Client, cancel context.CancelFunc) { cancel() }, context.Canceled},
		{"closed with deletions", dele + "C: QUIT\nstall", true, func(c *Client, _ context.CancelFunc) {
			time.AfterFunc(time.Millisecond, func() { c.Close() })
		}, ErrClosed},
		{"closed before QUIT", dele, false, func(c *Client, _ context.CancelFunc) { c.Close() }, ErrClosed},
		{"unsolicited data before QUIT", "C: DELE 1\nin one segment:\nS: +OK\nS: +OK\n", false, nil, ErrMalformed},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			c, conn := serve(t, nil, tt.script)
			if strings.Contains(tt.script, "DELE") {
				deleted(t, c)
			}
			conn.take()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if tt.stop != nil {
				tt.stop(c, cancel)
			}
			err := c.Quit(ctx)
			wantIs(t, "Quit", err, tt.want)
			if unknown := strings.Contains(err.Error(), "not known"); unknown != tt.unknown {
				t.Errorf("Quit: %v; does it say that nobody knows?", err)
			}
			if sent := conn.take() != ""; sent != strings.Contains(tt.script, "C: QUIT") {
				t.Errorf("QUIT was sent: %t", sent)
			}
			if tt.name == "canceled before QUIT" {
				wantIs(t, "Err", c.Err())
			} else {
				wantClosed(t, c, conn, tt.want)
			}
		})
	}
}

// Commits are QUIT's alone, on the embedded server.
func TestDeletions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := pop3test.NewUnstartedServer()
		d := s.AddUser("alice", "s3cret", "1\r\n", "2\r\n", "3\r\n", "4\r\n")
		session := func(do func(*Client)) {
			t.Helper()
			client, peer := pop3test.Pipe()
			go s.ServeConn(peer)
			c, err := NewClient(t.Context(), client, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			wantIs(t, "Login", c.Login(t.Context(), "alice", "s3cret"))
			do(c)
			c.Close()
			d.Wait()
		}
		session(func(c *Client) { wantIs(t, "DeleAll", c.DeleAll(t.Context(), []int{1, 2, 3, 4})) })
		if got := d.Messages(); len(got) != 4 {
			t.Errorf("after Close %q is left", got)
		}
		session(func(c *Client) {
			wantIs(t, "Dele", c.Dele(t.Context(), 1))
			wantIs(t, "Rset", c.Rset(t.Context()))
			wantIs(t, "DeleAll", c.DeleAll(t.Context(), []int{2, 4}))
			n, _, err := c.Stat(t.Context())
			wantIs(t, "Stat", err)
			if n != 2 {
				t.Errorf("Stat says %d", n)
			}
			wantIs(t, "Quit", c.Quit(t.Context()))
		})
		if got := d.Messages(); !slices.Equal(got, []string{"1\r\n", "3\r\n"}) {
			t.Errorf("after Quit %q is left", got)
		}
	})
}

func TestMessageText(t *testing.T) {
	long := strings.Repeat("x", 200_000)
	for _, tt := range []struct{ name, status, sent, want string }{
		{"plain", "\r\n", "a\r\nb\r\n.\r\n", "a\r\nb\r\n"},
		{"empty", "\r\n", ".\r\n", ""},
		{"empty lines", "\r\n", "\r\n\r\n.\r\n", "\r\n\r\n"},
		{"stuffed", "\r\n", "..\r\n...\r\n..a\r\na.\r\n.\r\n", ".\r\n..\r\n.a\r\na.\r\n"},
		// Mailpit's TOP does not stuff.
		{"not stuffed", "\r\n", ".a\r\n.\tb\r\n.\r\n", ".a\r\n.\tb\r\n"},
		{"CR and LF alone", "\r\n", "a\rb\nc\r\r\n\n\r\n.\r\n", "a\rb\nc\r\r\n\n\r\n"},
		{"NUL and 8-bit", "\r\n", "\x00\xff\xc3\xa4\x7f\x1b\r\n.\r\n", "\x00\xff\xc3\xa4\x7f\x1b\r\n"},
		{"no line limit", "\r\n", long + "\r\n.\r\n", long + "\r\n"},
		{"forged end", "\r\n", "a\n.\n+OK 1 1\r\nb\r\n.\r\n", "a\n.\n+OK 1 1\r\nb\r\n"},
		{"forged end, half", "\r\n", "a\n.\r\nb\r\n.\n\r\n.\r\n", "a\n.\r\nb\r\n.\n\r\n"},
		{"stuffed behind LF alone", "\r\n", "a\n..b\r\n.\r\n", "a\n..b\r\n"},
		{"LF server", "\n", "a\n..b\n.c\n.\n", "a\n.b\n.c\n"},
		{"LF server, CRLF text", "\n", "a\r\n..b\r\n.\r\n", "a\r\n.b\r\n"},
		{"LF server, CR before the end", "\n", "a\n.\r\n", "a\n"},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			for _, read := range []func(*Message) (string, error){
				func(m *Message) (string, error) {
					var b strings.Builder
					n, err := m.WriteTo(&b)
					if n != int64(b.Len()) {
						t.Errorf("WriteTo = %d for %d octets", n, b.Len())
					}
					return b.String(), err
				},
				func(m *Message) (string, error) {
					b, err := io.ReadAll(struct{ io.Reader }{m})
					return string(b), err
				},
				func(m *Message) (string, error) {
					var b []byte
					for p := make([]byte, 1); len(b) <= len(tt.want); {
						n, err := m.Read(p)
						b = append(b, p[:n]...)
						if err == io.EOF {
							break
						} else if err != nil {
							return string(b), err
						}
					}
					return string(b), nil
				},
			} {
				c, conn, peer := connect(t, nil)
				go io.WriteString(peer, "+OK"+tt.status+tt.sent)
				m, err := c.Retr(t.Context(), 1)
				if err != nil {
					t.Fatal(err)
				}
				got, err := read(m)
				if err != nil || got != tt.want {
					t.Errorf("got %.200q, %v, want %.200q", got, err, tt.want)
				}
				if n, err := m.Read(make([]byte, 1)); n != 0 || err != io.EOF {
					t.Errorf("Read at the end: %d, %v", n, err)
				}
				wantUsable(t, c, conn)
				io.WriteString(peer, "+OK\r\n")
				wantIs(t, "Noop", c.Noop(t.Context()))
			}
		})
	}
	for _, sent := range []string{"", "a", "a\r\n", "a\r\n.", "a\r\n.\r", "a\r\n.\n", "a\n.\r\n", "a.\r\n"} {
		bubble(t, fmt.Sprintf("truncated %q", sent), func(t *testing.T) {
			for _, read := range []func(*Message) error{
				func(m *Message) error { _, err := m.WriteTo(io.Discard); return err },
				func(m *Message) error { _, err := io.ReadAll(m); return err },
				(*Message).Close,
			} {
				c, conn, peer := connect(t, nil)
				io.WriteString(peer, "+OK\r\n"+sent)
				m, err := c.Retr(t.Context(), 7)
				if err != nil {
					t.Fatal(err)
				}
				peer.Close()
				err = read(m)
				wantServerError(t, "read", err, "RETR", 7, io.ErrUnexpectedEOF)
				wantClosed(t, c, conn, io.ErrUnexpectedEOF)
				if _, err := m.Read(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("a later Read: %v", err)
				}
			}
		})
	}
}

func TestMessageSize(t *testing.T) {
	for text, want := range map[string]int64{
		"": -1, "message follows": -1, "120 octets": 120, "120 bytes follows": 120, "Message (120 octets)": 120,
		"message 3 (120 octets)": 120, "1 message follows": -1, "-5 octets": -1, "99999999999999999999 octets": -1,
	} {
		bubble(t, text, func(t *testing.T) {
			c, _ := serve(t, nil, "C: TOP 3 0\nS: +OK "+text+"\nS: .\n")
			m, err := c.Top(t.Context(), 3, 0)
			if err != nil {
				t.Fatal(err)
			}
			if m.Number != 3 || m.Size != want {
				t.Errorf("Number %d, Size %d, want 3, %d", m.Number, m.Size, want)
			}
			wantIs(t, "Close", m.Close())
		})
	}
}

// A Writer that fails leaves the rest to be read.
func TestWriteToFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := login(t, nil, "0123456789\r\n")
		m, err := c.Retr(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		errFull := errors.New("full")
		n, err := m.WriteTo(writerFunc(func(p []byte) (int, error) { return 4, errFull }))
		if n != 4 || err != errFull {
			t.Errorf("WriteTo = %d, %v", n, err)
		}
		n, err = m.WriteTo(writerFunc(func(p []byte) (int, error) { return 3, nil }))
		if n != 3 || err != io.ErrShortWrite {
			t.Errorf("WriteTo = %d, %v", n, err)
		}
		rest, err := io.ReadAll(m)
		if string(rest) != "789\r\n" || err != nil {
			t.Errorf("the rest is %q, %v", rest, err)
		}
		wantIs(t, "Noop", c.Noop(t.Context()))
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestMaxMessageSize(t *testing.T) {
	for text, ok := range map[string]bool{"..345678": true, "..3456789": true, "..34567890": false} { // 10 octets but for a stuffed dot
		bubble(t, text, func(t *testing.T) {
			c, conn := serve(t, &Options{MaxMessageSize: 10}, "C: RETR 1\nS: +OK\nS: "+text+"\nS: .\n")
			m, err := c.Retr(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			n, err := m.WriteTo(io.Discard)
			if ok {
				if n != int64(len(text)+1) || err != nil {
					t.Errorf("WriteTo = %d, %v", n, err)
				}
				return
			}
			wantServerError(t, "WriteTo", err, "RETR", 1, ErrTooLarge)
			wantClosed(t, c, conn, ErrTooLarge)
		})
	}
}

// Nothing that would end a command line and begin another is sent (CVE-2025-15367).
func TestArguments(t *testing.T) {
	ctx := context.Background()
	calls := map[string]func(*Client) error{
		"RETR 0":    func(c *Client) error { _, err := c.Retr(ctx, 0); return err },
		"RETR -1":   func(c *Client) error { _, err := c.Retr(ctx, -1); return err },
		"TOP 0 1":   func(c *Client) error { _, err := c.Top(ctx, 0, 1); return err },
		"TOP 1 -1":  func(c *Client) error { _, err := c.Top(ctx, 1, -1); return err },
		"DELE 0":    func(c *Client) error { return c.Dele(ctx, 0) },
		"LIST 0":    func(c *Client) error { _, err := c.List(ctx, 0); return err },
		"UIDL 0":    func(c *Client) error { _, err := c.UIDL(ctx, 0); return err },
		"USER":      func(c *Client) error { return c.User(ctx, "") },
		"RPOP":      func(c *Client) error { return c.RPOP(ctx, "") },
		"APOP":      func(c *Client) error { return c.APOP(ctx, "", "x") },
		"Login":     func(c *Client) error { return c.Login(ctx, "", "x") },
		"LANG":      func(c *Client) error { _, err := c.Lang(ctx, ""); return err },
		"LANG a b":  func(c *Client) error { _, err := c.Lang(ctx, "a b"); return err },
		"LANG de_":  func(c *Client) error { _, err := c.Lang(ctx, "de_DE"); return err },
		"Auth nil":  func(c *Client) error { return c.Auth(ctx, nil) },
		"AUTH":      func(c *Client) error { return c.Auth(ctx, &fixed{}) },
		"AUTH a b":  func(c *Client) error { return c.Auth(ctx, &fixed{mech: "A B"}) },
		"AUTH crlf": func(c *Client) error { return c.Auth(ctx, &fixed{mech: "A\r\nQUIT"}) },
		"RETR 1 0": func(c *Client) error {
			for m, err := range c.RetrAll(ctx, []int{1, 0}) {
				if m != nil {
					return nil
				}
				return err
			}
			return nil
		},
		"TOP 1, -1": func(c *Client) error {
			for _, err := range c.TopAll(ctx, []int{1, 2}, -1) {
				return err
			}
			return nil
		},
		"DELE 1 0": func(c *Client) error { return c.DeleAll(ctx, []int{1, 0}) },
	}
	for octet := range 0x80 {
		if octet >= 0x20 && octet != 0x7F {
			continue
		}
		bad := "a" + string(rune(octet)) + "b"
		name := fmt.Sprintf(" %#02x", octet)
		calls["USER"+name] = func(c *Client) error { return c.User(ctx, bad) }
		calls["PASS"+name] = func(c *Client) error { return c.Pass(ctx, bad) }
		calls["APOP"+name] = func(c *Client) error { return c.APOP(ctx, bad, "x") }
		calls["APOP secret"+name] = func(c *Client) error { return c.APOP(ctx, "x", bad) }
		calls["RPOP"+name] = func(c *Client) error { return c.RPOP(ctx, bad) }
		calls["Login"+name] = func(c *Client) error { return c.Login(ctx, bad, "x") }
		calls["Login password"+name] = func(c *Client) error { return c.Login(ctx, "x", bad) }
		calls["LANG"+name] = func(c *Client) error { _, err := c.Lang(ctx, bad); return err }
		calls["AUTH"+name] = func(c *Client) error { return c.Auth(ctx, &fixed{mech: bad}) }
	}
	synctest.Test(t, func(t *testing.T) {
		c, conn, peer := connect(t, nil)
		for name, call := range calls {
			if err := call(c); err == nil || !strings.HasPrefix(err.Error(), prefix) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v", name, err)
			}
			if sent := conn.take(); sent != "" {
				t.Errorf("%s: %q was sent", name, sent)
			}
			wantUsable(t, c, conn)
		}
		// What is not ASCII is sent as it is, spaces are part of a password.
		io.WriteString(peer, "+OK\r\n")
		wantIs(t, "User", c.User(ctx, "jürgen müller"))
		io.WriteString(peer, "+OK\r\n")
		wantIs(t, "Pass", c.Pass(ctx, " pass  wörd "))
		if got, want := conn.take(), "USER jürgen müller\r\nPASS  pass  wörd \r\n"; got != want {
			t.Errorf("sent %q, want %q", got, want)
		}
	})
}

func TestBounds(t *testing.T) {
	capa := func(ctx context.Context, c *Client) error { _, err := c.Capa(ctx); return err }
	noop := func(ctx context.Context, c *Client) error { return c.Noop(ctx) }
	uidlAll := func(ctx context.Context, c *Client) error { _, err := c.UIDLAll(ctx); return err }
	langAll := func(ctx context.Context, c *Client) error { _, err := c.LangAll(ctx); return err }
	x := func(n int) string { return strings.Repeat("x", n) }
	// rows is a listing of so many octets, which the client need not read to its
	// end.
	rows := func(octets int) string {
		return fmt.Sprintf("Srepeat: %d %q\nSrepeat: %d \"x\\r\\n\"\nSrepeat: 1 \".\\r\\n\"\n", octets/1024, x(1024)+"\r\n", octets%1024)
	}
	challenge := func(n int) string { // of so many octets but for "+ "
		return fmt.Sprintf("C: AUTH TEST\nSrepeat: 1 %q\n", "+ "+base64.StdEncoding.EncodeToString(make([]byte, n/4*3))+"\r\n")
	}
	auth := func(ctx context.Context, c *Client) error { return c.Auth(ctx, &fixed{mech: "TEST"}) }
	for _, tt := range []struct {
		name   string
		script string
		do     func(context.Context, *Client) error
		ok     bool
	}{
		{"status line of 2048", "C: NOOP\nS: +OK " + x(2044) + "\n", noop, true},
		{"status line of 2049", "C: NOOP\nS: +OK " + x(2045) + "\n", noop, false},
		{"no status line, 2049", "C: NOOP\nS: " + x(2049) + "\n", noop, false},
		{"row of 2048", "C: UIDL\nS: +OK\nS: 1 " + x(2046) + "\nS: .\n", uidlAll, true},
		{"row of 2049", "C: UIDL\nS: +OK\nS: 1 " + x(2047) + "\n", uidlAll, false},
		{"CAPA of 64 KiB", "C: CAPA\nS: +OK\n" + rows(64<<10), capa, true},
		{"CAPA of one more", "C: CAPA\nS: +OK\n" + rows(64<<10+1), capa, false},
		{"LANG of 64 KiB", "C: LANG\nS: +OK\n" + rows(64<<10), langAll, true},
		{"LANG of one more", "C: LANG\nS: +OK\n" + rows(64<<10+1), langAll, false},
		{"challenge of 64 KiB", challenge(64<<10-4) + "C:\nS: +OK\n", auth, true},
		{"challenge of more", challenge(64 << 10), auth, false},
		{"status line of 2048 to AUTH", "C: AUTH TEST\nS: +\nC:\nS: +OK " + x(2044) + "\n", auth, true},
		{"status line of 2049 to AUTH", "C: AUTH TEST\nS: +\nC:\nS: +OK " + x(2045) + "\n", auth, false},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			script := tt.script
			if tt.ok {
				script += "C: NOOP\nS: +OK\n"
			}
			c, conn := serve(t, nil, script)
			err := tt.do(t.Context(), c)
			if tt.ok {
				wantIs(t, tt.name, err)
				wantIs(t, "Noop", c.Noop(t.Context()))
				return
			}
			wantIs(t, tt.name, err, ErrTooLarge)
			var e *Error
			if !errors.As(err, &e) {
				t.Errorf("%v (%T) is no *Error", err, err)
			}
			wantClosed(t, c, conn, ErrTooLarge)
		})
	}
	bubble(t, "our own", func(t *testing.T) {
		c, conn, peer := connect(t, nil)
		ctx := t.Context()
		for name, err := range map[string]error{
			"USER": c.User(ctx, x(4096-4)),
			"PASS": c.Pass(ctx, x(4096-4)),
			"AUTH": c.Auth(ctx, &fixed{mech: x(4096 - 4)}),
			"IR":   c.Auth(ctx, &fixed{mech: "TEST", ir: make([]byte, 48<<10+1)}),
		} {
			wantIs(t, name, err, ErrTooLarge)
		}
		if sent := conn.take(); sent != "" {
			t.Errorf("%.100q was sent", sent)
		}
		wantUsable(t, c, conn)
		io.WriteString(peer, "+OK\r\n")
		wantIs(t, "User", c.User(ctx, x(4096-5)))
		if sent := conn.take(); len(sent) != 4096+2 {
			t.Errorf("%d octets were sent", len(sent))
		}
		go io.Copy(io.Discard, peer)
		io.WriteString(peer, "+ \r\n+OK\r\n")
		wantIs(t, "Auth", c.Auth(ctx, &fixed{mech: "TEST", ir: make([]byte, 48<<10)}))
		if sent := conn.take(); len(sent) != len("AUTH TEST\r\n")+64<<10+2 {
			t.Errorf("%d octets were sent", len(sent))
		}
		// Under way, the exchange is canceled.
		io.WriteString(peer, "+ \r\n-ERR canceled\r\n")
		wantIs(t, "Auth", c.Auth(ctx, &fixed{mech: "TEST", answers: []string{x(48<<10 + 1)}}), ErrTooLarge)
		if sent := conn.take(); sent != "AUTH TEST\r\n*\r\n" {
			t.Errorf("%.100q was sent", sent)
		}
		wantUsable(t, c, conn)
	})
	// A STAT or LIST makes no room by the number the server claims.
	bubble(t, "claims", func(t *testing.T) {
		c, _ := serve(t, nil, "C: STAT\nS: +OK 1000000000 9223372036854775807\nC: LIST\nS: +OK 1000000000 messages\nS: 1000000000 1\nS: .\n")
		n, size, err := c.Stat(t.Context())
		if n != 1_000_000_000 || size != math.MaxInt64 || err != nil {
			t.Errorf("Stat = %d, %d, %v", n, size, err)
		}
		infos, err := c.ListAll(t.Context())
		if !slices.Equal(infos, []MessageInfo{{1_000_000_000, 1}}) || err != nil {
			t.Errorf("ListAll = %v, %v", infos, err)
		}
	})
}

// A fixed is a SASL mechanism that knows its lines. It has the methods of the
// Client of emersion/go-sasl and no more.
type fixed struct {
	mech    string
	ir      []byte
	answers []string // one that begins with ! is an error
	asked   []string
}

var _ SASL = interface {
	Start() (mech string, ir []byte, err error)
	Next(challenge []byte) (response []byte, err error)
}(&fixed{})

func (s *fixed) Start() (string, []byte, error) { return s.mech, s.ir, nil }

func (s *fixed) Next(challenge []byte) ([]byte, error) {
	s.asked = append(s.asked, string(challenge))
	if len(s.answers) == 0 {
		return nil, nil
	}
	answer := s.answers[0]
	s.answers = s.answers[1:]
	if text, bad := strings.CutPrefix(answer, "!"); bad {
		return nil, errors.New(text)
	}
	return []byte(answer), nil
}

// A finishing is a fixed that has the last word.
type finishing struct {
	fixed
	err      error
	finished int
}

func (s *finishing) Finish() error { s.finished++; return s.err }

func TestAuth(t *testing.T) {
	octets := func(n int) []byte { return bytes.Repeat([]byte("x"), n) }
	b64 := base64.StdEncoding.EncodeToString
	errProof := errors.New("no proof")
	const usable, closed = false, true
	for _, tt := range []struct {
		name   string
		sasl   SASL
		script string
		closed bool
		want   []error // nil: no error
		text   string  // part of the error's
	}{
		{"no initial response", &fixed{mech: "TEST", answers: []string{"b"}}, "C: AUTH TEST\nS: + YQ==\nC: Yg==\nS: +OK\n", usable, nil, ""},
		{"an empty one", &fixed{mech: "TEST", ir: []byte{}}, "C: AUTH TEST =\nS: +OK\n", usable, nil, ""},
		// "AUTH ABC " and 244 octets of base64 and CRLF are 255.
		{"255 octets", &fixed{mech: "ABC", ir: octets(183)}, "C: AUTH ABC " + b64(octets(183)) + "\nS: +OK\n", usable, nil, ""},
		{"256 octets", &fixed{mech: "ABCD", ir: octets(183)}, "C: AUTH ABCD\nS: +\nC: " + b64(octets(183)) + "\nS: +OK\n", usable, nil, ""},
		{"XOAUTH2", XOAuth2Auth("a", "t"), "C: AUTH XOAUTH2\nS: +\nC: " + b64([]byte("user=a\x01auth=Bearer t\x01\x01")) + "\nS: +OK\n", usable, nil, ""},
		{"OAUTHBEARER", OAuthBearerAuth("a", "t"), "C: AUTH OAUTHBEARER\nS: +\nC: " + b64([]byte("n,a=a,\x01auth=Bearer t\x01\x01")) + "\nS: +OK\n", usable, nil, ""},
		{"xoauth2 of another", &fixed{mech: "xoauth2", ir: []byte("a")}, "C: AUTH xoauth2\nS: +\nC: YQ==\nS: +OK\n", usable, nil, ""},
		{"text for the withheld response", &fixed{mech: "XOAUTH2", ir: []byte("a")}, "C: AUTH XOAUTH2\nS: + go ahead!\nC: YQ==\nS: +OK\n", usable, nil, ""},
		{"text of 64 KiB for it", &fixed{mech: "XOAUTH2", ir: []byte("a")}, "C: AUTH XOAUTH2\nSq: \"+ \"\nSrepeat: 65534 \"x\"\nS:\nC: YQ==\nS: +OK\n", usable, nil, ""},
		{"text of one octet more", &fixed{mech: "XOAUTH2", ir: []byte("a")}, "C: AUTH XOAUTH2\nSq: \"+ \"\nSrepeat: 65535 \"x\"\n", closed, []error{ErrTooLarge}, ""},
		{"empty challenges", &fixed{mech: "TEST", answers: []string{"a", "b"}}, "C: AUTH TEST\nS: +\nC: YQ==\nS: +  \nC: *\nS: -ERR\n", usable, []error{ErrMalformed}, "base64"},
		{"accepted too early", &fixed{mech: "XOAUTH2", ir: []byte("a")}, "C: AUTH XOAUTH2\nS: +OK\n", closed, []error{ErrMalformed}, ""},
		{"accepted at once", &fixed{mech: "TEST"}, "C: AUTH TEST\nS: +OK\n", closed, []error{ErrMalformed}, ""},
		{"refused", &fixed{mech: "TEST", ir: []byte("a")}, "C: AUTH TEST YQ==\nS: -ERR [AUTH] no\n", usable, []error{CodeAuth}, `"no"`},
		{"no base64", &fixed{mech: "TEST", ir: []byte("a")}, "C: AUTH TEST YQ==\nS: + what?\nC: *\nS: -ERR canceled\n", usable, []error{ErrMalformed}, "base64"},
		{"base64 without padding", &fixed{mech: "TEST", ir: []byte("a")}, "C: AUTH TEST YQ==\nS: + YQ\nC: *\nS: -ERR canceled\n", usable, []error{ErrMalformed}, "base64"},
		{"base64 with CR", &fixed{mech: "TEST", ir: []byte("a")}, "C: AUTH TEST YQ==\nSq: \"+ YQ\\r==\\r\\n\"\nC: *\nS: -ERR canceled\n", usable, []error{ErrMalformed}, "base64"},
		{"the mechanism gives up", &fixed{mech: "TEST", answers: []string{"!boring"}}, "C: AUTH TEST\nS: + YQ==\nC: *\nS: -ERR canceled\n", usable, []error{}, "boring"},
		{"accepted though canceled", &fixed{mech: "TEST", answers: []string{"!boring"}}, "C: AUTH TEST\nS: + YQ==\nC: *\nS: +OK\n", closed, []error{ErrMalformed}, ""},
		{"asked on though canceled", &fixed{mech: "TEST", answers: []string{"!boring"}}, "C: AUTH TEST\nS: + YQ==\nC: *\nS: + YQ==\n", closed, []error{ErrMalformed}, ""},
		{"hung up though canceled", &fixed{mech: "TEST", answers: []string{"!boring"}}, "C: AUTH TEST\nS: + YQ==\nC: *\nclose", closed, []error{io.ErrUnexpectedEOF}, ""},
		{"endless", &fixed{mech: "TEST"}, "C: AUTH TEST\n" + strings.Repeat("S: +\nC:\n", 32) + "S: +\nC: *\nS: -ERR\n", usable, []error{ErrTooLarge}, "challenges"},
		{"Finish", &finishing{fixed: fixed{mech: "TEST", ir: []byte("a")}}, "C: AUTH TEST YQ==\nS: +OK\n", usable, nil, ""},
		{"Finish fails", &finishing{fixed: fixed{mech: "TEST", ir: []byte("a")}, err: errProof}, "C: AUTH TEST YQ==\nS: +OK\n", closed, []error{errProof}, ""},
		// GHSA-95fj-3fxw-g62g
		{"SCRAM without the server's proof", SCRAMSHA256Auth("alice", "s3cret"), "C~: AUTH SCRAM-SHA-256 .*\nS: +OK\n", closed, []error{}, "proof"},
		// Exchange 2003 says +OK where + is meant.
		{"LOGIN cut short", LoginAuth("alice", "s3cret"), "C: AUTH LOGIN\nS: + VXNlcm5hbWU6\nC: YWxpY2U=\nS: +OK\n", closed, []error{}, "before the exchange was over"},
		{"token refused", XOAuth2Auth("a", "t0k3n"), "C: AUTH XOAUTH2\nS: +\nC~: .*\nS: + " + b64([]byte(`{"status":"401"}`)) + "\nC:\nS: -ERR [AUTH] no\n", usable, []error{CodeAuth}, "401"},
		{"token refused, RFC 7628", OAuthBearerAuth("a", "t0k3n"), "C: AUTH OAUTHBEARER\nS: +\nC~: .*\nS: + " + b64([]byte(`{"status":"invalid_token"}`)) + "\nC: AQ==\nS: -ERR no\n", usable, []error{}, "invalid_token"},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			script := tt.script
			if !tt.closed {
				script += "C: NOOP\nS: +OK\n"
			}
			c, conn := serve(t, nil, script)
			err := c.Auth(t.Context(), tt.sasl)
			if (tt.want == nil) != (err == nil) {
				t.Fatalf("Auth: %v", err)
			}
			if len(tt.want) > 0 {
				wantIs(t, "Auth", err, tt.want...)
			}
			if err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Auth: %v, want %q in it", err, tt.text)
			}
			if s, ok := tt.sasl.(*finishing); ok && s.finished != 1 {
				t.Errorf("Finish was called %d times", s.finished)
			}
			if tt.closed {
				wantClosed(t, c, conn, err)
				return
			}
			wantIs(t, "Noop", c.Noop(t.Context()))
		})
	}
	bubble(t, "what the mechanism is asked", func(t *testing.T) {
		s := &fixed{mech: "TEST", ir: octets(300)}
		c, _ := serve(t, nil, "C: AUTH TEST\nS: + bm90IGZvciBoaW0=\nC~: .*\nS: + AP8=\nC:\nS: +\nC:\nS: +OK\n")
		wantIs(t, "Auth", c.Auth(t.Context(), s))
		if want := []string{"\x00\xff", ""}; !slices.Equal(s.asked, want) {
			t.Errorf("asked %q, want %q", s.asked, want)
		}
	})
}

// Every mechanism, against the embedded server.
func TestMechanisms(t *testing.T) {
	for name, sasl := range map[string]func(tls.ConnectionState) SASL{
		"PLAIN":              func(tls.ConnectionState) SASL { return PlainAuth("", "alice", "s3cret") },
		"LOGIN":              func(tls.ConnectionState) SASL { return LoginAuth("alice", "s3cret") },
		"CRAM-MD5":           func(tls.ConnectionState) SASL { return CRAMMD5Auth("alice", "s3cret") },
		"SCRAM-SHA-1":        func(tls.ConnectionState) SASL { return SCRAMSHA1Auth("alice", "s3cret") },
		"SCRAM-SHA-256":      func(tls.ConnectionState) SASL { return SCRAMSHA256Auth("alice", "s3cret") },
		"SCRAM-SHA-1-PLUS":   func(s tls.ConnectionState) SASL { return SCRAMSHA1PlusAuth("alice", "s3cret", s) },
		"SCRAM-SHA-256-PLUS": func(s tls.ConnectionState) SASL { return SCRAMSHA256PlusAuth("alice", "s3cret", s) },
		"XOAUTH2":            func(tls.ConnectionState) SASL { return XOAuth2Auth("alice", "t0ken") },
		"OAUTHBEARER":        func(tls.ConnectionState) SASL { return OAuthBearerAuth("alice", "t0ken") },
		"EXTERNAL":           func(tls.ConnectionState) SASL { return ExternalAuth("") },
		"ANONYMOUS":          func(tls.ConnectionState) SASL { return AnonymousAuth("") },
	} {
		bubble(t, name, func(t *testing.T) {
			s := pop3test.NewUnstartedServer()
			s.AddUser("alice", "s3cret").Token = "t0ken"
			s.AddUser("anonymous", "")
			client, peer := pop3test.Pipe()
			go s.ServeConn(tls.Server(peer, s.TLS))
			config := s.ClientTLS()
			config.Certificates = []tls.Certificate{pop3test.ClientCertificate("alice")}
			c, err := NewClient(t.Context(), tls.Client(client, config), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			state, _ := c.TLSConnectionState()
			wantIs(t, "Auth", c.Auth(t.Context(), sasl(state)))
			_, _, err = c.Stat(t.Context())
			wantIs(t, "Stat", err)
			wantIs(t, "Quit", c.Quit(t.Context()))
		})
	}
}

// A tlsLike is TLS of another make.
type tlsLike struct{ net.Conn }

func (tlsLike) ConnectionState() tls.ConnectionState {
	return tls.ConnectionState{Version: tls.VersionTLS13}
}

func TestInsecureAuth(t *testing.T) {
	ip := func(s string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(s), Port: 110} }
	var (
		local  = ip("127.0.0.1")
		remote = ip("192.0.2.1")
		unix   = &net.UnixAddr{Name: "/run/pop3", Net: "unix"}
	)
	const allowed, refused = true, false
	for _, tt := range []struct {
		name string
		addr net.Addr
		host string // dialed, if not ""
		tls  bool
		opts Options
		want bool
	}{
		{"remote", remote, "", false, Options{}, refused},
		{"remote, IPv6", ip("2001:db8::1"), "", false, Options{}, refused},
		{"no address", nil, "", false, Options{}, refused},
		{"private", ip("10.0.0.1"), "", false, Options{}, refused},
		{"unspecified", ip("0.0.0.0"), "", false, Options{}, refused},
		{"remote, allowed", remote, "", false, Options{AllowInsecureAuth: true}, allowed},
		{"remote, TLS", remote, "", true, Options{}, allowed},
		{"loopback", local, "", false, Options{}, allowed},
		{"loopback, another", ip("127.8.9.10"), "", false, Options{}, allowed},
		{"loopback, IPv6", ip("::1"), "", false, Options{}, allowed},
		{"loopback, mapped", &net.TCPAddr{IP: net.ParseIP("::ffff:127.0.0.1").To16(), Port: 110}, "", false, Options{}, allowed},
		{"unix socket", unix, "", false, Options{}, allowed},
		{"pipe", pipeAddr{}, "", false, Options{}, allowed},
		{"a name like one", hostAddr("localhost.example.com:110"), "", false, Options{}, refused},
		{"dialed localhost", local, "localhost", false, Options{}, allowed},
		{"dialed LOCALHOST", local, "LOCALHOST:110", false, Options{}, allowed},
		{"dialed 127.0.0.1", local, "127.0.0.1:1110", false, Options{}, allowed},
		{"dialed ::1", ip("::1"), "[::1]:110", false, Options{}, allowed},
		{"dialed ::1 bare", ip("::1"), "::1", false, Options{}, allowed},
		{"dialed a host", remote, "pop.example.com", false, Options{}, refused},
		{"dialed a host through a local proxy", local, "pop.example.com", false, Options{}, refused},
		{"dialed an IP through a local proxy", local, "192.0.2.1:110", false, Options{}, refused},
		{"dialed a host through a unix socket", unix, "pop.example.com", false, Options{}, refused},
		{"dialed localhost, which is remote", remote, "localhost", false, Options{}, refused},
		{"dialed localhost.example.com", local, "localhost.example.com", false, Options{}, refused},
		{"dialed a host, allowed", remote, "pop.example.com", false, Options{AllowInsecureAuth: true}, allowed},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			client, peer := pop3test.Pipe()
			conn := &tap{Conn: client, fake: true, addr: tt.addr}
			io.WriteString(peer, greeting)
			var under net.Conn = conn
			if tt.tls {
				under = tlsLike{conn}
			}
			tt.opts.DialContext = func(context.Context, string, string) (net.Conn, error) { return under, nil }
			c, err := NewClient(t.Context(), under, &tt.opts)
			if tt.host != "" {
				io.WriteString(peer, greeting)
				c, err = Dial(t.Context(), tt.host, &tt.opts)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for _, call := range everyCall[:6] { // those that send credentials
				if tt.want == refused {
					wantIs(t, call.name, call.do(t.Context(), c), ErrInsecureAuth)
					if sent := conn.take(); sent != "" {
						t.Errorf("%s: %q was sent", call.name, sent)
					}
					wantUsable(t, c, conn)
					continue
				}
				done := make(chan error, 1)
				go func() { done <- call.do(t.Context(), c) }()
				if conn.take() == "" {
					t.Errorf("%s sent nothing: %v", call.name, <-done)
					continue
				}
				io.WriteString(peer, "-ERR no\r\n")
				if call.name == "Login" {
					synctest.Wait()
					io.WriteString(peer, "-ERR no\r\n")
				}
				wantServerError(t, call.name, <-done, map[string]string{"Login": "USER"}[call.name]+
					map[string]string{"User": "USER", "Pass": "PASS", "APOP": "APOP", "RPOP": "RPOP", "Auth": "AUTH"}[call.name], 0, nil)
				conn.take()
			}
		})
	}
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

type hostAddr string

func (hostAddr) Network() string  { return "tcp" }
func (a hostAddr) String() string { return string(a) }

// A server that repeats what it was sent does not bring it into an error, a
// reply or a trace.
func TestSecretsAreMasked(t *testing.T) {
	b64 := base64.StdEncoding.EncodeToString
	for _, tt := range []struct {
		name   string
		script string
		do     func(context.Context, *Client) error
		secret []string
	}{
		{"PASS", "C: PASS hunter2\nS: -ERR [AUTH] wrong password hunter2, hunter2!\n",
			func(ctx context.Context, c *Client) error { return c.Pass(ctx, "hunter2") }, []string{"hunter2"}},
		{"PASS, malformed", "C: PASS hunter2\nS: PASS hunter2\n",
			func(ctx context.Context, c *Client) error { return c.Pass(ctx, "hunter2") }, []string{"hunter2"}},
		{"APOP", "C~: APOP .*\nS: -ERR c4c9334bac560ecc979e58001b3e22fb is not tanstaaf\n",
			func(ctx context.Context, c *Client) error { return c.APOP(ctx, "mrose", "tanstaaf") }, []string{"tanstaaf", "c4c9334bac560ecc979e58001b3e22fb"}},
		{"PLAIN", "C~: AUTH PLAIN .*\nS: -ERR " + b64([]byte("\x00tim\x00tanstaaf")) + " has tanstaaf in it\n",
			func(ctx context.Context, c *Client) error { return c.Auth(ctx, PlainAuth("", "tim", "tanstaaf")) },
			[]string{"tanstaaf", b64([]byte("\x00tim\x00tanstaaf"))}},
		{"LOGIN", "C: AUTH LOGIN\nS: +\nC~: .*\nS: +\nC~: .*\nS: -ERR tanstaaf " + b64([]byte("tanstaaf")) + "\n",
			func(ctx context.Context, c *Client) error { return c.Auth(ctx, LoginAuth("tim", "tanstaaf")) },
			[]string{"tanstaaf", b64([]byte("tanstaaf"))}},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			var lines []string
			keep := func(_ context.Context, line string) { lines = append(lines, line) }
			c, _ := serve(t, &Options{Trace: &Trace{LineSent: keep, LineReceived: keep}}, tt.script)
			err := tt.do(t.Context(), c)
			if err == nil {
				t.Fatal("no error")
			}
			var e *Error
			if !errors.As(err, &e) || !strings.Contains(e.Text, "***") {
				t.Errorf("%+v: nothing is masked in the text", err)
			}
			seen := append(lines, c.LastReply(), err.Error(), fmt.Sprintf("%+v %#v", e, e))
			for _, text := range seen {
				for _, secret := range tt.secret {
					if strings.Contains(text, secret) {
						t.Errorf("%q shows the secret", text)
					}
				}
			}
		})
	}
	bubble(t, "a short one", func(t *testing.T) {
		c, _ := serve(t, nil, "C: PASS the\nS: -ERR the password is wrong\n")
		c.Pass(t.Context(), "the")
		if got := c.LastReply(); got != "the password is wrong" {
			t.Errorf("LastReply = %q", got)
		}
	})
	for _, s := range []SASL{
		PlainAuth("", "alice", "tanstaaf"), LoginAuth("alice", "tanstaaf"), CRAMMD5Auth("alice", "tanstaaf"), SCRAMSHA1Auth("alice", "tanstaaf"),
		SCRAMSHA256Auth("alice", "tanstaaf"), XOAuth2Auth("alice", "tanstaaf"), OAuthBearerAuth("alice", "tanstaaf"),
	} {
		for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			if got := fmt.Sprintf(format, s); strings.Contains(got, "tanstaaf") || strings.Contains(got, fmt.Sprintf("%x", "tanstaaf")) {
				t.Errorf("%s prints %s", format, got)
			}
		}
	}
}

func TestLogin(t *testing.T) {
	const (
		scram256 = `C~: AUTH SCRAM-SHA-256 [A-Za-z0-9+/=]+`
		scram1   = `C~: AUTH SCRAM-SHA-1 [A-Za-z0-9+/=]+`
		cram     = "C: AUTH CRAM-MD5"
		plain    = "C: AUTH PLAIN AGFsaWNlAHMzY3JldA=="
		loginm   = "C: AUTH LOGIN"
		user     = "C: USER alice"
		none     = ""
	)
	for _, tt := range []struct {
		capa      string // the rows, or a refusal
		want      string // the command in clear
		wantInTLS string
	}{
		{"SASL PLAIN LOGIN CRAM-MD5 SCRAM-SHA-1 SCRAM-SHA-256\nUSER", scram256, scram256},
		{"SASL PLAIN LOGIN CRAM-MD5 SCRAM-SHA-1\nUSER", scram1, scram1},
		{"SASL PLAIN LOGIN CRAM-MD5\nUSER", cram, plain},
		{"SASL LOGIN PLAIN\nUSER\nSTLS", plain, plain},
		{"sasl login plain", plain, plain},
		{"SASL LOGIN\nUSER", loginm, loginm},
		{"SASL CRAM-MD5\nUSER", cram, user},
		{"SASL CRAM-MD5", cram, none},
		{"SASL GSSAPI\nUSER", user, user},
		{"SASL GSSAPI EXTERNAL", none, none},
		{"SASL", none, none},
		{"SASL SCRAM-SHA-256-PLUS SCRAM-SHA-1-PLUS", none, none},
		{"SASL SCRAM-SHA-256-PLUS PLAIN", plain, plain},
		{"USER", user, user},
		{"TOP\nUIDL", user, user},
		{"STLS", none, user},
		{"STLS\nUSER", user, user},
		{"-ERR what?", user, user},
	} {
		for _, under := range []string{"", "tls\n"} {
			want := tt.want
			if under != "" {
				want = tt.wantInTLS
			}
			bubble(t, under+tt.capa, func(t *testing.T) {
				script := under + greetingStep + "C: CAPA\n"
				if strings.HasPrefix(tt.capa, "-ERR") {
					script += "S: " + tt.capa + "\n"
				} else {
					script += "S: +OK\nS: " + strings.ReplaceAll(tt.capa, "\n", "\nS: ") + "\nS: .\n"
				}
				if want != none {
					script += want + "\nS: -ERR [AUTH] no\n"
				}
				script += "C: NOOP\nS: +OK\n" // and no second attempt
				conn := play(t, script)
				var under2 net.Conn = conn
				if under != "" {
					under2 = tls.Client(conn, pop3test.ScriptTLS())
				}
				c, err := NewClient(t.Context(), under2, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				err = c.Login(t.Context(), "alice", "s3cret")
				if want == none {
					wantIs(t, "Login", err, ErrUnsupported, errors.ErrUnsupported)
					if strings.Contains(tt.capa, "STLS") && !strings.Contains(err.Error(), "TLS") {
						t.Errorf("Login: %v; want advice to use TLS", err)
					}
				} else {
					wantIs(t, "Login", err, CodeAuth)
				}
				wantIs(t, "Noop", c.Noop(t.Context()))
			})
		}
	}
	bubble(t, "password refused", func(t *testing.T) {
		c, _ := serve(t, nil, "C: CAPA\nS: +OK\nS: USER\nS: .\nC: USER alice\nS: +OK\nC: PASS s3cret\nS: -ERR [AUTH] no\nC: NOOP\nS: +OK\n")
		wantServerError(t, "Login", c.Login(t.Context(), "alice", "s3cret"), "PASS", 0, nil)
		wantIs(t, "Noop", c.Noop(t.Context()))
	})
	// There is a timestamp in this greeting: APOP is not tried (MailKit#395).
	bubble(t, "CAPA costs the connection", func(t *testing.T) {
		c, conn := serve(t, nil, "C: CAPA\nclose")
		wantIs(t, "Login", c.Login(t.Context(), "alice", "s3cret"), io.ErrUnexpectedEOF)
		wantClosed(t, c, conn, io.ErrUnexpectedEOF)
	})
	bubble(t, "on the embedded server", func(t *testing.T) {
		c := login(t, nil)
		wantIs(t, "Noop", c.Noop(t.Context()))
	})
}

const greetingStep = "S: +OK ready <1896.697170952@dbc.mtview.ca.us>\n"

func TestAPOP(t *testing.T) {
	// RFC 1939 section 7.
	const digest = "APOP mrose c4c9334bac560ecc979e58001b3e22fb\r\n"
	for greeting, want := range map[string]string{
		"+OK POP3 server ready <1896.697170952@dbc.mtview.ca.us>":      digest,
		"+OK <1896.697170952@dbc.mtview.ca.us> ready":                  digest,
		"+OK ready (<1896.697170952@dbc.mtview.ca.us>) or <other@one>": digest,
		"+OK <a b> <> <1896.697170952@dbc.mtview.ca.us>":               digest,
		"+OK << <x<1896.697170952@dbc.mtview.ca.us>":                   digest,
		"+OK <timestamp>":                  "APOP mrose 850d37d891462f6a11409660a3265ec8\r\n",
		"+OK ready":                        "",
		"+OK <>":                           "",
		"+OK <a b@c>":                      "",
		"+OK <ä@b>":                        "",
		"+OK <a@b":                         "",
		"+OK a@b>":                         "",
		"+OK " + strings.Repeat("<", 2000): "",
	} {
		bubble(t, greeting, func(t *testing.T) {
			client, peer := pop3test.Pipe()
			io.WriteString(peer, greeting+"\r\n")
			conn := &tap{Conn: client}
			c, err := NewClient(t.Context(), conn, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if want != "" {
				io.WriteString(peer, "+OK\r\n")
				wantIs(t, "APOP", c.APOP(t.Context(), "mrose", "tanstaaf"))
			} else {
				wantIs(t, "APOP", c.APOP(t.Context(), "mrose", "tanstaaf"), ErrUnsupported)
				wantUsable(t, c, conn)
			}
			if sent := conn.take(); sent != want {
				t.Errorf("sent %q, want %q", sent, want)
			}
		})
	}
	bubble(t, "after STLS", func(t *testing.T) {
		c, _ := serve(t, nil, "C: CAPA\nS: -ERR\nC: STLS\nS: +OK\nstarttls\nC: APOP mrose c4c9334bac560ecc979e58001b3e22fb\nS: +OK\n")
		wantIs(t, "StartTLS", c.StartTLS(t.Context(), pop3test.ScriptTLS()))
		wantIs(t, "APOP", c.APOP(t.Context(), "mrose", "tanstaaf"))
	})
}

// In FIPS 140-only mode MD5 panics, unless it is asked first.
func TestMD5NotAllowed(t *testing.T) {
	const mode = "fips140=only"
	if os.Getenv("GODEBUG") != mode {
		if runtime.GOOS != "linux" {
			t.Skip("the mode is not everywhere")
		}
		t.Parallel()
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), "GODEBUG="+mode)
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	c, conn := serve(t, nil, "C: AUTH CRAM-MD5\nS: + PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+\nC: *\nS: -ERR\n")
	for _, err := range []error{
		c.APOP(t.Context(), "mrose", "tanstaaf"),
		c.Auth(t.Context(), CRAMMD5Auth("tim", "tanstaaftanstaaf")),
	} {
		if err == nil || !strings.Contains(err.Error(), "MD5 is not allowed") {
			t.Error(err)
		}
	}
	wantUsable(t, c, conn)
}

func TestStartTLS(t *testing.T) {
	const capa = "C: CAPA\nS: +OK\nS: STLS\nS: .\n"
	start := func(ctx context.Context, c *Client) error { return c.StartTLS(ctx, pop3test.ScriptTLS()) }
	wrong := pop3test.ScriptTLS()
	wrong.ServerName = "pop.example.org"
	for _, tt := range []struct {
		name   string
		script string
		do     func(context.Context, *Client) error
		closed bool
		check  func(error) bool // nil: no error
	}{
		{"listed", capa + "C: STLS\nS: +OK\nstarttls\nC: NOOP\nS: +OK\n", start, false, nil},
		{"CAPA refused", "C: CAPA\nS: -ERR\nC: STLS\nS: +OK\nstarttls\nC: NOOP\nS: +OK\n", start, false, nil},
		{"not listed", "C: CAPA\nS: +OK\nS: TOP\nS: .\nC: NOOP\nS: +OK\n", start, false, func(err error) bool { return errors.Is(err, ErrUnsupported) }},
		{"refused", capa + "C: STLS\nS: -ERR no\nC: NOOP\nS: +OK\n", start, false, isRefusal},
		{"twice", capa + "C: STLS\nS: +OK\nstarttls\nC: NOOP\nS: +OK\n", func(ctx context.Context, c *Client) error {
			wantIs(t, "StartTLS", start(ctx, c))
			return start(ctx, c)
		}, false, func(err error) bool { return strings.Contains(err.Error(), "already") }},
		{"after login", "C: USER a\nS: +OK\nC: PASS b\nS: +OK\nC: NOOP\nS: +OK\n", func(ctx context.Context, c *Client) error {
			c.User(ctx, "a")
			c.Pass(ctx, "b")
			return start(ctx, c)
		}, false, func(err error) bool { return strings.Contains(err.Error(), "login") }},
		{"after UTF8", "C: UTF8\nS: +OK\nC: NOOP\nS: +OK\n", func(ctx context.Context, c *Client) error {
			c.UTF8(ctx)
			return start(ctx, c)
		}, false, func(err error) bool { return strings.Contains(err.Error(), "UTF8") }},
		{"after UTF8 refused", "C: UTF8\nS: -ERR\n" + capa + "C: STLS\nS: +OK\nstarttls\nC: NOOP\nS: +OK\n", func(ctx context.Context, c *Client) error {
			c.UTF8(ctx)
			return start(ctx, c)
		}, false, nil},
		// The NO STARTTLS attack: these octets would be taken for a reply under TLS.
		{"injected", capa + "C: STLS\nin one segment:\nS: +OK\nS: +OK injected\n", start, true, func(err error) bool { return errors.Is(err, ErrMalformed) }},
		{"one octet injected", capa + "C: STLS\nSq: \"+OK\\r\\nx\"\n", start, true, func(err error) bool { return errors.Is(err, ErrMalformed) }},
		{"no server name", "C: NOOP\nS: +OK\n", func(ctx context.Context, c *Client) error { return c.StartTLS(ctx, nil) }, false,
			func(err error) bool { return strings.Contains(err.Error(), "ServerName") }},
		{"no TLS", capa + "C: STLS\nS: +OK\nlater 1s\nS: what?\nstall", start, true, func(err error) bool { return errors.As(err, new(tls.RecordHeaderError)) }},
		{"hung up", capa + "C: STLS\nS: +OK\nCq: \"\\x16\"\nclose", start, true, func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			c, conn := serve(t, nil, tt.script)
			err := tt.do(t.Context(), c)
			if (tt.check == nil) != (err == nil) || err != nil && !tt.check(err) {
				t.Errorf("StartTLS: %v (%T)", err, err)
			}
			if tt.closed {
				wantClosed(t, c, conn, err)
				return
			}
			wantIs(t, "Noop", c.Noop(t.Context()))
			if _, ok := c.TLSConnectionState(); ok != strings.Contains(tt.script, "starttls") {
				t.Errorf("TLSConnectionState: %t", ok)
			}
		})
	}
	// The script would complain of a handshake that fails, so the server is another.
	server := func(t *testing.T) (c *Client, conn *tap) {
		s := pop3test.NewUnstartedServer()
		client, peer := pop3test.Pipe()
		go s.ServeConn(peer)
		conn = &tap{Conn: client}
		c, err := NewClient(t.Context(), conn, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		return c, conn
	}
	bubble(t, "wrong host", func(t *testing.T) {
		c, conn := server(t)
		err := c.StartTLS(t.Context(), wrong)
		if !errors.As(err, new(x509.HostnameError)) {
			t.Errorf("StartTLS: %v (%T)", err, err)
		}
		wantClosed(t, c, conn, err)
	})
	bubble(t, "unknown authority", func(t *testing.T) {
		c, conn := server(t)
		err := c.StartTLS(t.Context(), &tls.Config{ServerName: "localhost", RootCAs: x509.NewCertPool()})
		if !errors.As(err, new(x509.UnknownAuthorityError)) {
			t.Errorf("StartTLS: %v (%T)", err, err)
		}
		wantClosed(t, c, conn, err)
	})
	bubble(t, "cancel in the handshake", func(t *testing.T) {
		c, conn := serve(t, nil, capa+"C: STLS\nS: +OK\nstall")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wantIs(t, "StartTLS", start(ctx, c), context.DeadlineExceeded)
		wantClosed(t, c, conn, context.DeadlineExceeded)
	})
	for _, sent := range []string{"", "Sq: \"\\x16\\x03\"\n"} {
		bubble(t, "closed in the handshake "+sent, func(t *testing.T) {
			c, conn := serve(t, nil, capa+"C: STLS\nS: +OK\nCq: \"\\x16\"\n"+sent+"close")
			err := start(t.Context(), c)
			if e := new(Error); !errors.As(err, &e) || !errors.Is(e.Err, io.ErrUnexpectedEOF) || !strings.HasPrefix(err.Error(), "pop3: STLS: TLS handshake: ") {
				t.Errorf("StartTLS: %v (%T)", err, err)
			}
			wantClosed(t, c, conn, io.ErrUnexpectedEOF)
		})
	}
	// What CAPA said in clear counts no more (RFC 2595 section 4).
	bubble(t, "capabilities forgotten", func(t *testing.T) {
		c, _ := serve(t, nil, "C: CAPA\nS: +OK\nS: STLS\nS: PIPELINING\nS: .\nC: STLS\nS: +OK\nstarttls\n"+
			"C: CAPA\nS: +OK\nS: .\nC: DELE 1\nlater 1s\nS: +OK\nC: DELE 2\nS: +OK\n")
		wantIs(t, "StartTLS", start(t.Context(), c))
		wantIs(t, "DeleAll", c.DeleAll(t.Context(), []int{1, 2}))
	})
}

func TestDial(t *testing.T) {
	ctx := t.Context()
	s := pop3test.NewServer()
	defer s.Close()
	s.AddUser("alice", "s3cret", "a\r\n")
	secure := pop3test.NewTLSServer()
	defer secure.Close()
	secure.AddUser("alice", "s3cret", "a\r\n")
	_, port, _ := net.SplitHostPort(s.Addr)
	name := "localhost:" + port
	if c, err := Dial(ctx, name, nil); err != nil { // no such name on this machine
		name = s.Addr
	} else {
		c.Close()
	}
	config := s.ClientTLS()
	config.ServerName = "" // is the dialed host
	opts := &Options{TLSConfig: config}
	for _, tt := range []struct {
		name string
		dial func(context.Context, string, *Options) (*Client, error)
		addr string
		tls  bool
	}{
		{"Dial", Dial, name, false},
		{"DialStartTLS", DialStartTLS, name, true},
		{"DialTLS", DialTLS, secure.Addr, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := tt.dial(ctx, tt.addr, opts)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			state, ok := c.TLSConnectionState()
			if ok != tt.tls || ok && !state.HandshakeComplete {
				t.Errorf("TLSConnectionState: %t", ok)
			}
			wantIs(t, "Login", c.Login(ctx, "alice", "s3cret"))
			infos, err := c.ListAll(ctx)
			if err != nil || !slices.Equal(infos, []MessageInfo{{1, 3}}) {
				t.Errorf("ListAll = %v, %v", infos, err)
			}
			wantIs(t, "Quit", c.Quit(ctx))
		})
	}
	t.Run("StartTLS", func(t *testing.T) {
		c, err := Dial(ctx, name, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		wantIs(t, "StartTLS", c.StartTLS(ctx, config))
	})
	if opts.TLSConfig != config || config.ServerName != "" {
		t.Error("a tls.Config was modified")
	}

	t.Run("never in clear", func(t *testing.T) { // CVE-2021-22946
		synctest.Test(t, func(t *testing.T) {
			conn := play(t, greetingStep+"C: CAPA\nS: +OK\nS: USER\nS: .\n")
			_, err := DialStartTLS(t.Context(), "localhost", &Options{DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }})
			wantIs(t, "DialStartTLS", err, ErrUnsupported)
			if !conn.isClosed() {
				t.Error("the conn is open")
			}
		})
	})
	t.Run("wrong host", func(t *testing.T) {
		config := secure.ClientTLS()
		config.ServerName = "pop.example.org"
		_, err := DialTLS(ctx, secure.Addr, &Options{TLSConfig: config})
		if !errors.As(err, new(x509.HostnameError)) {
			t.Errorf("DialTLS: %v (%T)", err, err)
		}
	})
	for name, dial := range map[string]func(context.Context, string, *Options) (*Client, error){"Dial": Dial, "DialTLS": DialTLS, "DialStartTLS": DialStartTLS} {
		_, err := dial(ctx, s.Addr, &Options{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, nil }})
		if err == nil || !strings.Contains(err.Error(), "DialContext") {
			t.Errorf("%s through nothing: %v", name, err)
		}
	}
	errDown := errors.New("down")
	for addr, want := range map[string]struct{ plain, tls string }{
		"pop.example.com":      {"pop.example.com:110", "pop.example.com:995"},
		"pop.example.com:1110": {"pop.example.com:1110", "pop.example.com:1110"},
		"pop.example.com:":     {"pop.example.com:110", "pop.example.com:995"},
		"192.0.2.1":            {"192.0.2.1:110", "192.0.2.1:995"},
		"2001:db8::1":          {"[2001:db8::1]:110", "[2001:db8::1]:995"},
		"[2001:db8::1]":        {"[2001:db8::1]:110", "[2001:db8::1]:995"},
		"[2001:db8::1]:1":      {"[2001:db8::1]:1", "[2001:db8::1]:1"},
	} {
		var got []string
		opts := &Options{DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
			got = append(got, network+" "+addr)
			return nil, errDown
		}}
		_, err := Dial(ctx, addr, opts)
		wantIs(t, "Dial", err, errDown)
		_, err = DialTLS(ctx, addr, opts)
		wantIs(t, "DialTLS", err, errDown)
		_, err = DialStartTLS(ctx, addr, opts)
		wantIs(t, "DialStartTLS", err, errDown)
		if want := []string{"tcp " + want.plain, "tcp " + want.tls, "tcp " + want.plain}; !slices.Equal(got, want) {
			t.Errorf("dialed %q, want %q", got, want)
		}
	}
	for name, opts := range map[string]*Options{"Window": {Window: -1}, "MaxMessageSize": {MaxMessageSize: -1}} {
		client, _ := pop3test.Pipe()
		conn := &tap{Conn: client}
		if _, err := NewClient(ctx, conn, opts); err == nil || !strings.Contains(err.Error(), name) || !conn.isClosed() {
			t.Errorf("negative %s: %v", name, err)
		}
		if _, err := Dial(ctx, s.Addr, opts); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("negative %s: %v", name, err)
		}
	}
}

func TestGreeting(t *testing.T) {
	for line, want := range map[string]string{
		"+OK": "", "+OK ": "", "+OK ready": "ready", "+ok\tready  ": "ready", "+Ok  POP3  server": "POP3  server",
		"+ Hola mundo": "Hola mundo", "+": "",
	} {
		bubble(t, line, func(t *testing.T) {
			for _, end := range []string{"\r\n", "\n"} {
				client, peer := pop3test.Pipe()
				io.WriteString(peer, line+end)
				c, err := NewClient(t.Context(), client, nil)
				if err != nil {
					t.Fatal(err)
				}
				if c.Greeting() != want || c.LastReply() != want {
					t.Errorf("Greeting = %q, LastReply = %q, want %q", c.Greeting(), c.LastReply(), want)
				}
				c.Close()
			}
		})
	}
	for line, want := range map[string]error{
		"-ERR [SYS/TEMP] come back later\r\n": CodeSysTemp, "+ERR no\r\n": nil,
		"\r\n": ErrMalformed, "220 hello\r\n": ErrMalformed, "+OKready\r\n": ErrMalformed, "* OK\r\n": ErrMalformed,
		"": io.ErrUnexpectedEOF, "+OK": io.ErrUnexpectedEOF, "+OK " + strings.Repeat("x", 2045) + "\r\n": ErrTooLarge,
	} {
		bubble(t, fmt.Sprintf("%.20q", line), func(t *testing.T) {
			client, peer := pop3test.Pipe()
			conn := &tap{Conn: client}
			io.WriteString(peer, line)
			peer.Close()
			c, err := NewClient(t.Context(), conn, nil)
			var e *Error
			if c != nil || !errors.As(err, &e) || e.Command != "" || want != nil && !errors.Is(err, want) {
				t.Errorf("NewClient: %v, %v, want %v", c, err, want)
			}
			if !strings.Contains(fmt.Sprint(err), "greeting") {
				t.Errorf("NewClient: %v, want the word greeting", err)
			}
			if !conn.isClosed() {
				t.Error("the conn is open")
			}
		})
	}
}

func TestListings(t *testing.T) {
	const failed = "FAILED"
	stat := func(ctx context.Context, c *Client) (any, error) {
		n, size, err := c.Stat(ctx)
		return fmt.Sprint(n, " ", size), err
	}
	list := func(ctx context.Context, c *Client) (any, error) { return c.List(ctx, 2) }
	listAll := func(ctx context.Context, c *Client) (any, error) { return c.ListAll(ctx) }
	uidl := func(ctx context.Context, c *Client) (any, error) {
		m, err := c.UIDL(ctx, 2)
		return fmt.Sprintf("%d %q", m.Number, m.UID), err
	}
	uidlAll := func(ctx context.Context, c *Client) (any, error) {
		all, err := c.UIDLAll(ctx)
		return fmt.Sprintf("%q", all), err
	}
	langAll := func(ctx context.Context, c *Client) (any, error) {
		all, err := c.LangAll(ctx)
		return fmt.Sprintf("%q", all), err
	}
	lang := func(ctx context.Context, c *Client) (any, error) { return c.Lang(ctx, "de") }
	uid := strings.Repeat("u", 500)
	for _, tt := range []struct {
		do         func(context.Context, *Client) (any, error)
		sent, want string // want is failed if the server broke the protocol
	}{
		{stat, "+OK 2 320\r\n", "2 320"},
		{stat, "+ok\t 2 \t 320 octets \r\n", "2 320"},
		{stat, "+OK 0 0\n", "0 0"},
		{stat, "+OK 3 -2147483648\r\n", "3 -1"}, // MailKit#872
		{stat, "+OK 2\r\n", failed},
		{stat, "+OK\r\n", failed},
		{stat, "+OK two 320\r\n", failed},
		{stat, "+OK 2 x\r\n", failed},
		{stat, "+OK -2 320\r\n", failed},
		{stat, "+OK 99999999999999999999 1\r\n", failed},
		{list, "+OK 2 120\r\n", "{2 120}"},
		{list, "+OK  2\t120 more\r\n", "{2 120}"},
		{list, "+OK 2 -1\r\n", "{2 -1}"},
		{list, "+OK 3 120\r\n", failed},
		{list, "+OK 2\r\n", failed},
		{list, "+OK\r\n", failed},
		{list, "+OK 2 x\r\n", failed},
		{listAll, "+OK\r\n1 120\r\n2 200\r\n.\r\n", "[{1 120} {2 200}]"},
		{listAll, "+OK\r\n 2 \t 200 x\r\n1000000  -5 \r\n7 0\r\n.\r\n", "[{2 200} {1000000 -1} {7 0}]"},
		{listAll, "+OK\n1 120\n.\n", "[{1 120}]"},
		{listAll, "+OK\r\n.\r\n", "[]"},
		{listAll, "+OK\r\n1\r\n.\r\n", failed},
		{listAll, "+OK\r\n\r\n.\r\n", failed},
		{listAll, "+OK\r\n0 1\r\n.\r\n", failed},
		{listAll, "+OK\r\n-1 1\r\n.\r\n", failed},
		{listAll, "+OK\r\n9223372036854775808 1\r\n.\r\n", failed},
		{listAll, "+OK\r\n1 99999999999999999999\r\n.\r\n", failed},
		{listAll, "+OK\r\n1 1\n2 2\r\n.\r\n", failed}, // one row: a lone LF ends none
		{listAll, "-ERR no\r\n+OK 0 0\r\n", "[]"},
		{uidl, "+OK 2 whqtswO00WBw418f9t5JxYwZ\r\n", `2 "whqtswO00WBw418f9t5JxYwZ"`},
		{uidl, "+OK 2  a b \xff \r\n", `2 "a b \xff"`},
		{uidl, "+OK abc\r\n", `2 "abc"`}, // Twisted
		{uidl, "+OK 17\r\n", `2 "17"`},
		{uidl, "+OK 2\r\n", failed},
		{uidl, "+OK 3 abc\r\n", failed},
		{uidl, "+OK\r\n", failed},
		{uidl, "+OK 2 a\x01b\r\n", failed},
		{uidl, "+OK 2 a\x7f\r\n", failed},
		{uidlAll, "+OK\r\n1 a\r\n2 \t " + uid + "\r\n5 a b \xe4\r\n.\r\n", fmt.Sprintf("%q", []MessageUID{{1, "a"}, {2, uid}, {5, "a b \xe4"}})},
		{uidlAll, "+OK\r\n1 a\r\n2 a\r\n.\r\n", fmt.Sprintf("%q", []MessageUID{{1, "a"}, {2, "a"}})},
		{uidlAll, "+OK\r\n.\r\n", "[]"},
		{uidlAll, "+OK\r\n1\r\n.\r\n", failed}, // CVE-2005-2335
		{uidlAll, "+OK\r\n1 \r\n.\r\n", failed},
		{uidlAll, "+OK\r\n1 a\x00\r\n.\r\n", failed},
		{uidlAll, "+OK\r\nx a\r\n.\r\n", failed},
		{uidlAll, "-ERR no\r\n+OK 0 0\r\n", "[]"},
		{langAll, "+OK\r\nen English\r\nde  Deutsch und so\r\ni-default\r\n.\r\n", fmt.Sprintf("%q", []Language{{"en", "English"}, {"de", "Deutsch und so"}, {"i-default", ""}})},
		{langAll, "+OK\r\n\r\n.\r\n", failed},
		{lang, "+OK de-AT Sprache\r\n", "de-AT"},
		{lang, "+OK\r\n", ""},
	} {
		bubble(t, tt.sent, func(t *testing.T) {
			c, conn, peer := connect(t, nil)
			io.WriteString(peer, tt.sent)
			// The second reply is to the STAT that asks whether the maildrop is empty,
			// so it must not be there too soon.
			if first, second, ok := strings.Cut(tt.sent, "\n+OK 0 0"); ok {
				c.Close()
				c, conn, peer = connect(t, nil)
				io.WriteString(peer, first+"\n")
				go func() {
					synctest.Wait()
					io.WriteString(peer, "+OK 0 0"+second)
				}()
			}
			got, err := tt.do(t.Context(), c)
			if tt.want == failed {
				if e := new(Error); !errors.As(err, &e) || !errors.Is(e.Err, ErrMalformed) {
					t.Errorf("%v, %v; want ErrMalformed", got, err)
				}
				wantClosed(t, c, conn, ErrMalformed)
				return
			}
			if err != nil || fmt.Sprint(got) != tt.want {
				t.Errorf("got %v, %v, want %s", got, err, tt.want)
			}
			wantUsable(t, c, conn)
		})
	}
	// Some servers refuse to list an empty maildrop.
	for _, tt := range []struct{ name, stat, command string }{
		{"not empty", "S: +OK 1 120", "LIST"},
		{"STAT refused", "S: -ERR", "LIST"},
	} {
		bubble(t, "LIST refused, "+tt.name, func(t *testing.T) {
			c, conn := serve(t, nil, "C: LIST\nS: -ERR no list\nC: STAT\n"+tt.stat+"\nC: UIDL\nS: -ERR no list\nC: STAT\n"+tt.stat+"\n")
			infos, err := c.ListAll(t.Context())
			if e := wantServerError(t, "ListAll", err, "LIST", 0, nil); infos != nil || e.Text != "no list" {
				t.Errorf("ListAll = %v, %v", infos, err)
			}
			uids, err := c.UIDLAll(t.Context())
			if e := wantServerError(t, "UIDLAll", err, "UIDL", 0, nil); uids != nil || e.Text != "no list" {
				t.Errorf("UIDLAll = %v, %v", uids, err)
			}
			wantUsable(t, c, conn)
		})
	}
	bubble(t, "refused and empty is not nil", func(t *testing.T) {
		c, _ := serve(t, nil, "C: LIST\nS: -ERR no list\nC: STAT\nS: +OK 0 0\nC: UIDL\nS: -ERR no list\nC: STAT\nS: +OK 0 0\n")
		if infos, err := c.ListAll(t.Context()); infos == nil || len(infos) > 0 || err != nil {
			t.Errorf("ListAll = %#v, %v", infos, err)
		}
		if uids, err := c.UIDLAll(t.Context()); uids == nil || len(uids) > 0 || err != nil {
			t.Errorf("UIDLAll = %#v, %v", uids, err)
		}
	})
	bubble(t, "empty is not nil", func(t *testing.T) {
		c := login(t, nil)
		infos, err := c.ListAll(t.Context())
		if infos == nil || err != nil {
			t.Errorf("ListAll = %#v, %v", infos, err)
		}
	})
}

func TestCapabilities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := serve(t, nil, "C: CAPA\nS: +OK\nS: TOP\nS: sasl plain Login\nS: SASL SCRAM-SHA-256\nS: Implementation Some server 1.0\n"+
			"S: LOGIN-DELAY 900 USER\nS: EXPIRE never USER\nS:\nS:  UIDL \t\nS: .\n")
		caps, err := c.Capa(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !caps.Has("TOP") || !caps.Has("top") || !caps.Has("uidl") || caps.Has("STLS") || caps.Has("") || len(caps) != 6 {
			t.Errorf("Capa = %v", caps)
		}
		if got := caps.SASL(); !slices.Equal(got, []string{"PLAIN", "LOGIN", "SCRAM-SHA-256"}) {
			t.Errorf("SASL = %q", got)
		}
		if got := caps.Implementation(); got != "Some server 1.0" {
			t.Errorf("Implementation = %q", got)
		}
		if d, ok := caps.LoginDelay(); d != 15*time.Minute || !ok {
			t.Errorf("LoginDelay = %v, %t", d, ok)
		}
		if days, ok := caps.Expire(); days != -1 || !ok {
			t.Errorf("Expire = %d, %t", days, ok)
		}
	})
	for _, tt := range []struct {
		caps Capabilities
		days int
		ok   bool
	}{
		{nil, 0, false},
		{Capabilities{"EXPIRE": {"0"}}, 0, true},
		{Capabilities{"EXPIRE": {"30", "USER"}}, 30, true},
		{Capabilities{"EXPIRE": nil}, 0, false},
		{Capabilities{"EXPIRE": {"-1"}}, 0, false},
		{Capabilities{"EXPIRE": {"99999999999999"}}, 0, false},
		{Capabilities{"EXPIRENEVER": nil}, 0, false}, // Mailutils
	} {
		if days, ok := tt.caps.Expire(); ok != tt.ok || ok && days != tt.days {
			t.Errorf("%v: Expire = %d, %t", tt.caps, days, ok)
		}
	}
	for arg, want := range map[string]bool{"0": true, "2147483647": true, "2147483648": false, "x": false, "-1": false} {
		if d, ok := (Capabilities{"LOGIN-DELAY": {arg}}).LoginDelay(); ok != want || d < 0 {
			t.Errorf("LOGIN-DELAY %s: %v, %t", arg, d, ok)
		}
	}
	var none Capabilities
	if none.Has("TOP") || len(none.SASL()) != 0 || none.Implementation() != "" {
		t.Error("a nil Capabilities has something")
	}
}

func TestErrors(t *testing.T) {
	for reply, want := range map[string]Error{
		"-ERR":                                  {},
		"-ERR no such message":                  {Text: "no such message"},
		"-err\t[in-use] locked":                 {Code: CodeInUse, Text: "locked"},
		"-ERR [SYS/TEMP] later":                 {Code: CodeSysTemp, Text: "later"},
		"-ERR [X-Y/Z/W]none":                    {Code: "X-Y/Z/W", Text: "none"},
		"-ERR [AUTH]":                           {Code: CodeAuth},
		"-ERR [127.0.0.1] hello":                {Text: "[127.0.0.1] hello"},
		"-ERR [example.com] hello":              {Text: "[example.com] hello"},
		"-ERR [] x":                             {Text: "[] x"},
		"-ERR [a b] x":                          {Text: "[a b] x"},
		"-ERR [SYS/] x":                         {Text: "[SYS/] x"},
		"-ERR [/SYS] x":                         {Text: "[/SYS] x"},
		"-ERR [SYS//TEMP] x":                    {Text: "[SYS//TEMP] x"},
		"-ERR [AUTH":                            {Text: "[AUTH"},
		"-ERR x [AUTH]":                         {Text: "x [AUTH]"},
		"+ERR [LOGIN-DELAY] minimum time a day": {Code: CodeLoginDelay, Text: "minimum time a day"},
	} {
		bubble(t, reply, func(t *testing.T) {
			c, _ := serve(t, nil, "C: RETR 7\nS: "+reply+"\n")
			_, err := c.Retr(t.Context(), 7)
			want.Command, want.Number = "RETR", 7
			var e *Error
			if !errors.As(err, &e) || *e != want {
				t.Errorf("%+v, want %+v", err, want)
			}
		})
	}
	for _, tt := range []struct {
		code      Code
		is, isNot []Code
		temporary bool
	}{
		{"", nil, []Code{"", CodeSys}, false},
		{"SYS/TEMP", []Code{CodeSys, CodeSysTemp, "sys"}, []Code{CodeSysPerm, "SYS/T", "SY", "SYS/", "SYS/TEMP/X", ""}, true},
		{"SYS/TEMP/DISK", []Code{CodeSys, CodeSysTemp}, []Code{CodeSysPerm}, true},
		{"SYS/PERM", []Code{CodeSys, CodeSysPerm}, []Code{CodeSysTemp}, false},
		{"SYSTEM", nil, []Code{CodeSys}, false},
		{"IN-USE", []Code{CodeInUse}, []Code{CodeAuth}, true},
		{"LOGIN-DELAY", []Code{CodeLoginDelay}, nil, true},
		{"AUTH", []Code{CodeAuth}, nil, false},
		{"UTF8", []Code{CodeUTF8}, nil, false},
	} {
		err := fmt.Errorf("wrapped: %w", &Error{Code: tt.code})
		for _, code := range tt.is {
			if !errors.Is(err, code) {
				t.Errorf("%q is not %q", tt.code, code)
			}
		}
		for _, code := range tt.isNot {
			if errors.Is(err, code) {
				t.Errorf("%q is %q", tt.code, code)
			}
		}
		if got := (&Error{Code: tt.code}).Temporary(); got != tt.temporary {
			t.Errorf("%q: Temporary = %t", tt.code, got)
		}
	}
	long := strings.Repeat("x", 512)
	for want, err := range map[string]error{
		`pop3: RETR 7: server refused: "no such message"`:                        &Error{Command: "RETR", Number: 7, Text: "no such message"},
		`pop3: PASS: server refused [AUTH]: "no"`:                                &Error{Command: "PASS", Code: CodeAuth, Text: "no"},
		`pop3: greeting: server refused`:                                         &Error{},
		`pop3: STAT: malformed reply: "a\x1b[2Jb\r"`:                             &Error{Command: "STAT", Text: "a\x1b[2Jb\r", Err: ErrMalformed}, // CVE-2008-2711
		`pop3: STAT: server closed the connection before its reply was complete`: &Error{Command: "STAT", Err: io.ErrUnexpectedEOF},
		`pop3: NOOP: server refused: "` + long + `"`:                             &Error{Command: "NOOP", Text: long + "y"},
		`pop3: response code SYS/TEMP`:                                           CodeSysTemp,
		`pop3: 5 errors: DELE 1: server refused; DELE 2: server refused; DELE 3: server refused; ...`: refusals{
			&Error{Command: "DELE", Number: 1}, &Error{Command: "DELE", Number: 2}, &Error{Command: "DELE", Number: 3},
			&Error{Command: "DELE", Number: 4}, io.ErrUnexpectedEOF},
	} {
		if got := err.Error(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	if !errors.Is(ErrClosed, net.ErrClosed) || !errors.Is(ErrUnsupported, errors.ErrUnsupported) || errors.Is(ErrBusy, net.ErrClosed) || errors.Is(ErrBusy, nil) {
		t.Error("the sentinels are not what they are said to be")
	}
}

// A Client and a Message that nobody made answer with errors.
func TestZeroValues(t *testing.T) {
	for _, call := range everyCall {
		if err := call.do(t.Context(), new(Client)); err == nil {
			t.Errorf("%s on a zero Client: no error", call.name)
		}
	}
	var c Client
	wantIs(t, "Noop", c.Noop(t.Context()), ErrClosed)
	wantIs(t, "Err", c.Err(), ErrClosed)
	wantIs(t, "Close", c.Close())
	if c.Greeting() != "" || c.LastReply() != "" {
		t.Error("a zero Client has a reply")
	}
	if _, ok := c.TLSConnectionState(); ok {
		t.Error("a zero Client has a TLSConnectionState")
	}
	var m Message
	if _, err := m.Read(make([]byte, 1)); err == nil {
		t.Error("Read of a zero Message: no error")
	}
	if _, err := m.WriteTo(io.Discard); err == nil {
		t.Error("WriteTo of a zero Message: no error")
	}
	if err := m.Close(); err == nil {
		t.Error("Close of a zero Message: no error")
	}
	if _, err := NewClient(t.Context(), nil, nil); err == nil {
		t.Error("NewClient without a conn: no error")
	}
	var none context.Context
	if _, err := Dial(none, "localhost", nil); err == nil {
		t.Error("Dial without a context: no error")
	}
}

// answers is what a server has to say to so many commands, RETR or TOP.
func answers(n, size int) string {
	text := strings.Repeat(strings.Repeat("x", 998)+"\r\n", size/1000) + strings.Repeat("x", size%1000)
	if size%1000 > 0 {
		text = text[:len(text)-2] + "\r\n"
	}
	return strings.Repeat("+OK\r\n"+text+".\r\n", n)
}

const (
	capaPipelining = "C: CAPA\nS: +OK\nS: PIPELINING\nS: .\n"
	capaNone       = "C: CAPA\nS: +OK\nS: TOP\nS: .\n"
)

func numbersTo(n int) []int {
	numbers := make([]int, n)
	for i := range numbers {
		numbers[i] = i + 1
	}
	return numbers
}

// How many commands are on the wire, reply by reply.
func TestWindow(t *testing.T) {
	for _, tt := range []struct {
		name   string
		window int
		sizes  []int // of the messages in reply; the last goes on
		want   []int // commands sent: before the first reply, behind the first, ...
	}{
		{"2", 2, []int{10}, []int{2, 1, 1, 1}},
		{"3", 3, []int{10}, []int{3, 0, 2, 0, 2, 0, 2}},
		{"10", 10, []int{10}, []int{10, 0, 0, 0, 0, 5, 0, 0, 0, 0, 5}},
		{"adaptive, no text", 0, []int{0}, []int{8, 505, 0, 0}},
		{"adaptive, 1 KiB", 0, []int{1 << 10}, []int{8, 505, 0, 0}},
		{"adaptive, 100 KiB", 0, []int{100 << 10}, []int{8, 33, 0, 0}},
		{"adaptive, 1 MiB", 0, []int{1 << 20}, []int{8, 0, 0, 0, 0, 0, 2, 0, 2}},
		{"adaptive, 2 MiB", 0, []int{2 << 20}, []int{8, 0, 0, 0, 0, 0, 2, 0, 2}},
		// 5 and 95 KiB are 50 on the average, which makes it 81; 35 make it 117.
		{"adaptive, the mean", 0, []int{95 << 10, 5 << 10}, []int{8, 36, 0, 76}},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			c, conn, peer := connect(t, &Options{Window: tt.window})
			io.WriteString(peer, "+OK\r\nPIPELINING\r\n.\r\n")
			_, err := c.Capa(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			conn.take()
			go func() { // the server reads all it gets
				for m, err := range c.RetrAll(t.Context(), numbersTo(2000)) {
					if err == nil {
						m.WriteTo(io.Discard)
					}
				}
			}()
			var got []int
			for i := range tt.want {
				got = append(got, strings.Count(conn.take(), "\r\n"))
				io.WriteString(peer, answers(1, tt.sizes[min(i, len(tt.sizes)-1)]))
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("sent %d commands, want %d", got, tt.want)
			}
			c.Close()
		})
	}
	// At half the window and not before: 512 small ones, 256 of them answered.
	bubble(t, "refill of 512", func(t *testing.T) {
		c, conn, peer := connect(t, nil)
		io.WriteString(peer, "+OK\r\nPIPELINING\r\n.\r\n")
		c.Capa(t.Context())
		conn.take()
		go func() {
			for m, err := range c.RetrAll(t.Context(), numbersTo(2000)) {
				if err == nil {
					m.WriteTo(io.Discard)
				}
			}
		}()
		var got []int
		for _, replies := range []int{1, 255, 1, 255, 1} {
			conn.take()
			io.WriteString(peer, answers(replies, 10))
			got = append(got, strings.Count(conn.take(), "\r\n"))
		}
		if want := []int{505, 0, 256, 0, 256}; !slices.Equal(got, want) {
			t.Errorf("sent %d commands, want %d", got, want)
		}
		c.Close()
	})
	// However large the window, and whatever the commands that the longest of all
	// comes among.
	for _, window := range []int{0, 1 << 30} {
		for _, lines := range []int{1, math.MaxInt} {
			bubble(t, fmt.Sprintf("16 KiB, Window %d, %d lines", window, lines), func(t *testing.T) {
				c, conn, peer := connect(t, &Options{Window: window})
				io.WriteString(peer, "+OK\r\nPIPELINING\r\n.\r\n")
				c.Capa(t.Context())
				conn.take()
				numbers := slices.Repeat([]int{lines}, 10_000)
				numbers[len(numbers)-1] = 1
				go func() {
					for m, err := range c.TopAll(t.Context(), numbers, lines) {
						if err == nil {
							m.Close()
						}
					}
				}()
				var sent string // and not answered
				for range 6 {
					sent += conn.take()
					all := strings.SplitAfter(sent, "\r\n")
					length := len(all[0])
					if len(sent) > 16<<10 || len(sent) <= 16<<10-length && window > 0 {
						t.Errorf("%d octets are unanswered", len(sent))
					}
					half := len(all) / 2
					io.WriteString(peer, answers(half, 0))
					sent = sent[half*length:]
				}
				c.Close()
			})
		}
	}
}

func TestPipelining(t *testing.T) {
	retrAll := func(numbers ...int) func(context.Context, *Client) error {
		return func(ctx context.Context, c *Client) error {
			i := 0
			for m, err := range c.RetrAll(ctx, numbers) {
				if err != nil {
					return err
				}
				if m.Number != numbers[i] {
					return fmt.Errorf("message %d is number %d", i, m.Number)
				}
				i++
			}
			return nil
		}
	}
	topAll := func(ctx context.Context, c *Client) error {
		for _, err := range c.TopAll(ctx, []int{1, 2}, 5) {
			if err != nil {
				return err
			}
		}
		return nil
	}
	deleAll := func(ctx context.Context, c *Client) error { return c.DeleAll(ctx, []int{1, 2}) }
	capa := func(ctx context.Context, c *Client) error { _, err := c.Capa(ctx); return err }
	passwords := func(ctx context.Context, c *Client) error {
		return cmp.Or(c.User(ctx, "alice"), c.Pass(ctx, "s3cret"))
	}
	const (
		pass     = "C: USER alice\nS: +OK\nC: PASS s3cret\nS: +OK\n"
		together = "C: RETR 1\nC: RETR 2\nin one segment:\nS: +OK\nS: .\nS: +OK\nS: .\n"
		apart    = "C: RETR 1\nlater 1s\nS: +OK\nS: .\nC: RETR 2\nlater 1s\nS: +OK\nS: .\n"
		// EXPIRE 0 and a client that reads ahead may lose what it has not read.
		expire0 = "C: CAPA\nS: +OK\nS: EXPIRE 0 USER\nS: PIPELINING\nS: .\n"
	)
	type steps = []func(context.Context, *Client) error
	for _, tt := range []struct {
		name   string
		opts   Options
		script string
		do     steps
		ahead  int // most commands unanswered
	}{
		{"RETR", Options{}, capaPipelining + together, steps{retrAll(1, 2)}, 2},
		{"TOP", Options{}, capaPipelining + strings.NewReplacer("RETR 1", "TOP 1 5", "RETR 2", "TOP 2 5").Replace(together), steps{topAll}, 2},
		{"DELE", Options{}, capaPipelining + "C: DELE 1\nC: DELE 2\nS: +OK\nS: +OK\n", steps{deleAll}, 2},
		{"CAPA is asked once", Options{}, capaPipelining + together + together, steps{retrAll(1, 2), retrAll(1, 2)}, 2},
		{"CAPA was asked", Options{}, capaPipelining + together, steps{capa, retrAll(1, 2)}, 2},
		{"CAPA was asked before login", Options{}, capaPipelining + pass + capaNone + apart, steps{capa, passwords, retrAll(1, 2)}, 1},
		{"CAPA was asked after login", Options{}, pass + capaPipelining + together, steps{passwords, capa, retrAll(1, 2)}, 2},
		{"no PIPELINING", Options{}, capaNone + apart, steps{retrAll(1, 2)}, 1},
		{"no CAPA", Options{}, "C: CAPA\nS: -ERR\n" + apart + apart, steps{retrAll(1, 2), retrAll(1, 2)}, 1},
		{"Window 1", Options{Window: 1}, apart, steps{retrAll(1, 2)}, 1},
		{"Window 1, CAPA was asked", Options{Window: 1}, capaPipelining + apart, steps{capa, retrAll(1, 2)}, 1},
		{"one number", Options{}, "C: RETR 2\nS: +OK\nS: .\n", steps{retrAll(2)}, 1},
		{"no number", Options{}, "", steps{retrAll()}, 0},
		{"EXPIRE 0", Options{}, expire0 + apart, steps{retrAll(1, 2)}, 1},
		{"EXPIRE 0, Window set", Options{Window: 2}, expire0 + together, steps{retrAll(1, 2)}, 2},
		{"EXPIRE 0, TOP", Options{}, expire0 + strings.NewReplacer("RETR 1", "TOP 1 5", "RETR 2", "TOP 2 5").Replace(together), steps{topAll}, 2},
		{"EXPIRE 0, DELE", Options{}, expire0 + "C: DELE 1\nC: DELE 2\nS: +OK\nS: +OK\n", steps{deleAll}, 2},
		{"EXPIRE 1", Options{}, strings.Replace(expire0, "0", "1", 1) + together, steps{retrAll(1, 2)}, 2},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			unanswered, most := 1, 0 // the greeting is to come
			tt.opts.Trace = &Trace{
				LineSent: func(context.Context, string) { unanswered++; most = max(most, unanswered) },
				LineReceived: func(_ context.Context, line string) {
					if strings.HasPrefix(line, "+") || strings.HasPrefix(line, "-") {
						unanswered--
					}
				},
			}
			c, conn := serve(t, &tt.opts, tt.script+"C: QUIT\nS: +OK\n")
			for _, do := range tt.do {
				wantIs(t, tt.name, do(t.Context(), c))
			}
			if most != tt.ahead {
				t.Errorf("%d commands were unanswered, want %d", most, tt.ahead)
			}
			wantUsable(t, c, conn)
			wantIs(t, "Quit", c.Quit(t.Context()))
		})
	}
}

// Nothing is sent behind these commands before their reply: Courier, Solid and
// others drop it.
func TestNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, conn, peer := connect(t, nil)
		ctx := t.Context()
		go func() {
			c.UTF8(ctx)
			c.Login(ctx, "alice", "s3cret")
			c.APOP(ctx, "mrose", "tanstaaf")
			c.Auth(ctx, PlainAuth("", "alice", "s3cret"))
			c.StartTLS(ctx, pop3test.ScriptTLS())
			for range c.RetrAll(ctx, []int{1, 2}) {
			}
			c.Quit(ctx)
		}()
		const refused = "-ERR\r\n"
		for _, step := range []struct{ want, reply string }{
			{"UTF8\r\n", refused},
			{"CAPA\r\n", "+OK\r\nUSER\r\nSTLS\r\nPIPELINING\r\n.\r\n"},
			{"USER alice\r\n", "+OK\r\n"},
			{"PASS s3cret\r\n", refused},
			{"APOP mrose c4c9334bac560ecc979e58001b3e22fb\r\n", refused},
			{"AUTH PLAIN AGFsaWNlAHMzY3JldA==\r\n", refused},
			{"CAPA\r\n", "+OK\r\nSTLS\r\nPIPELINING\r\n.\r\n"},
			{"STLS\r\n", refused},
			{"RETR 1\r\nRETR 2\r\n", refused + refused},
			{"QUIT\r\n", "+OK\r\n"},
			{"", ""},
		} {
			if got := conn.take(); got != step.want {
				t.Fatalf("sent %q, want %q", got, step.want)
			}
			io.WriteString(peer, step.reply)
		}
	})
}

func TestRetrAll(t *testing.T) {
	const replies = "in one segment:\nS: +OK 3 octets\nS: a\nS: .\nS: -ERR [UTF8] no\nS: +OK\nS: c\nS: cc\nS: .\nS: +OK\nS: d\nS: .\n"
	const four = capaPipelining + "C: RETR 1\nC: RETR 2\nC: RETR 3\nC: RETR 4\n"
	bubble(t, "refusal in the middle", func(t *testing.T) {
		c, conn := serve(t, nil, four+replies)
		var got []string
		for m, err := range c.RetrAll(t.Context(), numbersTo(4)) {
			if err != nil {
				wantServerError(t, "RetrAll", err, "RETR", 2, nil)
				wantIs(t, "RetrAll", err, CodeUTF8)
				if m == nil || m.Number != 2 || m.Size != -1 {
					t.Fatalf("the refused message is %+v", m)
				}
				_, rerr := m.Read(make([]byte, 1))
				wantIs(t, "Read", rerr, CodeUTF8)
				_, rerr = m.WriteTo(io.Discard)
				wantIs(t, "WriteTo", rerr, CodeUTF8)
				wantIs(t, "Close", m.Close())
				got = append(got, "refused")
				continue
			}
			text, err := io.ReadAll(m)
			wantIs(t, "ReadAll", err)
			got = append(got, fmt.Sprintf("%d %d %s", m.Number, m.Size, text))
		}
		if want := []string{"1 3 a\r\n", "refused", "3 -1 c\r\ncc\r\n", "4 -1 d\r\n"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		wantUsable(t, c, conn)
	})
	for stop := 1; stop <= 4; stop++ {
		for _, read := range []int{0, 1, 100} {
			bubble(t, fmt.Sprintf("break at %d having read %d", stop, read), func(t *testing.T) {
				c, conn := serve(t, nil, four+replies+"C: NOOP\nS: +OK still here\n")
				steps := 0
				for m, err := range c.RetrAll(t.Context(), numbersTo(4)) {
					if err == nil {
						io.CopyN(io.Discard, m, int64(read))
					}
					if steps++; steps == stop {
						break
					}
				}
				wantUsable(t, c, conn)
				wantIs(t, "Noop", c.Noop(t.Context()))
				if got := c.LastReply(); got != "still here" {
					t.Errorf("LastReply = %q", got)
				}
			})
		}
	}
	bubble(t, "return of the error", func(t *testing.T) {
		c, conn := serve(t, nil, four+replies+"C: NOOP\nS: +OK\n")
		err := func() error {
			for _, err := range c.RetrAll(t.Context(), numbersTo(4)) {
				if err != nil {
					return err
				}
			}
			return nil
		}()
		wantServerError(t, "RetrAll", err, "RETR", 2, nil)
		wantUsable(t, c, conn)
		wantIs(t, "Noop", c.Noop(t.Context()))
	})
	for name, end := range map[string]string{
		"in a status line": "in one segment:\nS: +OK\nS: a\nS: .\nSq: \"+OK\"\nclose",
		"in a text":        "in one segment:\nS: +OK\nS: a\nS: .\nS: +OK\nS: b\nclose",
	} {
		bubble(t, "end of input "+name, func(t *testing.T) {
			c, conn := serve(t, nil, four+end)
			var fatal error
			whole := 0
			for m, err := range c.RetrAll(t.Context(), numbersTo(4)) {
				if fatal != nil {
					t.Errorf("%v, %v behind the fatal error", m, err)
				}
				if m == nil {
					fatal = err
				} else if _, err := m.WriteTo(io.Discard); err == nil {
					whole++
				}
			}
			wantServerError(t, "RetrAll", fatal, "RETR", 2, io.ErrUnexpectedEOF)
			if whole != 1 {
				t.Errorf("%d whole messages", whole)
			}
			wantClosed(t, c, conn, io.ErrUnexpectedEOF)
		})
	}
	// What is thrown away is given one Timeout in all, however it drips.
	for name, leave := range map[string]bool{"break": true, "the next step": false} {
		bubble(t, "endless text behind "+name, func(t *testing.T) {
			c, conn := serve(t, &Options{Timeout: 10 * time.Second}, four+"S: +OK\nS: a\nS: .\n"+strings.Repeat("later 3s\nSrepeat: 1 \"+OK\\r\\n.\\r\\n\"\n", 2)+drip("+OK\r\nfor ever and ever"))
			start := time.Now()
			if leave {
				for range c.RetrAll(t.Context(), numbersTo(4)) {
					break
				}
				if got := time.Since(start); got != 10*time.Second {
					t.Errorf("the drain took %v", got)
				}
			} else {
				for m, err := range c.RetrAll(t.Context(), numbersTo(4)) {
					if m == nil {
						wantTimeout(t, "RetrAll", err)
					}
				}
			}
			wantClosed(t, c, conn, os.ErrDeadlineExceeded)
		})
	}
	bubble(t, "panic", func(t *testing.T) {
		c, conn := serve(t, nil, four+replies)
		func() {
			defer func() {
				if got := recover(); got != "oh" {
					t.Errorf("recovered %v", got)
				}
			}()
			for range c.RetrAll(t.Context(), numbersTo(4)) {
				panic("oh")
			}
		}()
		if c.Err() == nil || !conn.isClosed() {
			t.Errorf("Err = %v", c.Err())
		}
		wantIs(t, "Noop", c.Noop(t.Context()), ErrClosed)
	})
	bubble(t, "panic behind the last message", func(t *testing.T) {
		c, conn := serve(t, nil, "C: RETR 1\nS: +OK\nS: .\n")
		func() {
			defer func() { recover() }()
			for m := range c.RetrAll(t.Context(), []int{1}) {
				io.Copy(io.Discard, m)
				panic("oh")
			}
		}()
		if c.Err() == nil || !conn.isClosed() {
			t.Errorf("Err = %v", c.Err())
		}
	})
	bubble(t, "Goexit", func(t *testing.T) {
		c, conn := serve(t, nil, four+replies)
		done := make(chan bool)
		go func() {
			defer close(done)
			for range c.RetrAll(t.Context(), numbersTo(4)) {
				runtime.Goexit()
			}
		}()
		<-done
		if c.Err() == nil || !conn.isClosed() {
			t.Errorf("Err = %v", c.Err())
		}
		wantIs(t, "Noop", c.Noop(t.Context()), ErrClosed)
	})
	bubble(t, "Close in the loop", func(t *testing.T) {
		c, conn := serve(t, nil, four+replies)
		var last error
		for m, err := range c.RetrAll(t.Context(), numbersTo(4)) {
			if m != nil {
				c.Close()
			}
			last = err
		}
		wantIs(t, "RetrAll", last, ErrClosed)
		wantClosed(t, c, conn, ErrClosed)
	})
	bubble(t, "numbers", func(t *testing.T) {
		c := login(t, nil, "1\r\n", "2\r\n", "3\r\n")
		numbers := []int{9, 9, 9}
		messages := c.RetrAll(t.Context(), numbers)
		copy(numbers, []int{3, 1, 2}) // counts: they are copied when the range starts
		for range 2 {                 // and again if it starts again
			var got []int
			want := slices.Clone(numbers)
			for m, err := range messages {
				if err != nil {
					t.Fatal(err)
				}
				clear(numbers) // does not count
				got = append(got, m.Number)
			}
			copy(numbers, want)
			if !slices.Equal(got, want) {
				t.Errorf("got %d, want %d", got, want)
			}
		}
	})
	bubble(t, "many", func(t *testing.T) {
		c := login(t, nil, "a\r\n", "bb\r\n.\r\n")
		i := 0
		for m, err := range c.RetrAll(t.Context(), slices.Repeat([]int{1, 2, 3}, 5000)) {
			if i%3 == 2 {
				wantServerError(t, "RetrAll", err, "RETR", 3, nil)
			} else if err != nil {
				t.Fatalf("message %d: %v", i, err)
			} else if b, err := io.ReadAll(m); err != nil || string(b) != []string{"a\r\n", "bb\r\n.\r\n"}[i%3] {
				t.Fatalf("message %d: %q, %v", i, b, err)
			}
			i++
		}
		if i != 15_000 {
			t.Errorf("%d messages", i)
		}
	})
}

func TestTopAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := login(t, nil, "Subject: a\r\n\r\n1\r\n2\r\n", "Subject: b\r\n\r\n3\r\n4\r\n")
		var got []string
		for m, err := range c.TopAll(t.Context(), []int{2, 1}, 1) {
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(m)
			wantIs(t, "ReadAll", err)
			got = append(got, string(text))
		}
		if want := []string{"Subject: b\r\n\r\n3\r\n", "Subject: a\r\n\r\n1\r\n"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestDeleAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, conn := serve(t, nil, capaPipelining+"C: DELE 1\nC: DELE 2\nC: DELE 3\nC: DELE 4\n"+
			"in one segment:\nS: -ERR one\nS: +OK\nS: -ERR three\nS: +OK\nC: DELE 5\nS: -ERR five\nC: DELE 6\nS: +OK\n"+
			"C: DELE 1\nC: DELE 2\nS: -ERR\nclose")
		err := c.DeleAll(t.Context(), numbersTo(4))
		list := err.(interface{ Unwrap() []error }).Unwrap()
		if len(list) != 2 {
			t.Fatalf("DeleAll: %q", list)
		}
		wantServerError(t, "DeleAll", list[0], "DELE", 1, nil)
		wantServerError(t, "DeleAll", list[1], "DELE", 3, nil)
		if want := `pop3: 2 errors: DELE 1: server refused: "one"; DELE 3: server refused: "three"`; err.Error() != want {
			t.Errorf("DeleAll: %s", err)
		}
		wantUsable(t, c, conn)
		wantServerError(t, "DeleAll", c.DeleAll(t.Context(), []int{5}), "DELE", 5, nil)
		wantIs(t, "DeleAll", c.DeleAll(t.Context(), []int{6}))
		wantIs(t, "DeleAll", c.DeleAll(t.Context(), nil))
		err = c.DeleAll(t.Context(), []int{1, 2})
		list = err.(interface{ Unwrap() []error }).Unwrap()
		if len(list) != 2 {
			t.Fatalf("DeleAll: %q", list)
		}
		wantServerError(t, "DeleAll", list[0], "DELE", 1, nil)
		wantServerError(t, "DeleAll", list[1], "DELE", 2, io.ErrUnexpectedEOF)
		wantClosed(t, c, conn, io.ErrUnexpectedEOF)
	})
}

func TestTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		var events []string
		note := func(ctx context.Context, format string, args ...any) {
			event := fmt.Sprintf(format, args...)
			if ctx.Value(key{}) != "mine" {
				t.Errorf("%s: not the context of the call", event)
			}
			events = append(events, event)
		}
		trace := &Trace{
			ConnectStart: func(ctx context.Context, network, addr string) { note(ctx, "connect %s %s", network, addr) },
			ConnectDone: func(ctx context.Context, network, addr string, err error) {
				note(ctx, "connected %s %s %v", network, addr, err)
			},
			TLSHandshakeDone: func(ctx context.Context, state tls.ConnectionState, err error) {
				note(ctx, "handshake %t %v", state.HandshakeComplete, err)
			},
			CommandStart: func(ctx context.Context, info CommandInfo) {
				if (info != CommandInfo{Command: info.Command, Number: info.Number}) {
					t.Errorf("CommandStart: %+v", info)
				}
				note(ctx, "start %s %d", info.Command, info.Number)
			},
			CommandDone: func(ctx context.Context, info CommandInfo) {
				note(ctx, "done %s %d %q %d %v %v", info.Command, info.Number, info.Reply, info.Bytes, info.Elapsed, info.Err)
			},
			LineSent:     func(ctx context.Context, line string) { note(ctx, "> %s", line) },
			LineReceived: func(ctx context.Context, line string) { note(ctx, "< %s", line) },
		}
		conn := play(t, "S: +OK hello\nC: CAPA\nS: -ERR\nC: STLS\nS: +OK go\nstarttls\n"+
			"C: USER alice\nS: +OK\nC: PASS s3cret\nlater 2s\nS: -ERR [AUTH] no\n"+
			"C: AUTH LOGIN\nS: +\nC: YWxpY2U=\nS: + UGFzc3dvcmQ6\nC: czNjcmV0\nS: +OK in\n"+
			"C: LIST\nS: +OK\nS: 1 12\nS: .\n"+
			"C: CAPA\nS: +OK\nS: PIPELINING\nS: .\n"+
			"C: RETR 1\nC: RETR 2\nlater 1s\nS: +OK 14 octets\nS: secret mail\nS: ..\nS: .\nlater 1s\nS: -ERR none\n"+
			"C: NOOP\nclose")
		ctx := context.WithValue(t.Context(), key{}, "mine")
		c, err := DialStartTLS(ctx, "localhost", &Options{TLSConfig: pop3test.ScriptTLS(), Trace: trace,
			DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }})
		if err != nil {
			t.Fatal(err)
		}
		wantIs(t, "User", c.User(ctx, "alice"))
		wantIs(t, "Pass", c.Pass(ctx, "s3cret"), CodeAuth)
		wantIs(t, "Auth", c.Auth(ctx, LoginAuth("alice", "s3cret")))
		_, err = c.ListAll(ctx)
		wantIs(t, "ListAll", err)
		for m, err := range c.RetrAll(ctx, []int{1, 2}) {
			if err == nil {
				m.WriteTo(io.Discard)
			}
		}
		wantIs(t, "Noop", c.Noop(ctx), io.ErrUnexpectedEOF)
		want := []string{
			"connect tcp localhost:110", "connected tcp localhost:110 <nil>",
			"< +OK hello",
			"start CAPA 0", "> CAPA", "< -ERR", `done CAPA 0 "" 0 0s pop3: CAPA: server refused`,
			"start STLS 0", "> STLS", "< +OK go", "handshake true <nil>", `done STLS 0 "go" 0 0s <nil>`,
			"start USER 0", "> USER alice", "< +OK", `done USER 0 "" 0 0s <nil>`,
			"start PASS 0", "> PASS ***", "< -ERR [AUTH] no", `done PASS 0 "[AUTH] no" 0 2s pop3: PASS: server refused [AUTH]: "no"`,
			"start AUTH 0", "> AUTH LOGIN", "< +", "> ***", "< + ***", "> ***", "< +OK in", `done AUTH 0 "in" 0 0s <nil>`,
			"start LIST 0", "> LIST", "< +OK", "< 1 12", "< .", `done LIST 0 "" 4 0s <nil>`,
			"start CAPA 0", "> CAPA", "< +OK", "< PIPELINING", "< .", `done CAPA 0 "" 10 0s <nil>`,
			"start RETR 1", "start RETR 2", "> RETR 1", "> RETR 2",
			"< +OK 14 octets", "< .", `done RETR 1 "14 octets" 16 1s <nil>`,
			"< -ERR none", `done RETR 2 "none" 0 2s pop3: RETR 2: server refused: "none"`,
			"start NOOP 0", "> NOOP", `done NOOP 0 "" 0 0s pop3: NOOP: server closed the connection before its reply was complete`,
		}
		if !slices.Equal(events, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(events, "\n"), strings.Join(want, "\n"))
		}
	})
	// The whole of a listing comes before what is wrong with it.
	bubble(t, "malformed listing", func(t *testing.T) {
		var lines []string
		done := func(_ context.Context, info CommandInfo) {
			lines = append(lines, fmt.Sprint(info.Bytes, " ", info.Err))
		}
		received := func(_ context.Context, line string) { lines = append(lines, line) }
		for _, tt := range []struct {
			trace Trace
			want  string
		}{
			{Trace{CommandDone: done, LineReceived: received}, `["+OK" "+OK" "1 a" "x" "3 c" "." "7 pop3: UIDL: malformed reply: \"x\""]`},
			{Trace{CommandDone: done}, `["7 pop3: UIDL: malformed reply: \"x\""]`},
		} {
			lines = nil
			c, err := NewClient(t.Context(), play(t, "S: +OK\nC: UIDL\nS: +OK\nS: 1 a\nS: x\nS: 3 c\nS: .\n"), &Options{Trace: &tt.trace})
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.UIDLAll(t.Context())
			wantIs(t, "UIDLAll", err, ErrMalformed)
			if got := fmt.Sprintf("%q", lines); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		}
	})
	// A hook gets what failed, too.
	bubble(t, "connect fails", func(t *testing.T) {
		errDown := errors.New("down")
		var got error
		_, err := Dial(t.Context(), "localhost", &Options{
			Trace:       &Trace{ConnectDone: func(_ context.Context, _, _ string, err error) { got = err }},
			DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, errDown }})
		if got != err {
			t.Errorf("ConnectDone was told %v, want %v", got, err)
		}
		wantIs(t, "ConnectDone", got, errDown)
	})
	bubble(t, "handshake fails", func(t *testing.T) {
		s := pop3test.NewUnstartedServer()
		client, peer := pop3test.Pipe()
		go s.ServeConn(tls.Server(peer, s.TLS))
		var got error
		_, err := NewClient(t.Context(), tls.Client(client, &tls.Config{ServerName: "localhost", RootCAs: x509.NewCertPool()}),
			&Options{Trace: &Trace{TLSHandshakeDone: func(_ context.Context, _ tls.ConnectionState, err error) { got = err }}})
		if got == nil || got != err {
			t.Errorf("TLSHandshakeDone was told %v, want %v", got, err)
		}
		s.Close()
	})
}

// A LevelVar turns the log of a session up and down while it is used, as
// poplib's set_debuglevel does.
func TestLogTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b strings.Builder
		var level slog.LevelVar
		logger := slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: &level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))
		c, _ := serve(t, &Options{Trace: LogTrace(logger)}, strings.Repeat("C: PASS s3cret\nS: -ERR no \x1b[2J\n", 3))
		for _, step := range []struct {
			level slog.Level
			want  string
		}{
			{slog.LevelInfo, ""},
			{slog.LevelDebug, `level=DEBUG msg="pop3: command" command=PASS number=0 reply="no \x1b[2J" bytes=0 elapsed=0s err="pop3: PASS: server refused: \"no \\x1b[2J\""` + "\n"},
			{slog.LevelDebug - 4, `level=DEBUG-4 msg="pop3: sent" line="PASS ***"` + "\n" + `level=DEBUG-4 msg="pop3: received" line="-ERR no \x1b[2J"` + "\n" +
				`level=DEBUG msg="pop3: command" command=PASS number=0 reply="no \x1b[2J" bytes=0 elapsed=0s err="pop3: PASS: server refused: \"no \\x1b[2J\""` + "\n"},
		} {
			level.Set(step.level)
			b.Reset()
			c.Pass(t.Context(), "s3cret")
			if got := b.String(); got != step.want {
				t.Errorf("at %v:\n%swant\n%s", step.level, got, step.want)
			}
		}
	})
	if trace := LogTrace(nil); trace.CommandDone == nil || trace.LineSent == nil || trace.LineReceived == nil || trace.ConnectDone == nil || trace.TLSHandshakeDone == nil {
		t.Error("LogTrace(nil) lacks hooks")
	}
}

// A canned is a server that answers every command at once, without a goroutine
// or an allocation.
type canned struct {
	replies map[string]string // by verb
	next    string            // of the reply under way
	list    []string          // verbs not answered yet
	verbs   []string          // those there are
}

func newCanned(replies map[string]string) *canned {
	s := &canned{replies: replies, next: greeting, list: make([]string, 0, 1024)}
	for verb := range replies {
		s.verbs = append(s.verbs, verb)
	}
	return s
}

func (s *canned) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		i := bytes.IndexByte(rest, '\n')
		line := rest[:i+1]
		rest = rest[i+1:]
		for _, verb := range s.verbs {
			if bytes.HasPrefix(line, []byte(verb)) {
				s.list = append(s.list, verb)
			}
		}
	}
	return len(p), nil
}

func (s *canned) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if s.next == "" {
			if len(s.list) == 0 {
				break
			}
			s.next = s.replies[s.list[0]]
			s.list = s.list[:copy(s.list, s.list[1:])]
		}
		k := copy(p[n:], s.next)
		s.next = s.next[k:]
		n += k
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (*canned) Close() error                     { return nil }
func (*canned) LocalAddr() net.Addr              { return pipeAddr{} }
func (*canned) RemoteAddr() net.Addr             { return pipeAddr{} }
func (*canned) SetDeadline(time.Time) error      { return nil }
func (*canned) SetReadDeadline(time.Time) error  { return nil }
func (*canned) SetWriteDeadline(time.Time) error { return nil }

// raceEnabled reports whether the race detector is on, which makes sync.Pool
// forget things.
var raceEnabled = sync.OnceValue(func() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
})

func TestAllocations(t *testing.T) {
	if raceEnabled() {
		t.Skip("the race detector allocates")
	}
	const messages = 500
	c, err := NewClient(t.Context(), newCanned(map[string]string{
		"STAT": "+OK 2 320\r\n", "CAPA": "+OK\r\nPIPELINING\r\n.\r\n",
		"RETR": "+OK 30 octets\r\nSubject: a\r\n\r\n..a\r\nb\r\n.\r\n",
		"UIDL": "+OK\r\n" + strings.Repeat("1 0123456789abcdef\r\n", 10_000) + ".\r\n",
		"LIST": "+OK\r\n" + strings.Repeat("1 120\r\n", 10_000) + ".\r\n",
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Capa(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stat := func(ctx context.Context) func() {
		return func() {
			if n, _, err := c.Stat(ctx); n != 2 || err != nil {
				t.Fatal(n, err)
			}
		}
	}
	numbers := numbersTo(messages)
	octets := 0
	count := writerFunc(func(p []byte) (int, error) { octets += len(p); return len(p), nil })
	for _, tt := range []struct {
		name string
		most float64
		f    func()
	}{
		{"STAT", 1, stat(context.Background())},
		{"STAT with a context that can be canceled", 3, stat(ctx)},
		// The slice, and blocks of 32 KiB and more that hold the text.
		{"UIDLAll of 10,000", 15, func() {
			if uids, err := c.UIDLAll(ctx); len(uids) != 10_000 || err != nil {
				t.Fatal(len(uids), err)
			}
		}},
		{"ListAll of 10,000", 15, func() {
			if infos, err := c.ListAll(ctx); len(infos) != 10_000 || err != nil {
				t.Fatal(len(infos), err)
			}
		}},
		// One for each message, and a few for the run.
		{"RetrAll", messages + 10, func() {
			octets = 0
			for m, err := range c.RetrAll(ctx, numbers) {
				if err == nil {
					_, err = m.WriteTo(count)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if octets != messages*len("Subject: a\r\n\r\n.a\r\nb\r\n") {
				t.Fatalf("%d octets", octets)
			}
		}},
	} {
		if got := testing.AllocsPerRun(100, tt.f); got > tt.most {
			t.Errorf("%s: %v allocations, want %v at most", tt.name, got, tt.most)
		}
	}

	// Text itself costs nothing, however long it is.
	text := "+OK\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n..x\r\n", 20_000) + ".\r\n"
	c, err = NewClient(t.Context(), newCanned(map[string]string{"RETR": text}), nil)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 100)
	for _, tt := range []struct {
		name string
		most float64 // the Message, the command's number, the error of one that was closed
		read func(*Message)
	}{
		{"WriteTo", 2, func(m *Message) { m.WriteTo(count) }},
		{"Read", 2, func(m *Message) {
			for {
				if _, err := m.Read(p); err != nil {
					return
				}
			}
		}},
		{"Close", 3, func(m *Message) { m.Close() }},
	} {
		if got := testing.AllocsPerRun(3, func() {
			m, err := c.Retr(context.Background(), 1)
			if err != nil {
				t.Fatal(err)
			}
			tt.read(m)
		}); got > tt.most {
			t.Errorf("Retr and %s: %v allocations, want %v at most", tt.name, got, tt.most)
		}
	}
}

// heap is how many octets each of n things that open makes keeps alive.
func heap(n int, open func() any) float64 {
	var before, after runtime.MemStats
	all := make([]any, n)
	for range 3 { // a sync.Pool is empty after two
		runtime.GC()
	}
	runtime.ReadMemStats(&before)
	for i := range all {
		all[i] = open()
	}
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(all)
	return float64(int64(after.HeapAlloc)-int64(before.HeapAlloc)) / float64(n)
}

// atRest opens a connection with a Client that has done something, or without.
func atRest(tb testing.TB, client, secure bool) any {
	conn := net.Conn(newCanned(map[string]string{"NOOP": "+OK\r\n"}))
	if secure {
		clientEnd, serverEnd := pop3test.PipeSize(16 << 10)
		server := tls.Server(serverEnd, pop3test.NewUnstartedServer().TLS)
		done := make(chan error, 1)
		go func() {
			_, err := io.WriteString(server, greeting)
			done <- err
		}()
		c := tls.Client(clientEnd, pop3test.ScriptTLS())
		if err := cmp.Or(c.Handshake(), <-done); err != nil {
			tb.Fatal(err)
		}
		if !client {
			io.ReadFull(c, make([]byte, len(greeting)))
			return []any{c, server}
		}
		cl, err := NewClient(context.Background(), c, nil)
		if err != nil {
			tb.Fatal(err)
		}
		return []any{cl, server}
	}
	if !client {
		return conn
	}
	c, err := NewClient(context.Background(), conn, nil)
	if err == nil {
		err = c.Noop(context.Background())
	}
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// A Client at rest holds no buffer.
func TestHeapAtRest(t *testing.T) {
	if raceEnabled() {
		t.Skip("the race detector allocates")
	}
	const n, most = 200, 2 << 10
	conn := heap(n, func() any { return atRest(t, false, false) })
	client := heap(n, func() any { return atRest(t, true, false) })
	if client-conn > most {
		t.Errorf("a Client keeps %.0f octets, want %d at most", client-conn, most)
	}
	conn = heap(n, func() any { return atRest(t, false, true) })
	client = heap(n, func() any { return atRest(t, true, true) })
	if client-conn > most {
		t.Errorf("a Client on TLS keeps %.0f octets, want %d at most", client-conn, most)
	}
}

func BenchmarkIdleClients(b *testing.B) {
	for _, secure := range []bool{false, true} {
		b.Run(map[bool]string{false: "plain", true: "tls"}[secure], func(b *testing.B) {
			const n = 100
			octets := 0.0
			rounds := 0
			for b.Loop() {
				octets += heap(n, func() any { return atRest(b, true, secure) }) - heap(n, func() any { return atRest(b, false, secure) })
				rounds++
			}
			b.ReportMetric(octets/float64(rounds), "bytes/client")
		})
	}
}

func benchmarkClient(b *testing.B, opts *Options, messages ...string) *Client {
	s := pop3test.NewServer()
	b.Cleanup(s.Close)
	s.AddUser("alice", "s3cret", messages...)
	c, err := Dial(context.Background(), s.Addr, opts)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	if err := c.Login(context.Background(), "alice", "s3cret"); err != nil {
		b.Fatal(err)
	}
	return c
}

func BenchmarkStat(b *testing.B) {
	c := benchmarkClient(b, nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := c.Stat(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRetrAll(b *testing.B) {
	message := "Subject: benchmark\r\n\r\n" + strings.Repeat(strings.Repeat("x", 76)+"\r\n", 50)
	for _, window := range []int{0, 1} {
		b.Run(fmt.Sprintf("window=%d", window), func(b *testing.B) {
			c := benchmarkClient(b, &Options{Window: window}, slices.Repeat([]string{message}, 1000)...)
			numbers := numbersTo(1000)
			b.SetBytes(int64(1000 * len(message)))
			b.ReportAllocs()
			for b.Loop() {
				for m, err := range c.RetrAll(context.Background(), numbers) {
					if err == nil {
						_, err = m.WriteTo(io.Discard)
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

func BenchmarkRetr(b *testing.B) {
	message := "Subject: benchmark\r\n\r\n" + strings.Repeat(strings.Repeat("x", 76)+"\r\n", 400_000)
	c := benchmarkClient(b, nil, message)
	b.SetBytes(int64(len(message)))
	b.ReportAllocs()
	for b.Loop() {
		m, err := c.Retr(context.Background(), 1)
		if err == nil {
			_, err = m.WriteTo(io.Discard)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUIDLAll(b *testing.B) {
	const rows = 1_000_000
	reply := []byte("+OK\r\n")
	for i := range rows {
		reply = fmt.Appendf(reply, "%d %016x\r\n", i+1, i)
	}
	reply = append(reply, ".\r\n"...)
	c, err := NewClient(context.Background(), newCanned(map[string]string{"UIDL": string(reply)}), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(reply)))
	b.ReportAllocs()
	for b.Loop() {
		if uids, err := c.UIDLAll(context.Background()); len(uids) != rows || err != nil {
			b.Fatal(len(uids), err)
		}
	}
}

// A prompter is a server that says its next line, whatever it is, when the
// client has written something.
type prompter struct {
	canned
	lines [][]byte
}

func (s *prompter) Write(p []byte) (int, error) {
	if len(s.lines) > 0 {
		s.lines = s.lines[1:]
	}
	return len(p), nil
}

func (s *prompter) Read(p []byte) (int, error) {
	if len(s.lines) == 0 || len(s.lines[0]) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.lines[0])
	s.lines[0] = s.lines[0][n:]
	return n, nil
}

// FuzzServer lets a server say what it will, a NUL behind each reply, to whatever
// it is asked.
func FuzzServer(f *testing.F) {
	f.Add([]byte(greeting + "\x00+OK\r\n\x00-ERR [AUTH] no\r\n"))
	f.Fuzz(func(t *testing.T, said []byte) {
		conn := &prompter{lines: bytes.Split(said, []byte{0})}
		c, err := NewClient(t.Context(), conn, nil)
		if err != nil {
			if c != nil || !strings.HasPrefix(err.Error(), prefix) {
				t.Fatalf("NewClient: %v, %v", c, err)
			}
			return
		}
		defer c.Close()
		if stamp := wire.Timestamp(c.Greeting()); stamp != "" && !strings.Contains(c.Greeting(), stamp) {
			t.Errorf("%q is not in the greeting %q", stamp, c.Greeting())
		}
		for _, call := range everyCall {
			if call.name == "StartTLS" || call.name == "Quit" {
				continue
			}
			failed := c.Err()
			err := call.do(t.Context(), c)
			var e *Error
			switch now := c.Err(); {
			case failed != nil && (now != failed || !errors.Is(err, ErrClosed) || !errors.Is(err, failed)):
				t.Errorf("%s: %v, then Err = %v; it was %v", call.name, err, now, failed)
			case now != nil && err == nil:
				t.Errorf("%s: no error, but Err = %v", call.name, now)
			case now == nil && errors.As(err, &e) && e.Err != nil:
				t.Errorf("%s: %v, but the connection is open", call.name, err)
			}
			if m := c.open; m != nil {
				m.Close()
			}
		}
	})
}
