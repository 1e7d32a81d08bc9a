package pop3

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"example.com/pop3/internal/sasl"
	"example.com/pop3/internal/wire"
)

type command = wire.Command

// An exchange is a command and its reply, or a run of them. It belongs to the goroutine
// that set Client.busy; canceled may read ctx as well. Between exchanges it is zero.
type exchange struct {
	ctx     context.Context
	secrets *sasl.Secrets // what a reply must not repeat
	replied bool          // the newest command has a status line
	heard   *Error        // a Temporary refusal: why the server may hang up next
	start   time.Time     // of the open Message's command, for Trace
}

// Connections borrow their buffers for an exchange. A write buffer holds any command, but
// not the longest SASL responses.
var (
	readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, wire.ReadBuffer) }}
	writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, wire.MaxCommand+len("\r\n")) }}
)

// begin takes the connection for an exchange. If it fails, the connection is as it was.
func (c *Client) begin(ctx context.Context, o op) error {
	if ctx == nil {
		return &callError{op: o, err: errNilContext}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.stream == nil:
		return &closedError{o, errors.New("the Client was not made by Dial, DialTLS, DialStartTLS or NewClient")}
	case c.err != nil:
		return &closedError{o, c.err}
	case c.busy:
		return &callError{op: o, err: ErrBusy}
	case ctx.Err() != nil:
		return newCanceledError(o, ctx)
	}
	c.busy, c.op, c.ctx = true, o, ctx
	if ctx.Done() != nil {
		c.stop = context.AfterFunc(ctx, c.cancel)
	}
	if c.text.R == nil { // else it holds octets that belong to no exchange
		c.text.R = readers.Get().(*bufio.Reader)
		c.text.R.Reset(c.stream)
	}
	c.text.W = writers.Get().(*bufio.Writer)
	c.text.W.Reset(c.stream)
	return nil
}

// canceled runs when the context of an exchange is done. If a reply is awaited it closes
// the connection: the reply would be taken for that of another command.
func (c *Client) canceled() {
	c.mu.Lock()
	awaited := c.outstanding > 0 && c.err == nil
	if awaited {
		c.err = newCanceledError(c.op, c.ctx)
	}
	c.mu.Unlock()
	if awaited {
		c.stream.Abort()
	}
	c.cancelDone <- struct{}{}
}

// end gives the connection back.
func (c *Client) end() {
	if c.outstanding > 0 { // the connection has failed, or the caller's code panicked
		c.fail(c.op, &callError{op: c.op, err: errPanic})
	}
	c.mu.Lock()
	stop := c.stop
	c.stop, c.outstanding = nil, 0
	failed := c.err != nil
	c.mu.Unlock()
	if stop != nil && !stop() {
		<-c.cancelDone // otherwise canceled could act on the next exchange
	}
	if failed || c.text.R.Buffered() == 0 {
		c.text.R.Reset(nil)
		readers.Put(c.text.R)
		c.text.R = nil
	}
	c.text.W.Reset(nil)
	writers.Put(c.text.W)
	c.text.W = nil
	c.exchange = exchange{}
	c.mu.Lock()
	c.busy = false
	c.mu.Unlock()
}

// arrived notes that a reply of +OK has been read to its end. It fails if the connection
// was closed meanwhile, so that no call that closed it returns nil, and if the octets
// after the reply cannot be the next one: the reply may have ended early, or been two.
func (c *Client) arrived(o op) error {
	c.mu.Lock()
	if c.outstanding--; c.outstanding > 0 {
		c.op = op{verb: o.verb} // until the next reply is awaited
	}
	err := c.err
	c.mu.Unlock()
	if err != nil || c.outstanding > 0 && c.ctx.Err() != nil { // canceled will close it
		return c.alive(o)
	}
	if c.text.R.Buffered() > 0 {
		return c.checkUnsolicited(o, "after the reply")
	}
	return nil
}

// settled is arrived for a reply whose +OK counts even if the server hangs up right after
// it.
func (c *Client) settled(o op) error {
	if err := c.arrived(o); err != nil && !isFarewell(err) {
		return err
	}
	return nil
}

