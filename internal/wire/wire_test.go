package wire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
)

// A chunked is a reader that returns one of its chunks at a time.
type chunked [][]byte

func (c *chunked) Read(p []byte) (int, error) {
	for len(*c) > 0 && len((*c)[0]) == 0 {
		*c = (*c)[1:]
	}
	if len(*c) == 0 {
		return 0, io.EOF
	}
	n := copy(p, (*c)[0])
	(*c)[0] = (*c)[0][n:]
	return n, nil
}

// cut is data in chunks that end at the places given.
func cut(data []byte, at ...int) *chunked {
	var c chunked
	from := 0
	for _, to := range at {
		c = append(c, data[from:to])
		from = to
	}
	c = append(c, data[from:])
	return &c
}

// scatter is data in chunks of random sizes.
func scatter(data []byte, seed uint64) *chunked {
	r := rand.New(rand.NewPCG(seed, 0))
	var at []int
	for to := 0; to < len(data); to += r.IntN(1 + r.IntN(40)) {
		at = append(at, to)
	}
	return cut(data, at...)
}

// everyCut calls f with data in one chunk, in two, cut at each place, and
// octet by octet.
func everyCut(data string, f func(how string, r *bufio.Reader)) {
	for i := range len(data) + 1 {
		f(fmt.Sprintf("%.80q cut at %d", data, i), bufio.NewReaderSize(cut([]byte(data), i), ReadBuffer))
	}
	f(fmt.Sprintf("%.80q octet by octet", data), bufio.NewReaderSize(iotest.OneByteReader(strings.NewReader(data)), ReadBuffer))
}

func rest(r *bufio.Reader) string {
	b, _ := io.ReadAll(r)
	return string(b)
}

func TestReadLine(t *testing.T) {
	for _, tt := range []struct {
		data, line, rest string
		lf               bool
		err              error
	}{
		{"+OK\r\nnext", "+OK", "next", false, nil},
		{"+OK\nnext", "+OK", "next", true, nil},
		{"\r\n\r\n", "", "\r\n", false, nil},
		{"\n", "", "", true, nil},
		{"a\rb\r\r\n", "a\rb\r", "", false, nil},
		{"a\x00\xffb\r\n", "a\x00\xffb", "", false, nil},
		{"12345678\r\n", "12345678", "", false, nil}, // the limit
		{"12345678\n", "12345678", "", true, nil},
		{"1234567\r\r\n", "1234567\r", "", false, nil},
		{"123456789\r\n", "", "", false, ErrTooLarge},
		{"123456789\n", "", "", false, ErrTooLarge},
		{"12345678\r\r\n", "", "", false, ErrTooLarge},
		{"12345678\rx\n", "", "", false, ErrTooLarge},
		{"123456789", "", "", false, ErrTooLarge}, // without waiting for its end
		{"12345678\r", "", "", false, io.ErrUnexpectedEOF},
		{"12345678", "", "", false, io.ErrUnexpectedEOF},
		{"", "", "", false, io.ErrUnexpectedEOF},
	} {
		everyCut(tt.data, func(how string, r *bufio.Reader) {
			line, lf, err := ReadLine(r, 8)
			if string(line) != tt.line || lf != tt.lf || !errors.Is(err, tt.err) {
				t.Errorf("%s: %q, %t, %v; want %q, %t, %v", how, line, lf, err, tt.line, tt.lf, tt.err)
			}
			if got := rest(r); err == nil && got != tt.rest {
				t.Errorf("%s: the rest is %q, want %q", how, got, tt.rest)
			}
		})
	}
	// The longest line there is fits into the buffer.
	long := strings.Repeat("x", MaxChallenge)
	r := bufio.NewReaderSize(strings.NewReader(long+"\r\n"), ReadBuffer)
	if line, _, err := ReadLine(r, MaxChallenge); string(line) != long || err != nil {
		t.Errorf("%d octets, %v", len(line), err)
	}
	errBroken := errors.New("broken")
	if _, _, err := ReadLine(bufio.NewReader(iotest.ErrReader(errBroken)), 8); err != errBroken {
		t.Errorf("error %v, want the reader's", err)
	}
}

func TestParseStatus(t *testing.T) {
	for line, want := range map[string]struct {
		status Status
		text   string
	}{
		"+OK":               {OK, ""},
		"+OK ":              {OK, ""},
		"+ok ready":         {OK, "ready"},
		"+Ok\t \tready \t":  {OK, "ready"},
		"-ERR":              {Refused, ""},
		"-err  [IN-USE] no": {Refused, "[IN-USE] no"},
		"+ERR no":           {Refused, "no"},
		"+":                 {Continue, ""},
		"+ YQ==":            {Continue, "YQ=="},
		"+\tHola":           {Continue, "Hola"},
		"":                  {Malformed, ""},
		" +OK":              {Malformed, " +OK"},
		"+OKAY":             {Malformed, "+OKAY"},
		"+OK\r":             {Malformed, "+OK\r"},
		"+OK\x00":           {Malformed, "+OK\x00"},
		"-ERROR":            {Malformed, "-ERROR"},
		"-OK":               {Malformed, "-OK"},
		"-":                 {Malformed, "-"},
		"OK":                {Malformed, "OK"},
		"+\xcfK":            {Malformed, "+\xcfK"}, // not a capital of anything
		"+O\xab":            {Malformed, "+O\xab"},
		"+/k":               {Malformed, "+/k"},
		"KOK":               {Malformed, "KOK"}, // K is + with a bit more
	} {
		if status, text := ParseStatus([]byte(line)); status != want.status || string(text) != want.text {
			t.Errorf("ParseStatus(%q) = %v, %q, want %v, %q", line, status, text, want.status, want.text)
		}
	}
}

