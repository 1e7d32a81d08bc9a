package hostile_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// The bounds, as they are documented. A line counts without its line end, an
// answer counts its rows.
const (
	maxStatus    = 2048
	maxRow       = 2048
	maxAnswer    = 64 << 10
	maxListing   = 64 << 20
	maxRows      = 4_194_304
	maxChallenge = 64 << 10
	maxCommand   = 4096
	maxResponse  = 64 << 10
)

// A flood is a server that sends so much of an answer: head, count times unit,
// tail. count < 0 never ends.
type flood struct {
	head, unit string
	count      int
	tail       string
}

// pour writes until all is said or the client is gone.
func (f flood) pour(w io.Writer) error {
	if _, err := io.WriteString(w, f.head); err != nil {
		return err
	}
	const block = 32 << 10
	chunk := bytes.Repeat([]byte(f.unit), max(1, block/len(f.unit)))
	for left := f.count * len(f.unit); f.count < 0 || left > 0; left -= len(chunk) {
		if f.count >= 0 && left < len(chunk) {
			chunk = chunk[:left]
		}
		if _, err := w.Write(chunk); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, f.tail)
	return err
}

// flooded returns a client of a server that answers the verb with a flood and
// all else with "+OK". A verb of "" floods the greeting.
func flooded(t *testing.T, verb string, f flood, opts *pop3.Options) (*pop3.Client, error) {
	near, far := pop3test.PipeSize(256 << 10)
	done := make(chan bool)
	go func() {
		defer close(done)
		defer far.Close()
		if verb == "" {
			f.pour(far)
		} else {
			io.WriteString(far, "+OK\r\n")
		}
		r := bufio.NewReader(far)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			if v, _, _ := strings.Cut(strings.TrimSpace(line), " "); v == verb {
				err = f.pour(far)
			} else if line == "*\r\n" || v == "VERBATIM" {
				_, err = io.WriteString(far, "-ERR\r\n")
			} else {
				_, err = io.WriteString(far, "+OK\r\n")
			}
			if err != nil {
				return
			}
		}
	}()
	c, err := pop3.NewClient(t.Context(), near, opts)
	t.Cleanup(func() {
		near.Close()
		<-done
	})
	return c, err
}

// loginOnce is a mechanism that answers every challenge with nothing.
type loginOnce struct{}

func (loginOnce) Start() (string, []byte, error) { return "X", nil, nil }
func (loginOnce) Next([]byte) ([]byte, error)    { return nil, nil }

func noop(ctx context.Context, c *pop3.Client) error { return c.Noop(ctx) }

func capa(ctx context.Context, c *pop3.Client) error { _, err := c.Capa(ctx); return err }

func langAll(ctx context.Context, c *pop3.Client) error { _, err := c.LangAll(ctx); return err }

func listAll(ctx context.Context, c *pop3.Client) error { _, err := c.ListAll(ctx); return err }

func uidlAll(ctx context.Context, c *pop3.Client) error { _, err := c.UIDLAll(ctx); return err }

func authX(ctx context.Context, c *pop3.Client) error { return c.Auth(ctx, loginOnce{}) }

func retr(ctx context.Context, c *pop3.Client) error {
	m, err := c.Retr(ctx, 1)
	if err != nil {
		return err
	}
	_, err = m.WriteTo(io.Discard)
	return err
}

