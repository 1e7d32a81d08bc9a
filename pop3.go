// Package pop3 is a POP3 client (RFC 1939): it logs in to a server, lists the
// messages of a maildrop, fetches and deletes them.
//
// # First steps
//
// [DialTLS] connects, [Client.Login] logs in, [Client.ListAll] tells what there
// is, [Client.RetrAll] fetches it, [Client.Quit] ends the session:
//
//	c, err := pop3.DialTLS(ctx, "pop.example.com", nil)
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//	if err := c.Login(ctx, "ada", "tides"); err != nil {
//		return err
//	}
//	list, err := c.ListAll(ctx)
//	if err != nil {
//		return err
//	}
//	var numbers []int
//	for _, info := range list {
//		numbers = append(numbers, info.Number)
//	}
//	for m, err := range c.RetrAll(ctx, numbers) {
//		if err != nil {
//			return err
//		}
//		if _, err := m.WriteTo(w); err != nil {
//			return err
//		}
//	}
//	return c.Quit(ctx)
//
// [DialStartTLS] is for a server without a port of its own for TLS. Gmail and
// Exchange Online want [Client.Auth] with [XOAuth2Auth] in place of Login. A
// nil [*Options] is right for most. Whoever comes from Python's poplib finds a
// method for each of its own; README has the table.
//
// # States of a session
//
// A session begins in the AUTHORIZATION state, where StartTLS, UTF8 and the
// logins are valid: Login, Auth, APOP, RPOP, or User and then Pass. A login leads
// to the TRANSACTION state, where everything about messages is valid. Capa, Lang
// and LangAll are valid in both. The server holds the state and refuses what does
// not fit; only StartTLS is refused here.
//
// A message number is good for one session; numbers may have gaps. A unique-id
// ([Client.UIDLAll]) is good for the life of the message. The maildrop is locked
// while the session lasts on many servers, and shows no mail that comes in
// meanwhile.
//
// Dele only marks a message. Quit leads to the UPDATE state, in which the server
// deletes what is marked. A connection that ends otherwise, by [Client.Close], a
// failure or a canceled context, deletes nothing: Quit is the only method that
// sends QUIT. So the safe order is to store a message, to mark it, and to Quit;
// and to Close if anything went wrong.
//
// # Streaming
//
// Retr, Top and the loops over RetrAll and TopAll give a [Message], whose text is
// read from the connection as it comes and is never held in memory as a whole. It
// is delivered octet for octet: line ends, NUL and 8-bit octets are kept, the dots
// that the protocol adds are taken out.
//
// The connection is the Message's until Read has returned io.EOF or WriteTo nil,
// or until [Message.Close], which reads the rest and throws it away. To get rid
// of a large message without reading it, close the Client.
//
// # Pipelining
//
// RetrAll, TopAll and DeleAll send commands ahead of the replies if the server
// lists PIPELINING, and one at a time otherwise, with the same results. Replies
// are read in the loop; there is no goroutine behind it. Options.Window limits how
// many commands are ahead. Over a connection that holds nothing in between, such
// as a net.Pipe, it must be 1.
//
// Messages ahead of the loop count as retrieved for the server, and some servers
// delete at QUIT what was retrieved: after leaving a loop early, Close rather than
// Quit, or set Window to 1. Where a server announces that policy by EXPIRE 0, as
// Gmail does, RetrAll sends nothing ahead unless Window is more than 1. (RFC 2449
// sections 6.6 and 6.7.)
//
// # Errors
//
// After a call the connection is in one of three conditions. It is untouched: the
// arguments, the state of the Client or a context that was done already kept the
// call from sending anything. Or it is usable: the reply was read, and if it was
// -ERR the error is an [*Error] with a nil Err. Or it is closed: [Client.Err] tells
// why, and so does the error of every later call, which is [ErrClosed] besides.
//
//	var e *pop3.Error
//	switch {
//	case errors.Is(err, pop3.CodeAuth):     // wrong name, password or token
//	case errors.As(err, &e) && e.Temporary(): // in use, too soon, out of order: later
//	case errors.As(err, &e) && e.Err == nil:  // refused otherwise; e.Text is the reason
//	case errors.As(err, &e):                  // the server broke the protocol or hung up
//	default:                                  // a lost connection, a timeout, a context that is done, a misuse
//	}
//
// Response codes such as [CodeAuth] come from the server, and not all servers
// have them; without one a refusal is a refusal. Texts of servers may hold
// anything. Error prints them quoted and cut off, Error.Text and
// [Client.LastReply] have them as they came, but for secrets.
//
// # Cancellation and timeouts
//
// The context of a call bounds all of it, and the Message or the loop that it
// returned. If it is done before anything was sent, the connection is untouched.
// If it is done in the middle, the connection is closed, since what comes next
// would be taken for the reply to something else. The error is ctx.Err() and
// context.Cause(ctx) to [errors.Is].
//
// Options.Timeout bounds each wait for a sign of life: the connect, a reply line,
// a write, a read of a message. A slow but steady download passes it. The
// error is then a [net.Error] whose Timeout method returns true. [Client.Close]
// ends any wait at once.
//
// The server has a timeout too, of ten minutes or more (RFC 1939 section 3);
// [Client.Noop] starts it anew.
//
// # Security
//
// Certificates are verified unless Options.TLSConfig says otherwise. Credentials
// are refused with [ErrInsecureAuth] over a connection that is neither TLS nor
// local (a loopback address, a Unix socket, a pipe) unless
// Options.AllowInsecureAuth is set. DialStartTLS has TLS or fails, and what
// somebody sent ahead of the handshake closes the connection.
//
// No secret that a call was given is in an error, in what a [Trace] sees or in a
// printed [SASL], and where the server's answer to a login repeats it (four octets
// or more), it is masked. What a server says later is not searched for it. An
// argument that holds a control octet is refused, so that it cannot become a
// second command. What a server sends is bounded: status lines and rows of
// listings to 2,048 octets, CAPA and LANG answers to 64 KiB, LIST and UIDL answers
// to 64 MiB and 4,194,304 rows, SASL challenges to 64 KiB. A message has no bound
// unless Options.MaxMessageSize sets one.
//
// # Concurrency
//
// A Client does one thing at a time. A call while another, a Message or a loop is
// not finished returns [ErrBusy] at once, in the same goroutine or in another, and
// sends nothing. Close, Err, Greeting, LastReply and TLSConnectionState may be
// called at any time from anywhere. Clients share nothing that callers see: use
// one for each maildrop.
//
// No goroutine outlives a call, other than what watches the context of a Message
// or a loop that is not finished.
//
// # What a server may get wrong
//
// Much is taken as it comes, for there are servers that send it: status lines in
// any case and without text, lone-LF line ends, extra words, odd spaces, gaps in
// numbers, wrong sizes (which frame nothing here), unstuffed dots, no answer to
// QUIT if nothing was marked.
//
// What would leave the two sides to disagree on what answers what closes the
// connection with [ErrMalformed] or [ErrTooLarge]: a reply that is neither +OK nor
// -ERR, data that nothing had asked for, a row without its fields, an answer about
// another message. To see the dialogue, set Options.Trace to [LogTrace].
package pop3

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"net/textproto"
	"strings"
	"sync"
	"time"

	"example.com/pop3/internal/stream"
)

