package pop3

import (
	"bytes"
	"cmp"
	"context"
	"crypto/md5"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.com/pop3/internal/sasl"
	"example.com/pop3/internal/stream"
	"example.com/pop3/internal/wire"
)

// User sends the USER command, the first half of a login with name and password. It is
// valid before login. If the server refuses, the error is an [*Error]; but a server may
// also accept a name that it does not know. (RFC 1939 section 7.)
//
// Like every method that sends credentials, User returns [ErrInsecureAuth] if the
// connection is neither TLS nor local. A name that is not ASCII is sent as UTF-8, whether
// or not the server announces UTF8 USER.
func (c *Client) User(ctx context.Context, username string) error {
	cmd := &command{Verb: "USER", Args: []string{username}}
	if err := c.guard(cmd, checkName(username)); err != nil {
		return err
	}
	return c.do(ctx, cmd, nil)
}

// Pass sends the PASS command. It is valid right after [Client.User]. If the server
// refuses, the error is an [*Error], with [CodeAuth], [CodeInUse], [CodeLoginDelay] or
// [CodeSysTemp] if the server says why. After a refusal many servers close the
// connection, or delay the answer to the next attempt. (RFC 1939 section 7.)
func (c *Client) Pass(ctx context.Context, password string) error {
	cmd := &command{Verb: "PASS", Args: []string{password}, Secret: true}
	if err := c.guard(cmd, wire.CheckArg("password", password)); err != nil {
		return err
	}
	return c.logIn(ctx, cmd, password)
}

// RPOP sends the RPOP command, a login that trusts the client's address. It was in RFC
// 1081, and a few servers still support it. It is valid before login. If the server
// refuses, the error is an [*Error].
func (c *Client) RPOP(ctx context.Context, username string) error {
	cmd := &command{Verb: "RPOP", Args: []string{username}}
	if err := c.guard(cmd, checkName(username)); err != nil {
		return err
	}
	return c.logIn(ctx, cmd)
}

// APOP logs in with the APOP command: it sends an MD5 digest of the timestamp in the
// server's greeting and a secret that both sides know. It is valid before login. (RFC
// 1939 section 7.)
//
// If the greeting has no timestamp, the error is [ErrUnsupported]. If it has one, the
// server may still not support APOP; some servers then close the connection. MD5 is
// broken: APOP is better than a password in the clear, and no more than that.
func (c *Client) APOP(ctx context.Context, username, secret string) error {
	timestamp := wire.Timestamp(c.Greeting())
	sum := md5.New()
	_, fips := io.WriteString(sum, timestamp+secret) // fails in FIPS 140-only mode, where Sum panics
	cmd := &command{Verb: "APOP", Args: []string{username}, Secret: true}
	if err := c.guard(cmd, cmp.Or(checkName(username), wire.CheckArg("secret", secret), fips)); err != nil {
		return err
	}
	digest := hex.EncodeToString(sum.Sum(nil))
	cmd.Args = append(cmd.Args, digest)
	if err := c.begin(ctx, opOf(cmd)); err != nil {
		return err
	}
	defer c.end()
	if timestamp == "" {
		return &callError{op: opOf(cmd), text: "the greeting has no timestamp", err: ErrUnsupported}
	}
	return c.sendSecret(cmd, digest, secret)
}

// checkName checks a user name. Mailpit hangs up on an empty one.
func checkName(username string) error {
	if username == "" {
		return errors.New("the user name is empty")
	}
	return wire.CheckArg("user name", username)
}

// guard returns why a command that holds credentials must not be sent. If bad, what is
// wrong with them, is not nil, it is returned first.
func (c *Client) guard(cmd *command, bad error) error {
	switch bad = cmp.Or(bad, cmd.Check()); {
	case bad != nil:
		return &callError{op: opOf(cmd), err: bad}
	case !c.secure():
		return &callError{op: opOf(cmd), err: ErrInsecureAuth}
	}
	return nil
}

// logIn sends a command that logs in, as an exchange of its own.
func (c *Client) logIn(ctx context.Context, cmd *command, secrets ...string) error {
	if err := c.begin(ctx, opOf(cmd)); err != nil {
		return err
	}
	defer c.end()
	return c.sendSecret(cmd, secrets...)
}

// sendSecret sends a command that logs in, within an exchange. Whatever repeats the
// secrets is masked.
func (c *Client) sendSecret(cmd *command, secrets ...string) error {
	c.secrets = sasl.NewSecrets(secrets...)
	return c.roundTrip(cmd, func([]byte) error { c.loggedIn(); return nil })
}

// loggedIn notes that the session is in the TRANSACTION state, in which CAPA may be
// answered differently.
func (c *Client) loggedIn() { c.authenticated, c.offers = true, offers{} }

// A SASL is the client side of a SASL mechanism (RFC 4422), for [Client.Auth]. It has the
// method set of the Client interface of emersion/go-sasl, whose mechanisms can be used as
// they are. A value must not be used for two exchanges at once.
//
// If the value also has a method Finish() error, [Client.Auth] calls it when the server
// reports success. If Finish returns an error, for instance because the server has not
// proved its identity, the connection is closed.
type SASL interface {
	// Start begins an exchange. It returns the name of the mechanism and the initial
	// response. A nil response means that there is none; an empty one is sent.
	Start() (mech string, ir []byte, err error)

	// Next returns the response to a challenge. An error cancels the exchange.
	Next(challenge []byte) (response []byte, err error)
}

// PlainAuth returns the PLAIN mechanism (RFC 4616), which sends the password. identity is
// the authorization identity, usually "".
func PlainAuth(identity, username, password string) SASL {
	return sasl.Plain(identity, username, password)
}

// LoginAuth returns the LOGIN mechanism, which sends the password like PLAIN. It has no
// RFC (draft-murchison-sasl-login).
func LoginAuth(username, password string) SASL { return sasl.Login(username, password) }

// CRAMMD5Auth returns the CRAM-MD5 mechanism (RFC 2195). The secret is not sent, but an
// eavesdropper can try passwords offline.
func CRAMMD5Auth(username, secret string) SASL { return sasl.CRAMMD5(username, secret) }