// checkUnsolicited fails if the buffer, between two replies, does not begin with the next
// one. If none is awaited, a -ERR line is the server's reason for hanging up: Dovecot
// gives one when it shuts down, or after too long without a command.
func (c *Client) checkUnsolicited(o op, where string) error {
	buf, _ := c.text.R.Peek(c.text.R.Buffered())
	if c.outstanding > 0 && wire.MayBeginStatus(buf) {
		return nil
	}
	if err := c.failure(o); err != nil {
		return err
	}
	line := wire.FirstLine(buf)
	status, text := wire.ParseStatus(line)
	if len(buf) < len("-ERR") && strings.EqualFold(string(buf), "-ERR"[:len(buf)]) {
		status, text = wire.Refused, nil // the rest is on its way
	}
	if status == wire.Refused && c.outstanding == 0 {
		if len(line) < len(buf) { // else it is cut off
			c.opts.Trace.lineReceived(c.ctx, string(c.secrets.Mask(line)))
		}
		e := c.refusal(o, text)
		if c.heard != nil && e.Code == "" {
			e.Code, e.Text = c.heard.Code, c.heard.Text
		}
		e.Err, e.farewell = io.ErrUnexpectedEOF, true
		return c.fail(o, e)
	}
	return c.failWith(o, fmt.Errorf("%w: unsolicited data %s", ErrMalformed, where), line)
}

// failWith closes the connection and returns the error for it: cause is what reading or
// writing returned, or what is wrong with text, which the server sent.
func (c *Client) failWith(o op, cause error, text []byte) error {
	if c.stream.TimedOut(cause) {
		return c.fail(o, &timeoutError{o, c.opts.Timeout, cause})
	}
	return c.fail(o, newFailure(o, cause, string(c.secrets.Mask(text)), c.heard))
}

// fail closes the connection because of err, unless it is closed already, and returns why
// it is closed.
func (c *Client) fail(o op, err error) error {
	c.mu.Lock()
	first := c.err == nil
	if first {
		c.err = err
	}
	c.mu.Unlock()
	if first {
		c.stream.Abort()
	}
	return c.failure(o)
}

// failure returns why a call in progress cannot go on, or nil.
func (c *Client) failure(o op) error {
	c.mu.Lock()
	err := c.err
	c.mu.Unlock()
	if err == ErrClosed {
		return &closedError{o, ErrClosed}
	}
	return err
}

// alive returns an error if the call in progress cannot go on. Unlike failure it does not
// depend on whether canceled has run.
func (c *Client) alive(o op) error {
	if c.ctx.Err() != nil {
		return c.fail(o, newCanceledError(o, c.ctx))
	}
	return c.failure(o)
}

// queue puts a command into the write buffer. No command gets there in another way, and
// Append refuses what one must not hold. With nothing outstanding this is the point of no
// return: if ctx is done it fails, with the connection as it was.
func (c *Client) queue(cmd *command) error {
	line, err := cmd.Append(c.text.W.AvailableBuffer())
	o := opOf(cmd)
	if err != nil {
		return &callError{op: o, err: err}
	}
	c.replied = false
	if c.outstanding == 0 && c.text.R.Buffered() > 0 {
		return c.checkUnsolicited(o, "before the command was sent")
	}
	c.mu.Lock()
	switch {
	case c.outstanding > 0: // their replies will show what has become of the connection
	case c.err != nil:
		err = &closedError{o, c.err}
	case c.ctx.Err() != nil:
		err = newCanceledError(o, c.ctx)
	}
	if err != nil {
		c.mu.Unlock()
		return err
	}
	if c.outstanding == 0 {
		c.op = o
	}
	c.outstanding++
	c.mu.Unlock()
	if len(line) > c.text.W.Available() {
		c.text.W.Flush() // WildDuck wants a command in one piece; flush returns an error again
	}
	c.text.W.Write(line)
	return nil
}

// await notes which command the next reply is for. A single command needs no call.
func (c *Client) await(o op) {
	c.mu.Lock()
	c.op = o
	c.mu.Unlock()
}

// flush writes what was queued. A secret is not left in the buffer, written or not.
func (c *Client) flush(o op, secret bool) error {
	err := c.text.W.Flush()
	if secret {
		c.text.W.Reset(c.stream)
		clear(c.text.W.AvailableBuffer()[:c.text.W.Available()])
	}
	if err != nil {
		return c.failWith(o, err, nil)
	}
	return nil
}

// send queues commands, writes them at once, and reports them to Trace.
func (c *Client) send(cmds ...*command) error {
	for _, cmd := range cmds {
		if err := c.queue(cmd); err != nil {
			return err
		}
	}
	if err := c.flush(opOf(cmds[0]), cmds[0].Secret); err != nil {
		return err
	}
	if f := c.opts.Trace.LineSent; f != nil {
		for _, cmd := range cmds {
			f(c.ctx, cmd.Redacted())
		}
	}
	return nil
}