// TestBounds goes up to each bound, which is fine, and one octet beyond, which
// closes the connection, as does a stream that never ends.
func TestBounds(t *testing.T) {
	t.Parallel()
	rows := strings.Repeat("1 "+strings.Repeat("u", 1022)+"\r\n", 64) // 64 KiB of rows
	for _, test := range []struct {
		name string
		verb string
		call func(context.Context, *pop3.Client) error
		fine flood
		more flood
	}{
		{"greeting", "", noop,
			flood{"+OK ", "x", maxStatus - 4, "\r\n"}, flood{"+OK ", "x", maxStatus - 3, "\r\n"}},
		{"greeting without end", "", noop,
			flood{"+OK", "\t", maxStatus - 3, "\n"}, flood{"", "x", -1, ""}},
		{"status line", "NOOP", noop,
			flood{"+OK ", "x", maxStatus - 4, "\r\n"}, flood{"+OK ", "x", maxStatus - 3, "\r\n"}},
		{"status line with CR", "NOOP", noop,
			flood{"+OK ", "x", maxStatus - 5, "\r\r\n"}, flood{"+OK ", "x", maxStatus - 4, "\r\r\n"}},
		{"status line with lone LF", "NOOP", noop,
			flood{"+OK ", "x", maxStatus - 4, "\n"}, flood{"+OK ", "x", maxStatus - 3, "\n"}},
		{"status line without end", "NOOP", noop,
			flood{"+OK ", "x", 1, "\r\n"}, flood{"+OK ", "x", -1, ""}},
		{"status line of nonsense", "NOOP", noop,
			flood{"+OK ", "x", 1, "\r\n"}, flood{"", "x", maxStatus + 1, "\r\n"}},
		{"status line of CRs", "NOOP", noop,
			flood{"+OK ", "x", 1, "\r\n"}, flood{"+OK", "\r", -1, ""}},
		{"row of LIST", "LIST", listAll,
			flood{"+OK\r\n1 1 ", "x", maxRow - 4, "\r\n.\r\n"}, flood{"+OK\r\n1 1 ", "x", maxRow - 3, "\r\n.\r\n"}},
		{"row of LIST without end", "LIST", listAll,
			flood{"+OK\r\n", "1 1\r\n", 1, ".\r\n"}, flood{"+OK\r\n1 1 ", "x", -1, ""}},
		{"row of UIDL", "UIDL", uidlAll,
			flood{"+OK\r\n1 ", "x", maxRow - 2, "\r\n.\r\n"}, flood{"+OK\r\n1 ", "x", maxRow - 1, "\r\n.\r\n"}},
		{"row of UIDL in lone LFs", "UIDL", uidlAll,
			flood{"+OK\n1 ", "x", maxRow - 2, "\n.\n"}, flood{"+OK\n1 ", "x", maxRow - 1, "\n.\n"}},
		{"row of UIDL of lone LFs", "UIDL", uidlAll,
			flood{"+OK\r\n", "1 u\r\n", 1, ".\r\n"}, flood{"+OK\r\n1 x", "\n", -1, ""}},
		{"row of CAPA", "CAPA", capa,
			flood{"+OK\r\nX ", "x", maxRow - 2, "\r\n.\r\n"}, flood{"+OK\r\nX ", "x", maxRow - 1, "\r\n.\r\n"}},
		{"row of LANG", "LANG", langAll,
			flood{"+OK\r\nen ", "x", maxRow - 3, "\r\n.\r\n"}, flood{"+OK\r\nen ", "x", maxRow - 2, "\r\n.\r\n"}},
		{"CAPA", "CAPA", capa,
			flood{"+OK\r\n", rows, 1, ".\r\n"}, flood{"+OK\r\n", rows, 1, "X\r\n.\r\n"}},
		{"CAPA without end", "CAPA", capa,
			flood{"+OK\r\n", "X\r\n", 1, ".\r\n"}, flood{"+OK\r\n", "SASL X\r\n", -1, ""}},
		{"CAPA of blank rows", "CAPA", capa,
			flood{"+OK\r\n", "\r\n", 1000, ".\r\n"}, flood{"+OK\r\n", "\r\n", -1, ""}},
		{"CAPA of lone LFs", "CAPA", capa,
			flood{"+OK\r\n", strings.Repeat("x\n", 1023) + "xy\r\n", 32, ".\r\n"},
			flood{"+OK\r\n", strings.Repeat("x\n", 1023) + "xy\r\n", 33, ".\r\n"}},
		{"LANG", "LANG", langAll,
			flood{"+OK\r\n", rows, 1, ".\r\n"}, flood{"+OK\r\n", rows, 1, "X\r\n.\r\n"}},
		{"challenge", "AUTH", authX,
			flood{"+ ", "A", (maxChallenge - 2) &^ 3, "\r\n+OK\r\n"}, flood{"+ ", "A", maxChallenge - 1, "\r\n"}},
		{"challenge without end", "AUTH", authX,
			flood{"+", "\r\n+OK\r\n", 1, ""}, flood{"+ ", "A", -1, ""}},
		{"refusal of AUTH", "AUTH", authX,
			flood{"+", "\r\n+OK\r\n", 1, ""}, flood{"-ERR ", "x", maxStatus - 4, "\r\n"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := flooded(t, test.verb, test.fine, nil)
			if err == nil {
				// A challenge is answered, and what comes behind the answer is
				// there too soon.
				if err = test.call(t.Context(), c); err == nil && test.verb != "AUTH" {
					usable(t, c)
				}
			}
			if err != nil {
				t.Errorf("at the bound: %v", err)
			}
			c, err = flooded(t, test.verb, test.more, nil)
			if err == nil {
				err = test.call(t.Context(), c)
				closed(t, c, pop3.ErrTooLarge)
			}
			var e *pop3.Error
			if !errors.As(err, &e) || e.Err == nil || !errors.Is(err, pop3.ErrTooLarge) {
				t.Errorf("one beyond: %v", err)
			}
			if err != nil && len(err.Error()) > 3000 {
				t.Errorf("an error of %d octets", len(err.Error()))
			}
		})
	}
}

