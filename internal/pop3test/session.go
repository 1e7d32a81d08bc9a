package pop3test

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// maxCommand bounds a command line, which RFC 2449 section 4 limits to
	// 255 octets and clients with long tokens exceed.
	maxCommand = 4096
	// maxResponse bounds a line within an AUTH exchange; RFC 5034 section 4
	// asks for 12288 octets at least.
	maxResponse = 64 << 10
	// maxInput bounds what a client may send ahead of its replies.
	maxInput = 2 * maxResponse
	// maxOutput is how much of a reply is collected for one write.
	maxOutput = 64 << 10
)

var errLineTooLong = errors.New("line too long")

// longAgo as a deadline interrupts whoever waits.
var longAgo = time.Unix(1, 0)

// A session is one connection. Its goroutine runs the commands; a second one
// reads them, so that a client which sends many commands before it reads a
// reply never waits for a server that waits for the client.
type session struct {
	srv  *Server
	conn net.Conn
	raw  net.Conn             // conn without TLS
	tls  *tls.ConnectionState // nil without TLS

	in      *input
	reading chan struct{} // closed at the end of the reading goroutine
	line    []byte        // the line that runs
	out     *[]byte       // replies not written yet; nil, or from outputs
	err     error         // of writing

	banner string // of APOP
	drop   *Maildrop
	user   string // of the USER command that has just been accepted, or ""
	prior  string // user as it was before the command that runs
	lang   *language
	utf8   bool
	done   bool

	messages []message
	deleted  []bool // nil until the first DELE
	count    int    // of messages not deleted
	size     int64  // of messages not deleted
}

// outputs are shared so that a session at rest holds none.
var outputs = sync.Pool{New: func() any {
	b := make([]byte, 0, maxOutput)
	return &b
}}

// An input is what has been received and not been run.
type input struct {
	half
	skipping bool // the rest of a line that was too long
}

func (in *input) buffered() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.buf.Len() > 0
}

// next appends the next line to b, without its line end. If there is none it
// returns at once with ok false, or waits for one.
func (in *input) next(b []byte, limit int, wait bool) (line []byte, ok bool, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for {
		pending := in.buf.Bytes()
		end := bytes.IndexByte(pending, '\n')
		switch {
		case end >= 0:
			in.buf.Next(end + 1)
			in.changed.Broadcast()
			line := bytes.TrimSuffix(pending[:end], []byte("\r"))
			if in.skipping || len(line) > limit {
				in.skipping = false
				return b, true, errLineTooLong
			}
			return append(b, line...), true, nil
		case in.writer.closed:
			return b, true, net.ErrClosed
		case in.skipping || len(pending) > limit+1:
			in.skipping = true
			in.buf.Reset()
			in.changed.Broadcast()
		}
		if !wait {
			return b, false, nil
		}
		in.changed.Wait()
	}
}

func (s *session) startReading() {
	in := &input{half: half{size: maxInput}}
	in.changed.L = &in.mu
	s.in, s.reading = in, make(chan struct{})
	conn, done := s.conn, s.reading
	go func() {
		defer close(done)
		defer in.closeWrite()
		b := make([]byte, maxCommand)
		for {
			n, err := conn.Read(b)
			if _, full := in.write(b[:n]); err != nil || full != nil {
				return
			}
		}
	}()
}

// stopReading drops what has been received.
func (s *session) stopReading() {
	s.in.closeRead()
	s.raw.SetReadDeadline(longAgo)
	<-s.reading
	s.raw.SetReadDeadline(time.Time{})
}

// end closes the connection and gives the maildrop back.
func (s *session) end() {
	s.flush()
	if s.err == nil && s.done {
		s.conn.Close() // with TLS's close_notify
	}
	s.raw.Close()
	if s.in != nil {
		s.in.closeRead()
		<-s.reading
	}
	if s.drop != nil {
		s.drop.close(false, nil)
	}
}

