package pop3

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"example.com/pop3/internal/pop3test"
)

// bubble runs a test under a fake clock. It fails if a goroutine is left.
func bubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, f)
	})
}

const (
	stamp    = "+OK ready <1896.697170952@dbc.mtview.ca.us>"
	greeting = stamp + "\r\n"
	hello    = "S: " + stamp + "\n"

	capaPipelining = "C: CAPA\nS: +OK\nS: PIPELINING\nS: .\n"
)

// play plays a script to the end of the test, which fails if the client departs from it.
func play(t *testing.T, script string) *pop3test.Conn {
	t.Helper()
	s, err := pop3test.ParseScript("script", []byte(script))
	if err != nil {
		t.Fatal(err)
	}
	client, wait := s.Start()
	t.Cleanup(func() {
		if err := wait(); err != nil {
			t.Error(err)
		}
	})
	return &pop3test.Conn{Conn: client}
}

// clientOver makes a Client over conn, which is closed when the test ends.
func clientOver(t *testing.T, conn net.Conn, opts *Options) *Client {
	t.Helper()
	c, err := NewClient(t.Context(), conn, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// serve plays a script behind a greeting.
func serve(t *testing.T, opts *Options, script string) (*Client, *pop3test.Conn) {
	t.Helper()
	conn := play(t, hello+script)
	return clientOver(t, conn, opts), conn
}

// wantIs checks what an error is; without targets there must be none.
func wantIs(t *testing.T, what string, err error, targets ...error) {
	t.Helper()
	if (len(targets) == 0) != (err == nil) {
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

func wantTimeout(t *testing.T, what string, err error) {
	t.Helper()
	wantIs(t, what, err, os.ErrDeadlineExceeded)
	var ne *timeoutError
	var _ net.Error = ne
	if !errors.As(err, &ne) || !ne.Timeout() || !ne.Temporary() {
		t.Errorf("%s: %v (%T) is no net.Error with Timeout", what, err, err)
	}
}

func wantUsable(t *testing.T, c *Client, conn *pop3test.Conn) {
	t.Helper()
	if c.Err() != nil || conn.Closed() {
		t.Errorf("Err = %v, conn closed: %t; want a usable connection", c.Err(), conn.Closed())
	}
}

func wantClosed(t *testing.T, c *Client, conn *pop3test.Conn, cause ...error) {
	t.Helper()
	wantIs(t, "Err", c.Err(), cause...)
	if !conn.Closed() {
		t.Error("the conn is open")
	}
	wantIs(t, "a later Noop", c.Noop(t.Context()), append(cause, ErrClosed, net.ErrClosed)...)
}

func TestDial(t *testing.T) {
	s := pop3test.NewServer()
	t.Cleanup(s.Close)
	s.AddUser("alice", "s3cret")
	secure := pop3test.NewTLSServer()
	t.Cleanup(secure.Close)
	secure.AddUser("alice", "s3cret")
	config := s.ClientTLS()
	config.ServerName = "" // is the dialed host
	opts := &Options{TLSConfig: config}
	for _, tt := range []struct {
		dial func(context.Context, string, *Options) (*Client, error)
		addr string
		tls  bool
	}{{Dial, s.Addr, false}, {DialStartTLS, s.Addr, true}, {DialTLS, secure.Addr, true}} {
		c, err := tt.dial(t.Context(), tt.addr, opts)
		if err != nil {
			t.Fatal(err)
		}
		if state, ok := c.TLSConnectionState(); ok != tt.tls || ok && !state.HandshakeComplete {
			t.Errorf("TLSConnectionState: %t, want %t", ok, tt.tls)
		}
		wantIs(t, "Login", c.Login(t.Context(), "alice", "s3cret"))
		wantIs(t, "Quit", c.Quit(t.Context()))
	}
	if opts.TLSConfig != config || config.ServerName != "" {
		t.Error("a tls.Config was modified")
	}
	c, err := Dial(t.Context(), s.Addr, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	config.ServerName = "pop.example.org" // which is nothing to c: it has a copy
	wantIs(t, "StartTLS", c.StartTLS(t.Context(), nil))
}

// What Dial and NewClient say before there is a connection.
func TestDialErrors(t *testing.T) {
	t.Parallel()
	errDown := errors.New("no route to host")
	down := func(context.Context, string, string) (net.Conn, error) { return nil, errDown }
	none := func(context.Context, string, string) (net.Conn, error) { return nil, nil }
	for _, tt := range []struct {
		name     string
		dial     func(context.Context, string, *Options) (*Client, error)
		addr     string
		opts     Options
		connects bool
		want     string
	}{
		{"Dial", Dial, "localhost", Options{DialContext: down}, true, "pop3: connect: no route to host"},
		{"DialTLS", DialTLS, "localhost", Options{DialContext: down}, true, "pop3: connect: no route to host"},
		{"DialStartTLS", DialStartTLS, "localhost", Options{DialContext: down}, true, "pop3: connect: no route to host"},
		{"no connection", Dial, "localhost", Options{DialContext: none}, true, "pop3: connect: DialContext returned neither a connection nor an error"},
		{"Window", Dial, "localhost", Options{Window: -1}, false, "pop3: Options.Window is negative"},
		{"MaxMessageSize", DialTLS, "localhost", Options{MaxMessageSize: -1}, false, "pop3: Options.MaxMessageSize is negative"},
		{"no host", DialTLS, ":995", Options{}, false, "pop3: connect: no server name to verify: set ServerName in the tls.Config"},
		// The standard library has no IDNA.
		{"host not ASCII", Dial, "bücher.example", Options{}, false, "pop3: connect: the host name is not ASCII: write it in its xn-- form"},
		{"host not ASCII, with port", DialTLS, "bücher.example:995", Options{}, false, "pop3: connect: the host name is not ASCII: write it in its xn-- form"},
	} {
		var told error
		tt.opts.Trace = &Trace{ConnectDone: func(_ context.Context, _, _ string, err error) { told = err }}
		c, err := tt.dial(t.Context(), tt.addr, &tt.opts)
		if c != nil || err == nil || err.Error() != tt.want {
			t.Errorf("%s: %v, %v, want %s", tt.name, c, err, tt.want)
		}
		if tt.connects && told != err || !tt.connects && told != nil {
			t.Errorf("%s: ConnectDone was told %v", tt.name, told)
		}
	}
	c, conn := serve(t, nil, "") // nothing was dialed
	if err := c.StartTLS(t.Context(), nil); err == nil || err.Error() != "pop3: STLS: no server name to verify: set ServerName in the tls.Config" || conn.Sent() != "" {
		t.Errorf("StartTLS: %v", err)
	}
	var noCtx context.Context
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		ctx  context.Context
		opts Options
		want string
	}{
		{noCtx, Options{}, "pop3: context is nil"},
		{canceled, Options{}, "pop3: greeting: context canceled"},
		{t.Context(), Options{Window: -1}, "pop3: Options.Window is negative"},
		{t.Context(), Options{MaxMessageSize: -1}, "pop3: Options.MaxMessageSize is negative"},
	} {
		tape := tapeOf(nil)
		if _, err := NewClient(tt.ctx, tape, &tt.opts); err == nil || err.Error() != tt.want || !tape.Closed() {
			t.Errorf("NewClient: %v, want %s; conn closed: %t", err, tt.want, tape.Closed())
		}
	}
	if _, err := NewClient(t.Context(), nil, nil); err == nil || err.Error() != "pop3: NewClient: conn is nil" {
		t.Errorf("NewClient without a conn: %v", err)
	}
	if _, err := Dial(noCtx, "localhost", nil); err == nil || err.Error() != "pop3: context is nil" {
		t.Errorf("Dial without a context: %v", err)
	}
}

// A port that says nothing may expect TLS.
func TestNoGreeting(t *testing.T) {
	const silence = "timeout after 10s: i/o timeout"
	for _, tt := range []struct {
		name, addr, script string
		ctx                time.Duration
		want               string
		is                 error
	}{
		{"port 110", "pop.example.com", "stall", time.Hour, "pop3: greeting: no complete greeting: " + silence + "; the port may expect DialTLS", os.ErrDeadlineExceeded},
		{"port 995", "pop.example.com:995", "stall", time.Hour, "pop3: greeting: no complete greeting: " + silence + "; port 995 expects DialTLS", os.ErrDeadlineExceeded},
		{"port 995, context", "pop.example.com:995", "stall", time.Second, "pop3: greeting: no complete greeting: context deadline exceeded; port 995 expects DialTLS", context.DeadlineExceeded},
		{"port 995, hung up", "pop.example.com:995", "close", time.Hour,
			"pop3: greeting: no complete greeting: server closed the connection before its reply was complete; port 995 expects DialTLS", io.ErrUnexpectedEOF},
		{"port 110, hung up", "pop.example.com", "close", time.Hour, "pop3: greeting: server closed the connection before its reply was complete", io.ErrUnexpectedEOF},
		{"port 995, refused", "pop.example.com:995", "S: -ERR busy", time.Hour, `pop3: greeting: server refused: "busy"; no login was tried`, ErrRefused},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), tt.ctx)
			defer cancel()
			conn := play(t, tt.script)
			c, err := Dial(ctx, tt.addr, &Options{Timeout: 10 * time.Second, DialContext: pop3test.DialTo(conn)})
			if c != nil || err == nil || err.Error() != tt.want {
				t.Errorf("%v, %v, want %s", c, err, tt.want)
			}
			wantIs(t, "Dial", err, tt.is)
			if !conn.Closed() {
				t.Error("the conn is open")
			}
		})
	}
}

