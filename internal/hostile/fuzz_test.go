package hostile_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"testing"

	"example.com/pop3"
)

// A reference reads a server's octets one by one and knows nothing of speed. It
// is written from RFC 1939, not from the client, and says what each call of a
// client must come to.
type reference struct {
	send  func(lines ...string) // has them answered
	next  func() []byte         // the next piece of the answers; none is the end
	buf   []byte                // what has been received and not been read
	limit int                   // Options.MaxMessageSize

	dead      string // why the connection is closed
	lf        bool   // the reply's status line ended with a lone LF
	asked     bool   // CAPA has been sent
	ahead     bool   // and allows several commands at a time
	deletions int
}

// stop is thrown where the connection is closed.
type stop string

func (r *reference) octet() byte {
	if len(r.buf) == 0 {
		if r.buf = r.next(); len(r.buf) == 0 {
			panic(stop("unexpected EOF"))
		}
	}
	b := r.buf[0]
	r.buf = r.buf[1:]
	return b
}

// line reads up to a line end: CRLF, or a lone LF if that will do. A stuffed dot
// does not count.
func (r *reference) line(stuffed, loneLF bool) (line string, lf bool) {
	for {
		b := r.octet()
		if b == '\n' && (loneLF || strings.HasSuffix(line, "\r")) {
			text, cr := strings.CutSuffix(line, "\r")
			return text, !cr
		}
		line += string([]byte{b})
		text := strings.TrimSuffix(line, "\r")
		if stuffed && strings.HasPrefix(text, "..") {
			text = text[1:]
		}
		if len(text) > 2048 {
			panic(stop("too large"))
		}
	}
}

const blanks = " \t"

// status reads a status line.
func (r *reference) status(greeting bool) (text string, refused bool) {
	line, lf := r.line(false, true)
	r.lf = lf
	word, text := line, ""
	if i := strings.IndexAny(line, blanks); i >= 0 {
		word, text = line[:i], strings.Trim(line[i:], blanks)
	}
	switch lower(word) {
	case "+ok":
		return text, false
	case "-err", "+err":
		return text, true
	case "+":
		if greeting {
			return text, false
		}
	}
	panic(stop("malformed"))
}

func lower(s string) string {
	b := []byte(s)
	for i := range b {
		if 'A' <= b[i] && b[i] <= 'Z' {
			b[i] += 'a' - 'A'
		}
	}
	return string(b)
}

// A code is levels of printable ASCII with no dot in them.
var code = regexp.MustCompile(`^\[([!-\-0-\\^-~]+(?:/[!-\-0-\\^-~]+)*)\]`)

func refusal(text string) string {
	m := code.FindStringSubmatch(text)
	if m == nil {
		return fmt.Sprintf("refused %q", text)
	}
	return fmt.Sprintf("refused [%s] %q", strings.ToUpper(m[1]), strings.TrimLeft(text[len(m[0]):], blanks))
}

// command sends commands, unless there is something that answers none.
func (r *reference) command(lines ...string) {
	if len(r.buf) > 0 {
		panic(stop("malformed"))
	}
	r.send(lines...)
}

func words(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\t' })
}

var digits = regexp.MustCompile(`^[0-9]+$`)

func (r *reference) number(word string) int64 {
	n, ok := new(big.Int).SetString(word, 10)
	if !digits.MatchString(word) || !ok || !n.IsInt64() {
		panic(stop("malformed"))
	}
	return n.Int64()
}

func (r *reference) size(word string) int64 {
	if rest, ok := strings.CutPrefix(word, "-"); ok {
		r.number(rest)
		return -1
	}
	return r.number(word)
}

func (r *reference) scan(text string) pop3.MessageInfo {
	w := words(text)
	if len(w) < 2 || r.number(w[0]) < 1 {
		panic(stop("malformed"))
	}
	return pop3.MessageInfo{Number: int(r.number(w[0])), Size: r.size(w[1])}
}

func (r *reference) uid(text string) pop3.MessageUID {
	text = strings.Trim(text, blanks)
	i := strings.IndexAny(text, blanks)
	if i < 0 || r.number(text[:i]) < 1 {
		panic(stop("malformed"))
	}
	uid := strings.TrimLeft(text[i:], blanks)
	r.printable(uid)
	return pop3.MessageUID{Number: int(r.number(text[:i])), UID: uid}
}

