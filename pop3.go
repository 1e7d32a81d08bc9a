// Package pop3 implements a POP3 client (RFC 1939): it logs in to a server, lists the
// messages of a maildrop, and retrieves and deletes them.
//
// # First steps
//
// [DialTLS] connects, [Client.Login] logs in, [Client.ListAll] lists the messages,
// [Client.RetrAll] retrieves them, and [Client.Quit] ends the session. In this program no
// message is deleted before it is safe; save stands for a function of your own that
// returns when the message is on the disk:
//
//	c, err := pop3.DialTLS(ctx, "pop.example.com", nil)
//	if err != nil {
//		return err
//	}
//	defer c.Close() // deletes nothing
//	if err := c.Login(ctx, "ada", "tides"); err != nil {
//		return err
//	}
//	list, err := c.ListAll(ctx)
//	if err != nil {
//		return err
//	}
//	var numbers, saved []int
//	for _, info := range list {
//		numbers = append(numbers, info.Number)
//	}
//	for m, err := range c.RetrAll(ctx, numbers) {
//		if m == nil {
//			return err // no more messages come
//		}
//		if err != nil {
//			log.Print(err) // the server refused this message
//			continue
//		}
//		if err := save(m); err != nil {
//			c.Close() // not Quit, and before the loop is left
//			return err
//		}
//		saved = append(saved, m.Number)
//	}
//	if err := c.DeleAll(ctx, saved); err != nil {
//		log.Print(err) // what the server refused stays in the maildrop
//	}
//	return c.Quit(ctx) // deletes what is marked
//
// [DialStartTLS] is for a server without a dedicated TLS port. For Gmail and Exchange
// Online, call [Client.Auth] with [XOAuth2Auth] instead of [Client.Login]. To retrieve
// only new mail, use the unique-ids that [Client.Messages] lists. A nil [*Options] is
// right for most programs. Every method of Python's poplib and of knadh/go-pop3 has a
// counterpart here; see the tables in the README.
//
// # States of a session
//
// A session begins in the AUTHORIZATION state, in which [Client.StartTLS], [Client.UTF8]
// and the logins are valid: [Client.Login], [Client.Auth], [Client.APOP], [Client.RPOP],
// or [Client.User] followed by [Client.Pass]. A login leads to the TRANSACTION state, in
// which the methods that deal with messages are valid. [Client.Capa], [Client.Lang] and
// [Client.LangAll] are valid in both. The server enforces these states. The [Client]
// itself checks only [Client.StartTLS].
//
// A message number is valid for one session. Numbers may have gaps, so the number of a
// message is not its position in a listing. A unique-id is valid for the life of the
// message. Many servers lock the maildrop during a session and do not show mail that
// arrives in the meantime.
//
// [Client.Dele] only marks a message. [Client.Quit] leads to the UPDATE state, in which
// the server deletes what is marked. [Client.Quit] is the only method that sends QUIT: if
// the connection ends in another way, by [Client.Close], a failure or a canceled context,
// the server must not delete anything (RFC 1939 section 6). So do not defer
// [Client.Quit]; defer [Client.Close], and call [Client.Quit] at the end of a session in
// which nothing went wrong.
//
// # Streaming
//
// [Client.Retr], [Client.Top] and the loops over [Client.RetrAll] and [Client.TopAll]
// return a [Message]. Its text is read from the connection as it arrives, and is never
// held in memory as a whole. It is delivered octet for octet: line ends, NUL and 8-bit
// octets are kept, and the dots that the protocol adds are removed.
//
// A [Message] holds the connection until [Message.Read] returns io.EOF, [Message.WriteTo]
// returns nil, or [Message.Close] is called, which discards the rest. A parser such as
// [net/mail.ReadMessage] may stop before the end: call [Message.Close] after it, before
// the next command. If [Message.Close] returns nil, the message was complete. To abandon
// a large message without downloading it, call [Client.Close].
//
// # Pipelining
//
// [Client.RetrAll], [Client.TopAll], [Client.DeleAll] and [Client.Messages] send commands
// ahead of the replies if the server lists PIPELINING, and one at a time otherwise, with
// the same results. The replies are read in the loop; no goroutine is involved.
// [Options].Window limits how many commands are ahead. Over a [net.Pipe], which has no
// buffer, nothing is sent ahead; over another connection without one, [Options].Window
// must be 1.
//
// The server counts messages that were requested ahead as retrieved, and some servers
// delete at QUIT what was retrieved. After leaving a loop early, call [Client.Close]
// rather than [Client.Quit], or set [Options].Window to 1. If a server announces that
// policy with EXPIRE 0, as Gmail does, [Client.RetrAll] requests nothing ahead unless
// [Options].Window is more than 1. (RFC 2449 sections 6.6 and 6.7.)
//
// # Errors
//
// After a call the connection is in one of three states:
//
//   - Untouched: nothing was sent, because the arguments were invalid, the [Client] was
//     busy or closed, or ctx was already done.
//   - Usable: the reply was read. If the server refused, the error is an [*Error] that
//     matches [ErrRefused]. If the content of the reply makes no sense, such as a row of a
//     listing without its fields, the error is an [*Error] that matches [ErrMalformed].
//   - Closed: [Client.Err] returns the reason. Every later call's error matches it, and
//     [ErrClosed] as well.
//
// A program that fetches mail from time to time asks two questions about a failed login,
// in this order:
//
//	var e *pop3.Error
//	switch {
//	case errors.As(err, &e) && e.Temporary(): // try again later: mailbox in use, login too soon, or a transient problem
//	case errors.Is(err, pop3.ErrRefused): // stop: servers lock users out
//	case errors.As(err, &e): // the server broke the protocol or hung up; e.Text is what it said
//	default: // a lost connection, a timeout, a context that is done, a misuse
//	}
//
// Response codes such as [CodeAuth] and [CodeInUse] come from the server, and some
// servers send none. Without one, all that is known is that the server refused. Text from
// a server may contain anything. [Error.Error] quotes it and limits its length;
// [Error].Text and [Client.LastReply] hold the text as it came, with secrets masked.
//
// # Cancellation and timeouts
//
// The context of a call limits all of it, and also the [Message] or the loop that it
// returned. If it is done before anything was sent, the connection is untouched. If it is
// done later, the connection is closed, since the next reply would be taken for that of
// another command. With [errors.Is], the error matches both the Err of the
// [context.Context] and its [context.Cause].
//
// [Options].Timeout limits each wait for progress: the connect, a reply line, a write, a
// read of message text. A slow but steady download does not time out. The error is a
// [net.Error] whose Timeout method returns true. [Client.Close] ends any wait at once.
//
// The server has a timeout as well, of ten minutes or more (RFC 1939 section 3).
// [Client.Noop] resets it.
//
// # Security
//
// Certificates are verified unless [Options].TLSConfig says otherwise. Credentials are
// refused with [ErrInsecureAuth] over a connection that is neither TLS nor local (a
// loopback address, a Unix socket, a pipe), unless [Options].AllowInsecureAuth is set.
// [DialStartTLS] establishes TLS or fails. If data arrives ahead of the handshake, the
// connection is closed.
//
// Secrets passed to a call never appear in errors, in a [Trace], or in a printed [SASL]
// or [Client]. If the server repeats a secret in its answer to the login, it is masked if
// it has at least four octets; the beginning of a secret is masked if it has at least
// eight. Later replies are not searched. An argument that holds a control octet is
// refused, so that it cannot become a second command.
//
// What a server sends is limited: status lines and rows of listings to 2,048 octets,
// answers to CAPA and LANG to 64 KiB, answers to LIST and UIDL to 64 MiB and 4,194,304
// rows, SASL challenges to 64 KiB. Commands are limited to 4,096 octets and SASL
// responses to 64 KiB. A message has no limit unless [Options].MaxMessageSize sets one.
//
// # Concurrency
//
// A [Client] does one thing at a time. A call made while another call, a [Message] or a
// loop is unfinished returns [ErrBusy] at once, in the same goroutine or in another, and
// sends nothing. [Client.Close], [Client.Err], [Client.Greeting], [Client.LastReply] and
// [Client.TLSConnectionState] may be called at any time from any goroutine. Clients are
// independent of each other: use one for each maildrop.
//
// No goroutine outlives a call, or the [Message] or the loop that it returned.
//
// # What a server may get wrong
//
// The client tolerates what real servers send: status lines in upper or lower case and
// without text, lone-LF line ends, extra words, odd spaces, gaps in numbers, wrong sizes
// (they are never used for framing), dots that are not stuffed, no answer to QUIT if
// nothing is marked.
//
// Anything that could put client and server out of step closes the connection with
// [ErrMalformed] or [ErrTooLarge]: a reply that is neither +OK nor -ERR, data that no
// command asked for, an answer about the wrong message, a reply over a limit. To see the
// dialogue, set [Options].Trace to the result of [LogTrace].
//
// # Standards
//
// The package implements RFC 1939 (POP3), 2449 (CAPA, PIPELINING, response codes), 2595
// (STLS), 3206 (the codes AUTH and SYS), 5034 (AUTH), 6856 (UTF8, LANG) and 8314 (TLS
// from the start). The mechanisms of AUTH are those of RFC 2195 (CRAM-MD5), 4422
// (EXTERNAL), 4505 (ANONYMOUS), 4616 (PLAIN), 5802 and 7677 (SCRAM), 7628 (OAUTHBEARER),
// LOGIN and XOAUTH2; channel bindings are those of RFC 5929 and 9266.
//
// In FIPS 140-only mode (GODEBUG=fips140=only), APOP, CRAM-MD5 and SCRAM-SHA-1 return an
// error and send nothing, and [Client.Login] skips them if the server offers another
// method.
package pop3

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/textproto"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"example.com/pop3/internal/stream"
	"example.com/pop3/internal/wire"
)

