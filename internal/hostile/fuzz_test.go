package hostile_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// A reference reads a server's octets one by one and knows nothing of speed. It is written
// from RFC 1939 and the rules of the package, not from the client, and says what each call
// of a client must come to.
type reference struct {
	send  func(lines ...string) // has them answered
	next  func() []byte         // the next piece of the answers; none is the end
	buf   []byte                // what has been received and not been read
	limit int                   // Options.MaxMessageSize

	dead        string // kind of the error that has closed the connection
	lf          bool   // the lines of the reply end in LF
	asked       bool   // CAPA has been sent
	ahead       bool   // and allows several commands at a time
	outstanding int
	deletions   int
	tail        string // the line that is being read
	heard       string // a refusal that may be why the server goes
}

// stop is thrown where the connection is closed: the kind of the error, and what the
// server has said about why it goes, if it has.
type stop struct{ kind, why string }

func (s stop) String() string { return s.kind + s.why }

func (r *reference) octet() byte {
	if len(r.buf) == 0 {
		if r.buf = r.next(); len(r.buf) == 0 {
			panic(stop{lost, r.heard})
		}
	}
	b := r.buf[0]
	r.buf = r.buf[1:]
	return b
}

// line reads up to a line end: CRLF, or a lone LF if that will do. A stuffed dot does not
// count.
func (r *reference) line(stuffed, loneLF bool) (line string, lf bool) {
	for {
		r.tail = line
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
			panic(stop{"too large", ""})
		}
	}
}

const blanks = " \t"

var statusLine = regexp.MustCompile(`(?is)^(\+ok|[-+]err|\+)([^a-z0-9].*|)$`)

// parse splits a status line. refused is that it is one, and a refusal.
func parse(line string) (text string, ok, refused bool) {
	m := statusLine.FindStringSubmatch(line)
	if m == nil || m[1] == "+" && m[2] != "" && !strings.Contains(blanks, m[2][:1]) {
		return "", false, false
	}
	if text = m[2]; text != "" && strings.Contains(":,", text[:1]) {
		text = text[1:]
	}
	return strings.Trim(text, blanks), m[1] != "+", strings.HasSuffix(strings.ToLower(m[1]), "err")
}

// status reads a status line. In a greeting a + will do.
func (r *reference) status(greeting bool) (text string, refused bool) {
	line, lf := r.line(false, true)
	text, ok, refused := parse(line)
	if !ok && !(greeting && strings.HasPrefix(line+" ", "+ ")) && !(greeting && strings.HasPrefix(line, "+\t")) {
		panic(stop{"malformed", ""})
	}
	if r.lf, r.heard = lf, ""; refused {
		r.outstanding--
	}
	return text, refused
}

// A code is levels of printable ASCII with no dot in them.
var code = regexp.MustCompile(`^\[([!-\-0-\\^-~]+(?:/[!-\-0-\\^-~]+)*)\]`)

func refusal(text string) string { return "refused" + reason(text) }

// reason is the code and the beginning of the text of a refusal.
func reason(text string) string {
	var s string
	if m := code.FindStringSubmatch(text); m != nil {
		s, text = " ["+strings.ToUpper(m[1])+"]", strings.TrimLeft(text[len(m[0]):], blanks)
	}
	return s + fmt.Sprintf(" %q", text[:min(len(text), 100)])
}

// What may be the beginning of a status line.
var mayBegin = regexp.MustCompile(`(?is)^([+](ok?)?|[-+](er?)?|([+]ok|[-+]err)([^a-z0-9].*)?)$`)

// end is the end of a +OK reply. What lies behind it belongs to the next, or the two sides
// disagree; a -ERR line that nothing asked for is the server's farewell.
func (r *reference) end() {
	if r.outstanding--; r.outstanding > 0 {
		if len(r.buf) > 0 && !mayBegin.Match(r.buf) {
			panic(stop{"malformed", ""})
		}
		return
	}
	r.nothing()
}