func (r *reference) printable(s string) {
	for _, b := range []byte(s) {
		if b < ' ' || b == 0x7f {
			panic(stop("malformed"))
		}
	}
}

// capa asks whether the server stands several commands at a time. With EXPIRE 0
// the client sends none that the loop has not come to.
func (r *reference) capa() {
	r.command("CAPA")
	listed, expires := false, ""
	if _, refused := r.status(false); !refused {
		r.rows(func(row string) {
			w := strings.Fields(strings.ToUpper(row))
			switch {
			case len(w) == 0:
			case w[0] == "PIPELINING":
				listed = true
			case w[0] == "EXPIRE" && len(w) > 1 && expires == "":
				expires = w[1]
			}
		})
	}
	r.asked, r.ahead = true, listed && strings.Trim(expires, "0") != "" || listed && expires == ""
}

// rows reads a listing, to its end before any row is looked at.
func (r *reference) rows(f func(row string)) {
	var rows []string
	for {
		row, _ := r.line(true, r.lf)
		if row == "." {
			break
		}
		if strings.HasPrefix(row, "..") {
			row = row[1:]
		}
		rows = append(rows, row)
	}
	for _, row := range rows {
		f(row)
	}
}

// body reads a message.
func (r *reference) body() string {
	var text []byte
	put := func(line []byte) {
		if text = append(text, line...); r.limit > 0 && len(text) > r.limit {
			panic(stop("too large"))
		}
	}
	for {
		// Here a line begins.
		line := []byte{r.octet()}
		if line[0] == '.' {
			line = append(line, r.octet())
			switch {
			case line[1] == '.':
				line = line[1:]
			case line[1] == '\n' && r.lf:
				return string(text)
			case line[1] == '\r':
				if line = append(line, r.octet()); line[2] == '\n' {
					return string(text)
				}
			}
		}
		for put(line); ; put(line) {
			if bytes.HasSuffix(text, []byte("\r\n")) || r.lf && bytes.HasSuffix(text, []byte("\n")) {
				break
			}
			line = []byte{r.octet()}
		}
	}
}

// An op is one call, of the client and of the reference; both say what came of it.
type op struct {
	line      string // what is sent, for the most part
	call      func(context.Context, *pop3.Client) string
	reference func(*reference) string
}

// result is what a call comes to.
func result(err error, format string, args ...any) string {
	var e *pop3.Error
	switch {
	case err == nil:
		return fmt.Sprintf(format, args...)
	case errors.As(err, &e) && e.Err == nil && e.Code != "":
		return fmt.Sprintf("refused [%s] %q", string(e.Code), e.Text)
	case errors.As(err, &e) && e.Err == nil:
		return fmt.Sprintf("refused %q", e.Text)
	}
	return kindOf(err)
}

func listing[T any](line string, get func(context.Context, *pop3.Client) ([]T, error), row func(*reference, string) T) op {
	return op{line, func(ctx context.Context, c *pop3.Client) string {
		list, err := get(ctx, c)
		return result(err, "%v", list)
	}, func(r *reference) string {
		r.command(line)
		list := []T{}
		text, refused := r.status(false)
		if !refused {
			r.rows(func(s string) { list = append(list, row(r, s)) })
			return fmt.Sprint(list)
		}
		// Or is it just empty?
		r.command("STAT")
		if text, refused := r.status(false); !refused {
			if count, _ := r.stat(text); count == 0 {
				return fmt.Sprint(list)
			}
		}
		return refusal(text)
	}}
}

func (r *reference) stat(text string) (count, size int64) {
	w := words(text)
	if len(w) < 2 {
		panic(stop("malformed"))
	}
	return r.number(w[0]), r.size(w[1])
}

// single is an op with a reply of one line.
func single(line string, call func(context.Context, *pop3.Client) (any, error), ok func(r *reference, text string) any) op {
	return op{line, func(ctx context.Context, c *pop3.Client) string {
		v, err := call(ctx, c)
		return result(err, "%v", v)
	}, func(r *reference) string {
		r.command(line)
		text, refused := r.status(false)
		if refused {
			return refusal(text)
		}
		return fmt.Sprint(ok(r, text))
	}}
}

// readers are the ways to take a message.
var readers = []func(m *pop3.Message, b *strings.Builder) error{
	func(m *pop3.Message, b *strings.Builder) error { _, err := m.WriteTo(b); return err },
	func(m *pop3.Message, b *strings.Builder) error {
		_, err := io.CopyBuffer(struct{ io.Writer }{b}, struct{ io.Reader }{m}, make([]byte, 3))
		return err
	},
	func(m *pop3.Message, b *strings.Builder) error {
		if _, err := io.CopyN(b, m, 5); err != nil && err != io.EOF {
			return err
		}
		_, err := m.WriteTo(b)
		return err
	},
}

