package hostile_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// open returns an open message, whose text is "text" and CRLF.
func open(t *testing.T) (*pop3.Client, *pop3.Message) {
	t.Helper()
	c := client(t, pop3test.NewTape(greeting, wellBehaved), nil)
	m, err := c.Retr(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	return c, m
}

// ends fails the test unless nothing can be read of a message any more.
func ends(t *testing.T, when string, m *pop3.Message, read, writeTo, closed bool) {
	t.Helper()
	for range 2 {
		if n, err := m.Read(make([]byte, 9)); n != 0 || err == nil || (err == io.EOF) != read {
			t.Errorf("%s: Read %d, %v", when, n, err)
		}
		if n, err := m.WriteTo(io.Discard); n != 0 || (err == nil) != writeTo {
			t.Errorf("%s: WriteTo %d, %v", when, n, err)
		}
		if err := m.Close(); (err == nil) != closed {
			t.Errorf("%s: Close %v", when, err)
		}
	}
}

// Doing it twice does nothing the second time. A copy of a Message does not hold the
// connection, and a read of nothing does nothing, even where it would have to wait.
func TestTwice(t *testing.T) {
	t.Parallel()
	c, m := open(t)
	alias := *m
	ends(t, "a copy", &alias, false, false, false)
	if n, err := m.Read(nil); n != 0 || err != nil {
		t.Errorf("Read of nothing: %d, %v", n, err)
	}
	if text, err := io.ReadAll(m); err != nil || string(text) != "text\r\n" {
		t.Fatalf("read %q, %v", text, err)
	}
	ends(t, "behind the end", m, true, true, true)
	m, _ = c.Retr(t.Context(), 1)
	m.Close()
	ends(t, "behind Close", m, false, false, true)
	usable(t, c)
	if err := c.Quit(t.Context()); err != nil {
		t.Errorf("Quit: %v", err)
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	closed(t, c, pop3.ErrClosed)
}

// leave ends a goroutine's function in one of the ways that are no return.
var leave = map[string]func(){"panic": func() { panic("boom") }, "Goexit": runtime.Goexit}

// run calls f in a goroutine, which may end as it likes.
func run(f func()) {
	var wg sync.WaitGroup
	wg.Go(func() {
		defer func() { _ = recover() }()
		f()
	})
	wg.Wait()
}

// A loop that is left by a panic closes the connection: nobody would read what was asked
// for. The message of its step is dead, though its owner may not know.
func TestPanicInLoop(t *testing.T) {
	t.Parallel()
	for how, now := range leave {
		for _, read := range []int64{0, 2, 100} {
			tape := pop3test.NewTape(greeting, wellBehaved)
			conn := &pop3test.Conn{Conn: tape}
			pending := 0 // commands
			c := client(t, conn, &pop3.Options{Trace: &pop3.Trace{
				CommandStart: func(context.Context, pop3.CommandInfo) { pending++ },
				CommandDone:  func(context.Context, pop3.CommandInfo) { pending-- },
			}})
			var m *pop3.Message
			run(func() {
				for m = range c.RetrAll(t.Context(), pop3test.Numbers(20)) {
					io.CopyN(io.Discard, m, read)
					now()
				}
			})
			if closed(t, c, c.Err()); !conn.Closed() || strings.Contains(conn.Sent(), "QUIT") {
				t.Errorf("%s after %d octets: the connection is open, or was quit", how, read)
			}
			if pending != 0 {
				t.Errorf("%s after %d octets: Trace was not told of the end of %d commands", how, read, pending)
			}
			ends(t, fmt.Sprint(how, " after ", read), m, read == 100, read == 100, read == 100)
		}
	}
}

// A Writer that panics leaves the message open, and the rest can be read.
func TestPanicInWriter(t *testing.T) {
	t.Parallel()
	for how, now := range leave {
		c, m := open(t)
		run(func() { m.WriteTo(pop3test.WriterFunc(func([]byte) (int, error) { now(); return 0, nil })) })
		if text, err := io.ReadAll(m); err != nil || string(text) != "text\r\n" {
			t.Errorf("%s: then read %q, %v", how, text, err)
		}
		usable(t, c)
	}
}

// A Writer may lie about what it wrote, fail, or call the Client.
func TestBadWriter(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for _, test := range []struct {
		n         int
		err, want error
		left      string
	}{
		{-1, boom, boom, "text\r\n"},
		{-1, nil, io.ErrShortWrite, "text\r\n"},
		{3, boom, boom, "t\r\n"},
		{3, nil, io.ErrShortWrite, "t\r\n"},
		{math.MaxInt, boom, boom, ""},
		{math.MaxInt, nil, nil, ""},
	} {
		c, m := open(t)
		_, err := m.WriteTo(pop3test.WriterFunc(func([]byte) (int, error) { return test.n, test.err }))
		left, err2 := io.ReadAll(m)
		if !errors.Is(err, test.want) || err2 != nil || string(left) != test.left {
			t.Errorf("a Writer that returns %d, %v: %v, and leaves %q, %v", test.n, test.err, err, left, err2)
		}
		usable(t, c)
	}
	c, m := open(t)
	if _, err := m.WriteTo(pop3test.WriterFunc(func(p []byte) (int, error) {
		_, read := m.Read(make([]byte, 1))
		for _, err := range []error{c.Noop(t.Context()), read, m.Close()} {
			if !errors.Is(err, pop3.ErrBusy) {
				t.Errorf("from the Writer: %v, want ErrBusy", err)
			}
		}
		return len(p), nil
	})); err != nil {
		t.Error(err)
	}
	usable(t, c)
}

// A mechanism that panics before anything is sent leaves the connection as it was, and
// closes it later.
func TestPanicInSASL(t *testing.T) {
	t.Parallel()
	for how, now := range leave {
		for in, s := range map[string]pop3.SASL{
			"Start":  &pop3test.SASL{Mech: "X", StartFunc: now},
			"Next":   &pop3test.SASL{Mech: "X", Respond: func([]byte) ([]byte, error) { now(); return nil, nil }},
			"Finish": &pop3test.FinishingSASL{SASL: pop3test.SASL{Mech: "X", Responses: []string{""}}, FinishFunc: func() error { now(); return nil }},
		} {
			c := client(t, pop3test.NewTape(greeting, pop3test.Replies{"AUTH": "+ \r\n"}.Answer), nil)
			run(func() { c.Auth(t.Context(), s) })
			if in == "Start" {
				usable(t, c)
			} else if closed(t, c, c.Err()); t.Failed() {
				t.Fatalf("%s in %s", how, in)
			}
		}
	}
}

// A hook that panics in the middle closes the connection or leaves it as it was; it is
// never held for ever, nor is a message.
func TestPanicInTrace(t *testing.T) {
	t.Parallel()
	for how, leave := range leave {
		armed := false
		now := func() {
			if armed {
				armed = false
				leave()
			}
		}
		for hook, trace := range map[string]*pop3.Trace{
			"CommandStart": {CommandStart: func(context.Context, pop3.CommandInfo) { now() }},
			"CommandDone":  {CommandDone: func(context.Context, pop3.CommandInfo) { now() }},
			"LineSent":     {LineSent: func(context.Context, string) { now() }},
			"LineReceived": {LineReceived: func(context.Context, string) { now() }},
			"end of text": {LineReceived: func(_ context.Context, line string) {
				if line == "." {
					now()
				}
			}},
		} {
			var m *pop3.Message
			for _, call := range []struct {
				name string
				text bool // some of its replies have one
				f    func(c *pop3.Client)
			}{
				{"Noop", false, func(c *pop3.Client) { c.Noop(t.Context()) }},
				{"Messages", true, func(c *pop3.Client) { c.Messages(t.Context()) }},
				{"Retr and WriteTo", true, func(c *pop3.Client) { m, _ = c.Retr(t.Context(), 1); m.WriteTo(io.Discard) }},
				{"Retr and Close", true, func(c *pop3.Client) { m, _ = c.Retr(t.Context(), 1); m.Close() }},
				{"RetrAll", true, func(c *pop3.Client) { last(c.RetrAll(t.Context(), pop3test.Numbers(20))) }},
				{"DeleAll", true, func(c *pop3.Client) { c.DeleAll(t.Context(), pop3test.Numbers(20)) }},
				{"Quit", false, func(c *pop3.Client) { c.Quit(t.Context()) }},
			} {
				t.Run(how+" in "+hook+" of "+call.name, func(t *testing.T) {
					c := client(t, pop3test.NewTape(greeting, wellBehaved), &pop3.Options{Trace: trace})
					m, armed = new(pop3.Message), true
					run(func() { call.f(c) })
					if reached := !armed; reached != (call.text || hook != "end of text") {
						t.Errorf("the hook was called: %t", reached)
					}
					armed = false
					m.Read(make([]byte, 1))
					if m.Close(); c.Err() == nil {
						usable(t, c)
					} else {
						closed(t, c, c.Err())
					}
				})
			}
		}
	}
	for name, trace := range map[string]*pop3.Trace{
		"greeting": {LineReceived: func(context.Context, string) { panic("boom") }},
	} {
		conn := &pop3test.Conn{Conn: pop3test.NewTape(greeting, wellBehaved)}
		run(func() {
			pop3.Dial(t.Context(), "localhost", &pop3.Options{DialContext: pop3test.DialTo(conn), Trace: trace})
		})
		if !conn.Closed() {
			t.Errorf("%s: the connection is left open", name)
		}
	}
}

// A hook may call what is callable at any time, and is told ErrBusy by the rest.
func TestCallsFromTrace(t *testing.T) {
	t.Parallel()
	var c *pop3.Client
	check := func(ctx context.Context) {
		for _, m := range anytime() {
			m.Func.Call([]reflect.Value{reflect.ValueOf(c)})
		}
		if err := c.Noop(ctx); !errors.Is(err, pop3.ErrBusy) && c.Err() == nil {
			t.Errorf("Noop from a hook: %v", err)
		}
	}
	trace := &pop3.Trace{
		CommandStart: func(ctx context.Context, _ pop3.CommandInfo) { check(ctx) },
		CommandDone:  func(ctx context.Context, _ pop3.CommandInfo) { check(ctx) },
		LineSent:     func(ctx context.Context, _ string) { check(ctx) },
	}
	c = client(t, pop3test.NewTape(greeting, wellBehaved), &pop3.Options{Trace: trace})
	if err := last(c.RetrAll(t.Context(), pop3test.Numbers(20))); err != nil {
		t.Error(err)
	}
	trace.LineReceived = func(context.Context, string) { c.Close() }
	c.Stat(t.Context())
	closed(t, c, pop3.ErrClosed)
}

// A message that several goroutines read and close, which they should not, makes no race.
func TestMessageInManyGoroutines(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("0123456789\r\n", 4000)
	c, _ := connect(t, nil, pop3test.Replies{"RETR": "+OK\r\n" + text + ".\r\n"}.Answer)
	for range 10 {
		m, err := c.Retr(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 20 {
					m.Read(make([]byte, 100))
				}
				m.Close()
				m.WriteTo(io.Discard)
			})
		}
		wg.Wait()
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		usable(t, c)
	}
}

