package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"os"

	"example.com/pop3"
)

// findSecret reads the password or token from the environment, or else from a
// line of standard input.
func (j *job) findSecret(ctx context.Context) error {
	variable, secret := "POP3_PASSWORD", "password"
	if j.auth == "xoauth2" || j.auth == "oauthbearer" {
		variable, secret = "POP3_TOKEN", "token"
	}
	if j.secret = j.env(variable); j.secret != "" {
		return nil
	}
	if t, ok := j.stdin.(terminal); ok {
		defer j.prompt(t, secret)()
	}
	line := make(chan string, 1)
	go func() { // a read of standard input cannot be interrupted
		in := bufio.NewScanner(j.stdin)
		in.Scan()
		line <- in.Text()
	}()
	select {
	case j.secret = <-line:
	case <-ctx.Done():
		return fmt.Errorf("waiting for the %s: %w", secret, ctx.Err())
	}
	if j.secret == "" {
		return usageError(fmt.Sprintf("no %s: it is read from %s or from standard input", secret, variable))
	}
	return nil
}

// prompt asks for a secret. The function that it returns is called afterwards.
func (j *job) prompt(t terminal, secret string) (done func()) {
	restore, ok := t.hideInput()
	if !ok {
		fmt.Fprintf(j.stderr, "%s for %s (it will be visible): ", secret, j.user)
		return func() {}
	}
	fmt.Fprintf(j.stderr, "%s for %s: ", secret, j.user)
	return func() {
		restore()
		fmt.Fprintln(j.stderr) // the line break was not echoed either
	}
}

// A terminal is where a person types, or reads.
type terminal interface {
	io.ReadWriter

	// hideInput turns off the echo of what is typed. ok is false if it cannot.
	hideInput() (restore func(), ok bool)
}

type tty struct{ *os.File }

// withTerminal returns f, as a terminal if it is one.
func withTerminal(f *os.File) io.ReadWriter {
	if isTerminal(f) {
		return tty{f}
	}
	return f
}

// connect connects and logs in.
func (j *job) connect(ctx context.Context) (*pop3.Client, error) {
	var handshake error
	opts := *j.opts
	opts.Trace = pop3.MultiTrace(opts.Trace, &pop3.Trace{
		TLSHandshakeDone: func(_ context.Context, _ tls.ConnectionState, err error) { handshake = err },
	})
	c, err := j.dial(ctx, j.addr, &opts)
	if handshake != nil {
		return nil, &handshakeError{err}
	} else if err != nil {
		return nil, err
	}
	if err := logins[j.auth](ctx, c, j.user, j.secret); err != nil {
		c.Close()
		return nil, &loginError{err}
	}
	return c, nil
}

// logins are the methods of -auth.
var logins = map[string]func(ctx context.Context, c *pop3.Client, user, secret string) error{
	"auto": func(ctx context.Context, c *pop3.Client, user, secret string) error {
		return c.Login(ctx, user, secret)
	},
	"apop": func(ctx context.Context, c *pop3.Client, user, secret string) error { return c.APOP(ctx, user, secret) },
	"user": func(ctx context.Context, c *pop3.Client, user, secret string) error {
		if err := c.User(ctx, user); err != nil {
			return err
		}
		return c.Pass(ctx, secret)
	},
	"plain":         sasl(func(user, secret string) pop3.SASL { return pop3.PlainAuth("", user, secret) }),
	"login":         sasl(pop3.LoginAuth),
	"cram-md5":      sasl(pop3.CRAMMD5Auth),
	"scram-sha-1":   sasl(pop3.SCRAMSHA1Auth),
	"scram-sha-256": sasl(pop3.SCRAMSHA256Auth),
	"xoauth2":       sasl(pop3.XOAuth2Auth),
	"oauthbearer":   sasl(pop3.OAuthBearerAuth),
}

func sasl(mechanism func(user, secret string) pop3.SASL) func(context.Context, *pop3.Client, string, string) error {
	return func(ctx context.Context, c *pop3.Client, user, secret string) error {
		return c.Auth(ctx, mechanism(user, secret))
	}
}
