package hostile_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// canary is a password that no other text holds.
const canary = "Tweet-Canary-4711"

// constructors are all functions that return a SASL.
var constructors = map[string]func(state tls.ConnectionState) pop3.SASL{
	"PlainAuth":           func(tls.ConnectionState) pop3.SASL { return pop3.PlainAuth("", "user", canary) },
	"LoginAuth":           func(tls.ConnectionState) pop3.SASL { return pop3.LoginAuth("user", canary) },
	"CRAMMD5Auth":         func(tls.ConnectionState) pop3.SASL { return pop3.CRAMMD5Auth("user", canary) },
	"SCRAMSHA1Auth":       func(tls.ConnectionState) pop3.SASL { return pop3.SCRAMSHA1Auth("user", canary) },
	"SCRAMSHA256Auth":     func(tls.ConnectionState) pop3.SASL { return pop3.SCRAMSHA256Auth("user", canary) },
	"SCRAMSHA1PlusAuth":   func(s tls.ConnectionState) pop3.SASL { return pop3.SCRAMSHA1PlusAuth("user", canary, s) },
	"SCRAMSHA256PlusAuth": func(s tls.ConnectionState) pop3.SASL { return pop3.SCRAMSHA256PlusAuth("user", canary, s) },
	"XOAuth2Auth":         func(tls.ConnectionState) pop3.SASL { return pop3.XOAuth2Auth("user", canary) },
	"OAuthBearerAuth":     func(tls.ConnectionState) pop3.SASL { return pop3.OAuthBearerAuth("user", canary) },
	"ExternalAuth":        func(tls.ConnectionState) pop3.SASL { return pop3.ExternalAuth(canary) },
	"AnonymousAuth":       func(tls.ConnectionState) pop3.SASL { return pop3.AnonymousAuth(canary) },
}

// The table is complete.
func TestConstructors(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "../../commands.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, decl := range file.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Type.Results != nil {
			if result, ok := f.Type.Results.List[0].Type.(*ast.Ident); ok && result.Name == "SASL" {
				names = append(names, f.Name.Name)
			}
		}
	}
	slices.Sort(names)
	if want := slices.Sorted(maps.Keys(constructors)); !slices.Equal(names, want) {
		t.Errorf("commands.go has %q, the table %q", names, want)
	}
}

// A record is all that could be read by somebody who should not know.
type record struct{ bytes.Buffer }

var verbs = []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"}

// add prints a value in every way that package fmt has, and in logs.
func (r *record) add(where string, v any) {
	for _, verb := range verbs {
		fmt.Fprintf(r, where+": "+verb+"\n", v)
	}
	level := &slog.HandlerOptions{Level: slog.Level(-100)}
	slog.New(slog.NewTextHandler(r, level)).Debug(where, "value", v)
	slog.New(slog.NewJSONHandler(r, level)).Debug(where, "value", v)
	b, _ := json.Marshal(v)
	r.Write(b)
}

// holds fails the test if the record holds a secret in any form in which fmt shows octets.
func (r *record) holds(t *testing.T, secret []byte) {
	t.Helper()
	decimal := strings.Trim(fmt.Sprint(secret), "[]")
	goSyntax := strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", secret), "[]byte{"), "}")
	text := bytes.ToLower(r.Bytes())
	for _, form := range []string{string(secret), hex.EncodeToString(secret), decimal, strings.ReplaceAll(decimal, " ", ","), goSyntax,
		base64.StdEncoding.EncodeToString(secret)} {
		if i := bytes.Index(text, bytes.ToLower([]byte(form))); i >= 0 {
			t.Errorf("%.30q shows in %q", form, r.Bytes()[max(0, i-120):min(r.Len(), i+len(form)+60)])
			return
		}
	}
}

// A value that holds secrets does not print them: not itself, nor a pointer to it, nor what
// holds it in an exported or unexported field, in a slice or in a map.
func (r *record) everywhere(where string, v any) {
	s, _ := v.(pop3.SASL)
	c, _ := v.(*pop3.Client)
	type inside struct {
		S, s any
		t    struct{ v any }
	}
	for i, v := range []any{v, &v, struct{ V any }{v}, struct{ v any }{v}, &struct{ v any }{v}, []any{v}, map[string]any{"v": v},
		struct {
			S pop3.SASL
			s pop3.SASL
		}{s, s}, struct{ C, c *pop3.Client }{c, c}, []pop3.SASL{s}, map[pop3.SASL]*pop3.Client{s: c},
		inside{v, v, struct{ v any }{v}}, &inside{v, v, struct{ v any }{&v}}, fmt.Errorf("%v %w", v, errors.New("x"))} {
		r.add(fmt.Sprint(where, i), v)
	}
}