// SCRAMSHA1Auth returns the SCRAM-SHA-1 mechanism (RFC 5802). The password is not sent,
// and the server must prove that it knows it. SASLprep is not applied: a password that is
// not ASCII is used as UTF-8, unnormalized.
func SCRAMSHA1Auth(username, password string) SASL { return sasl.SCRAMSHA1(username, password) }

// SCRAMSHA256Auth returns the SCRAM-SHA-256 mechanism (RFC 7677). Apart from the hash it
// is like [SCRAMSHA1Auth].
func SCRAMSHA256Auth(username, password string) SASL { return sasl.SCRAMSHA256(username, password) }

// SCRAMSHA1PlusAuth returns the SCRAM-SHA-1-PLUS mechanism: [SCRAMSHA1Auth] bound to the
// TLS connection with the given state (see [Client.TLSConnectionState]), so that a man in
// the middle cannot relay the login. The channel binding is tls-exporter under TLS 1.3
// (RFC 9266) and tls-unique (RFC 5929) under TLS 1.2, where a resumed session must use
// the extended master secret. Cyrus 3.6 offers the mechanism and then refuses
// tls-exporter.
func SCRAMSHA1PlusAuth(username, password string, state tls.ConnectionState) SASL {
	return sasl.SCRAMSHA1Plus(username, password, state)
}

// SCRAMSHA256PlusAuth returns the SCRAM-SHA-256-PLUS mechanism (RFC 7677). Apart from the
// hash it is like [SCRAMSHA1PlusAuth].
func SCRAMSHA256PlusAuth(username, password string, state tls.ConnectionState) SASL {
	return sasl.SCRAMSHA256Plus(username, password, state)
}

// XOAuth2Auth returns the XOAUTH2 mechanism of Gmail and Exchange Online, which sends an
// OAuth 2.0 access token. It has no RFC. If the server refuses the token, the text of the
// error holds the status that the server gave.
func XOAuth2Auth(username, token string) SASL { return sasl.XOAuth2(username, token) }

// OAuthBearerAuth returns the OAUTHBEARER mechanism (RFC 7628), the standard form of
// [XOAuth2Auth].
func OAuthBearerAuth(username, token string) SASL { return sasl.OAuthBearer(username, token) }

// ExternalAuth returns the EXTERNAL mechanism (RFC 4422 appendix A): the server
// identifies the client by its TLS certificate. identity is the authorization identity,
// usually "".
func ExternalAuth(identity string) SASL { return sasl.External(identity) }

// AnonymousAuth returns the ANONYMOUS mechanism (RFC 4505). trace identifies the user to
// the server, for instance by a mail address; it may be empty. If it has more than 255
// characters or is not UTF-8, [Client.Auth] fails.
func AnonymousAuth(trace string) SASL { return sasl.Anonymous(trace) }

// Auth sends the AUTH command and logs in with a SASL mechanism (RFC 5034). It is valid
// before login. If the server refuses, the error is an [*Error]. If s returns an error,
// the exchange is canceled. In both cases the connection is usable, and another mechanism
// may be tried, unless the server hangs up.
//
// The initial response is sent with the command if the server has listed SASL in an
// answer to CAPA, which Auth does not ask for, and the line has at most 128 octets with
// its line end. Otherwise, and always with XOAUTH2 and OAUTHBEARER, it is sent in a line
// of its own, as Exchange Online requires.
func (c *Client) Auth(ctx context.Context, s SASL) error {
	cmd := &command{Verb: "AUTH"}
	if s == nil {
		return &callError{op: opOf(cmd), err: errors.New("SASL is nil")}
	}
	if err := c.guard(cmd, nil); err != nil {
		return err
	}
	if err := c.begin(ctx, opOf(cmd)); err != nil {
		return err
	}
	defer c.end()
	return c.authenticate(&authentication{sasl: s})
}

// maxChallenges is how many challenges an exchange may have. The longest known, that of
// GSSAPI, has about four.
const maxChallenges = 32

// An authentication is an exchange of AUTH.
type authentication struct {
	sasl       SASL
	op         op     // with the mechanism
	ir         []byte // the initial response, or nil
	inline     bool   // ir was sent with the command
	challenges int    // that have come
	sent       int    // responses that were asked for, not counting one that was sent again
}

// authenticate does the work of Auth, within an exchange.
func (c *Client) authenticate(a *authentication) error {
	cmd, err := c.startAuth(a)
	if err != nil {
		return err
	}
	start := c.opts.Trace.commandStart(c.ctx, a.op)
	if err = c.send(cmd); err == nil {
		err = c.converse(a)
	}
	c.opts.Trace.commandDone(c, a.op, start, 0, err)
	return err
}

// converse answers challenges until the server ends the exchange.
func (c *Client) converse(a *authentication) error {
	for {
		challenge, done, err := c.challenge(a.op)
		switch {
		case err != nil:
			return a.explain(err)
		case done:
			return c.accepted(a)
		}
		n := a.sent
		response, err := a.respondTo(challenge)
		if err == nil {
			err = checkResponse(response)
		}
		if err != nil {
			return c.cancelAuth(a.op, err)
		}
		c.secrets.AddResponse(a.op.mech, n, response)
		if err := c.respond(a.op, response); err != nil {
			return err
		}
	}
}

// startAuth starts the mechanism and returns the AUTH command.
func (c *Client) startAuth(a *authentication) (*command, error) {
	a.op = op{verb: "AUTH"}
	mech, ir, err := a.sasl.Start()
	if err == nil && !sasl.IsName(mech) {
		err = errors.New("invalid mechanism name")
	}
	if err == nil {
		a.op.mech, a.ir = mech, ir
		err = checkResponse(ir)
	}
	if err != nil {
		return nil, &callError{op: a.op, err: err}
	}
	c.secrets = sasl.NewSecrets()
	cmd := &command{Verb: a.op.verb, Args: []string{mech}}
	if ir == nil {
		return cmd, nil
	}
	c.secrets.AddResponse(mech, 0, ir)
	inline := &command{Verb: a.op.verb, Args: []string{mech, "="}, Secret: true} // RFC 5034 section 4: empty
	if len(ir) > 0 {
		inline.Args[1] = base64.StdEncoding.EncodeToString(ir)
	}
	// RFC 5034 section 3: servers without SASL in CAPA know RFC 1734's AUTH alone, which
	// has no initial response. Twisted hangs up on one.
	if c.offers.sasl && inline.Len() <= sasl.ShortLine && !sasl.IsBearer(mech) {
		a.inline, a.sent = true, 1
		return inline, nil
	}
	return cmd, nil
}

