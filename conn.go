package pop3

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/textproto"
	"os"
	"slices"
	"sync"
	"time"

	"example.com/pop3/internal/wire"
)

type command = wire.Command

// An exchange is one command and its reply, or a run of them. It belongs to the
// goroutine that made Client.busy true, but for stop. What it does not need
// between exchanges is nil then.
type exchange struct {
	text        *textproto.Conn // R and W are lent from the pools
	ctx         context.Context
	stop        func() bool // ends the watch on ctx; nil if there is none; guarded by mu
	outstanding int         // commands sent whose replies have not been read to the end
	secrets     *secrets    // what a reply must not repeat
	lost        bool        // the connection failed, rather than the server misbehaved

	readBy time.Time // when the wait under way has taken Options.Timeout; zero if none is
	armed  time.Time // conn's deadline
	drain  bool      // readBy holds for all that is to be thrown away

	dot     wire.DotReader // of the open message
	started time.Time      // of its command, for Trace
	replied bool           // the newest command has a status line

	authenticated bool
	utf8          bool
	deletions     int  // DELE commands that a QUIT would commit
	knowsCapa     bool // CAPA was answered since the state changed, and so:
	pipelining    bool
	expire0       bool
}

var (
	readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, wire.ReadBuffer) }}
	writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, writeBuffer) }}
)

// writeBuffer holds any command but the longest SASL responses.
const writeBuffer = wire.MaxCommand + 2

// begin takes the connection for an exchange. If it fails, the connection is as
// it was.
func (c *Client) begin(ctx context.Context, verb string) error {
	if ctx == nil {
		return &callError{verb: verb, err: errNilContext}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.raw == nil:
		return &closedError{verb, errors.New("the Client was not made by Dial, DialTLS, DialStartTLS or NewClient")}
	case c.err != nil:
		return &closedError{verb, c.err}
	case c.busy:
		return &callError{verb: verb, err: ErrBusy}
	case ctx.Err() != nil:
		return newCanceledError(verb, ctx)
	}
	c.busy, c.verb = true, verb
	c.ctx = ctx
	if ctx.Done() != nil {
		c.stop = context.AfterFunc(ctx, c.cancel)
	}
	if c.text.R == nil { // or else it holds octets that belong to no exchange
		c.text.R = readers.Get().(*bufio.Reader)
		c.text.R.Reset((*stream)(c))
	}
	c.text.W = writers.Get().(*bufio.Writer)
	c.text.W.Reset((*stream)(c))
	return nil
}

// canceled runs when the context of an exchange is done: it closes the
// connection if a reply is awaited, for what comes would be read as the reply to
// something else.
func (c *Client) canceled() {
	c.mu.Lock()
	hit := c.inFlight && c.err == nil
	if hit {
		c.err = newCanceledError(c.verb, c.ctx)
	}
	c.mu.Unlock()
	if hit {
		c.raw.Close()
	}
	c.cancelDone <- struct{}{}
}

// end gives the connection back.
func (c *Client) end() {
	if c.outstanding > 0 {
		c.fail(c.verb, &callError{verb: c.verb, err: errors.New("a panic or runtime.Goexit ended the call")})
		c.outstanding = 0
	}
	c.mu.Lock()
	stop := c.stop
	c.stop = nil
	c.inFlight = false
	failed := c.err != nil
	c.mu.Unlock()
	if stop != nil && !stop() {
		<-c.cancelDone // or it would meet the next exchange
	}
	if failed || c.text.R.Buffered() == 0 {
		c.text.R.Reset(nil)
		readers.Put(c.text.R)
		c.text.R = nil
	}
	c.text.W.Reset(nil)
	writers.Put(c.text.W)
	c.text.W = nil
	c.ctx, c.secrets, c.dot, c.drain = nil, nil, wire.DotReader{}, false
	c.mu.Lock()
	c.busy = false
	c.mu.Unlock()
}