func TestCode(t *testing.T) {
	for text, want := range map[string][2]string{
		"[IN-USE] locked":       {"IN-USE", "locked"},
		"[in-use]locked":        {"IN-USE", "locked"},
		"[SYS/TEMP] \t x [y]":   {"SYS/TEMP", "x [y]"},
		"[X-a_b+1/c/D]":         {"X-A_B+1/C/D", ""},
		"[127.0.0.1] hello":     {"", "[127.0.0.1] hello"},
		"[mail.example.com] no": {"", "[mail.example.com] no"},
		"[] x":                  {"", "[] x"},
		"[/] x":                 {"", "[/] x"},
		"[SYS/] x":              {"", "[SYS/] x"},
		"[/TEMP] x":             {"", "[/TEMP] x"},
		"[SYS//TEMP] x":         {"", "[SYS//TEMP] x"},
		"[IN USE] x":            {"", "[IN USE] x"},
		"[A\x7f] x":             {"", "[A\x7f] x"},
		"[A\xe4] x":             {"", "[A\xe4] x"},
		"[AUTH x":               {"", "[AUTH x"},
		"AUTH] x":               {"", "AUTH] x"},
		" [AUTH] x":             {"", " [AUTH] x"},
		"x [AUTH]":              {"", "x [AUTH]"},
		"":                      {"", ""},
		"[":                     {"", "["},
		"]":                     {"", "]"},
	} {
		if code, rest := Code(text); code != want[0] || rest != want[1] {
			t.Errorf("Code(%q) = %q, %q, want %q", text, code, rest, want)
		}
	}
}

func TestTimestamp(t *testing.T) {
	for greeting, want := range map[string]string{
		"POP3 server ready <1896.697170952@dbc.mtview.ca.us>": "<1896.697170952@dbc.mtview.ca.us>",
		"<timestamp> x":                        "<timestamp>",
		"a<b>c<d>":                             "<b>",
		"<a <b@c>":                             "<b@c>",
		"<a<b@c>":                              "<b@c>",
		"<> <a>":                               "<a>",
		">> <a>":                               "<a>",
		"<a b> <c\td> <e\x7f> <f\x80> <g\x1f>": "",
		"<a":                                   "",
		"":                                     "",
	} {
		if got := Timestamp(greeting); got != want {
			t.Errorf("Timestamp(%q) = %q, want %q", greeting, got, want)
		}
	}
}

func TestOctets(t *testing.T) {
	for text, want := range map[string]int64{
		"120 octets":                 120,
		"120 OCTETS":                 120,
		"120 octet":                  120,
		"120 bytes follows":          120,
		"(120 octets)":               120,
		"message 1 (120 octets)":     120,
		"message 1, 120 octets":      120,
		"0 octets":                   0,
		"120":                        -1,
		"octets":                     -1,
		"follows 120":                -1,
		"message follows":            -1,
		"1 message follows":          -1,
		"120 oct":                    -1,
		"-1 octets":                  -1,
		"1e3 octets":                 -1,
		"9223372036854775807 octets": math.MaxInt64,
		"9223372036854775808 octets": -1,
		"":                           -1,
	} {
		if got := Octets(text); got != want {
			t.Errorf("Octets(%q) = %d, want %d", text, got, want)
		}
	}
}

func TestNumbers(t *testing.T) {
	for _, tt := range []struct {
		name  string
		parse func(string) (int, int64, bool)
		row   string
		n     int
		size  int64
		ok    bool
	}{
		{"Stat", Stat, "2 320", 2, 320, true},
		{"Stat", Stat, "0 0 octets", 0, 0, true},
		{"Stat", Stat, "14600000\t5", 14_600_000, 5, true},
		{"Stat", Stat, "2 -320", 2, -1, true},
		{"Stat", Stat, strconv.Itoa(math.MaxInt) + " 9223372036854775807", math.MaxInt, math.MaxInt64, true},
		{"Stat", Stat, "9223372036854775808 1", 0, 0, false},
		{"Stat", Stat, "1 9223372036854775808", 0, 0, false},
		{"Stat", Stat, "1 18446744073709551617", 0, 0, false},
		{"Stat", Stat, "-1 320", 0, 0, false},
		{"Stat", Stat, "2 -", 0, 0, false},
		{"Stat", Stat, "2 --3", 0, 0, false},
		{"Stat", Stat, "2 3x", 0, 0, false},
		{"Stat", Stat, "+2 3", 0, 0, false},
		{"Stat", Stat, "2", 0, 0, false},
		{"Stat", Stat, "", 0, 0, false},
		{"Scan", Scan, "1 120", 1, 120, true},
		{"Scan", Scan, " \t1 \t 120 \t x ", 1, 120, true},
		{"Scan", Scan, "007 0", 7, 0, true},
		{"Scan", Scan, "1 -5", 1, -1, true},
		{"Scan", Scan, "0 120", 0, 0, false},
		{"Scan", Scan, "-1 120", 0, 0, false},
		{"Scan", Scan, "9223372036854775808 1", 0, 0, false},
		{"Scan", Scan, "1", 0, 0, false},
		{"Scan", Scan, "1\x0b120", 0, 0, false},
		{"Scan", Scan, " ", 0, 0, false},
		{"Scan", Scan, "", 0, 0, false},
	} {
		n, size, ok := tt.parse(tt.row)
		if ok != tt.ok || ok && (n != tt.n || size != tt.size) {
			t.Errorf("%s(%q) = %d, %d, %t, want %d, %d, %t", tt.name, tt.row, n, size, ok, tt.n, tt.size, tt.ok)
		}
	}
}

