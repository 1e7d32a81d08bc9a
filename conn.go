package pop3

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"example.com/pop3/internal/sasl"
	"example.com/pop3/internal/wire"
)

type command = wire.Command

// An exchange is a command and its reply, or a run of them. It belongs to the
// goroutine that made Client.busy true. Between exchanges it is zero.
type exchange struct {
	ctx     context.Context
	secrets *sasl.Secrets // what a reply must not repeat
	replied bool          // the newest command has a status line
}

var (
	readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, wire.ReadBuffer) }}
	writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, writeBuffer) }}
)

// writeBuffer is the size of a write buffer: any command fits, but not the longest
// SASL responses.
const writeBuffer = wire.MaxCommand + 2

// begin takes the connection for an exchange. If it fails, the connection is as
// it was.
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

// canceled runs when the context of an exchange is done. If a reply is awaited it
// closes the connection: the reply would be taken for that of another command.
func (c *Client) canceled() {
	c.mu.Lock()
	hit := c.outstanding > 0 && c.err == nil
	if hit {
		c.err = newCanceledError(c.op, c.ctx)
	}
	c.mu.Unlock()
	if hit {
		c.stream.Abort()
	}
	c.cancelDone <- struct{}{}
}

// end gives the connection back.
func (c *Client) end() {
	c.mu.Lock()
	unanswered, o := c.outstanding > 0, c.op
	c.mu.Unlock()
	if unanswered {
		c.fail(o, &callError{op: o, err: errors.New("a panic or runtime.Goexit ended the call")})
	}
	c.mu.Lock()
	stop := c.stop
	c.stop, c.outstanding = nil, 0
	failed := c.err != nil
	c.mu.Unlock()
	if stop != nil && !stop() {
		<-c.cancelDone // or canceled would meet the next exchange
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

// unsolicited is the error for data that answers nothing.
func unsolicited(where string) error {
	return fmt.Errorf("%w: unsolicited data %s", ErrMalformed, where)
}

// arrived notes that a reply has been read to its end.
func (c *Client) arrived() {
	c.mu.Lock()
	c.outstanding--
	c.mu.Unlock()
}

// failWith closes the connection and returns the error for it: cause is what
// reading or writing returned, or what is wrong with text, which the server sent.
func (c *Client) failWith(o op, cause error, text []byte) error {
	switch {
	case cause == io.EOF || cause == io.ErrUnexpectedEOF:
		return c.fail(o, &Error{Command: o.verb, Number: o.number, Err: io.ErrUnexpectedEOF})
	case errors.Is(cause, ErrMalformed) || errors.Is(cause, ErrTooLarge):
		return c.fail(o, &Error{Command: o.verb, Number: o.number, Text: string(c.secrets.Mask(text)), Err: cause})
	case c.stream.TimedOut(cause):
		return c.fail(o, &timeoutError{o, c.opts.Timeout, cause})
	}
	return c.fail(o, &callError{op: o, err: cause})
}

// fail closes the connection because of err, unless it is closed already, and
// returns why it is closed.
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

// checkAlive is failure in the middle of an exchange: it does not wait for
// canceled to run.
func (c *Client) checkAlive(o op) error {
	if c.ctx.Err() != nil {
		return c.fail(o, newCanceledError(o, c.ctx))
	}
	return c.failure(o)
}

// queue puts a command into the write buffer. It is the only way there, and refuses
// what a command must not hold. With nothing outstanding it is the point of no
// return: it fails, with the connection as it was, if ctx is done.
func (c *Client) queue(cmd *command) error {
	if err := check(cmd); err != nil {
		return err
	}
	o := opOf(cmd)
	if c.outstanding == 0 && c.text.R.Buffered() > 0 {
		return c.failWith(o, unsolicited("before the command was sent"), nil)
	}
	c.mu.Lock()
	var err error
	switch {
	case c.outstanding > 0: // and what has become of the connection shows in their replies
	case c.err != nil:
		err = &closedError{o, c.err}
	case c.ctx.Err() != nil:
		err = newCanceledError(o, c.ctx)
	}
	if err == nil {
		c.outstanding++
		c.op = o
	}
	c.mu.Unlock()
	if err == nil {
		c.text.W.Write(cmd.Append(c.text.W.AvailableBuffer()))
	}
	return err
}

// flush writes what was queued.
func (c *Client) flush(o op, secret bool) error {
	if err := c.text.W.Flush(); err != nil {
		return c.failWith(o, err, nil)
	}
	if secret {
		clear(c.text.W.AvailableBuffer()[:c.text.W.Available()])
	}
	return nil
}

// send sends one command.
func (c *Client) send(cmd *command) error {
	c.replied = false
	if err := c.queue(cmd); err != nil {
		return err
	}
	if err := c.flush(opOf(cmd), cmd.Secret); err != nil {
		return err
	}
	if f := c.opts.Trace.LineSent; f != nil {
		f(c.ctx, cmd.Redacted())
	}
	return nil
}

// status reads a status line and returns its text, which is valid until the next
// read. lf reports whether the line ended in a lone LF. A refusal is a whole reply;
// after any other error the connection is closed.
func (c *Client) status(o op) (text []byte, lf bool, err error) {
	c.replied = false
	c.stream.Await()
	line, lf, err := wire.ReadLine(c.text.R, wire.MaxStatusLine)
	if err != nil {
		return nil, false, c.failWith(o, err, nil)
	}
	text, err = c.interpret(o, line)
	return text, lf, err
}

// interpret returns what a status line says.
func (c *Client) interpret(o op, line []byte) (text []byte, err error) {
	status, text := wire.ParseStatus(line)
	if f := c.opts.Trace.LineReceived; f != nil {
		f(c.ctx, string(c.secrets.Mask(line)))
	}
	if status == wire.Malformed || status == wire.Continue && o.verb != "" {
		return nil, c.failWith(o, ErrMalformed, line)
	}
	masked := text
	if c.secrets != nil {
		masked = c.secrets.Mask(text)
	}
	c.mu.Lock()
	c.reply = append(c.reply[:0], masked...)
	c.mu.Unlock()
	c.replied = true
	if status != wire.Refused {
		return masked, nil
	}
	c.arrived() // a refusal is never more than a line
	// The code before it is masked: a secret that looks like one must not hide it.
	code, rest := wire.Code(string(text))
	if !slices.Contains(codes, Code(code)) {
		code = string(c.secrets.Mask([]byte(code)))
	}
	return nil, &Error{Command: o.verb, Number: o.number, Code: Code(code), Text: string(c.secrets.Mask([]byte(rest)))}
}

// check checks a command's arguments.
func check(cmd *command) error {
	if err := cmd.Check(); err != nil {
		return &callError{op: op{verb: cmd.Verb}, err: err}
	}
	return nil
}

// do sends a command that is answered by one line, as an exchange of its own.
// parse, unless nil, gets the text of a +OK and reports whether it is well formed.
func (c *Client) do(ctx context.Context, cmd *command, parse func(text []byte) bool) error {
	if err := check(cmd); err != nil {
		return err
	}
	if err := c.begin(ctx, opOf(cmd)); err != nil {
		return err
	}
	defer c.end()
	return c.roundTrip(cmd, parse)
}

// roundTrip is do within an exchange.
func (c *Client) roundTrip(cmd *command, parse func(text []byte) bool) (err error) {
	o := opOf(cmd)
	start := c.opts.Trace.commandStart(c.ctx, o)
	defer func() { c.traceDone(o, start, 0, err) }()
	if err := c.send(cmd); err != nil {
		return err
	}
	text, _, err := c.status(o)
	if err != nil {
		return err
	}
	if parse != nil && !parse(text) {
		return c.failWith(o, ErrMalformed, text)
	}
	c.arrived()
	return nil
}

// rows sends a command and reads its reply, a listing of at most limit octets,
// within an exchange. parse gets the rows, and returns one that is malformed.
func (c *Client) rows(cmd *command, limit int, parse func(*wire.Listing) (bad string, ok bool)) (err error) {
	o := opOf(cmd)
	var octets int64
	start := c.opts.Trace.commandStart(c.ctx, o)
	defer func() { c.traceDone(o, start, octets, err) }()
	if err := c.send(cmd); err != nil {
		return err
	}
	_, lf, err := c.status(o)
	if err != nil {
		return err
	}
	c.stream.Await()
	listing, err := wire.ReadListing(&wire.DotReader{R: c.text.R, LF: lf}, limit, c.stream.Await)
	if t := c.opts.Trace; t.LineReceived != nil || t.CommandDone != nil {
		for row := range listing.Rows() {
			octets += int64(len(row))
			c.opts.Trace.lineReceived(c.ctx, row)
		}
	}
	if err != nil {
		return c.failWith(o, err, nil)
	}
	c.opts.Trace.lineReceived(c.ctx, ".")
	if bad, ok := parse(listing); !ok {
		return c.failWith(o, ErrMalformed, []byte(bad))
	}
	c.arrived()
	return nil
}

// challenge reads the server's next line in a SASL exchange: a challenge, still
// encoded, or (done) a status line.
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
	_, err = c.interpret(o, line)
	return nil, true, err
}

// respond sends a line of a SASL exchange. Trace gets shown in its place.
func (c *Client) respond(o op, line, shown string) error {
	c.text.W.WriteString(line)
	c.text.W.WriteString("\r\n")
	if err := c.flush(o, true); err != nil {
		return err
	}
	if f := c.opts.Trace.LineSent; f != nil {
		f(c.ctx, shown)
	}
	return nil
}

// traceDone calls Trace.CommandDone.
func (c *Client) traceDone(o op, start time.Time, octets int64, err error) {
	if f := c.opts.Trace.CommandDone; f != nil {
		reply := ""
		if c.replied {
			reply = string(c.reply)
		}
		f(c.ctx, CommandInfo{o.verb, reply, o.number, octets, time.Since(start), err})
	}
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

	c     *Client
	verb  string
	start time.Time // of its command, for Trace
	alone bool      // it is the whole exchange, not a step of a loop
	dot   wire.DotReader
	rest  []byte // decoded, part of the read buffer
	n     int64  // octets decoded
	err   error  // what reading returns once the message is not open
}

var errMessageClosed = errors.New("message is closed")

func (m *Message) op() op { return op{m.verb, m.Number} }

// open makes the Message for a reply whose status line was read.
func (c *Client) openMessage(o op, start time.Time, text []byte, lf, alone bool) *Message {
	m := &Message{
		Number: o.number, Size: wire.Octets(string(text)),
		c: c, verb: o.verb, start: start, alone: alone,
		dot: wire.DotReader{R: c.text.R, LF: lf},
	}
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
		return &callError{op: m.op(), err: ErrBusy}
	}
	if m.c.open == m {
		return nil
	}
	defer m.c.body.Unlock()
	if m.err == nil { // a copy of a Message
		return m.errClosed()
	}
	return m.err
}

