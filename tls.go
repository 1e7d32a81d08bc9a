package pop3

import (
	"context"
	"crypto/tls"
	"errors"
	"io"

	"example.com/pop3/internal/stream"
)

// DialTLS connects to addr with TLS from the first octet, as RFC 8314 section
// 3.3 recommends, and reads the greeting. The port is 995 if addr has none.
// [errors.As] finds the causes of crypto/tls and crypto/x509 in the error, such as
// x509.HostnameError and x509.UnknownAuthorityError.
func DialTLS(ctx context.Context, addr string, opts *Options) (*Client, error) {
	return dial(ctx, addr, "995", opts, true)
}

// DialStartTLS is [Dial] and [Client.StartTLS], by RFC 2595. The port is 110 if
// addr has none. It never goes on without TLS: if the server does not offer it,
// the error is ErrUnsupported and the connection closed.
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

// StartTLS sends STLS and does the TLS handshake (RFC 2595 section 4). A nil
// config is Options.TLSConfig; a ServerName that is empty is the dialed host.
// It is valid before login, and before UTF8 (RFC 6856 section 2.1).
//
// CAPA is sent first: a server that does not list STLS there is ErrUnsupported,
// and one that refuses CAPA is asked for STLS all the same. After a refusal
// (*[Error]) the connection is usable and not encrypted. After a handshake that
// failed the connection is closed; [errors.As] finds the error of crypto/tls or
// crypto/x509 that caused it.
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
		return &callError{op: o, err: errors.New("the connection is under TLS already")}
	case c.authenticated:
		return &callError{op: o, err: errors.New("not valid after login")}
	case c.utf8:
		return &callError{op: o, err: errors.New("not valid after UTF8")}
	}
	caps, err := c.capa()
	switch {
	case err == nil && !caps.Has(cmd.Verb):
		return &callError{op: o, text: "the server does not offer it; DialTLS may work, on port 995", err: ErrUnsupported}
	case err != nil && !isRefusal(err):
		return err
	}
	return c.startTLS(&cmd, config)
}

func (c *Client) startTLS(cmd *command, config *tls.Config) (err error) {
	o := opOf(cmd)
	start := c.opts.Trace.commandStart(c.ctx, o)
	defer func() { c.traceDone(o, start, 0, err) }()
	if err := c.send(cmd); err != nil {
		return err
	}
	if _, _, err := c.status(o); err != nil {
		return err
	}
	if c.text.R.Buffered() > 0 {
		// Whoever put it there wants it to be taken for a reply under TLS.
		return c.failWith(o, unsolicited("behind the reply, before TLS"), nil)
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
	c.knowsCapa = false
	c.arrived()
	return nil
}

// tlsConfig is config, or else the options', with a server name.
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

// handshake does the TLS handshake of conn, which is over the stream's Conn or is
// it.
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
	during := op{verb: o.String() + ": TLS handshake"}
	switch {
	case c.ctx.Err() != nil:
		return c.fail(o, newCanceledError(o, c.ctx))
	case stream.IsTimeout(err):
		return c.failWith(during, err, nil)
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		closed := &Error{Command: o.verb, Err: io.ErrUnexpectedEOF}
		return c.fail(during, &callError{op: during, text: "server closed the connection", err: closed})
	}
	return c.fail(during, &callError{op: during, err: err})
}

// TLSConnectionState is the state of TLS, for its certificates or for
// [SCRAMSHA256PlusAuth]; ok is false if the connection has none.
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
