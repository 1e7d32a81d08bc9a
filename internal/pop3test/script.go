package pop3test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A Script is a dialogue to be played by the server's side, which checks each
// command of the client as it arrives.
//
// Its text has one step a line. Empty lines and lines that begin with # are
// comments.
//
//	S: text               sends text and CRLF
//	Sq: "text"            sends the octets of a Go string, and no CRLF
//	Srepeat: 1000 "text"  sends them 1000 times, or until the client closes
//	in one segment:       sends what the S lines below it say in one write
//	C: text               expects text and CRLF
//	Cq: "text"            expects the octets of a Go string
//	C~: regexp            expects a line that matches as a whole, and CRLF
//	together:             says that the C lines below it arrive without a
//	                      reply between them, which is for the reader: they
//	                      are expected before anything further is sent anyway
//	tls                   first of all: implicit TLS
//	starttls              does a TLS handshake
//	later 2s              waits
//	close                 closes the connection, and is the end
//	stall                 sends and reads nothing more until the client closes
//	eof                   expects the client to close, having sent nothing more
//
// A script ends in close, stall or eof; eof is understood. Lines that begin
// with > or = are not played but kept in Calls.
type Script struct {
	Name  string // as in errors
	Calls []Call

	steps []step
}

// A Call is what a script says about the client's side: a line beginning with
// >, and the lines beginning with = that follow it, without these signs and
// the space behind.
type Call struct {
	Line int
	Call string
	Want []string
}

type step struct {
	line  int
	verb  string
	text  string
	count int // of Srepeat
	match *regexp.Regexp
	wait  time.Duration
}

// Bounds of what a step sends, so that no script goes on for ever.
const (
	maxRepeat  = 1<<31 - 1
	maxSegment = 16 << 20 // is held in memory
)

// ParseScript reads the text of a script; see [Script].
func ParseScript(name string, data []byte) (*Script, error) {
	s := &Script{Name: name}
	group := "" // the directive whose lines are to follow
	grouped := 0
	lines := strings.Split(string(data), "\n")
	for i, text := range lines {
		text = strings.TrimSuffix(text, "\r")
		if strings.TrimSpace(text) == "" || text[0] == '#' {
			continue
		}
		bad := func(format string, args ...any) (*Script, error) {
			return nil, fmt.Errorf("%s:%d: %s", name, i+1, fmt.Sprintf(format, args...))
		}
		if text[0] == '>' || text[0] == '=' {
			rest := strings.TrimPrefix(text[1:], " ")
			if text[0] == '>' {
				s.Calls = append(s.Calls, Call{Line: i + 1, Call: rest})
			} else if n := len(s.Calls); n > 0 {
				s.Calls[n-1].Want = append(s.Calls[n-1].Want, rest)
			} else {
				return bad("a result comes before any call")
			}
			continue
		}
		st, err := parseStep(text)
		if err != nil {
			return bad("%v", err)
		}
		st.line = i + 1
		n := len(s.steps)
		if n > 0 && s.steps[n-1].isLast() {
			return bad("%q comes after %s", text, s.steps[n-1].verb)
		}
		if st.verb == "tls" && n > 0 {
			return bad("tls is not the first step")
		}

		if group != "" && st.verb[:1] != group {
			if grouped == 0 {
				return bad("no %s line follows the directive", group)
			}
			group, grouped = "", 0
		}
		if group != "" {
			grouped++
		}
		if group == "S" && st.verb == "Srepeat" {
			if st.count > maxSegment/len(st.text) {
				return bad("too many octets for one segment")
			}
			st.verb, st.text = "S", strings.Repeat(st.text, st.count)
		}
		switch {
		case st.verb == "in one segment:":
			group = "S"
		case st.verb == "together:":
			group = "C"
		case group == "S" && grouped > 1:
			s.steps[n-1].text += st.text
		default:
			s.steps = append(s.steps, st)
		}
	}
	if group != "" && grouped == 0 {
		return nil, fmt.Errorf("%s:%d: no %s line follows the directive", name, len(lines), group)
	}
	if n := len(s.steps); n == 0 || !s.steps[n-1].isLast() {
		s.steps = append(s.steps, step{line: len(lines), verb: "eof"})
	}
	return s, nil
}

func (st step) isLast() bool {
	return st.verb == "close" || st.verb == "stall" || st.verb == "eof"
}

