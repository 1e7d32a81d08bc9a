// Package conformance holds the client to the letter: the transcripts of
// testdata/transcripts, which are the examples of the RFCs and the habits of
// servers; the table of testdata/rfc.tsv, which says what proves each duty of
// a client; and the cases of CPython's test_poplib.
package conformance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

const transcripts = root + "testdata/transcripts"

// TestTranscripts plays each transcript: the server's side by pop3test.Script,
// which says what its lines mean, the caller's side by the calls in it. A call
// is a line that begins with >, what it must give stands below it in lines
// that begin with =:
//
//	> connect [window=4] [timeout=1m] [max=1000] [starttls]   understood if it is not the first call
//	> list [2]            a row a line, or none
//	> uidl [2]            likewise, the unique-id quoted
//	> retr 1              number, octets announced, octets (hashed if many)
//	> retrall 1 2 3 [break]
//	> topall 10 1 2 3     lines, then numbers
//	> auth plain identity user password
//	> auth fixed MECH initial-response response ...   a mechanism that knows its lines; - is no initial response
//	> challenges          what the mechanism was asked
//	> caps                what is read out of the last capa
//	> code AUTH SYS       whether the last error is one of these codes
//	> wait 10m            says nothing for so long
//	> most                the most commands that ever were on the wire unanswered
//
// and so on for each method of the client. An argument may be quoted, and
// "x"*600 is one of 600 octets. An error is two lines: its text, and what it
// is to errors.Is and errors.As together with what is left of the connection.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(transcripts, "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(data, []byte("# ")) {
				t.Error("the transcript does not begin by saying what it shows")
			}
			script, err := pop3test.ParseScript(filepath.Base(file), data)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) { play(t, script, bytes.Contains(data, []byte("\ntls\n"))) })
		})
	}
}

func play(t *testing.T, script *pop3test.Script, implicitTLS bool) {
	conn, peer := pop3test.Pipe()
	defer conn.Close() // or the script would wait for ever
	served := make(chan error, 1)
	go func() { served <- script.Serve(peer) }()

	c := &caller{wire: &wire{Conn: conn}, tls: implicitTLS}
	for i, call := range script.Calls {
		words, err := split(call.Call)
		if err == nil && i == 0 && words[0] != "connect" {
			if got := c.connect(t.Context(), nil); !slices.Equal(got, ok) {
				t.Fatalf("%s:%d: connect: %q", script.Name, call.Line, got)
			}
		}
		var got []string
		if err == nil {
			got, err = c.call(t.Context(), words[0], words[1:])
		}
		if err != nil {
			t.Errorf("%s:%d: %s: %v", script.Name, call.Line, call.Call, err)
			break
		}
		if !slices.Equal(got, call.Want) {
			t.Errorf("%s:%d: %s\n got: %s\nwant: %s", script.Name, call.Line, call.Call,
				strings.Join(got, "\n      "), strings.Join(call.Want, "\n      "))
		}
	}
	if c.client != nil {
		c.client.Close()
	}
	conn.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if c.wire.fault != "" {
		t.Error(c.wire.fault)
	}
	if len(script.Calls) == 0 {
		t.Error("the transcript calls nothing")
	}
}

// split cuts a call into its words. Like the rest of the language it knows
// two kinds of words, bare and quoted.
func split(call string) (words []string, err error) {
	for call = strings.TrimLeft(call, " "); call != ""; call = strings.TrimLeft(call, " ") {
		if call[0] != '"' {
			word, rest, _ := strings.Cut(call, " ")
			words, call = append(words, word), rest
			continue
		}
		quoted, err := strconv.QuotedPrefix(call)
		if err != nil {
			return nil, err
		}
		word, err := strconv.Unquote(quoted)
		if err != nil {
			return nil, err
		}
		call = call[len(quoted):]
		if times, isRepeated := strings.CutPrefix(call, "*"); isRepeated {
			times, call, _ = strings.Cut(times, " ")
			n, err := strconv.Atoi(times)
			if err != nil {
				return nil, err
			}
			word = strings.Repeat(word, n)
		}
		words = append(words, word)
	}
	if len(words) == 0 {
		return nil, errors.New("empty call")
	}
	return words, nil
}

// A wire is the client's end of the connection. Until TLS begins it sees to
// it that nothing is sent behind a command that must be the last on the wire
// (RFC 2595 section 4 for STLS; Courier drops what stands behind PASS,
// Mailutils resets if anything stands behind QUIT), and counts the commands
// that are unanswered.
type wire struct {
	net.Conn
	tls        bool
	line       []byte // written, not yet ended
	alone      string // a command behind which nothing may be sent
	unanswered int
	most       int
	fault      string
}

