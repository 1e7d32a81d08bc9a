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

var errBroken = errors.New("broken")

// pieces returns a buffer of a server that sends data in pieces, the first of
// which ends at the first place of at.
func pieces(size int, data string, at ...int) *bufio.Reader {
	var readers []io.Reader
	from := 0
	for _, to := range append(at, len(data)) {
		readers = append(readers, strings.NewReader(data[from:to]))
		from = to
	}
	return bufio.NewReaderSize(io.MultiReader(readers...), size)
}

// scattered is pieces of random sizes.
func scattered(size int, data string, seed uint64) *bufio.Reader {
	r := rand.New(rand.NewPCG(seed, 0))
	var at []int
	for to := 0; to < len(data); to += r.IntN(1 + r.IntN(40)) {
		at = append(at, to)
	}
	return pieces(size, data, at...)
}

// everyCut calls f with data in two pieces, cut at each place, and octet by octet.
func everyCut(size int, data string, f func(how string, r *bufio.Reader)) {
	for i := range len(data) + 1 {
		f(fmt.Sprintf("%.80q cut at %d", data, i), pieces(size, data, i))
	}
	f(fmt.Sprintf("%.80q octet by octet", data), bufio.NewReaderSize(iotest.OneByteReader(strings.NewReader(data)), size))
}

func rest(r *bufio.Reader) string {
	b, _ := io.ReadAll(r)
	return string(b)
}

func TestReadLine(t *testing.T) {
	// The longest line of all fits into the buffer.
	long := strings.Repeat("x", MaxChallenge)
	if line, _, err := ReadLine(pieces(ReadBuffer, long+"\r\n"), MaxChallenge); string(line) != long || err != nil {
		t.Errorf("%d octets, %v", len(line), err)
	}
	if _, _, err := ReadLine(bufio.NewReader(iotest.ErrReader(errBroken)), 8); err != errBroken {
		t.Errorf("error %v, want the reader's", err)
	}
}

func TestBeginsWithStatus(t *testing.T) {
	for text, want := range map[string]bool{ // as much of it as must be known
		"+OK ": true, "+ok\r\n": true, "+Ok\n": true, "-ERR ": true, "-err\r\n": true, "-Err\n": true,
		"R": false, ".": false, "\r": false, "+E": false, "-O": false, "+OKA": false, "+OK:": false, "+OK\t": false, "+OK\rx": false, "-ERRO": false,
	} {
		r := bufio.NewReader(iotest.OneByteReader(strings.NewReader(text + "more")))
		if got, err := BeginsWithStatus(r); got != want || err != nil || r.Buffered() != len(text) {
			t.Errorf("%q: %t, %v, %d octets in the buffer, want %t", text, got, err, r.Buffered(), want)
		}
		if got, err := BeginsWithStatus(pieces(16, text[:len(text)-1])); got || err != io.ErrUnexpectedEOF {
			t.Errorf("%q without its last octet: %t, %v", text, got, err)
		}
	}
}

// show returns the results of a parser in Go syntax.
func show(results ...any) string {
	var words []string
	for _, r := range results {
		if b, ok := r.([]byte); ok {
			r = string(b)
		}
		words = append(words, fmt.Sprintf("%#v", r))
	}
	return strings.Join(words, " ")
}

