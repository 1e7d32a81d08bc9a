// Package conformance holds the client to the letter: the transcripts of
// testdata/transcripts, which are the examples of the RFCs and the habits of
// servers; the table of testdata/rfc.tsv, which says what proves each duty of
// a client; and the cases of CPython's test_poplib.
package conformance

import (
	"bytes"
	"cmp"
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
	"regexp"
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
//	> list [2]            a row a line, or none; rows may come beside an error
//	> uidl [2]            likewise, the unique-id quoted
//	> messages            likewise: number, size and unique-id
//	> retr 1              number, octets announced, octets (hashed if many)
//	> retr 1 close        closes the message without reading it
//	> retr 1 full=4       writes it to a Writer that fails behind 4 octets, and reads on
//	> retrall 1 2 3 [break] [full=4]
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
	pop3test.ScriptTLS() // makes its authority, before a fake clock can forbid it (see NeedRandom)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if needsMD5.Match(data) {
				pop3test.NeedMD5(t)
			}
			if needsRandom.Match(data) {
				pop3test.NeedRandom(t)
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

var needsMD5 = regexp.MustCompile(`(?m)^(> (apop|auth cram-md5)|C: AUTH CRAM-MD5)`)

var needsRandom = regexp.MustCompile(`(?mi)^(tls|starttls)$|^[^#\n].*(starttls|scram)`)

func play(t *testing.T, script *pop3test.Script, implicitTLS bool) {
	conn, wait := script.Start()
	defer wait() // or the script would wait for ever

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
	if err := wait(); err != nil {
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
	mech   *pop3test.SASL
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
		opts.DialContext = pop3test.DialTo(c.wire)
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
	needsNumbers := map[string]int{"retr": 1, "top": 2, "dele": 1, "topall": 1}
	if len(args) < needs[verb] || len(numbers) < needsNumbers[verb] {
		return nil, errors.New("too few arguments")
	}
	if f := c.commands(ctx, args, numbers)[verb]; f != nil {
		return c.done(f()), nil
	}
	if f := c.queries(ctx, args, numbers)[verb]; f != nil {
		return f(), nil
	}
	return nil, errors.New("unknown call")
}

// commands are the calls that give an error or none.
func (c *caller) commands(ctx context.Context, args []string, numbers []int) map[string]func() error {
	return map[string]func() error{
		"err":      c.client.Err,
		"close":    c.client.Close,
		"quit":     func() error { return c.client.Quit(ctx) },
		"starttls": func() error { return c.client.StartTLS(ctx, nil) },
		"user":     func() error { return c.client.User(ctx, args[0]) },
		"pass":     func() error { return c.client.Pass(ctx, args[0]) },
		"apop":     func() error { return c.client.APOP(ctx, args[0], args[1]) },
		"rpop":     func() error { return c.client.RPOP(ctx, args[0]) },
		"login":    func() error { return c.client.Login(ctx, args[0], args[1]) },
		"auth":     func() error { return c.client.Auth(ctx, c.mechanism(args[0], args[1:])) },
		"utf8":     func() error { return c.client.UTF8(ctx) },
		"dele":     func() error { return c.client.Dele(ctx, numbers[0]) },
		"deleall":  func() error { return c.client.DeleAll(ctx, numbers) },
		"noop":     func() error { return c.client.Noop(ctx) },
		"rset":     func() error { return c.client.Rset(ctx) },
		"wait": func() error { // idle, while the server speaks or not
			d, err := time.ParseDuration(args[0])
			<-time.After(d)
			return err
		},
	}
}

// queries are the calls that give more.
func (c *caller) queries(ctx context.Context, args []string, numbers []int) map[string]func() []string {
	return map[string]func() []string{
		"greeting":   func() []string { return []string{quote(c.client.Greeting())} },
		"lastreply":  func() []string { return []string{quote(c.client.LastReply())} },
		"challenges": func() []string { return rows(c.mech.Challenges, octets) },
		"has":        func() []string { return []string{strconv.FormatBool(c.caps.Has(args[0]))} },
		"most":       func() []string { return []string{fmt.Sprintf("%d unanswered", c.wire.most)} },
		"caps":       c.readCaps,
		"capa":       func() []string { return c.capa(ctx) },
		"tls": func() []string {
			_, isTLS := c.client.TLSConnectionState()
			return []string{map[bool]string{true: "yes", false: "no"}[isTLS]}
		},
		"code": func() []string {
			var is []string
			for _, code := range args {
				is = append(is, strconv.FormatBool(errors.Is(c.err, pop3.Code(code))))
			}
			return []string{strings.Join(is, " ")}
		},
		"lang": func() []string {
			selected, err := c.client.Lang(ctx, args[0])
			return c.result(err, quote(selected))
		},
		"langall": func() []string {
			languages, err := c.client.LangAll(ctx)
			return listing(c, languages, err, func(l pop3.Language) string { return l.Tag + " " + quote(l.Description) })
		},
		"stat": func() []string {
			count, size, err := c.client.Stat(ctx)
			if answer := fmt.Sprint(count, size); err == nil || answer != "0 0" {
				return append([]string{answer}, c.result(err)...)
			}
			return c.done(err)
		},
		"list": func() []string {
			if len(numbers) > 0 {
				info, err := c.client.List(ctx, numbers[0])
				return c.result(err, listed(info))
			}
			all, err := c.client.ListAll(ctx)
			return listing(c, all, err, listed)
		},
		"uidl": func() []string {
			if len(numbers) > 0 {
				uid, err := c.client.UIDL(ctx, numbers[0])
				return c.result(err, identified(uid))
			}
			all, err := c.client.UIDLAll(ctx)
			return listing(c, all, err, identified)
		},
		"messages": func() []string {
			all, err := c.client.Messages(ctx)
			return listing(c, all, err, func(info pop3.MessageInfo) string { return listed(info) + " " + quote(info.UID) })
		},
		"retr": func() []string {
			m, err := c.client.Retr(ctx, numbers[0])
			return c.message(m, err, args)
		},
		"top": func() []string {
			m, err := c.client.Top(ctx, numbers[0], numbers[1])
			return c.message(m, err, args)
		},
		"retrall": func() []string { return c.loop(c.client.RetrAll(ctx, numbers), args) },
		"topall":  func() []string { return c.loop(c.client.TopAll(ctx, numbers[1:], numbers[0]), args) },
	}
}

func (c *caller) capa(ctx context.Context) (lines []string) {
	caps, err := c.client.Capa(ctx)
	if err != nil {
		return c.done(err)
	}
	c.caps = caps
	for name, params := range caps {
		lines = append(lines, strings.Join(append([]string{name}, params...), " "))
	}
	slices.Sort(lines)
	return lines
}

func (c *caller) result(err error, lines ...string) []string {
	if err != nil {
		return c.done(err)
	}
	return lines
}

// listing is the rows of an answer, and an error beside them.
func listing[T any](c *caller, all []T, err error, row func(T) string) (lines []string) {
	switch {
	case err == nil && all == nil:
		return []string{"nil"}
	case all != nil && len(all) == 0 && errors.Is(err, pop3.ErrRefused):
		return []string{"an empty maildrop, beside a refusal"}
	}
	if err == nil || len(all) > 0 {
		lines = rows(all, row)
	}
	if err != nil {
		lines = append(lines, c.done(err)...)
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
	add(errors.Is(err, pop3.ErrRefused), "refused")
	var reply *pop3.Error
	if errors.As(err, &reply) {
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

func (c *caller) message(m *pop3.Message, err error, args []string) (lines []string) {
	if err != nil {
		return c.done(err)
	}
	if slices.Contains(args, "close") {
		return c.done(m.Close())
	}
	if full := capacity(args); full > 0 {
		lines = c.write(m, full)
	}
	body, err := io.ReadAll(m)
	lines = append(lines, fmt.Sprintf("%d announced %d: %s", m.Number, m.Size, octets(body)))
	if err != nil {
		lines = append(lines, c.done(err)...)
	}
	n, again := m.WriteTo(io.Discard)
	if closed := m.Close(); n > 0 || again != err || closed != err { // what was said once is said again
		lines = append(lines, fmt.Sprintf("then: %d octets, %v, %v", n, again, closed))
	}
	return lines
}

// write writes a message to a Writer that has room for so many octets.
func (c *caller) write(m *pop3.Message, room int) []string {
	var body bytes.Buffer
	_, err := m.WriteTo(pop3test.WriterFunc(func(p []byte) (int, error) {
		n, _ := body.Write(p[:min(len(p), room-body.Len())])
		if n < len(p) {
			return n, errors.New("disk full")
		}
		return n, nil
	}))
	lines := []string{fmt.Sprintf("%d announced %d: %s", m.Number, m.Size, octets(body.Bytes()))}
	if err != nil {
		lines = append(lines, c.done(err)...)
	}
	return lines
}

// capacity returns n of an argument full=n, or 0.
func capacity(args []string) (n int) {
	for _, arg := range args {
		fmt.Sscanf(arg, "full=%d", &n)
	}
	return n
}

func (c *caller) loop(messages iter.Seq2[*pop3.Message, error], args []string) (lines []string) {
	room := cmp.Or(capacity(args), 1<<30)
	for m, err := range messages {
		if err == nil {
			lines = append(lines, c.write(m, room)...)
		} else {
			for _, line := range c.done(err) {
				if m != nil {
					line = fmt.Sprint(m.Number, " ", line)
				}
				lines = append(lines, line)
			}
		}
		if slices.Contains(args, "break") {
			break
		}
	}
	return lines
}

func (c *caller) readCaps() []string {
	delay, expire := "none", "none"
	if d, ok := c.caps.LoginDelay(); ok {
		delay = d.String()
	}
	switch days, ok := c.caps.Expire(); {
	case ok && days == -1:
		expire = "never"
	case ok:
		expire = strconv.Itoa(days)
	}
	return []string{
		"sasl: " + cmp.Or(strings.Join(c.caps.SASL(), " "), "none"),
		"implementation: " + quote(c.caps.Implementation()),
		"login-delay: " + delay,
		"expire: " + expire,
	}
}

// mechanism returns a mechanism, or nil if there is none of that name. Arguments that
// are missing are empty.
func (c *caller) mechanism(name string, args []string) pop3.SASL {
	a := append(args, "", "", "")
	state, _ := c.client.TLSConnectionState()
	switch name {
	case "plain":
		return pop3.PlainAuth(a[0], a[1], a[2])
	case "login":
		return pop3.LoginAuth(a[0], a[1])
	case "cram-md5":
		return pop3.CRAMMD5Auth(a[0], a[1])
	case "scram-sha-1":
		return pop3.SCRAMSHA1Auth(a[0], a[1])
	case "scram-sha-256":
		return pop3.SCRAMSHA256Auth(a[0], a[1])
	case "scram-sha-256-plus":
		return pop3.SCRAMSHA256PlusAuth(a[0], a[1], state)
	case "xoauth2":
		return pop3.XOAuth2Auth(a[0], a[1])
	case "oauthbearer":
		return pop3.OAuthBearerAuth(a[0], a[1])
	case "external":
		return pop3.ExternalAuth(a[0])
	case "anonymous":
		return pop3.AnonymousAuth(a[0])
	case "fixed":
		c.mech = &pop3test.SASL{Mech: a[0], Responses: args[min(2, len(args)):]}
		if a[1] != "-" {
			c.mech.IR = []byte(a[1])
		}
		return c.mech
	}
	return nil
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

func identified(uid pop3.MessageUID) string { return fmt.Sprint(uid.Number, " ", quote(uid.UID)) }

func quote(text string) string { return strconv.QuoteToASCII(text) }

func octets[T string | []byte](b T) string {
	if len(b) > 1000 {
		return fmt.Sprintf("%d octets sha256 %x", len(b), sha256.Sum256([]byte(b)))
	}
	return quote(string(b))
}
