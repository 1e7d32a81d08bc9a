package pop3

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"time"
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
	config, err := c.opts.tlsConfig(config, c.host)
	if err != nil {
		return &callError{verb: cmd.Verb, err: err}
	}
	if err := c.begin(ctx, cmd.Verb); err != nil {
		return err
	}
	defer c.end()
	_, isTLS := c.TLSConnectionState()
	switch {
	case isTLS:
		return &callError{verb: cmd.Verb, err: errors.New("the connection is under TLS already")}
	case c.authenticated:
		return &callError{verb: cmd.Verb, err: errors.New("not valid after login")}
	case c.utf8:
		return &callError{verb: cmd.Verb, err: errors.New("not valid after UTF8")}
	}
	caps, err := c.capa()
	switch {
	case err == nil && !caps.Has(cmd.Verb):
		return &callError{verb: cmd.Verb, text: "the server does not offer it; DialTLS may work, on port 995", err: ErrUnsupported}
	case err != nil && !isRefusal(err):
		return err
	}
	return c.startTLS(&cmd, config)
}

func (c *Client) startTLS(cmd *command, config *tls.Config) (err error) {
	start := c.traceStart(cmd)
	defer c.traceDone(cmd.Verb, cmd.Number(), start, new(int64), &err)
	if err := c.send(cmd); err != nil {
		return err
	}
	if _, _, err := c.status(cmd.Verb, 0); err != nil {
		if isRefusal(err) {
			c.arrived()
		}
		return err
	}
	if c.text.R.Buffered() > 0 {
		// Whoever put it there wants it to be taken for a reply under TLS.
		return c.broken(cmd.Verb, 0, unsolicited("behind the reply, before TLS"), nil)
	}
	conn := tls.Client(c.conn, config)
	if err := c.handshake(conn, cmd.Verb); err != nil {
		return err
	}
	c.mu.Lock()
	c.conn = conn
	c.mu.Unlock()
	r, w := c.text.R, c.text.W // they read and write c.conn, whatever it is
	c.text = newText(conn)
	c.text.R, c.text.W = r, w
	c.knowsCapa = false
	c.arrived()
	return nil
}

// tlsConfig is config, or else the options', with a server name.
func (o *Options) tlsConfig(config *tls.Config, host string) (*tls.Config, error) {
	if config == nil {
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

// handshake does the handshake of conn, which is over c.raw.
func (c *Client) handshake(conn *tls.Conn, verb string) error {
	if timeout := c.opts.Timeout; timeout > 0 {
		c.armed = time.Now().Add(timeout)
		c.raw.SetDeadline(c.armed)
	}
	err := conn.HandshakeContext(c.ctx)
	if err != nil {
		err = c.handshakeError(verb, err)
	}
	if f := c.opts.Trace.TLSHandshakeDone; f != nil {
		f(c.ctx, conn.ConnectionState(), err)
	}
	return err
}

func (c *Client) handshakeError(verb string, err error) error {
	during := commandName(verb, 0) + ": TLS handshake"
	switch {
	case c.ctx.Err() != nil:
		return c.fail(verb, newCanceledError(verb, c.ctx))
	case isTimeout(err):
		return c.broken(during, 0, err, nil)
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		closed := &Error{Command: verb, Err: io.ErrUnexpectedEOF}
		return c.fail(during, &callError{verb: during, text: "server closed the connection", err: closed})
	}
	return c.fail(during, &callError{verb: during, err: err})
}

// TLSConnectionState is the state of TLS, for its certificates or for
// [SCRAMSHA256PlusAuth]; ok is false if the connection has none.
func (c *Client) TLSConnectionState() (state tls.ConnectionState, ok bool) {
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if t, ok := conn.(interface{ ConnectionState() tls.ConnectionState }); ok {
		return t.ConnectionState(), true
	}
	return state, false
}