// What the parsers return, and for which texts.
func TestParsers(t *testing.T) {
	maxInt := strconv.Itoa(math.MaxInt)
	huge := strconv.FormatUint(math.MaxInt+1, 10) // too large for an int
	long := strings.Repeat("x", 2000)
	for name, tt := range map[string]struct {
		parse func(text string) string
		want  map[string][]string
	}{
		"ReadLine": {func(s string) (got string) {
			everyCut(16, s, func(how string, r *bufio.Reader) {
				line, lf, err := ReadLine(r, 8)
				result := show(line, lf, rest(r))
				if err != nil {
					result = err.Error()
				}
				if got != "" && result != got {
					result = how + ": " + result
				}
				got = result
			})
			return got
		}, map[string][]string{
			`"+OK" false "next"`:     {"+OK\r\nnext"},
			`"+OK" true "next"`:      {"+OK\nnext"},
			`"" false "\r\n"`:        {"\r\n\r\n"},
			`"" true ""`:             {"\n"},
			`"a\rb\r" false ""`:      {"a\rb\r\r\n"},
			`"a\x00\xffb" false ""`:  {"a\x00\xffb\r\n"},
			`"12345678" false ""`:    {"12345678\r\n"}, // the limit
			`"12345678" true ""`:     {"12345678\n"},
			`"1234567\r" false "\r"`: {"1234567\r\r\n\r"},
			"pop3: too large: line of more than 8 octets": {"123456789\r\n", "123456789\n", "12345678\r\r\n", "12345678\rx\n",
				"123456789"}, // without waiting for its end
			"unexpected EOF": {"12345678\r", "12345678", ""},
		}},
		"FirstLine": {func(s string) string { return show(FirstLine([]byte(s))) }, map[string][]string{
			`"-ERR bye"`: {"-ERR bye", "-ERR bye\r", "-ERR bye\r\n", "-ERR bye\n+OK\n"},
			`"a\rb"`:     {"a\rb\r\nc"},
			`""`:         {"", "\n", "\r\n"},
		}},
		"MayBeginStatus": {func(s string) string { return fmt.Sprint(MayBeginStatus([]byte(s))) }, map[string][]string{
			"true":  {"+", "-", "-e", "+OK", "+ok\r", "-ERR:", "+ERR no\r\n", "+E"},
			"false": {"x", "--boundary\r\n", "-- \r\n", "- item", "+49 30", "+OKAY", "-ERRATA", "\r\n"},
		}},
		"ParseStatus": {func(s string) string {
			status, text := ParseStatus([]byte(s))
			if status == Malformed && string(text) == s {
				return "Malformed"
			}
			return []string{"", "OK ", "Refused ", "Continue "}[status] + show(text)
		}, map[string][]string{
			`OK ""`:                 {"+OK", "+oK ", "+OK:", "+ok,\t"},
			`OK "ready"`:            {"+ok ready", "+Ok\t \tready \t", "+OK: ready", "+OK,ready"},
			`OK ":"`:                {"+OK::", "+OK :"}, // one is enough
			`OK "\x00"`:             {"+OK\x00"},
			`OK "[]"`:               {"+OK[]"},
			`Refused "[IN-USE] no"`: {"-ERR [IN-USE] no", "-err:[IN-USE] no", "+ERR \t[IN-USE] no"},
			`Continue ""`:           {"+", "+ "},
			`Continue "YQ=="`:       {"+ YQ==", "+\tYQ== "},
			"Malformed": {"", " +OK", "+OKAY", "+OKz", "+OK0", "-ERR9", "-OK", "-", "+:", "OK",
				"+\xcfK", "+/k", "KOK"}, // octets that differ from the right ones in the bit of the case
		}},
		"Code": {func(s string) string {
			code, rest := Code(s)
			if code == "" && rest == s {
				return "none"
			}
			return show(code, rest)
		}, map[string][]string{
			`"IN-USE" "locked"`:  {"[IN-USE] locked", "[in-use]locked"},
			`"SYS/TEMP" "x [y]"`: {"[SYS/TEMP] \t x [y]"},
			`"X-A_B+1/C/D" ""`:   {"[X-a_b+1/c/D]"},
			"none": {"[127.0.0.1] hello", "[mail.example.com] no", "[] x", "[SYS/] x", "[/TEMP] x", "[SYS//TEMP] x", "[IN USE] x",
				"[A\x7f] x", "[A\xe4] x", "[AUTH x", "AUTH] x", " [AUTH] x"},
		}},
		"Timestamp": {func(s string) string { return show(Timestamp(s)) }, map[string][]string{
			`"<1896.697170952@dbc.mtview.ca.us>"`: {"POP3 server ready <1896.697170952@dbc.mtview.ca.us>"},
			`"<b>"`:                               {"<b>", "a<b>c<d>", "<a <b>", "<a<b>", "> <> <b> x"},
			`""`:                                  {"<a b> <c\td> <e\x7f> <f\x80> <g\x1f>", "<a", ""},
		}},
		"Octets": {func(s string) string { return show(Octets(s)) }, map[string][]string{
			"120":                 {"120 octets", "120 OCTET", "120 bytes follows", "message 1 (120 octets)", "message 1, 120 octets", "120", " 120 "},
			"0":                   {"0 octets"},
			"9223372036854775807": {"9223372036854775807 octets"},
			"-1":                  {"9223372036854775808 octets", "120x", "octets", "follows 120", "1 message follows", "120 oct", "-1 octets", "1e3 octets", ""},
		}},
		"Stat": {func(s string) string { return show(Stat(s)) }, map[string][]string{
			"2 320 true":                         {"2 320", "2\t320 octets", "00000000000000000000000002 320"}, // many servers add words
			"0 0 true":                           {"0 0"},
			"2 -1 true":                          {"2 -320"}, // of a server that counts in 32 bits
			maxInt + " 9223372036854775807 true": {maxInt + " 9223372036854775807"},
			"2 0 false":                          {"2", "2 3x", "2 9223372036854775808", "2 18446744073709551617"},
			"2 -1 false":                         {"2 -", "2 --3"},
			"0 0 false":                          {"", "-1 320", "+2 3", huge + " 1"},
		}},
		"Scan": {func(s string) string { return show(Scan(s)) }, map[string][]string{
			"1 120 true":       {"1 120", " \t001 \t 120 \t x "},
			"1 -1 true":        {"1 -5"},
			maxInt + " 1 true": {maxInt + " 1"},
			"1 0 false":        {"1", "1 x", "1 120x"},
			"0 0 false":        {"", " \t", "0 1", "-1", "x", "1\x0b120", huge},
		}},
		"UID": {func(s string) string { return show(UID(s)) }, map[string][]string{
			`1 "whqtswO00WBw418f9t5JxYwZ" true`: {"1 whqtswO00WBw418f9t5JxYwZ"},
			`12 "a b  c" true`:                  {"\t12 \t  a b  c \t"},
			`1 "\xe4\xf6" true`:                 {"1 \xe4\xf6"},
			`1 "` + long + `" true`:             {"1 " + long},
			maxInt + ` "1" true`:                {maxInt + " 1"},
			`1 "" false`:                        {"1", "1 "},
			`1 "a\tb" false`:                    {"1 a\tb"}, // inside, a tab is a control octet
			`1 "\x7f" false`:                    {"1 \x7f"},
			`0 "" false`:                        {"", " "},
			`0 "a" false`:                       {"0 a", "00  a", huge + " a"},
			`0 "x a" false`:                     {"x a"},
		}},
		"OneUID": {func(s string) string { return show(OneUID(s, 2)) }, map[string][]string{
			`2 "abc" true`:      {"2 abc", "02\tabc ", "abc", " abc "},
			`2 "17" true`:       {"2 17", "17"},
			`2 "\xe4" true`:     {"\xe4"},
			`3 "abc" true`:      {"3 abc"}, // the caller compares the number
			`2 "" false`:        {"2"},     // the number, and no unique-id
			`2 "a\x01" false`:   {"2 a\x01", "a\x01"},
			`3 "a\x01" false`:   {"3 a\x01"},
			`0 "abc def" false`: {"abc def"},
			`0 "" false`:        {""},
		}},
		"CheckArg": {func(s string) string { return fmt.Sprint(CheckArg("password", s)) }, map[string][]string{
			"<nil>":                                 {"", " p\xe4~ "},
			"the password ends with a line break":   {"p\r\n", "p\n", "p\r", "\n"},
			"the password holds control octet 0x0a": {"p\nq", "p\n\t"},
			"the password holds control octet 0x1f": {"p\x1f\n"},
			"the password holds control octet 0x00": {"\x00"},
			"the password holds control octet 0x7f": {"\x7f"},
		}},
	} {
		for want, texts := range tt.want {
			for _, text := range texts {
				if got := tt.parse(text); got != want {
					t.Errorf("%s(%q) = %s, want %s", name, text, got, want)
				}
			}
		}
	}
}