// depart is the point of no return: a command is about to be written, with none
// outstanding. It fails with the connection as it was if ctx is done.
func (c *Client) depart(verb string, number int) error {
	c.mu.Lock()
	switch {
	case c.err != nil:
		defer c.mu.Unlock()
		return &closedError{verb, c.err}
	case c.ctx.Err() != nil:
		defer c.mu.Unlock()
		return newCanceledError(verb, c.ctx)
	}
	c.inFlight, c.verb = true, verb
	c.mu.Unlock()
	if c.text.R.Buffered() > 0 {
		return c.broken(verb, number, unsolicited("before the command was sent"), nil)
	}
	return nil
}

// unsolicited is data that answers nothing.
func unsolicited(where string) error {
	return fmt.Errorf("%w: unsolicited data %s", ErrMalformed, where)
}

// arrived notes that a reply has been read to its end.
func (c *Client) arrived() {
	if c.outstanding--; c.outstanding == 0 {
		c.mu.Lock()
		c.inFlight = false
		c.mu.Unlock()
	}
}

// broken closes the connection and returns the error for it: cause is what
// reading or writing said, text what the server sent if it matters.
func (c *Client) broken(verb string, number int, cause error, text []byte) error {
	var err error
	lost := true
	switch {
	case cause == io.EOF || cause == io.ErrUnexpectedEOF:
		err = &Error{Command: verb, Number: number, Err: io.ErrUnexpectedEOF}
	case errors.Is(cause, ErrMalformed) || errors.Is(cause, ErrTooLarge):
		err = &Error{Command: verb, Number: number, Text: string(c.secrets.mask(text)), Err: cause}
		lost = false
	case c.opts.Timeout > 0 && isTimeout(cause) && !time.Now().Before(c.armed):
		err = &timeoutError{verb, number, c.opts.Timeout, cause}
	default:
		err = &callError{verb: verb, number: number, err: cause}
	}
	got := c.fail(verb, err)
	c.lost = lost && got == err
	return got
}

// fail closes the connection because of err, unless it is closed for another
// reason, and returns the reason.
func (c *Client) fail(verb string, err error) error {
	c.mu.Lock()
	first := c.err == nil
	if first {
		c.err = err
	}
	c.mu.Unlock()
	if first {
		c.raw.Close()
	}
	return c.failure(verb)
}

// failure is why a call in progress cannot go on, or nil.
func (c *Client) failure(verb string) error {
	c.mu.Lock()
	err := c.err
	c.mu.Unlock()
	if err == ErrClosed {
		return &closedError{verb, ErrClosed}
	}
	return err
}

// interrupted is failure in the middle of an exchange: it does not wait for the
// watch on the context to do its work.
func (c *Client) interrupted(verb string) error {
	if c.ctx.Err() != nil {
		return c.fail(verb, newCanceledError(verb, c.ctx))
	}
	return c.failure(verb)
}

// A stream is a Client as its buffers see it: conn with deadlines. To set one
// for each read and write is dear, so the one in force may be early by an eighth
// of Options.Timeout; what it cuts too soon goes on.
type stream Client

func (s *stream) Read(p []byte) (int, error) {
	c := (*Client)(s)
	timeout := c.opts.Timeout
	if timeout == 0 {
		return c.conn.Read(p)
	}
	switch {
	case c.readBy.IsZero():
		c.readBy = time.Now().Add(timeout)
	case c.drain && !time.Now().Before(c.readBy): // data may never cease to come
		return 0, errDrain
	}
	if c.armed.After(c.readBy) || c.readBy.Sub(c.armed) > timeout/8 {
		if err := c.arm(c.readBy); err != nil {
			return 0, err
		}
	}
	for {
		n, err := c.conn.Read(p)
		if n > 0 {
			return n, nil // an error will come again
		}
		if !c.early(err, c.readBy) {
			return 0, err
		}
	}
}

