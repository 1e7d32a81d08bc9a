package hostile_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// The bounds as documented. A line counts without its line end, an answer with those of its rows.
const (
	maxStatus    = 2048
	maxRow       = 2048
	maxAnswer    = 64 << 10
	maxListing   = 64 << 20
	maxChallenge = 64 << 10
	maxCommand   = 4096     // of ours
	maxResponse  = 64 << 10 // the client's
)

// A flood is what a server says: head, count times unit, tail. If count is less than 0 it
// never ends.
type flood struct {
	head, unit string
	count      int
	tail       string
}

func (f flood) reader() io.Reader {
	text := io.Reader(&repeated{bytes.Repeat([]byte(f.unit), 1+(64<<10)/len(f.unit)), len(f.unit), 0})
	if f.count >= 0 {
		text = io.LimitReader(text, int64(f.count*len(f.unit)))
	}
	return io.MultiReader(strings.NewReader(f.head), text, strings.NewReader(f.tail))
}

type repeated struct {
	block    []byte
	unit, at int
}

func (r *repeated) Read(p []byte) (int, error) {
	n := copy(p, r.block[r.at%r.unit:])
	r.at += n
	return n, nil
}

// flooded returns a client of a server that answers the verb with a flood. A verb of ""
// floods the greeting.
func flooded(t *testing.T, verb string, f flood, opts *pop3.Options) (*pop3.Client, error) {
	text := f.reader()
	flooding, hello := false, greeting
	if verb == "" {
		flooding, hello = true, ""
	}
	tape := pop3test.NewTape(hello, func(line string) string {
		v, _, _ := strings.Cut(line, " ")
		if v == verb {
			flooding = true
			return ""
		}
		return pop3test.Replies{"*": "-ERR\r\n"}.Answer(line)
	})
	conn := &pop3test.Conn{Conn: tape, ReadFunc: func(p []byte) (int, error) {
		if flooding {
			n, err := text.Read(p)
			if err == io.EOF { // and then it goes on
				flooding = false
				return tape.Read(p)
			}
			return n, err
		}
		return tape.Read(p)
	}}
	return pop3.NewClient(t.Context(), conn, opts)
}

func listAll(ctx context.Context, c *pop3.Client) error { _, err := c.ListAll(ctx); return err }
func uidlAll(ctx context.Context, c *pop3.Client) error { _, err := c.UIDLAll(ctx); return err }
func capa(ctx context.Context, c *pop3.Client) error    { _, err := c.Capa(ctx); return err }
func langAll(ctx context.Context, c *pop3.Client) error { _, err := c.LangAll(ctx); return err }
func noop(ctx context.Context, c *pop3.Client) error    { return c.Noop(ctx) }

// authX answers every challenge with nothing.
func authX(ctx context.Context, c *pop3.Client) error {
	return c.Auth(ctx, &pop3test.SASL{Mech: "X", Respond: func([]byte) ([]byte, error) { return nil, nil }})
}