func (r *reference) nothing() {
	if len(r.buf) == 0 {
		return
	}
	line, _, _ := strings.Cut(string(r.buf[:min(len(r.buf), 512)]), "\n")
	text, _, refused := parse(strings.TrimSuffix(line, "\r"))
	if cut := min(len(r.buf), 3); strings.EqualFold(string(r.buf), "-ERR"[:cut]) {
		text, refused = "", true // the beginning of one
	}
	if !refused {
		panic(stop{"malformed", ""})
	}
	why := reason(text)
	switch {
	case r.heard != "" && !strings.HasPrefix(why, " ["):
		why = r.heard
	case text == "": // it does not say why
		why = ""
	}
	panic(stop{lost, why})
}

// lineEnd is the end of a reply of one line, which stands although the server goes.
func (r *reference) lineEnd() {
	if s := r.try(r.end); s != nil && s.kind != lost {
		panic(*s)
	}
}

// command sends commands, unless there is something that answers none.
func (r *reference) command(lines ...string) {
	r.nothing()
	r.outstanding = len(lines)
	r.send(lines...)
}

func words(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(blanks, r) })
}

// number is -1 for what is none.
func number(word string) int64 {
	n, err := strconv.ParseInt(word, 10, 64)
	if err != nil || strings.Trim(word, "0123456789") != "" {
		return -1
	}
	return n
}

// index is 0 for what is no message number.
func index(word string) int {
	if n := number(word); n > 0 && n <= math.MaxInt {
		return int(n)
	}
	return 0
}

// size is -2 for what is none, and -1 for a negative one.
func size(word string) int64 {
	if rest, ok := strings.CutPrefix(word, "-"); ok {
		return min(number(rest), 0) - 1
	}
	return min(number(word), 0)*2 + max(number(word), 0)
}

// scan and uid read a row. n is 0 if it has no message number.
func scan(row string) (info pop3.MessageInfo, ok bool) {
	w := append(words(row), "", "")
	info = pop3.MessageInfo{Number: index(w[0]), Size: size(w[1])}
	return info, info.Number > 0 && info.Size > -2
}

func uid(row string) (u pop3.MessageUID, ok bool) {
	row = strings.Trim(row, blanks)
	word := append(words(row), "")[0]
	u = pop3.MessageUID{Number: index(word), UID: strings.TrimLeft(row[len(word):], blanks)}
	return u, u.Number > 0 && u.UID != "" && printable(u.UID)
}

func printable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == 0x7F }) < 0
}

// rows reads a listing to its end.
func (r *reference) rows() (rows []string) {
	for first := true; ; first = false {
		row, lone := r.line(true, r.lf || first)
		r.lf = r.lf || first && lone
		if row == "." {
			r.end()
			return rows
		}
		if strings.HasPrefix(row, "..") {
			row = row[1:]
		}
		rows = append(rows, row)
	}
}

// listing reads the reply to a command, with the rows that are bad.
func listing[T any](r *reference, parse func(string) (T, bool)) (list []T, bad []string, refused string) {
	text, no := r.status(false)
	if no {
		return nil, nil, refusal(text)
	}
	list = []T{}
	for _, row := range r.rows() {
		if v, ok := parse(row); ok {
			list = append(list, v)
		} else {
			bad = append(bad, row)
		}
	}
	return list, bad, ""
}

func malformed(bad []string) (s string) {
	if len(bad) > 0 {
		s = fmt.Sprintf("fault %q", bad[0][:min(len(bad[0]), 512)])
	}
	if len(bad) > 1 {
		s += fmt.Sprintf(" (and %d more)", len(bad)-1)
	}
	return s
}

var temporary = regexp.MustCompile(`^refused \[(IN-USE|LOGIN-DELAY|SYS/TEMP)[]/]`)