// defaultTimeout is the default of Options.Timeout. Some servers take a minute to open a
// large maildrop; none seen takes two.
const defaultTimeout = 3 * time.Minute

// Options configures a [Client]. A nil *Options means the zero Options, which are ready
// to use. Options are copied and never modified.
type Options struct {
	// TLSConfig is the configuration for DialTLS, DialStartTLS and StartTLS. It is
	// cloned. Its ServerName defaults to the dialed host. If it is nil, the zero
	// tls.Config is used, which verifies the server against the system's roots.
	TLSConfig *tls.Config

	// Timeout is the longest wait for the connect, the TLS handshake, one line of a
	// reply, one write, or one read of message text. It does not limit the time that a
	// call takes in all; use the context for that. Zero means three minutes; a negative
	// value means no timeout.
	//
	// A call that times out returns a net.Error whose Timeout method returns true and
	// which matches os.ErrDeadlineExceeded; the connection is closed. If nothing is
	// marked for deletion, Quit returns nil in this case. After an early end of a loop,
	// only Client.Err reports it.
	Timeout time.Duration

	// Window is the maximum number of unanswered commands in RetrAll, TopAll and DeleAll.
	// Zero adapts it to the size of the messages; 1 sends each command after the reply to
	// the one before, in Messages too; a negative value is an error of Dial and
	// NewClient. Window matters only if the server lists PIPELINING (RFC 2449 section
	// 6.6). At most 16 KiB of commands are unanswered. If Window is zero and the server
	// announces EXPIRE 0, RetrAll sends nothing ahead (section 6.7).
	Window int

	// MaxMessageSize is the maximum number of octets in a message, as RETR or TOP
	// delivers it. Reading a larger message returns ErrTooLarge and closes the
	// connection, so skip what is too large by its size in the listing. Zero means no
	// limit; a negative value is an error of Dial and NewClient.
	MaxMessageSize int64

	// AllowInsecureAuth permits sending credentials over a connection that is neither TLS
	// nor local, where anyone on the network path can read them.
	AllowInsecureAuth bool

	// Trace watches the connection. See LogTrace and MultiTrace.
	Trace *Trace

	// DialContext makes the connections for Dial, DialTLS and DialStartTLS, for instance
	// through a proxy. network is "tcp", addr has a port, and ctx ends after Timeout. If
	// it is nil, a zero net.Dialer is used.
	//
	// DialTLS runs TLS over the connection that DialContext returns. If that is a
	// *tls.Conn, Dial treats it as TLS to the server, even if it ends at a proxy, and
	// allows credentials over it; DialStartTLS fails.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
}