func (m *Message) errClosed() error {
	return &callError{op: m.op(), err: errMessageClosed}
}

// fill gets the next piece of text into rest.
func (m *Message) fill() error {
	c := m.c
	if err := c.checkAlive(m.op()); err != nil { // what is in the buffer does not count any more
		m.done(err)
		return err
	}
	c.stream.Await()
	text, err := m.dot.Next()
	m.n += int64(len(text))
	switch limit := c.opts.MaxMessageSize; {
	case err != nil && err != io.EOF:
		err = c.failWith(m.op(), err, nil)
	case limit > 0 && m.n > limit:
		err = c.failWith(m.op(), fmt.Errorf("%w: message of more than %d octets (Options.MaxMessageSize)", ErrTooLarge, limit), nil)
	case err == nil:
		m.rest = text
		return nil
	}
	m.done(err)
	return err
}

// done ends the message: err is io.EOF, or why it is not whole.
func (m *Message) done(err error) {
	c := m.c
	if m.alone {
		defer c.end()
	}
	m.err, m.rest, m.dot, c.open = err, nil, wire.DotReader{}, nil
	if err == io.EOF {
		c.opts.Trace.lineReceived(c.ctx, ".")
		c.arrived()
		err = nil
	}
	c.traceDone(m.op(), m.start, m.n, err)
}