// hear remembers a refusal that may be why the server goes.
func (r *reference) hear(refused string) {
	if temporary.MatchString(refused) {
		r.heard = strings.TrimPrefix(refused, "refused")
	}
}

// empty reports whether STAT says so, behind the refusal of a listing.
func (r *reference) empty(refused string) bool {
	r.hear(refused)
	r.command("STAT")
	text, no := r.status(false)
	if !no {
		r.lineEnd()
	}
	w := append(words(text), "", "")
	return !no && number(w[0]) == 0 && size(w[1]) > -2
}

// capa asks whether the server stands several commands at a time.
func (r *reference) capa() {
	if r.asked {
		return
	}
	r.command("CAPA")
	r.asked = true
	if text, refused := r.status(false); refused {
		r.hear(refusal(text))
		return
	}
	for _, row := range r.rows() {
		word, _, _ := strings.Cut(strings.TrimSpace(strings.ToUpper(row)), " ")
		r.ahead = r.ahead || word == "PIPELINING"
	}
}

// Text that begins with a status line, and that may do so yet.
var (
	answered = regexp.MustCompile(`(?i)^(\+OK|-ERR)( |\r?\n)`)
	perhaps  = regexp.MustCompile(`(?i)^(\+(O(K\r?)?)?|-(E(R(R\r?)?)?)?)$`)
)

// body reads a message.
func (r *reference) body() string {
	var text []byte
	firstLine := true
	put := func(line []byte) {
		text = append(text, line...)
		switch {
		case firstLine && answered.Match(text):
			panic(stop{"malformed", ""})
		case r.limit > 0 && len(text) > r.limit && !perhaps.Match(text):
			panic(stop{"too large", ""})
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
			case line[1] == '\n' && (r.lf || firstLine):
				r.end()
				return string(text)
			case line[1] == '\r':
				if line = append(line, r.octet()); line[2] == '\n' {
					r.end()
					return string(text)
				}
			}
		}
		for put(line); ; put(line) {
			if bytes.HasSuffix(text, []byte("\n")) && firstLine {
				r.lf = r.lf || !bytes.HasSuffix(text, []byte("\r\n"))
				firstLine = false
			}
			if bytes.HasSuffix(text, []byte("\r\n")) || r.lf && bytes.HasSuffix(text, []byte("\n")) {
				break
			}
			line = []byte{r.octet()}
		}
	}
}

// try notes a stop and goes on.
func (r *reference) try(f func()) (why *stop) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case stop:
			r.dead, why = v.kind, &v
		default:
			panic(v)
		}
	}()
	f()
	return nil
}

// A call is one of the client and one of the reference, which says what must come of it.
type call struct {
	line      string // what is sent, for the most part
	client    func(*pop3.Client, context.Context) (any, error)
	reference func(*reference) string
}

// comes is what comes of a call: a value, and what is wrong. Beside that a value counts if
// it is a list of something.
func comes(v any, wrong ...string) string {
	wrong = slices.DeleteFunc(wrong, func(s string) bool { return s == "" })
	switch list := reflect.ValueOf(v); {
	case len(wrong) == 0:
		return fmt.Sprint(v)
	case list.Kind() == reflect.Slice && list.Len() > 0:
		return fmt.Sprint(v, "; ", strings.Join(wrong, ", "))
	}
	return strings.Join(wrong, ", ")
}

// faults is what is wrong by an error of c.
func faults(c *pop3.Client, err error) []string {
	if err == nil {
		return nil
	}
	var several interface{ Unwrap() []error }
	if _, ok := err.(*pop3.Error); !ok && errors.As(err, &several) && kindOf(err) != "closed" {
		var list []string
		for _, err := range several.Unwrap() {
			list = append(list, faults(c, err)...)
		}
		return list
	}
	var e *pop3.Error
	kind := kindOf(err)
	switch {
	case errors.As(err, &e) && (kind == "refused" || kind == lost && (e.Code != "" || e.Text != "")):
		if e.Code != "" {
			kind += " [" + string(e.Code) + "]"
		}
		kind += fmt.Sprintf(" %q", e.Text[:min(len(e.Text), 100)])
	case kind == "malformed" && c.Err() == nil:
		_, row, _ := strings.Cut(err.Error(), "malformed row")
		kind = "fault" + row
	}
	return []string{kind}
}