func retrOp(read func(*pop3.Message, *strings.Builder) error) op {
	return op{"RETR 1", func(ctx context.Context, c *pop3.Client) string {
		m, err := c.Retr(ctx, 1)
		var b strings.Builder
		if err == nil {
			err = read(m, &b)
		}
		return result(err, "%q", b.String())
	}, func(r *reference) string {
		r.command("RETR 1")
		if text, refused := r.status(false); refused {
			return refusal(text)
		}
		return fmt.Sprintf("%q", r.body())
	}}
}

// retrAllOp is a loop that is left after so many steps; 0 is all of them.
func retrAllOp(steps int) op {
	return op{"RETR of many", func(ctx context.Context, c *pop3.Client) string {
		var out []string
		for m, err := range c.RetrAll(ctx, numbers(3)) {
			var b strings.Builder
			if err == nil {
				err = readers[0](m, &b)
			}
			if out = append(out, result(err, "%q", b.String())); len(out) == steps {
				break
			}
		}
		return strings.Join(out, ", ")
	}, func(r *reference) string {
		var out []string
		end := r.try(func() {
			if !r.asked {
				r.capa()
			}
			all := []string{"RETR 1", "RETR 2", "RETR 3"}
			if r.ahead {
				r.command(all...)
			}
			for _, line := range all {
				if !r.ahead {
					r.command(line)
				}
				text, refused := r.status(false)
				if refused {
					if out = append(out, refusal(text)); !r.ahead && len(out) == steps {
						return
					}
					continue
				}
				if why := r.try(func() { text = r.body() }); why != "" {
					out = append(out, why) // the message says so, and then the loop
					panic(stop(why))
				}
				if out = append(out, fmt.Sprintf("%q", text)); !r.ahead && len(out) == steps {
					return
				}
			}
		})
		if end != "" {
			out = append(out, end)
		}
		if steps > 0 && len(out) > steps {
			out = out[:steps]
		}
		return strings.Join(out, ", ")
	}}
}

// try notes a stop and goes on.
func (r *reference) try(f func()) (why string) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case stop:
			r.dead, why = string(v), string(v)
		default:
			panic(v)
		}
	}()
	f()
	return ""
}

var ops = []op{
	listing("LIST", func(ctx context.Context, c *pop3.Client) ([]pop3.MessageInfo, error) { return c.ListAll(ctx) }, (*reference).scan),
	listing("UIDL", func(ctx context.Context, c *pop3.Client) ([]pop3.MessageUID, error) { return c.UIDLAll(ctx) }, (*reference).uid),
	single("NOOP", func(ctx context.Context, c *pop3.Client) (any, error) { return "", c.Noop(ctx) },
		func(*reference, string) any { return "" }),
	single("DELE 1", func(ctx context.Context, c *pop3.Client) (any, error) { return "", c.Dele(ctx, 1) },
		func(r *reference, _ string) any { r.deletions++; return "" }),
	single("STAT", func(ctx context.Context, c *pop3.Client) (any, error) {
		n, size, err := c.Stat(ctx)
		return []int64{int64(n), size}, err
	}, func(r *reference, text string) any {
		n, size := r.stat(text)
		return []int64{n, size}
	}),
	single("LIST 1", func(ctx context.Context, c *pop3.Client) (any, error) { return c.List(ctx, 1) }, func(r *reference, text string) any {
		info := r.scan(text)
		if info.Number != 1 {
			panic(stop("malformed"))
		}
		return info
	}),
	single("UIDL 1", func(ctx context.Context, c *pop3.Client) (any, error) { return c.UIDL(ctx, 1) }, func(r *reference, text string) any {
		if len(words(text)) == 1 && (!digits.MatchString(text) || strings.TrimLeft(text, "0") != "1") {
			r.printable(text)
			return pop3.MessageUID{Number: 1, UID: text}
		}
		uid := r.uid(text)
		if uid.Number != 1 {
			panic(stop("malformed"))
		}
		return uid
	}),
	{"QUIT", func(ctx context.Context, c *pop3.Client) string { return result(c.Quit(ctx), "bye") }, func(r *reference) (s string) {
		r.command("QUIT")
		why := r.try(func() {
			s = "bye"
			if text, refused := r.status(false); refused {
				s = refusal(text)
			}
		})
		if why == "unexpected EOF" && r.deletions == 0 {
			return "bye"
		}
		r.dead = "closed"
		return cmp.Or(why, s)
	}},
	retrAllOp(0), retrAllOp(1), retrAllOp(2),
	retrOp(readers[0]), retrOp(readers[1]), retrOp(readers[2]),
}

