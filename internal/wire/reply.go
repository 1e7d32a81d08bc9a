package wire

import (
	"math"
	"math/bits"
	"strings"
)

// A Status is a status indicator.
type Status int

const (
	Malformed Status = iota
	OK
	Refused
	Continue // "+": a SASL challenge, RFC 5034 section 4; in a greeting as good as OK
)

// ParseStatus splits a status line into its indicator, in any case, and the
// text behind it. "+ERR" is the refusal of old hMailServers.
func ParseStatus(line []byte) (s Status, text []byte) {
	n := 0
	for n < len(line) && !blank(line[n]) {
		n++
	}
	switch word := line[:n]; {
	case equalFold(word, "+OK"):
		s = OK
	case equalFold(word, "-ERR"), equalFold(word, "+ERR"):
		s = Refused
	case len(word) == 1 && word[0] == '+':
		s = Continue
	default:
		return Malformed, line
	}
	return s, trim(line[n:])
}

func equalFold[T string | []byte](s T, upper string) bool {
	if len(s) != len(upper) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c != upper[i] && (c < 'a' || c > 'z' || c-0x20 != upper[i]) {
			return false
		}
	}
	return true
}

// A blank separates words.
func blank(c byte) bool { return c == ' ' || c == '\t' }

// trim cuts the blanks off both ends. A million rows are too many for strings.Trim,
// which makes a set of them first.
func trim[T string | []byte](s T) T {
	for len(s) > 0 && blank(s[0]) {
		s = s[1:]
	}
	for len(s) > 0 && blank(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

// Field cuts the first word off s, and the blanks behind it.
func Field(s string) (word, rest string) {
	n := 0
	for n < len(s) && !blank(s[n]) {
		n++
	}
	word = s[:n]
	for n < len(s) && blank(s[n]) {
		n++
	}
	return word, s[n:]
}

// number reads a word of decimal digits.
func number(word string) (n int64, ok bool) {
	const most = math.MaxInt64 / 10
	for i := range len(word) {
		digit := int64(word[i] - '0')
		if digit > 9 || n > most || n == most && digit > math.MaxInt64%10 {
			return 0, false
		}
		n = n*10 + digit
	}
	return n, len(word) > 0
}

// size reads a number of octets; what is below zero, as huge maildrops have it
// on servers that count in 32 bits, is -1.
func size(word string) (n int64, ok bool) {
	if len(word) > 1 && word[0] == '-' {
		_, ok = number(word[1:])
		return -1, ok
	}
	return number(word)
}

// messageNumber reads a number of 1 or more that fits an int.
func messageNumber(word string) (n int, ok bool) {
	v, ok := number(word)
	return int(v), ok && v >= 1 && v <= math.MaxInt
}

// Code cuts a response code in brackets off the start of a refusal's text (RFC
// 2449 section 8), whether or not the server announced any: code is without
// brackets and in upper case, "" if there is none. A dot makes it no code but
// an address literal.
func Code(text string) (code, rest string) {
	end := strings.IndexByte(text, ']')
	if end < 2 || text[0] != '[' {
		return "", text
	}
	level := 0 // octets in the level, which is not empty
	for _, c := range []byte(text[1:end]) {
		switch {
		case c == '/' && level > 0:
			level = 0
		case c <= ' ' || c >= 0x7F || c == '.' || c == '/':
			return "", text
		default:
			level++
		}
	}
	if level == 0 {
		return "", text
	}
	return strings.ToUpper(text[1:end]), strings.TrimLeft(text[end+1:], " \t")
}

// Timestamp finds the first APOP timestamp in a greeting, brackets included
// (RFC 1939 section 7). It is one scan, for the text may be hostile.
func Timestamp(greeting string) string {
	start := -1
	for i, c := range []byte(greeting) {
		switch {
		case c == '<':
			start = i
		case c <= ' ' || c >= 0x7F:
			start = -1
		case c == '>':
			if start >= 0 && i > start+1 {
				return greeting[start : i+1]
			}
			start = -1
		}
	}
	return ""
}

// Octets is the message size that the text behind the +OK to a RETR or TOP
// announces, or -1: a number before a word such as "octets" or "bytes".
func Octets(text string) int64 {
	var prev string
	for len(text) > 0 {
		var word string
		word, text = Field(text)
		word = strings.TrimLeft(word, "(")
		if len(word) >= 4 && (equalFold(word[:4], "OCTE") || equalFold(word[:4], "BYTE")) {
			if n, ok := number(prev); ok {
				return n
			}
		}
		prev = word
	}
	return -1
}

// Stat reads a drop listing: RFC 1939 section 5, STAT.
func Stat(text string) (count int, octets int64, ok bool) {
	word, rest := Field(text)
	n, ok := number(word)
	if !ok || n > math.MaxInt {
		return 0, 0, false
	}
	word, _ = Field(rest)
	octets, ok = size(word)
	return int(n), octets, ok
}

// Scan reads a scan listing: RFC 1939 section 5, LIST.
func Scan(row string) (n int, octets int64, ok bool) {
	word, rest := Field(trim(row))
	if n, ok = messageNumber(word); !ok {
		return 0, 0, false
	}
	word, _ = Field(rest)
	octets, ok = size(word)
	return n, octets, ok
}

// UID reads a unique-id listing: RFC 1939 section 7, UIDL. The unique-id may be
// longer than the RFC's 70 octets, hold spaces and 8-bit octets, as real ones
// do. A row that is plain is known to hold no control octet.
func UID(row string, plain bool) (n int, uid string, ok bool) {
	// What nearly all rows are: digits that do not overflow, a space, printable
	// octets.
	v, i := 0, 0
	for i < len(row) && i < 9 && row[i]-'0' <= 9 {
		v = v*10 + int(row[i]-'0')
		i++
	}
	if v > 0 && i+1 < len(row) && row[i] == ' ' && !blank(row[i+1]) && !blank(row[len(row)-1]) {
		uid = row[i+1:]
		return v, uid, plain || validUID(uid)
	}
	word, uid := Field(trim(row))
	n, ok = messageNumber(word)
	return n, uid, ok && validUID(uid)
}

// OneUID reads the answer about message n, which may lack the number (Twisted).
func OneUID(text string, n int) (uid string, ok bool) {
	word, rest := Field(text)
	got, isNumber := messageNumber(word)
	if len(rest) > 0 {
		return rest, isNumber && got == n && validUID(rest)
	}
	return word, (!isNumber || got != n) && validUID(word)
}

// validUID reports whether uid has no control octet.
func validUID(uid string) bool {
	return len(uid) > 0 && control(uid) == len(uid)
}

// control returns the place of the first control octet in s, or len(s).
func control(s string) int {
	const ones = 0x0101010101010101
	i := 0
	for ; i <= len(s)-8; i += 8 {
		x := uint64(s[i]) | uint64(s[i+1])<<8 | uint64(s[i+2])<<16 | uint64(s[i+3])<<24 |
			uint64(s[i+4])<<32 | uint64(s[i+5])<<40 | uint64(s[i+6])<<48 | uint64(s[i+7])<<56 // one load
		del := x ^ 0x7F*ones
		// The lowest high bit of an octet of x-n*ones &^ x tells of one less than n.
		if m := ((x-' '*ones)&^x | (del-ones)&^del) & (0x80 * ones); m != 0 {
			return i + bits.TrailingZeros64(m)/8
		}
	}
	for i < len(s) && s[i] >= ' ' && s[i] != 0x7F {
		i++
	}
	return i
}