// readLine returns the next line of the client, valid until the next call.
// Replies are written only before it would wait, many at once if the client
// pipelines.
func (s *session) readLine(limit int) (line []byte, err error) {
	line, ok, err := s.in.next(s.line[:0], limit, false)
	if !ok {
		if s.flush(); s.err != nil {
			return nil, s.err
		}
		line, _, err = s.in.next(s.line[:0], limit, true)
	}
	if cap(line) <= maxCommand {
		s.line = line
	}
	return line, err
}

func (s *session) setTLS(conn *tls.Conn) {
	state := conn.ConnectionState()
	s.conn, s.tls = conn, &state
}

// Writing.

func (s *session) buffer() []byte {
	if s.out == nil {
		s.out = outputs.Get().(*[]byte)
	}
	return *s.out
}

func (s *session) flush() {
	if s.out == nil {
		return
	}
	if s.err == nil {
		_, s.err = s.conn.Write(*s.out)
	}
	*s.out = (*s.out)[:0]
	outputs.Put(s.out)
	s.out = nil
}

// write takes over the result of appending to s.buffer().
func (s *session) write(b []byte) {
	*s.out = b
	if len(b) >= maxOutput/2 {
		s.flush()
	}
}

func (s *session) ok(text string) {
	b := append(s.buffer(), "+OK"...)
	if text != "" {
		b = append(b, ' ')
		b = append(b, s.lang.text(text)...)
	}
	s.write(append(b, "\r\n"...))
}

func (s *session) refuse(code, text string) {
	b := append(s.buffer(), "-ERR "...)
	if code != "" {
		b = append(b, '[')
		b = append(b, code...)
		b = append(b, "] "...)
	}
	b = append(b, s.lang.text(text)...)
	s.write(append(b, "\r\n"...))
}

// rows sends a multi-line response.
func (s *session) rows(text string, rows []string) {
	s.ok(text)
	for _, row := range rows {
		s.write(append(append(s.buffer(), row...), "\r\n"...))
	}
	s.write(append(s.buffer(), ".\r\n"...))
}

// body sends the text of a message and the end of the response. A line begins
// after CRLF alone: RFC 1939 section 3 knows no other line end.
func (s *session) body(text string) {
	for text != "" {
		if text[0] == '.' {
			s.write(append(s.buffer(), '.'))
		}
		end := strings.Index(text, "\r\n.") + 2
		if end < 2 {
			end = len(text)
		}
		for lines := text[:end]; lines != "" && s.err == nil; {
			n := min(len(lines), maxOutput/2)
			s.write(append(s.buffer(), lines[:n]...))
			lines = lines[n:]
		}
		text = text[end:]
	}
	s.write(append(s.buffer(), ".\r\n"...))
}

// Commands.

const (
	authorization = 1 << iota
	transaction
)

// commands is every command: the states it is valid in, what else than its
// own name disables it, and its method, which is given the argument.
var commands = map[string]struct {
	states  int
	feature string
	run     func(*session, []byte)
}{
	"USER": {authorization, "USER", (*session).userCommand},
	"PASS": {authorization, "USER", (*session).pass},
	"APOP": {authorization, "APOP", (*session).apop},
	"RPOP": {authorization, "RPOP", (*session).rpop},
	"AUTH": {authorization, "SASL", (*session).auth},
	"STLS": {authorization, "STLS", (*session).stls},
	"UTF8": {authorization, "UTF8", (*session).utf8Command},
	"CAPA": {authorization | transaction, "CAPA", (*session).capa},
	"LANG": {authorization | transaction, "LANG", (*session).langCommand},
	"QUIT": {authorization | transaction, "QUIT", (*session).quit},
	"STAT": {transaction, "STAT", (*session).stat},
	"LIST": {transaction, "LIST", (*session).list},
	"UIDL": {transaction, "UIDL", (*session).uidl},
	"RETR": {transaction, "RETR", (*session).retr},
	"TOP":  {transaction, "TOP", (*session).top},
	"DELE": {transaction, "DELE", (*session).dele},
	"NOOP": {transaction, "NOOP", (*session).noop},
	"RSET": {transaction, "RSET", (*session).rset},
}