// checkRow compares Scan and UID with a slow and obvious reading of a row.
func checkRow(t *testing.T, row string) {
	t.Helper()
	row = strings.Trim(row, " \t")
	word, rest := row, ""
	if i := strings.IndexAny(row, " \t"); i >= 0 {
		word, rest = row[:i], strings.Trim(row[i:], " \t")
	}
	number, err := strconv.ParseUint(word, 10, strconv.IntSize-1)
	if err != nil {
		number = 0
	}
	uidOK := number > 0 && rest != "" && !strings.ContainsFunc(rest, func(r rune) bool { return r < ' ' || r == 0x7F })
	if n, uid, ok := UID(row); uint64(n) != number || ok != uidOK || ok && uid != rest {
		t.Errorf("UID(%q) = %d, %q, %t, want %d, %q, %t", row, n, uid, ok, number, rest, uidOK)
	}
	word, _, _ = strings.Cut(strings.ReplaceAll(rest, "\t", " "), " ")
	size, err := strconv.ParseInt(strings.TrimPrefix(word, "-"), 10, 64)
	if err == nil && word[0] == '-' && size >= 0 {
		size = -1
	}
	sizeOK := number > 0 && err == nil && !strings.ContainsAny(word, "+") && !strings.HasPrefix(word, "--")
	if n, got, ok := Scan(row); uint64(n) != number || ok != sizeOK || ok && got != size {
		t.Errorf("Scan(%q) = %d, %d, %t, want %d, %d, %t", row, n, got, ok, number, size, sizeOK)
	}
}