// checkResponse checks the length of a SASL response.
func checkResponse(response []byte) error {
	if base64.StdEncoding.EncodedLen(len(response)) > wire.MaxResponse {
		return fmt.Errorf("%w: SASL response of more than %d octets", ErrTooLarge, wire.MaxResponse)
	}
	return nil
}

// respondTo returns the response to a challenge, which is still encoded.
func (a *authentication) respondTo(encoded []byte) ([]byte, error) {
	a.challenges++
	switch {
	case a.challenges > maxChallenges:
		return nil, fmt.Errorf("%w: more than %d challenges", ErrTooLarge, maxChallenges)
	case a.sent == 0 && a.ir != nil: // this asks for it, whatever it says
		a.sent++
		return a.ir, nil
	case a.inline && a.challenges == 1 && len(encoded) == 0 && sasl.IsClientFirst(a.op.mech):
		return a.ir, nil // the server took no initial response
	}
	// RFC 5034 section 4: no octet is ignored, which encoding/base64 does with CR.
	challenge, err := base64.StdEncoding.AppendDecode(nil, encoded)
	if err != nil || bytes.IndexByte(encoded, '\r') >= 0 {
		return nil, fmt.Errorf("%w: a challenge is not base64", ErrMalformed)
	}
	a.sent++
	return a.sasl.Next(challenge)
}

// explain adds to a refusal what the server said about a bearer token. With IN-USE and the
// like it was not refused.
func (a *authentication) explain(err error) error {
	b, ok := a.sasl.(sasl.Bearer)
	if !ok || a.sent == 0 || !isRefusal(err) {
		return err
	}
	refused := err.(*Error)
	switch status := b.Status(); {
	case status != "":
		refused.note = "; the token was refused with status " + quote(status)
	case !refused.Temporary() && !refused.Is(CodeSys):
		refused.note = "; the token was refused"
	}
	return refused
}

// accepted ends an exchange of AUTH that the server has ended with +OK.
func (c *Client) accepted(a *authentication) error {
	if a.sent == 0 {
		return c.failWith(a.op, fmt.Errorf("%w: the server reported success before any response was sent", ErrMalformed), nil)
	}
	if f, ok := a.sasl.(interface{ Finish() error }); ok {
		if err := f.Finish(); err != nil {
			return c.fail(a.op, &callError{op: a.op, err: err})
		}
	}
	if err := c.settled(a.op); err != nil {
		return err
	}
	c.loggedIn()
	return nil
}

// respond sends a response in a SASL exchange.
func (c *Client) respond(o op, response []byte) error {
	return c.sendLine(o, base64.StdEncoding.EncodeToString(response), wire.Mask)
}

// cancelSASL cancels a SASL exchange (RFC 5034 section 4).
func (c *Client) cancelSASL(o op) error { return c.sendLine(o, "*", "*") }

// sendLine sends a line that is no command. Trace gets shown instead.
func (c *Client) sendLine(o op, line, shown string) error {
	c.text.W.WriteString(line) // which fmt would keep a copy of
	c.text.W.WriteString("\r\n")
	if err := c.flush(o, true); err != nil {
		return err
	}
	if f := c.opts.Trace.LineSent; f != nil {
		f(c.ctx, shown)
	}
	return nil
}

// cancelAuth cancels an exchange of AUTH because of cause. The error is cause, and also
// why the server did not agree, if it did not.
func (c *Client) cancelAuth(o op, cause error) error {
	err := c.cancelSASL(o)
	if err == nil {
		var done bool
		if _, done, err = c.challenge(o); done && isRefusal(err) {
			return &callError{op: o, err: cause}
		}
	}
	if err == nil {
		err = c.failWith(o, fmt.Errorf("%w: the server continued after the exchange was canceled", ErrMalformed), nil)
	}
	return &callError{op: o, text: unprefixed(cause) + "; then " + detail(o, err), err: errors.Join(err, cause)}
}

// Login sends CAPA and logs in with the first of these methods that the server lists:
// SCRAM-SHA-256, SCRAM-SHA-1, CRAM-MD5, PLAIN, LOGIN, USER and PASS; under TLS, CRAM-MD5
// comes after LOGIN. It is valid before login.
//
// If the server refuses, the error is an [*Error] that matches [ErrRefused]. Its text
// names the method, and what else the server offers. Login tries a password only once,
// since servers lock users out. But if the server refuses a method before anything
// derived from the password was sent, as Dovecot refuses SCRAM to users whose stored hash
// cannot serve it, Login goes on to PLAIN, LOGIN or USER and PASS, unless
// [Error.Temporary] returns true. Some proxies do not accept lines of more than 128
// octets: if PLAIN or LOGIN would need one, Login prefers a later method that does not.
//
// If the server offers none of these methods, or none without TLS, the error is
// [ErrUnsupported]. Login never uses APOP, channel binding or OAuth; see [Client.APOP]
// and [Client.Auth]. If a server mishandles CAPA, use [Client.User] and [Client.Pass],
// which send nothing else.
func (c *Client) Login(ctx context.Context, username, password string) error {
	pass := &command{Verb: "PASS", Args: []string{password}, Secret: true}
	user := &command{Verb: "USER", Args: []string{username}}
	if err := c.guard(pass, wire.CheckArg("password", password)); err != nil && !errors.Is(err, ErrInsecureAuth) {
		return err
	}
	if err := c.guard(user, checkName(username)); err != nil {
		return err
	}
	login := op{verb: "login"}
	if err := c.begin(ctx, login); err != nil {
		return err
	}
	defer c.end()
	caps, err := c.capaFirst()
	if isLoss(err) || errors.Is(err, context.DeadlineExceeded) {
		text := unprefixed(err) + " (Login sends CAPA first; User and Pass do not)"
		return &callError{op: login, text: text, err: err}
	} else if err != nil {
		return err
	}
	_, isTLS := c.TLSConnectionState()
	needsTLS := caps.Has("STLS") && !isTLS // WildDuck lists nothing else before TLS
	methods := sasl.Methods(caps.SASL(), caps.Has("USER") || !caps.Has("SASL") && !needsTLS, isTLS)
	switch {
	case len(methods) > 0:
		return c.loginWith(methods, caps, user, pass)
	case needsTLS:
		return &callError{op: login, text: "the server offers no login without TLS: use StartTLS or DialStartTLS", err: ErrUnsupported}
	}
	return &callError{op: login, text: "the server offers no login method that Login supports; try Auth", err: ErrUnsupported}
}