// status reads a status line and returns its text, which is valid until the next read. lf
// reports whether the line ended in a lone LF. A refusal is a whole reply; after any
// other error the connection is closed.
func (c *Client) status(o op) (text []byte, lf bool, err error) {
	c.replied = false
	c.stream.Await()
	line, lf, err := wire.ReadLine(c.text.R, wire.MaxStatusLine)
	if err != nil {
		return nil, false, c.failWith(o, err, nil)
	}
	text, err = c.interpret(o, line)
	if c.ctx.Err() != nil { // no call whose own context closed the connection returns nil
		err = cmp.Or(c.failure(o), err)
	}
	return text, lf, err
}

// interpret parses a status line and keeps it for LastReply. A refusal ends its reply.
func (c *Client) interpret(o op, line []byte) (text []byte, err error) {
	status, text := wire.ParseStatus(line)
	if f := c.opts.Trace.LineReceived; f != nil {
		f(c.ctx, string(c.secrets.Mask(line)))
	}
	if status == wire.Malformed || status == wire.Continue && o != opGreeting {
		return nil, c.failWith(o, ErrMalformed, line)
	}
	masked := text
	if c.secrets != nil {
		masked = c.secrets.Mask(text)
	}
	c.mu.Lock()
	c.reply = append(c.reply[:0], masked...)
	if status == wire.Refused {
		c.outstanding-- // a refusal is never more than a line
	}
	c.mu.Unlock()
	c.replied, c.heard = true, nil
	if status == wire.Refused {
		return nil, c.refusal(o, text)
	}
	return masked, nil
}

// refusal returns the error for the text of a -ERR. A secret that looks like a response
// code must neither hide one nor be shown as one.
func (c *Client) refusal(o op, text []byte) *Error {
	code, rest := wire.Code(string(c.secrets.Mask(text)))
	if known, after := wire.Code(string(text)); known != code && slices.Contains(codes, Code(known)) {
		code, rest = known, string(c.secrets.Mask([]byte(after)))
	}
	return &Error{Command: o.verb, mech: o.mech, Number: o.number, Code: Code(code), Text: rest}
}

// check returns an error if a command must not be sent.
func check(cmd *command) error {
	if err := cmd.Check(); err != nil {
		return &callError{op: op{verb: cmd.Verb}, err: err}
	}
	return nil
}

// do sends a command that is answered by one line, as an exchange of its own. See
// roundTrip.
func (c *Client) do(ctx context.Context, cmd *command, parse func(text []byte) error) error {
	if err := check(cmd); err != nil {
		return err
	}
	if err := c.begin(ctx, opOf(cmd)); err != nil {
		return err
	}
	defer c.end()
	return c.roundTrip(cmd, parse)
}

// roundTrip sends a command that is answered by one line, within an exchange. parse,
// unless nil, gets the text of a +OK. Its error is a fault of content, which leaves the
// connection usable, unless it is errOtherMessage.
func (c *Client) roundTrip(cmd *command, parse func(text []byte) error) error {
	o := opOf(cmd)
	start := c.opts.Trace.commandStart(c.ctx, o)
	var text []byte
	err := c.send(cmd)
	if err == nil {
		text, _, err = c.status(o)
	}
	if err == nil {
		err = c.settled(o)
	}
	if err == nil && parse != nil {
		switch err = parse(text); {
		case err == errOtherMessage:
			err = c.failWith(o, err, text)
		case err != nil:
			err = &Error{Command: o.verb, Number: o.number, Text: string(text), Err: err}
		}
	}
	c.opts.Trace.commandDone(c, o, start, 0, err)
	return err
}

// rows sends a command that is answered by a listing, within an exchange. See readRows.
func (c *Client) rows(cmd *command, limit int, parse func(*wire.Listing) error) error {
	o := opOf(cmd)
	start := c.opts.Trace.commandStart(c.ctx, o)
	var octets int64
	err := c.send(cmd)
	if err == nil {
		octets, err = c.readRows(o, limit, parse)
	}
	c.opts.Trace.commandDone(c, o, start, octets, err)
	return err
}

