package hostile_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"iter"
	"math"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// calls is every method that runs an exchange.
var calls = []struct {
	name string
	call func(context.Context, *pop3.Client) error
}{
	{"User", func(ctx context.Context, c *pop3.Client) error { return c.User(ctx, "u") }},
	{"Pass", func(ctx context.Context, c *pop3.Client) error { return c.Pass(ctx, "p") }},
	{"APOP", func(ctx context.Context, c *pop3.Client) error { return c.APOP(ctx, "u", "p") }},
	{"RPOP", func(ctx context.Context, c *pop3.Client) error { return c.RPOP(ctx, "u") }},
	{"Auth", func(ctx context.Context, c *pop3.Client) error { return c.Auth(ctx, pop3.PlainAuth("", "u", "p")) }},
	{"Login", func(ctx context.Context, c *pop3.Client) error { return c.Login(ctx, "u", "p") }},
	{"Capa", func(ctx context.Context, c *pop3.Client) error { _, err := c.Capa(ctx); return err }},
	{"UTF8", func(ctx context.Context, c *pop3.Client) error { return c.UTF8(ctx) }},
	{"Lang", func(ctx context.Context, c *pop3.Client) error { _, err := c.Lang(ctx, "*"); return err }},
	{"LangAll", func(ctx context.Context, c *pop3.Client) error { _, err := c.LangAll(ctx); return err }},
	{"StartTLS", func(ctx context.Context, c *pop3.Client) error {
		return c.StartTLS(ctx, &tls.Config{ServerName: "localhost"})
	}},
	{"Stat", func(ctx context.Context, c *pop3.Client) error { _, _, err := c.Stat(ctx); return err }},
	{"List", func(ctx context.Context, c *pop3.Client) error { _, err := c.List(ctx, 1); return err }},
	{"ListAll", func(ctx context.Context, c *pop3.Client) error { _, err := c.ListAll(ctx); return err }},
	{"UIDL", func(ctx context.Context, c *pop3.Client) error { _, err := c.UIDL(ctx, 1); return err }},
	{"UIDLAll", func(ctx context.Context, c *pop3.Client) error { _, err := c.UIDLAll(ctx); return err }},
	{"Retr", func(ctx context.Context, c *pop3.Client) error { _, err := c.Retr(ctx, 1); return err }},
	{"Top", func(ctx context.Context, c *pop3.Client) error { _, err := c.Top(ctx, 1, 0); return err }},
	{"Dele", func(ctx context.Context, c *pop3.Client) error { return c.Dele(ctx, 1) }},
	{"Noop", func(ctx context.Context, c *pop3.Client) error { return c.Noop(ctx) }},
	{"Rset", func(ctx context.Context, c *pop3.Client) error { return c.Rset(ctx) }},
	{"RetrAll", func(ctx context.Context, c *pop3.Client) error { return last(c.RetrAll(ctx, numbers(2))) }},
	{"TopAll", func(ctx context.Context, c *pop3.Client) error { return last(c.TopAll(ctx, numbers(2), 0)) }},
	{"DeleAll", func(ctx context.Context, c *pop3.Client) error { return c.DeleAll(ctx, numbers(2)) }},
	{"Quit", func(ctx context.Context, c *pop3.Client) error { return c.Quit(ctx) }},
}

// last runs a loop to its end and returns its last error.
func last(seq iter.Seq2[*pop3.Message, error]) (err error) {
	for _, e := range seq {
		err = e
	}
	return err
}