// What is secret is in nothing that is printed: the mechanisms before, in and behind an
// exchange, and a Client with all that is TLS in it, at rest and in the middle of a login.
func TestSecretsArePrinted(t *testing.T) {
	pop3test.NeedMD5(t)
	t.Parallel()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	authority := pop3test.NewAuthority("secrets")
	srv := pop3test.NewUnstartedServer()
	srv.TLS.ClientCAs = authority.Pool()
	srv.AddUser("user", canary).Token = canary
	for _, secure := range []bool{false, true} {
		for name, construct := range constructors {
			t.Run(fmt.Sprint(name, " TLS ", secure), func(t *testing.T) {
				var c *pop3.Client
				var s pop3.SASL
				seen, keys := new(record), new(bytes.Buffer)
				look := func(context.Context, string) {
					if c != nil {
						seen.everywhere("in exchange", c)
						seen.everywhere("in exchange", s)
					}
				}
				config := srv.ClientTLS()
				config.KeyLogWriter = keys
				config.Certificates = []tls.Certificate{authority.IssueFor(&x509.Certificate{}, key)}
				near, far := pop3test.Pipe()
				defer far.Close()
				go srv.ServeConn(far)
				client := client(t, near, &pop3.Options{TLSConfig: config, Trace: &pop3.Trace{LineReceived: look}})
				if secure {
					if err := client.StartTLS(t.Context(), nil); err != nil {
						t.Fatal(err)
					}
				}
				state, _ := client.TLSConnectionState()
				c, s = client, construct(state)
				look(nil, "")
				err := c.Auth(t.Context(), s)
				look(nil, "")
				seen.everywhere("error", err)
				seen.everywhere("pass", c.Pass(t.Context(), canary))
				look(nil, "")

				seen.holds(t, []byte(canary))
				if secure {
					seen.holds(t, key.Seed())
				}
				for line := range strings.Lines(keys.String()) { // label, client random, secret
					secret, _ := hex.DecodeString(strings.Fields(line)[2])
					seen.holds(t, secret)
				}
				if secure && keys.Len() == 0 {
					t.Error("no keys are known")
				}
			})
		}
	}
}

// A login is a way to send the canary, and what the server asks in between: "%s" is an
// echo of the client's line, in a challenge.
type login struct {
	call       func(context.Context, *pop3.Client) error
	challenges []string
}

// scramFirst stands for the challenge that a SCRAM server makes of the client's nonce.
const scramFirst = "r="

func logins() map[string]login {
	list := map[string]login{
		"PASS":                    {func(ctx context.Context, c *pop3.Client) error { return c.Pass(ctx, canary) }, nil},
		"PASS with spaces around": {func(ctx context.Context, c *pop3.Client) error { return c.Pass(ctx, " "+canary+"  ") }, nil},
		"APOP":                    {func(ctx context.Context, c *pop3.Client) error { return c.APOP(ctx, "user", canary) }, nil},
		"Login":                   {func(ctx context.Context, c *pop3.Client) error { return c.Login(ctx, "user", canary) }, nil},
		"PLAIN of another":        auth(pop3.PlainAuth(strings.Repeat("i", 200), "user", canary), "+"),
		"SCRAM error":             auth(pop3.SCRAMSHA256Auth("user", canary), "+", scramFirst, "e=%s"),
		"XOAUTH2 status":          auth(pop3.XOAuth2Auth("user", canary), "+", `{"status":"%s"}`),
		"OAUTHBEARER status":      auth(pop3.OAuthBearerAuth("user", canary), "+", `{"status":"%s"}`),
		"a challenge, no base64":  auth(pop3.LoginAuth("user", canary), "+", "+", "+ %%%"),
		"unknown mechanism":       auth(&pop3test.SASL{Mech: "X", IR: []byte(canary)}, "+"),
	}
	for name, construct := range constructors {
		s := construct(tls.ConnectionState{})
		switch {
		case name == "ExternalAuth", name == "AnonymousAuth": // have none
		case strings.Contains(name, "Plus"): // needs TLS, and sends what SCRAM does
		case strings.HasPrefix(name, "SCRAM"):
			list[name] = auth(s, "+", scramFirst)
		case name == "CRAMMD5Auth":
			list[name] = auth(s, "+ PDEuMkBwYXJyb3Q+")
		default:
			list[name] = auth(s, "+", "+")
		}
	}
	return list
}

func auth(s pop3.SASL, challenges ...string) login {
	return login{func(ctx context.Context, c *pop3.Client) error { return c.Auth(ctx, s) }, challenges}
}

// echoes are what a server makes of a line that it repeats.
var echoes = map[string]func(line string) string{
	"as it is":               func(line string) string { return line },
	"decoded":                decoded,
	"cut off":                func(line string) string { return line[:len(line)*3/4] },
	"decoded and cut off":    func(line string) string { return decoded(line)[:max(len(decoded(line))-2, 0)] },
	"upper case":             strings.ToUpper,
	"decoded and lower case": func(line string) string { return strings.ToLower(decoded(line)) },
	"the password":           func(string) string { return canary },
	"encoded":                func(string) string { return base64.StdEncoding.EncodeToString([]byte(canary)) },
}

func decoded(line string) string {
	if b, err := base64.StdEncoding.DecodeString(line); err == nil && len(b) > 3 {
		return strings.NewReplacer("\r", " ", "\n", " ", "\x01", "").Replace(string(b))
	}
	return line
}

