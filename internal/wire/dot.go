package wire

import (
	"bufio"
	"bytes"
	"io"
)

// A DotReader reads the text of a multi-line response (RFC 1939 section 3) octet
// for octet, without the stuffed dots and without the line that ends it.
//
// A line ends with CRLF. A lone LF is an octet like any other: if it ended a line,
// a mail could end its own response and continue in the name of the server.
//
// Some servers end all their lines with a lone LF. With LF set, both end a line.
// The caller sets LF if the status line ended with a lone LF; Next sets it if the
// first line of the text does. Mail that came by SMTP begins with a trace line of
// the server's own, so no sender chooses how that line ends.
type DotReader struct {
	LF bool

	begun  bool // the first line has ended
	inLine bool // the next octet does not begin a line
	done   bool
	held   int // octets of the buffer to discard before the next piece
}

// Next returns the next piece of text from r, or [io.EOF] at its end. A piece is never
// empty. It is part of r's buffer and valid until the next call.
//
// A DotReader does not hold r, so that whatever holds it can be printed without the
// contents of r's buffer.
func (d *DotReader) Next(r *bufio.Reader) ([]byte, error) {
	r.Discard(d.held)
	d.held = 0
	for need := 1; !d.done; {
		if _, err := r.Peek(need); err != nil {
			return nil, unexpectedEOF(err)
		}
		buf, _ := r.Peek(r.Buffered())
		text, used := d.decode(buf)
		if len(text) > 0 {
			d.held = used
			return text[:len(text):len(text)], nil // append must not write to the buffer
		}
		r.Discard(used) // nothing, or the line that ends the text
		need = len(buf) + 1
	}
	return nil, io.EOF
}

// decode removes the stuffed dots from buf, in place, and returns the text in it.
// used is less than len(buf) if the text ends before, or if the meaning of the last
// octets depends on what follows.
func (d *DotReader) decode(buf []byte) (text []byte, used int) {
	d.seeFirstLine(buf)
	var (
		to   int // buf[:to] is text
		from int // buf[from:i] is text too, to be moved to buf[to:]
		end  int // length of the line that ends the text
	)
	i := bytes.IndexByte(buf, '.') // base64 has none, and needs no more than this
	if i < 0 {
		i = len(buf)
	}
lines:
	for i < len(buf) {
		if buf[i] == '.' && d.beginsLine(buf, i) {
			switch rest := buf[i+1:]; {
			case len(rest) == 0, len(rest) == 1 && rest[0] == '\r':
				break lines
			case rest[0] == '\r' && rest[1] == '\n':
				end = len(".\r\n")
				break lines
			case rest[0] == '\n' && d.LF:
				end = len(".\n")
				break lines
			case rest[0] == '.':
				to += copy(buf[to:], buf[from:i])
				i++
				from = i
			} // servers that do not stuff send other dots
		}
		n := bytes.IndexByte(buf[i:], '\n')
		if n < 0 {
			i = len(buf)
			break
		}
		i += n + 1
	}
	if i == len(buf) && buf[i-1] == '\r' {
		i-- // an LF that comes next must not look like a lone one
	}
	d.inLine = !d.beginsLine(buf, i) // asked before copy moves what it depends on
	d.done = end > 0
	to += copy(buf[to:], buf[from:i])
	return buf[:to], i + end
}

// seeFirstLine sets LF if the first line of the text ends with a lone LF.
func (d *DotReader) seeFirstLine(buf []byte) {
	if d.begun {
		return
	}
	if i := bytes.IndexByte(buf, '\n'); i >= 0 {
		d.begun = true
		d.LF = d.LF || i == 0 || buf[i-1] != '\r'
	}
}

// beginsLine reports whether a line begins at buf[i].
func (d *DotReader) beginsLine(buf []byte, i int) bool {
	if i == 0 {
		return !d.inLine
	}
	return buf[i-1] == '\n' && (d.LF || i > 1 && buf[i-2] == '\r')
}
