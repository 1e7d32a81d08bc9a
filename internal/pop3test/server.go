// Package pop3test provides a POP3 server for tests, in the manner of
// net/http/httptest, a [Script] that plays a recorded dialogue and checks the
// client's side of it, and an in-memory [Pipe] to run either of them on.
//
// A [Server] keeps its maildrops in memory and speaks the whole protocol:
// RFC 1939, the capabilities of RFC 2449, STLS (RFC 2595), AUTH (RFC 5034),
// UTF8 and LANG (RFC 6856). On a [Pipe], by [Server.ServeConn], it runs under
// the fake clock of testing/synctest.
package pop3test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Server is a POP3 server on a loopback port of the machine, or on any
// connection given to ServeConn.
//
// Its fields must not be changed once the server is started or has served a
// connection. What NewUnstartedServer sets is the most capable server.
type Server struct {
	// Addr is the host and port of the server, set by Start.
	Addr string

	// Listener is where Start accepts connections; nil is a free port of
	// the loopback interface.
	Listener net.Listener

	// TLS is the configuration of STLS and StartTLS. NewUnstartedServer sets
	// it to one with a certificate for localhost, 127.0.0.1, ::1 and
	// example.com, valid from 1970 to 2099, that verifies client
	// certificates made by ClientCertificate. One without a certificate is
	// given that certificate; nil turns STLS off.
	TLS *tls.Config

	// Greeting is the text behind "+OK " of the greeting, before the
	// timestamp of APOP. "" is a text that names this package.
	Greeting string

	// Disable names commands and capabilities, in capitals, that the server
	// neither lists nor has, any command among them: "CAPA", "APOP" (and with
	// it the greeting's timestamp), "USER" (and PASS), "SASL" (and AUTH),
	// "STLS", "TOP", "UIDL", "UTF8", "LANG", "RESP-CODES" and
	// "AUTH-RESP-CODE" (codes are sent all the same), "PIPELINING" (a client
	// that sends a command before it has the last reply gets -ERR and is
	// disconnected).
	Disable []string

	// Capabilities edits the rows of a CAPA reply, if not nil.
	Capabilities func(rows []string, loggedIn, secure bool) []string

	// Implementation, Expire and LoginDelay are the arguments of those
	// capabilities (RFC 2449 section 6), listed if not zero. LoginDelay is
	// enforced, with the code LOGIN-DELAY.
	Implementation string
	Expire         string
	LoginDelay     time.Duration

	// Mechanisms are the SASL mechanisms, in capitals, to offer where they fit
	// the connection; nil is all that this package knows: the four of SCRAM
	// (-PLUS under TLS), CRAM-MD5, PLAIN, LOGIN, XOAUTH2, OAUTHBEARER,
	// EXTERNAL (if the client has shown a certificate) and ANONYMOUS (if
	// there is a user of that name).
	Mechanisms []string

	// Iterations is the SCRAM iteration count; 0 is 4096.
	Iterations int

	// RequireTLS refuses every login without TLS. Otherwise passwords and
	// tokens are taken in clear from local clients only.
	RequireTLS bool

	// Intercept, if not nil, is called with each command line, before the
	// server acts on it and in the goroutine of the session. If ok is true
	// the reply, octet for octet, is all that happens; behind one that ends in
	// HangUp the session ends. What a client sends within an AUTH exchange is no
	// command.
	Intercept func(line string) (reply string, ok bool)

	mu        sync.Mutex
	users     map[string]*Maildrop
	conns     map[net.Conn]bool // the raw ones, of sessions that run
	accepting bool
	closed    bool
	ended     *sync.Cond // signals that one of these has ended
}

// HangUp ends a reply of Server.Intercept behind which the server is to hang
// up.
const HangUp = "\x00hang up"

// NewServer starts a server in clear, which offers STLS. The caller should
// call Close when finished.
func NewServer() *Server {
	s := NewUnstartedServer()
	s.Start()
	return s
}

// NewTLSServer starts a server with implicit TLS (RFC 8314 section 3.3). The
// caller should call Close when finished.
func NewTLSServer() *Server {
	s := NewUnstartedServer()
	s.StartTLS()
	return s
}

// NewUnstartedServer returns a server to be configured and then started by
// Start or StartTLS, or used through ServeConn alone.
func NewUnstartedServer() *Server {
	return &Server{TLS: ServerTLS(), Implementation: "pop3test"}
}

// Start starts the server in clear. It panics if it cannot listen.
func (s *Server) Start() {
	s.start(func(conn net.Conn) net.Conn { return conn })
}

// StartTLS starts the server with implicit TLS. It panics if it cannot listen.
func (s *Server) StartTLS() {
	config := s.tlsConfig()
	s.start(func(conn net.Conn) net.Conn { return tls.Server(conn, config) })
}