// The challenges of one exchange are bounded too, and so is what we send.
func TestAuthWithoutEnd(t *testing.T) {
	t.Parallel()
	asked := 0
	c, _ := connect(t, nil, func(line string) string {
		switch line {
		case "*":
			return "-ERR\r\n"
		case "NOOP":
			return "+OK\r\n"
		}
		asked++
		return "+ \r\n"
	})
	if err := c.Auth(t.Context(), loginOnce{}); !errors.Is(err, pop3.ErrTooLarge) {
		t.Error(err)
	}
	if asked > 100 {
		t.Errorf("%d challenges were answered", asked)
	}
	usable(t, c)
}

// long is a mechanism whose initial response has so many octets, or else its next.
type long struct{ first, next int }

func (l long) Start() (string, []byte, error) {
	if l.first == 0 {
		return "X", nil, nil
	}
	return "X", make([]byte, l.first), nil
}

func (l long) Next([]byte) ([]byte, error) { return make([]byte, l.next), nil }

// TestOurBounds: what the client sends is bounded too, and nothing is written
// that is too long.
func TestOurBounds(t *testing.T) {
	t.Parallel()
	c, p := connect(t, nil, func(line string) string {
		switch {
		case line == "*":
			return "-ERR\r\n"
		case line == "AUTH X":
			return "+ \r\n"
		}
		return "+OK\r\n"
	})
	ctx := t.Context()
	s := func(n int) string { return strings.Repeat("x", n) }
	for _, test := range []struct {
		fine, more error
	}{
		{c.User(ctx, s(maxCommand-5)), c.User(ctx, s(maxCommand-4))},
		{c.Pass(ctx, s(maxCommand-5)), c.Pass(ctx, s(maxCommand-4))},
		{c.RPOP(ctx, s(maxCommand-5)), c.RPOP(ctx, s(maxCommand-4))},
		{nil, c.Login(ctx, "u", s(maxCommand-4))},
		{nil, c.Login(ctx, s(maxCommand-4), "p")},
		{func() error { _, err := c.Lang(ctx, s(maxCommand-5)); return err }(), func() error { _, err := c.Lang(ctx, s(maxCommand-4)); return err }()},
		{nil, c.Auth(ctx, mechanism(s(maxCommand-4)))},
		{c.Auth(ctx, long{maxResponse / 4 * 3, 0}), c.Auth(ctx, long{maxResponse/4*3 + 1, 0})},
		{c.Auth(ctx, long{0, maxResponse / 4 * 3}), c.Auth(ctx, long{0, maxResponse/4*3 + 1})},
	} {
		if test.fine != nil {
			t.Errorf("at the bound: %v", test.fine)
		}
		var e *pop3.Error
		if !errors.Is(test.more, pop3.ErrTooLarge) || errors.As(test.more, &e) {
			t.Errorf("one beyond: %v", test.more)
		}
	}
	for _, line := range p.received() {
		if len(line) > maxResponse || strings.HasPrefix(line, "USER ") && len(line) > maxCommand {
			t.Errorf("a line of %d octets was sent", len(line))
		}
	}
	usable(t, c)
}