// defaultTimeout is Options.Timeout's: some servers take a minute to open a
// large maildrop, none two.
const defaultTimeout = 3 * time.Minute

// Options adjust a [Client]. A nil *Options is the zero Options, which is safe
// and complete. Options are copied and never modified.
type Options struct {
	// TLSConfig is the configuration of DialTLS, DialStartTLS and StartTLS. It is
	// cloned. Its ServerName defaults to the dialed host. nil is the zero
	// tls.Config, which verifies the server against the system's roots.
	TLSConfig *tls.Config

	// Timeout is the longest wait for the connect, the TLS handshake, one line
	// of a reply, one write, or one read of a message that yields nothing. It is
	// no limit on the time a call takes in all: that is the context's. 0 is 3
	// minutes, less than 0 is none. A call that it ends returns a net.Error
	// whose Timeout method returns true, and which is os.ErrDeadlineExceeded; the
	// connection is closed. Quit with nothing to delete returns nil then, and
	// where a loop is left early only Client.Err tells.
	Timeout time.Duration

	// Window is the most commands of RetrAll, TopAll and DeleAll that are
	// unanswered at a time. 0 adapts to the size of the messages, 1 sends each
	// after the reply to the one before; less than 0 is an error of Dial and
	// NewClient. It matters only if the server lists PIPELINING (RFC 2449 section
	// 6.6). Never are more than 16 KiB of commands unanswered, and with 0 and
	// EXPIRE 0 RetrAll sends none ahead (section 6.7).
	Window int

	// MaxMessageSize is the most octets of one message, as RETR or TOP delivers
	// it. One more closes the connection with ErrTooLarge. 0 is no limit; less than
	// 0 is an error of Dial and NewClient.
	MaxMessageSize int64

	// AllowInsecureAuth permits sending credentials over a connection that is
	// neither TLS nor local: whoever is on the way can read them.
	AllowInsecureAuth bool

	// Trace watches the connection. See LogTrace.
	Trace *Trace

	// DialContext connects Dial, DialTLS and DialStartTLS, through a proxy for
	// instance. network is "tcp", addr has a port, ctx ends when Timeout is
	// over. DialTLS does TLS over what it returns. To Dial and DialStartTLS a
	// connection that is TLS already, if only to a proxy, is TLS to the server:
	// Dial lets credentials pass, DialStartTLS fails. nil is that of a zero
	// net.Dialer.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
}