// FuzzClient plays arbitrary octets, in arbitrary pieces, to a client that makes
// arbitrary calls. A segment is what the server sends when a command has come; a
// 1E ends one. The client and the reference must come to the same.
func FuzzClient(f *testing.F) {
	f.Add("+OK\x1e+OK 2 320\x1e+OK\r\n1 120\r\n2 200\r\n.\r\n", []byte{4, 0}, []byte{255}, uint16(0))
	f.Add("+OK\r\n\x1e+OK 120 octets\r\n..a\r\n.\r\n\x1e-ERR [IN-USE] no\r\n", []byte{11, 12, 7}, []byte{1}, uint16(0))
	f.Add("+ hi\n\x1e+OK\n..a\nb\n.\n\x1e+OK\n1 a b\n.\n", []byte{13, 1}, []byte{3, 1}, uint16(9))
	f.Add("+OK\r\n\x1e+OK\r\na\r\n.\r\n\x1e-ERR\r\n\x1e+OK\r\n\n.\n\r\n.\r\n", []byte{8, 7}, []byte{2, 200}, uint16(0))
	f.Add("+OK\r\n\x1e+OK\r\n.\r\n\x1e+OK\r\n.\r\n\x1e+OK\r\nx\r\n", []byte{9, 3, 7}, []byte{9}, uint16(3))
	f.Add("+OK\r\n\x1e-ERR empty\r\n\x1e+OK 0 0\r\n\x1e+OK 1 uid\r\n\x1e+OK 1 -5\r\n", []byte{0, 6, 5}, []byte{9}, uint16(0))
	f.Fuzz(func(t *testing.T, octets string, calls, pieces []byte, limit uint16) {
		if len(octets) > 16<<10 || len(calls) > 16 {
			return
		}
		segments := strings.Split(octets, "\x1e")
		size := func(read int) int {
			if len(pieces) == 0 {
				return len(octets)
			}
			return int(pieces[read%len(pieces)]) + 1
		}
		// A command gets a segment, as long as there are any.
		script := func() func(line string) string {
			left := segments[1:]
			return func(line string) (s string) {
				switch {
				case line == "CAPA":
					return pipelining
				case len(left) > 0:
					s, left = left[0], left[1:]
				}
				return s
			}
		}

		conn := &tape{size: size, pending: []byte(segments[0]), answer: script()}
		c, err := pop3.NewClient(t.Context(), conn, &pop3.Options{MaxMessageSize: int64(limit), Timeout: patience})
		got := []string{result(err, "hello")}
		for _, b := range calls {
			if c == nil || c.Err() != nil {
				break
			}
			o := ops[int(b)%len(ops)]
			got = append(got, o.line+": "+o.call(t.Context(), c))
		}
		if c != nil {
			c.Close()
		}
		if !conn.closed {
			t.Error("the connection is open")
		}

		// The other tape is read by the reference, in the same pieces.
		far := &tape{size: size, pending: []byte(segments[0]), answer: script()}
		r := &reference{limit: int(limit), send: func(lines ...string) {
			far.Write([]byte(strings.Join(lines, "\r\n") + "\r\n"))
		}, next: func() []byte {
			b := make([]byte, 64<<10)
			n, _ := far.Read(b)
			return b[:n]
		}}
		hello := "hello"
		if why := r.try(func() {
			if text, refused := r.status(true); refused {
				hello, r.dead = refusal(text), "refused"
			}
		}); why != "" {
			hello = why
		}
		want := []string{hello}
		for _, b := range calls {
			if r.dead != "" {
				break
			}
			o := ops[int(b)%len(ops)]
			s := ""
			if why := r.try(func() { s = o.reference(r) }); why != "" {
				s = why
			}
			want = append(want, o.line+": "+s)
		}
		if !slices.Equal(got, want) {
			t.Errorf("the client has\n\t%s\nand the reference\n\t%s\nof %q in pieces of %v", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"), segments, pieces)
		}
	})
}