// Rows of octets that matter, or are near to those that do.
func TestRowsAtRandom(t *testing.T) {
	near := []string{"0", "1", "9", "922337203685477580", "7", "8", "-", " ", " ", "\t", "a", "\x1f", "\x7f", "\x80", "\xff", "\x9f", "/", ":", "abcdefg"}
	r := rand.New(rand.NewPCG(7, 8))
	for range 20_000 {
		row := []string{"", "5 ", "16\t"}[r.IntN(3)]
		for range r.IntN(12) {
			row += near[r.IntN(len(near))]
		}
		checkRow(t, row)
	}
	for n := range 18 { // any octet, at any place of the eight that are looked at together
		for i := range n {
			for octet := range 256 {
				row := []byte("1 " + strings.Repeat("\xff", i) + "x" + strings.Repeat("~", n-i-1))
				row[2+i] = byte(octet)
				checkRow(t, string(row))
			}
		}
	}
}

func TestCommand(t *testing.T) {
	for _, tt := range []struct {
		cmd            Command
		line, redacted string
	}{
		{Command{Verb: "NOOP"}, "NOOP", "NOOP"},
		{Command{Verb: "RETR", Numbers: []int{1}}, "RETR 1", "RETR 1"},
		{Command{Verb: "TOP", Numbers: []int{9, 0}}, "TOP 9 0", "TOP 9 0"},
		{Command{Verb: "TOP", Numbers: []int{10, 99}}, "TOP 10 99", "TOP 10 99"},
		{Command{Verb: "DELE", Numbers: []int{math.MaxInt32}}, "DELE 2147483647", "DELE 2147483647"},
		{Command{Verb: "USER", Args: []string{"jürgen x"}}, "USER jürgen x", "USER jürgen x"},
		{Command{Verb: "PASS", Args: []string{" s3cret "}, Secret: true}, "PASS  s3cret ", "PASS ***"},
		{Command{Verb: "PASS", Args: []string{""}, Secret: true}, "PASS ", "PASS ***"},
		{Command{Verb: "APOP", Args: []string{"alice", "c4c9"}, Secret: true}, "APOP alice c4c9", "APOP alice ***"},
		{Command{Verb: "AUTH", Secret: true}, "AUTH", "AUTH"},
	} {
		line, err := tt.cmd.Append([]byte("x"))
		if want := tt.line + "\r\n"; string(line) != "x"+want || err != nil || tt.cmd.Len() != len(want) {
			t.Errorf("Append = %q, %v, Len = %d, want %q", line, err, tt.cmd.Len(), want)
		}
		if got := tt.cmd.Redacted(); got != tt.redacted {
			t.Errorf("Redacted = %q, want %q", got, tt.redacted)
		}
	}
	pass := func(n int) Command { return Command{Verb: "PASS", Args: []string{strings.Repeat("x", n-len("PASS "))}} }
	for _, tt := range []struct {
		cmd Command
		err string
	}{
		{pass(MaxCommand), "<nil>"},
		{pass(MaxCommand + 1), "pop3: too large: command of 4097 octets, the limit is 4096"},
		{Command{}, "the verb is malformed"},
		{Command{Verb: "NOOP\r\nDELE"}, "the verb is malformed"},
		{Command{Verb: "RETR", Numbers: []int{0}}, "message number 0 is less than 1"},
		{Command{Verb: "TOP", Numbers: []int{-1, 1}}, "message number -1 is less than 1"},
		{Command{Verb: "TOP", Numbers: []int{1, -1}}, "number of lines -1 is less than 0"},
		{Command{Verb: "USER", Args: []string{"a", "canary\r\nQUIT"}}, "the argument holds control octet 0x0d"},
		{Command{Verb: "USER", Args: []string{"canary\n", "a"}}, "the argument ends with a line break"},
	} {
		line, err := tt.cmd.Append([]byte("x"))
		if fmt.Sprint(err) != tt.err || err != nil && string(line) != "x" {
			t.Errorf("%s: Append = %.20q, %v, want %s", tt.cmd.Verb, line, err, tt.err)
		}
	}
}