// TestBounds goes up to each bound, which is fine, and beyond, which closes the connection.
// How lines are counted is shown in internal/wire. (CVE-2013-1752: poplib read lines without
// a bound.)
func TestBounds(t *testing.T) {
	t.Parallel()
	rows := strings.Repeat("1 "+strings.Repeat("u", 1020)+"\r\n", 64) // 64 KiB
	for _, test := range []struct {
		name, verb string
		call       func(context.Context, *pop3.Client) error
		head       string
		fine       int // so many x or, of an answer, the rows
		tail       string
		want       string // at the bound, of kindOf
		more       int    // is too much
	}{
		{"greeting", "", noop, "+OK ", maxStatus - 4, "\r\n", "", 1},
		{"status line", "NOOP", noop, "+OK ", maxStatus - 4, "\r\n", "", 1},
		{"refusal", "AUTH", authX, "-ERR ", maxStatus - 5, "\r\n", "refused", 1},
		{"row of LIST", "LIST", listAll, "+OK\r\n1 1 ", maxRow - 4, "\r\n.\r\n", "", 1},
		{"row of UIDL", "UIDL", uidlAll, "+OK\r\n1 ", maxRow - 2, "\r\n.\r\n", "", 1},
		{"row of CAPA", "CAPA", capa, "+OK\r\nX ", maxRow - 2, "\r\n.\r\n", "", 1},
		{"row of LANG", "LANG", langAll, "+OK\r\nen ", maxRow - 3, "\r\n.\r\n", "", 1},
		{"CAPA", "CAPA", capa, "+OK\r\n" + rows[:maxAnswer-1024], 1022, "\r\n.\r\n", "", 1},
		{"LANG", "LANG", langAll, "+OK\r\n" + rows[:maxAnswer-1024], 1022, "\r\n.\r\n", "", 1},
		{"challenge", "AUTH", authX, "+ ", maxChallenge - 4, "\r\n+OK\r\n", "", 3}, // to be base64 at the bound
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, more := range []int{0, test.more} {
				c, err := flooded(t, test.verb, flood{test.head, "x", test.fine + more, test.tail}, nil)
				if err == nil {
					err = test.call(t.Context(), c)
				}
				switch kind := kindOf(err); {
				case more == 0 && kind != test.want:
					t.Errorf("at the bound: %v", err)
				case more > 0 && kind != "too large":
					t.Errorf("beyond: %v", err)
				case more > 0 && c != nil:
					closed(t, c, pop3.ErrTooLarge)
				}
			}
		})
	}
}

// What the client sends in a SASL exchange is bounded, and so are the challenges of one. It
// is canceled, and the connection stays usable. A mechanism's name is one word, or it would
// be an initial response too.
func TestOurBounds(t *testing.T) {
	t.Parallel()
	const most = maxResponse / 4 * 3 // octets, before base64
	asked := 0
	conn := &pop3test.Conn{Conn: pop3test.NewTape(greeting, func(line string) string {
		if line == "*" || line == "NOOP" {
			return pop3test.Replies{"*": "-ERR\r\n"}.Answer(line)
		}
		asked++
		return "+ \r\n"
	})}
	c := client(t, conn, nil)
	x := func(n int) string { return strings.Repeat("x", n) }
	for name, s := range map[string]*pop3test.SASL{
		"initial response": {Mech: "X", IR: []byte(x(most + 1))},
		"response":         {Mech: "X", Responses: []string{x(most), x(most + 1)}},
		"challenges":       {Mech: "X", Respond: func([]byte) ([]byte, error) { return nil, nil }},
	} {
		asked = 0
		var e *pop3.Error
		if err := c.Auth(t.Context(), s); !errors.Is(err, pop3.ErrTooLarge) || errors.As(err, &e) || asked > 100 {
			t.Errorf("%s: %v after %d challenges", name, err, asked)
		}
		usable(t, c)
	}
	if err := c.Auth(t.Context(), &pop3test.SASL{Mech: "X", IR: []byte(x(most)), Responses: []string{x(most)}}); errors.Is(err, pop3.ErrTooLarge) {
		t.Errorf("at the bound: %v", err)
	}
	conn.Sent()
	for _, name := range []string{"", " ", "A B", "PLAIN =", " PLAIN", "X\r\nDELE 1", "\u017f", x(21), x(5000)} {
		if err := c.Auth(t.Context(), &pop3test.SASL{Mech: name}); err == nil || conn.Sent() != "" {
			t.Errorf("a mechanism by the name of %.30q was sent", name)
		}
	}
	usable(t, c)
}