func listCall[T any](line string, get func(*pop3.Client, context.Context) ([]T, error), parse func(string) (T, bool)) call {
	return call{line, func(c *pop3.Client, ctx context.Context) (any, error) { return get(c, ctx) }, func(r *reference) string {
		r.command(line)
		list, bad, refused := listing(r, parse)
		if refused != "" && r.empty(refused) {
			return "[]"
		}
		return comes(list, malformed(bad), refused)
	}}
}

// messages joins LIST and UIDL, the slow way.
func (r *reference) messages() string {
	r.capa()
	ahead := []string{"LIST", "UIDL"}
	if !r.ahead {
		ahead = ahead[:1]
	}
	r.command(ahead...)
	list, bad, refused := listing(r, scan)
	if r.hear(refused); !r.ahead {
		r.command("UIDL")
	}
	uids, badUIDs, noUIDs := listing(r, uid)
	listed := len(list)
	for _, u := range uids {
		i := slices.IndexFunc(list[:listed], func(info pop3.MessageInfo) bool { return info.Number == u.Number })
		if i < 0 {
			list = append(list, pop3.MessageInfo{Number: u.Number, Size: -1, UID: u.UID})
		} else if list[i].UID == "" {
			list[i].UID = u.UID
		}
	}
	if refused != "" && r.empty(refused) {
		refused = ""
	}
	if refused == "" && listed+len(bad) == 0 {
		noUIDs = ""
	}
	return comes(list, malformed(bad)+refused, malformed(badUIDs)+noUIDs)
}

// oneLine is a call with a reply of one line, which parse may find to be none (!ok) or about
// another message.
func oneLine(line string, client func(*pop3.Client, context.Context) (any, error), parse func(r *reference, text string) (v any, ok, other bool)) call {
	return call{line, client, func(r *reference) string {
		r.command(line)
		text, refused := r.status(false)
		if refused {
			return refusal(text)
		}
		r.lineEnd()
		v, ok, other := parse(r, text)
		switch {
		case other && r.dead == "":
			panic(stop{"malformed", ""})
		case !ok && r.dead == "":
			return "fault"
		case !ok:
			return "malformed"
		}
		return fmt.Sprint(v)
	}}
}

// retrAllCall is a loop that is left after so many steps; 0 is all of them.
func retrAllCall(steps int) call {
	return call{"RETR of many", func(c *pop3.Client, ctx context.Context) (any, error) {
		var out []string
		for m, err := range c.RetrAll(ctx, pop3test.Numbers(3)) {
			var b strings.Builder
			if err == nil {
				_, err = m.WriteTo(&b)
			}
			if err == nil {
				out = append(out, fmt.Sprintf("%q", b.String()))
			} else {
				out = append(out, faults(c, err)...)
			}
			if len(out) == steps {
				break
			}
		}
		return strings.Join(out, ", "), nil
	}, func(r *reference) string {
		var out []string
		if end := r.try(func() {
			r.capa()
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
					out = append(out, refusal(text))
				} else if why := r.try(func() { text = r.body() }); why != nil {
					out = append(out, why.String()) // the message says so, and then the loop
					panic(*why)
				} else {
					out = append(out, fmt.Sprintf("%q", text))
				}
				if !r.ahead && len(out) == steps {
					return
				}
			}
		}); end != nil {
			out = append(out, end.String())
		}
		if steps > 0 && len(out) > steps {
			out = out[:steps]
		}
		return strings.Join(out, ", ")
	}}
}

