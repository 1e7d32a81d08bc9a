package hostile_test

import (
	"context"
	"strings"
	"testing"

	"example.com/pop3"
)

// mechanism is a SASL whose name the test chooses.
type mechanism string

func (m mechanism) Start() (string, []byte, error) { return string(m), []byte("ir"), nil }
func (mechanism) Next([]byte) ([]byte, error)      { return nil, nil }

// Every control octet in every string that goes into a command is refused with
// nothing written: CVE-2025-15367, node-pop3 and net-pop let a CRLF in a user
// name send commands of its own.
func TestInjection(t *testing.T) {
	t.Parallel()
	arguments := map[string]func(context.Context, *pop3.Client, string) error{
		"User":            func(ctx context.Context, c *pop3.Client, s string) error { return c.User(ctx, s) },
		"Pass":            func(ctx context.Context, c *pop3.Client, s string) error { return c.Pass(ctx, s) },
		"APOP's user":     func(ctx context.Context, c *pop3.Client, s string) error { return c.APOP(ctx, s, "secret") },
		"APOP's secret":   func(ctx context.Context, c *pop3.Client, s string) error { return c.APOP(ctx, "user", s) },
		"RPOP":            func(ctx context.Context, c *pop3.Client, s string) error { return c.RPOP(ctx, s) },
		"Login's user":    func(ctx context.Context, c *pop3.Client, s string) error { return c.Login(ctx, s, "pass") },
		"Login's pass":    func(ctx context.Context, c *pop3.Client, s string) error { return c.Login(ctx, "user", s) },
		"Lang":            func(ctx context.Context, c *pop3.Client, s string) error { _, err := c.Lang(ctx, s); return err },
		"Auth's name":     auth(func(s string) pop3.SASL { return mechanism(s) }),
		"PLAIN's id":      auth(func(s string) pop3.SASL { return pop3.PlainAuth(s, "user", "pass") }),
		"PLAIN's user":    auth(func(s string) pop3.SASL { return pop3.PlainAuth("", s, "pass") }),
		"PLAIN's pass":    auth(func(s string) pop3.SASL { return pop3.PlainAuth("", "user", s) }),
		"LOGIN's user":    auth(func(s string) pop3.SASL { return pop3.LoginAuth(s, "pass") }),
		"LOGIN's pass":    auth(func(s string) pop3.SASL { return pop3.LoginAuth("user", s) }),
		"CRAM's user":     auth(func(s string) pop3.SASL { return pop3.CRAMMD5Auth(s, "pass") }),
		"CRAM's secret":   auth(func(s string) pop3.SASL { return pop3.CRAMMD5Auth("user", s) }),
		"SCRAM-1's user":  auth(func(s string) pop3.SASL { return pop3.SCRAMSHA1Auth(s, "pass") }),
		"SCRAM-1's pass":  auth(func(s string) pop3.SASL { return pop3.SCRAMSHA1Auth("user", s) }),
		"SCRAM's user":    auth(func(s string) pop3.SASL { return pop3.SCRAMSHA256Auth(s, "pass") }),
		"SCRAM's pass":    auth(func(s string) pop3.SASL { return pop3.SCRAMSHA256Auth("user", s) }),
		"XOAUTH2's user":  auth(func(s string) pop3.SASL { return pop3.XOAuth2Auth(s, "token") }),
		"XOAUTH2's token": auth(func(s string) pop3.SASL { return pop3.XOAuth2Auth("user", s) }),
		"BEARER's user":   auth(func(s string) pop3.SASL { return pop3.OAuthBearerAuth(s, "token") }),
		"BEARER's token":  auth(func(s string) pop3.SASL { return pop3.OAuthBearerAuth("user", s) }),
		"EXTERNAL":        auth(func(s string) pop3.SASL { return pop3.ExternalAuth(s) }),
		"ANONYMOUS":       auth(func(s string) pop3.SASL { return pop3.AnonymousAuth(s) }),
	}
	controls := []byte{0x7F}
	for b := range byte(' ') {
		controls = append(controls, b)
	}
	c, p := connect(t, nil, replies(nil))
	for name, call := range arguments {
		for _, b := range controls {
			for _, s := range []string{string([]byte{b}), string([]byte{b}) + "DELE 1", "name" + string([]byte{b}), "na" + string([]byte{b}) + "\nDELE 1"} {
				if err := call(t.Context(), c, s); err == nil {
					t.Errorf("%s took %q", name, s)
				} else if strings.Contains(err.Error(), "DELE") || strings.ContainsAny(err.Error(), "\r\n\x00") {
					t.Errorf("%s says what it was given: %q", name, err.Error())
				}
			}
		}
	}
	if got := p.received(); len(got) > 0 {
		t.Errorf("written: %q", got)
	}
	usable(t, c)
}

func auth(s func(string) pop3.SASL) func(context.Context, *pop3.Client, string) error {
	return func(ctx context.Context, c *pop3.Client, arg string) error { return c.Auth(ctx, s(arg)) }
}

// A mechanism's name is one word, or it would be an initial response too; a
// language tag has no room for a second argument, and none is a listing.
func TestWords(t *testing.T) {
	t.Parallel()
	c, p := connect(t, nil, replies(nil))
	for _, name := range []string{"", " ", "A B", "PLAIN =", " PLAIN"} {
		if err := c.Auth(t.Context(), mechanism(name)); err == nil {
			t.Errorf("a mechanism by the name of %q was sent", name)
		}
	}
	for _, tag := range []string{"", "de en", "**", "de*", "d\u00e9", "de_DE", " "} {
		if _, err := c.Lang(t.Context(), tag); err == nil {
			t.Errorf("the tag %q was sent", tag)
		}
	}
	if err := c.Auth(t.Context(), nil); err == nil {
		t.Error("no mechanism at all was sent")
	}
	if got := p.received(); len(got) > 0 {
		t.Errorf("written: %q", got)
	}
	usable(t, c)
}