func (s *stream) Write(p []byte) (n int, err error) {
	c := (*Client)(s)
	timeout := c.opts.Timeout
	if timeout == 0 {
		return c.conn.Write(p)
	}
	by := time.Now().Add(timeout)
	// TLS cannot go on with a write that was cut.
	if _, ok := c.conn.(*net.TCPConn); !ok || by.Sub(c.armed) > timeout/8 {
		if err := c.arm(by); err != nil {
			return 0, err
		}
	}
	for {
		k, err := c.conn.Write(p[n:])
		n += k
		if !c.early(err, by) {
			return n, err
		}
	}
}

// early reports whether err is a deadline that passed before its time, and
// corrects that.
func (c *Client) early(err error, by time.Time) bool {
	if err == nil || !c.armed.Before(by) || !isTimeout(err) {
		return false
	}
	return c.arm(by) == nil
}

// arm sets the deadline for both directions, since TLS may have to write in
// order to read.
func (c *Client) arm(by time.Time) error {
	c.armed = by
	err := c.conn.SetDeadline(by)
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		return nil // to read or write tells more
	}
	if err != nil { // the tunnels of some SSH libraries
		return fmt.Errorf("the connection knows no deadlines, which Options.Timeout less than 0 does without: %w", err)
	}
	return nil
}

// errDrain is what ends a drain of data that comes too fast for a deadline.
var errDrain = fmt.Errorf("what is thrown away does not end: %w", os.ErrDeadlineExceeded)

// queue puts a command into the write buffer.
func (c *Client) queue(cmd *command) {
	c.text.W.Write(cmd.Append(c.text.W.AvailableBuffer()))
	c.outstanding++
}

// flush writes what was queued.
func (c *Client) flush(cmd *command) error {
	if err := c.text.W.Flush(); err != nil {
		return c.broken(cmd.Verb, cmd.Number(), err, nil)
	}
	if cmd.Secret {
		clear(c.text.W.AvailableBuffer()[:c.text.W.Available()])
	}
	return nil
}

// send sends one command.
func (c *Client) send(cmd *command) error {
	c.replied = false
	if err := c.depart(cmd.Verb, cmd.Number()); err != nil {
		return err
	}
	c.queue(cmd)
	if err := c.flush(cmd); err != nil {
		return err
	}
	c.traceSent(cmd)
	return nil
}

// status reads a status line. The text is valid until the next read. An error is
// a refusal unless the connection is closed.
func (c *Client) status(verb string, number int) (text []byte, lf bool, err error) {
	c.readBy = time.Time{}
	return c.nextStatus(verb, number)
}

func (c *Client) nextStatus(verb string, number int) (text []byte, lf bool, err error) {
	c.replied = false
	line, lf, err := wire.ReadLine(c.text.R, wire.MaxStatusLine)
	if err != nil {
		return nil, false, c.broken(verb, number, err, nil)
	}
	text, err = c.judge(verb, number, line)
	return text, lf, err
}

// judge tells what a status line says.
func (c *Client) judge(verb string, number int, line []byte) (text []byte, err error) {
	status, text := wire.ParseStatus(line)
	if c.opts.Trace.LineReceived != nil {
		c.traceReceived(string(c.secrets.mask(line)))
	}
	if status == wire.Malformed || status == wire.Continue && verb != "" {
		return nil, c.broken(verb, number, ErrMalformed, line)
	}
	masked := c.secrets.mask(text)
	c.mu.Lock()
	c.reply = append(c.reply[:0], masked...)
	c.mu.Unlock()
	c.replied = true
	if status != wire.Refused {
		return masked, nil
	}
	// The code before it is masked: a secret that looks like one must not hide it.
	code, rest := wire.Code(string(text))
	if !slices.Contains(codes, Code(code)) {
		code = string(c.secrets.mask([]byte(code)))
	}
	return nil, &Error{Command: verb, Number: number, Code: Code(code), Text: string(c.secrets.mask([]byte(rest)))}
}

// isRefusal reports whether err is an ordinary -ERR, which is not wrapped here.
func isRefusal(err error) bool {
	e, ok := err.(*Error)
	return ok && e.Err == nil
}

