package interop

import (
	"context"
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// wrong returns a password that is as long as the right one.
func (s *session) wrong() string { return "?" + s.password[1:] }

// loginChecks try each method that a server offers with a wrong password and with the right one. They count the attempts,
// in the server's log too if it has one.
var loginChecks = []check{
	{name: "USER and PASS", mail: small(1), run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.dial(t, nil)
		ok(t, c.User(ctx, s.user))
		s.refused(t, c.Pass(ctx, s.wrong()), pop3.CodeAuth)
		if s.server.has&survives == 0 {
			// popa3d's -ERR is its last word.
			if err := c.User(ctx, s.user); err == nil || c.Err() == nil || !errors.Is(c.Noop(ctx), pop3.ErrClosed) {
				t.Errorf("USER after a refused PASS: %v, Err %v", err, c.Err())
			}
			c = s.dial(t, nil)
		}
		ok(t, s.userPass(ctx, c))
		count(t, c, 1)
		ok(t, c.Noop(ctx))
		quit(t, c)
		if err := c.Noop(ctx); !errors.Is(err, pop3.ErrClosed) {
			t.Errorf("after QUIT: %v", err)
		}
		s.logged(t, refused, accepted)
	}},
	{name: "APOP, or its refusal", lacks: hashes, mail: small(1), run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.dial(t, nil)
		if s.server.has&apop == 0 {
			err := c.APOP(ctx, s.user, s.password)
			if strings.Contains(c.Greeting(), "<") {
				s.refused(t, err, pop3.CodeAuth) // Mailutils, Twisted: a timestamp that promises nothing
			} else if !errors.Is(err, pop3.ErrUnsupported) {
				t.Error(err)
			}
			return
		}
		s.refused(t, c.APOP(ctx, s.user, s.wrong()), pop3.CodeAuth)
		ok(t, c.APOP(ctx, s.user, s.password))
		count(t, c, 1)
		s.logged(t, refused, accepted)
	}},
	authCheck("PLAIN"),
	authCheck("LOGIN"),
	authCheck("CRAM-MD5"),
	authCheck("SCRAM-SHA-1"),
	authCheck("SCRAM-SHA-256"),
	{name: "AUTH that the client cancels", mech: "LOGIN", mail: small(1), run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.dial(t, nil)
		givenUp := errors.New("given up") // at the first challenge: the client then sends "*" (RFC 5034 section 4)
		err := c.Auth(ctx, &pop3test.SASL{Mech: "LOGIN", Respond: func([]byte) ([]byte, error) { return nil, givenUp }})
		if !errors.Is(err, givenUp) {
			t.Errorf("got %v, want the mechanism's error", err)
		}
		ok(t, c.Auth(ctx, pop3.LoginAuth(s.user, s.password)))
		count(t, c, 1)
	}},
	{name: "AUTH after login", mail: small(1), run: func(t *testing.T, s *session) {
		c := s.login(t, nil)
		if err := c.Auth(clientContext(t), pop3.PlainAuth("", s.user, s.password)); err == nil {
			t.Error("a second login succeeds")
		}
		count(t, c, 1)
	}},
	{name: "Login", mail: small(1), run: func(t *testing.T, s *session) {
		s.tryLogin(t, pop3.Dial, s.plain, s.methods(false)...)
	}},
	{name: "Login over STLS", needs: starttls, mail: small(1), run: func(t *testing.T, s *session) {
		s.tryLogin(t, pop3.DialStartTLS, s.plain, s.methods(true)...)
	}},
	{name: "Login over TLS", needs: implicitTLS, mail: small(1), run: func(t *testing.T, s *session) {
		s.tryLogin(t, pop3.DialTLS, s.tls, s.methods(true)...)
	}},
	{name: "Login by an unknown user", run: func(t *testing.T, s *session) {
		var d dialogue
		opts := s.options()
		opts.Trace = d.trace()
		s.refused(t, s.dial(t, opts).Login(clientContext(t), "nobody-"+s.user, s.password), pop3.CodeAuth)
		want := s.methods(false)
		if len(want) == 1 && strings.HasPrefix(want[0], "SCRAM") {
			want = append(want, "PLAIN") // Dovecot refuses the name, before anything made from the password was sent
		}
		if got := d.attempts(); !slices.Equal(got, want[:min(len(got), len(want))]) || len(got) == 0 {
			t.Errorf("logged in by %v, want %v or its beginning", got, want)
		}
	}},
	{name: "user name of 4,000 octets", run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.dial(t, nil)
		err := c.User(ctx, strings.Repeat("x", 4000))
		if err == nil {
			err = c.Pass(ctx, s.password)
		}
		// Refused, disconnected or (Mailutils) echoed: an error, and at once.
		if err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	}},
}