// resolve copies the options and puts the defaults in.
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
	if r.TLSConfig != nil {
		r.TLSConfig = r.TLSConfig.Clone()
	}
	if r.Trace == nil {
		r.Trace = &noTrace
	}
	return r, nil
}

// A Client is a connection to a POP3 server, made by [Dial], [DialTLS],
// [DialStartTLS] or [NewClient].
//
// It does one thing at a time: while a call, a [Message] or a loop is not
// finished, all methods return [ErrBusy] but Close, Err, Greeting, LastReply and
// TLSConnectionState, which may be called at any time and from any goroutine.
type Client struct {
	opts       *Options       // resolved: Timeout 0 is none, Trace is never nil
	host       string         // what was dialed, or ""
	stream     *stream.Stream // its Conn is set under mu
	cancel     func()         // c.canceled, made once
	cancelDone chan struct{}  // one token for each run of cancel

	mu          sync.Mutex  // guards the following; who made busy true may read stream.Conn, outstanding and reply without it
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
	deletions     int  // DELE commands that a QUIT would commit
	knowsCapa     bool // CAPA was answered since the state changed, and so:
	pipelining    bool
	expire0       bool
}

// Dial connects to addr and reads the greeting. The connection is not encrypted:
// unless the server is local, call StartTLS before logging in, or use
// [DialStartTLS] or [DialTLS]. The port is 110 if addr has none.
//
// A server that refuses in its greeting is an *[Error] with Command "". One that
// says nothing until Options.Timeout is over may want TLS from the start, as on
// port 995. (RFC 1939 sections 3 and 4.)
func Dial(ctx context.Context, addr string, opts *Options) (*Client, error) {
	return dial(ctx, addr, "110", opts, false)
}

func dial(ctx context.Context, addr, port string, opts *Options, implicitTLS bool) (*Client, error) {
	o, err := opts.resolve()
	if err != nil {
		return nil, err
	}
	if ctx == nil {
		return nil, errNilContext
	}
	host, addr := splitAddr(addr, port)
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
		conn = tls.Client(conn, config)
	}
	return newClient(ctx, conn, o, host)
}

// splitAddr is the host of addr, and addr with a port.
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
		leaked := conn
		defer func() {
			if leaked != nil { // the hook panicked
				leaked.Close()
			}
		}()
		f(ctx, network, addr, err)
		leaked = nil
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

// NewClient reads the greeting of the server at the other end of conn. The
// Client owns conn, which is closed if NewClient fails. A *tls.Conn does its
// handshake here at the latest. StartTLS needs a ServerName then, since nothing
// was dialed. Over a conn that holds nothing that is not being read, such as a
// [net.Pipe], set Options.Window to 1. (RFC 1939 sections 3 and 4.)
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

// greet reads the greeting, behind the handshake if the connection is TLS.
func (c *Client) greet(ctx context.Context) error {
	if err := c.begin(ctx, op{}); err != nil {
		return err
	}
	defer c.end()
	c.mu.Lock()
	c.outstanding = 1
	c.mu.Unlock()
	if conn, ok := c.stream.Conn.(*tls.Conn); ok {
		if err := c.handshake(conn, op{}); err != nil {
			return err
		}
	}
	text, _, err := c.status(op{})
	if err != nil {
		return err
	}
	c.arrived()
	c.mu.Lock()
	c.greeting = string(text)
	c.mu.Unlock()
	return nil
}

// newText wraps conn. The buffers come from a pool for each exchange.
func newText(conn net.Conn) *textproto.Conn {
	text := textproto.NewConn(conn)
	text.R, text.W = nil, nil
	return text
}