// resolve returns a copy of the options with the defaults filled in.
func (o *Options) resolve() (*Options, error) {
	r := new(Options)
	if o != nil {
		*r = *o
	}
	switch {
	case r.Window < 0:
		return r, errors.New("pop3: Options.Window is negative")
	case r.MaxMessageSize < 0:
		return r, errors.New("pop3: Options.MaxMessageSize is negative")
	}
	r.Timeout = max(cmp.Or(r.Timeout, defaultTimeout), 0)
	r.TLSConfig = r.TLSConfig.Clone()
	if r.Trace == nil {
		r.Trace = &noTrace
	}
	return r, nil
}

// A Client is a connection to a POP3 server, made by [Dial], [DialTLS], [DialStartTLS] or
// [NewClient].
//
// It does one thing at a time: while a call, a [Message] or a loop is unfinished, all
// methods return [ErrBusy], except [Client.Close], [Client.Err], [Client.Greeting],
// [Client.LastReply] and [Client.TLSConnectionState], which may be called at any time
// from any goroutine.
type Client struct {
	opts       *Options       // resolved: Timeout 0 is none, Trace is never nil
	host       string         // what was dialed, or ""
	stream     *stream.Stream // its Conn is set under mu
	cancel     func()         // c.canceled, made once
	cancelDone chan struct{}  // one token for each run of cancel

	mu          sync.Mutex  // guards the following; who made busy true may read what only it writes without it
	err         error       // why the connection is unusable
	busy        bool        // an exchange holds the connection
	stop        func() bool // ends the watch on the context of the exchange; nil if there is none
	outstanding int         // commands that were sent and whose replies have not been read to the end
	op          op          // the newest command
	greeting    string
	reply       []byte // text of the newest status line

	text *textproto.Conn // R and W are lent from pools for an exchange
	exchange
	session

	body sync.Mutex // guards open and the Message it points to; taken before mu
	open *Message   // what is being read
}