// An attempt is a try at logging in.
type attempt struct {
	method   *sasl.Method
	answered bool // the server has answered its first command
	spent    bool // something derived from the password was sent, or USER was refused
	err      error
}

// try logs in with one method.
func (c *Client) try(m *sasl.Method, user, pass *command) *attempt {
	mechanism := m.New(user.Args[0], pass.Args[0])
	if mechanism == nil {
		if err := c.roundTrip(user, nil); err != nil {
			return &attempt{method: m, answered: c.replied, spent: true, err: err}
		}
		return &attempt{method: m, answered: true, spent: true, err: c.sendSecret(pass, pass.Args[0])}
	}
	a := &authentication{sasl: mechanism}
	err := c.authenticate(a)
	return &attempt{method: m, answered: c.replied || a.challenges > 0, spent: m.Spent(a.sent), err: err}
}

// loginWith logs in with the first of the methods that will do. If that is refused before
// anything derived from the password was sent, one more is tried.
func (c *Client) loginWith(methods []*sasl.Method, caps Capabilities, user, pass *command) error {
	username, password := user.Args[0], pass.Args[0]
	first := c.try(sasl.Choose(methods, username, password), user, pass)
	if !isRefusal(first.err) {
		return first.err
	}
	refused := first.err.(*Error)
	methods = slices.DeleteFunc(methods, func(m *sasl.Method) bool { return !m.AnyStore || m == first.method })
	if first.spent || refused.Temporary() || len(methods) == 0 {
		return alsoOffered(refused, caps, first)
	}
	second := c.try(sasl.Choose(methods, username, password), user, pass)
	switch {
	case isRefusal(second.err):
		return alsoOffered(second.err.(*Error), caps, first, second)
	case isLoss(second.err) && !stream.IsTimeout(second.err) && !second.answered:
		refused.note = "; then the connection was lost: " + unprefixed(second.err)
		return refused
	}
	return second.err
}

// alsoOffered adds to a refused login what else the server offers.
func alsoOffered(refused *Error, caps Capabilities, tried ...*attempt) error {
	if refused.Temporary() {
		return refused
	}
	var mechs []string
	for _, mech := range caps.SASL() {
		isTried := slices.ContainsFunc(tried, func(a *attempt) bool { return a.method.Mech == mech })
		if sasl.IsName(mech) && !isTried && !slices.Contains(mechs, mech) {
			mechs = append(mechs, mech)
		}
	}
	if len(tried) > 1 {
		refused.note += "; " + tried[0].method.Mech + " was refused before"
	}
	if len(mechs) > 0 {
		refused.note += "; the server also offers " + strings.Join(mechs[:min(len(mechs), 10)], ", ") + ", which Auth can try"
	}
	return refused
}

// Capabilities is a server's answer to CAPA: names in upper case, and their arguments. A
// nil map means that the server offers nothing. (RFC 2449 section 5.)
type Capabilities map[string][]string

// Has reports whether the server lists name, in upper or lower case. (RFC 2449 section
// 5.)
func (c Capabilities) Has(name string) bool {
	_, ok := c[strings.ToUpper(name)]
	return ok
}

// SASL returns the SASL mechanisms that the server offers, in upper case. (RFC 5034
// section 3.)
func (c Capabilities) SASL() []string {
	mechs := make([]string, len(c["SASL"]))
	for i, mech := range c["SASL"] {
		mechs[i] = strings.ToUpper(mech)
	}
	return mechs
}

// Implementation returns what the server calls itself, or "". (RFC 2449 section 6.9.)
func (c Capabilities) Implementation() string {
	return strings.Join(c["IMPLEMENTATION"], " ")
}

// LoginDelay returns the time that must pass between two logins. ok is false if the
// server announces none, or one that is not a number. It may depend on the user: call
// [Client.Capa] after the login. (RFC 2449 section 6.5.)
func (c Capabilities) LoginDelay() (d time.Duration, ok bool) {
	seconds, ok := c.number("LOGIN-DELAY")
	return time.Duration(seconds) * time.Second, ok
}

// Expire returns the minimum number of days that messages stay on the server; -1 means
// that they stay forever (NEVER). With 0, the server may delete at QUIT what was
// retrieved. ok is false if the server announces no number. (RFC 2449 section 6.7.)
func (c Capabilities) Expire() (days int, ok bool) {
	if args := c["EXPIRE"]; len(args) > 0 && strings.EqualFold(args[0], "NEVER") {
		return -1, true
	}
	return c.number("EXPIRE")
}

// number returns a capability's first argument. 31 bits are enough for any, and seconds
// in a time.Duration.
func (c Capabilities) number(name string) (n int, ok bool) {
	if args := c[name]; len(args) > 0 {
		v, err := strconv.ParseUint(args[0], 10, 31)
		return int(v), err == nil
	}
	return 0, false
}

// Capa sends the CAPA command. It is valid in any state; the answer may change with
// [Client.StartTLS] and with the login. If the server refuses ([*Error]), it does not
// know the command. (RFC 2449 section 5.)
func (c *Client) Capa(ctx context.Context) (Capabilities, error) {
	if err := c.begin(ctx, op{verb: "CAPA"}); err != nil {
		return nil, err
	}
	defer c.end()
	return c.capa()
}

// capa does the work of Capa, within an exchange.
func (c *Client) capa() (Capabilities, error) {
	var caps Capabilities
	err := c.rows(&command{Verb: "CAPA"}, wire.MaxAnswer, func(l *wire.Listing) error {
		caps = make(Capabilities)
		for row := range l.Rows() {
			if words := strings.Fields(row); len(words) > 0 {
				name := strings.ToUpper(words[0])
				caps[name] = append(caps[name], words[1:]...)
			}
		}
		return nil
	})
	if err == nil || isRefusal(err) {
		days, ok := caps.Expire()
		c.offers = offers{known: true, sasl: caps.Has("SASL"), pipelining: caps.Has("PIPELINING"), expire0: ok && days == 0}
	}
	return caps, err
}