// What the server says to QUIT is in testdata/transcripts; here it is the caller who ends
// it, or the network.
func TestQuit(t *testing.T) {
	for _, tt := range []struct {
		name   string
		marks  bool   // messages, of which it is unknown whether they were deleted, if there is an error
		script string // behind QUIT
		close  bool   // by the caller
		want   error  // nil: none
	}{
		{"reset", false, "close", false, nil},
		{"reset with deletions", true, "close", false, pop3test.ErrReset},
		{"canceled with deletions", true, "stall", false, context.DeadlineExceeded},
		{"closed with deletions", true, "stall", true, ErrClosed},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			script := "C: QUIT\n" + tt.script
			if tt.marks {
				script = "C: DELE 1\nS: +OK\n" + script
			}
			c, conn := serve(t, nil, script)
			conn.ReadFunc = func(p []byte) (int, error) {
				n, err := conn.Conn.Read(p)
				if err == io.EOF {
					err = pop3test.ErrReset
				}
				return n, err
			}
			if tt.marks {
				wantIs(t, "Dele", c.Dele(t.Context(), 1))
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if tt.close {
				time.AfterFunc(1, func() { c.Close() })
			}
			err := c.Quit(ctx)
			if !errors.Is(err, tt.want) {
				t.Errorf("Quit: %v, want %v", err, tt.want)
			}
			if err != nil && !strings.HasPrefix(err.Error(), "pop3: QUIT: unknown whether the marked messages were deleted: ") {
				t.Errorf("Quit: %v; want that this is unknown", err)
			}
			wantClosed(t, c, conn, cmp.Or(tt.want, ErrClosed))
			wantIs(t, "a second Quit", c.Quit(t.Context()), ErrClosed)
		})
	}
	bubble(t, "canceled before it is sent", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		trace := &Trace{CommandStart: func(ctx context.Context, info CommandInfo) {
			if info.Command == "QUIT" {
				cancel()
			}
		}}
		c, conn := serve(t, &Options{Trace: trace}, "C: DELE 1\nS: +OK\n")
		wantIs(t, "Dele", c.Dele(t.Context(), 1))
		if err := c.Quit(ctx); !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "unknown") {
			t.Errorf("Quit: %v; it is known that nothing was deleted", err)
		}
		wantUsable(t, c, conn)
	})
}