// A session is what earlier commands mean for later ones.
type session struct {
	authenticated bool
	utf8          bool
	deletions     int    // DELE commands that a QUIT would commit
	offers        offers // of the newest CAPA since the state changed
	meanSize      int64  // octets of a message, by the newest STAT or LIST; 0 or less if unknown
}

type offers struct{ known, sasl, pipelining, expire0 bool }

// Dial connects to addr and reads the greeting. The connection is not encrypted: unless
// the server is local, call [Client.StartTLS] before logging in, or use [DialStartTLS] or
// [DialTLS]. The default port is 110. A host name that is not ASCII must be in its xn--
// form. (RFC 1939 sections 3 and 4.)
//
// If the server refuses in its greeting, the error is an [*Error] whose [Error].Command
// is "". If no greeting comes within [Options].Timeout, the server may expect TLS from
// the start, as servers do on port 995: use [DialTLS].
func Dial(ctx context.Context, addr string, opts *Options) (*Client, error) {
	return dial(ctx, addr, "110", opts, false)
}

// divert is set by the package's tests alone. It leads the connections of the examples to a
// server of the tests: they name the hosts, and the nil Options, that a user would.
var divert func(host string, o *Options)

func dial(ctx context.Context, addr, port string, opts *Options, implicitTLS bool) (*Client, error) {
	o, err := opts.resolve()
	if err != nil {
		return nil, err
	}
	if ctx == nil {
		return nil, errNilContext
	}
	host, addr := splitAddr(addr, port)
	if strings.ContainsFunc(host, func(r rune) bool { return r >= utf8.RuneSelf }) {
		return nil, &callError{op: opConnect, err: errors.New("the host name is not ASCII: write it in its xn-- form")}
	}
	if divert != nil {
		divert(host, o)
	}
	var config *tls.Config
	if implicitTLS {
		if config, err = o.tlsConfig(nil, host); err != nil {
			return nil, &callError{op: opConnect, err: err}
		}
	}
	conn, err := o.connect(ctx, addr)
	if err != nil {
		return nil, err
	}
	if implicitTLS {
		return newClient(ctx, tls.Client(conn, config), o, host)
	}
	c, err := newClient(ctx, conn, o, host)
	if _, isTLS := conn.(*tls.Conn); err != nil && !isTLS {
		err = noGreeting(addr, err)
	}
	return c, err
}