// capaFirst is capa for a call that needs to know the capabilities before it can do its
// own work. A server that refuses offers none.
func (c *Client) capaFirst() (Capabilities, error) {
	caps, err := c.capa()
	if isRefusal(err) {
		c.hear(err)
		return nil, nil
	}
	return caps, err
}

// hear remembers an error if it is a refusal that may be the server's reason for hanging
// up next.
func (c *Client) hear(err error) {
	if e, ok := err.(*Error); ok && isRefusal(err) && e.Temporary() {
		c.heard = e
	}
}

// UTF8 sends the UTF8 command, after which messages and the texts of replies may be
// UTF-8. It is valid before login; [Client.StartTLS] is not valid after it. It is sent
// whether or not CAPA lists it. If the server refuses, the error is an [*Error]. (RFC
// 6856 section 2.)
func (c *Client) UTF8(ctx context.Context) error {
	return c.do(ctx, &command{Verb: "UTF8"}, func([]byte) error { c.utf8 = true; return nil })
}

// Lang sends the LANG command, which selects the language of the texts in replies by its
// tag, such as "de"; "*" leaves the choice to the server. Lang returns the tag that the
// server's reply names. It is valid in any state. If the server refuses, the error is an
// [*Error]. (RFC 6856 section 3.)
func (c *Client) Lang(ctx context.Context, tag string) (selected string, err error) {
	cmd := &command{Verb: "LANG", Args: []string{tag}}
	if tag == "" || tag != "*" && strings.Trim(tag, wire.Alphanumeric+"-") != "" {
		return "", &callError{op: opOf(cmd), err: errors.New("not a language tag")}
	}
	err = c.do(ctx, cmd, func(text []byte) error {
		selected, _ = wire.Field(string(text))
		return nil
	})
	return selected, err
}

// A Language is a language in which a server can write its replies. (RFC 6856 section
// 3.2.)
type Language struct {
	Tag         string // for Lang
	Description string // in the language itself, or ""
}

// LangAll sends the LANG command without a tag and returns the languages that the server
// supports. It is valid in any state. If the server refuses, the error is an [*Error]. If
// rows of its answer are malformed, the others are returned together with the error. (RFC
// 6856 section 3.)
func (c *Client) LangAll(ctx context.Context) ([]Language, error) {
	cmd := &command{Verb: "LANG"}
	if err := c.begin(ctx, opOf(cmd)); err != nil {
		return nil, err
	}
	defer c.end()
	var langs []Language
	err := c.rows(cmd, wire.MaxAnswer, func(l *wire.Listing) error {
		var bad *rowError
		for row := range l.Rows() {
			tag, description := wire.Field(strings.Trim(row, " \t"))
			if tag == "" {
				bad = bad.add(row)
				continue
			}
			langs = append(langs, Language{tag, description})
		}
		return bad.err()
	})
	return langs, err
}

// Stat sends the STAT command and returns the number of messages in the maildrop and
// their size in octets, without those that are marked for deletion. The size is -1 if the
// server's count has overflowed. Stat is valid after login. (RFC 1939 section 5.)
func (c *Client) Stat(ctx context.Context) (count int, size int64, err error) {
	err = c.do(ctx, &command{Verb: "STAT"}, func(text []byte) error {
		count, size, err = c.parseStat(text)
		return err
	})
	return count, size, err
}

// parseStat reads the answer to STAT.
func (c *Client) parseStat(text []byte) (count int, size int64, err error) {
	count, size, ok := wire.Stat(string(text))
	if !ok {
		return 0, 0, ErrMalformed
	}
	c.meanSize = size / int64(max(count, 1))
	return count, size, nil
}

// MessageInfo describes a message: its row of a scan listing (RFC 1939 section 5, LIST)
// and, if it is from [Client.Messages], its unique-id.
type MessageInfo struct {
	Number int    // message number
	Size   int64  // octets by the server's count, which may be wrong: read to io.EOF; -1 if unknown
	UID    string // unique-id, from Messages alone; "" if unknown
}

// MessageUID is one row of a unique-id listing. (RFC 1939 section 7, UIDL.)
type MessageUID struct {
	Number int    // message number
	UID    string // unique-id
}

// answerAbout checks that the answer to a command for one message is about that message.
func answerAbout(number, got int, ok bool) error {
	switch {
	case got != number && got != 0:
		return errOtherMessage
	case !ok:
		return ErrMalformed
	}
	return nil
}

// List sends the LIST command for one message. It is valid after login. If the server
// refuses ([*Error]), there is no such message, or it is marked for deletion. (RFC 1939
// section 5.)
func (c *Client) List(ctx context.Context, number int) (MessageInfo, error) {
	var size int64
	err := c.do(ctx, &command{Verb: "LIST", Numbers: []int{number}}, func(text []byte) error {
		n, octets, ok := wire.Scan(string(text))
		size = octets
		return answerAbout(number, n, ok)
	})
	if err != nil {
		return MessageInfo{}, err
	}
	return MessageInfo{Number: number, Size: size}, nil
}

// ListAll sends the LIST command and returns the messages that are not marked for
// deletion. Their numbers may have gaps. ListAll is valid after login. (RFC 1939 section
// 5.)
//
// If the server refuses, ListAll sends STAT, since some servers do not list an empty
// maildrop; if it is not empty, the error is the refusal. If rows of the answer are
// malformed, the others are returned together with an [*Error], and the connection is
// usable.
//
// Take the listing before the first [Client.Dele] and keep using it: after a deletion,
// some servers renumber the rows of a listing, although the message numbers do not
// change.
func (c *Client) ListAll(ctx context.Context) ([]MessageInfo, error) {
	var infos []MessageInfo
	err := c.list(ctx, "LIST", func(l *wire.Listing) error {
		var err error
		infos, err = c.parseList(l)
		return err
	})
	return infos, err
}

