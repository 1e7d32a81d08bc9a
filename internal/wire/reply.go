package wire

import (
	"bytes"
	"math"
	"strings"
)

// A Status is a status indicator.
type Status int

const (
	Malformed Status = iota
	OK
	Refused
	Continue // "+": a SASL challenge, RFC 5034 section 4; a greeting may use it for OK
)

// ParseStatus splits a status line into its indicator, in any case, and the text
// after it, without blanks around it. Old hMailServers refuse with "+ERR", and
// some servers write "+OK:".
func ParseStatus(line []byte) (s Status, text []byte) {
	n := min(1, len(line)) // the sign
	for n < len(line) && strings.IndexByte(Alphanumeric, line[n]) >= 0 {
		n++
	}
	text = line[n:]
	is := func(indicator string) bool { return strings.EqualFold(string(line[:n]), indicator) }
	switch {
	case is("+OK"):
		s = OK
	case is("-ERR"), is("+ERR"):
		s = Refused
	case is("+") && (len(text) == 0 || isBlank(text[0])):
		s = Continue
	default:
		return Malformed, line
	}
	if len(text) > 0 && (text[0] == ':' || text[0] == ',') {
		text = text[1:]
	}
	// bytes.Trim makes a set of what it trims, and there is seldom more than a space.
	text = bytes.TrimPrefix(text, []byte(" "))
	if len(text) > 0 && (isBlank(text[0]) || isBlank(text[len(text)-1])) {
		text = bytes.Trim(text, " \t")
	}
	return s, text
}

// Alphanumeric are the letters and digits of ASCII.
const Alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// A blank separates words.
func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// trimBlanks cuts the blanks off both ends of s. strings.Trim would make a set of
// them first, for each of a million rows.
func trimBlanks[T string | []byte](s T) T {
	for len(s) > 0 && isBlank(s[0]) {
		s = s[1:]
	}
	for len(s) > 0 && isBlank(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

// Field splits s into its first word and what follows the blanks after it.
func Field(s string) (word, rest string) {
	n := 0
	for n < len(s) && !isBlank(s[n]) {
		n++
	}
	word = s[:n]
	for n < len(s) && isBlank(s[n]) {
		n++
	}
	return word, s[n:]
}

// number parses a word of decimal digits. strconv would allocate an error for each
// reply that has a word where a number may be.
func number(word string) (n int64, ok bool) {
	for i := range len(word) {
		digit := word[i] - '0'
		if digit > 9 || uint64(n) > math.MaxInt64/10 {
			return 0, false
		}
		n = n*10 + int64(digit)
	}
	if n < 0 {
		return 0, false
	}
	return n, word != ""
}

// size parses a number of octets. A negative one, which servers that count in 32
// bits send for huge maildrops, is -1.
func size(word string) (n int64, ok bool) {
	if digits, negative := strings.CutPrefix(word, "-"); negative {
		_, ok = number(digits)
		return -1, ok
	}
	return number(word)
}

// cutNumber splits a row into its message number and what follows, without blanks
// around it. If the first word is no message number, n is 0.
func cutNumber(row string) (n int, rest string) {
	row = trimBlanks(row)
	i := 0
	for i < len(row) && row[i]-'0' <= 9 {
		n = n*10 + int(row[i]-'0')
		i++
	}
	if i < len(row) && !isBlank(row[i]) {
		return 0, row
	}
	if i > 9 { // which may be too many for an int
		v, _ := number(row[:i])
		if v > math.MaxInt {
			v = 0
		}
		n = int(v)
	}
	for i < len(row) && isBlank(row[i]) {
		i++
	}
	return n, row[i:]
}

// Code cuts the response code (RFC 2449 section 8) off the text of a refusal,
// whether or not the server announced RESP-CODES. The code is in upper case and
// without its brackets, or "" if there is none. A dot makes it an address literal.
func Code(text string) (code, rest string) {
	end := strings.IndexByte(text, ']')
	if end < 2 || text[0] != '[' {
		return "", text
	}
	level := 0 // octets of the current level, which must not be empty
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

// Timestamp returns the first APOP timestamp in a greeting, with its brackets
// (RFC 1939 section 7), or "". It scans the text once, for it may be hostile.
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

// Octets returns the message size that the text of a reply to RETR or TOP
// announces, or -1. It is a number before a word such as "octets" or "bytes", or
// all of the text.
func Octets(text string) int64 {
	last, lastOK, words := int64(-1), false, 0
	for text = trimBlanks(text); text != ""; words++ {
		var word string
		word, text = Field(text)
		for word != "" && word[0] == '(' {
			word = word[1:]
		}
		if lastOK && len(word) >= 4 && (strings.EqualFold(word[:4], "OCTE") || strings.EqualFold(word[:4], "BYTE")) {
			return last
		}
		last, lastOK = number(word)
	}
	if words == 1 && lastOK {
		return last
	}
	return -1
}

// Stat parses a drop listing, the answer to STAT (RFC 1939 section 5).
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

// Scan parses a scan listing, a row of the answer to LIST (RFC 1939 section 5). n
// is the message number even if ok is false, or 0 if the row has none.
func Scan(row string) (n int, octets int64, ok bool) {
	n, rest := cutNumber(row)
	if n == 0 {
		return 0, 0, false
	}
	word, _ := Field(rest)
	octets, ok = size(word)
	return n, octets, ok
}

// UID parses a unique-id listing, a row of the answer to UIDL (RFC 1939 section
// 7). As on real servers, the unique-id may be longer than 70 octets, and hold
// spaces and 8-bit octets. n is as in [Scan].
func UID(row string) (n int, uid string, ok bool) {
	n, uid = cutNumber(row)
	return n, uid, n > 0 && uid != "" && !hasControl(uid)
}

// OneUID parses the answer to UIDL about one message. Twisted leaves out the
// message number: a single word that is not that number is the unique-id. n is as
// in [Scan].
func OneUID(text string, number int) (n int, uid string, ok bool) {
	word, rest := Field(trimBlanks(text))
	if n, uid, ok = UID(text); n != number && word != "" && rest == "" {
		return number, word, !hasControl(word)
	}
	return n, uid, ok
}

// hasControl reports whether s holds a control octet. It skips printable ASCII
// eight octets at a time: one by one, this would be a quarter of what it costs to
// read a unique-id listing.
func hasControl(s string) bool {
	for len(s) >= 8 && isPrintable(s[:8]) {
		s = s[8:]
	}
	for i := range len(s) {
		if isControl(rune(s[i])) {
			return true
		}
	}
	return false
}

// isPrintable reports whether eight octets are printable ASCII. If one is not, the
// subtraction or the addition sets the high bit of the first such.
func isPrintable(s string) bool {
	const ones = 0x0101010101010101
	x := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56 // one load
	return (x|(x-' '*ones)|(x+ones))&(0x80*ones) == 0
}

func isControl(r rune) bool { return r < ' ' || r == 0x7F }