// greet reads the greeting, behind the handshake if conn is TLS.
func (c *Client) greet(ctx context.Context) error {
	if err := c.begin(ctx, ""); err != nil {
		return err
	}
	defer c.end()
	if err := c.depart("", 0); err != nil {
		return err
	}
	c.outstanding++
	if conn, ok := c.conn.(*tls.Conn); ok {
		if err := c.handshake(conn, ""); err != nil {
			return err
		}
	}
	text, _, err := c.status("", 0)
	if err == nil || isRefusal(err) {
		c.arrived()
	}
	c.mu.Lock()
	c.greeting = string(text)
	c.mu.Unlock()
	return err
}

// do checks a command, sends it and reads its reply, of one line, which parse
// (unless nil) must accept.
func (c *Client) do(ctx context.Context, cmd *command, parse func(text []byte) bool) error {
	if err := check(cmd); err != nil {
		return err
	}
	if err := c.begin(ctx, cmd.Verb); err != nil {
		return err
	}
	defer c.end()
	return c.roundTrip(cmd, parse)
}

// check checks a command's arguments.
func check(cmd *command) error {
	if err := cmd.Check(); err != nil {
		return &callError{verb: cmd.Verb, err: err}
	}
	return nil
}

// roundTrip sends a command and reads its reply, within an exchange.
func (c *Client) roundTrip(cmd *command, parse func(text []byte) bool) (err error) {
	start := c.traceStart(cmd)
	defer c.traceDone(cmd.Verb, cmd.Number(), start, new(int64), &err)
	if err := c.send(cmd); err != nil {
		return err
	}
	text, _, err := c.status(cmd.Verb, cmd.Number())
	if err == nil && parse != nil && !parse(text) {
		err = c.broken(cmd.Verb, cmd.Number(), ErrMalformed, text)
	}
	if err == nil || isRefusal(err) {
		c.arrived()
	}
	return err
}

// rows sends a command and reads its reply, a listing of at most limit octets,
// within an exchange. parse gets it and tells of a row that is bad.
func (c *Client) rows(cmd *command, limit int, parse func(*wire.Listing) (bad string, ok bool)) (err error) {
	var octets int64
	start := c.traceStart(cmd)
	defer c.traceDone(cmd.Verb, cmd.Number(), start, &octets, &err)
	if err := c.send(cmd); err != nil {
		return err
	}
	_, lf, err := c.status(cmd.Verb, 0)
	if err != nil {
		if isRefusal(err) {
			c.arrived()
		}
		return err
	}
	c.readBy = time.Time{}
	listing, err := wire.ReadListing(&wire.DotReader{R: c.text.R, LF: lf}, limit, func() { c.readBy = time.Time{} })
	if c.opts.Trace != &noTrace {
		for row := range listing.Rows() {
			octets += int64(len(row))
			c.traceReceived(row)
		}
	}
	if err != nil {
		return c.broken(cmd.Verb, 0, err, nil)
	}
	c.traceReceived(".")
	if bad, ok := parse(listing); !ok {
		return c.broken(cmd.Verb, 0, ErrMalformed, []byte(bad))
	}
	c.arrived()
	return nil
}

// A Message is the text of a message on its way, octet for octet as the server
// holds it: line ends, NUL and 8-bit octets are not touched.
//
// It holds the connection until Read has returned io.EOF, WriteTo nil, or Close
// was called; until then the [Client] is busy. The context of the call that
// returned it bounds the reading too. A Message from RetrAll or TopAll is valid
// for its step of the loop. Use a Message from one goroutine at a time.
type Message struct {
	// Number is the message number.
	Number int

	// Size is the number of octets that the server announced in its reply, or
	// -1. It is good for a progress bar; the text may well be longer or shorter.
	Size int64

	c    *Client
	verb string
	rest []byte // decoded, part of the read buffer
	n    int64  // octets decoded
	ends bool   // its end is the end of the exchange
	err  error  // what reading returns once the message is not open
}

