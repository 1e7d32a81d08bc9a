package interop

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/pop3"
)

// A session is what a check works with: a server, and an account of its own there.
type session struct {
	*machine
	user string
	mail []sample
}

// clientContext ends a check that hangs; no check comes near it.
func clientContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// options trust the server's CA.
func (s *session) options() *pop3.Options {
	return &pop3.Options{TLSConfig: &tls.Config{RootCAs: s.roots}}
}

// dial connects without TLS; opts may be nil.
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

// login opens the maildrop with USER and PASS. A maildrop just left without QUIT may be locked for a moment yet, and not
// every server says so by [IN-USE], so a refusal is tried again.
func (s *session) login(t *testing.T, opts *pop3.Options) *pop3.Client {
	t.Helper()
	ctx := clientContext(t)
	for {
		c := s.dial(t, opts)
		err := c.User(ctx, s.user)
		if err == nil {
			err = c.Pass(ctx, password)
		}
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

// reopen logs in after a session that left n messages. Courier answers QUIT and then deletes, and the next session may see
// any part of that; for it alone the count is tried again.
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

// refused checks that err is an ordinary -ERR, with that code if the server sends codes.
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

// count checks that the session lists n messages.
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

// read returns a message's octets.
func read(t *testing.T, m *pop3.Message, err error) []byte {
	t.Helper()
	ok(t, err)
	var b bytes.Buffer
	_, err = m.WriteTo(&b)
	ok(t, err)
	return b.Bytes()
}

// same compares by hash, and says where the difference begins.
func same(t *testing.T, name string, got, want []byte) {
	t.Helper()
	if sha256.Sum256(got) == sha256.Sum256(want) {
		return
	}
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	t.Errorf("%s: %d octets, want %d; they differ from octet %d on: got %q, want %q", name, len(got), len(want), i,
		got[i:min(i+40, len(got))], want[i:min(i+40, len(want))])
}

// numbers are 1 to n.
func numbers(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i + 1
	}
	return list
}

// A dialogue keeps the lines of a session, "C: " or "S: " before each.
type dialogue struct{ lines []string }

func (d *dialogue) trace() *pop3.Trace {
	add := func(who string) func(context.Context, string) {
		return func(_ context.Context, line string) {
			d.lines = append(d.lines, who+line)
		}
	}
	return &pop3.Trace{LineSent: add("C: "), LineReceived: add("S: ")}
}

// method is the mechanism of the session's AUTH, or USER.
func (d *dialogue) method() string {
	for _, line := range d.lines {
		if words := strings.Fields(line); words[0] == "C:" && words[1] == "AUTH" {
			return words[2]
		} else if words[0] == "C:" && words[1] == "USER" {
			return "USER"
		}
	}
	return ""
}

// ahead is the most commands that verb began without a line from the server in between.
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

// strongest is what Login is to choose of the mechanisms offered: a challenge that TLS does not make pointless before
// the password itself.
func strongest(offered []string, overTLS bool) string {
	for _, mech := range []string{"SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN"} {
		if slices.Contains(offered, mech) && !(mech == "CRAM-MD5" && overTLS) {
			return mech
		}
	}
	return "USER"
}