// undot is DotReader in a slow and obvious form: the text of a response, what
// follows it, whether it ended, and whether a lone LF ends lines. If the text did
// not end, it is as much as there is. (net/textproto is no judge of it: it turns
// CRLF into LF and drops a lone dot.)
func undot(data string, lf bool) (text, rest string, ended, lone bool) {
	first, _, found := strings.Cut(data, "\n")
	lf = lf || found && !strings.HasSuffix(first, "\r")
	end := "\r\n"
	if lf {
		end = "\n"
	}
	var b strings.Builder
	for line := range strings.SplitAfterSeq(data, end) {
		data = data[len(line):]
		if line == ".\r\n" || line == "."+end {
			return b.String(), data, true, lf
		}
		if strings.HasPrefix(line, "..") {
			line = line[1:]
		}
		b.WriteString(line)
	}
	return b.String(), "", false, lf
}

// readText reads with a DotReader.
func readText(d *DotReader, r *bufio.Reader) (text []byte, err error) {
	for {
		piece, err := d.Next(r)
		text = append(text, piece...)
		if err != nil {
			return text, err
		}
		if len(piece) == 0 || cap(piece) > len(piece) {
			return text, fmt.Errorf("a piece of %d octets, capacity %d", len(piece), cap(piece))
		}
	}
}

func checkDots(t *testing.T, how, data string, lf bool, r *bufio.Reader) {
	t.Helper()
	want, after, ended, _ := undot(data, lf)
	d := &DotReader{LF: lf}
	text, err := readText(d, r)
	if !ended {
		// What may begin the end, a stuffed dot or a line end is kept back.
		if err != io.ErrUnexpectedEOF || !strings.HasPrefix(want, string(text)) || len(want)-len(text) > len(".\r") {
			t.Errorf("%s, LF %t: %.200q, %v; want ErrUnexpectedEOF behind %.200q", how, lf, text, err, want)
		}
		return
	}
	if string(text) != want || err != io.EOF {
		t.Errorf("%s, LF %t: %.200q, %v; want %.200q", how, lf, text, err, want)
	}
	if _, err := d.Next(r); err != io.EOF {
		t.Errorf("%s, LF %t: again: %v", how, lf, err)
	}
	if got := rest(r); got != after {
		t.Errorf("%s, LF %t: left %.200q, want %.200q", how, lf, got, after)
	}
}

var dotSeeds = []string{
	".\r\n+OK\r\n",
	".\n+OK\n",
	"a\r\n.\r\nx",
	"..\r\n...\r\n..a\r\n.a\r\n.\r\n",
	"a\r\n.\nb\n..c\n.\r\n\r\n.\r\n.\r\n",
	"\r\n.\n\r\n.\r\n",
	"a\n..b\r\n.c\n.\r\n+OK\n",
	"a\r\n\r\n\r\r\n.\r\r\n.\n\r\n.\r\n",
	".\r.\r\n..\r\r\n.\r\n",
	"\r\n.\r", "a\r\n.", "a\r\n", "", "\r", ".", "..", ".\r", "a\r\n.\n", "..\n.", "a\r\n..",
	"\x00\xff\r\n.\r\n",
}

func TestDotReader(t *testing.T) {
	check := func(data string) {
		for _, lf := range []bool{false, true} {
			everyCut(16, data, func(how string, r *bufio.Reader) { checkDots(t, how, data, lf, r) })
		}
	}
	for _, data := range dotSeeds {
		check(data)
	}
	// All texts of up to 4 of the octets that matter, in the first line and behind
	// it, at every place of the buffer.
	var all func(data string)
	all = func(data string) {
		for _, before := range []string{"", "\r\n", "\n", "xxxxxxxxx\r\n"} {
			check(before + data + "\r\n.\r\n.\r\n")
		}
		for i := 0; i < 4 && len(data) < 4; i++ {
			all(data + ".\r\na"[i:i+1])
		}
	}
	all("")
	// A piece does not wait for octets that it does not need.
	octets := iotest.OneByteReader(io.MultiReader(strings.NewReader("a\r\nb"), iotest.ErrReader(errBroken)))
	if text, err := readText(new(DotReader), bufio.NewReader(octets)); string(text) != "a\r\nb" || err != errBroken {
		t.Errorf("%q, %v, want the reader's error", text, err)
	}
}