func TestUID(t *testing.T) {
	long := strings.Repeat("x", 2000)
	for row, want := range map[string]struct {
		n   int
		uid string
	}{
		"1 whqtswO00WBw418f9t5JxYwZ": {1, "whqtswO00WBw418f9t5JxYwZ"},
		"12 \t  a b  c \t":           {12, "a b  c"},
		"1 \xe4\xf6":                 {1, "\xe4\xf6"},
		"1 1":                        {1, "1"},
		"1 " + long:                  {1, long},
		"1":                          {},
		"1 ":                         {},
		"":                           {},
		" ":                          {},
		"0 a":                        {},
		"-1 a":                       {},
		"x a":                        {},
		"99999999999999999999 a":     {},
		"1 a\x00":                    {},
		"1 a\tb":                     {}, // a tab inside is a control octet
		"1 a\x7f":                    {},
	} {
		n, uid, ok := UID(row, false)
		if ok != (want.n > 0) || ok && (n != want.n || uid != want.uid) {
			t.Errorf("UID(%q) = %d, %q, %t, want %d, %q", row, n, uid, ok, want.n, want.uid)
		}
	}
	for text, want := range map[string]string{ // about message 2
		"2 abc":    "abc",
		"2  a b":   "a b",
		"abc":      "abc",
		"17":       "17",
		"2":        "", // the number, and no unique-id
		"3 abc":    "",
		"abc def":  "",
		"":         "",
		"2 a\x01":  "",
		"a\x01":    "",
		"0":        "0",
		"-2":       "-2",
		"02 abc":   "abc",
		"2.0 abc":  "",
		"\xe4\xf6": "\xe4\xf6",
	} {
		uid, ok := OneUID(text, 2)
		if ok != (want != "") || ok && uid != want {
			t.Errorf("OneUID(%q, 2) = %q, %t, want %q", text, uid, ok, want)
		}
	}
}

func isControl(r rune) bool { return r < ' ' || r == 0x7F }

// Rows of octets that matter, beside a slow and obvious reading of them.
func TestRandomRows(t *testing.T) {
	near := []string{"0", "1", "9", "922337203685477580", "7", "8", "-", " ", " ", "\t", "a", "\x1f", "\x7f", "\x80", "\xff", "\x9f", "/", ":", "abcdefg"}
	r := rand.New(rand.NewPCG(7, 8))
	for range 20_000 {
		row := ""
		if r.IntN(2) == 0 {
			row = strconv.Itoa(r.IntN(20)) + " "
		}
		for range r.IntN(12) {
			row += near[r.IntN(len(near))]
		}
		word, rest, _ := strings.Cut(strings.ReplaceAll(strings.Trim(row, " \t"), "\t", " "), " ")
		number := func(s string) (int64, bool) {
			n, err := strconv.ParseInt(s, 10, 64)
			return n, err == nil && s[0] != '-'
		}
		want, wantOK := number(word)
		uid := strings.Trim(strings.Trim(row, " \t")[len(word):], " \t")
		uidOK := wantOK && want > 0 && want <= math.MaxInt && uid != "" && !strings.ContainsFunc(uid, isControl)
		if n, got, ok := UID(row, control(row) == len(row)); ok != uidOK || ok && (int64(n) != want || got != uid) {
			t.Errorf("UID(%q) = %d, %q, %t, want %d, %q, %t", row, n, got, ok, want, uid, uidOK)
		}
		word, _, _ = strings.Cut(strings.Trim(rest, " "), " ")
		size, sizeOK := number(strings.TrimPrefix(word, "-"))
		if strings.HasPrefix(word, "-") {
			size = -1
		}
		sizeOK = sizeOK && wantOK && want > 0 && want <= math.MaxInt
		if n, got, ok := Scan(row); ok != sizeOK || ok && (int64(n) != want || got != size) {
			t.Errorf("Scan(%q) = %d, %d, %t, want %d, %d, %t", row, n, got, ok, want, size, sizeOK)
		}
	}
	// Any octet, at any place of the words that the octets are looked at in.
	for n := 1; n < 40; n++ {
		for i := range n {
			for octet := range 256 {
				uid := []byte(strings.Repeat("~", n))
				uid[i] = byte(octet)
				want := octet >= ' ' && octet != 0x7F
				if got := validUID(string(uid)); got != want {
					t.Fatalf("validUID(%q) = %t", uid, got)
				}
			}
		}
	}
}