func TestMaxMessageSize(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("..\r\n", 1000) // 2 octets less a line
	c, _ := connect(t, &pop3.Options{MaxMessageSize: 3000}, replies(map[string]string{"RETR": "+OK\r\n" + text + ".\r\n", "CAPA": pipelining}))
	if err := retr(t.Context(), c); err != nil {
		t.Errorf("at the bound: %v", err)
	}
	usable(t, c)
	for name, drop := range map[string]func(*pop3.Client) error{
		"WriteTo": func(c *pop3.Client) error { return retr(t.Context(), c) },
		"Close": func(c *pop3.Client) error {
			m, err := c.Retr(t.Context(), 1)
			if err != nil {
				return err
			}
			return m.Close()
		},
		"RetrAll": func(c *pop3.Client) error { return last(c.RetrAll(t.Context(), numbers(2))) },
	} {
		c, _ = connect(t, &pop3.Options{MaxMessageSize: 2999}, replies(map[string]string{"RETR": "+OK\r\n" + text + ".\r\n", "CAPA": pipelining}))
		if err := drop(c); !errors.Is(err, pop3.ErrTooLarge) {
			t.Errorf("%s, one beyond: %v", name, err)
		}
		closed(t, c, pop3.ErrTooLarge)
	}
	// And without end.
	c, err := flooded(t, "RETR", flood{"+OK\r\n", "x", -1, ""}, &pop3.Options{MaxMessageSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := retr(t.Context(), c); !errors.Is(err, pop3.ErrTooLarge) {
		t.Errorf("without end: %v", err)
	}
	closed(t, c, pop3.ErrTooLarge)
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

// TestNothingByNumbers: nothing is allocated because a server claims it is
// needed. (jakartaee/mail-api#26 has a STAT of 14.6 million messages.) It is not
// parallel, for it measures the heap.
func TestNothingByNumbers(t *testing.T) {
	const few = 1 << 20 // pooled buffers included
	reply := replies(map[string]string{
		"STAT": "+OK 1000000000 9223372036854775807\r\n",
		"LIST": "+OK 1000000000 messages\r\n1000000000 9223372036854775807\r\n.\r\n",
		"UIDL": "+OK 1000000000 messages\r\n1000000000 x\r\n.\r\n",
		"RETR": "+OK 9223372036854775807 octets\r\nhi\r\n.\r\n",
		"CAPA": pipelining,
	})
	conn := &tape{pending: []byte("+OK\r\n"), answer: reply}
	ctx := t.Context()
	if got := heap(func() {
		c, err := pop3.NewClient(ctx, conn, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n, size, err := c.Stat(ctx); n != 1_000_000_000 || size != 1<<63-1 || err != nil {
			t.Errorf("Stat: %d, %d, %v", n, size, err)
		}
		if list, err := c.ListAll(ctx); len(list) != 1 || err != nil || list[0] != (pop3.MessageInfo{Number: 1_000_000_000, Size: 1<<63 - 1}) {
			t.Errorf("ListAll: %v, %v", list, err)
		}
		if list, err := c.UIDLAll(ctx); len(list) != 1 || err != nil {
			t.Errorf("UIDLAll: %v, %v", list, err)
		}
		for m, err := range c.RetrAll(ctx, numbers(3)) {
			var b bytes.Buffer
			if err == nil {
				_, err = m.WriteTo(&b)
			}
			if err != nil || m.Size != 1<<63-1 || b.String() != "hi\r\n" {
				t.Errorf("RetrAll: %d, %q, %v", m.Size, b.String(), err)
			}
		}
	}); got > few {
		t.Errorf("%d octets were allocated, %d are enough", got, few)
	}
}

// TestHeapOfFloods states what an endless stream can make the client allocate, in
// all, before it is cut off. A message streams, and needs a buffer. (The bound of
// rows, 4 Mi, and of octets, 64 MiB, are reached by LIST and UIDL in
// [TestHugeListings].)
func TestHeapOfFloods(t *testing.T) {
	const kib = 1 << 10
	for _, test := range []struct {
		name, verb string
		call       func(context.Context, *pop3.Client) error
		f          flood
		limit      uint64
	}{
		{"greeting", "", noop, flood{"+OK ", "x", -1, ""}, 512 * kib},
		{"status line", "NOOP", noop, flood{"+OK ", "x", -1, ""}, 512 * kib},
		{"row", "LIST", listAll, flood{"+OK\r\n", "x", -1, ""}, 512 * kib},
		{"CAPA", "CAPA", capa, flood{"+OK\r\n", "X\r\n", -1, ""}, 2048 * kib},
		{"CAPA of blanks", "CAPA", capa, flood{"+OK\r\n", "\r\n", -1, ""}, 512 * kib},
		{"LANG", "LANG", langAll, flood{"+OK\r\n", "x\r\n", -1, ""}, 16384 * kib},
		{"challenge", "AUTH", authX, flood{"+ ", "A", -1, ""}, 512 * kib},
		{"message of 64 MiB", "RETR", retr, flood{"+OK\r\n", "x", 64 << 20, "\r\n.\r\n"}, 512 * kib},
	} {
		t.Run(test.name, func(t *testing.T) {
			var err error
			got := heap(func() {
				conn := &faucet{verb: test.verb, flood: test.f}
				var c *pop3.Client
				if c, err = pop3.NewClient(t.Context(), conn, nil); err == nil {
					err = test.call(t.Context(), c)
				}
			})
			if want := test.f.count < 0; errors.Is(err, pop3.ErrTooLarge) != want || (err == nil) == want {
				t.Errorf("error: %v", err)
			}
			if got > test.limit {
				t.Errorf("%d KiB were allocated, %d are enough", got/kib, test.limit/kib)
			}
			t.Logf("%d KiB", got/kib)
		})
	}
}

// A faucet is a flood without a network: it allocates nothing.
type faucet struct {
	tape
	verb string
	flood
	block   []byte
	pos     int
	running bool
}

func (f *faucet) Write(p []byte) (int, error) {
	if verb, _, _ := strings.Cut(strings.TrimSpace(string(p)), " "); verb == f.verb {
		f.running = true
	} else {
		f.pending = append(f.pending, "+OK\r\n"...)
	}
	return len(p), nil
}

func (f *faucet) Read(p []byte) (int, error) {
	if f.closed {
		return 0, net.ErrClosed
	}
	if f.verb != "" && !f.running {
		if len(f.pending) == 0 && f.pos == 0 && f.read == 0 {
			f.pending = append(f.pending, "+OK\r\n"...)
		}
		return f.tape.Read(p)
	}
	if f.block == nil {
		f.block = bytes.Repeat([]byte(f.unit), 1+(64<<10)/len(f.unit))
	}
	n, body := 0, f.count*len(f.unit)
	switch at := f.pos - len(f.head); {
	case at < 0:
		n = copy(p, f.head[f.pos:])
	case f.count < 0 || at < body:
		n = copy(p, f.block[at%len(f.unit):])
		if f.count >= 0 {
			n = min(n, body-at)
		}
	case at-body < len(f.tail):
		n = copy(p, f.tail[at-body:])
	default:
		return 0, io.EOF
	}
	f.pos += n
	return n, nil
}

// TestHugeListings goes up to the bounds of LIST and UIDL, in octets and in
// rows, and beyond. Both commands count alike, so that four million rows need not
// be read more often than twice.
func TestHugeListings(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	wide := "1 1 " + strings.Repeat("x", 1024-4)
	list := func(ctx context.Context, c *pop3.Client) (int, error) { l, err := c.ListAll(ctx); return len(l), err }
	uidl := func(ctx context.Context, c *pop3.Client) (int, error) { l, err := c.UIDLAll(ctx); return len(l), err }
	for _, test := range []struct {
		name, verb string
		call       func(context.Context, *pop3.Client) (int, error)
		unit       string
		rows       int
		fine       bool
	}{
		{"octets", "LIST", list, wide + "\r\n", maxListing / len(wide), true},
		{"octets and one row", "LIST", list, wide + "\r\n", maxListing/len(wide) + 1, false},
		{"rows", "LIST", list, "1 1\r\n", maxRows, true},
		{"rows and one", "UIDL", uidl, "1 1\r\n", maxRows + 1, false},
	} {
		t.Run(test.name+" of "+test.verb, func(t *testing.T) {
			conn := &faucet{verb: test.verb, flood: flood{"+OK\r\n", test.unit, test.rows, ".\r\n"}}
			c, err := pop3.NewClient(t.Context(), conn, nil)
			if err != nil {
				t.Fatal(err)
			}
			var n int
			got := heap(func() { n, err = test.call(t.Context(), c) })
			if test.fine && (n != test.rows || err != nil) || !test.fine && (n != 0 || !errors.Is(err, pop3.ErrTooLarge)) {
				t.Errorf("%d rows, %v", n, err)
			}
			if !test.fine {
				closed(t, c, pop3.ErrTooLarge)
			}
			// The result takes 24 octets a row, packed rows 2, and growing twice that.
			const limit = 256 << 20
			if got > limit {
				t.Errorf("%d MiB were allocated, %d are enough", got>>20, limit>>20)
			}
			t.Logf("%d rows: %d MiB allocated in all", n, got>>20)
		})
	}
}