// Read reads the message's text. At its end, and not before, it returns io.EOF.
// A text that breaks off is an *[Error] with io.ErrUnexpectedEOF.
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

// WriteTo writes the text to w as it comes, straight from the read buffer, and
// returns nil only if all of it was written. If w fails, the rest can still be
// read.
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
			return n, err
		}
	}
}

// Close reads the rest of the text and throws it away, which leaves the
// connection usable. If that takes longer than Options.Timeout or fails, the
// connection is closed and the error returned. A second call does nothing. Close
// does not stop a transfer; [Client.Close] does.
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
		switch err := m.fill(); err {
		case nil:
		case io.EOF:
			m.err = m.errClosed()
			return nil
		default:
			return err
		}
	}
}

// endStep ends a message's step in a loop: the rest of its text is discarded. The
// error is that of a connection that failed in the middle of it.
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

// endedWell reports whether a message that is no longer open was read to its end
// or was refused.
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
	if err = c.send(cmd); err == nil {
		var text []byte
		var lf bool
		if text, lf, err = c.status(o); err == nil {
			return c.openMessage(o, start, text, lf, true), nil
		}
	}
	c.traceDone(o, start, 0, err)
	return nil, err
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
	verb      string
	numbers   []int
	lines     []int // TOP's second argument
	retrieves bool  // the server may delete what was asked for (RFC 2449 section 6.7)
	marks     bool  // each command marks a message for deletion
	window    int   // 0 adapts

	sent, answered int
	most           int         // unanswered commands, so that they stay below maxAhead
	octets         int64       // of message text in the replies so far
	starts         []time.Time // of the unanswered commands, for Trace

	buf [2]int
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
	r.most = maxAhead / longest
	return nil
}

