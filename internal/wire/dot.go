package wire

import (
	"bufio"
	"io"
)

// A DotReader reads the text of a multi-line response (RFC 1939 section 3),
// octet for octet, without the stuffed dots and the line that ends it.
//
// A line ends with CRLF. With LF set, as where the status line before ended so,
// a lone LF ends a line too; otherwise it is an octet like any other, or a mail
// could end its own response and go on as if it were the server.
type DotReader struct {
	R  *bufio.Reader
	LF bool

	inLine bool // the octet before is not a line end
	cr     bool // the octet before is a CR
	done   bool
	held   int // octets of R's buffer that are done with when Next is called again
}

// Next returns the next piece of text, which is valid until the next call and
// never empty, or [io.EOF] at its end. The pieces are parts of R's buffer.
func (d *DotReader) Next() ([]byte, error) {
	d.R.Discard(d.held)
	d.held = 0
	for need := 1; !d.done; {
		if _, err := d.R.Peek(need); err != nil {
			return nil, unexpected(err)
		}
		buf, _ := d.R.Peek(d.R.Buffered())
		text, used := d.decode(buf)
		if len(text) > 0 {
			d.held = used
			return text, nil
		}
		d.R.Discard(used)
		need = len(buf) - used + 1
	}
	return nil, io.EOF
}

// decode takes the stuffed dots out of buf in place. used octets of buf are
// decoded; fewer than all are where the end was found, or where the start of
// the line tells nothing yet.
func (d *DotReader) decode(buf []byte) (text []byte, used int) {
	var (
		to   int // buf[:to] is decoded
		from int // buf[from:i] is text that has not been moved yet
		i    int // the next octet to look at
	)
	move := func(end int) []byte {
		if from == 0 { // no dot gone yet
			to = end
		} else {
			to += copy(buf[to:], buf[from:end])
		}
		return buf[:to]
	}
	for ; ; i = nextDot(buf, i) {
		if i == len(buf) {
			break
		}
		if buf[i] != '.' || !d.lineStart(buf, i) {
			i++
			continue
		}
		switch rest := buf[i:]; {
		case len(rest) == 1, len(rest) == 2 && rest[1] == '\r':
			d.inLine, d.cr = false, false
			return move(i), i
		case rest[1] == '.':
			move(i)
			from = i + 1
			i += 2
		case rest[1] == '\r' && rest[2] == '\n':
			d.done = true
			return move(i), i + 3
		case rest[1] == '\n' && d.LF:
			d.done = true
			return move(i), i + 2
		default: // of a server that does not stuff
			i++
		}
	}
	d.inLine, d.cr = !d.lineStart(buf, len(buf)), buf[len(buf)-1] == '\r'
	return move(len(buf)), len(buf)
}

// lineStart reports whether a line begins at buf[i]. What move does to buf is
// always farther back than it looks.
func (d *DotReader) lineStart(buf []byte, i int) bool {
	switch i {
	case 0:
		return !d.inLine
	case 1:
		return buf[0] == '\n' && (d.LF || d.cr)
	}
	return buf[i-1] == '\n' && (d.LF || buf[i-2] == '\r')
}