// passwordAuth holds the mechanisms that Login may use.
var passwordAuth = map[string]func(user, password string) pop3.SASL{
	"PLAIN":         func(user, password string) pop3.SASL { return pop3.PlainAuth("", user, password) },
	"LOGIN":         pop3.LoginAuth,
	"CRAM-MD5":      pop3.CRAMMD5Auth,
	"SCRAM-SHA-1":   pop3.SCRAMSHA1Auth,
	"SCRAM-SHA-256": pop3.SCRAMSHA256Auth,
}

func authCheck(mech string) check {
	auth := passwordAuth[mech]
	var lacks feature
	if mech != "PLAIN" && mech != "LOGIN" {
		lacks = hashes
	}
	return check{name: "AUTH " + mech, lacks: lacks, mech: mech, mail: small(1), run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.dial(t, nil)
		s.refused(t, c.Auth(ctx, auth(s.user, s.wrong())), pop3.CodeAuth)
		ok(t, c.Auth(ctx, auth(s.user, s.password)))
		count(t, c, 1)
		quit(t, c)
		if s.server.has&implicitTLS != 0 {
			c = s.dialTLS(t, nil)
			ok(t, c.Auth(ctx, auth(s.user, s.password)))
			count(t, c, 1)
			quit(t, c)
			s.logged(t, refused, accepted, accepted)
		}
		s.refused(t, s.dial(t, nil).Auth(ctx, auth("nobody-"+s.user, s.password)), pop3.CodeAuth)
	}}
}

// tryLogin calls Login with a wrong password and, on another connection, with the right one. Login must use these methods
// and make one attempt with the password, by the last.
func (s *session) tryLogin(t *testing.T, dial dialFunc, addr string, methods ...string) {
	t.Helper()
	ctx := clientContext(t)
	var want []string
	for _, password := range []string{s.wrong(), s.password} {
		var d dialogue
		opts := s.options()
		opts.Trace = d.trace()
		c := s.via(t, dial, addr, opts)
		err := c.Login(ctx, s.user, password)
		if got := d.attempts(); !slices.Equal(got, methods) {
			t.Errorf("logged in by %v, want %v", got, methods)
		}
		want = append(want, slices.Repeat([]string{refused}, len(methods))...)
		if password == s.password {
			ok(t, err)
			count(t, c, 1)
			want[len(want)-1] = accepted
		} else if s.refused(t, err, pop3.CodeAuth); !strings.Contains(err.Error(), verb(methods[len(methods)-1])) {
			t.Errorf("%v does not name %v", err, methods)
		}
		if state, isTLS := c.TLSConnectionState(); isTLS && state.Version != tls.VersionTLS13 {
			t.Errorf("TLS version %x", state.Version)
		}
		c.Close()
	}
	s.logged(t, want...)
}

// verb returns what an error calls a method.
func verb(method string) string {
	if method == "USER" {
		return "PASS"
	}
	return "AUTH " + method
}

// methods returns what Login must try on the server, in order. Without TLS it prefers each challenge to the password itself.
// Behind a SCRAM that is refused before the password is used, it goes on to a method that every password store can serve.
func (s *session) methods(isTLS bool) []string {
	order := []string{"SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN"}
	if isTLS {
		order = []string{"SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN", "LOGIN", "CRAM-MD5"}
	}
	for _, mech := range order {
		switch {
		case !slices.Contains(s.server.sasl, mech):
		case s.server.has&hashes != 0 && strings.HasPrefix(mech, "SCRAM"):
			return []string{mech, "PLAIN"}
		default:
			return []string{mech}
		}
	}
	return []string{"USER"}
}

// logins tells how to find logins in a server's log.
type logins struct {
	file string // in the machine's folder; "" if there is none
	line string // matches each attempt of USER or from PORT; the group matches those that were refused
}

const (
	accepted = "accepted"
	refused  = "refused"
)

// logged checks that the server's log holds these attempts to log in as the session's user, after those of earlier calls,
// and no others before the last.
func (s *session) logged(t *testing.T, want ...string) {
	t.Helper()
	s.tried = append(s.tried, want...)
	log := s.server.log
	if log.file == "" {
		return
	}
	names := strings.NewReplacer("USER", regexp.QuoteMeta(s.user), "PORT", "(?:"+strings.Join(s.ports, "|")+")")
	line := regexp.MustCompile(names.Replace(log.line))
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for ctx := clientContext(t); ; { // the server may write its log after it has answered
		text, err := os.ReadFile(filepath.Join(s.dir, log.file))
		ok(t, err)
		var got []string
		for _, match := range line.FindAllSubmatch(text, -1) {
			if len(match[1]) > 0 {
				got = append(got, refused)
			} else {
				got = append(got, accepted)
			}
		}
		if len(got) >= len(s.tried) || ctx.Err() != nil {
			if !slices.Equal(got, s.tried) {
				t.Errorf("the log of %s has the attempts %v, want %v", s.server.name, got, s.tried)
			}
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}