// size returns the number of unanswered commands to aim at.
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

// refill sends the next commands if half of the window is free.
func (c *Client) refill(r *run) error {
	size, first := r.size(), r.sent
	if r.sent-r.answered > size/2 || r.sent == len(r.numbers) {
		return nil
	}
	for r.sent < len(r.numbers) && r.sent-r.answered < size {
		cmd := r.command(r.sent)
		if start := c.opts.Trace.commandStart(c.ctx, opOf(&cmd)); !start.IsZero() {
			r.starts = append(r.starts, start)
		}
		if err := c.queue(&cmd); err != nil {
			return err
		}
		if r.marks {
			c.deletions++
		}
		r.sent++
	}
	if err := c.flush(op{r.verb, r.numbers[r.sent-1]}, false); err != nil {
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

// next returns the command whose reply comes next.
func (r *run) next() (o op, start time.Time) {
	o = op{r.verb, r.numbers[r.answered]}
	r.answered++
	if len(r.starts) > 0 {
		start, r.starts = r.starts[0], r.starts[1:]
	}
	return o, start
}

// nextMessage reads the status line of a run's next reply.
func (c *Client) nextMessage(r *run) (m *Message, refused, err error) {
	o, start := r.next()
	text, lf, err := c.status(o)
	if err == nil {
		return c.openMessage(o, start, text, lf, false), nil, nil
	}
	c.traceDone(o, start, 0, err)
	if isRefusal(err) {
		return &Message{Number: o.number, Size: -1, c: c, verb: o.verb, err: err}, err, nil
	}
	return nil, nil, err
}

// drainRun discards m and the replies that a loop asked for before it was left.
func (c *Client) drainRun(r *run, m *Message) (err error) {
	c.stream.Drain()
	defer c.stream.Resume()
	for {
		if err = m.endStep(); err != nil || r.answered == r.sent {
			return err
		}
		if m, _, err = c.nextMessage(r); err != nil {
			return err
		}
	}
}

// traceUnanswered calls Trace.CommandDone for the commands that err leaves without
// a reply.
func (c *Client) traceUnanswered(r *run, err error) {
	c.replied = false
	for err != nil && r.answered < r.sent {
		o, start := r.next()
		c.traceDone(o, start, 0, err)
	}
}