func TestZeroClient(t *testing.T) {
	t.Parallel()
	for _, m := range calls {
		t.Run(m.name, func(t *testing.T) {
			if err := m.call(t.Context(), new(pop3.Client)); err == nil {
				t.Error("a zero Client did not say that it is none")
			}
		})
	}
	c := new(pop3.Client)
	if err := c.Err(); !errors.Is(err, pop3.ErrClosed) {
		t.Errorf("Err: %v", err)
	}
	if c.Greeting() != "" || c.LastReply() != "" {
		t.Error("a zero Client has heard something")
	}
	if _, ok := c.TLSConnectionState(); ok {
		t.Error("a zero Client has TLS")
	}
	if err := c.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func TestZeroMessage(t *testing.T) {
	t.Parallel()
	m := new(pop3.Message)
	if _, err := m.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("Read: %v", err)
	}
	if _, err := m.WriteTo(io.Discard); err == nil {
		t.Error("WriteTo: no error")
	}
	if err := m.Close(); err == nil {
		t.Error("Close: no error")
	}
}

// A copy of a Message does not hold the connection.
func TestCopiedMessage(t *testing.T) {
	t.Parallel()
	c, _ := connect(t, nil, replies(map[string]string{"RETR": "+OK\r\ntext\r\n.\r\n"}))
	m, err := c.Retr(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	alias := *m
	if _, err := alias.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("Read of a copy: %v", err)
	}
	if _, err := alias.WriteTo(io.Discard); err == nil {
		t.Error("WriteTo of a copy: no error")
	}
	alias.Close()
	var b strings.Builder
	if _, err := m.WriteTo(&b); err != nil || b.String() != "text\r\n" {
		t.Errorf("WriteTo: %q, %v", b.String(), err)
	}
	usable(t, c)
}

func TestNilContext(t *testing.T) {
	t.Parallel()
	c, p := connect(t, nil, replies(nil))
	var none context.Context
	for _, m := range calls {
		if err := m.call(none, c); err == nil {
			t.Errorf("%s took a nil context", m.name)
		}
	}
	if got := p.received(); len(got) > 0 {
		t.Errorf("written: %q", got)
	}
	usable(t, c)

	near, far := pop3test.Pipe()
	defer far.Close()
	if _, err := pop3.NewClient(none, near, nil); err == nil {
		t.Error("NewClient took a nil context")
	}
	if _, err := far.Write([]byte("+OK\r\n")); err == nil {
		t.Error("NewClient failed and did not close the connection")
	}
	if _, err := pop3.Dial(none, "127.0.0.1:1", nil); err == nil {
		t.Error("Dial took a nil context")
	}
	if _, err := pop3.NewClient(t.Context(), nil, nil); err == nil {
		t.Error("NewClient took a nil connection")
	}
}

func TestDoneContext(t *testing.T) {
	t.Parallel()
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	c, p := connect(t, nil, replies(nil))
	for _, m := range calls {
		err := m.call(ctx, c)
		if m.name == "APOP" {
			continue // no timestamp
		}
		if !errors.Is(err, context.Canceled) || !errors.Is(err, cause) {
			t.Errorf("%s: %v", m.name, err)
		}
	}
	if got := p.received(); len(got) > 0 {
		t.Errorf("written: %q", got)
	}
	usable(t, c)
}

func TestBadOptions(t *testing.T) {
	t.Parallel()
	for _, opts := range []*pop3.Options{{Window: -1}, {MaxMessageSize: -1}} {
		near, far := pop3test.Pipe()
		if _, err := pop3.NewClient(t.Context(), near, opts); err == nil {
			t.Errorf("%+v: no error", opts)
		}
		if _, err := far.Write([]byte("+OK\r\n")); err == nil {
			t.Error("the connection is open")
		}
		far.Close()
	}
}