// readRows is ReadListing, and how often it reported progress.
func readRows(r *bufio.Reader, lf bool, limit int) (rows []string, progress int, err error) {
	l, err := ReadListing(r, lf, limit, func() { progress++ })
	rows = slices.Collect(l.Rows())
	if n := len(strings.Join(rows, "")); l.Octets() < int64(n+len(rows)) || l.Octets() > int64(n+2*len(rows)) || l.Len() != len(rows) {
		err = fmt.Errorf("%d octets in %d rows: Octets = %d, Len = %d", n, len(rows), l.Octets(), l.Len())
	}
	for row := range l.Rows() { // an iterator may be left
		if row != rows[0] {
			err = fmt.Errorf("again the first row is %q", row)
		}
		break
	}
	if l.Len() < len(rows) {
		err = fmt.Errorf("Len %d of %d rows", l.Len(), len(rows))
	}
	return rows, progress, err
}

// checkRows compares a listing with a slow and obvious reading of it.
func checkRows(t *testing.T, how, data string, lf bool, r *bufio.Reader) {
	t.Helper()
	text, after, ended, lone := undot(data, lf)
	end := "\r\n"
	if lone {
		end = "\n"
	}
	want := strings.Split(text, end)
	want = want[:len(want)-1]
	for i, row := range want {
		if lone {
			want[i] = strings.TrimSuffix(row, "\r")
		}
	}
	got, _, err := readRows(r, lf, MaxListing)
	switch {
	case errors.Is(err, ErrTooLarge):
		if len(data) < MaxRow {
			t.Errorf("%s, LF %t: %v", how, lf, err)
		}
	case !ended && err != io.ErrUnexpectedEOF, ended && err != nil, len(got) > len(want), ended && len(got) < len(want), !slices.Equal(got, want[:len(got)]):
		t.Errorf("%s, LF %t: %q, %v, want %q", how, lf, got, err, want)
	case ended:
		if got := rest(r); got != after {
			t.Errorf("%s, LF %t: left %q, want %q", how, lf, got, after)
		}
	}
}