func (s *session) command(line []byte) {
	if s.srv.Intercept != nil {
		if reply, ok := s.srv.Intercept(string(line)); ok {
			reply, s.done = strings.CutSuffix(reply, HangUp)
			s.write(append(s.buffer(), reply...))
			return
		}
	}
	verb, arg, _ := bytes.Cut(line, []byte(" "))
	for i, b := range verb {
		if 'a' <= b && b <= 'z' {
			verb[i] = b - 'a' + 'A'
		}
	}
	cmd, ok := commands[string(verb)]
	state := authorization
	if s.drop != nil {
		state = transaction
	}
	// PASS is valid immediately after USER only (RFC 1939 section 7).
	s.prior, s.user = s.user, ""
	switch {
	case !ok, s.srv.disabled(cmd.feature), len(s.srv.Disable) > 0 && s.srv.disabled(string(verb)):
		s.refuse("", "Unknown command")
	case cmd.states&state == 0:
		s.refuse("", "Command is not valid in this state")
	default:
		cmd.run(s, arg)
	}
}

// local reports whether the client is on this machine.
func local(conn net.Conn) bool {
	switch addr := conn.RemoteAddr().(type) {
	case *net.TCPAddr:
		return addr.IP.IsLoopback()
	case nil:
		return false
	default:
		return addr.Network() == "pipe" || addr.Network() == "unix"
	}
}

// clear reports whether passwords may be sent as they are.
func (s *session) clear() bool {
	return s.tls != nil || !s.srv.RequireTLS && local(s.conn)
}

// mayLogIn reports whether any login is possible, and refuses it otherwise.
func (s *session) mayLogIn() bool {
	if s.srv.RequireTLS && s.tls == nil {
		s.refuse("", "TLS is required")
		return false
	}
	return true
}

func (s *session) userCommand(arg []byte) {
	switch {
	case !s.clear():
		s.refuse("", "TLS is required")
	case len(arg) == 0:
		s.refuse("", "Argument is missing")
	default:
		// Whether the user exists is told by PASS alone (RFC 1939 section 13).
		s.user = string(arg)
		s.ok("Send the password")
	}
}

func (s *session) pass(arg []byte) {
	if s.prior == "" {
		s.refuse("", "USER comes first")
		return
	}
	// Spaces are part of the password (RFC 1939 section 7).
	d := s.srv.user(s.prior)
	s.login(d, d != nil && d.password == string(arg))
}

func (s *session) apop(arg []byte) {
	if !s.mayLogIn() {
		return
	}
	i := bytes.LastIndexByte(arg, ' ')
	if i < 1 {
		s.refuse("", "Argument is missing")
		return
	}
	d := s.srv.user(string(arg[:i]))
	if d == nil {
		s.login(nil, false)
		return
	}
	digest := md5.Sum([]byte(s.banner + d.password))
	s.login(d, hex.EncodeToString(digest[:]) == string(arg[i+1:]))
}

// rpop is the command of RFC 1225, long gone: it takes the place of PASS, or
// of both USER and PASS as poplib sends it.
func (s *session) rpop(arg []byte) {
	if !s.mayLogIn() {
		return
	}
	name := s.prior
	if name == "" {
		name = string(arg)
	}
	d := s.srv.user(name)
	s.login(d, d != nil && d.TrustRPOP)
}

// login ends each way of logging in.
func (s *session) login(d *Maildrop, good bool) {
	if !good {
		s.refuse("AUTH", "Authentication failed")
		return
	}
	messages, code, problem := d.open(s.srv.LoginDelay)
	if problem != "" {
		s.refuse(code, problem)
		return
	}
	s.drop, s.messages = d, messages
	s.tally()
	s.ok("Logged in")
}

func (s *session) tally() {
	s.deleted, s.count, s.size = nil, len(s.messages), 0
	for i := range s.messages {
		s.size += int64(len(s.messages[i].text))
	}
}