func parseStep(text string) (step, error) {
	switch text {
	case "in one segment:", "together:", "tls", "starttls", "close", "stall", "eof":
		return step{verb: text}, nil
	}
	if wait, ok := strings.CutPrefix(text, "later "); ok {
		d, err := time.ParseDuration(wait)
		return step{verb: "later", wait: d}, err
	}
	verb, rest, ok := strings.Cut(text, ":")
	rest = strings.TrimPrefix(rest, " ")
	st := step{verb: verb}
	var err error
	switch {
	case !ok:
		err = fmt.Errorf("unknown step %q", text)
	case verb == "S" || verb == "C":
		st.text = rest + "\r\n"
	case verb == "Sq" || verb == "Cq":
		st.verb = verb[:1]
		st.text, err = strconv.Unquote(rest)
	case verb == "C~":
		st.match, err = regexp.Compile("^(?:" + rest + ")\r\n$")
	case verb == "Srepeat":
		count, quoted, _ := strings.Cut(rest, " ")
		if st.text, err = strconv.Unquote(quoted); err == nil {
			st.count, err = strconv.Atoi(count)
		}
		if err == nil && (st.count < 0 || st.text == "" || st.count > maxRepeat/len(st.text)) {
			err = errors.New("more octets than a step may have, or none")
		}
	default:
		err = fmt.Errorf("unknown step %q", text)
	}
	return st, err
}

// Serve plays the script on conn and closes it. The error tells where the
// client departed from the script, and what it sent instead.
func (s *Script) Serve(conn net.Conn) error {
	defer conn.Close()
	p := &player{raw: conn, conn: conn, r: bufio.NewReaderSize(conn, maxResponse)}
	for _, st := range s.steps {
		if err := p.play(st); err != nil {
			return fmt.Errorf("%s:%d: %w", s.Name, st.line, err)
		}
	}
	return nil
}

type player struct {
	raw, conn net.Conn
	r         *bufio.Reader
}

func (p *player) play(st step) error {
	switch st.verb {
	case "S":
		_, err := io.WriteString(p.conn, st.text)
		return err
	case "Srepeat":
		p.repeat(st.text, st.count)
	case "C":
		return p.expect(st.text)
	case "C~":
		return p.expectMatch(st.match)
	case "tls", "starttls":
		return p.startTLS()
	case "later":
		time.Sleep(st.wait)
	case "close":
		p.conn.Close()
	case "stall":
		p.stall()
	case "eof":
		return p.expectEOF()
	}
	return nil
}

// repeat does not report that the client has closed: it may have been sent
// more than it takes.
func (p *player) repeat(text string, count int) {
	chunk := []byte(strings.Repeat(text, max(1, min(count, maxOutput/len(text)))))
	for left := count * len(text); left > 0; {
		n, err := p.conn.Write(chunk[:min(left, len(chunk))])
		if err != nil {
			return
		}
		left -= n
	}
}

func (p *player) expect(want string) error {
	for i := range len(want) {
		b, err := p.r.ReadByte()
		if err != nil {
			return fmt.Errorf("got %q and then %w, want %q", want[:i], err, want)
		}
		if b != want[i] {
			return fmt.Errorf("got %q, want %q", want[:i]+string([]byte{b})+p.rest(), want)
		}
	}
	return nil
}

// rest returns more of the line that is being read, as far as it has arrived.
func (p *player) rest() string {
	b, _ := p.r.Peek(min(p.r.Buffered(), 200))
	line, _, ended := strings.Cut(string(b), "\n")
	if ended {
		line += "\n"
	}
	return line
}

func (p *player) expectMatch(want *regexp.Regexp) error {
	line, err := p.r.ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("got %.200q and then %w, want a line that matches %s", line, err, want)
	}
	if !want.Match(line) {
		return fmt.Errorf("got %.200q, want a line that matches %s", line, want)
	}
	return nil
}

func (p *player) startTLS() error {
	if p.r.Buffered() > 0 {
		return fmt.Errorf("got %q in clear, want a TLS handshake", p.rest())
	}
	conn := tls.Server(p.raw, ServerTLS())
	if err := conn.HandshakeContext(context.Background()); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	p.conn = conn
	p.r.Reset(conn)
	return nil
}

func (p *player) stall() {
	if c, ok := p.raw.(*pipeConn); ok {
		c.waitPeerClosed()
		return
	}
	// A socket tells that its peer has closed only to a reader.
	io.Copy(io.Discard, p.raw)
}

func (p *player) expectEOF() error {
	b, err := p.r.ReadByte()
	switch {
	case err == nil:
		return fmt.Errorf("got %q, want the end of the connection", string([]byte{b})+p.rest())
	case errors.Is(err, os.ErrDeadlineExceeded):
		return err
	}
	return nil // whichever way the client has closed
}