// Numbers are copied when the loop begins, not when it was made.
func TestNumbersChange(t *testing.T) {
	t.Parallel()
	conn := &pop3test.Conn{Conn: pop3test.NewTape(greeting, wellBehaved)}
	c := client(t, conn, &pop3.Options{Window: 1})
	list := pop3test.Numbers(4)
	seq := c.RetrAll(t.Context(), list)
	list[0] = 9
	for _, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		list[1], list[2], list[3] = -1, 0, -7
	}
	if got, want := conn.Sent(), "RETR 9\r\nRETR 2\r\nRETR 3\r\nRETR 4\r\n"; got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
}

// A timeout of the network's own is not Options.Timeout's.
func TestTimeoutOfTheNetwork(t *testing.T) {
	t.Parallel()
	tape := pop3test.NewTape(greeting, pop3test.Replies{"NOOP": ""}.Answer)
	c := client(t, &pop3test.Conn{Conn: tape, ReadFunc: func(p []byte) (int, error) {
		n, err := tape.Read(p)
		if err != nil {
			err = &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ETIMEDOUT)}
		}
		return n, err
	}}, nil)
	if err := c.Noop(t.Context()); !errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, os.ErrDeadlineExceeded) || strings.Contains(err.Error(), "3m0s") {
		t.Errorf("Noop: %v, want ETIMEDOUT alone", err)
	}
	var dns *net.DNSError
	_, err := pop3.Dial(t.Context(), "pop.example.com", &pop3.Options{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.DNSError{Err: "i/o timeout", Name: "pop.example.com", IsTimeout: true}
	}})
	if !errors.As(err, &dns) || strings.Contains(err.Error(), "3m0s") {
		t.Errorf("Dial: %v, want the resolver's timeout", err)
	}
}
