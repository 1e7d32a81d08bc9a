package pop3test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Conn is a net.Conn that keeps what is written to it, and some of whose methods a test
// replaces: those whose function is not nil.
type Conn struct {
	net.Conn
	ReadFunc        func(p []byte) (int, error)
	WriteFunc       func(p []byte) (int, error)
	CloseFunc       func() error
	SetDeadlineFunc func(t time.Time) error
	RemoteAddrFunc  func() net.Addr

	mu     sync.Mutex
	sent   []byte
	closed bool
}

func (c *Conn) Read(p []byte) (int, error) {
	if c.ReadFunc != nil {
		return c.ReadFunc(p)
	}
	return c.Conn.Read(p)
}

func (c *Conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.sent = append(c.sent, p...)
	c.mu.Unlock()
	if c.WriteFunc != nil {
		return c.WriteFunc(p)
	}
	return c.Conn.Write(p)
}

func (c *Conn) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	if c.CloseFunc != nil {
		return c.CloseFunc()
	}
	return c.Conn.Close()
}

func (c *Conn) SetDeadline(t time.Time) error {
	if c.SetDeadlineFunc != nil {
		return c.SetDeadlineFunc(t)
	}
	return c.Conn.SetDeadline(t)
}

func (c *Conn) RemoteAddr() net.Addr {
	if c.RemoteAddrFunc != nil {
		return c.RemoteAddrFunc()
	}
	return c.Conn.RemoteAddr()
}

// NetConn is here because wrappers other than tls.Conn have it too. Nothing may look
// through it.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// Sent returns what has been written since the last call.
func (c *Conn) Sent() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := string(c.sent)
	c.sent = nil
	return s
}

// Closed reports whether Close has been called.
func (c *Conn) Closed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// A TLSConn is TLS of another make than crypto/tls.
type TLSConn struct{ net.Conn }

// ConnectionState returns the state of a connection of TLS 1.3 and nothing more.
func (TLSConn) ConnectionState() tls.ConnectionState {
	return tls.ConnectionState{Version: tls.VersionTLS13, HandshakeComplete: true}
}

// An Addr is any net.Addr.
type Addr struct{ Net, Name string }

func (a Addr) Network() string { return a.Net }
func (a Addr) String() string  { return a.Name }

// Elsewhere is an address on another machine.
var Elsewhere net.Addr = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 110}

// ErrReset is what a Read or Write returns when the peer has reset the connection. (On
// some systems package syscall has no ECONNRESET.)
var ErrReset error = &net.OpError{Op: "read", Net: "tcp", Err: errors.New("connection reset by peer")}

// DialTo returns a DialContext that returns conn.
func DialTo(conn net.Conn) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) { return conn, nil }
}

// Replies are a server's replies, octet for octet, by the verb that they answer. The
// reply to any other verb is Replies[""], or if there is none "+OK".
type Replies map[string]string

// Pipelining is a reply to CAPA.
const Pipelining = "+OK\r\nPIPELINING\r\n.\r\n"

// Answer returns the reply to a line.
func (r Replies) Answer(line string) string { return r.answer([]byte(line)) }

func (r Replies) answer(line []byte) string {
	verb, _, _ := bytes.Cut(line, []byte(" "))
	if reply, ok := r[string(verb)]; ok {
		return reply
	}
	if reply, ok := r[""]; ok {
		return reply
	}
	return "+OK\r\n"
}

// A Tape is the client's end of a connection without a network and without a goroutine:
// each line that is written is answered at once. What is not there by then never comes,
// and reads as the end. A reply that ends in HangUp is the last: what is written behind
// it is not answered.
type Tape struct {
	Replies                          // the replies, unless Answer is set
	Answer  func(line string) string // octet for octet
	Size    func(read int) int       // of the next piece to be read, if so much has been; nil is all there is

	line   []byte   // that has not ended yet
	queue  []string // to be read
	read   int
	hungUp bool
	closed atomic.Bool // by any goroutine; all else is for one
}

// NewTape returns a Tape that begins with a greeting.
func NewTape(greeting string, answer func(line string) string) *Tape {
	return &Tape{Answer: answer, queue: []string{greeting}}
}

func (t *Tape) Write(p []byte) (int, error) {
	if t.closed.Load() {
		return 0, net.ErrClosed
	}
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			t.line = append(t.line, p...)
			break
		}
		line := p[:i+1]
		if len(t.line) > 0 {
			t.line = append(t.line, line...)
			line = t.line
		}
		t.answer(bytes.TrimRight(line, "\r\n"))
		t.line, p = t.line[:0], p[i+1:]
	}
	return n, nil
}