func (s *session) stls([]byte) {
	switch {
	case s.tls != nil:
		s.refuse("", "TLS is active already")
		return
	case s.utf8: // RFC 6856 section 2.1
		s.refuse("", "Command is not valid in this state")
		return
	case s.srv.TLS == nil:
		s.refuse("", "Unknown command")
		return
	}
	// What was sent behind the command was sent in clear, perhaps by someone
	// else, and must not be run (RFC 2595 section 4).
	s.stopReading()
	s.ok("Begin TLS negotiation")
	s.flush()
	conn := tls.Server(s.raw, s.srv.tlsConfig())
	if err := conn.HandshakeContext(context.Background()); err != nil {
		s.done, s.err = true, err
		return
	}
	s.setTLS(conn)
	s.lang = nil
	s.startReading()
}

func (s *session) utf8Command([]byte) {
	s.utf8 = true
	s.ok("UTF-8 mode")
}

func (s *session) capa([]byte) {
	var rows []string
	add := func(name, args string) {
		if !s.srv.disabled(name) {
			rows = append(rows, strings.TrimRight(name+" "+args, " "))
		}
	}
	add("TOP", "")
	add("UIDL", "")
	add("RESP-CODES", "")
	add("AUTH-RESP-CODE", "")
	add("PIPELINING", "")
	if s.clear() {
		add("USER", "")
	}
	if mechs := s.mechanisms(); len(mechs) > 0 {
		add("SASL", strings.Join(mechs, " "))
	}
	if s.srv.TLS != nil && s.tls == nil && s.drop == nil {
		add("STLS", "")
	}
	add("UTF8", "USER")
	add("LANG", "")
	if s.srv.Expire != "" {
		add("EXPIRE", s.srv.Expire)
	}
	if s.srv.LoginDelay > 0 {
		add("LOGIN-DELAY", strconv.FormatInt(int64(s.srv.LoginDelay/time.Second), 10))
	}
	if s.srv.Implementation != "" {
		add("IMPLEMENTATION", s.srv.Implementation)
	}
	if s.srv.Capabilities != nil {
		rows = s.srv.Capabilities(rows, s.drop != nil, s.tls != nil)
	}
	s.rows("Capability list follows", rows)
}

func (s *session) langCommand(arg []byte) {
	if len(arg) == 0 {
		var rows []string
		for _, l := range languages {
			rows = append(rows, l.tag+" "+l.name)
		}
		s.rows("Language listing follows", rows)
		return
	}
	l := matchLanguage(string(arg))
	if l == nil {
		s.refuse("", "Unknown language")
		return
	}
	s.lang = l
	b := append(s.buffer(), "+OK "...)
	b = append(b, l.tag...)
	b = append(b, ' ')
	b = append(b, l.text("Language changed")...)
	s.write(append(b, "\r\n"...))
}

func (s *session) quit([]byte) {
	s.done = true
	if s.drop != nil {
		// Before the reply, so that a client which has it can log in again.
		s.drop.close(true, s.deleted)
		s.drop = nil
	}
	s.ok("Goodbye")
}

func (s *session) stat([]byte) {
	b := append(s.buffer(), "+OK "...)
	b = strconv.AppendInt(b, int64(s.count), 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, s.size, 10)
	s.write(append(b, "\r\n"...))
}

// appendListing and appendUnique append a row without its line end.

func (s *session) appendListing(b []byte, number int) []byte {
	b = append(strconv.AppendInt(b, int64(number), 10), ' ')
	return strconv.AppendInt(b, int64(len(s.messages[number-1].text)), 10)
}

func (s *session) appendUnique(b []byte, number int, prefix uint32) []byte {
	b = append(strconv.AppendInt(b, int64(number), 10), ' ')
	return appendUID(b, prefix, s.messages[number-1].uid)
}