// heap runs f and returns how much it has allocated, all told.
func heap(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestHeap states what a server can make the client allocate, in all, by a stream without
// end before it is cut off, by a claim (jakartaee/mail-api#26 has a STAT of 14.6 million
// messages), or up to the bounds of LIST and UIDL in octets and in rows. A message streams,
// and needs a buffer. It is not parallel, for it measures the heap.
func TestHeap(t *testing.T) {
	const kib, mib = 1 << 10, 1 << 20
	stat := func(ctx context.Context, c *pop3.Client) error { _, _, err := c.Stat(ctx); return err }
	messages := func(ctx context.Context, c *pop3.Client) error { _, err := c.Messages(ctx); return err }
	wide := "1 1 " + strings.Repeat("x", 1018) + "\r\n"
	for _, test := range []struct {
		name, verb string
		call       func(context.Context, *pop3.Client) error
		f          flood
		limit      uint64
		fine       bool
	}{
		{"greeting", "", noop, flood{"+OK ", "x", -1, ""}, 512 * kib, false},
		{"status line", "NOOP", noop, flood{"+OK ", "x", -1, ""}, 512 * kib, false},
		{"status line of nonsense", "NOOP", noop, flood{"", "A", -1, ""}, 512 * kib, false},
		{"status line of CRs", "NOOP", noop, flood{"+OK", "\r", -1, ""}, 512 * kib, false},
		{"row", "LIST", listAll, flood{"+OK\r\n", "x", -1, ""}, 512 * kib, false},
		{"row of lone LFs", "UIDL", uidlAll, flood{"+OK\r\n1 x\r\n1 y", "\n", -1, ""}, 512 * kib, false},
		{"CAPA", "CAPA", capa, flood{"+OK\r\n", "SASL X\r\n", -1, ""}, 512 * kib, false},
		{"CAPA of blanks", "CAPA", capa, flood{"+OK\r\n", "\r\n", -1, ""}, 512 * kib, false},
		{"LANG", "LANG", langAll, flood{"+OK\r\n", "x\r\n", -1, ""}, 512 * kib, false},
		{"challenge", "AUTH", authX, flood{"+ ", "A", -1, ""}, 512 * kib, false},
		{"message of 64 MiB", "RETR", retr, flood{"+OK\r\n", "x", 64 << 20, "\r\n.\r\n"}, 512 * kib, true},
		{"claim of STAT", "STAT", stat, flood{"+OK 1000000000 9223372036854775807\r\n", "x", 0, ""}, 512 * kib, true},
		{"claim of LIST", "LIST", listAll, flood{"+OK 1000000000 messages\r\n1000000000 9223372036854775807\r\n.\r\n", "x", 0, ""}, 512 * kib, true},
		{"claim of RETR", "RETR", retr, flood{"+OK 9223372036854775807 octets\r\nhi\r\n.\r\n", "x", 0, ""}, 512 * kib, true},
		// A result takes 40 octets a row, its text as much as it is, and growing twice that.
		{"octets of LIST", "LIST", listAll, flood{"+OK\r\n", wide, maxListing / 1024, ".\r\n"}, 160 * mib, true},
		{"octets of LIST without end", "LIST", messages, flood{"+OK\r\n", wide, -1, ""}, 160 * mib, false},
		{"rows of UIDL without end", "UIDL", uidlAll, flood{"+OK\r\n", "1 1\r\n", -1, ""}, 160 * mib, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if testing.Short() && test.f.count > maxAnswer {
				t.Skip("takes seconds")
			}
			var err error
			got := heap(func() {
				var c *pop3.Client
				if c, err = flooded(t, test.verb, test.f, &pop3.Options{Window: 1}); err == nil {
					err = test.call(t.Context(), c)
				}
			})
			if test.fine && err != nil || !test.fine && !errors.Is(err, pop3.ErrTooLarge) || err != nil && len(err.Error()) > 3000 {
				t.Errorf("error %v", err)
			}
			if t.Logf("%d KiB", got/kib); got > test.limit {
				t.Errorf("%d KiB were allocated, %d are enough", got/kib, test.limit/kib)
			}
		})
	}
}