// replies are where it repeats that.
var replies = []string{"-ERR no such password: %s", "-ERR [%s] no", "-ERR [AUTH] %s%s", "%s", "+OK %s", "+ %s", "+OK\r\n-ERR you said %s",
	"-ERR " + strings.Repeat("x", 500) + "%s", "+OK\r\n" + strings.Repeat("x", 500) + "%s", strings.Repeat("x", 3000) + "%s"}

// If the server repeats what it was told, neither an error nor a trace, a log or a reply
// has it, not even its beginning. node-pop3#37 had the password in its errors.
func TestEchoes(t *testing.T) {
	pop3test.NeedMD5(t)
	t.Parallel()
	for name, login := range logins() {
		for how, echo := range echoes {
			hashed := strings.HasPrefix(name, "CRAM") || strings.HasPrefix(name, "SCRAM")
			switch {
			case name == "PASS with spaces around" && how == "encoded": // that is another password
				continue
			case hashed && (how == "the password" || how == "encoded"): // it was not told
				continue
			}
			for _, reply := range replies {
				t.Run(fmt.Sprintf("%s, %s, %.20s", name, how, reply), func(t *testing.T) {
					testEcho(t, login, func(text, line string) string { return strings.ReplaceAll(text, "%s", echo(line)) }, reply)
				})
			}
		}
	}
}

func testEcho(t *testing.T, l login, echo func(text, line string) string, reply string) {
	var secrets []string
	left := l.challenges
	tape := pop3test.NewTape(greeting, func(line string) string {
		verb, rest, _ := strings.Cut(line, " ")
		switch verb {
		case "CAPA":
			return "+OK\r\nUSER\r\n.\r\n"
		case "USER", "NOOP":
			return "+OK\r\n"
		case "*":
			return "-ERR\r\n"
		case "PASS":
			line = strings.TrimSpace(rest)
		case "APOP":
			_, line, _ = strings.Cut(rest, " ")
		}
		first := strings.HasPrefix(decoded(line), "n,,n=") || decoded(line) == "user" // no secret
		if verb != "AUTH" && !first {
			_, digest, _ := strings.Cut(decoded(line), " ")
			header, proof, ok := strings.Cut(decoded(line), ",p=")
			encoded := line
			if ok { // what stands before SCRAM's proof is no secret
				encoded = line[(len(header+",p=")+2)/3*4:]
			}
			secrets = append(secrets, encoded, digest, proof)
		}
		if len(left) == 0 {
			return echo(reply, line) + "\r\n"
		}
		c := left[0]
		left = left[1:]
		switch {
		case c == scramFirst:
			c = "+ " + pop3test.SCRAMFirst(line)
		case strings.Contains(c, "%s"):
			c = "+ " + base64.StdEncoding.EncodeToString([]byte(echo(c, line)))
		}
		return c + "\r\n"
	})
	seen := new(record)
	trace := &pop3.Trace{
		LineSent:     func(_ context.Context, line string) { fmt.Fprintln(seen, "sent", line) },
		LineReceived: func(_ context.Context, line string) { fmt.Fprintln(seen, "received", line) },
		CommandDone:  func(_ context.Context, info pop3.CommandInfo) { fmt.Fprintf(seen, "%+v\n", info) },
	}
	log := pop3.LogTrace(slog.New(slog.NewJSONHandler(seen, &slog.HandlerOptions{Level: slog.Level(-100)})))
	c := client(t, tape, &pop3.Options{Trace: pop3.MultiTrace(trace, log)})
	err := l.call(t.Context(), c)
	for e := err; e != nil; e = errors.Unwrap(e) {
		fmt.Fprintf(seen, "%v\n%+v\n%#v\n", e, e, e)
	}
	fmt.Fprintln(seen, c.LastReply(), c.Err(), c.Noop(t.Context()))

	text := strings.ToLower(seen.String())
	for _, secret := range append(secrets, canary, base64.StdEncoding.EncodeToString([]byte(canary))) {
		secret = strings.ToLower(secret[:min(len(secret), 8)])
		if i := strings.Index(text, secret); len(secret) >= 8 && i >= 0 {
			t.Fatalf("%q shows in %q", secret, text[max(0, i-200):min(len(text), i+len(secret)+60)])
		}
	}
	if len(secrets) == 0 {
		t.Error("the canary was not sent")
	}
}

// A Writer gets no slice that leads to the read buffer: what is behind it in there is
// another reply's, or another session's.
func TestWriterGetsNoMore(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"a\r\n", "..b\r\n.c\r\n" + strings.Repeat("x", 100<<10) + "\r\n"} {
		for _, read := range []int64{0, 1} {
			c := client(t, pop3test.NewTape(greeting, pop3test.Replies{"RETR": "+OK\r\n" + text + ".\r\n"}.Answer), nil)
			m, err := c.Retr(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			io.CopyN(io.Discard, m, read)
			if _, err := m.WriteTo(pop3test.WriterFunc(func(p []byte) (int, error) {
				if len(p) != cap(p) {
					t.Errorf("%d octets with a capacity of %d", len(p), cap(p))
				}
				return len(p), nil
			})); err != nil {
				t.Error(err)
			}
		}
	}
}