// parseList reads a scan listing.
func (c *Client) parseList(l *wire.Listing) ([]MessageInfo, error) {
	infos := make([]MessageInfo, 0, l.Len()+l.Len()/64) // Messages may add some of UIDL
	var bad *rowError
	var total int64
	for row := range l.Rows() {
		n, size, ok := wire.Scan(row)
		if !ok {
			bad = bad.add(row)
			continue
		}
		infos = append(infos, MessageInfo{Number: n, Size: size})
		total += max(size, 0)
	}
	c.meanSize = total / int64(max(len(infos), 1))
	return infos, bad.err()
}

// list sends a command that lists the messages, as an exchange of its own.
func (c *Client) list(ctx context.Context, verb string, parse func(*wire.Listing) error) error {
	cmd := &command{Verb: verb}
	if err := c.begin(ctx, opOf(cmd)); err != nil {
		return err
	}
	defer c.end()
	err := c.rows(cmd, wire.MaxListing, parse)
	if !isRefusal(err) {
		return err
	}
	c.hear(err)
	if err := c.unlessEmpty(err); err != nil {
		return err
	}
	return parse(new(wire.Listing))
}

// unlessEmpty returns the refusal of a listing, or nil if STAT says that the maildrop is
// empty.
func (c *Client) unlessEmpty(refused error) error {
	count := -1
	err := c.roundTrip(&command{Verb: "STAT"}, func(text []byte) (err error) {
		count, _, err = c.parseStat(text)
		return err
	})
	switch {
	case err == nil && count == 0:
		return nil
	case !c.isContent(err):
		return err
	}
	return refused
}

// isContent reports whether err, unless nil, is about a reply that was read to its end: a
// refusal or a fault of content, which leaves the connection usable.
func (c *Client) isContent(err error) bool {
	_, ok := err.(*Error)
	return err == nil || ok && err != c.Err()
}

// UIDL sends the UIDL command for one message. The unique-id is the same in every
// session. UIDL is valid after login. If the server refuses ([*Error]), there is no such
// message, it is marked for deletion, or the server does not know the command. (RFC 1939
// section 7.)
func (c *Client) UIDL(ctx context.Context, number int) (MessageUID, error) {
	var uid string
	err := c.do(ctx, &command{Verb: "UIDL", Numbers: []int{number}}, func(text []byte) error {
		n, id, ok := wire.OneUID(string(text), number)
		uid = id
		return answerAbout(number, n, ok)
	})
	if err != nil {
		return MessageUID{}, err
	}
	return MessageUID{number, uid}, nil
}

// UIDLAll sends the UIDL command and returns the unique-ids of the messages that are not
// marked for deletion. Copies of a message may share a unique-id. UIDLAll is valid after
// login. Refusals, malformed rows and message numbers are handled as in [Client.ListAll].
// (RFC 1939 section 7.)
//
// The unique-ids of a listing share memory: to keep one of many for long, keep a
// [strings.Clone] of it.
func (c *Client) UIDLAll(ctx context.Context) ([]MessageUID, error) {
	var uids []MessageUID
	err := c.list(ctx, "UIDL", func(l *wire.Listing) error {
		uids = make([]MessageUID, 0, l.Len())
		return parseUIDL(l, func(n int, uid string) { uids = append(uids, MessageUID{n, uid}) })
	})
	return uids, err
}

// parseUIDL reads a unique-id listing.
func parseUIDL(l *wire.Listing, add func(n int, uid string)) error {
	var bad *rowError
	for row := range l.Rows() {
		if n, uid, ok := wire.UID(row); ok {
			add(n, uid)
		} else {
			bad = bad.add(row)
		}
	}
	return bad.err()
}

// Messages returns the number, the size and the unique-id of each message that is not
// marked for deletion. It sends LIST and UIDL, together if the server lists PIPELINING.
// It is valid after login. (RFC 1939 sections 5 and 7.)
//
// The messages are in the order of LIST. A message that is in LIST alone has an empty
// [MessageInfo].UID; one that is in UIDL alone comes last and has the [MessageInfo].Size
// -1. If the server refuses UIDL, which is optional, the messages are returned without
// unique-ids, together with the refusal. If it refuses both, and the maildrop is not
// empty, the result is nil.
//
// Refusals of LIST, malformed rows and message numbers are handled as in
// [Client.ListAll]. The unique-ids share memory, as in [Client.UIDLAll].
func (c *Client) Messages(ctx context.Context) ([]MessageInfo, error) {
	list, uidl := &command{Verb: "LIST"}, &command{Verb: "UIDL"}
	if err := c.begin(ctx, opOf(list)); err != nil {
		return nil, err
	}
	defer c.end()
	var all messageList
	listErr, uidlErr := c.listBoth(list, uidl, func(l *wire.Listing) (err error) {
		all.infos, err = c.parseList(l)
		all.listed = len(all.infos)
		return err
	}, func(l *wire.Listing) error {
		all.grow(l.Len())
		return parseUIDL(l, all.add)
	})
	for _, err := range []error{listErr, uidlErr} {
		if !c.isContent(err) {
			return nil, err
		}
	}
	empty := listErr == nil && all.listed == 0
	if isRefusal(listErr) {
		c.hear(listErr)
		c.hear(uidlErr)
		if listErr = c.unlessEmpty(listErr); !c.isContent(listErr) {
			return nil, listErr
		}
		empty = listErr == nil
	}
	err := cmp.Or(listErr, uidlErr)
	switch {
	case empty && isRefusal(uidlErr): // a server may refuse to list nothing
		err = nil
	case listErr != nil && uidlErr != nil:
		err = joinedErrors{listErr, uidlErr}
	}
	return all.result(err)
}

