package hostile_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// A refused LIST is followed by a STAT, whose own failure is what counts.
func TestRefusedListing(t *testing.T) {
	for reply, want := range map[string]error{hangUp: io.ErrUnexpectedEOF, "foo\r\n": pop3.ErrMalformed} {
		c, _ := connect(t, nil, replies(map[string]string{"LIST": "-ERR [IN-USE] try again\r\n", "STAT": reply}))
		if _, err := c.ListAll(t.Context()); !errors.Is(err, want) || errors.Is(err, pop3.CodeInUse) {
			t.Errorf("STAT answered %q: %v, want %v", reply, err, want)
		}
		closed(t, c, want)
	}
	c, _ := connect(t, nil, replies(map[string]string{"LIST": "-ERR [IN-USE] try again\r\n", "STAT": "-ERR\r\n"}))
	if _, err := c.ListAll(t.Context()); !errors.Is(err, pop3.CodeInUse) {
		t.Errorf("STAT refused: %v, want LIST's refusal", err)
	}
	usable(t, c)
}

// odd is a conn with some methods of its own.
type odd struct {
	net.Conn
	remote   net.Addr
	deadline error
	read     error
	closed   chan struct{}
}

func (o *odd) NetConn() net.Conn { return o.Conn }

func (o *odd) RemoteAddr() net.Addr {
	if o.remote != nil {
		return o.remote
	}
	return o.Conn.RemoteAddr()
}

func (o *odd) SetDeadline(by time.Time) error {
	if o.deadline != nil {
		return o.deadline
	}
	return o.Conn.SetDeadline(by)
}

func (o *odd) Read(p []byte) (int, error) {
	n, err := o.Conn.Read(p)
	if err != nil && o.read != nil {
		err = o.read
	}
	return n, err
}

func (o *odd) Close() error {
	close(o.closed)
	return o.Conn.Close()
}

// oddClient is a client of a server that hangs up at NOOP, over an odd conn.
func oddClient(t *testing.T, o *odd) (*pop3.Client, *peer, error) {
	conn, far := pop3test.Pipe()
	p := serve(t, far, "+OK ready\r\n", replies(map[string]string{"NOOP": hangUp}))
	o.Conn, o.closed = conn, make(chan struct{})
	c, err := pop3.NewClient(t.Context(), o, nil)
	return c, p, err
}

// What is under a conn that is no TLS is its own business: not who the peer is,
// and not what is closed.
func TestConnOfConn(t *testing.T) {
	o := &odd{remote: &net.TCPAddr{IP: net.IPv4(203, 0, 113, 5), Port: 110}}
	c, p, err := oddClient(t, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.User(t.Context(), "ada"); !errors.Is(err, pop3.ErrInsecureAuth) || len(p.received()) > 0 {
		t.Errorf("User: %v, want ErrInsecureAuth; the server got %q", err, p.received())
	}
	c.Close()
	<-o.closed
}

// A conn without deadlines would make every wait endless.
func TestNoDeadlines(t *testing.T) {
	want := errors.New("deadlines are not supported")
	if _, _, err := oddClient(t, &odd{deadline: want}); !errors.Is(err, want) || !strings.Contains(err.Error(), "Options.Timeout") {
		t.Errorf("NewClient: %v, want %v and a hint", err, want)
	}
}

// A timeout of the network's own is not Options.Timeout's.
func TestForeignTimeout(t *testing.T) {
	c, _, err := oddClient(t, &odd{read: &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ETIMEDOUT)}})
	if err != nil {
		t.Fatal(err)
	}
	err = c.Noop(t.Context())
	if !errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, os.ErrDeadlineExceeded) || strings.Contains(err.Error(), "3m0s") {
		t.Errorf("Noop: %v, want ETIMEDOUT alone", err)
	}
	opts := &pop3.Options{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.DNSError{Err: "i/o timeout", Name: "pop.example.com", IsTimeout: true}
	}}
	var dns *net.DNSError
	if _, err := pop3.Dial(t.Context(), "pop.example.com", opts); !errors.As(err, &dns) || strings.Contains(err.Error(), "3m0s") {
		t.Errorf("Dial: %v, want the resolver's timeout", err)
	}
}

// A password that looks like a response code does not hide one.
func TestSecretLikeCode(t *testing.T) {
	c, _ := connect(t, nil, replies(map[string]string{"PASS": "-ERR [AUTH] AUTH is wrong\r\n"}))
	err := c.Pass(t.Context(), "AUTH")
	var refused *pop3.Error
	if !errors.Is(err, pop3.CodeAuth) || !errors.As(err, &refused) || refused.Text != "*** is wrong" {
		t.Errorf("Pass: %v, want CodeAuth and a masked text", err)
	}
}

// The trace of a session that breaks off shows what came, ends each command, and
// gives none the reply of another.
func TestTraceOfFailure(t *testing.T) {
	var lines, started, done []string
	opts := &pop3.Options{Trace: &pop3.Trace{
		LineReceived: func(_ context.Context, line string) { lines = append(lines, line) },
		CommandStart: func(_ context.Context, info pop3.CommandInfo) { started = append(started, info.Command) },
		CommandDone: func(_ context.Context, info pop3.CommandInfo) {
			done = append(done, info.Command)
			if info.Command == "RETR" && info.Number > 1 && (info.Reply != "" || info.Err == nil) {
				t.Errorf("RETR %d: reply %q, error %v", info.Number, info.Reply, info.Err)
			}
		},
	}}
	c, _ := connect(t, opts, func(line string) string {
		switch line {
		case "CAPA":
			return pipelining
		case "RETR 1":
			return "+OK 5 octets\r\nabc\r\n.\r\n"
		}
		return hangUp
	})
	for m, err := range c.RetrAll(t.Context(), numbers(4)) {
		if err == nil {
			io.Copy(io.Discard, m)
		}
	}
	if !slices.Equal(started, done) || len(done) != 5 {
		t.Errorf("started %q, done %q", started, done)
	}
	// The same where the loop is left and the drain fails.
	started, done = nil, nil
	c, _ = connect(t, opts, replies(map[string]string{"CAPA": pipelining, "RETR": "+OK\r\n"}))
	for range c.RetrAll(t.Context(), numbers(4)) {
		c.Close()
		break
	}
	if !slices.Equal(started, done) || len(done) != 5 {
		t.Errorf("loop left: started %q, done %q", started, done)
	}

	script, err := pop3test.ParseScript("broken", []byte("S: +OK ready\nC: CAPA\nS: +OK\nS: TOP\nS: UIDL\nSq: \"SA\"\nclose\n"))
	if err != nil {
		t.Fatal(err)
	}
	lines = nil
	conn, far := pop3test.Pipe()
	go script.Serve(far)
	if c, err = pop3.NewClient(t.Context(), conn, opts); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Capa(t.Context()); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Capa: %v, want ErrUnexpectedEOF", err)
	}
	if want := []string{"+OK ready", "+OK", "TOP", "UIDL"}; !slices.Equal(lines, want) {
		t.Errorf("received %q, want %q", lines, want)
	}
}