// noGreeting adds advice to the error of a server that said nothing: it may wait for the
// client to begin TLS.
func noGreeting(addr string, err error) error {
	advice := ""
	switch silent := stream.IsTimeout(err) || errors.Is(err, context.DeadlineExceeded); {
	case strings.HasSuffix(addr, ":995") && (silent || isLoss(err)):
		advice = "; port 995 expects DialTLS"
	case silent:
		advice = "; the port may expect DialTLS"
	default:
		return err
	}
	return &callError{op: opGreeting, text: "no complete greeting: " + detail(opGreeting, err) + advice, err: err}
}

// splitAddr returns the host of addr, and addr with a port.
func splitAddr(addr, defaultPort string) (host, hostport string) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil { // no port, or an IPv6 address without brackets
		host, port = strings.TrimSuffix(strings.TrimPrefix(addr, "["), "]"), ""
	}
	return host, net.JoinHostPort(host, cmp.Or(port, defaultPort))
}

// opConnect is what errors call the connect.
var opConnect = op{verb: "connect"}

const network = "tcp"

// connect connects to addr, between the hooks of Trace.
func (o *Options) connect(ctx context.Context, addr string) (net.Conn, error) {
	if f := o.Trace.ConnectStart; f != nil {
		f(ctx, network, addr)
	}
	conn, err := o.dial(ctx, addr)
	if f := o.Trace.ConnectDone; f != nil {
		f(ctx, network, addr, err)
	}
	return conn, err
}

func (o *Options) dial(ctx context.Context, addr string) (net.Conn, error) {
	dial := o.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	start := time.Now()
	dialCtx, cancel := ctx, func() {}
	if o.Timeout > 0 {
		dialCtx, cancel = context.WithTimeout(ctx, o.Timeout)
	}
	defer cancel()
	conn, err := dial(dialCtx, network, addr)
	switch {
	case err == nil && conn == nil:
		err = &callError{op: opConnect, err: errors.New("DialContext returned neither a connection nor an error")}
	case err == nil:
		return conn, nil
	case ctx.Err() != nil:
		err = newCanceledError(opConnect, ctx)
	case o.Timeout > 0 && (dialCtx.Err() != nil || stream.IsTimeout(err) && time.Since(start) >= o.Timeout):
		err = &timeoutError{opConnect, o.Timeout, err}
	default:
		err = &callError{op: opConnect, err: err}
	}
	return nil, err
}