func TestRows(t *testing.T) {
	for _, lf := range []bool{false, true} {
		for _, data := range append(dotSeeds, "1 120\r\n2 200\r\n.\r\n+OK\r\n", "1 a\n2 b\n.\n", "1 a\r\n\r\n.\r\n", "1 a\r\r\n.\r\n") {
			everyCut(16, data, func(how string, r *bufio.Reader) { checkRows(t, how, data, lf, r) })
		}
	}
	var b strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&b, "%d %s\r\n", i+1, strings.Repeat("u", i%71))
	}
	data := b.String() + ".\r\n"
	checkRows(t, "20,000 rows", data, false, pieces(ReadBuffer, data))
	checkRows(t, "20,000 rows scattered", data, false, scattered(ReadBuffer, data, 3))
	// The rows before an error are there, and each was reported as progress.
	for _, tt := range []struct {
		data        string
		limit, rows int
		err         error
	}{
		{"1 1\r\n2 2\n00\r\n3", 14, 2, errBroken}, // a lone LF is no progress
		{"1 1\r\n2 2\n00\r\n3", 13, 2, ErrTooLarge},
		{"\n1\r\n2\n", 14, 3, errBroken},
	} {
		octets := iotest.OneByteReader(io.MultiReader(strings.NewReader(tt.data), iotest.ErrReader(errBroken)))
		rows, progress, err := readRows(bufio.NewReader(octets), false, tt.limit)
		if len(rows) != tt.rows || progress != tt.rows || !errors.Is(err, tt.err) {
			t.Errorf("%q, limit %d: %q, progress %d, %v, want %d rows, %v", tt.data, tt.limit, rows, progress, err, tt.rows, tt.err)
		}
	}
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
	some := strings.Repeat(x(9)+"\r\n", 500)
	lone := strings.Repeat("\n", MaxRow)
	for name, tt := range map[string]struct {
		data  string
		limit int
		rows  int
		err   error
	}{
		"row":                        {x(MaxRow) + "\r\n.\r\n", MaxListing, 1, nil},
		"row and a stuffed dot":      {".." + x(MaxRow-1) + "\r\n.\r\n", MaxListing, 1, nil},
		"longer row":                 {x(MaxRow+1) + "\r\n.\r\n", MaxListing, 0, ErrTooLarge},
		"row without an end":         {x(MaxRow + 1), MaxListing, 0, ErrTooLarge},
		"row with its CR":            {x(MaxRow) + "\r", MaxListing, 0, io.ErrUnexpectedEOF},
		"row among others":           {some + x(MaxRow) + "\r\n" + some + ".\r\n", MaxListing, 1001, nil},
		"longer row among others":    {some + x(MaxRow+1) + "\r\n" + some + ".\r\n", MaxListing, 500, ErrTooLarge},
		"lone LFs":                   {"1\r\n" + lone + "\r\n.\r\n", MaxListing, 2, nil},
		"more lone LFs":              {"1\r\n" + lone + "\n\r\n.\r\n", MaxListing, 1, ErrTooLarge},
		"LF row":                     {"1\n" + x(MaxRow) + "\n.\n", MaxListing, 2, nil},
		"LF row with CRLF":           {"1\n" + x(MaxRow) + "\r\n.\n", MaxListing, 2, nil},
		"longer LF row":              {"1\n" + x(MaxRow+1) + "\n.\n", MaxListing, 1, ErrTooLarge},
		"longer LF row with CRLF":    {"1\n" + x(MaxRow+1) + "\r\n.\n", MaxListing, 1, ErrTooLarge},
		"longer LF row among others": {"1\n" + some + x(MaxRow+1) + "\n" + some + ".\n", MaxListing, 501, ErrTooLarge},
		"answer":                     {"1234\r\n567890\r\n.\r\n", 14, 2, nil},
		"larger answer":              {"1234\r\n5678901\r\n.\r\n", 14, 2, ErrTooLarge},
		"answer without an end":      {"1234\r\n567890123", 14, 1, ErrTooLarge},
		"rows":                       {strings.Repeat("\r\n", MaxRows) + ".\r\n", MaxListing, MaxRows, nil},
		"more rows":                  {strings.Repeat("\r\n", MaxRows+1), MaxListing, MaxRows + 1, ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rows, _, err := readRows(pieces(ReadBuffer, tt.data), false, tt.limit)
			if len(rows) != tt.rows || !errors.Is(err, tt.err) {
				t.Errorf("%d rows, %v, want %d, %v", len(rows), err, tt.rows, tt.err)
			}
		})
	}
}

func FuzzDotReader(f *testing.F) {
	for i, seed := range dotSeeds {
		f.Add([]byte(seed), i%2 == 0, uint64(i))
	}
	f.Fuzz(func(t *testing.T, data []byte, lf bool, seed uint64) {
		checkDots(t, "fuzz", string(data), lf, scattered(16+int(seed%64), string(data), seed))
		checkDots(t, "fuzz", string(data), lf, bufio.NewReaderSize(iotest.OneByteReader(bytes.NewReader(data)), 16))
	})
}

func FuzzRows(f *testing.F) {
	for i, seed := range append(dotSeeds, "1 120\r\n2 200\r\n.\r\n+OK\r\n") {
		f.Add([]byte(seed), i%2 == 0, uint64(i))
	}
	f.Fuzz(func(t *testing.T, data []byte, lf bool, seed uint64) {
		checkRows(t, "fuzz", string(data), lf, scattered(ReadBuffer, string(data), seed))
	})
}