// What the caller gets wrong is told before anything is written.
func TestBadNumbers(t *testing.T) {
	t.Parallel()
	c, p := connect(t, nil, replies(nil))
	ctx := t.Context()
	for _, n := range []int{0, -1, math.MinInt} {
		_, list := c.List(ctx, n)
		_, uidl := c.UIDL(ctx, n)
		_, retr := c.Retr(ctx, n)
		_, top := c.Top(ctx, n, 1)
		_, lines := c.Top(ctx, 1, min(n, -1))
		for i, err := range []error{list, uidl, retr, top, lines, c.Dele(ctx, n),
			last(c.RetrAll(ctx, []int{1, n})), last(c.TopAll(ctx, []int{1, n}, 1)),
			last(c.TopAll(ctx, []int{1}, min(n, -1))), c.DeleAll(ctx, []int{1, 2, n})} {
			if err == nil {
				t.Errorf("call %d took %d", i, n)
			}
		}
	}
	if got := p.received(); len(got) > 0 {
		t.Errorf("written: %q", got)
	}
	usable(t, c)
}

// While a message or a loop is open, every call says so and writes nothing.
func TestBusy(t *testing.T) {
	t.Parallel()
	c, p := connect(t, nil, replies(map[string]string{"RETR": "+OK\r\ntext\r\n.\r\n", "CAPA": pipelining}))
	refused := func() {
		t.Helper()
		before := p.received()
		for _, m := range calls {
			err := m.call(t.Context(), c)
			if m.name == "APOP" {
				continue // no timestamp
			}
			if !errors.Is(err, pop3.ErrBusy) {
				t.Errorf("%s: %v", m.name, err)
			}
		}
		if after := p.received(); !slices.Equal(before, after) {
			t.Errorf("written: %q", after[len(before):])
		}
	}
	m, err := c.Retr(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	refused()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	usable(t, c)

	// The window is full in the last step, or more would be under way.
	for m, err := range c.RetrAll(t.Context(), numbers(3)) {
		if err != nil {
			t.Fatal(err)
		}
		if m.Number == 3 {
			refused()
		}
	}
	usable(t, c)
}

// Doing it twice does nothing the second time.
func TestTwice(t *testing.T) {
	t.Parallel()
	c, p := connect(t, nil, replies(map[string]string{"RETR": "+OK\r\ntext\r\n.\r\n"}))
	m, err := c.Retr(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(m); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if n, err := m.Read(make([]byte, 9)); n != 0 || err != io.EOF {
			t.Errorf("Read behind the end: %d, %v", n, err)
		}
		if n, err := m.WriteTo(io.Discard); n != 0 || err != nil {
			t.Errorf("WriteTo behind the end: %d, %v", n, err)
		}
		if err := m.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if m, err = c.Retr(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := m.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if _, err := m.Read(make([]byte, 9)); err == nil || err == io.EOF {
			t.Errorf("Read behind Close: %v", err)
		}
		if _, err := m.WriteTo(io.Discard); err == nil {
			t.Error("WriteTo behind Close: no error")
		}
	}
	usable(t, c)
	if err := c.Quit(t.Context()); err != nil {
		t.Errorf("Quit: %v", err)
	}
	if err := c.Quit(t.Context()); !errors.Is(err, pop3.ErrClosed) || !errors.Is(err, net.ErrClosed) {
		t.Errorf("second Quit: %v", err)
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if n := strings.Count(strings.Join(p.received(), "\n"), "QUIT"); n != 1 {
		t.Errorf("QUIT was sent %d times", n)
	}
	closed(t, c, pop3.ErrClosed)
}

// leave ends a goroutine's function in one of the ways that are no return.
var leave = []struct {
	name string
	now  func()
}{
	{"panic", func() { panic("boom") }},
	{"Goexit", runtime.Goexit},
}

// run calls f in a goroutine, which may end as it likes.
func run(f func()) {
	var wg sync.WaitGroup
	wg.Go(func() {
		defer func() { _ = recover() }()
		f()
	})
	wg.Wait()
}

// A loop that is left by a panic closes the connection: nobody would read what
// was asked for. The message of its step is dead, though its owner may not know.
func TestPanicInLoop(t *testing.T) {
	t.Parallel()
	for _, how := range leave {
		for _, read := range []string{"nothing", "some", "all"} {
			t.Run(how.name+" after "+read, func(t *testing.T) {
				c, p := connect(t, nil, replies(map[string]string{"RETR": "+OK\r\ntext\r\n.\r\n", "CAPA": pipelining}))
				var m *pop3.Message
				run(func() {
					for m = range c.RetrAll(t.Context(), numbers(20)) {
						switch read {
						case "some":
							m.Read(make([]byte, 2))
						case "all":
							io.Copy(io.Discard, m)
						}
						how.now()
					}
				})
				if c.Err() == nil {
					t.Error("the connection is open")
				}
				closed(t, c, c.Err())
				<-p.done
				if slices.Contains(p.received(), "QUIT") {
					t.Error("QUIT was sent")
				}
				if n, err := m.Read(make([]byte, 9)); n != 0 || err == nil {
					t.Errorf("Read: %d, %v", n, err)
				}
				if n, err := m.WriteTo(io.Discard); n != 0 || err == nil && read != "all" {
					t.Errorf("WriteTo: %d, %v", n, err)
				}
				m.Close()
			})
		}
	}
}

// A Writer that panics leaves the message open, and Close gets rid of it.
func TestPanicInWriter(t *testing.T) {
	t.Parallel()
	for _, how := range leave {
		t.Run(how.name, func(t *testing.T) {
			c, _ := connect(t, nil, replies(map[string]string{"RETR": "+OK\r\ntext\r\n.\r\n"}))
			m, err := c.Retr(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			run(func() { m.WriteTo(writerFunc(func([]byte) (int, error) { how.now(); return 0, nil })) })
			if text, err := io.ReadAll(m); err != nil || string(text) != "text\r\n" {
				t.Errorf("then read: %q, %v", text, err)
			}
			m.Close()
			usable(t, c)
		})
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A Writer may lie about what it wrote, fail, or call the Client.
func TestBadWriter(t *testing.T) {
	t.Parallel()
	c, _ := connect(t, nil, replies(map[string]string{"RETR": "+OK\r\n0123456789\r\n.\r\n"}))
	boom := errors.New("boom")
	for _, test := range []struct {
		n    int
		err  error
		want error
		left string
	}{
		{-1, boom, boom, "0123456789\r\n"},
		{-1, nil, io.ErrShortWrite, "0123456789\r\n"},
		{3, boom, boom, "3456789\r\n"},
		{3, nil, io.ErrShortWrite, "3456789\r\n"},
		{math.MaxInt, boom, boom, ""},
		{math.MaxInt, nil, nil, ""},
	} {
		m, err := c.Retr(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		_, err = m.WriteTo(writerFunc(func([]byte) (int, error) { return test.n, test.err }))
		if !errors.Is(err, test.want) {
			t.Errorf("a Writer that returns %d, %v: %v", test.n, test.err, err)
		}
		if left, err := io.ReadAll(m); err != nil || string(left) != test.left {
			t.Errorf("a Writer that returns %d, %v leaves %q, %v", test.n, test.err, left, err)
		}
	}
	m, err := c.Retr(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.WriteTo(writerFunc(func(p []byte) (int, error) {
		if err := c.Noop(t.Context()); !errors.Is(err, pop3.ErrBusy) {
			t.Errorf("Noop from the Writer: %v", err)
		}
		if _, err := m.Read(make([]byte, 1)); !errors.Is(err, pop3.ErrBusy) {
			t.Errorf("Read from the Writer: %v", err)
		}
		if err := m.Close(); !errors.Is(err, pop3.ErrBusy) {
			t.Errorf("Message.Close from the Writer: %v", err)
		}
		return len(p), nil
	}))
	if err != nil {
		t.Error(err)
	}
	usable(t, c)
}

// badSASL is a mechanism that leaves in the middle.
type badSASL struct {
	now         func()
	start, next bool
}

func (s badSASL) Start() (string, []byte, error) {
	if s.start {
		s.now()
	}
	return "X", nil, nil
}

func (s badSASL) Next([]byte) ([]byte, error) {
	if s.next {
		s.now()
	}
	return nil, nil
}

func (s badSASL) Finish() error { s.now(); return nil }

func TestPanicInSASL(t *testing.T) {
	t.Parallel()
	for _, how := range leave {
		for _, s := range []badSASL{{how.now, true, false}, {how.now, false, true}, {how.now, false, false}} {
			challenged := false
			c, p := connect(t, nil, func(line string) string {
				if line == "AUTH X" && !challenged {
					challenged = true
					return "+ \r\n"
				}
				return "+OK\r\n"
			})
			run(func() { c.Auth(t.Context(), s) })
			if s.start {
				usable(t, c)
				continue
			}
			if c.Err() == nil {
				t.Errorf("%s: the connection is open", how.name)
			}
			<-p.done
			closed(t, c, c.Err())
		}
	}
}

// A hook that panics in the middle closes the connection or leaves it as it
// was; it is never held for ever.
func TestPanicInTrace(t *testing.T) {
	t.Parallel()
	reply := replies(map[string]string{"RETR": "+OK\r\ntext\r\n.\r\n", "LIST": "+OK\r\n1 1\r\n.\r\n", "CAPA": pipelining})
	for _, how := range leave {
		var armed bool
		now := func() {
			if armed {
				armed = false
				how.now()
			}
		}
		hooks := map[string]*pop3.Trace{
			"CommandStart": {CommandStart: func(context.Context, pop3.CommandInfo) { now() }},
			"CommandDone":  {CommandDone: func(context.Context, pop3.CommandInfo) { now() }},
			"LineSent":     {LineSent: func(context.Context, string) { now() }},
			"LineReceived": {LineReceived: func(context.Context, string) { now() }},
			"end of text": {LineReceived: func(_ context.Context, line string) {
				if line == "." {
					now()
				}
			}},
		}
		for name, trace := range hooks {
			for call, f := range map[string]func(c *pop3.Client){
				"Noop": func(c *pop3.Client) { c.Noop(t.Context()) },
				"List": func(c *pop3.Client) { c.ListAll(t.Context()) },
				"Retr and WriteTo": func(c *pop3.Client) {
					m, err := c.Retr(t.Context(), 1)
					if err == nil {
						m.WriteTo(io.Discard)
					}
				},
				"Retr and Close": func(c *pop3.Client) {
					m, err := c.Retr(t.Context(), 1)
					if err == nil {
						m.Close()
					}
				},
				"RetrAll": func(c *pop3.Client) { last(c.RetrAll(t.Context(), numbers(20))) },
				"DeleAll": func(c *pop3.Client) { c.DeleAll(t.Context(), numbers(20)) },
				"Quit":    func(c *pop3.Client) { c.Quit(t.Context()) },
			} {
				t.Run(how.name+" in "+name+" of "+call, func(t *testing.T) {
					c, _ := connect(t, &pop3.Options{Trace: trace}, reply)
					armed = true
					run(func() { f(c) })
					armed = false
					if err := c.Err(); err == nil {
						usable(t, c)
					} else {
						closed(t, c, err)
					}
				})
			}
		}
	}
}

// A greeting whose hook panics closes the connection.
func TestPanicInGreeting(t *testing.T) {
	t.Parallel()
	near, far := pop3test.Pipe()
	p := serve(t, far, "+OK\r\n", replies(nil))
	run(func() {
		pop3.NewClient(t.Context(), near, &pop3.Options{Trace: &pop3.Trace{
			LineReceived: func(context.Context, string) { panic("boom") }}})
	})
	<-p.done
}

// A hook may call what is callable at any time, and is told ErrBusy by the rest.
func TestCallsFromTrace(t *testing.T) {
	t.Parallel()
	var c *pop3.Client
	check := func(ctx context.Context) {
		if c == nil {
			return
		}
		c.Greeting()
		c.LastReply()
		c.TLSConnectionState()
		if c.Err() == nil {
			if err := c.Noop(ctx); !errors.Is(err, pop3.ErrBusy) {
				t.Errorf("Noop from a hook: %v", err)
			}
		}
	}
	trace := &pop3.Trace{
		CommandStart: func(ctx context.Context, _ pop3.CommandInfo) { check(ctx) },
		CommandDone:  func(ctx context.Context, _ pop3.CommandInfo) { check(ctx) },
		LineSent:     func(ctx context.Context, _ string) { check(ctx) },
		LineReceived: func(ctx context.Context, line string) {
			check(ctx)
			if line == "+OK last" {
				c.Close()
			}
		},
	}
	c, _ = connect(t, &pop3.Options{Trace: trace}, replies(map[string]string{
		"RETR": "+OK\r\ntext\r\n.\r\n", "LIST": "+OK\r\n1 1\r\n.\r\n", "CAPA": pipelining, "STAT": "+OK last\r\n"}))
	if err := last(c.RetrAll(t.Context(), numbers(20))); err != nil {
		t.Error(err)
	}
	if _, err := c.ListAll(t.Context()); err != nil {
		t.Error(err)
	}
	c.Stat(t.Context())
	closed(t, c, pop3.ErrClosed)
}

// Close from elsewhere ends every wait.
func TestCloseFromElsewhere(t *testing.T) {
	t.Parallel()
	for _, m := range calls {
		if m.name == "APOP" || m.name == "StartTLS" {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			asked := make(chan bool, 64)
			c, p := connect(t, nil, func(string) string { asked <- true; return "" })
			go func() {
				<-asked
				c.Close()
			}()
			if err := m.call(t.Context(), c); !errors.Is(err, pop3.ErrClosed) && (m.name != "Quit" || err != nil) {
				t.Error(err)
			}
			closed(t, c, pop3.ErrClosed)
			<-p.done
		})
	}
}

// Many goroutines at once: one has the connection, the others are told so.
func TestManyGoroutines(t *testing.T) {
	t.Parallel()
	c, _ := connect(t, nil, replies(map[string]string{"RETR": "+OK\r\ntext\r\n.\r\n", "LIST": "+OK\r\n1 1\r\n.\r\n",
		"CAPA": pipelining, "UIDL": "+OK\r\n1 1\r\n.\r\n", "STAT": "+OK 1 1\r\n", "LANG": "+OK\r\nen English\r\n.\r\n", "AUTH": "-ERR\r\n"}))
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 50 {
				m := calls[(i*7+g*3)%len(calls)]
				if m.name == "Quit" || m.name == "Lang" || m.name == "List" || m.name == "UIDL" || m.name == "StartTLS" {
					continue
				}
				if m.name == "Retr" || m.name == "Top" {
					if m, err := c.Retr(t.Context(), 1); err == nil {
						if text, err := io.ReadAll(m); err != nil || string(text) != "text\r\n" {
							t.Errorf("text %q, %v", text, err)
						}
					}
					continue
				}
				if m.name == "TopAll" {
					continue
				}
				m.call(t.Context(), c)
				c.Err()
				c.LastReply()
				c.Greeting()
				c.TLSConnectionState()
			}
		})
	}
	wg.Wait()
	usable(t, c)
}

// A message read by two goroutines, and closed by a third, gives each octet once
// at the most, and no race.
func TestMessageInManyGoroutines(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("0123456789\r\n", 4000)
	c, _ := connect(t, nil, replies(map[string]string{"RETR": "+OK\r\n" + text + ".\r\n"}))
	for range 10 {
		m, err := c.Retr(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 20 {
					if _, err := m.Read(make([]byte, 100)); err != nil && !errors.Is(err, pop3.ErrBusy) && c.Err() != nil {
						t.Error(err)
					}
				}
				m.Close()
				m.WriteTo(new(bytes.Buffer))
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
	c, p := connect(t, &pop3.Options{Window: 1}, replies(map[string]string{"RETR": "+OK\r\ntext\r\n.\r\n"}))
	list := numbers(4)
	seq := c.RetrAll(t.Context(), list)
	list[0] = 9
	for _, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		list[1], list[2], list[3] = -1, 0, -7
	}
	if got, want := strings.Join(p.received(), " "), "RETR 9 RETR 2 RETR 3 RETR 4"; got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
}

// A hook that panics when the connection is there leaves none behind.
func TestPanicInConnectDone(t *testing.T) {
	t.Parallel()
	near, far := pop3test.Pipe()
	p := serve(t, far, "+OK\r\n", replies(nil))
	run(func() {
		pop3.Dial(t.Context(), "localhost", &pop3.Options{
			DialContext: func(context.Context, string, string) (net.Conn, error) { return near, nil },
			Trace:       &pop3.Trace{ConnectDone: func(context.Context, string, string, error) { panic("boom") }},
		})
	})
	select {
	case <-p.done:
	default:
		if _, err := near.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Error("the connection is open")
		}
	}
}

// A read of nothing does nothing, even where it would have to wait.
func TestReadNothing(t *testing.T) {
	t.Parallel()
	c, _ := connect(t, nil, replies(map[string]string{"RETR": "+OK\r\ntext\r\n.\r\n"}))
	m, err := c.Retr(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := m.Read(nil); n != 0 || err != nil {
		t.Errorf("Read: %d, %v", n, err)
	}
	if text, err := io.ReadAll(m); err != nil || string(text) != "text\r\n" {
		t.Errorf("then %q, %v", text, err)
	}
	usable(t, c)
}

// A brittle connection fails to write at all after so many lines.
type brittle struct {
	tape
	writes int
}

var errBroken = errors.New("broken pipe")

func (b *brittle) Write(p []byte) (int, error) {
	if b.writes--; b.writes < 0 {
		return 0, errBroken
	}
	return b.tape.Write(p)
}

// Whatever write of whatever call fails, the connection is closed and says why.
func TestWriteFails(t *testing.T) {
	t.Parallel()
	answer := func(line string) string {
		switch verb, _, _ := strings.Cut(line, " "); verb {
		case "CAPA":
			return "+OK\r\nPIPELINING\r\nSTLS\r\nSASL LOGIN\r\n.\r\n"
		case "AUTH":
			return "+ VXNlcm5hbWU6\r\n"
		case "RETR", "TOP", "LIST", "UIDL", "LANG":
			return "+OK\r\n.\r\n"
		}
		return "+OK\r\n"
	}
	more := append(slices.Clip(calls), []struct {
		name string
		call func(context.Context, *pop3.Client) error
	}{
		{"Auth that is canceled", func(ctx context.Context, c *pop3.Client) error { return c.Auth(ctx, long{0, 1 << 20}) }},
		{"RetrAll of many", func(ctx context.Context, c *pop3.Client) error { return last(c.RetrAll(ctx, numbers(2000))) }},
	}...)
	for _, m := range more {
		if m.name == "APOP" {
			continue // no timestamp
		}
		for writes := range 3 {
			conn := &brittle{tape: tape{pending: []byte("+OK\r\n"), answer: answer}, writes: writes}
			c, err := pop3.NewClient(t.Context(), conn, nil)
			if err != nil {
				t.Fatal(err)
			}
			err = m.call(t.Context(), c)
			if conn.writes >= 0 {
				continue // it needs no more writes than that
			}
			if m.name == "Quit" {
				// Nothing was marked, so nothing was lost.
				closed(t, c, pop3.ErrClosed)
				continue
			}
			if !errors.Is(err, errBroken) || !conn.closed {
				t.Errorf("%s, write %d: %v", m.name, writes+1, err)
			}
			closed(t, c, errBroken)
		}
	}
}