var errMessageClosed = errors.New("message is closed")

// announce makes the Message for a reply whose status line was read.
func (c *Client) announce(cmd *command, text []byte, lf, ends bool) *Message {
	m := &Message{Number: cmd.Number(), Size: wire.Octets(string(text)), c: c, verb: cmd.Verb, ends: ends}
	c.dot = wire.DotReader{R: c.text.R, LF: lf}
	c.body.Lock()
	c.open = m
	c.body.Unlock()
	return m
}

// acquire takes the message for one call, or tells why it cannot be read.
func (m *Message) acquire() error {
	if m.c == nil {
		return errors.New("pop3: the Message was not made by Retr, Top, RetrAll or TopAll")
	}
	if !m.c.body.TryLock() {
		return &callError{verb: m.verb, number: m.Number, err: ErrBusy}
	}
	if m.c.open == m {
		return nil
	}
	defer m.c.body.Unlock()
	if m.err == nil { // a copy of a Message
		return m.closed()
	}
	return m.err
}

func (m *Message) closed() error {
	return &callError{verb: m.verb, number: m.Number, err: errMessageClosed}
}

// fill gets the next piece of text into rest.
func (m *Message) fill() error {
	c := m.c
	if err := c.interrupted(m.verb); err != nil { // what is in the buffer counts no more
		m.finish(err)
		return err
	}
	if !c.drain {
		c.readBy = time.Time{}
	}
	text, err := c.dot.Next()
	m.n += int64(len(text))
	switch limit := c.opts.MaxMessageSize; {
	case err != nil && err != io.EOF:
		err = c.broken(m.verb, m.Number, err, nil)
	case limit > 0 && m.n > limit:
		err = c.broken(m.verb, m.Number, fmt.Errorf("%w: message of more than %d octets (Options.MaxMessageSize)", ErrTooLarge, limit), nil)
	case err == nil:
		m.rest = text
		return nil
	}
	m.finish(err)
	return err
}

// finish ends the message: err is io.EOF, or why it is not whole.
func (m *Message) finish(err error) {
	c := m.c
	if m.ends {
		defer c.end()
	}
	m.err, m.rest, c.open = err, nil, nil
	c.dot, c.drain = wire.DotReader{}, false
	if err == io.EOF {
		c.traceReceived(".")
		c.arrived()
		err = nil
	}
	c.traceDone(m.verb, m.Number, c.started, &m.n, &err)
}

// Read reads the message's text. At its end, and not before, it returns io.EOF.
// A text that breaks off is an *[Error] with io.ErrUnexpectedEOF.
func (m *Message) Read(p []byte) (int, error) {
	if err := m.acquire(); err != nil {
		return 0, err
	}
	defer m.c.body.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	if len(m.rest) == 0 {
		if err := m.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, m.rest)
	m.rest = m.rest[n:]
	return n, nil
}

// WriteTo writes the text to w as it comes, straight from the read buffer, and
// returns nil only if all of it was written. If w fails, the rest can still be
// read.
func (m *Message) WriteTo(w io.Writer) (n int64, err error) {
	if err := m.acquire(); err != nil {
		if err == io.EOF {
			err = nil
		}
		return 0, err
	}
	defer m.c.body.Unlock()
	for {
		if len(m.rest) == 0 {
			if err := m.fill(); err == io.EOF {
				return n, nil
			} else if err != nil {
				return n, err
			}
		}
		k, err := w.Write(m.rest)
		k = min(max(k, 0), len(m.rest))
		m.rest = m.rest[k:]
		n += int64(k)
		if err == nil && len(m.rest) > 0 {
			err = io.ErrShortWrite
		}
		if err != nil {
			return n, err
		}
	}
}

// Close reads the rest of the text and throws it away, which leaves the
// connection usable. If that takes longer than Options.Timeout or fails, the
// connection is closed and the error returned. A second call does nothing. Close
// does not stop a transfer; [Client.Close] does.
func (m *Message) Close() error {
	switch err := m.acquire(); {
	case err == nil:
		defer m.c.body.Unlock()
		return m.discard()
	case m.c != nil && !errors.Is(err, ErrBusy) && m.ended():
		return nil
	default:
		return err
	}
}