var alone = []string{"USER", "PASS", "APOP", "RPOP", "AUTH", "STLS", "UTF8", "QUIT"}

func (w *wire) Write(p []byte) (int, error) {
	if len(p) > 0 && p[0] == 0x16 && len(w.line) == 0 { // a TLS handshake record
		w.tls = true
	}
	for line := range bytes.Lines(p) {
		if w.tls {
			break
		}
		if w.alone != "" && w.fault == "" {
			w.fault = fmt.Sprintf("%q is sent behind %s", line, w.alone)
		}
		w.line = append(w.line, line...)
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		verb, _, _ := strings.Cut(strings.TrimRight(string(w.line), "\r\n"), " ")
		if slices.Contains(alone, verb) {
			w.alone = verb
		}
		w.line = w.line[:0]
		w.unanswered++
		w.most = max(w.most, w.unanswered)
	}
	return w.Conn.Write(p)
}

// Read takes every line for a reply, which is too few unanswered behind a
// multi-line response and right for all others.
func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if n > 0 {
		w.alone = ""
		w.unanswered = max(0, w.unanswered-bytes.Count(p[:n], []byte("\n")))
	}
	return n, err
}

// A caller makes the calls of one transcript.
type caller struct {
	wire   *wire
	tls    bool
	client *pop3.Client
	caps   pop3.Capabilities
	mech   *fixedSASL
	err    error // of the last call that failed
}

var ok = []string{"ok"}

func (c *caller) connect(ctx context.Context, words []string) []string {
	opts := &pop3.Options{TLSConfig: pop3test.ScriptTLS()}
	startTLS := false
	for _, word := range words {
		name, value, _ := strings.Cut(word, "=")
		n, err := strconv.Atoi(value)
		switch name {
		case "window":
			opts.Window = n
		case "max":
			opts.MaxMessageSize = int64(n)
		case "timeout":
			opts.Timeout, err = time.ParseDuration(value)
		case "starttls":
			startTLS, err = true, nil
		default:
			err = errors.New("unknown option")
		}
		if err != nil {
			return []string{word + ": " + err.Error()}
		}
	}
	var err error
	switch {
	case startTLS:
		opts.DialContext = func(context.Context, string, string) (net.Conn, error) { return c.wire, nil }
		c.client, err = pop3.DialStartTLS(ctx, "localhost", opts)
	case c.tls:
		c.client, err = pop3.NewClient(ctx, tls.Client(c.wire, opts.TLSConfig), opts)
	default:
		c.client, err = pop3.NewClient(ctx, c.wire, opts)
	}
	return c.done(err)
}

