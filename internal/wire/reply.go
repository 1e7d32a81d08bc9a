package wire

import (
	"bytes"
	"encoding/binary"
	"math"
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
	word, rest := field(line)
	switch {
	case equalFold(word, "+OK"):
		s = OK
	case equalFold(word, "-ERR"), equalFold(word, "+ERR"):
		s = Refused
	case len(word) == 1 && word[0] == '+':
		s = Continue
	default:
		return Malformed, line
	}
	return s, trim(rest)
}

func equalFold(b []byte, upper string) bool {
	if len(b) != len(upper) {
		return false
	}
	for i := range b {
		if c := b[i]; c != upper[i] && (c < 'a' || c > 'z' || c-0x20 != upper[i]) {
			return false
		}
	}
	return true
}

func blank(c byte) bool { return c == ' ' || c == '\t' }

// trim takes spaces and tabs off both ends.
func trim(b []byte) []byte {
	for len(b) > 0 && blank(b[0]) {
		b = b[1:]
	}
	for len(b) > 0 && blank(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}

// field cuts the first word off b, and the blanks behind it.
func field(b []byte) (word, rest []byte) {
	n := 0
	for n < len(b) && !blank(b[n]) {
		n++
	}
	word = b[:n]
	for n < len(b) && blank(b[n]) {
		n++
	}
	return word, b[n:]
}

// number reads a word of decimal digits.
func number(word []byte) (n int64, ok bool) {
	const most = math.MaxInt64 / 10
	for _, c := range word {
		digit := int64(c - '0')
		if digit > 9 || n > most || n == most && digit > math.MaxInt64%10 {
			return 0, false
		}
		n = n*10 + digit
	}
	return n, len(word) > 0
}

// size reads a number of octets; what is below zero, as huge maildrops have it
// on servers that count in 32 bits, is -1.
func size(word []byte) (n int64, ok bool) {
	if len(word) > 1 && word[0] == '-' {
		_, ok = number(word[1:])
		return -1, ok
	}
	return number(word)
}

// messageNumber reads a number of 1 or more that fits an int.
func messageNumber(word []byte) (n int, ok bool) {
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
func Octets(text []byte) int64 {
	var prev []byte
	for len(text) > 0 {
		var word []byte
		word, text = field(text)
		if unit := bytes.TrimLeft(word, "("); len(unit) >= 4 && (equalFold(unit[:4], "OCTE") || equalFold(unit[:4], "BYTE")) {
			if n, ok := number(prev); ok {
				return n
			}
		}
		prev = bytes.TrimLeft(word, "(")
	}
	return -1
}

// Stat reads a drop listing: RFC 1939 section 5, STAT.
func Stat(text []byte) (count int, octets int64, ok bool) {
	word, rest := field(text)
	n, ok := number(word)
	if !ok || n > math.MaxInt {
		return 0, 0, false
	}
	word, _ = field(rest)
	octets, ok = size(word)
	return int(n), octets, ok
}

// Scan reads a scan listing: RFC 1939 section 5, LIST.
func Scan(row []byte) (n int, octets int64, ok bool) {
	word, rest := field(trim(row))
	if n, ok = messageNumber(word); !ok {
		return 0, 0, false
	}
	word, _ = field(rest)
	octets, ok = size(word)
	return n, octets, ok
}

// UID reads a unique-id listing: RFC 1939 section 7, UIDL. The unique-id may be
// longer than the RFC's 70 octets, hold spaces and 8-bit octets, as real ones
// do.
func UID(row []byte) (n int, uid []byte, ok bool) {
	// What nearly all rows are: digits that do not overflow, a space, printable
	// octets.
	v, i := 0, 0
	for i < len(row) && i < 9 && row[i]-'0' <= 9 {
		v = v*10 + int(row[i]-'0')
		i++
	}
	if v > 0 && i+1 < len(row) && row[i] == ' ' && !blank(row[i+1]) && !blank(row[len(row)-1]) {
		uid = row[i+1:]
		return v, uid, validUID(uid)
	}
	word, uid := field(trim(row))
	n, ok = messageNumber(word)
	return n, uid, ok && validUID(uid)
}

// OneUID reads the answer about message n, which may lack the number (Twisted).
func OneUID(text []byte, n int) (uid []byte, ok bool) {
	word, rest := field(text)
	got, isNumber := messageNumber(word)
	if len(rest) > 0 {
		return rest, isNumber && got == n && validUID(rest)
	}
	return word, (!isNumber || got != n) && validUID(word)
}

// validUID reports whether uid has no control octet.
func validUID(uid []byte) bool {
	const ones = 0x0101010101010101
	b := uid
	for ; len(b) >= 8; b = b[8:] {
		// The high bit of an octet of x-n*ones &^ x tells of one less than n, or
		// of a neighbour of such.
		x := binary.LittleEndian.Uint64(b)
		del := x ^ 0x7F*ones
		if ((x-' '*ones)&^x|(del-ones)&^del)&(0x80*ones) != 0 {
			return false
		}
	}
	for _, c := range b {
		if c < ' ' || c == 0x7F {
			return false
		}
	}
	return len(uid) > 0
}