// NewClient reads the greeting of the server at the other end of conn and returns a
// [Client] that owns conn. If it fails, it closes conn. If conn is a [*tls.Conn],
// NewClient performs the handshake. There is no dialed host, so [Client.StartTLS] needs a
// ServerName. If conn has no buffer, and is not a [net.Pipe], set [Options].Window to 1.
// (RFC 1939 sections 3 and 4.)
func NewClient(ctx context.Context, conn net.Conn, opts *Options) (*Client, error) {
	if conn == nil {
		return nil, errors.New("pop3: NewClient: conn is nil")
	}
	o, err := opts.resolve()
	if err == nil && ctx == nil {
		err = errNilContext
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return newClient(ctx, conn, o, "")
}

func newClient(ctx context.Context, conn net.Conn, o *Options, host string) (*Client, error) {
	c := &Client{opts: o, host: host, stream: stream.New(conn, o.Timeout), cancelDone: make(chan struct{}, 1)}
	c.cancel = c.canceled
	c.text = newText(conn)
	if err := c.greet(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// greet reads the greeting, after the handshake if the connection is TLS.
func (c *Client) greet(ctx context.Context) error {
	if err := c.begin(ctx, opGreeting); err != nil {
		return err
	}
	defer c.end()
	if err := c.expectReply(opGreeting); err != nil {
		return err
	}
	if conn, ok := c.stream.Conn.(*tls.Conn); ok {
		if err := c.handshake(conn, opGreeting); err != nil {
			return err
		}
	}
	text, _, err := c.status(opGreeting)
	if err == nil {
		err = c.arrived(opGreeting)
	}
	switch {
	case isRefusal(err): // as DavMail's, which has no server to ask
		err.(*Error).note = "; no login was tried"
		return err
	case err != nil:
		return withTLSAdvice(opGreeting, err) // TLS 1.3 tells now whether it wants a certificate
	}
	c.mu.Lock()
	c.greeting = string(text)
	c.mu.Unlock()
	return nil
}

// expectReply begins a wait that no command does. It fails if ctx was done before, when
// canceled had nothing to cancel.
func (c *Client) expectReply(o op) error {
	c.mu.Lock()
	c.outstanding = 1
	c.mu.Unlock()
	return c.alive(o)
}

// newText wraps conn. Its buffers are taken from a pool for each exchange.
func newText(conn net.Conn) *textproto.Conn {
	text := textproto.NewConn(conn)
	text.R, text.W = nil, nil
	return text
}

// Quit sends the QUIT command, at which the server deletes the messages that are marked
// by [Client.Dele], and closes the connection whatever the reply. It is valid in any
// state, and is the only method that deletes anything. So do not defer it: after a
// failure, a deferred Quit would delete what is marked so far. Defer [Client.Close], and
// call Quit at the end. (RFC 1939 sections 4 and 6.)
//
// If the server refuses ([*Error]), some of the marked messages were not deleted. If
// messages are marked and no reply comes, it is unknown whether they were deleted, and
// the error says so. If none is marked, it is no error if the server hangs up without a
// reply, or sends none within [Options].Timeout.
//
// If ctx is already done or the connection is busy ([ErrBusy]), nothing is sent and the
// connection is untouched.
func (c *Client) Quit(ctx context.Context) error {
	cmd := command{Verb: "QUIT"}
	if err := c.begin(ctx, opOf(&cmd)); err != nil {
		return err
	}
	defer c.end()
	marked := c.deletions > 0
	sent, err := c.quit(&cmd)
	switch {
	case err == nil || isRefusal(err):
		c.sayGoodbye()
	case marked && sent:
		text := "unknown whether the marked messages were deleted: " + detail(opOf(&cmd), err)
		return &callError{op: opOf(&cmd), text: text, err: err}
	case !marked && ctx.Err() == nil && isLoss(err): // nothing is lost with it: Mailutils may just hang up
		c.mu.Lock()
		c.err = ErrClosed
		c.mu.Unlock()
		return nil
	}
	return err
}

// quit sends QUIT and reads its reply. sent is false if nothing was written.
func (c *Client) quit(cmd *command) (sent bool, err error) {
	o := opOf(cmd)
	start := c.opts.Trace.commandStart(c.ctx, o)
	err = c.send(cmd)
	sent = c.outstanding > 0
	if err == nil {
		err = c.readFarewell(o)
	}
	c.opts.Trace.commandDone(c, o, start, 0, err)
	return sent, err
}

// readFarewell reads the reply to QUIT, whose line end may be missing. Anything after it is
// ignored.
func (c *Client) readFarewell(o op) error {
	c.stream.Await()
	line, _, err := wire.ReadLine(c.text.R, wire.MaxStatusLine)
	if err == io.ErrUnexpectedEOF {
		line, _ = c.text.R.Peek(c.text.R.Buffered())
		line = bytes.TrimSuffix(line, []byte("\r"))
		if status, _ := wire.ParseStatus(line); status == wire.OK || status == wire.Refused {
			err = nil
		}
	}
	if err != nil {
		return c.failWith(o, err, nil)
	}
	_, err = c.interpret(o, line)
	return err
}

// sayGoodbye closes the connection, with TLS's close_notify. For a peer that does not read
// crypto/tls would wait five seconds, so this counts as a wait for a reply, which ctx,
// Options.Timeout and Close can cut short.
func (c *Client) sayGoodbye() {
	c.expectReply(c.op)
	if timeout := c.opts.Timeout; timeout > 0 {
		aborted := make(chan struct{})
		timer := time.AfterFunc(timeout, func() {
			c.stream.Abort()
			close(aborted)
		})
		defer func() {
			if !timer.Stop() {
				<-aborted
			}
		}()
	}
	c.text.Close()
	c.mu.Lock()
	c.outstanding, c.err = 0, ErrClosed
	c.mu.Unlock()
}

// Close closes the connection without sending QUIT, so that the server keeps all messages
// (RFC 1939 section 6). It may be called from any goroutine at any time, and interrupts
// calls in other goroutines. A second call does nothing.
func (c *Client) Close() error {
	if c.stream == nil || !c.close() {
		return nil
	}
	return c.stream.Abort()
}

// close makes the connection unusable and reports whether it was usable.
func (c *Client) close() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return false
	}
	c.err = ErrClosed
	if c.stop != nil {
		// Otherwise the context would keep the Client of an abandoned Message alive.
		c.stop()
		c.stop = nil
	}
	return true
}

// Err returns why the connection is unusable: the first failure, or [ErrClosed] after
// [Client.Quit] or [Client.Close]. It returns nil while the connection is usable.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stream == nil {
		return ErrClosed
	}
	return c.err
}