// discard reads the rest. Afterwards the message cannot be read.
func (m *Message) discard() error {
	if !m.c.drain {
		m.c.drainBy(m.c.drainTime())
	}
	for {
		switch err := m.fill(); err {
		case nil:
		case io.EOF:
			m.err = m.closed()
			return nil
		default:
			return err
		}
	}
}

// drainTime is when a drain that begins now has taken too long, or zero.
func (c *Client) drainTime() (by time.Time) {
	if timeout := c.opts.Timeout; timeout > 0 {
		by = time.Now().Add(timeout)
	}
	return by
}

// drainBy makes what is read be there by then, or the connection be closed.
func (c *Client) drainBy(by time.Time) {
	c.drain, c.readBy = !by.IsZero(), by
}

// fetch sends RETR or TOP and returns the message at its beginning.
func (c *Client) fetch(ctx context.Context, cmd *command) (m *Message, err error) {
	if err := check(cmd); err != nil {
		return nil, err
	}
	if err := c.begin(ctx, cmd.Verb); err != nil {
		return nil, err
	}
	defer func() {
		if m == nil {
			c.end()
		}
	}()
	c.started = c.traceStart(cmd)
	text, lf, err := []byte(nil), false, c.send(cmd)
	if err == nil {
		text, lf, err = c.status(cmd.Verb, cmd.Number())
	}
	if err != nil {
		if isRefusal(err) {
			c.arrived()
		}
		c.traceDone(cmd.Verb, cmd.Number(), c.started, new(int64), &err)
		return nil, err
	}
	return c.announce(cmd, text, lf, true), nil
}

// maxAhead is how many octets of commands may be unanswered. A server may read
// nothing while its replies are not read, so the transport must take all of
// them, or both sides wait for each other for ever. Any socket does: its send
// buffer alone holds that much.
const maxAhead = 16 << 10

// The window of Options.Window 0. For a link that carries b octets in a round
// trip to be busy, b octets of replies must be asked for at any time; 4 MiB are
// 100 ms at 335 Mbit/s. With messages of a mean size of s, 4 MiB are 4 MiB / s
// commands: 4 for 1 MiB, 512 for 8 KiB and less (a command is about 10 octets,
// so 512 stay below maxAhead). Before the first reply s is not known, and 8
// are a guess that costs one round trip where it is too low.
const (
	firstWindow = 8
	minWindow   = 4
	maxWindow   = 512
	aimAhead    = 4 << 20
)

// A run is a row of commands of one verb, several of them on the wire at once.
type run struct {
	verb    string
	numbers []int
	lines   []int // TOP's second argument
	window  int   // 0 adapts

	sent, answered int
	most           int         // of the commands between, for maxAhead's sake
	octets         int64       // of message text in the replies so far
	starts         []time.Time // of the commands between, for Trace

	buf [2]int
}

// command is the i-th command, valid until the next call.
func (r *run) command(i int) command {
	r.buf[0] = r.numbers[i]
	copy(r.buf[1:], r.lines)
	return command{Verb: r.verb, Numbers: r.buf[:1+len(r.lines)]}
}

// check checks all commands before any is sent.
func (r *run) check() error {
	longest := 1
	for i := range r.numbers {
		cmd := r.command(i)
		if err := check(&cmd); err != nil {
			return err
		}
		longest = max(longest, cmd.Len())
	}
	r.most = maxAhead / longest
	return nil
}

// size is the number of unanswered commands to aim at.
func (r *run) size() int {
	switch {
	case r.window > 0:
		return min(r.window, r.most)
	case r.answered == 0:
		return firstWindow
	}
	mean := max(r.octets/int64(r.answered), 1)
	return int(min(max(aimAhead/mean, minWindow), maxWindow, int64(r.most)))
}