// readRows reads a listing of at most limit octets, and returns how many it had. The error
// of parse is a fault of content, which leaves the connection usable.
func (c *Client) readRows(o op, limit int, parse func(*wire.Listing) error) (octets int64, err error) {
	_, lf, err := c.status(o)
	if err != nil {
		return 0, err
	}
	c.stream.Await()
	listing, err := wire.ReadListing(c.text.R, lf, limit, c.stream.Await)
	octets = listing.Octets()
	if f := c.opts.Trace.LineReceived; f != nil {
		for row := range listing.Rows() {
			f(c.ctx, row)
		}
	}
	if err != nil {
		return octets, c.failWith(o, &cutError{octets: octets, err: err}, nil)
	}
	c.opts.Trace.lineReceived(c.ctx, ".")
	if err := c.arrived(o); err != nil {
		return octets, err
	}
	if err := parse(listing); err != nil {
		return octets, &Error{Command: o.verb, Err: err}
	}
	return octets, nil
}

// challenge reads the server's next line in a SASL exchange: a challenge, still encoded,
// or (done) a status line.
func (c *Client) challenge(o op) (challenge []byte, done bool, err error) {
	c.stream.Await()
	line, _, err := wire.ReadLine(c.text.R, wire.MaxChallenge)
	if err != nil {
		return nil, false, c.failWith(o, err, nil)
	}
	if status, _ := wire.ParseStatus(line); status == wire.Continue {
		shown := "+ " + wire.Mask
		if len(line) < 3 { // nothing to hide
			shown = string(line)
		}
		c.opts.Trace.lineReceived(c.ctx, shown)
		return bytes.TrimPrefix(line[1:], []byte(" ")), false, nil
	}
	if len(line) > wire.MaxStatusLine {
		return nil, false, c.failWith(o, fmt.Errorf("%w: line of more than %d octets", ErrTooLarge, wire.MaxStatusLine), nil)
	}
	if _, err = c.interpret(o, line); c.ctx.Err() != nil {
		err = cmp.Or(c.failure(o), err)
	}
	return nil, true, err
}

// A Message is the text of a message as it arrives, octet for octet as the server sends
// it with dot-stuffing undone: line ends, NUL and 8-bit octets are not changed.
//
// It holds the connection until [Message.Read] returns io.EOF, [Message.WriteTo] returns
// nil, or [Message.Close] is called; until then the [Client] is busy. The context of the
// call that returned it also limits reading it. A Message from [Client.RetrAll] or
// [Client.TopAll] is valid for its step of the loop. It must not be used from several
// goroutines at once.
type Message struct {
	// Number is the message number.
	Number int

	// Size is the number of octets that the server announced in its reply, or -1. Use it
	// for a progress bar only, and read to io.EOF: the text may be longer or shorter.
	Size int64

	c      *Client
	op     op   // its command
	single bool // it is the whole exchange, not a step of a loop
	dot    wire.DotReader
	rest   []byte // decoded text not yet returned to the caller, part of the read buffer
	n      int64  // octets decoded so far
	err    error  // what reading returns once the message is not open
}

// openMessage makes m the Message for a reply whose status line was read.
func (c *Client) openMessage(m *Message, o op, start time.Time, text []byte, lf bool) *Message {
	m.Number, m.Size = o.number, wire.Octets(string(text))
	m.c, m.op, m.dot = c, o, wire.DotReader{LF: lf}
	c.start = start
	c.body.Lock()
	c.open = m
	c.body.Unlock()
	return m
}

// lock takes the message for one call, or returns why it cannot be read.
func (m *Message) lock() error {
	if m.c == nil {
		return errors.New("pop3: the Message was not made by Retr, Top, RetrAll or TopAll")
	}
	if !m.c.body.TryLock() {
		return &callError{op: m.op, err: ErrBusy}
	}
	if m.c.open == m {
		return nil
	}
	defer m.c.body.Unlock()
	return cmp.Or(m.err, m.errClosed()) // a copy of a Message has no error
}

func (m *Message) errClosed() error { return &callError{op: m.op, err: errMessageClosed} }

// fill gets the next piece of text into rest.
func (m *Message) fill() error {
	err := m.c.alive(m.op) // otherwise text in the buffer would be returned after a cancel
	if err == nil {
		err = m.read()
	}
	if err != nil {
		err = m.finish(err)
	}
	return err
}