func TestCommand(t *testing.T) {
	for _, tt := range []struct {
		cmd            Command
		line, redacted string
	}{
		{Command{Verb: "NOOP"}, "NOOP\r\n", "NOOP"},
		{Command{Verb: "RETR", Numbers: []int{1}}, "RETR 1\r\n", "RETR 1"},
		{Command{Verb: "TOP", Numbers: []int{10, 0}}, "TOP 10 0\r\n", "TOP 10 0"},
		{Command{Verb: "TOP", Numbers: []int{9, 99}}, "TOP 9 99\r\n", "TOP 9 99"},
		{Command{Verb: "DELE", Numbers: []int{math.MaxInt}}, fmt.Sprintf("DELE %d\r\n", math.MaxInt), fmt.Sprintf("DELE %d", math.MaxInt)},
		{Command{Verb: "USER", Args: []string{"jürgen x"}}, "USER jürgen x\r\n", "USER jürgen x"},
		{Command{Verb: "PASS", Args: []string{" s3cret "}, Secret: true}, "PASS  s3cret \r\n", "PASS ***"},
		{Command{Verb: "PASS", Args: []string{""}, Secret: true}, "PASS \r\n", "PASS ***"},
		{Command{Verb: "APOP", Args: []string{"alice", "c4c9"}, Secret: true}, "APOP alice c4c9\r\n", "APOP alice ***"},
		{Command{Verb: "AUTH", Secret: true}, "AUTH\r\n", "AUTH"},
	} {
		if err := tt.cmd.Check(); err != nil {
			t.Errorf("%s: Check: %v", tt.redacted, err)
		}
		line := tt.cmd.Append([]byte("x"))
		if string(line) != "x"+tt.line || tt.cmd.Len() != len(tt.line) {
			t.Errorf("Append = %q, Len = %d, want %q", line, tt.cmd.Len(), tt.line)
		}
		if got := tt.cmd.Redacted(); got != tt.redacted {
			t.Errorf("Redacted = %q, want %q", got, tt.redacted)
		}
		if n := tt.cmd.Number(); len(tt.cmd.Numbers) == 0 && n != 0 || len(tt.cmd.Numbers) > 0 && n != tt.cmd.Numbers[0] {
			t.Errorf("%s: Number = %d", tt.redacted, n)
		}
	}
	for _, cmd := range []Command{
		{Verb: "RETR", Numbers: []int{0}}, {Verb: "RETR", Numbers: []int{-1}}, {Verb: "TOP", Numbers: []int{1, -1}},
		{Verb: "TOP", Numbers: []int{0, 1}}, {Verb: "RETR", Numbers: []int{math.MinInt}},
	} {
		if err := cmd.Check(); err == nil {
			t.Errorf("%v: no error", cmd)
		}
	}
	for octet := range 256 {
		arg := "canary" + string([]byte{byte(octet)}) + "x"
		bad := octet < 0x20 || octet == 0x7F
		for _, args := range [][]string{{arg}, {"a", arg}, {arg, "a"}} {
			err := (&Command{Verb: "USER", Args: args}).Check()
			if (err != nil) != bad {
				t.Errorf("%#02x: %v", octet, err)
			}
			if err != nil && strings.Contains(err.Error(), "canary") {
				t.Errorf("%v shows the argument", err)
			}
		}
	}
	for extra, want := range []error{nil, ErrTooLarge} {
		cmd := Command{Verb: "PASS", Args: []string{strings.Repeat("x", MaxCommand-len("PASS ")+extra)}}
		if err := cmd.Check(); !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("command of %d octets: %v, want %v", cmd.Len(), err, want)
		}
	}
}

// undot is DotReader in a slow and obvious form: the text of a response, what
// follows it, and whether it ended. Where it did not, text is as far as it goes.
func undot(data string, lf bool) (text, rest string, ended bool) {
	end := "\r\n"
	if lf {
		end = "\n"
	}
	var b strings.Builder
	for data != "" {
		line := data
		if i := strings.Index(data, end); i >= 0 {
			line = data[:i+len(end)]
		}
		data = data[len(line):]
		if line == ".\r\n" || line == "."+end {
			return b.String(), data, true
		}
		if strings.HasPrefix(line, "..") {
			line = line[1:]
		}
		b.WriteString(line)
	}
	return b.String(), "", false
}

// undotBy reads with a DotReader.
func undotBy(d *DotReader) (text []byte, err error) {
	for {
		piece, err := d.Next()
		text = append(text, piece...)
		if err != nil {
			return text, err
		}
		if len(piece) == 0 {
			return text, errors.New("an empty piece")
		}
	}
}

func checkDots(t *testing.T, how string, data string, lf bool, r *bufio.Reader) {
	t.Helper()
	want, after, ended := undot(data, lf)
	d := &DotReader{R: r, LF: lf}
	text, err := undotBy(d)
	if !ended {
		// What may be the beginning of the end, or of a stuffed dot, is kept back.
		if err != io.ErrUnexpectedEOF || !strings.HasPrefix(want, string(text)) || len(want)-len(text) > len(".\r") {
			t.Errorf("%s, LF %t: %.200q, %v; want ErrUnexpectedEOF behind %.200q", how, lf, text, err, want)
		}
		return
	}
	if string(text) != want || err != io.EOF {
		t.Errorf("%s, LF %t: %.200q, %v; want %.200q", how, lf, text, err, want)
	}
	if _, err := d.Next(); err != io.EOF {
		t.Errorf("%s, LF %t: again: %v", how, lf, err)
	}
	if got := rest(r); got != after {
		t.Errorf("%s, LF %t: left %.200q, want %.200q", how, lf, got, after)
	}
}

var dotSeeds = []string{
	".\r\n",
	".\r\n+OK\r\n",
	"a\r\n.\r\nx",
	"..\r\n...\r\n..a\r\n.a\r\n.\r\n",
	"a\n.\nb\r\n.\r\n",
	"a\n.\r\nb\r\n.\r\n.\r\n",
	"\n.\n\r\n.\r\n",
	"a\n..b\n.c\n.\n+OK\n",
	"a\r\n\r\n\r\r\n.\r\r\n.\n\r\n.\r\n",
	".\r.\r\n..\r\r\n.\r\n",
	"\r\n.\r", "a\r\n.", "a\r\n", "", "\r", ".", "..", ".\r", ".\n", "..\n.", "a\r\n..",
	"\x00\xff\r\n.\r\n",
}