func TestTrace(t *testing.T) {
	pop3test.NeedRandom(t)
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
			"C: LIST\nS: +OK\nS: 1 12\nS: x\nS: .\n"+
			"C: CAPA\nS: +OK\nS: PIPELINING\nS: .\n"+
			"C: RETR 1\nC: RETR 2\nlater 1s\nS: +OK 14 octets\nS: secret mail\nS: ..\nS: .\nlater 1s\nS: -ERR none\n"+
			"C: LIST\nC: UIDL\nS: +OK two\nS: 1 12\nclose")
		ctx := context.WithValue(t.Context(), key{}, "mine")
		c, err := DialStartTLS(ctx, "localhost", &Options{TLSConfig: pop3test.ScriptTLS(), Trace: trace, DialContext: pop3test.DialTo(conn)})
		wantIs(t, "DialStartTLS", err)
		wantIs(t, "User", c.User(ctx, "alice"))
		wantIs(t, "Pass", c.Pass(ctx, "s3cret"), CodeAuth)
		wantIs(t, "Auth", c.Auth(ctx, LoginAuth("alice", "s3cret")))
		_, err = c.ListAll(ctx)
		wantIs(t, "ListAll", err, ErrMalformed)
		for m, err := range c.RetrAll(ctx, []int{1, 2}) {
			if err == nil {
				m.WriteTo(io.Discard)
			}
		}
		_, err = c.Messages(ctx)
		wantIs(t, "Messages", err, io.ErrUnexpectedEOF)
		want := []string{
			"connect tcp localhost:110", "connected tcp localhost:110 <nil>",
			"< +OK hello",
			"start CAPA 0", "> CAPA", "< -ERR", `done CAPA 0 "" 0 0s pop3: CAPA: server refused`,
			"start STLS 0", "> STLS", "< +OK go", "handshake true <nil>", `done STLS 0 "go" 0 0s <nil>`,
			"start USER 0", "> USER alice", "< +OK", `done USER 0 "" 0 0s <nil>`,
			"start PASS 0", "> PASS ***", "< -ERR [AUTH] no", `done PASS 0 "[AUTH] no" 0 2s pop3: PASS: server refused [AUTH]: "no"`,
			"start AUTH 0", "> AUTH LOGIN", "< +", "> ***", "< + ***", "> ***", "< +OK in", `done AUTH 0 "in" 0 0s <nil>`,
			"start LIST 0", "> LIST", "< +OK", "< 1 12", "< x", "< .", `done LIST 0 "" 9 0s pop3: LIST: malformed row "x"`,
			"start CAPA 0", "> CAPA", "< +OK", "< PIPELINING", "< .", `done CAPA 0 "" 12 0s <nil>`,
			"start RETR 1", "start RETR 2", "> RETR 1", "> RETR 2",
			"< +OK 14 octets", "< .", `done RETR 1 "14 octets" 16 1s <nil>`,
			"< -ERR none", `done RETR 2 "none" 0 2s pop3: RETR 2: server refused: "none"`,
			"start LIST 0", "start UIDL 0", "> LIST", "> UIDL",
			"< +OK two", "< 1 12", `done LIST 0 "two" 6 0s pop3: LIST: server closed the connection after 6 octets of text`,
			`done UIDL 0 "" 0 0s pop3: LIST: server closed the connection after 6 octets of text`,
		}
		if !slices.Equal(events, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(events, "\n"), strings.Join(want, "\n"))
		}
	})
}

// What has neither text nor rows has no octets of them.
func TestTraceBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var done []string
		trace := &Trace{CommandDone: func(_ context.Context, info CommandInfo) {
			done = append(done, fmt.Sprint(info.Command, " ", info.Bytes))
		}}
		c, _ := serve(t, &Options{Trace: trace}, capaPipelining+"C: DELE 1\nC: DELE 2\nS: +OK\nS: -ERR\nC: QUIT\nS: +OK\n")
		wantIs(t, "DeleAll", c.DeleAll(t.Context(), []int{1, 2}), ErrRefused)
		wantIs(t, "Quit", c.Quit(t.Context()))
		if want := []string{"CAPA 12", "DELE 0", "DELE 0", "QUIT 0"}; !slices.Equal(done, want) {
			t.Errorf("got %q, want %q", done, want)
		}
	})
}