// Greeting returns the text of the server's greeting without its status indicator, as the
// server sent it, control octets included. (RFC 1939 section 4.)
func (c *Client) Greeting() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.greeting
}

// LastReply returns the text of the latest status line without +OK or -ERR, as the server
// sent it, control octets included. Secrets are masked.
func (c *Client) LastReply() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.reply)
}

// secure reports whether credentials may be sent: under TLS, to a peer on this machine, or
// if AllowInsecureAuth is set. A proxy on this machine is not the peer, so the dialed
// host counts as well.
func (c *Client) secure() bool {
	if c.stream == nil || c.opts.AllowInsecureAuth { // begin reports a zero Client
		return true
	}
	if _, ok := c.TLSConnectionState(); ok {
		return true
	}
	if c.host != "" && !strings.EqualFold(c.host, "localhost") && !isLoopback(c.host) {
		return false
	}
	addr := c.stream.RemoteAddr()
	if addr == nil {
		return false
	}
	switch addr.Network() {
	case "unix", "unixpacket", "pipe":
		return true
	}
	host, _, err := net.SplitHostPort(addr.String())
	return err == nil && isLoopback(host)
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// A Trace watches a connection. Its hooks are called as things happen, by the goroutine
// that runs the call, with the context of the call. Any hook may be nil. Secrets are
// replaced by "***". A hook must not call the [Client], except for [Client.Close],
// [Client.Err], [Client.Greeting], [Client.LastReply] and [Client.TLSConnectionState]. If
// a hook or a [SASL] panics, CommandDone may not be called for the commands under way.
type Trace struct {
	// ConnectStart and ConnectDone are called before and after the connect of Dial,
	// DialTLS and DialStartTLS.
	ConnectStart func(ctx context.Context, network, addr string)
	ConnectDone  func(ctx context.Context, network, addr string, err error)

	// TLSHandshakeDone is called after a handshake, failed or not.
	TLSHandshakeDone func(ctx context.Context, state tls.ConnectionState, err error)

	// CommandStart is called before a command is sent. CommandDone is called when its
	// reply has been read; for a message, when its text has been read to the end. With
	// pipelining several commands start before the first is done. They are done in order.
	CommandStart func(ctx context.Context, info CommandInfo)
	CommandDone  func(ctx context.Context, info CommandInfo)

	// LineSent and LineReceived are called for every complete line of the dialogue,
	// without its line end, except message text. The rows of a listing are reported when
	// all of it has been read.
	LineSent     func(ctx context.Context, line string)
	LineReceived func(ctx context.Context, line string)
}

var noTrace Trace

// commandStart calls CommandStart, and returns the time if CommandDone will be called.
func (t *Trace) commandStart(ctx context.Context, o op) (start time.Time) {
	if t.CommandStart != nil {
		t.CommandStart(ctx, CommandInfo{Command: o.verb, Number: o.number})
	}
	if t.CommandDone != nil {
		start = time.Now()
	}
	return start
}

// commandDone calls CommandDone for a command of the exchange that c is in.
func (t *Trace) commandDone(c *Client, o op, start time.Time, octets int64, err error) {
	if t.CommandDone == nil {
		return
	}
	info := CommandInfo{Command: o.verb, Number: o.number, Bytes: octets, Elapsed: time.Since(start), Err: err}
	if c.replied {
		info.Reply = string(c.reply)
	}
	t.CommandDone(c.ctx, info)
}

func (t *Trace) lineReceived(ctx context.Context, line string) {
	if t.LineReceived != nil {
		t.LineReceived(ctx, line)
	}
}

// CommandInfo describes a command to a [Trace]. In [Trace].CommandStart only Command and
// Number are set.
type CommandInfo struct {
	Command string        // the verb
	Reply   string        // text of the status line, without +OK or -ERR; "" if there was none
	Number  int           // message number, or 0
	Bytes   int64         // octets of message text or listing rows read
	Elapsed time.Duration // since just before the command was sent
	Err     error
}

// LogTrace returns a [Trace] that logs to logger. It logs connects, handshakes and
// commands at [slog.LevelDebug], which is poplib's debug level 1, and each line of the
// dialogue except message text at slog.LevelDebug-4, poplib's level 2. Secrets are
// replaced by "***".
//
// If logger is nil, LogTrace uses [slog.Default], whose default level hides all of this.
// A [slog.LevelVar] in the logger's handler changes the level while a connection is in
// use.
func LogTrace(logger *slog.Logger) *Trace {
	if logger == nil {
		logger = slog.Default()
	}
	log := func(ctx context.Context, msg string, err error, attrs ...slog.Attr) {
		if err != nil {
			attrs = append(attrs, slog.Any("err", err))
		}
		logger.LogAttrs(ctx, slog.LevelDebug, msg, attrs...)
	}
	line := func(msg string) func(context.Context, string) {
		return func(ctx context.Context, line string) {
			logger.LogAttrs(ctx, slog.LevelDebug-4, msg, slog.String("line", line))
		}
	}
	return &Trace{
		ConnectDone: func(ctx context.Context, network, addr string, err error) {
			log(ctx, "pop3: connect", err, slog.String("network", network), slog.String("addr", addr))
		},
		TLSHandshakeDone: func(ctx context.Context, state tls.ConnectionState, err error) {
			log(ctx, "pop3: TLS handshake", err, slog.String("version", tls.VersionName(state.Version)),
				slog.String("cipher", tls.CipherSuiteName(state.CipherSuite)), slog.String("server", state.ServerName))
		},
		CommandDone: func(ctx context.Context, info CommandInfo) {
			log(ctx, "pop3: command", info.Err, slog.String("command", info.Command), slog.Int("number", info.Number),
				slog.String("reply", info.Reply), slog.Int64("bytes", info.Bytes), slog.Duration("elapsed", info.Elapsed))
		},
		LineSent:     line("pop3: sent"),
		LineReceived: line("pop3: received"),
	}
}

// MultiTrace returns a [Trace] that calls the hooks of each of the traces in order, for
// logs and metrics at once. Nil traces are skipped.
func MultiTrace(traces ...*Trace) *Trace {
	multi := new(Trace)
	for _, t := range traces {
		if t == nil {
			continue
		}
		multi = &Trace{
			ConnectStart:     both2(multi.ConnectStart, t.ConnectStart),
			ConnectDone:      both3(multi.ConnectDone, t.ConnectDone),
			TLSHandshakeDone: both2(multi.TLSHandshakeDone, t.TLSHandshakeDone),
			CommandStart:     both(multi.CommandStart, t.CommandStart),
			CommandDone:      both(multi.CommandDone, t.CommandDone),
			LineSent:         both(multi.LineSent, t.LineSent),
			LineReceived:     both(multi.LineReceived, t.LineReceived),
		}
	}
	return multi
}

// both, both2 and both3 return a hook that calls f and then g, or the one of them that is
// not nil.

func both[A any](f, g func(context.Context, A)) func(context.Context, A) {
	switch {
	case f == nil:
		return g
	case g == nil:
		return f
	}
	return func(ctx context.Context, a A) { f(ctx, a); g(ctx, a) }
}

func both2[A, B any](f, g func(context.Context, A, B)) func(context.Context, A, B) {
	switch {
	case f == nil:
		return g
	case g == nil:
		return f
	}
	return func(ctx context.Context, a A, b B) { f(ctx, a, b); g(ctx, a, b) }
}

func both3[A, B, C any](f, g func(context.Context, A, B, C)) func(context.Context, A, B, C) {
	switch {
	case f == nil:
		return g
	case g == nil:
		return f
	}
	return func(ctx context.Context, a A, b B, c C) { f(ctx, a, b, c); g(ctx, a, b, c) }
}
