package hostile_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// canary is a password that no other text holds.
const canary = "tweet canary 4711"

// A record is all that could be read by somebody who should not know.
type record struct {
	mu sync.Mutex
	b  strings.Builder
}

func (r *record) add(where string, v any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, format := range []string{"%+v", "%#v", "%s", "%d"} {
		fmt.Fprintf(&r.b, where+": "+format+"\n", v)
	}
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(p)
}

// A parrot is a server that repeats what it was told. It asks a question when
// the client begins a SASL exchange, and ends it with the reply.
type parrot struct {
	challenge []string // for lines of an exchange, in turn; "%s" is what came last
	reply     string   // "%s" is what came last
	told      func(line string) string
}

func (p parrot) serve(conn net.Conn, heard chan<- string) {
	defer conn.Close()
	io.WriteString(conn, "+OK <1.2@parrot>\r\n")
	r := bufio.NewReader(conn)
	var left []string
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSuffix(line, "\r\n")
		select {
		case heard <- line:
		default:
		}
		verb, arg, _ := strings.Cut(line, " ")
		switch verb {
		case "CAPA":
			io.WriteString(conn, "+OK\r\nUSER\r\n.\r\n")
			continue
		case "USER", "NOOP":
			io.WriteString(conn, "+OK\r\n")
			continue
		case "PASS":
			line = arg
		case "APOP":
			_, line, _ = strings.Cut(arg, " ")
		case "AUTH":
			left = p.challenge
			if _, ir, ok := strings.Cut(arg, " "); ok {
				line = ir
			}
		}
		if len(left) > 0 {
			var c string
			c, left = left[0], left[1:]
			if strings.Contains(c, "%s") {
				c = "+ " + base64.StdEncoding.EncodeToString([]byte(strings.ReplaceAll(c, "%s", p.told(line))))
			}
			io.WriteString(conn, c+"\r\n")
			continue
		}
		io.WriteString(conn, strings.ReplaceAll(p.reply, "%s", p.told(line))+"\r\n")
	}
}

// raw is a line as it is, decoded what is in it.
func raw(line string) string { return line }

func decoded(line string) string {
	if b, err := base64.StdEncoding.DecodeString(line); err == nil {
		return string(bytes.Map(func(r rune) rune {
			if r == '\n' || r == '\r' {
				return ' '
			}
			return r
		}, b))
	}
	return line
}

// What is secret never shows: not in errors, not in what %+v makes of any value,
// from without or from a hook in the middle of the exchange, not in a trace or a
// log; and not if the server repeats it. node-pop3#37 had the password in its
// errors.
func TestSecrets(t *testing.T) {
	t.Parallel()
	paths := map[string]struct {
		call      func(context.Context, *pop3.Client) error
		value     any // the SASL, or nil
		challenge []string
	}{
		"PASS":  {call: func(ctx context.Context, c *pop3.Client) error { return c.Pass(ctx, canary) }},
		"APOP":  {call: func(ctx context.Context, c *pop3.Client) error { return c.APOP(ctx, "user", canary) }},
		"Login": {call: func(ctx context.Context, c *pop3.Client) error { return c.Login(ctx, "user", canary) }},
		"PASS with spaces around": {call: func(ctx context.Context, c *pop3.Client) error {
			return c.Pass(ctx, "\u00a0 "+canary+"  ")
		}},
		"PASS with a space ahead": {call: func(ctx context.Context, c *pop3.Client) error {
			return c.Pass(ctx, " "+canary)
		}},
	}
	for name, test := range map[string]struct {
		s         pop3.SASL
		challenge []string
	}{
		"PLAIN":          {pop3.PlainAuth("", "user", canary), nil},
		"PLAIN spaced":   {pop3.PlainAuth("", "user", canary+" "), nil},
		"PLAIN long":     {pop3.PlainAuth(strings.Repeat("i", 200), "user", canary), []string{"+"}},
		"LOGIN":          {pop3.LoginAuth("user", canary), []string{"+ VXNlcm5hbWU6", "+ UGFzc3dvcmQ6"}},
		"CRAM-MD5":       {pop3.CRAMMD5Auth("user", canary), []string{"+ PDEuMkBwYXJyb3Q+"}},
		"SCRAM-SHA-1":    {pop3.SCRAMSHA1Auth("user", canary), nil},
		"SCRAM-SHA-256":  {pop3.SCRAMSHA256Auth("user", canary), []string{"%s", "%s"}},
		"SCRAM error":    {pop3.SCRAMSHA256Auth("user", canary), []string{"e=%s"}},
		"XOAUTH2":        {pop3.XOAuth2Auth("user", canary), []string{"+"}},
		"XOAUTH2 status": {pop3.XOAuth2Auth("user", canary), []string{"+", `{"status":"%s"}`}},
		"BEARER":         {pop3.OAuthBearerAuth("user", canary), []string{"+"}},
		"BEARER status":  {pop3.OAuthBearerAuth("user", canary), []string{"+", `{"status":"%s"}`}},
		"not base64":     {pop3.LoginAuth(canary, canary), []string{"+ VXNlcm5hbWU6", "+ %%%"}},
	} {
		paths[name] = struct {
			call      func(context.Context, *pop3.Client) error
			value     any
			challenge []string
		}{func(ctx context.Context, c *pop3.Client) error { return c.Auth(ctx, test.s) }, test.s, test.challenge}
	}
	for name, path := range paths {
		for _, reply := range []string{"-ERR", "-ERR no such password: %s", "-ERR [%s] no", "%s", "+OK %s", "+ %s",
			strings.Repeat("x", 3000) + "%s"} {
			for how, told := range map[string]func(string) string{"raw": raw, "decoded": decoded} {
				t.Run(name+" "+how+" "+reply[:min(len(reply), 30)], func(t *testing.T) {
					parrotTest(t, path.call, path.value, parrot{path.challenge, reply, told})
				})
			}
		}
	}
}