// FuzzReply holds the parsers to what may be relied on whatever a server sends.
func FuzzReply(f *testing.F) {
	for _, seed := range []string{
		"+OK POP3 server ready <1896.697170952@dbc.mtview.ca.us>", "-ERR [SYS/TEMP] later", "+ Hola", "+ERR", "+OK 2 320", "+OK:", "[/]",
		"2 320", "1 -1 x", "99999999999999999999 1", "3 whqtswO00WBw418f9t5JxYwZ", "[127.0.0.1] hello", "120 octets", "message (120 octets)", "<a<b>",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := string(data)
		status, text := ParseStatus(data)
		if !bytes.Contains(data, text) || status != Malformed && string(text) != strings.Trim(string(text), " \t") {
			t.Errorf("ParseStatus: %v, %q", status, text)
		}
		if lower, _ := ParseStatus(bytes.ToLower(data)); lower != status {
			t.Errorf("ParseStatus: %v, in lower case %v", status, lower)
		}
		code, after := Code(s)
		if code == "" && after != s || !strings.HasSuffix(s, after) || strings.ContainsAny(code, ". ]") || code != strings.ToUpper(code) {
			t.Errorf("Code: %q, %q", code, after)
		}
		if stamp := Timestamp(s); stamp != "" {
			inner := stamp[1 : len(stamp)-1]
			if stamp[0] != '<' || stamp[len(stamp)-1] != '>' || inner == "" || !strings.Contains(s, stamp) ||
				strings.ContainsFunc(inner, func(r rune) bool { return r <= ' ' || r > '~' || r == '<' || r == '>' }) {
				t.Errorf("Timestamp: %q", stamp)
			}
		}
		if n, size, ok := Stat(s); n < 0 || min(size, Octets(s)) < -1 || ok && !strings.ContainsAny(s, "0123456789") {
			t.Errorf("Stat: %d, %d; Octets: %d", n, size, Octets(s))
		}
		checkRow(t, s)
		if n, uid, ok := OneUID(s, 2); n < 0 || ok && (n == 0 || !strings.Contains(s, uid) || uid == "" || hasControl(uid)) {
			t.Errorf("OneUID: %d, %q, %t", n, uid, ok)
		}
		if string(data) != s {
			t.Error("the line was modified")
		}
	})
}

// FuzzCommand: what Append accepts is one line, and says what was meant.
func FuzzCommand(f *testing.F) {
	f.Add("USER", "alice", 0, 0)
	f.Add("PASS", "a b\r\nQUIT", 0, 0)
	f.Add("TOP", "", 1, 10)
	f.Add("RETR", "", -1, math.MinInt)
	f.Fuzz(func(t *testing.T, verb, arg string, n, lines int) {
		if verb == "" || strings.ContainsFunc(verb, func(r rune) bool { return r < 'A' || r > 'Z' }) {
			return // verbs are ours
		}
		for want, cmd := range map[string]Command{
			verb + " " + arg:                     {Verb: verb, Args: []string{arg}, Secret: true},
			fmt.Sprint(verb, " ", n, " ", lines): {Verb: verb, Numbers: []int{n, lines}},
		} {
			line, err := cmd.Append(nil)
			if err != nil {
				continue
			}
			if string(line) != want+"\r\n" || cmd.Len() != len(line) || len(want) > MaxCommand || strings.ContainsAny(want, "\r\n\x00") {
				t.Errorf("%q, Len = %d, want %q", line, cmd.Len(), want)
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
	l.at = (l.at + n) % len(l.data)
	return n, nil
}

// BenchmarkDotReader reads texts of 8 MiB, beside net/textproto.
func BenchmarkDotReader(b *testing.B) {
	const size = 8 << 20
	wire := func(r *bufio.Reader) error {
		for d := new(DotReader); ; {
			if _, err := d.Next(r); err != nil {
				return err
			}
		}
	}
	proto := func(r *bufio.Reader) error {
		if _, err := io.Copy(io.Discard, textproto.NewReader(r).DotReader()); err != nil {
			return err
		}
		return io.EOF
	}
	for name, line := range map[string]string{
		"mail":   "This is a line of an ordinary mail, of about sixty octets.\r\n",
		"base64": strings.Repeat("QUJD", 19) + "\r\n",
		"dots":   "..dots at the beginning of every line, as a list may have them\r\n",
	} {
		data := []byte(strings.Repeat(line, size/len(line)) + ".\r\n")
		for by, read := range map[string]func(*bufio.Reader) error{"wire": wire, "textproto": proto} {
			b.Run(name+"/"+by, func(b *testing.B) {
				r := bufio.NewReaderSize(&loop{data: data}, ReadBuffer)
				b.SetBytes(int64(len(data)))
				b.ReportAllocs()
				for b.Loop() {
					if err := read(r); err != io.EOF {
						b.Fatal(err)
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
		l, err := ReadListing(r, false, MaxListing, func() {})
		if err != nil {
			b.Fatal(err)
		}
		for row := range l.Rows() {
			if _, _, ok := UID(row); !ok {
				b.Fatal(row)
			}
		}
	}
}