func TestDotReader(t *testing.T) {
	for _, lf := range []bool{false, true} {
		for _, data := range dotSeeds {
			everyCut(data, func(how string, r *bufio.Reader) { checkDots(t, how, data, lf, r) })
			for i := range len(data) + 1 {
				for j := i; j <= len(data); j++ {
					checkDots(t, fmt.Sprintf("%q cut at %d and %d", data, i, j), data, lf, bufio.NewReaderSize(cut([]byte(data), i, j), 64))
				}
			}
		}
		// The window's edge falls on every octet: bufio's smallest is 16.
		for shift := range 20 {
			data := strings.Repeat("x", shift) + "\r\n..y\r\n.\r.\r\nz\n.\n..\r\n.\r\n.\r\n"
			checkDots(t, fmt.Sprintf("window of 16, shifted by %d", shift), data, lf, bufio.NewReaderSize(strings.NewReader(data), 16))
		}
	}
	// All texts of up to 6 of the octets that matter.
	const alphabet = ".\r\na"
	data := make([]byte, 0, 16)
	var all func()
	all = func() {
		for _, lf := range []bool{false, true} {
			whole := string(data) + "\r\n.\r\n.\r\n"
			checkDots(t, fmt.Sprintf("%q", whole), whole, lf, bufio.NewReaderSize(strings.NewReader(whole), 16))
		}
		if len(data) == 6 {
			return
		}
		for i := range len(alphabet) {
			data = append(data, alphabet[i])
			all()
			data = data[:len(data)-1]
		}
	}
	all()
	// Longer ones, of octets that are a bit away from those that matter, too.
	near := []byte(".\r\n\r\n.\n.a\x00\xff\x0b\x09\x2f\x2d\x8a\xae\x01\x80")
	r := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		data := make([]byte, r.IntN(150))
		few := 1 + r.IntN(len(near))
		for i := range data {
			data[i] = 'a'
			if r.IntN(10) < few {
				data[i] = near[r.IntN(few)]
			}
		}
		whole := string(data) + "\r\n.\r\n"
		checkDots(t, fmt.Sprintf("%q", whole), whole, r.IntN(2) == 0, bufio.NewReaderSize(strings.NewReader(whole), 16+r.IntN(200)))
	}
	errBroken := errors.New("broken")
	d := &DotReader{R: bufio.NewReader(io.MultiReader(strings.NewReader("a\r\n"), iotest.ErrReader(errBroken)))}
	if text, err := undotBy(d); string(text) != "a\r\n" || err != errBroken {
		t.Errorf("%q, %v, want the reader's error", text, err)
	}
}

// A text that the server's side has stuffed comes out as it was. net/textproto
// is no judge of it: it turns CRLF into LF and drops a lone dot.
func TestDotReaderUndoesStuffing(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		var text, sent strings.Builder
		for range r.IntN(50) {
			line := strings.Repeat(".", r.IntN(4)) + strings.Repeat("x", r.IntN(20)) + []string{"", "\n", "\r", "\n.\n"}[r.IntN(4)]
			line = strings.TrimSuffix(line, "\r") // or the line end would have another
			text.WriteString(line + "\r\n")
			if line != "" && line[0] == '.' {
				sent.WriteByte('.')
			}
			sent.WriteString(line + "\r\n")
		}
		sent.WriteString(".\r\n")
		got, err := undotBy(&DotReader{R: bufio.NewReaderSize(scatter([]byte(sent.String()), r.Uint64()), 16+r.IntN(100))})
		if string(got) != text.String() || err != io.EOF {
			t.Fatalf("%q, %v, want %q", got, err, text.String())
		}
	}
}

// rowsOf is a Listing's rows in a slow and obvious form, without bounds.
func rowsOf(data string, lf bool) (rows []string, rest string, ended bool) {
	text, rest, ended := undot(data, lf)
	if !ended {
		return nil, "", false
	}
	end := "\r\n"
	if lf {
		end = "\n"
	}
	for text != "" {
		var row string
		row, text, _ = strings.Cut(text, end)
		if lf {
			row = strings.TrimSuffix(row, "\r")
		}
		rows = append(rows, row)
	}
	return rows, rest, true
}

// readRows is ReadListing, and how often it told of progress.
func readRows(d *DotReader, limit int) (rows []string, progress int, err error) {
	l, err := ReadListing(d, limit, func() { progress++ })
	if err != nil {
		return nil, progress, err
	}
	for row, plain := range l.Rows() {
		rows = append(rows, row)
		if plain == strings.ContainsFunc(row, isControl) {
			err = fmt.Errorf("%q is plain: %t", row, plain)
		}
	}
	if l.Len() < len(rows) {
		err = fmt.Errorf("Len %d of %d rows", l.Len(), len(rows))
	}
	return rows, progress, err
}