// read gets the next piece of text into rest from a connection that is alive.
func (m *Message) read() error {
	c := m.c
	c.stream.Await()
	twice := false
	var err error
	if m.n == 0 {
		twice, err = wire.BeginsWithStatus(c.text.R)
	}
	if err == nil && !twice {
		m.rest, err = m.dot.Next(c.text.R)
	}
	m.n += int64(len(m.rest))
	switch limit := c.opts.MaxMessageSize; {
	case err == io.EOF:
		return err
	case err != nil:
		err = &cutError{m.n, c.stream.Draining(), err}
	case twice:
		err = fmt.Errorf("%w: the message begins with a status line, so the server answered twice; skip this message", ErrMalformed)
	case limit > 0 && m.n > limit:
		err = fmt.Errorf("%w: %d octets came, Options.MaxMessageSize is %d; the connection is closed", ErrTooLarge, m.n, limit)
	default:
		return nil
	}
	return c.failWith(m.op, err, nil)
}

// finish ends the message and returns why: io.EOF, or the reason why it is not whole.
func (m *Message) finish(err error) error {
	c := m.c
	if m.single {
		defer c.end()
	}
	m.err, m.rest, m.dot, c.open = errPanic, nil, wire.DotReader{}, nil // if a hook panics
	if err == io.EOF {
		c.opts.Trace.lineReceived(c.ctx, ".")
		err = c.arrived(m.op)
	}
	m.err = cmp.Or(err, io.EOF)
	c.opts.Trace.commandDone(c, m.op, c.start, m.n, err)
	return m.err
}

// Read reads the text of the message. It returns io.EOF when all of it has been read, and
// only then. If the text breaks off, the error is an [*Error] that wraps
// io.ErrUnexpectedEOF.
func (m *Message) Read(p []byte) (int, error) {
	if err := m.lock(); err != nil {
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

// WriteTo writes the text to w as it arrives, straight from the read buffer. It returns
// nil only if all of the text was written. If w fails, its error is wrapped, and the rest
// of the text can still be read.
func (m *Message) WriteTo(w io.Writer) (n int64, err error) {
	if err := m.lock(); err != nil {
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
			text := fmt.Sprintf("writing failed after %d octets, and the rest can still be read: %v", n, err)
			return n, &callError{op: m.op, text: text, err: err}
		}
	}
}

// Close discards the rest of the text, which leaves the connection usable. If that takes
// longer than [Options].Timeout, or fails, the connection is closed and Close returns the
// error.
//
// If reading the message has failed, Close returns that error again. So after a parser
// that hides errors or stops before the end, a nil from Close means that the message was
// complete. Close does not interrupt a transfer; [Client.Close] does.
func (m *Message) Close() error {
	switch err := m.lock(); {
	case err == nil:
		defer m.c.body.Unlock()
		return m.discard()
	case m.c != nil && !errors.Is(err, ErrBusy) && m.endedWell():
		return nil
	default:
		return err
	}
}

// discard reads the rest of the text. Afterwards the message cannot be read.
func (m *Message) discard() error {
	if m.c.stream.Drain() {
		defer m.c.stream.Resume()
	}
	for {
		if err := m.fill(); err == io.EOF {
			m.err = m.errClosed()
			return nil
		} else if err != nil {
			return err
		}
	}
}

// endStep ends a message's step in a loop: the rest of its text is discarded. The error
// is that of a connection that failed in the middle of it.
func (m *Message) endStep() error {
	m.c.body.Lock()
	defer m.c.body.Unlock()
	if m.c.open == m {
		return m.discard()
	}
	if m.endedWell() {
		return nil
	}
	return m.err
}

// endedWell reports whether a message that is not open was read to its end or refused.
func (m *Message) endedWell() bool {
	return m.err == io.EOF || errors.Is(m.err, errMessageClosed) || isRefusal(m.err)
}

// fetch sends RETR or TOP and returns the message at its beginning.
func (c *Client) fetch(ctx context.Context, cmd *command) (m *Message, err error) {
	o := opOf(cmd)
	if err := check(cmd); err != nil {
		return nil, err
	}
	if err := c.begin(ctx, o); err != nil {
		return nil, err
	}
	defer func() {
		if m == nil {
			c.end()
		}
	}()
	start := c.opts.Trace.commandStart(c.ctx, o)
	var text []byte
	var lf bool
	if err = c.send(cmd); err == nil {
		text, lf, err = c.status(o)
	}
	if err != nil {
		c.opts.Trace.commandDone(c, o, start, 0, err)
		return nil, err
	}
	return c.openMessage(&Message{single: true}, o, start, text, lf), nil
}

// maxAhead is how many octets of commands may be unanswered. A server may read nothing
// while its replies are not read, so the transport must take all of them, or both sides
// wait for each other forever. Any socket does: its send buffer alone holds that much.
const maxAhead = 16 << 10

// The window of Options.Window 0. To keep a link busy, the replies on the way must fill it
// for a round trip; 4 MiB are 100 ms at 335 Mbit/s. That is 4 messages of 1 MiB, or 512 of
// 8 KiB, whose commands are below maxAhead. If the mean size is unknown, the window starts
// at 8; if that is too low, it costs one round trip.
const (
	firstWindow = 8
	minWindow   = 4
	maxWindow   = 512
	aimAhead    = 4 << 20
)

// A run is a sequence of commands of one verb, several of them on the wire at once.
type run struct {
	verb      string
	numbers   []int
	lines     []int // TOP's second argument
	retrieves bool  // the server may delete what was asked for (RFC 2449 section 6.7)
	marks     bool  // each command marks a message for deletion
	window    int   // 0 adapts
	mean      int64 // octets of a message, before any was read; 0 or less if unknown

	sent, replies int         // commands sent, and replies begun
	maxUnanswered int         // commands, so that they stay below maxAhead
	octets        int64       // of message text in the replies so far
	starts        []time.Time // of the unanswered commands, for Trace
	buf           [2]int      // command's
	unused        []Message   // allocated together
}

// command returns the i-th command, which is valid until the next call.
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
	r.maxUnanswered = maxAhead / longest
	return nil
}