func (s *session) list(arg []byte) {
	if len(arg) > 0 {
		if number, ok := s.number(arg); ok {
			s.write(append(s.appendListing(append(s.buffer(), "+OK "...), number), "\r\n"...))
		}
		return
	}
	s.ok("Scan listing follows")
	for i := range s.messages {
		if s.deleted == nil || !s.deleted[i] {
			s.write(append(s.appendListing(s.buffer(), i+1), "\r\n"...))
		}
	}
	s.write(append(s.buffer(), ".\r\n"...))
}

func (s *session) uidl(arg []byte) {
	prefix := s.drop.uidPrefix()
	if len(arg) > 0 {
		if number, ok := s.number(arg); ok {
			s.write(append(s.appendUnique(append(s.buffer(), "+OK "...), number, prefix), "\r\n"...))
		}
		return
	}
	s.ok("Unique-id listing follows")
	for i := range s.messages {
		if s.deleted == nil || !s.deleted[i] {
			s.write(append(s.appendUnique(s.buffer(), i+1, prefix), "\r\n"...))
		}
	}
	s.write(append(s.buffer(), ".\r\n"...))
}

func (s *session) retr(arg []byte) {
	if number, ok := s.readable(arg); ok {
		text := s.messages[number-1].text
		s.octets(len(text))
		s.body(text)
	}
}

func (s *session) top(arg []byte) {
	first, second, _ := bytes.Cut(arg, []byte(" "))
	lines, ok := parseNumber(second)
	if !ok {
		s.refuse("", "Argument is no number")
		return
	}
	if number, ok := s.readable(first); ok {
		text := head(s.messages[number-1].text, lines)
		s.octets(len(text))
		s.body(text)
	}
}

// octets sends the status line of RETR and TOP.
func (s *session) octets(n int) {
	b := append(s.buffer(), "+OK "...)
	s.write(append(strconv.AppendInt(b, int64(n), 10), " octets\r\n"...))
}

// head returns the header of a message, the empty line behind it and the
// first lines of its body.
func head(text string, lines int) string {
	end := 0
	if !strings.HasPrefix(text, "\r\n") {
		end = strings.Index(text, "\r\n\r\n") + 2
		if end < 2 {
			return text
		}
	}
	for range lines + 1 {
		i := strings.Index(text[end:], "\r\n")
		if i < 0 {
			break
		}
		end += i + 2
	}
	return text[:end]
}

func (s *session) dele(arg []byte) {
	if number, ok := s.number(arg); ok {
		if s.deleted == nil {
			s.deleted = make([]bool, len(s.messages))
		}
		s.deleted[number-1] = true
		s.count--
		s.size -= int64(len(s.messages[number-1].text))
		s.ok("Message deleted")
	}
}

func (s *session) noop([]byte) { s.ok("") }

func (s *session) rset([]byte) {
	s.tally()
	s.ok("Deletions undone")
}

// number parses the number of a message that is there, or refuses it.
func (s *session) number(arg []byte) (number int, ok bool) {
	number, ok = parseNumber(arg)
	switch {
	case !ok:
		s.refuse("", "Argument is no number")
	case number < 1 || number > len(s.messages):
		s.refuse("", "No such message")
	case s.deleted != nil && s.deleted[number-1]:
		s.refuse("", "Message is deleted")
	default:
		return number, true
	}
	return 0, false
}

// readable is number for commands that send the message.
func (s *session) readable(arg []byte) (number int, ok bool) {
	number, ok = s.number(arg)
	if ok && s.messages[number-1].needUTF8 && !s.utf8 {
		s.refuse("UTF8", "Message needs UTF-8 mode")
		return 0, false
	}
	return number, ok
}

// parseNumber does not allocate, so that a client's allocations can be
// counted beside the server.
func parseNumber(arg []byte) (n int, ok bool) {
	if len(arg) == 0 || len(arg) > 9 {
		return 0, false
	}
	for _, b := range arg {
		if b < '0' || b > '9' {
			return 0, false
		}
		n = n*10 + int(b-'0')
	}
	return n, true
}