func checkRows(t *testing.T, how, data string, lf bool, r *bufio.Reader) {
	t.Helper()
	want, after, ended := rowsOf(data, lf)
	got, _, err := readRows(&DotReader{R: r, LF: lf}, MaxListing)
	switch {
	case !ended:
		if err != io.ErrUnexpectedEOF && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s, LF %t: %v, want ErrUnexpectedEOF", how, lf, err)
		}
		return
	case errors.Is(err, ErrTooLarge):
		if !slices.ContainsFunc(want, func(row string) bool { return len(row) >= MaxRow }) {
			t.Errorf("%s, LF %t: %v", how, lf, err)
		}
		return
	case err != nil || !slices.Equal(got, want):
		t.Errorf("%s, LF %t: %q, %v, want %q", how, lf, got, err, want)
	}
	if got := rest(r); got != after {
		t.Errorf("%s, LF %t: left %q, want %q", how, lf, got, after)
	}
}

func TestRows(t *testing.T) {
	for _, lf := range []bool{false, true} {
		for _, data := range append(dotSeeds, "1 120\r\n2 200\r\n.\r\n+OK\r\n", "1 a\n2 b\n.\n", "1 a\r\n\r\n.\r\n", "1 a\r\r\n.\r\n") {
			everyCut(data, func(how string, r *bufio.Reader) { checkRows(t, how, data, lf, r) })
		}
	}
	// Rows across the window's edge.
	var b strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&b, "%d %s\r\n", i+1, strings.Repeat("u", i%71))
	}
	data := b.String() + ".\r\n"
	checkRows(t, "20,000 rows", data, false, bufio.NewReaderSize(strings.NewReader(data), ReadBuffer))
	checkRows(t, "20,000 rows scattered", data, false, bufio.NewReaderSize(scatter([]byte(data), 3), ReadBuffer))
	errBroken := errors.New("broken")
	if _, _, err := readRows(&DotReader{R: bufio.NewReader(iotest.ErrReader(errBroken))}, 100); err != errBroken {
		t.Errorf("error %v, want the reader's", err)
	}
	// Octets that end no row are no progress.
	octets := bufio.NewReader(iotest.OneByteReader(strings.NewReader("1 1\n20\r\n2 200\r\n.\r\n")))
	if rows, progress, err := readRows(&DotReader{R: octets}, 100); len(rows) != 2 || progress != 2 || err != nil {
		t.Errorf("%q, progress %d, %v, want 2 rows and progress 2", rows, progress, err)
	}
}

// repeat is a row n times.
func repeat(row string, n int) io.Reader {
	block := strings.Repeat(row, min(n, 1<<16/len(row)+1))
	per := len(block) / len(row)
	var readers []io.Reader
	for ; n >= per; n -= per {
		readers = append(readers, strings.NewReader(block))
	}
	return io.MultiReader(append(readers, strings.NewReader(strings.Repeat(row, n)))...)
}

func TestRowBounds(t *testing.T) {
	if MaxListing != 64<<20 { // too much for a test
		t.Errorf("MaxListing = %d", MaxListing)
	}
	const (
		MaxRow  = 2048
		MaxRows = 4_194_304
	)
	x := func(n int) string { return strings.Repeat("x", n) }
	for _, tt := range []struct {
		name  string
		r     io.Reader
		limit int
		count int
		err   error
	}{
		{"row", strings.NewReader(x(MaxRow) + "\r\n.\r\n"), MaxListing, 1, nil},
		{"row and a stuffed dot", strings.NewReader(".." + x(MaxRow-2) + "\r\n.\r\n"), MaxListing, 1, nil},
		{"longer row", strings.NewReader(x(MaxRow+1) + "\r\n.\r\n"), MaxListing, 0, ErrTooLarge},
		{"row without an end", strings.NewReader(x(MaxRow + 1)), MaxListing, 0, ErrTooLarge},
		{"row with its CR", strings.NewReader(x(MaxRow) + "\r"), MaxListing, 0, io.ErrUnexpectedEOF},
		{"row for ever", repeat("x", 1<<20), MaxListing, 0, ErrTooLarge},
		{"answer", strings.NewReader("1234\r\n567890\r\n.\r\n"), 10, 2, nil},
		{"larger answer", strings.NewReader("1234\r\n5678901\r\n.\r\n"), 10, 0, ErrTooLarge},
		{"rows", io.MultiReader(repeat("\r\n", MaxRows), strings.NewReader(".\r\n")), MaxListing, MaxRows, nil},
		{"more rows", repeat("\r\n", MaxRows+1), MaxListing, 0, ErrTooLarge},
		{"empty rows of a small answer", repeat("\r\n", 101), 100, 0, ErrTooLarge},
		{"long row among others", strings.NewReader(strings.Repeat(x(9)+"\r\n", 500) + x(MaxRow+1) + "\r\n" + strings.Repeat(x(9)+"\r\n", 500) + ".\r\n"), MaxListing, 0, ErrTooLarge},
		{"longest row among others", strings.NewReader(strings.Repeat(x(9)+"\r\n", 500) + x(MaxRow) + "\r\n" + strings.Repeat(x(9)+"\r\n", 500) + ".\r\n"), MaxListing, 1001, nil},
		{"lone LFs", strings.NewReader(strings.Repeat("\n", MaxRow) + "\r\n.\r\n"), MaxListing, 1, nil},
		{"more lone LFs", strings.NewReader(strings.Repeat("\n", MaxRow+1) + "\r\n.\r\n"), MaxListing, 0, ErrTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rows, _, err := readRows(&DotReader{R: bufio.NewReaderSize(tt.r, ReadBuffer)}, tt.limit)
			count := len(rows)
			if count != tt.count || !errors.Is(err, tt.err) {
				t.Errorf("%d rows, %v, want %d, %v", count, err, tt.count, tt.err)
			}
		})
	}
	for _, end := range []string{"\n", "\r\n"} { // behind a status line that ended with LF
		for n, want := range map[int]error{MaxRow: nil, MaxRow + 1: ErrTooLarge} {
			for _, others := range []string{"", strings.Repeat(x(9)+"\n", 500)} {
				data := others + x(n) + end + others + ".\n"
				_, _, err := readRows(&DotReader{R: bufio.NewReaderSize(strings.NewReader(data), ReadBuffer), LF: true}, MaxListing)
				if !errors.Is(err, want) {
					t.Errorf("row of %d ended with %q among %d octets: %v", n, end, len(data), err)
				}
			}
		}
	}
}