// A part of it is shown by ExampleLogTrace, in which its levels are.
func TestLogTrace(t *testing.T) {
	pop3test.NeedRandom(t)
	synctest.Test(t, func(t *testing.T) {
		var b strings.Builder
		logger := slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug - 4, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))
		conn := play(t, "tls\nS: +OK ready\nC: PASS s3cret\nS: -ERR no \x1b[2J\n")
		c, err := DialTLS(t.Context(), "localhost", &Options{Trace: LogTrace(logger), TLSConfig: pop3test.ScriptTLS(), DialContext: pop3test.DialTo(conn)})
		wantIs(t, "DialTLS", err)
		defer c.Close()
		c.Pass(t.Context(), "s3cret")
		state, _ := c.TLSConnectionState() // its cipher depends on what the processor does fast
		if got, want := b.String(), `level=DEBUG msg="pop3: connect" network=tcp addr=localhost:995
level=DEBUG msg="pop3: TLS handshake" version="TLS 1.3" cipher=`+tls.CipherSuiteName(state.CipherSuite)+` server=localhost
level=DEBUG-4 msg="pop3: received" line="+OK ready"
level=DEBUG-4 msg="pop3: sent" line="PASS ***"
level=DEBUG-4 msg="pop3: received" line="-ERR no \x1b[2J"
level=DEBUG msg="pop3: command" command=PASS number=0 reply="no \x1b[2J" bytes=0 elapsed=0s err="pop3: PASS: server refused: \"no \\x1b[2J\""
`; got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	})
	if trace := LogTrace(nil); trace.CommandDone == nil || trace.LineSent == nil || trace.LineReceived == nil || trace.ConnectDone == nil || trace.TLSHandshakeDone == nil {
		t.Error("LogTrace(nil) lacks hooks")
	}
}

// Each hook of each trace is called, in order. One that no trace has is nil, so that
// nothing is paid for it.
func TestMultiTrace(t *testing.T) {
	for i := range reflect.TypeFor[Trace]().NumField() {
		hook := reflect.TypeFor[Trace]().Field(i)
		var calls []string
		named := func(name string) *Trace {
			trace := new(Trace)
			reflect.ValueOf(trace).Elem().Field(i).Set(reflect.MakeFunc(hook.Type, func(args []reflect.Value) []reflect.Value {
				calls = append(calls, fmt.Sprint(name, " ", args[1]))
				return nil
			}))
			return trace
		}
		multi := reflect.ValueOf(MultiTrace(nil, named("a"), &Trace{}, nil, named("b"))).Elem()
		args := []reflect.Value{reflect.ValueOf(t.Context())}
		for i := 1; i < hook.Type.NumIn(); i++ {
			args = append(args, reflect.Zero(hook.Type.In(i)))
		}
		multi.Field(i).Call(args)
		if zero := fmt.Sprint(" ", args[1]); !slices.Equal(calls, []string{"a" + zero, "b" + zero}) {
			t.Errorf("%s: called %q", hook.Name, calls)
		}
		multi.Field(i).SetZero()
		if !multi.IsZero() {
			t.Errorf("%s: there are other hooks", hook.Name)
		}
	}
}

// clogged makes a Client whose server reads nothing, and has no room for a long command.
func clogged(t *testing.T, opts *Options, secure bool) (*Client, *pop3test.Conn) {
	t.Helper()
	client, peer := pop3test.PipeSize(1000)
	conn := &pop3test.Conn{Conn: client}
	var under net.Conn = conn
	if secure {
		pop3test.NeedRandom(t)
		under = tls.Client(conn, pop3test.ScriptTLS())
		peer = tls.Server(peer, pop3test.ServerTLS())
	}
	go io.WriteString(peer, greeting)
	return clientOver(t, under, opts), conn
}

func noop(ctx context.Context, c *Client) error { return c.Noop(ctx) }

func stat(ctx context.Context, c *Client) error { _, _, err := c.Stat(ctx); return err }

func uidlAll(ctx context.Context, c *Client) error { _, err := c.UIDLAll(ctx); return err }

func startTLS(ctx context.Context, c *Client) error { return c.StartTLS(ctx, pop3test.ScriptTLS()) }

func retr(ctx context.Context, c *Client) error {
	m, err := c.Retr(ctx, 1)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, m)
	return err
}

// retrAll returns the last error of a loop.
func retrAll(ctx context.Context, c *Client) (last error) {
	for m, err := range c.RetrAll(ctx, []int{1, 2, 3}) {
		if err == nil {
			_, err = m.WriteTo(io.Discard)
		}
		last = err
	}
	return last
}