func (t *Tape) answer(line []byte) {
	if t.hungUp {
		return
	}
	var reply string
	if t.Answer != nil {
		reply = t.Answer(string(line))
	} else {
		reply = t.Replies.answer(line)
	}
	reply, t.hungUp = strings.CutSuffix(reply, HangUp)
	t.queue = append(t.queue, reply)
}

func (t *Tape) Read(p []byte) (n int, err error) {
	if t.closed.Load() {
		return 0, net.ErrClosed
	}
	if t.Size != nil {
		p = p[:min(len(p), max(1, t.Size(t.read)))]
	}
	for n < len(p) && len(t.queue) > 0 {
		k := copy(p[n:], t.queue[0])
		n += k
		if t.queue[0] = t.queue[0][k:]; t.queue[0] == "" {
			t.queue = slices.Delete(t.queue, 0, 1) // keeps the array: a Tape allocates nothing in the long run
		}
	}
	t.read += n
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (t *Tape) Close() error                     { t.closed.Store(true); return nil }
func (t *Tape) Closed() bool                     { return t.closed.Load() }
func (t *Tape) LocalAddr() net.Addr              { return pipeAddr{} }
func (t *Tape) RemoteAddr() net.Addr             { return pipeAddr{} }
func (t *Tape) SetDeadline(time.Time) error      { return nil }
func (t *Tape) SetReadDeadline(time.Time) error  { return nil }
func (t *Tape) SetWriteDeadline(time.Time) error { return nil }

// A Peer is a server that answers each line as the test says.
type Peer struct {
	conn  net.Conn
	mu    sync.Mutex
	lines []string
	done  chan struct{}
}

// NewPeer starts a Peer, which sends a greeting and then answers each line with what
// answer returns, octet for octet. It stops behind a reply that ends in HangUp, and when
// the client has gone.
func NewPeer(conn net.Conn, greeting string, answer func(line string) string) *Peer {
	p := &Peer{conn: conn, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		defer conn.Close()
		if _, err := io.WriteString(conn, greeting); err != nil {
			return
		}
		for r := bufio.NewReader(conn); ; {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			line = strings.TrimSuffix(line, "\r\n")
			p.mu.Lock()
			p.lines = append(p.lines, line)
			p.mu.Unlock()
			reply, last := strings.CutSuffix(answer(line), HangUp)
			if _, err := io.WriteString(conn, reply); err != nil || last {
				return
			}
		}
	}()
	return p
}

// Lines returns the lines that have come so far.
func (p *Peer) Lines() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.lines)
}

// Wait waits until the connection is closed by either side.
func (p *Peer) Wait() { <-p.done }

// Stop closes the connection and waits for the end of the Peer.
func (p *Peer) Stop() {
	p.conn.Close()
	<-p.done
}

// Start plays the script on a [Pipe] and returns the client's end. wait closes that and
// returns the result of Serve.
func (s *Script) Start() (client net.Conn, wait func() error) {
	client, server := Pipe()
	played := make(chan error, 1)
	go func() { played <- s.Serve(server) }()
	return client, sync.OnceValue(func() error {
		client.Close()
		return <-played
	})
}

// A SASL is a mechanism that a test makes up. It has the methods of pop3.SASL and no more.
type SASL struct {
	Mech      string
	IR        []byte
	Err       error                                  // of Start
	StartFunc func()                                 // is called by Start, if not nil
	Responses []string                               // to the challenges in turn; a further one is an error
	Respond   func(challenge []byte) ([]byte, error) // in place of Responses, if not nil

	Challenges []string // that have come
}

func (s *SASL) Start() (mech string, ir []byte, err error) {
	if s.StartFunc != nil {
		s.StartFunc()
	}
	return s.Mech, s.IR, s.Err
}

func (s *SASL) Next(challenge []byte) (response []byte, err error) {
	n := len(s.Challenges)
	s.Challenges = append(s.Challenges, string(challenge))
	switch {
	case s.Respond != nil:
		return s.Respond(challenge)
	case n >= len(s.Responses):
		return nil, errors.New("no response is left")
	}
	return []byte(s.Responses[n]), nil
}

// A FinishingSASL is a SASL that has the last word.
type FinishingSASL struct {
	SASL
	FinishFunc func() error
}

func (s *FinishingSASL) Finish() error { return s.FinishFunc() }

// A WriterFunc is a function as an io.Writer.
type WriterFunc func(p []byte) (int, error)

func (f WriterFunc) Write(p []byte) (int, error) { return f(p) }

// Numbers returns 1 to n.
func Numbers(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i + 1
	}
	return list
}