var calls = []call{
	listCall("LIST", (*pop3.Client).ListAll, scan),
	listCall("UIDL", (*pop3.Client).UIDLAll, uid),
	oneLine("NOOP", func(c *pop3.Client, ctx context.Context) (any, error) { return "", c.Noop(ctx) },
		func(*reference, string) (any, bool, bool) { return "", true, false }),
	oneLine("DELE 1", func(c *pop3.Client, ctx context.Context) (any, error) { return "", c.Dele(ctx, 1) },
		func(r *reference, _ string) (any, bool, bool) { r.deletions++; return "", true, false }),
	oneLine("STAT", func(c *pop3.Client, ctx context.Context) (any, error) {
		n, size, err := c.Stat(ctx)
		return [2]int64{int64(n), size}, err
	}, func(_ *reference, text string) (any, bool, bool) {
		w := append(words(text), "", "")
		return [2]int64{number(w[0]), size(w[1])}, number(w[0]) >= 0 && size(w[1]) > -2, false
	}),
	oneLine("LIST 1", func(c *pop3.Client, ctx context.Context) (any, error) { return c.List(ctx, 1) },
		func(_ *reference, text string) (any, bool, bool) {
			info, ok := scan(text)
			return info, ok, info.Number > 1
		}),
	oneLine("UIDL 1", func(c *pop3.Client, ctx context.Context) (any, error) { return c.UIDL(ctx, 1) },
		func(_ *reference, text string) (any, bool, bool) {
			if w := words(text); len(w) == 1 && number(w[0]) != 1 {
				return pop3.MessageUID{Number: 1, UID: w[0]}, printable(w[0]), false
			}
			u, ok := uid(text)
			return u, ok, u.Number > 1
		}),
	{"QUIT", func(c *pop3.Client, ctx context.Context) (any, error) { return "bye", c.Quit(ctx) }, func(r *reference) string {
		s := "bye"
		why := r.try(func() {
			r.command("QUIT")
			if text, refused := r.status(false); refused {
				s = refusal(text)
			}
		})
		r.dead = "closed"
		text, ok, refused := parse(strings.TrimSuffix(r.tail, "\r"))
		switch {
		case why == nil:
			return s
		case r.outstanding > 0 && why.kind == lost && refused: // the line end may be missing
			return refusal(text)
		case r.outstanding > 0 && why.kind == lost && ok:
			return s
		case why.kind == lost && r.deletions == 0:
			return "bye"
		}
		return why.String()
	}},
	retrAllCall(0), retrAllCall(1), retrAllCall(2),
	{"RETR 1", func(c *pop3.Client, ctx context.Context) (any, error) {
		m, err := c.Retr(ctx, 1)
		if err != nil {
			return "", err
		}
		text, err := io.ReadAll(m)
		return fmt.Sprintf("%q", text), err
	}, func(r *reference) string {
		r.command("RETR 1")
		if text, refused := r.status(false); refused {
			return refusal(text)
		}
		return fmt.Sprintf("%q", r.body())
	}},
	{"LIST and UIDL", func(c *pop3.Client, ctx context.Context) (any, error) { return c.Messages(ctx) }, (*reference).messages},
}

