package interop

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"example.com/pop3"
)

// A session is what a check works with: a server, and an account that no other check uses.
type session struct {
	*machine
	*account
	ports []string // the client's, one for each connection
	tried []string // the outcome of each attempt that logged has looked for
}

// clientContext returns a context that ends a check that hangs.
func clientContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// options returns options that trust the server's CA.
func (s *session) options() *pop3.Options {
	return &pop3.Options{TLSConfig: &tls.Config{RootCAs: s.Pool()}, DialContext: s.dialTCP}
}

// dialTCP notes the client's port, by which some servers' logs name a session.
func (s *session) dialTCP(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err == nil {
		s.ports = append(s.ports, port(conn.LocalAddr().String()))
	}
	return conn, err
}

// dial connects without TLS. If opts is nil, it uses those of s.options.
func (s *session) dial(t *testing.T, opts *pop3.Options) *pop3.Client {
	t.Helper()
	return s.via(t, pop3.Dial, s.plain, opts)
}

func (s *session) dialTLS(t *testing.T, opts *pop3.Options) *pop3.Client {
	t.Helper()
	return s.via(t, pop3.DialTLS, s.tls, opts)
}

type dialFunc = func(context.Context, string, *pop3.Options) (*pop3.Client, error)

func (s *session) via(t *testing.T, dial dialFunc, addr string, opts *pop3.Options) *pop3.Client {
	t.Helper()
	if opts == nil {
		opts = s.options()
	}
	c, err := dial(clientContext(t), addr, opts)
	ok(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// userPass sends USER and PASS.
func (s *session) userPass(ctx context.Context, c *pop3.Client) error {
	if err := c.User(ctx, s.user); err != nil {
		return err
	}
	return c.Pass(ctx, s.password)
}

// login connects and logs in with USER and PASS. It repeats that after a refusal, because a server may not have noticed
// yet that an earlier session left the maildrop without QUIT, and not every server says [IN-USE] then.
func (s *session) login(t *testing.T, opts *pop3.Options) *pop3.Client {
	t.Helper()
	ctx := clientContext(t)
	for {
		c := s.dial(t, opts)
		err := s.userPass(ctx, c)
		if err == nil {
			return c
		}
		var refusal *pop3.Error
		if !errors.As(err, &refusal) || refusal.Err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}

// reopen logs in after a session that left n messages. Courier deletes after it has answered QUIT, and the next session may
// see any part of that: with Courier alone reopen tries again.
func (s *session) reopen(t *testing.T, n int) *pop3.Client {
	t.Helper()
	ctx := clientContext(t)
	for {
		c := s.login(t, nil)
		got, _, err := c.Stat(ctx)
		ok(t, err)
		if got == n {
			return c
		}
		if s.server.has&commitsFirst != 0 {
			t.Fatalf("STAT counts %d messages, want %d", got, n)
		}
		quit(t, c)
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused checks that err is an ordinary -ERR with that response code. Servers without authCode need not send CodeAuth.
func (s *session) refused(t *testing.T, err error, code pop3.Code) *pop3.Error {
	t.Helper()
	var refusal *pop3.Error
	if !errors.As(err, &refusal) || refusal.Err != nil {
		t.Fatalf("got %v, want a refusal", err)
	}
	if code == pop3.CodeAuth && s.server.has&authCode == 0 {
		code = ""
	}
	if refusal.Code != code {
		t.Errorf("code %q, want %q: %v", refusal.Code, code, err)
	}
	return refusal
}

// count checks that STAT counts n messages.
func count(t *testing.T, c *pop3.Client, n int) {
	t.Helper()
	got, _, err := c.Stat(clientContext(t))
	ok(t, err)
	if got != n {
		t.Errorf("STAT counts %d messages, want %d", got, n)
	}
}

func quit(t *testing.T, c *pop3.Client) {
	t.Helper()
	ok(t, c.Quit(clientContext(t)))
}

// read returns the message, if err is nil.
func read(t *testing.T, m *pop3.Message, err error) []byte {
	t.Helper()
	ok(t, err)
	var b bytes.Buffer
	_, err = m.WriteTo(&b)
	ok(t, err)
	return b.Bytes()
}

// same reports the first difference between two messages.
func same(t *testing.T, name string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	t.Errorf("%s: %d octets, want %d; they differ from octet %d on: got %q, want %q", name, len(got), len(want), i,
		got[i:min(i+40, len(got))], want[i:min(i+40, len(want))])
}

// numbers returns 1 to n.
func numbers(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i + 1
	}
	return list
}

// A dialogue holds the lines of a session, each behind "C: " or "S: ".
type dialogue struct{ lines []string }

func (d *dialogue) trace() *pop3.Trace {
	add := func(who string) func(context.Context, string) {
		return func(_ context.Context, line string) {
			d.lines = append(d.lines, who+line)
		}
	}
	return &pop3.Trace{LineSent: add("C: "), LineReceived: add("S: ")}
}

// attempts returns the method of each login that was tried: the mechanism, APOP, or USER for a name and a password.
func (d *dialogue) attempts() (methods []string) {
	for _, line := range d.lines {
		switch words := strings.Fields(line); {
		case words[0] != "C:":
		case words[1] == "AUTH":
			methods = append(methods, words[2])
		case words[1] == "APOP":
			methods = append(methods, "APOP")
		case words[1] == "PASS":
			methods = append(methods, "USER")
		}
	}
	return methods
}

// ahead returns the largest number of commands with that verb that were sent before the server answered.
func (d *dialogue) ahead(verb string) int {
	most, now := 0, 0
	for _, line := range d.lines {
		if strings.HasPrefix(line, "C: "+verb) {
			now++
			most = max(most, now)
		} else {
			now = 0
		}
	}
	return most
}

// dropsBehindPass shows that the server drops the commands that come with PASS, and that the client sends none there.
func dropsBehindPass(t *testing.T, s *session) {
	conn, err := net.Dial("tcp", s.plain)
	ok(t, err)
	defer conn.Close()
	text := textproto.NewConn(conn)
	for _, commands := range []string{"", "USER " + s.user, "PASS " + s.password + "\r\nSTAT\r\nLIST", "QUIT"} {
		if commands != "" {
			ok(t, text.PrintfLine("%s", commands))
		}
		line, err := text.ReadLine()
		ok(t, err)
		if !strings.HasPrefix(line, "+OK") {
			t.Fatalf("%q is answered %q", commands, line)
		}
	}
	if line, err := text.ReadLine(); err == nil {
		t.Errorf("behind the answer to QUIT comes %q", line)
	}

	var d dialogue
	opts := s.options()
	opts.Trace = d.trace()
	c := s.login(t, opts)
	for m, err := range c.RetrAll(clientContext(t), numbers(2)) {
		got := read(t, m, err)
		same(t, fmt.Sprint("message ", m.Number), got, s.mail[m.Number-1].wire())
	}
	for i, line := range d.lines {
		if strings.HasPrefix(line, "C: PASS") && !strings.HasPrefix(d.lines[i+1], "S: ") {
			t.Errorf("%q follows PASS", d.lines[i+1])
		}
	}
	if d.ahead("RETR") != 2 {
		t.Errorf("not pipelined: %q", d.lines)
	}
}
