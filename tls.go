package pop3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"example.com/pop3/internal/stream"
	"example.com/pop3/internal/wire"
)

// DialTLS connects to addr with TLS from the first octet, as RFC 8314 section 3.3
// recommends, and reads the greeting. The default port is 995. Errors of crypto/tls and
// crypto/x509 are wrapped: [errors.As] finds x509.HostnameError,
// x509.UnknownAuthorityError and the like.
func DialTLS(ctx context.Context, addr string, opts *Options) (*Client, error) {
	return dial(ctx, addr, "995", opts, true)
}

// DialStartTLS connects like [Dial] and then calls [Client.StartTLS] (RFC 2595). The
// default port is 110. It never continues without TLS: if the server does not offer STLS,
// DialStartTLS closes the connection and returns [ErrUnsupported].
func DialStartTLS(ctx context.Context, addr string, opts *Options) (*Client, error) {
	c, err := Dial(ctx, addr, opts)
	if err != nil {
		return nil, err
	}
	if err := c.StartTLS(ctx, nil); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// StartTLS sends the STLS command and performs the TLS handshake (RFC 2595 section 4). If
// config is nil, it is [Options].TLSConfig; if its ServerName is empty, it is the dialed
// host. StartTLS is valid before login, and before [Client.UTF8] (RFC 6856 section 2.1).
//
// StartTLS sends CAPA first. If the server does not list STLS, the error is
// [ErrUnsupported]; if it refuses CAPA, STLS is sent anyway. If the server refuses STLS
// ([*Error]), the connection is usable and not encrypted. If the handshake fails, the
// connection is closed, and [errors.As] finds the error of crypto/tls or crypto/x509.
func (c *Client) StartTLS(ctx context.Context, config *tls.Config) error {
	cmd := command{Verb: "STLS"}
	o := opOf(&cmd)
	config, err := c.opts.tlsConfig(config, c.host)
	if err != nil {
		return &callError{op: o, err: err}
	}
	if err := c.begin(ctx, o); err != nil {
		return err
	}
	defer c.end()
	_, isTLS := c.TLSConnectionState()
	switch {
	case isTLS:
		return &callError{op: o, err: errors.New("the connection uses TLS already")}
	case c.authenticated:
		return &callError{op: o, err: errors.New("not valid after login")}
	case c.utf8:
		return &callError{op: o, err: errors.New("not valid after UTF8")}
	}
	caps, err := c.capaFirst()
	switch {
	case err != nil:
		return err
	case caps != nil && !caps.Has(cmd.Verb):
		return &callError{op: o, text: "the server does not offer it; DialTLS may work, on port 995", err: ErrUnsupported}
	}
	return c.startTLS(&cmd, config)
}

func (c *Client) startTLS(cmd *command, config *tls.Config) error {
	o := opOf(cmd)
	start := c.opts.Trace.commandStart(c.ctx, o)
	err := c.send(cmd)
	if err == nil {
		_, _, err = c.status(o)
	}
	if err == nil {
		err = c.beginTLS(o, config)
	}
	c.opts.Trace.commandDone(c, o, start, 0, err)
	return err
}

// beginTLS puts TLS over the connection, within an exchange.
func (c *Client) beginTLS(o op, config *tls.Config) error {
	if c.text.R.Buffered() > 0 {
		// An attacker may have injected it, to be read as a reply under TLS.
		return c.failWith(o, fmt.Errorf("%w: unsolicited data after the reply, before TLS", ErrMalformed), nil)
	}
	conn := tls.Client(c.stream.Conn, config)
	if err := c.handshake(conn, o); err != nil {
		return err
	}
	c.mu.Lock()
	c.stream.Conn = conn
	c.mu.Unlock()
	r, w := c.text.R, c.text.W // they read and write the stream, whatever its Conn
	c.text = newText(conn)
	c.text.R, c.text.W = r, w
	c.offers = offers{}
	return c.arrived(o)
}

// tlsConfig returns a copy of config, or of the options' if it is nil, with a server
// name.
func (o *Options) tlsConfig(config *tls.Config, host string) (*tls.Config, error) {
	if config == nil && o != nil { // nil for a zero Client, which begin reports
		config = o.TLSConfig
	}
	if config == nil {
		config = new(tls.Config)
	} else {
		config = config.Clone()
	}
	if config.ServerName == "" {
		config.ServerName = host
	}
	if config.ServerName == "" && !config.InsecureSkipVerify {
		return nil, errors.New("no server name to verify: set ServerName in the tls.Config")
	}
	return config, nil
}

// handshake performs the TLS handshake of conn, which is the stream's Conn or wraps it.
func (c *Client) handshake(conn *tls.Conn, o op) error {
	err := c.stream.Limit()
	if err == nil {
		err = conn.HandshakeContext(c.ctx)
	}
	if err != nil {
		err = c.handshakeError(o, err)
	}
	if f := c.opts.Trace.TLSHandshakeDone; f != nil {
		f(c.ctx, conn.ConnectionState(), err)
	}
	return err
}

func (c *Client) handshakeError(o op, err error) error {
	switch {
	case c.ctx.Err() != nil:
		return c.fail(o, newCanceledError(o, c.ctx))
	case stream.IsTimeout(err):
		return c.failWith(o, fmt.Errorf("TLS handshake: %w", err), nil)
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		closed := &Error{Command: o.verb, Err: io.ErrUnexpectedEOF}
		return c.fail(o, &callError{op: o, text: "TLS handshake: server closed the connection", err: closed})
	}
	return c.fail(o, withTLSAdvice(o, fmt.Errorf("TLS handshake: %w", err)))
}

// withTLSAdvice adds to an error of TLS what to do about it, if that is known.
func withTLSAdvice(o op, err error) error {
	return &callError{op: o, text: detail(o, err) + tlsAdvice(o, err), err: err}
}

func tlsAdvice(o op, err error) string {
	var (
		record    tls.RecordHeaderError
		authority x509.UnknownAuthorityError
		alert     *net.OpError
	)
	if o == opGreeting && errors.As(err, &record) {
		if status, _ := wire.ParseStatus(record.RecordHeader[:]); status != wire.Malformed {
			return "; the server answered in the clear: use DialStartTLS, or Dial, for this port"
		}
	}
	switch {
	case errors.As(err, &authority) && authority.Cert != nil:
		return fmt.Sprintf("; the issuer is %q: if you trust it, add its certificate to TLSConfig.RootCAs", authority.Cert.Issuer.String())
	case strings.Contains(err.Error(), "unsupported protocol version"):
		return "; set TLSConfig.MinVersion to allow it"
	case !errors.As(err, &alert) || alert.Op != "remote error":
		return ""
	}
	const handshakeFailure, protocolVersion, certificateRequired = tls.AlertError(40), tls.AlertError(70), tls.AlertError(116)
	switch alert.Err.Error() {
	case handshakeFailure.Error():
		return "; if the server has RSA key exchange only, list its cipher suites in TLSConfig.CipherSuites; " +
			"if it wants a client certificate, set TLSConfig.Certificates"
	case protocolVersion.Error():
		return "; if the server has no TLS 1.2, set TLSConfig.MinVersion to allow an older version"
	case certificateRequired.Error():
		return "; set TLSConfig.Certificates"
	}
	return ""
}

// TLSConnectionState returns the state of the TLS connection, for instance for its
// certificates or for [SCRAMSHA256PlusAuth]. ok is false if the connection does not use
// TLS.
func (c *Client) TLSConnectionState() (state tls.ConnectionState, ok bool) {
	if c.stream == nil {
		return state, false
	}
	c.mu.Lock()
	conn := c.stream.Conn
	c.mu.Unlock()
	if t, ok := conn.(interface{ ConnectionState() tls.ConnectionState }); ok {
		return t.ConnectionState(), true
	}
	return state, false
}