// listBoth sends two commands that are answered by listings, together if the server can
// take that. If the first fails otherwise than by its content, the second has no error.
func (c *Client) listBoth(first, second *command, parse1, parse2 func(*wire.Listing) error) (err1, err2 error) {
	ahead, err := c.pipelines(2)
	if err != nil {
		return err, nil
	}
	if !ahead {
		if err1 = c.rows(first, wire.MaxListing, parse1); c.isContent(err1) {
			c.hear(err1)
			err2 = c.rows(second, wire.MaxListing, parse2)
		}
		return err1, err2
	}
	trace, o1, o2 := c.opts.Trace, opOf(first), opOf(second)
	start1, start2 := trace.commandStart(c.ctx, o1), trace.commandStart(c.ctx, o2)
	var octets int64
	if err1 = c.send(first, second); err1 == nil {
		octets, err1 = c.readRows(o1, wire.MaxListing, parse1)
	}
	trace.commandDone(c, o1, start1, octets, err1)
	if !c.isContent(err1) {
		c.replied = false
		trace.commandDone(c, o2, start2, 0, err1)
		return err1, nil
	}
	c.hear(err1)
	c.await(o2)
	octets, err2 = c.readRows(o2, wire.MaxListing, parse2)
	trace.commandDone(c, o2, start2, octets, err2)
	return err1, err2
}

// A messageList joins the rows of LIST and of UIDL, which nearly always have the same
// order.
type messageList struct {
	infos  []MessageInfo
	listed int     // of infos, those that LIST has
	at     int     // the one whose row of UIDL comes next, if the order is the same
	index  []int32 // positions in LIST, by message number; nil until the orders differ
}

// grow makes room for a unique-id listing with the given number of rows, most of which
// LIST has as well.
func (l *messageList) grow(rows int) {
	l.infos = slices.Grow(l.infos, max(rows-l.listed, 0))
}

// add adds a row of UIDL. Where LIST has a number twice in a row, both are the message.
func (l *messageList) add(n int, uid string) {
	if l.at >= l.listed || l.infos[l.at].Number != n {
		i, ok := l.find(n)
		if !ok {
			l.infos = append(l.infos, MessageInfo{Number: n, Size: -1, UID: uid})
			return
		}
		l.at = i
	}
	for ; l.at < l.listed && l.infos[l.at].Number == n; l.at++ {
		if l.infos[l.at].UID == "" {
			l.infos[l.at].UID = uid
		}
	}
}

// find returns the first position of message n in LIST.
func (l *messageList) find(n int) (i int, ok bool) {
	if l.index == nil {
		l.index = make([]int32, l.listed)
		for i := range l.index {
			l.index[i] = int32(i)
		}
		slices.SortStableFunc(l.index, func(a, b int32) int { return cmp.Compare(l.infos[a].Number, l.infos[b].Number) })
	}
	k, ok := slices.BinarySearchFunc(l.index, n, func(i int32, n int) int { return cmp.Compare(l.infos[i].Number, n) })
	if !ok {
		return 0, false
	}
	return int(l.index[k]), true
}

// result returns the messages beside err. No messages beside an error are nil, for they
// are not an empty maildrop.
func (l *messageList) result(err error) ([]MessageInfo, error) {
	switch {
	case len(l.infos) > 0:
		return l.infos, err
	case err != nil:
		return nil, err
	}
	return []MessageInfo{}, nil
}

// Retr sends the RETR command and returns the message, whose text is read as it arrives.
// The [Message] holds the connection until it has been read to its end or closed. Retr is
// valid after login. If the server refuses ([*Error]), there is no such message, or it is
// marked for deletion. (RFC 1939 section 5.)
//
// A server that announces EXPIRE 0 may delete at QUIT what was retrieved. (RFC 2449
// section 6.7.)
func (c *Client) Retr(ctx context.Context, number int) (*Message, error) {
	return c.fetch(ctx, &command{Verb: "RETR", Numbers: []int{number}})
}

// Top sends the TOP command and returns the header of the message, the empty line after
// it, and the given number of lines of its body. Otherwise it is like [Client.Retr]. TOP
// is optional for servers, and some return a line too many or too few. (RFC 1939 section
// 7.)
func (c *Client) Top(ctx context.Context, number, lines int) (*Message, error) {
	return c.fetch(ctx, &command{Verb: "TOP", Numbers: []int{number, lines}})
}

// Dele sends the DELE command, which marks a message for deletion by [Client.Quit]. It is
// valid after login. If the server refuses ([*Error]), there is no such message, or it is
// marked already. (RFC 1939 section 5.)
func (c *Client) Dele(ctx context.Context, number int) error {
	return c.do(ctx, &command{Verb: "DELE", Numbers: []int{number}}, func([]byte) error { c.deletions++; return nil })
}

// Noop sends the NOOP command, which keeps the server from closing an idle session. It is
// valid after login. (RFC 1939 section 5.)
func (c *Client) Noop(ctx context.Context) error {
	return c.do(ctx, &command{Verb: "NOOP"}, nil)
}

// Rset sends the RSET command, which removes all marks of [Client.Dele]. It is valid
// after login. (RFC 1939 section 5.)
func (c *Client) Rset(ctx context.Context) error {
	return c.do(ctx, &command{Verb: "RSET"}, func([]byte) error { c.deletions = 0; return nil })
}

// RetrAll sends a RETR command for each of the message numbers and returns an iterator
// over the messages, in that order. If the server lists PIPELINING, several commands are
// sent ahead (see [Options].Window), so that the loop does not wait for each message.
// RetrAll sends CAPA to find out, unless the server has answered it since the login. It
// is valid after login. (RFC 1939 section 5, RFC 2449 section 6.6.)
//
//	for m, err := range c.RetrAll(ctx, numbers) {
//		if m == nil {
//			return err // no more messages come
//		}
//		if err != nil {
//			log.Print(err) // the server refused this message
//			continue
//		}
//		if _, err := m.WriteTo(w); err != nil {
//			c.Close() // not Quit, and before the loop is left
//			return err
//		}
//	}
//
// If the server refuses a message, the loop receives an empty [Message] together with an
// [*Error], and may go on. Any other error comes last, with a nil [*Message]. Each
// [Message] is valid for its own step of the loop; what the step does not read is
// discarded. While the loop runs, the [Client] is busy. If a number is less than 1, the
// loop receives only that error, and nothing is sent. The slice is copied when the loop
// begins.
//
// To leave the loop early, call [Client.Close] first, inside the loop. Without it, the
// break or return reads and discards the replies to the commands that were sent ahead,
// after which the connection is usable. If that takes longer than [Options].Timeout, the
// connection is closed. The server may count these messages as retrieved, and delete them
// at QUIT if that is its policy: do not call [Client.Quit] after a loop that was left
// early, unless [Options].Window is 1. If the server announces EXPIRE 0, as Gmail does,
// and [Options].Window is 0, RetrAll does not request a message before the loop wants it.
func (c *Client) RetrAll(ctx context.Context, numbers []int) iter.Seq2[*Message, error] {
	return c.messages(ctx, run{verb: "RETR", retrieves: true, numbers: numbers})
}