func (s *Server) start(wrap func(net.Conn) net.Conn) {
	if s.Addr != "" {
		panic("pop3test: server already started")
	}
	if s.Listener == nil {
		var err error
		if s.Listener, err = Listen(); err != nil {
			panic(fmt.Sprintf("pop3test: cannot listen on a loopback port: %v", err))
		}
	}
	s.Addr = s.Listener.Addr().String()
	s.mu.Lock()
	s.accepting = true
	s.mu.Unlock()
	go func() {
		defer s.over(func() { s.accepting = false })
		for {
			conn, err := s.Listener.Accept()
			if err != nil {
				return
			}
			if s.track(conn) {
				go func() {
					defer s.untrack(conn)
					s.serve(wrap(conn))
				}()
			}
		}
	}()
}

// over notes the end of a goroutine that Close waits for.
func (s *Server) over(note func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	note()
	if s.ended != nil {
		s.ended.Broadcast()
	}
}

// Listen listens on a free port of the loopback interface.
func Listen() (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		l, err = net.Listen("tcp6", "[::1]:0")
	}
	return l, err
}

// Close stops listening, cuts off every session, without committing
// deletions, and waits until all of them have ended.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.Listener != nil {
		s.Listener.Close()
	}
	for conn := range s.conns {
		conn.Close()
	}
	if s.ended == nil {
		s.ended = sync.NewCond(&s.mu)
	}
	for s.accepting || len(s.conns) > 0 {
		s.ended.Wait()
	}
}

// ServeConn runs one session on conn, in the caller's goroutine, and closes
// conn at its end. A [tls.Conn] of the server side, such as
// tls.Server(conn, s.TLS), is a session under implicit TLS.
func (s *Server) ServeConn(conn net.Conn) {
	raw := rawConn(conn)
	if s.track(raw) {
		defer s.untrack(raw)
		s.serve(conn)
	}
}

// rawConn is what carries conn. Closing a tls.Conn may wait for its peer.
func rawConn(conn net.Conn) net.Conn {
	if t, ok := conn.(*tls.Conn); ok {
		return t.NetConn()
	}
	return conn
}

// track reports whether a session may run on conn, and closes it otherwise.
func (s *Server) track(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		conn.Close()
		return false
	}
	if s.conns == nil {
		s.conns = make(map[net.Conn]bool)
	}
	s.conns[conn] = true
	return true
}

func (s *Server) untrack(conn net.Conn) {
	conn.Close()
	s.over(func() { delete(s.conns, conn) })
}

// CertPool returns a pool that trusts the server's certificates.
func (s *Server) CertPool() *x509.CertPool {
	pool := testAuthority().Pool()
	if s.TLS != nil {
		for _, c := range s.TLS.Certificates {
			if leaf, err := x509.ParseCertificate(c.Certificate[0]); err == nil {
				pool.AddCert(leaf)
			}
		}
	}
	return pool
}

// ClientTLS returns a configuration for clients that trusts the server's
// certificates, as those of "localhost".
func (s *Server) ClientTLS() *tls.Config {
	return &tls.Config{RootCAs: s.CertPool(), ServerName: "localhost"}
}

func (s *Server) tlsConfig() *tls.Config {
	if s.TLS == nil {
		return ServerTLS()
	}
	config := s.TLS.Clone()
	if len(config.Certificates) == 0 && config.GetCertificate == nil && config.GetConfigForClient == nil {
		config.Certificates = ServerTLS().Certificates
	}
	return config
}

// AddUser adds a maildrop with the messages given; see [Maildrop.Add] for
// these. It replaces one of the same name. The user "anonymous" is the one of
// the ANONYMOUS mechanism.
func (s *Server) AddUser(name, password string, messages ...string) *Maildrop {
	d := newMaildrop(name, password)
	d.Add(messages...)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users == nil {
		s.users = make(map[string]*Maildrop)
	}
	s.users[name] = d
	return d
}

func (s *Server) user(name string) *Maildrop {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.users[name]
}

func (s *Server) disabled(name string) bool {
	return slices.Contains(s.Disable, name) || name == "APOP" && !MD5Allowed()
}

var greetings atomic.Int64

// timestamp returns the banner of a session, different for each (RFC 1939
// section 7).
func timestamp() string {
	return fmt.Sprintf("<%d.%d@pop3test>", greetings.Add(1), time.Now().UnixNano())
}

// serve runs one session and closes conn.
func (s *Server) serve(conn net.Conn) {
	c := &session{srv: s, conn: conn, raw: rawConn(conn)}
	defer c.end()
	if t, ok := conn.(*tls.Conn); ok {
		if t.HandshakeContext(context.Background()) != nil {
			return
		}
		c.setTLS(t)
	}
	c.startReading()
	greeting := s.Greeting
	if greeting == "" {
		greeting = "pop3test ready"
	}
	if !s.disabled("APOP") {
		c.banner = timestamp()
		greeting = strings.TrimLeft(greeting+" "+c.banner, " ")
	}
	c.ok(greeting)
	for !c.done {
		line, err := c.readLine(maxCommand)
		switch {
		case err == errLineTooLong:
			c.refuse("", "Command too long")
		case err != nil:
			return
		case s.disabled("PIPELINING") && c.in.buffered():
			c.refuse("", "Pipelining is not available")
			return
		default:
			c.command(line)
		}
	}
}