func parrotTest(t *testing.T, call func(context.Context, *pop3.Client) error, value any, p parrot) {
	seen := new(record)
	log := slog.New(slog.NewTextHandler(seen, &slog.HandlerOptions{Level: slog.Level(-100)}))
	trace := pop3.LogTrace(log)
	var c *pop3.Client
	look := func(where string) {
		if c != nil {
			seen.add(where+" client", c)
			seen.add(where+" reply", c.LastReply())
			seen.add(where+" Err", c.Err())
		}
	}
	trace.CommandStart = func(_ context.Context, info pop3.CommandInfo) { seen.add("start", info); look("start") }
	done, sent, received := trace.CommandDone, trace.LineSent, trace.LineReceived
	trace.CommandDone = func(ctx context.Context, info pop3.CommandInfo) {
		seen.add("done", info)
		look("done")
		done(ctx, info)
	}
	trace.LineSent = func(ctx context.Context, line string) { seen.add("sent", line); look("sent"); sent(ctx, line) }
	trace.LineReceived = func(ctx context.Context, line string) {
		seen.add("received", line)
		look("received")
		received(ctx, line)
	}
	opts := &pop3.Options{Trace: trace}
	near, far := pop3test.Pipe()
	served := make(chan bool)
	heard := make(chan string, 100)
	go func() {
		defer close(served)
		p.serve(far, heard)
	}()
	var err error
	c, err = pop3.NewClient(t.Context(), near, opts)
	if err != nil {
		t.Fatal(err)
	}
	seen.add("value", value)
	log.Debug("value", "value", value)
	err = call(t.Context(), c)
	seen.add("error", err)
	for e := err; e != nil; e = errors.Unwrap(e) {
		seen.add("wrapped", e)
	}
	var refused *pop3.Error
	if errors.As(err, &refused) {
		seen.add("Error", *refused)
	}
	look("after")
	seen.add("value", value)
	seen.add("options", opts)
	err = c.Noop(t.Context())
	seen.add("next error", err)
	c.Close()
	<-served
	close(heard)

	secrets := []string{canary, "canary 4711"}
	for line := range heard {
		for _, prefix := range []string{"PASS ", "APOP user ", "AUTH PLAIN ", "AUTH SCRAM-SHA-1 ", "AUTH SCRAM-SHA-256 "} {
			line = strings.TrimPrefix(line, prefix)
		}
		if !strings.HasPrefix(line, "AUTH ") && !strings.HasPrefix(line, "USER ") && len(line) > 5 {
			if !strings.HasPrefix(decoded(line), "n,,n=") { // SCRAM's first: a user name and a nonce
				secrets = append(secrets, strings.TrimSpace(line))
			}
		}
	}
	text := seen.b.String()
	for _, secret := range secrets {
		for _, form := range []string{secret, fmt.Sprintf("%x", secret), strings.Trim(fmt.Sprint([]byte(secret)), "[]"),
			strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", []byte(secret)), "[]byte{"), "}")} {
			if i := strings.Index(text, form); i >= 0 {
				t.Errorf("%q shows in %q", secret, text[max(0, i-120):min(len(text), i+len(form)+60)])
				return
			}
		}
	}
}