// The octets of rows count, their line ends do not, however they come.
func TestRowOctets(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 60 {
		lf := r.IntN(2) == 0
		var b strings.Builder
		octets, rows := 0, 1+r.IntN(1+r.IntN(3000))
		for range rows {
			n := 1 + r.IntN(60)
			octets += n
			b.WriteString(strings.Repeat("x", n))
			if !lf || r.IntN(2) == 0 {
				b.WriteByte('\r')
			}
			b.WriteByte('\n')
		}
		data := b.String() + ".\r\n"
		for limit := octets - 1; limit <= octets+1; limit++ {
			got, _, err := readRows(&DotReader{R: bufio.NewReaderSize(scatter([]byte(data), r.Uint64()), ReadBuffer), LF: lf}, limit)
			if tooLarge := octets > limit; errors.Is(err, ErrTooLarge) != tooLarge || !tooLarge && (err != nil || len(got) != rows) {
				t.Fatalf("%d rows of %d octets, limit %d, LF %t: %d rows, %v", rows, octets, limit, lf, len(got), err)
			}
		}
	}
}

// At any place, among octets that are near, and not outside of the slice.
func TestNextDot(t *testing.T) {
	for _, fill := range []string{"a", ".", "\n", "\r", "\x8a\xae", "..\x00\xff"} {
		for size := range 100 {
			for at := range size + 2 { // of the LF
				all := []byte(strings.Repeat(fill, size+2))[:size+2]
				if fill != "\n" && fill != "." {
					all[0], all[size], all[size+1] = '\n', '\n', '.'
				}
				copy(all[at:], "\n.")
				buf := all[1 : size+1]
				for i := 1; i <= size; i++ {
					want := size
					if k := bytes.Index(buf[i-1:], []byte("\n.")); k >= 0 {
						want = i + k
					}
					if got := nextDot(buf, i); got != want {
						t.Fatalf("nextDot(%q, %d) = %d, want %d", buf, i, got, want)
					}
				}
			}
		}
	}
}

func FuzzDotReader(f *testing.F) {
	for i, seed := range dotSeeds {
		f.Add([]byte(seed), i%2 == 0, uint64(i))
	}
	f.Fuzz(func(t *testing.T, data []byte, lf bool, seed uint64) {
		checkDots(t, "fuzz", string(data), lf, bufio.NewReaderSize(scatter(data, seed), 16+int(seed%64)))
		checkDots(t, "fuzz", string(data), lf, bufio.NewReaderSize(iotest.OneByteReader(bytes.NewReader(data)), 16))
	})
}

func FuzzRows(f *testing.F) {
	for i, seed := range dotSeeds {
		f.Add([]byte(seed), i%2 == 0, uint64(i))
	}
	f.Add([]byte("1 120\r\n2 200\r\n.\r\n+OK\r\n"), false, uint64(1))
	f.Fuzz(func(t *testing.T, data []byte, lf bool, seed uint64) {
		checkRows(t, "fuzz", string(data), lf, bufio.NewReaderSize(scatter(data, seed), ReadBuffer))
	})
}

// FuzzReply holds the parsers to what may be relied on whatever a server sends.
func FuzzReply(f *testing.F) {
	for _, seed := range []string{
		"+OK POP3 server ready <1896.697170952@dbc.mtview.ca.us>", "-ERR [SYS/TEMP] later", "+ Hola", "+ERR", "+OK 2 320",
		"2 320", "1 -1 x", "99999999999999999999 1", "3 whqtswO00WBw418f9t5JxYwZ", "[127.0.0.1] hello", "120 octets", "message (120 octets)", "<a<b>",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		kept := bytes.Clone(data)
		trimmed := func(b []byte) bool {
			return len(b) == 0 || !blank(b[0]) && !blank(b[len(b)-1])
		}
		status, text := ParseStatus(data)
		if !bytes.Contains(data, text) || status != Malformed && !trimmed(text) {
			t.Errorf("ParseStatus: %v, %q", status, text)
		}
		if lower, _ := ParseStatus(bytes.ToLower(data)); lower != status {
			t.Errorf("ParseStatus: %v, in lower case %v", status, lower)
		}
		code, after := Code(string(data))
		if code == "" && after != string(data) || !strings.HasSuffix(string(data), after) || strings.ContainsAny(code, ". ]") || code != strings.ToUpper(code) {
			t.Errorf("Code: %q, %q", code, after)
		}
		if stamp := Timestamp(string(data)); stamp != "" {
			inner := stamp[1 : len(stamp)-1]
			if stamp[0] != '<' || stamp[len(stamp)-1] != '>' || inner == "" || strings.ContainsAny(inner, "<> ") || !strings.Contains(string(data), stamp) ||
				strings.ContainsFunc(inner, func(r rune) bool { return r <= ' ' || r > '~' }) {
				t.Errorf("Timestamp: %q", stamp)
			}
		}
		if n := Octets(string(data)); n < -1 {
			t.Errorf("Octets: %d", n)
		}
		if n, size, ok := Stat(string(data)); ok && (n < 0 || size < -1) {
			t.Errorf("Stat: %d, %d", n, size)
		}
		if n, size, ok := Scan(string(data)); ok && (n < 1 || size < -1) {
			t.Errorf("Scan: %d, %d", n, size)
		} else if ok {
			again, size2, ok := Scan(fmt.Sprintf("%d %d", n, size))
			if again != n || size2 != size || !ok {
				t.Errorf("Scan: %d, %d, then %d, %d, %t", n, size, again, size2, ok)
			}
		}
		if n, uid, ok := UID(string(data), false); ok && (n < 1 || len(uid) == 0 || strings.ContainsFunc(uid, isControl) || !trimmed([]byte(uid))) {
			t.Errorf("UID: %d, %q", n, uid)
		} else if ok {
			again, uid2, ok := UID(fmt.Sprintf("%d %s", n, uid), true)
			if again != n || uid != uid2 || !ok {
				t.Errorf("UID: %d, %q, then %d, %q, %t", n, uid, again, uid2, ok)
			}
		}
		if uid, ok := OneUID(string(text), 2); ok && (len(uid) == 0 || strings.ContainsFunc(uid, isControl)) {
			t.Errorf("OneUID: %q", uid)
		}
		if !bytes.Equal(data, kept) {
			t.Error("the line was modified")
		}
	})
}

