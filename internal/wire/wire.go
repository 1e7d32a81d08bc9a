// Package wire knows the octets of POP3 and no network: bounded lines,
// dot-stuffed multi-line responses, status lines, listings and commands.
package wire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// What a server may send and what a client may. A line counts without its line
// end, an answer counts its rows.
const (
	MaxStatusLine = 2048      // RFC 2449 section 4 says 512 with CRLF; servers write more
	MaxRow        = 2048      // a row of a listing: RFC 1939 section 5, RFC 2449 section 5
	MaxAnswer     = 64 << 10  // a CAPA or LANG answer: RFC 2449 section 5, RFC 6856 section 3
	MaxListing    = 64 << 20  // a LIST or UIDL answer: RFC 1939 sections 5 and 7
	MaxRows       = 4_194_304 // its rows
	MaxChallenge  = 64 << 10  // a SASL challenge line: RFC 5034 section 4
	MaxCommand    = 4096      // RFC 2449 section 4 says 255; passwords may be longer
	MaxResponse   = 64 << 10  // a SASL response line: RFC 5034 section 4
)

// ReadBuffer is the least size of a bufio.Reader given to this package: the
// longest line and its CRLF fit in.
const ReadBuffer = MaxChallenge + 64

var (
	ErrMalformed = errors.New("pop3: malformed reply")
	ErrTooLarge  = errors.New("pop3: too large")
)

// ReadLine reads a line that ends with CRLF or a lone LF (lf tells) and returns
// it without its end. More than limit octets are ErrTooLarge, an end of input
// before the line's is [io.ErrUnexpectedEOF]. The line is valid until the next
// read.
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
		if tooLong(buf, limit) {
			return nil, false, tooLarge("line", limit)
		}
		seen = len(buf)
		if _, err := r.Peek(seen + 1); err != nil {
			return nil, false, unexpected(err)
		}
	}
}

// tooLong reports whether an unfinished line is over limit whatever follows: a
// CR in the last place may still belong to the line end.
func tooLong[T string | []byte](line T, limit int) bool {
	return len(line) > limit+1 || len(line) == limit+1 && line[limit] != '\r'
}

func tooLarge(what string, limit int) error {
	return fmt.Errorf("%w: %s of more than %d octets", ErrTooLarge, what, limit)
}

// unexpected makes an end of input in the middle of something what it is.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