// size returns the number of unanswered commands to aim at.
func (r *run) size() int {
	mean := r.mean
	if r.replies > 0 {
		mean = max(r.octets/int64(r.replies), 1)
	}
	switch {
	case r.window > 0:
		return min(r.window, r.maxUnanswered)
	case mean <= 0:
		return firstWindow
	}
	return int(min(max(aimAhead/mean, minWindow), maxWindow, int64(r.maxUnanswered)))
}

// refill sends the next commands if half of the window is free.
func (c *Client) refill(r *run) error {
	size, first := r.size(), r.sent
	if r.sent-r.replies > size/2 || r.sent == len(r.numbers) {
		return nil
	}
	for r.sent < len(r.numbers) && r.sent-r.replies < size {
		cmd := r.command(r.sent)
		start := c.opts.Trace.commandStart(c.ctx, opOf(&cmd))
		if err := c.queue(&cmd); err != nil {
			c.opts.Trace.commandDone(c, opOf(&cmd), start, 0, err)
			return err
		}
		if !start.IsZero() {
			r.starts = append(r.starts, start)
		}
		if r.marks {
			c.deletions++
		}
		r.sent++
	}
	if err := c.flush(op{verb: r.verb, number: r.numbers[r.sent-1]}, false); err != nil {
		return err
	}
	if f := c.opts.Trace.LineSent; f != nil {
		for i := first; i < r.sent; i++ {
			cmd := r.command(i)
			f(c.ctx, cmd.Redacted())
		}
	}
	return nil
}

// pop returns the command whose reply comes next.
func (r *run) pop() (o op, start time.Time) {
	o = op{verb: r.verb, number: r.numbers[r.replies]}
	r.replies++
	if len(r.starts) > 0 {
		start, r.starts = r.starts[0], r.starts[1:]
	}
	return o, start
}

// newMessage returns a Message. To allocate several at once saves more time than the
// parsing of a reply takes.
func (r *run) newMessage() *Message {
	if len(r.unused) == 0 {
		r.unused = make([]Message, min(len(r.numbers)-r.replies+1, 16))
	}
	m := &r.unused[0]
	r.unused = r.unused[1:]
	return m
}

// nextMessage reads the status line of a run's next reply.
func (c *Client) nextMessage(r *run) (m *Message, refused, err error) {
	o, start := r.pop()
	c.await(o)
	text, lf, err := c.status(o)
	if err == nil {
		return c.openMessage(r.newMessage(), o, start, text, lf), nil, nil
	}
	c.opts.Trace.commandDone(c, o, start, 0, err)
	if isRefusal(err) {
		return &Message{Number: o.number, Size: -1, c: c, op: o, err: err}, err, nil
	}
	return nil, nil, err
}

// drainRun discards m and the replies that a loop asked for before it was left.
func (c *Client) drainRun(r *run, m *Message) (err error) {
	c.stream.Drain()
	defer c.stream.Resume()
	for {
		if err = m.endStep(); err != nil || r.replies == r.sent {
			return err
		}
		if m, _, err = c.nextMessage(r); err != nil {
			return err
		}
	}
}