// pipelines decides whether a run may send ahead, and asks CAPA if nothing is
// known. (RFC 2449 section 6.6.)
func (c *Client) pipelines(r *run) (bool, error) {
	if c.opts.Window == 1 || len(r.numbers) < 2 {
		return false, nil
	}
	if !c.knowsCapa {
		if _, err := c.capa(); err != nil && !isRefusal(err) {
			return false, err
		}
	}
	// With EXPIRE 0, what was retrieved may be deleted at QUIT (RFC 2449 section
	// 6.7): no message is retrieved then that the loop does not ask for.
	return c.pipelining && !(r.verb == "RETR" && c.expire0 && c.opts.Window == 0), nil
}

// start begins a run.
func (c *Client) start(r *run) error {
	ahead, err := c.pipelines(r)
	r.window = c.opts.Window
	if !ahead {
		r.window = 1
	}
	return err
}

// refill sends the next commands if half of the window is free.
func (c *Client) refill(r *run) error {
	size, first := r.size(), r.sent
	if r.sent-r.answered > size/2 || r.sent == len(r.numbers) {
		return nil
	}
	for r.sent < len(r.numbers) && r.sent-r.answered < size {
		cmd := r.command(r.sent)
		if start := c.traceStart(&cmd); !start.IsZero() {
			r.starts = append(r.starts, start)
		}
		if c.outstanding == 0 {
			if err := c.depart(cmd.Verb, cmd.Number()); err != nil {
				return err
			}
		}
		if r.verb == "DELE" {
			c.deletions++
		}
		c.queue(&cmd)
		r.sent++
	}
	if r.sent == first {
		return nil
	}
	last := r.command(r.sent - 1)
	if err := c.flush(&last); err != nil {
		return err
	}
	if c.opts.Trace.LineSent != nil {
		for i := first; i < r.sent; i++ {
			cmd := r.command(i)
			c.traceSent(&cmd)
		}
	}
	return nil
}

// next takes the reply to the next command off the list of those awaited.
func (r *run) next() (cmd command, start time.Time) {
	cmd = r.command(r.answered)
	r.answered++
	if len(r.starts) > 0 {
		start, r.starts = r.starts[0], r.starts[1:]
	}
	return cmd, start
}