// call makes one call and says what it gave. Its error is one of the
// transcript's.
func (c *caller) call(ctx context.Context, verb string, args []string) ([]string, error) {
	if verb == "connect" {
		return c.connect(ctx, args), nil
	}
	if c.client == nil {
		return nil, errors.New("there is no client")
	}
	var numbers []int
	for _, arg := range args {
		if n, err := strconv.Atoi(arg); err == nil {
			numbers = append(numbers, n)
		}
	}
	needs := map[string]int{"wait": 1, "user": 1, "pass": 1, "apop": 2, "rpop": 1, "login": 2, "lang": 1, "has": 1, "auth": 2}
	needsNumbers := map[string]int{"retr": 1, "top": 2, "dele": 1, "retrall": 1, "topall": 2, "deleall": 1}
	if len(args) < needs[verb] || len(numbers) < needsNumbers[verb] {
		return nil, errors.New("too few arguments")
	}

	switch verb {
	case "greeting":
		return []string{strconv.QuoteToASCII(c.client.Greeting())}, nil
	case "lastreply":
		return []string{strconv.QuoteToASCII(c.client.LastReply())}, nil
	case "err":
		return c.done(c.client.Err()), nil
	case "close":
		return c.done(c.client.Close()), nil
	case "quit":
		return c.done(c.client.Quit(ctx)), nil
	case "starttls":
		return c.done(c.client.StartTLS(ctx, nil)), nil
	case "wait": // idle, while the server speaks or not
		d, err := time.ParseDuration(args[0])
		<-time.After(d)
		return ok, err
	case "tls":
		if _, isTLS := c.client.TLSConnectionState(); isTLS {
			return []string{"yes"}, nil
		}
		return []string{"no"}, nil

	case "user":
		return c.done(c.client.User(ctx, args[0])), nil
	case "pass":
		return c.done(c.client.Pass(ctx, args[0])), nil
	case "apop":
		return c.done(c.client.APOP(ctx, args[0], args[1])), nil
	case "rpop":
		return c.done(c.client.RPOP(ctx, args[0])), nil
	case "login":
		return c.done(c.client.Login(ctx, args[0], args[1])), nil
	case "auth":
		mech, err := c.mechanism(args[0], args[1:])
		if err != nil {
			return nil, err
		}
		return c.done(c.client.Auth(ctx, mech)), nil
	case "challenges":
		return rows(c.mech.challenges, octets), nil

	case "capa":
		caps, err := c.client.Capa(ctx)
		if err != nil {
			return c.done(err), nil
		}
		c.caps = caps
		var lines []string
		for name, params := range caps {
			lines = append(lines, strings.Join(append([]string{name}, params...), " "))
		}
		slices.Sort(lines)
		return lines, nil
	case "caps":
		return c.readCaps(), nil
	case "has":
		return []string{strconv.FormatBool(c.caps.Has(args[0]))}, nil
	case "code":
		var is []string
		for _, code := range args {
			is = append(is, strconv.FormatBool(errors.Is(c.err, pop3.Code(code))))
		}
		return []string{strings.Join(is, " ")}, nil
	case "most":
		return []string{fmt.Sprintf("%d unanswered", c.wire.most)}, nil
	case "utf8":
		return c.done(c.client.UTF8(ctx)), nil
	case "lang":
		selected, err := c.client.Lang(ctx, args[0])
		return c.result(err, strconv.QuoteToASCII(selected)), nil
	case "langall":
		languages, err := c.client.LangAll(ctx)
		return c.result(err, rows(languages, func(l pop3.Language) string {
			return l.Tag + " " + strconv.QuoteToASCII(l.Description)
		})...), nil

	case "stat":
		count, size, err := c.client.Stat(ctx)
		return c.result(err, fmt.Sprint(count, size)), nil
	case "list":
		if len(numbers) == 0 {
			all, err := c.client.ListAll(ctx)
			return c.result(err, rows(all, listed)...), nil
		}
		info, err := c.client.List(ctx, numbers[0])
		return c.result(err, listed(info)), nil
	case "uidl":
		if len(numbers) == 0 {
			all, err := c.client.UIDLAll(ctx)
			return c.result(err, rows(all, identified)...), nil
		}
		uid, err := c.client.UIDL(ctx, numbers[0])
		return c.result(err, identified(uid)), nil
	case "retr":
		m, err := c.client.Retr(ctx, numbers[0])
		return c.message(m, err), nil
	case "top":
		m, err := c.client.Top(ctx, numbers[0], numbers[1])
		return c.message(m, err), nil
	case "retrall":
		return c.loop(c.client.RetrAll(ctx, numbers), slices.Contains(args, "break")), nil
	case "topall":
		return c.loop(c.client.TopAll(ctx, numbers[1:], numbers[0]), slices.Contains(args, "break")), nil
	case "dele":
		return c.done(c.client.Dele(ctx, numbers[0])), nil
	case "deleall":
		return c.done(c.client.DeleAll(ctx, numbers)), nil
	case "noop":
		return c.done(c.client.Noop(ctx)), nil
	case "rset":
		return c.done(c.client.Rset(ctx)), nil
	}
	return nil, errors.New("unknown call")
}

func (c *caller) result(err error, lines ...string) []string {
	if err != nil {
		return c.done(err)
	}
	return lines
}

func (c *caller) done(err error) []string {
	if err == nil {
		return ok
	}
	c.err = err
	return []string{"error: " + err.Error(), "is: " + c.facts(err)}
}

// facts says all that a caller can learn of an error but its text.
func (c *caller) facts(err error) string {
	var facts []string
	add := func(is bool, fact string) {
		if is {
			facts = append(facts, fact)
		}
	}
	var reply *pop3.Error
	if errors.As(err, &reply) {
		add(reply.Err == nil, "refused")
		add(reply.Code != "", "["+string(reply.Code)+"]")
		add(reply.Temporary(), "temporary")
	}
	var timeout net.Error
	add(errors.Is(err, pop3.ErrMalformed), "malformed")
	add(errors.Is(err, pop3.ErrTooLarge), "too-large")
	add(errors.Is(err, io.ErrUnexpectedEOF), "eof")
	add(errors.Is(err, os.ErrDeadlineExceeded) && errors.As(err, &timeout) && timeout.Timeout(), "timeout")
	add(errors.Is(err, errors.ErrUnsupported), "unsupported")
	add(errors.Is(err, pop3.ErrInsecureAuth), "insecure")
	add(errors.Is(err, pop3.ErrBusy), "busy")
	add(errors.Is(err, net.ErrClosed), "net-closed")
	add(c.client == nil || c.client.Err() != nil, "closed")
	add(c.client != nil && c.client.Err() == nil, "usable")
	return strings.Join(facts, " ")
}