// Quit sends the QUIT command, which makes the server delete what was marked with
// Dele, and closes the connection whatever the reply. It is valid in any state; it
// is the only method that deletes anything. A refusal (*[Error]) means that some
// deletions were not done. Where messages are marked for deletion and no reply
// came, nobody knows whether they were deleted, and the error says so; with none
// marked, a server that closes without a reply, or gives none within
// Options.Timeout, is no error.
//
// If ctx is done or the connection busy (ErrBusy), nothing is written and the
// connection is as it was. (RFC 1939 sections 4 and 6.)
func (c *Client) Quit(ctx context.Context) error {
	cmd := command{Verb: "QUIT"}
	if err := c.begin(ctx, opOf(&cmd)); err != nil {
		return err
	}
	defer c.end()
	marked := c.deletions > 0
	err := c.roundTrip(&cmd, nil)
	switch {
	case err == nil || isRefusal(err):
		if c.close() {
			c.text.Close() // the one place where TLS says goodbye: its peer reads
		}
	case marked && c.outstanding > 0: // QUIT was sent
		return &callError{op: opOf(&cmd), text: "not known whether the messages marked were deleted: " +
			strings.TrimPrefix(unprefixed(err), cmd.Verb+": "), err: err}
	case !marked && c.ctx.Err() == nil && !errors.Is(err, ErrClosed) && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge):
		// The connection is lost and nothing with it: Mailutils may just hang up.
		c.mu.Lock()
		c.err = ErrClosed
		c.mu.Unlock()
		return nil
	}
	return err
}

// Close closes the connection without a word, so that the server deletes
// nothing. It may be called from any goroutine at any time, and what waits for
// the server in another one then returns. A second call does nothing.
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
		// A message that nobody reads on would keep the Client for as long as
		// the context lives.
		c.stop()
		c.stop = nil
	}
	return true
}

// Err tells why the connection is unusable: the first failure, or ErrClosed
// after Quit or Close. It is nil while the connection is usable.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stream == nil {
		return ErrClosed
	}
	return c.err
}

// Greeting is the text of the server's greeting, without its status indicator. It
// is what the server sent, control octets included. (RFC 1939 section 4.)
func (c *Client) Greeting() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.greeting
}

// LastReply is the text of the newest status line, without +OK or -ERR. It is
// what the server sent, control octets included, but for secrets, which are
// masked.
func (c *Client) LastReply() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.reply)
}

// secure reports whether credentials may be sent: under TLS, to a peer on this
// machine, or because the caller says so. A proxy on this machine is not the
// peer, so what was dialed counts too.
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

// A Trace watches a connection: its hooks are called as things happen, by the
// goroutine that runs the call, with the call's context. Any may be nil. None
// sees what was sent as a secret: it is "***". A hook must not call the Client,
// but for Close, Err, Greeting, LastReply and TLSConnectionState.
type Trace struct {
	// ConnectStart and ConnectDone surround the connect of Dial, DialTLS and
	// DialStartTLS.
	ConnectStart func(ctx context.Context, network, addr string)
	ConnectDone  func(ctx context.Context, network, addr string, err error)

	// TLSHandshakeDone is called after the handshake, failed or not.
	TLSHandshakeDone func(ctx context.Context, state tls.ConnectionState, err error)

	// CommandStart is called before a command is sent, CommandDone when its
	// reply has been read, or a message to its end. With pipelining, several
	// commands start before the first is done; they are done in order.
	CommandStart func(ctx context.Context, info CommandInfo)
	CommandDone  func(ctx context.Context, info CommandInfo)

	// LineSent and LineReceived are called for every line of the dialogue,
	// without its line end, but not for the text of messages. The rows of a
	// listing come when all of it has been read.
	LineSent     func(ctx context.Context, line string)
	LineReceived func(ctx context.Context, line string)
}

var noTrace Trace

// commandStart calls CommandStart, and returns the time if CommandDone will be
// called.
func (t *Trace) commandStart(ctx context.Context, o op) (start time.Time) {
	if t.CommandStart != nil {
		t.CommandStart(ctx, CommandInfo{Command: o.verb, Number: o.number})
	}
	if t.CommandDone != nil {
		start = time.Now()
	}
	return start
}

func (t *Trace) lineReceived(ctx context.Context, line string) {
	if t.LineReceived != nil {
		t.LineReceived(ctx, line)
	}
}

// CommandInfo is what a [Trace] learns of a command. CommandStart gets Command
// and Number alone.
type CommandInfo struct {
	Command string        // the verb
	Reply   string        // text of the status line, without +OK or -ERR; "" if there was none
	Number  int           // message number, or 0
	Bytes   int64         // octets of message text or of listing rows that were read
	Elapsed time.Duration // since the command was sent
	Err     error
}

// LogTrace is a Trace that logs to logger (nil is slog.Default(), which shows
// none of it at its default level): commands, connects and handshakes at
// slog.LevelDebug, which is poplib's debug level 1, and each line of the
// dialogue but message text at slog.LevelDebug-4, poplib's level 2. Secrets are
// "***". A slog.LevelVar in the logger's handler changes the level of a
// connection that is in use.
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