// That a cancel is safe at every octet and ends the wait of every method is shown in
// internal/hostile. Here it comes where a session is less simple than that.
func TestCancel(t *testing.T) {
	for _, under := range []string{"plain", "TLS"} {
		bubble(t, "write, "+under, func(t *testing.T) {
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
	bubble(t, "with text in the buffer", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c, conn := serve(t, nil, "C: RETR 1\nin one segment:\nS: +OK\nS: Subject: a\nS: .\n")
		m, err := c.Retr(ctx, 1)
		wantIs(t, "Retr", err)
		cancel()
		for range 2 {
			_, err = m.Read(make([]byte, 1))
			wantIs(t, "Read", err, context.Canceled)
		}
		wantIs(t, "Close", m.Close(), context.Canceled)
		wantClosed(t, c, conn, context.Canceled)
	})
	// The end of message 1 comes in the same read, but message 2 was asked for as well.
	bubble(t, "while a message ends", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		pieces := []string{greeting, pop3test.Pipelining, "+OK\r\n", ".\r\n+OK\r\n"}
		conn := &pop3test.Conn{Conn: tapeOf(nil), ReadFunc: func(p []byte) (n int, err error) {
			if len(pieces) == 1 {
				cancel()
			}
			n, pieces = copy(p, pieces[0]), pieces[1:]
			return n, nil
		}}
		c := clientOver(t, conn, nil)
		for m, err := range c.RetrAll(ctx, []int{1, 2}) {
			if err == nil {
				_, err = m.WriteTo(io.Discard)
			}
			wantIs(t, "message", err, context.Canceled)
		}
		wantClosed(t, c, conn, context.Canceled)
	})
	// Nothing is on its way there, so nothing is lost.
	bubble(t, "between the messages of a loop", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c, conn := serve(t, &Options{Window: 1}, "C: RETR 1\nS: +OK\nS: a\nS: .\nC: NOOP\nS: +OK\n")
		var errs []error
		for m, err := range c.RetrAll(ctx, []int{1, 2}) {
			if errs = append(errs, err); err == nil {
				io.Copy(io.Discard, m)
				cancel()
			}
		}
		wantIs(t, "RetrAll", errs[len(errs)-1], context.Canceled)
		wantUsable(t, c, conn)
		wantIs(t, "Noop", c.Noop(t.Context()))
	})
	// The error names the command whose reply is awaited.
	for _, tt := range []struct {
		awaited, script string
		call            func(ctx context.Context, c *Client) error
	}{
		{"RETR 1", capaPipelining + "C: RETR 1\nC: RETR 2\nstall", func(ctx context.Context, c *Client) error {
			var err error
			for _, err = range c.RetrAll(ctx, []int{1, 2}) {
			}
			return err
		}},
		{"AUTH PLAIN", "C: CAPA\nS: +OK\nS: SASL PLAIN\nS: .\nC: AUTH PLAIN AHUAcA==\nstall", func(ctx context.Context, c *Client) error {
			return c.Login(ctx, "u", "p")
		}},
	} {
		bubble(t, tt.awaited, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			c, _ := serve(t, nil, tt.script)
			if got, want := fmt.Sprint(tt.call(ctx, c)), "pop3: "+tt.awaited+": context deadline exceeded"; got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
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

// Options.Timeout limits each wait for progress, and no call as a whole.
func TestTimeout(t *testing.T) {
	const (
		timeout = 10 * time.Second
		in      = time.Duration(0) // no timeout
	)
	login := func(ctx context.Context, c *Client) error { return c.Auth(ctx, LoginAuth("alice", "s3cret")) }
	closeUnread := func(ctx context.Context, c *Client) error {
		m, err := c.Retr(ctx, 1)
		if err != nil {
			return err
		}
		return m.Close()
	}
	for _, tt := range []struct {
		name    string
		tls     bool
		timeout time.Duration // of the options
		script  string
		do      func(context.Context, *Client) error // nil: NewClient fails
		takes   time.Duration
		after   time.Duration // what the error says; in: there is none
	}{
		{"greeting that drips", false, timeout, drip("+OK ready\r\n"), nil, timeout, timeout},
		{"handshake", true, timeout, "Cq: \"\\x16\"\nstall", nil, timeout, timeout},
		// CVE-2011-1947: no limit on the time of a handshake.
		{"handshake that drips", true, timeout, "Cq: \"\\x16\"\n" + drip("\x16\x03\x03") + "stall", nil, timeout, timeout},
		{"greeting under TLS", true, timeout, "tls\nstall", nil, timeout, timeout},
		{"STLS handshake that drips", false, timeout, hello + "C: CAPA\nS: -ERR\nC: STLS\nS: +OK\nCq: \"\\x16\"\n" + drip("\x16\x03\x03") + "stall", startTLS, timeout, timeout},
		{"reply that drips", false, timeout, hello + "C: NOOP\n" + drip("+OK\r\n"), noop, timeout, timeout},
		{"reply that drips under TLS", true, timeout, "tls\n" + hello + "C: NOOP\n" + drip("+OK\r\n"), noop, timeout, timeout},
		{"reply in time", false, timeout, hello + "C: NOOP\n" + drip("+O") + "later 1900ms\nS: K\n", noop, 9900 * time.Millisecond, in},
		{"second reply", false, timeout, hello + "C: NOOP\nlater 9s\nS: +OK\nC: STAT\nstall", func(ctx context.Context, c *Client) error {
			return cmp.Or(c.Noop(ctx), stat(ctx, c))
		}, 19 * time.Second, timeout},
		{"slow rows", false, timeout, hello + "C: UIDL\n" + slow("+OK", "1 a", "2 b", "3 c", "."), uidlAll, 45 * time.Second, in},
		{"row that drips", false, timeout, hello + "C: UIDL\n" + slow("+OK", "1 a") + drip("2 b\r\n"), uidlAll, 28 * time.Second, timeout},
		{"text that drips", false, timeout, hello + "C: RETR 1\nS: +OK\n" + drip("Subject: dripping\r\n") + slow("."), retr, 85 * time.Second, in},
		{"text that drips under TLS", true, timeout, "tls\n" + hello + "C: RETR 1\nS: +OK\n" + drip("Subject: dripping\r\n") + slow("."), retr, 85 * time.Second, in},
		{"text that stops", false, timeout, hello + "C: RETR 1\n" + slow("+OK", "a") + "stall", retr, 28 * time.Second, timeout},
		{"challenge", false, timeout, hello + "C: AUTH LOGIN\n" + slow("+ VXNlcm5hbWU6") + "C: YWxpY2U=\nstall", login, 19 * time.Second, timeout},
		{"challenge that drips", false, timeout, hello + "C: AUTH LOGIN\n" + drip("+ VXNlcm5hbWU6\r\n"), login, timeout, timeout},
		{"message of a loop", false, timeout, hello + "C: CAPA\nS: -ERR\nC: RETR 1\n" + slow("+OK", ".") + "C: RETR 2\nstall", retrAll, 28 * time.Second, timeout},
		{"deletion", false, timeout, hello + "C: CAPA\nS: -ERR\nC: DELE 1\n" + slow("+OK") + "C: DELE 2\nstall", func(ctx context.Context, c *Client) error {
			return c.DeleAll(ctx, []int{1, 2})
		}, 19 * time.Second, timeout},
		// What is thrown away has one timeout in all, however it drips.
		{"text that is discarded", false, timeout, hello + "C: RETR 1\nS: +OK\n" + drip("a text without an end"), closeUnread, timeout, timeout},
		{"loop that is left", false, timeout, hello + capaPipelining + "C: RETR 1\nC: RETR 2\nS: +OK\nS: a\nS: .\nlater 3s\nS: +OK\n" + drip("for ever and ever"), func(ctx context.Context, c *Client) error {
			for range c.RetrAll(ctx, []int{1, 2}) {
				break
			}
			return c.Err()
		}, timeout, timeout},
		{"by default", false, 0, hello + "C: NOOP\nlater 179s\nS: +OK\nC: STAT\nstall", func(ctx context.Context, c *Client) error {
			return cmp.Or(c.Noop(ctx), stat(ctx, c))
		}, 359 * time.Second, 3 * time.Minute},
		{"none", false, -1, "later 24h\n" + hello + "C: NOOP\nlater 24h\nS: +OK\nC: RETR 1\nlater 24h\nS: +OK\nlater 24h\nS: .\n", func(ctx context.Context, c *Client) error {
			return cmp.Or(c.Noop(ctx), retr(ctx, c))
		}, 96 * time.Hour, in},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			if tt.tls || strings.Contains(tt.script, "STLS") {
				pop3test.NeedRandom(t)
			}
			start := time.Now()
			conn := play(t, tt.script)
			var under net.Conn = conn
			if tt.tls {
				under = tls.Client(conn, pop3test.ScriptTLS())
			}
			c, err := NewClient(t.Context(), under, &Options{Timeout: tt.timeout})
			if tt.do != nil {
				wantIs(t, "NewClient", err)
				defer c.Close()
				err = tt.do(t.Context(), c)
			}
			if got := time.Since(start); got != tt.takes {
				t.Errorf("it took %v, want %v", got, tt.takes)
			}
			if tt.after == in {
				wantIs(t, tt.name, err)
				wantUsable(t, c, conn)
				return
			}
			wantTimeout(t, tt.name, err)
			if !strings.Contains(err.Error(), tt.after.String()) || !conn.Closed() {
				t.Errorf("%v, conn closed: %t; want %v in it", err, conn.Closed(), tt.after)
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
}

// A Client that nobody has any more is not kept by the pools, nor by a context that is
// still to be done.
func TestForgotten(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	replies := pop3test.Replies{"RETR": "+OK\r\ntext\r\n.\r\n"}
	for name, use := range map[string]func(*Client) error{
		"at rest": func(c *Client) error { return c.Noop(ctx) },
		"closed with a message open": func(c *Client) error {
			_, err := c.Retr(ctx, 1)
			return cmp.Or(err, c.Close())
		},
	} {
		forget := func() weak.Pointer[Client] {
			c, err := NewClient(ctx, tapeOf(replies), nil)
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

// The pool gets no buffer that holds a password, whether or not it was written.
func TestBuffersHoldNoSecret(t *testing.T) {
	var c *Client
	var buffers []*bufio.Writer
	check := func(context.Context, string) {
		buffers = append(buffers, c.text.W)
		for _, secret := range []string{"s3cret", "czNjcmV0", "AGFsaWNlAHMzY3JldA=="} {
			for _, w := range buffers {
				if buf := w.AvailableBuffer(); bytes.Contains(buf[:cap(buf)], []byte(secret)) {
					t.Errorf("%q is in the write buffer", secret)
				}
			}
		}
	}
	replies := pop3test.Replies{"PASS": "-ERR\r\n", "CAPA": "+OK\r\nSASL PLAIN\r\n.\r\n", "AUTH": "+ \r\n", "YWxpY2U=": "+ \r\n", "": "-ERR\r\n"}
	conn := &pop3test.Conn{Conn: tapeOf(replies)}
	c = clientOver(t, conn, &Options{Trace: &Trace{LineSent: check}})
	c.Pass(t.Context(), "s3cret")
	c.Capa(t.Context())
	c.Auth(t.Context(), PlainAuth("", "alice", "s3cret"))
	c.Auth(t.Context(), LoginAuth("alice", "s3cret"))
	conn.WriteFunc = func(p []byte) (int, error) {
		if bytes.HasPrefix(p, []byte("czNjcmV0")) {
			buffers = append(buffers, c.text.W)
			return 0, pop3test.ErrReset
		}
		return conn.Conn.Write(p)
	}
	wantIs(t, "Auth", c.Auth(t.Context(), LoginAuth("alice", "s3cret")), pop3test.ErrReset)
	c = clientOver(t, tapeOf(nil), nil)
	wantIs(t, "begin", c.begin(t.Context(), op{}))
	defer c.end()
	check(nil, "")
	if len(buffers) != 11 {
		t.Errorf("%d buffers were looked at, want 11", len(buffers))
	}
}

// Whoever makes a command of what a caller gave, the door to the wire looks at it.
func TestDoor(t *testing.T) {
	conn := &pop3test.Conn{Conn: tapeOf(nil)}
	c := clientOver(t, conn, nil)
	wantIs(t, "begin", c.begin(t.Context(), op{}))
	err := c.rows(&command{Verb: "LANG", Args: []string{"de\r\nDELE 1"}}, 1, nil)
	c.end()
	if err == nil || conn.Sent() != "" {
		t.Errorf("sent, with the error %v", err)
	}
	wantUsable(t, c, conn)
}

// Most texts of errors, and what a response code matches, are in testdata/transcripts.
func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		err     error
		want    string
		refused bool
	}{
		{&Error{}, `pop3: greeting: server refused`, true},
		{&Error{Command: "NOOP", Code: "\x1b[2J"}, "pop3: NOOP: server refused [\ufffd[2J]", true},
		{CodeSysTemp, `pop3: response code SYS/TEMP`, false},
		{joinedErrors{&Error{Command: "DELE", Number: 1}, &Error{Command: "DELE", Number: 2}, &Error{Command: "DELE", Number: 3},
			&Error{Command: "DELE", Number: 4}, io.ErrUnexpectedEOF}, `pop3: 5 errors: DELE 1: server refused; DELE 2: server refused; DELE 3: server refused; ...`, true},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
		if got := errors.Is(tt.err, ErrRefused); got != tt.refused {
			t.Errorf("%v is ErrRefused: %t", tt.err, got)
		}
	}
	if !errors.Is(ErrClosed, net.ErrClosed) || !errors.Is(ErrUnsupported, errors.ErrUnsupported) || errors.Is(ErrBusy, net.ErrClosed) || errors.Is(ErrBusy, nil) {
		t.Error("the sentinels are not what they are said to be")
	}
	// Where the refusal of one call cancels others, it is the cause of theirs and not theirs.
	cause := &Error{Command: "PASS", Code: CodeAuth}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if err := newCanceledError(op{verb: "STAT"}, ctx); !errors.Is(err, cause) || !errors.Is(err, context.Canceled) ||
		errors.Is(err, ErrRefused) || errors.Is(err, CodeAuth) || errors.As(err, new(*Error)) {
		t.Errorf("%v is taken for a refusal", err)
	}
}

// What several commands of one call did can be taken apart.
func TestJoinedErrors(t *testing.T) {
	const both = "C: LIST\nC: UIDL\nS: -ERR no list\nS: -ERR no UIDL\nC: STAT\nS: +OK 1 12\n"
	synctest.Test(t, func(t *testing.T) {
		c, conn := serve(t, nil, capaPipelining+both+"C: DELE 1\nC: DELE 2\nC: DELE 3\nS: -ERR one\nS: +OK\nclose")
		_, messages := c.Messages(t.Context())
		wantUsable(t, c, conn)
		for _, tt := range []struct {
			err  error
			want []string
		}{
			{messages, []string{`pop3: LIST: server refused: "no list"`, `pop3: UIDL: server refused: "no UIDL"`}},
			{c.DeleAll(t.Context(), []int{1, 2, 3}), []string{`pop3: DELE 1: server refused: "one"`,
				"pop3: DELE 3: server closed the connection before its reply was complete"}},
			{c.DeleAll(t.Context(), []int{1, 0}), []string{"pop3: DELE: message number 0 is less than 1"}},
		} {
			var got []string
			for _, err := range tt.err.(interface{ Unwrap() []error }).Unwrap() {
				got = append(got, err.Error())
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		}
		wantIs(t, "DeleAll of nothing", c.DeleAll(t.Context(), nil), ErrClosed)
	})
}

// tapeOf returns a server that allocates nothing.
func tapeOf(replies pop3test.Replies) *pop3test.Tape {
	tape := pop3test.NewTape(greeting, nil)
	tape.Replies = replies
	return tape
}

// raceEnabled reports whether the race detector is on, which makes sync.Pool
// forget things.
var raceEnabled = sync.OnceValue(func() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
})

// listing returns a listing of n rows.
func listing(row string, n int) string {
	b := []byte("+OK\r\n")
	for i := range n {
		b = fmt.Appendf(b, row, i+1)
	}
	return string(b) + ".\r\n"
}

func TestAllocations(t *testing.T) {
	if raceEnabled() {
		t.Skip("the race detector allocates")
	}
	const messages = 500
	c, err := NewClient(t.Context(), tapeOf(pop3test.Replies{
		"STAT": "+OK 2 320\r\n", "CAPA": "+OK\r\nPIPELINING\r\n.\r\n",
		"RETR": "+OK 30 octets\r\nSubject: a\r\n\r\n..a\r\nb\r\n.\r\n",
		"UIDL": listing("%d 0123456789abcdef\r\n", 10_000),
		"LIST": listing("%d 120\r\n", 10_000),
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
	numbers := pop3test.Numbers(messages)
	octets := 0
	count := pop3test.WriterFunc(func(p []byte) (int, error) { octets += len(p); return len(p), nil })
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
		{"Messages of 10,000", 30, func() {
			if infos, err := c.Messages(ctx); len(infos) != 10_000 || err != nil {
				t.Fatal(len(infos), err)
			}
		}},
		// One for every 16 messages, and a few for the run.
		{"RetrAll", messages/16 + 10, func() {
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
	c, err = NewClient(t.Context(), tapeOf(pop3test.Replies{"RETR": text}), nil)
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

// All that Messages allocates, kept or not, is at most half as much again as what UIDLAll
// does; where the listings differ in their order, and an index of four octets a message.
func TestMessagesMemory(t *testing.T) {
	if raceEnabled() || strconv.IntSize < 64 {
		t.Skip("the race detector allocates, and 32 bits make unique-ids smaller but not sizes")
	}
	const rows = 100_000
	list := listing("%d 12345\r\n", rows)
	lines := strings.SplitAfter(list, "\n")
	slices.Reverse(lines[1 : rows+1])
	allocated := func(list func() (int, error)) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if n, err := list(); n != rows || err != nil {
			t.Fatal(n, err)
		}
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	for name, list := range map[string]string{"in order": list, "in falling order": strings.Join(lines, ""), "empty": "+OK\r\n.\r\n"} {
		c := clientOver(t, tapeOf(pop3test.Replies{
			"CAPA": pop3test.Pipelining, "LIST": list, "UIDL": listing("%d 0123456789abcdef\r\n", rows),
		}), nil)
		one := allocated(func() (int, error) { uids, err := c.UIDLAll(t.Context()); return len(uids), err })
		both := allocated(func() (int, error) { infos, err := c.Messages(t.Context()); return len(infos), err })
		if name == "in falling order" {
			one += 4 * rows
		}
		if both*2 > one*3 {
			t.Errorf("LIST %s: Messages allocates %d octets, UIDLAll %d", name, both, one)
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
	conn := net.Conn(tapeOf(pop3test.Replies{"NOOP": "+OK\r\n"}))
	if secure {
		clientEnd, serverEnd := pop3test.PipeSize(16 << 10)
		server := tls.Server(serverEnd, pop3test.ServerTLS())
		done := make(chan error, 1)
		go func() {
			_, err := io.WriteString(server, greeting)
			done <- err
		}()
		c := tls.Client(clientEnd, pop3test.ScriptTLS())
		err := c.Handshake()
		if err != nil {
			clientEnd.Close() // or the server would wait
		}
		if err := cmp.Or(err, <-done); err != nil {
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
	for _, secure := range []bool{false, true} {
		var kept float64
		for range 3 { // what runs beside it may leave something on the heap, or take it away
			conn := heap(n, func() any { return atRest(t, false, secure) })
			if kept = heap(n, func() any { return atRest(t, true, secure) }) - conn; kept <= most {
				break
			}
		}
		if kept > most {
			t.Errorf("TLS %t: a Client keeps %.0f octets, want %d at most", secure, kept, most)
		}
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

func BenchmarkRetrAll(b *testing.B) {
	message := "Subject: benchmark\r\n\r\n" + strings.Repeat(strings.Repeat("x", 76)+"\r\n", 50)
	for _, window := range []int{0, 1} {
		b.Run(fmt.Sprintf("window=%d", window), func(b *testing.B) {
			c := benchmarkClient(b, &Options{Window: window}, slices.Repeat([]string{message}, 1000)...)
			numbers := pop3test.Numbers(1000)
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

func BenchmarkUIDLAll(b *testing.B) {
	const rows = 1_000_000
	reply := listing("%d 0123456789abcdef\r\n", rows)
	c, err := NewClient(context.Background(), tapeOf(pop3test.Replies{"UIDL": reply}), nil)
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

// The examples dial hosts at or under pop.example.com with the Options that a user would
// have. divertExample leads them, and no other test, to a server of their own on a pipe,
// whatever the Options.
func init() { divert = divertExample }

const exampleHost = "pop.example.com"

func divertExample(host string, o *Options) {
	example := exampleName()
	if example == "" || host != exampleHost && !strings.HasSuffix(host, "."+exampleHost) {
		return
	}
	s := exampleServer(host)
	if example == "ExampleClient_Quit" {
		keepMail(s)
	}
	o.DialContext = func(_ context.Context, _, addr string) (net.Conn, error) {
		if strings.HasPrefix(addr, "down.") {
			return nil, errors.New("connection refused")
		}
		client, peer := pop3test.Pipe()
		if strings.HasSuffix(addr, ":995") {
			peer = tls.Server(peer, s.TLS)
		}
		go s.ServeConn(peer)
		return client, nil
	}
	if o.TLSConfig == nil {
		o.TLSConfig = new(tls.Config)
	}
	o.TLSConfig.RootCAs = exampleAuthority().Pool()
}

// exampleName returns the name of the example that calls, or "".
func exampleName() string {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs)])
	for {
		frame, more := frames.Next()
		if _, name, ok := strings.Cut(frame.Function, "/pop3_test."); ok && strings.HasPrefix(name, "Example") {
			name, _, _ = strings.Cut(name, ".") // of a function in it
			return name
		}
		if !more {
			return ""
		}
	}
}

var exampleAuthority = sync.OnceValue(func() *pop3test.Authority {
	return pop3test.NewAuthority("authority of the examples")
})

// exampleTLS is one configuration for all servers, so that they resume sessions of each
// other. Its key is always the same, since an example pins it.
var exampleTLS = sync.OnceValue(func() *tls.Config {
	cert := exampleAuthority().IssueFor(&x509.Certificate{
		DNSNames: []string{exampleHost, "*." + exampleHost},
	}, ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	return &tls.Config{Certificates: []tls.Certificate{cert}}
})

// exampleServer returns a server with maildrops that nobody has touched yet.
func exampleServer(host string) *pop3test.Server {
	s := pop3test.NewUnstartedServer()
	s.TLS, s.Disable = exampleTLS(), []string{"APOP"}
	ada := s.AddUser("ada", "tides", exampleMail("01-plain.eml", "04-attachment.eml", "05-dots.eml")...)
	ada.Token = "ya29.fresh"
	s.AddUser("milo@example.com", "apples", exampleMail("10-header-only.eml")...)
	switch name, _, _ := strings.Cut(host, "."); name {
	case "old":
		s.Disable = append(s.Disable, "CAPA", "SASL", "UIDL")
	case "busy":
		s.Intercept = func(line string) (reply string, ok bool) {
			return "-ERR [IN-USE] another session is open\r\n", strings.HasPrefix(line, "AUTH")
		}
	}
	return s
}

func exampleMail(names ...string) (messages []string) {
	for _, name := range names {
		text, err := os.ReadFile("testdata/mail/" + name)
		if err != nil {
			panic(err)
		}
		messages = append(messages, string(text))
	}
	return messages
}

// keepMail sets the folder in which an example keeps mail, which the server deletes at
// QUIT. The example must not: who pastes it would lose that mail.
func keepMail(s *pop3test.Server) {
	dir, err := os.MkdirTemp("", "pop3-example-")
	if err != nil {
		panic(err)
	}
	os.Setenv("MAIL_FOLDER", dir)
	s.Intercept = func(line string) (reply string, ok bool) {
		if line == "QUIT" {
			os.RemoveAll(dir)
		}
		return "", false
	}
}