// seeds are what a server says, a 1E behind each reply, the calls, the pieces in which the
// octets come, and Options.MaxMessageSize.
var seeds = []struct {
	octets        string
	calls, pieces []byte
	limit         uint16
}{
	{"+OK\r\n\x1e+OK 2 320\r\n\x1e+OK\r\n1 120\r\n2 200\r\n.\r\n", []byte{4, 0}, []byte{255}, 0},
	{"+OK\r\n\x1e+OK 120 octets\r\n..a\r\n.\r\n\x1e-ERR [IN-USE] no\r\n", []byte{11, 11, 7}, []byte{1}, 0},
	{"+ hi\n\x1e+OK\n..a\nb\n.\n\x1e+OK\n1 a b\n.\n", []byte{11, 1}, []byte{3, 1}, 9},
	{"+OK\r\n\x1e+OK\r\na\r\n.\r\n\x1e-ERR\r\n\x1e+OK\r\n\n.\n\r\n.\r\n", []byte{8, 7}, []byte{2, 200}, 0},
	{"+OK\r\n\x1e+OK\r\n.\r\n\x1e+OK\r\n.\r\n\x1e+OK\r\nx\r\n", []byte{9, 3, 7}, []byte{9}, 3},
	{"+OK\r\n\x1e-ERR empty\r\n\x1e+OK 0 0\r\n\x1e+OK 1 uid\r\n\x1e+OK 1 -5\r\n", []byte{0, 6, 5}, []byte{9}, 0},
	{"+OK: hi\r\n-ERR [SYS/TEMP] bye\r\n", nil, nil, 0},
	{"+OK\r\n\x1e+OK\r\n-ERR [SYS/TEMP] bye\r\n", []byte{3, 2, 7}, nil, 0},
	{"+OK\r\n\x1e+OK\r\nhalf\r\n.\r\nof a mail\r\n.\r\n", []byte{11, 2}, nil, 0},
	{"+OK\r\n\x1e+OK\r\nhalf\r\n.\r\n-ERR idle\r\n", []byte{11, 2}, nil, 0},
	{"+OK\r\n\x1e+OK\r\n+OK twice\r\n.\r\n", []byte{11, 2}, nil, 2},
	{"+OK\r\n\x1e+OK\r\na\n.\r\n\x1e+OK\r\n.\n\x1e+OK\r\na\r\n\n.\n\r\n.\r\n", []byte{8, 2}, nil, 0},
	{"+OK\r\n\x1e+OK\r\n1 5\r\nx\r\n2 6\r\n.\r\n\x1e+OK\r\n2 b\r\n3 c\r\n1 \x01\r\n2 d\r\n1 a\r\n.\r\n", []byte{12, 2}, nil, 0},
	{"+OK\r\n\x1e+OK\r\n-ERR [SYS/TEMP] no\r\n", []byte{2, 8}, []byte{0}, 0},
	{"+OK\r\n\x1e-ERR [SYS/TEMP] no\r\n\x1e-ERR what\r\n\x1e+OK 0 0\r\n\x1e-ERR no\r\n", []byte{12, 12}, nil, 0},
	{"+OK\r\n\x1e+OK\r\n.\r\nx\x1e+OK\r\n.\r\n\x1e+OK\r\n.\r\n", []byte{8, 2}, nil, 0},
	{"+OK\r\n\x1e+OK 44\r\n.\r\n\x1e+OKAY\r\n", []byte{11, 2}, nil, 0},
	{"+OK\r\n\x1e+OK many\r\n\x1e+OK 2 5\r\n\x1e+OK 1 5\r\n", []byte{4, 5}, nil, 0},
	{"+OK\r\n\x1e+OK 1 message follows\r\n1 uid\r\n.\r\n\x1e+OK", []byte{6, 7}, nil, 0},
	{"+OK\r\n\x1e+OK\r\n\x1e+OK", []byte{3, 7}, nil, 0},
	{"+OK\r\n\x1e-ERR\r", []byte{7}, nil, 0},
}

// script is a tape that answers each command with the next segment, as long as there are
// any.
func script(segments []string, size func(read int) int) *pop3test.Tape {
	left := segments[1:]
	tape := pop3test.NewTape(segments[0], func(line string) (s string) {
		switch {
		case line == "CAPA":
			return pop3test.Pipelining
		case len(left) > 0:
			s, left = left[0], left[1:]
		}
		return s
	})
	tape.Size = size
	return tape
}