// messages is RetrAll and TopAll.
func (c *Client) messages(ctx context.Context, verb string, numbers, lines []int) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		r := run{verb: verb, numbers: slices.Clone(numbers), lines: lines}
		err := r.check()
		if err == nil {
			if err = c.begin(ctx, verb); err == nil {
				err = c.runMessages(&r, yield)
			}
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

// runMessages yields the messages of a run and ends the exchange. It returns
// what is left to yield, with a nil Message.
func (c *Client) runMessages(r *run, yield func(*Message, error) bool) (err error) {
	done := false
	defer func() {
		if !done {
			c.fail(r.verb, &callError{verb: r.verb, err: errors.New("a panic or runtime.Goexit ended the loop")})
			c.body.Lock()
			if m := c.open; m != nil {
				m.err, c.open = m.closed(), nil
			}
			c.body.Unlock()
		}
		c.end()
	}()
	err = c.start(r)
	for err == nil && r.answered < len(r.numbers) {
		if err = c.refill(r); err != nil {
			break
		}
		var m *Message
		var refused error
		if err = c.interrupted(r.verb); err != nil {
			break
		}
		if m, refused, err = c.nextMessage(r); err != nil {
			break
		}
		if !yield(m, refused) {
			err = c.drainRun(r, m)
			done = true
			c.traceUnanswered(r, &err)
			return nil // Err tells
		}
		err = m.leave()
		r.octets += m.n
	}
	done = true
	c.traceUnanswered(r, &err)
	return err
}

// traceUnanswered tells Trace of the commands that err leaves without a reply.
func (c *Client) traceUnanswered(r *run, err *error) {
	c.replied = false
	for *err != nil && r.answered < r.sent {
		cmd, start := r.next()
		c.traceDone(cmd.Verb, cmd.Number(), start, new(int64), err)
	}
}

// nextMessage reads the status line of a run's next reply.
func (c *Client) nextMessage(r *run) (m *Message, refused, err error) {
	cmd, start := r.next()
	if !c.drain {
		c.readBy = time.Time{}
	}
	c.started = start
	text, lf, err := c.nextStatus(cmd.Verb, cmd.Number())
	switch {
	case err == nil:
		return c.announce(&cmd, text, lf, false), nil, nil
	case isRefusal(err):
		c.arrived()
		c.traceDone(cmd.Verb, cmd.Number(), start, new(int64), &err)
		return &Message{Number: cmd.Number(), Size: -1, c: c, verb: cmd.Verb, err: err}, err, nil
	}
	c.traceDone(cmd.Verb, cmd.Number(), start, new(int64), &err)
	return nil, nil, err
}

// drainRun reads and throws away what a loop that was left has asked for.
func (c *Client) drainRun(r *run, m *Message) (err error) {
	by := c.drainTime()
	for {
		c.drainBy(by)
		if err = m.leave(); err != nil || r.answered == r.sent {
			return err
		}
		c.drainBy(by)
		if m, _, err = c.nextMessage(r); err != nil {
			return err
		}
	}
}

// leave ends a message's step in a loop: what is left of its text is thrown
// away. The error says that the connection failed in the middle of it.
func (m *Message) leave() error {
	m.c.body.Lock()
	defer m.c.body.Unlock()
	if m.c.open == m {
		return m.discard()
	}
	if m.ended() {
		return nil
	}
	return m.err
}

// ended reports whether there is nothing wrong with a message that is not open.
func (m *Message) ended() bool {
	return m.err == io.EOF || errors.Is(m.err, errMessageClosed) || isRefusal(m.err)
}

// secrets are what was sent and must not come back in an error or a trace. They
// are two pointers away from the Client, further than package fmt goes.
type secrets struct{ list *[][]byte }

// shortSecret is the least length of what is masked: shorter ones would make
// a riddle of ordinary text.
const shortSecret = 4

func newSecrets() *secrets { return &secrets{new([][]byte)} }

func (s *secrets) add(list ...[]byte) {
	for _, b := range list {
		// The text of a reply comes without the blanks around it.
		if b = bytes.Trim(b, " \t"); len(b) >= shortSecret {
			*s.list = append(*s.list, b)
		}
	}
	// The longest first: it may hold a shorter one.
	slices.SortFunc(*s.list, func(a, b []byte) int { return len(b) - len(a) })
}

func (s *secrets) mask(text []byte) []byte {
	if s == nil {
		return text
	}
	for _, b := range *s.list {
		text = bytes.ReplaceAll(text, b, []byte(wire.Mask))
	}
	return text
}

// traceStart tells Trace that a command is about to be sent. It returns the
// time if anybody will ask.
func (c *Client) traceStart(cmd *command) (start time.Time) {
	if f := c.opts.Trace.CommandStart; f != nil {
		f(c.ctx, CommandInfo{Command: cmd.Verb, Number: cmd.Number()})
	}
	if c.opts.Trace.CommandDone != nil {
		start = time.Now()
	}
	return start
}

func (c *Client) traceSent(cmd *command) {
	if f := c.opts.Trace.LineSent; f != nil {
		f(c.ctx, cmd.Redacted())
	}
}

func (c *Client) traceReceived(line string) {
	if f := c.opts.Trace.LineReceived; f != nil {
		f(c.ctx, line)
	}
}

// traceDone takes pointers for the sake of defer.
func (c *Client) traceDone(verb string, number int, start time.Time, octets *int64, err *error) {
	if f := c.opts.Trace.CommandDone; f != nil {
		reply := ""
		if c.replied {
			reply = c.LastReply()
		}
		f(c.ctx, CommandInfo{verb, reply, number, *octets, time.Since(start), *err})
	}
}