func (c *caller) message(m *pop3.Message, err error) []string {
	if err != nil {
		return c.done(err)
	}
	body, err := io.ReadAll(m)
	lines := []string{fmt.Sprintf("%d announced %d: %s", m.Number, m.Size, octets(body))}
	if err == nil {
		err = m.Close()
	}
	if err != nil {
		lines = append(lines, c.done(err)...)
	}
	return lines
}

func (c *caller) loop(messages iter.Seq2[*pop3.Message, error], leave bool) (lines []string) {
	for m, err := range messages {
		prefix := ""
		if m != nil {
			prefix = fmt.Sprint(m.Number, " ")
		}
		if err == nil {
			var body bytes.Buffer
			_, err = m.WriteTo(&body)
			lines = append(lines, fmt.Sprintf("%sannounced %d: %s", prefix, m.Size, octets(body.Bytes())))
		}
		if err != nil {
			for _, line := range c.done(err) {
				lines = append(lines, prefix+line)
			}
		}
		if leave {
			break
		}
	}
	return lines
}

func (c *caller) readCaps() []string {
	names := "none"
	if mechanisms := c.caps.SASL(); len(mechanisms) > 0 {
		names = strings.Join(mechanisms, " ")
	}
	delay := "none"
	if d, ok := c.caps.LoginDelay(); ok {
		delay = d.String()
	}
	expire := "none"
	switch days, ok := c.caps.Expire(); {
	case ok && days == -1:
		expire = "never"
	case ok:
		expire = strconv.Itoa(days)
	}
	return []string{
		"sasl: " + names,
		"implementation: " + strconv.QuoteToASCII(c.caps.Implementation()),
		"login-delay: " + delay,
		"expire: " + expire,
	}
}

func (c *caller) mechanism(name string, args []string) (pop3.SASL, error) {
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	state, _ := c.client.TLSConnectionState()
	switch name {
	case "plain":
		return pop3.PlainAuth(arg(0), arg(1), arg(2)), nil
	case "login":
		return pop3.LoginAuth(arg(0), arg(1)), nil
	case "cram-md5":
		return pop3.CRAMMD5Auth(arg(0), arg(1)), nil
	case "scram-sha-256":
		return pop3.SCRAMSHA256Auth(arg(0), arg(1)), nil
	case "scram-sha-256-plus":
		return pop3.SCRAMSHA256PlusAuth(arg(0), arg(1), state), nil
	case "xoauth2":
		return pop3.XOAuth2Auth(arg(0), arg(1)), nil
	case "oauthbearer":
		return pop3.OAuthBearerAuth(arg(0), arg(1)), nil
	case "external":
		return pop3.ExternalAuth(arg(0)), nil
	case "fixed":
		if len(args) < 2 {
			return nil, errors.New("too few arguments")
		}
		c.mech = &fixedSASL{mech: args[0], responses: args[2:]}
		if args[1] != "-" {
			c.mech.ir = []byte(args[1])
		}
		return c.mech, nil
	}
	return nil, errors.New("unknown mechanism")
}

// A fixedSASL is a mechanism from outside the package, as a caller may bring
// one: here it gives the responses that it was made with.
type fixedSASL struct {
	mech       string
	ir         []byte
	responses  []string
	challenges []string
}

func (f *fixedSASL) Start() (string, []byte, error) { return f.mech, f.ir, nil }

func (f *fixedSASL) Next(challenge []byte) ([]byte, error) {
	n := len(f.challenges)
	f.challenges = append(f.challenges, string(challenge))
	if n >= len(f.responses) {
		return nil, errors.New("no response is left")
	}
	return []byte(f.responses[n]), nil
}

func rows[T any](all []T, row func(T) string) []string {
	if len(all) == 0 {
		return []string{"none"}
	}
	var lines []string
	for _, one := range all {
		lines = append(lines, row(one))
	}
	return lines
}

func listed(info pop3.MessageInfo) string { return fmt.Sprint(info.Number, info.Size) }

func identified(uid pop3.MessageUID) string {
	return fmt.Sprint(uid.Number, " ", strconv.QuoteToASCII(uid.UID))
}

func octets[T string | []byte](b T) string {
	if len(b) > 1000 {
		return fmt.Sprintf("%d octets sha256 %x", len(b), sha256.Sum256([]byte(b)))
	}
	return strconv.QuoteToASCII(string(b))
}