// compare plays the octets to a client and to the reference, in the same pieces. They must
// come to the same.
func compare(t *testing.T, octets string, made []byte, size func(read int) int, limit uint16) {
	segments := strings.Split(octets, "\x1e")
	tape := script(segments, size)
	c, err := pop3.NewClient(t.Context(), tape, &pop3.Options{MaxMessageSize: int64(limit), Timeout: timeout})
	got := []string{"hello"}
	if err != nil {
		c = new(pop3.Client)
		got = faults(c, err)
	}
	for _, b := range made {
		if o := calls[int(b)%len(calls)]; c.Err() == nil {
			v, err := o.client(c, t.Context())
			got = append(got, fmt.Sprint(o.line, ": ", comes(v, faults(c, err)...), ", closed ", c.Err() != nil))
		}
	}
	if c.Close(); !tape.Closed() {
		t.Error("the connection is open")
	}
	want := newReference(script(segments, size), int(limit)).play(made)
	if !slices.Equal(got, want) {
		t.Errorf("the client has\n\t%s\nand the reference\n\t%s\nof %q", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"), segments)
	}
}

func newReference(conn io.ReadWriter, limit int) *reference {
	b := make([]byte, 16<<10)
	return &reference{limit: limit, outstanding: 1, send: func(lines ...string) {
		io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n")
	}, next: func() []byte {
		n, _ := conn.Read(b)
		return b[:n]
	}}
}

func (r *reference) play(made []byte) []string {
	out := []string{"hello"}
	if why := r.try(func() {
		if text, refused := r.status(true); refused {
			out[0], r.dead = refusal(text), "refused"
		} else {
			r.end()
		}
	}); why != nil {
		out[0] = why.String()
	}
	for _, b := range made {
		if o := calls[int(b)%len(calls)]; r.dead == "" {
			var s string
			r.heard = ""
			if why := r.try(func() { s = o.reference(r) }); why != nil {
				s = why.String()
			}
			out = append(out, fmt.Sprint(o.line, ": ", s, ", closed ", r.dead != ""))
		}
	}
	return out
}

// FuzzClient plays arbitrary octets, in arbitrary pieces, to a client that makes arbitrary
// calls. A segment is what the server sends when a command has come; a 1E ends one.
func FuzzClient(f *testing.F) {
	for _, s := range seeds {
		f.Add(s.octets, s.calls, s.pieces, s.limit)
	}
	f.Fuzz(func(t *testing.T, octets string, made, pieces []byte, limit uint16) {
		if len(octets) > 16<<10 || len(made) > 16 {
			return
		}
		compare(t, octets, made, func(read int) int {
			if len(pieces) == 0 {
				return len(octets)
			}
			return int(pieces[read%len(pieces)]) + 1
		}, limit)
	})
}

// TestReference splits the seeds at every octet, so that what is behind a reply is seen in
// time or is not, and joins replies of all kinds at random.
func TestReference(t *testing.T) {
	t.Parallel()
	var replies []string
	for _, s := range seeds {
		replies = append(replies, strings.Split(s.octets, "\x1e")[1:]...)
		for at := range len(s.octets) {
			compare(t, s.octets, s.calls, splitAt(at), s.limit)
		}
	}
	sessions := 5000
	if testing.Short() {
		sessions = 500
	}
	for seed := range sessions {
		rnd := rand.New(rand.NewPCG(uint64(seed), 0))
		octets := "+OK\r\n"
		made := make([]byte, 1+rnd.IntN(6))
		for i := range made {
			made[i] = byte(rnd.IntN(len(calls)))
		}
		for range 8 {
			octets += "\x1e" + replies[rnd.IntN(len(replies))]
			if rnd.IntN(8) == 0 {
				octets += replies[rnd.IntN(len(replies))] // which nothing asked for
			}
		}
		pieces, salt := []int{1, 2, 5, 1000}[rnd.IntN(4)], rnd.IntN(1000)
		if compare(t, octets, made, func(read int) int { return 1 + (read+salt)*7919%pieces }, uint16(rnd.IntN(2)*rnd.IntN(20))); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