// FuzzCommand: what passes the check is one line, and says what was meant.
func FuzzCommand(f *testing.F) {
	f.Add("USER", "alice", 0, 0)
	f.Add("PASS", "a b\r\nQUIT", 0, 0)
	f.Add("TOP", "", 1, 10)
	f.Add("RETR", "", -1, math.MinInt)
	f.Fuzz(func(t *testing.T, verb, arg string, n, lines int) {
		if verb == "" || strings.ContainsFunc(verb, func(r rune) bool { return r < 'A' || r > 'Z' }) {
			return // verbs are ours
		}
		for _, cmd := range []Command{{Verb: verb, Args: []string{arg}, Secret: true}, {Verb: verb, Numbers: []int{n, lines}}} {
			if cmd.Check() != nil {
				continue
			}
			line := string(cmd.Append(nil))
			if cmd.Len() != len(line) || len(line) > MaxCommand+2 || strings.IndexAny(line, "\r\n\x00") != len(line)-2 {
				t.Errorf("%q, Len = %d", line, cmd.Len())
			}
			want := verb + " " + arg
			if cmd.Numbers != nil {
				want = fmt.Sprint(verb, " ", n, lines)
			}
			if line != want+"\r\n" {
				t.Errorf("%q, want %q", line, want)
			}
			if cmd.Secret && cmd.Redacted() != verb+" ***" {
				t.Errorf("Redacted = %q", cmd.Redacted())
			}
		}
	})
}

// A loop is a reader that gives the same text again and again.
type loop struct {
	data []byte
	at   int
}

func (l *loop) Read(p []byte) (int, error) {
	n := copy(p, l.data[l.at:])
	if l.at += n; l.at == len(l.data) {
		l.at = 0
	}
	return n, nil
}

// BenchmarkDotReader reads texts of 8 MiB, beside net/textproto.
func BenchmarkDotReader(b *testing.B) {
	const size = 8 << 20
	for _, text := range []struct{ name, line string }{
		{"mail", "This is a line of an ordinary mail, of about sixty octets.\r\n"},
		{"base64", strings.Repeat("QUJD", 19) + "\r\n"},
		{"dots", "..dots at the beginning of every line, as a list may have them\r\n"},
	} {
		data := []byte(strings.Repeat(text.line, size/len(text.line)) + ".\r\n")
		for _, by := range []struct {
			name string
			read func(*bufio.Reader) (int, error)
		}{
			{"wire", func(r *bufio.Reader) (n int, err error) {
				d := DotReader{R: r}
				for {
					text, err := d.Next()
					n += len(text)
					if err == io.EOF {
						return n, nil
					} else if err != nil {
						return n, err
					}
				}
			}},
			{"textproto", func(r *bufio.Reader) (int, error) {
				n, err := io.Copy(io.Discard, textproto.NewReader(r).DotReader())
				return int(n), err
			}},
		} {
			b.Run(text.name+"/"+by.name, func(b *testing.B) {
				r := bufio.NewReaderSize(&loop{data: data}, ReadBuffer)
				b.SetBytes(int64(len(data)))
				b.ReportAllocs()
				for b.Loop() {
					if n, err := by.read(r); n < size/2 || err != nil {
						b.Fatal(n, err)
					}
				}
			})
		}
	}
}

func BenchmarkRows(b *testing.B) {
	var data []byte
	for i := range 100_000 {
		data = fmt.Appendf(data, "%d %016x\r\n", i+1, i)
	}
	data = append(data, ".\r\n"...)
	r := bufio.NewReaderSize(&loop{data: data}, ReadBuffer)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		l, err := ReadListing(&DotReader{R: r}, MaxListing, func() {})
		if err != nil {
			b.Fatal(err)
		}
		for row, plain := range l.Rows() {
			if _, _, ok := UID(row, plain); !ok {
				b.Fatal(row)
			}
		}
	}
}