// TopAll sends a TOP command for each of the message numbers, as [Client.Top] does.
// Otherwise it is like [Client.RetrAll], except that EXPIRE 0 does not matter. (RFC 1939
// section 7, RFC 2449 section 6.6.)
func (c *Client) TopAll(ctx context.Context, numbers []int, lines int) iter.Seq2[*Message, error] {
	return c.messages(ctx, run{verb: "TOP", numbers: numbers, lines: []int{lines}})
}

// DeleAll sends a DELE command for each of the message numbers, several ahead of their
// replies as [Client.RetrAll] does. It continues after a refusal. The error, if any, has
// a method Unwrap() []error: it returns an [*Error] for each refusal, in order, followed
// by the error that stopped DeleAll, if any. DeleAll is valid after login. (RFC 1939
// section 5, RFC 2449 section 6.6.)
func (c *Client) DeleAll(ctx context.Context, numbers []int) error {
	r := run{verb: "DELE", marks: true, numbers: slices.Clone(numbers)}
	var errs joinedErrors
	err := r.check()
	if err == nil {
		if err = c.begin(ctx, op{verb: r.verb}); err == nil {
			defer c.end()
			errs, err = c.deleteAll(&r)
		}
	}
	if err != nil {
		errs = append(errs, err)
	}
	if errs == nil {
		return nil
	}
	return errs
}

// deleteAll does the work of DeleAll, within an exchange.
func (c *Client) deleteAll(r *run) (errs joinedErrors, err error) {
	defer func() { c.traceUnanswered(r, err) }()
	if err := c.plan(r); err != nil {
		return nil, err
	}
	for r.replies < len(r.numbers) {
		if err := c.refill(r); err != nil {
			return errs, err
		}
		o, start := r.pop()
		c.await(o)
		_, _, err := c.status(o)
		if err == nil {
			err = c.settled(o)
		}
		c.opts.Trace.commandDone(c, o, start, 0, err)
		switch {
		case isRefusal(err):
			c.deletions--
			errs = append(errs, err)
		case err != nil:
			return errs, err
		}
	}
	return errs, nil
}

// pipelines reports whether several commands may be sent ahead of their replies. It sends
// CAPA if that is not known. (RFC 2449 section 6.6.)
func (c *Client) pipelines(commands int) (bool, error) {
	if commands < 2 || c.opts.Window == 1 || isNetPipe(c.stream.RemoteAddr()) {
		return false, nil
	}
	if !c.offers.known {
		if _, err := c.capaFirst(); err != nil {
			return false, err
		}
	}
	return c.offers.pipelining, nil
}

// isNetPipe reports whether addr is that of a net.Pipe, which holds nothing: both sides
// would wait for the other to read.
func isNetPipe(addr net.Addr) bool {
	return addr != nil && addr.Network() == "pipe" && addr.String() == "pipe"
}

// plan sets the window of a run.
func (c *Client) plan(r *run) error {
	ahead, err := c.pipelines(len(r.numbers))
	r.window = c.opts.Window
	if !r.marks { // the replies to DELE are short
		r.mean = c.meanSize
	}
	// With EXPIRE 0, what was retrieved may be deleted at QUIT (RFC 2449 section 6.7): a
	// message is retrieved then only when the loop asks for it.
	if !ahead || r.retrieves && c.offers.expire0 && r.window == 0 {
		r.window = 1
	}
	return err
}

// messages implements RetrAll and TopAll.
func (c *Client) messages(ctx context.Context, r run) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		r := r
		r.numbers = slices.Clone(r.numbers)
		err := r.check()
		if err == nil {
			if err = c.begin(ctx, op{verb: r.verb}); err == nil {
				err = c.runMessages(&r, yield)
			}
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

// runMessages yields the messages of a run and ends the exchange. It returns the error
// that is left to be yielded, with a nil Message.
func (c *Client) runMessages(r *run, yield func(*Message, error) bool) error {
	defer c.end() // even if a hook panics in abandon
	finished := false
	defer func() {
		if !finished {
			c.abandon(r)
		}
	}()
	left, err := c.loop(r, yield)
	finished = true
	c.traceUnanswered(r, err)
	if left {
		return nil // Client.Err reports it
	}
	return err
}

// loop yields the messages of a run, and reports whether the caller has left the loop.
func (c *Client) loop(r *run, yield func(*Message, error) bool) (left bool, err error) {
	if err := c.plan(r); err != nil {
		return false, err
	}
	for r.replies < len(r.numbers) {
		m, refused, err := c.step(r)
		if err != nil {
			return false, err
		}
		if !yield(m, refused) {
			return true, c.drainRun(r, m)
		}
		err = m.endStep()
		r.octets += m.n
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

// step sends what is due of a run and reads the beginning of its next message.
func (c *Client) step(r *run) (m *Message, refused, err error) {
	if err := c.refill(r); err != nil {
		return nil, nil, err
	}
	// The reply may be in the buffer although ctx is done.
	if err := c.alive(op{verb: r.verb}); err != nil {
		return nil, nil, err
	}
	return c.nextMessage(r)
}

// abandon closes the connection in the middle of a run, after a panic or runtime.Goexit
// in the body of the loop.
func (c *Client) abandon(r *run) {
	o := op{verb: r.verb}
	err := c.fail(o, &callError{op: o, err: errPanic})
	c.body.Lock()
	m := c.open
	if m != nil {
		m.err, c.open = err, nil
	}
	c.body.Unlock()
	if m != nil {
		c.opts.Trace.commandDone(c, m.op, c.start, m.n, err)
	}
	c.traceUnanswered(r, err)
}

// traceUnanswered calls Trace.CommandDone for the commands that err leaves without a
// reply.
func (c *Client) traceUnanswered(r *run, err error) {
	c.replied = false
	for err != nil && r.replies < r.sent {
		o, start := r.pop()
		c.opts.Trace.commandDone(c, o, start, 0, err)
	}
}
