// Package wire reads and writes the syntax of POP3, without a network: bounded
// lines, dot-stuffed multi-line responses, status lines, listings and commands.
package wire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Limits in octets. A line counts without its line end, an answer with the line
// ends of its rows.
const (
	MaxStatusLine = 2048      // RFC 2449 section 4 says 512 with CRLF; servers write more
	MaxRow        = 2048      // a row of a listing: RFC 1939 section 5, RFC 2449 section 5
	MaxAnswer     = 64 << 10  // a CAPA or LANG answer: RFC 2449 section 5, RFC 6856 section 3
	MaxListing    = 64 << 20  // a LIST or UIDL answer: RFC 1939 sections 5 and 7
	MaxRows       = 4_194_304 // the number of its rows
	MaxChallenge  = 64 << 10  // a SASL challenge line: RFC 5034 section 4
	MaxCommand    = 4096      // RFC 2449 section 4 says 255; passwords may be longer
	MaxResponse   = 64 << 10  // a SASL response line: RFC 5034 section 4
)

// ReadBuffer is the minimum size of a bufio.Reader for this package. It holds the
// longest line with its CRLF.
const ReadBuffer = MaxChallenge + 64

var (
	ErrMalformed = errors.New("pop3: malformed reply")
	ErrTooLarge  = errors.New("pop3: too large")
)

// ReadLine reads a line and returns it without its line end, which is CRLF or a
// lone LF; lf reports whether it is the latter. A line of more than limit octets
// is ErrTooLarge. If the input ends before the line, the error is
// [io.ErrUnexpectedEOF]. The line is valid until the next read.
func ReadLine(r *bufio.Reader, limit int) (line []byte, lf bool, err error) {
	for seen := 0; ; {
		buf, _ := r.Peek(r.Buffered())
		if i := bytes.IndexByte(buf[seen:], '\n'); i >= 0 {
			i += seen
			line, lf = buf[:i], true
			if i > 0 && buf[i-1] == '\r' {
				line, lf = buf[:i-1], false
			}
			if len(line) > limit {
				return nil, false, tooLarge("line", limit)
			}
			r.Discard(i + 1)
			return line, lf, nil
		}
		if len(buf) > limit && tooLong(buf, limit) {
			return nil, false, tooLarge("line", limit)
		}
		seen = len(buf)
		if _, err := r.Peek(seen + 1); err != nil {
			return nil, false, unexpectedEOF(err)
		}
	}
}

// FirstLine returns the first line in buf, whole or not, without its line end.
func FirstLine(buf []byte) []byte {
	line, _, _ := bytes.Cut(buf, []byte("\n"))
	return bytes.TrimSuffix(line, []byte("\r"))
}

// statusLines are the beginnings of a text whose first line is a status line.
var statusLines = []string{"+OK ", "+OK\r\n", "+OK\n", "-ERR ", "-ERR\r\n", "-ERR\n"}

// BeginsWithStatus reports whether the text that comes next begins with a status
// line: then the server has answered a command twice. It consumes nothing, and
// waits for no more octets than it needs, which is one for nearly every message.
func BeginsWithStatus(r *bufio.Reader) (bool, error) {
	for n := 1; ; n++ {
		buf, err := r.Peek(n)
		if err != nil {
			return false, unexpectedEOF(err)
		}
		if buf[0] != '+' && buf[0] != '-' {
			return false, nil
		}
		i := slices.IndexFunc(statusLines, func(s string) bool { return len(s) >= n && strings.EqualFold(string(buf), s[:n]) })
		if i < 0 || n == len(statusLines[i]) {
			return i >= 0, nil
		}
	}
}

// MayBeginStatus reports whether buf, which is not empty, may be the beginning of a
// status line.
func MayBeginStatus(buf []byte) bool {
	if bytes.HasPrefix(buf, []byte("+OK ")) { // nearly always
		return true
	}
	return slices.ContainsFunc([]string{"+OK", "-ERR", "+ERR"}, func(s string) bool {
		n := min(len(s), len(buf))
		return strings.EqualFold(string(buf[:n]), s[:n]) && (n == len(buf) || strings.IndexByte(Alphanumeric, buf[n]) < 0)
	})
}

// tooLong reports whether an unfinished line exceeds limit, whatever follows. A
// CR that is one octet over it may belong to the line end.
func tooLong[T string | []byte](line T, limit int) bool {
	return len(line) > limit+1 || len(line) == limit+1 && line[limit] != '\r'
}

func tooLarge(what string, limit int) error {
	return fmt.Errorf("%w: %s of more than %d octets", ErrTooLarge, what, limit)
}

// unexpectedEOF turns io.EOF into io.ErrUnexpectedEOF.
func unexpectedEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
