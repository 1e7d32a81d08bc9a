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
	"slices"
	"strconv"
	"strings"
	"time"

	"example.com/pop3/internal/sasl"
	"example.com/pop3/internal/wire"
)

// User sends the USER command, the first half of a login with name and password.
// It is valid before login. A server may refuse (*[Error]) or accept whether or
// not there is such a maildrop. (RFC 1939 section 7.)
//
// As every method that sends credentials, it fails with [ErrInsecureAuth] over a
// connection that is neither TLS nor local. A name that is not ASCII is sent as
// the UTF-8 it is, whether or not the server announces UTF8 USER.
func (c *Client) User(ctx context.Context, username string) error {
	cmd := &command{Verb: "USER", Args: []string{username}}
	if err := c.guardUser(cmd); err != nil {
		return err
	}
	return c.do(ctx, cmd, nil)
}

// Pass sends the PASS command, valid right after [Client.User]. A refusal
// (*[Error]) has [CodeAuth], [CodeInUse], [CodeLoginDelay] or [CodeSysTemp] if
// the server tells that much. Many servers close the connection after a
// refusal, or delay the answer to the next attempt. (RFC 1939 section 7.)
func (c *Client) Pass(ctx context.Context, password string) error {
	cmd := &command{Verb: "PASS", Args: []string{password}, Secret: true}
	if err := c.guard(cmd); err != nil {
		return err
	}
	return c.credentials(ctx, cmd, []byte(password))
}

// RPOP sends the RPOP command, a login by trust in the client's address, which
// RFC 1081 had and a few servers still have. It is valid before login. A refusal
// is an *[Error].
func (c *Client) RPOP(ctx context.Context, username string) error {
	cmd := &command{Verb: "RPOP", Args: []string{username}}
	if err := c.guardUser(cmd); err != nil {
		return err
	}
	return c.credentials(ctx, cmd)
}

// APOP logs in with the APOP command: an MD5 digest of the timestamp in the
// server's greeting and a secret that both sides know. Without a timestamp in
// the greeting the error is ErrUnsupported; with one, the server may still not
// know APOP, and some close the connection then. It is valid before login. MD5
// makes this better than a password in the clear and no more. (RFC 1939 section
// 7.)
func (c *Client) APOP(ctx context.Context, username, secret string) error {
	if err := wire.CheckArg(secret); err != nil {
		return &callError{op: op{verb: "APOP"}, err: err}
	}
	timestamp := wire.Timestamp(c.Greeting())
	sum := md5.New()
	if _, err := io.WriteString(sum, timestamp+secret); err != nil { // FIPS 140-only mode, where Sum panics
		return &callError{op: op{verb: "APOP"}, err: err}
	}
	digest := hex.EncodeToString(sum.Sum(nil))
	cmd := &command{Verb: "APOP", Args: []string{username, digest}, Secret: true}
	if err := c.guardUser(cmd); err != nil {
		return err
	}
	if err := c.begin(ctx, opOf(cmd)); err != nil {
		return err
	}
	defer c.end()
	if timestamp == "" {
		return &callError{op: opOf(cmd), text: "the greeting has no timestamp", err: ErrUnsupported}
	}
	return c.logIn(cmd, []byte(digest), []byte(secret))
}

// guard checks a command that sends credentials.
func (c *Client) guard(cmd *command) error {
	if err := check(cmd); err != nil {
		return err
	}
	if !c.secure() {
		return &callError{op: opOf(cmd), err: ErrInsecureAuth}
	}
	return nil
}

// guardUser is guard for a command whose first argument is a user name. Mailpit
// hangs up on an empty one.
func (c *Client) guardUser(cmd *command) error {
	if cmd.Args[0] == "" {
		return &callError{op: opOf(cmd), err: errors.New("user name is empty")}
	}
	return c.guard(cmd)
}

// credentials sends a command that logs in, as an exchange of its own.
func (c *Client) credentials(ctx context.Context, cmd *command, secrets ...[]byte) error {
	if err := c.begin(ctx, opOf(cmd)); err != nil {
		return err
	}
	defer c.end()
	return c.logIn(cmd, secrets...)
}

// logIn sends a command that logs in, within an exchange. A reply must not repeat
// the secrets.
func (c *Client) logIn(cmd *command, secrets ...[]byte) error {
	c.secrets = sasl.NewSecrets(secrets...)
	return c.roundTrip(cmd, func([]byte) bool { c.loggedIn(); return true })
}

// loggedIn notes that the session is in the TRANSACTION state, where CAPA may
// answer otherwise.
func (c *Client) loggedIn() { c.authenticated, c.knowsCapa = true, false }

// A SASL is the client's side of a SASL mechanism (RFC 4422), for [Client.Auth].
// It is the method set of the Client interface of emersion/go-sasl, whose
// mechanisms can be used as they are. A value is used for one exchange at a time.
//
// If the value also has a method Finish() error, Auth calls it when the server
// has said +OK: an error, for instance because the server has not proved who it
// is, closes the connection.
type SASL interface {
	// Start begins an exchange. It returns the mechanism's name and the initial
	// response: nil is none, which is different from an empty one.
	Start() (mech string, ir []byte, err error)

	// Next returns the response to a challenge. An error cancels the exchange.
	Next(challenge []byte) (response []byte, err error)
}

// PlainAuth is the PLAIN mechanism (RFC 4616): the password goes over the wire.
// identity is whom to act as, and usually "".
func PlainAuth(identity, username, password string) SASL {
	return sasl.Plain(identity, username, password)
}

// LoginAuth is the LOGIN mechanism, which has no RFC (draft-murchison-sasl-login)
// and does what PLAIN does.
func LoginAuth(username, password string) SASL { return sasl.Login(username, password) }

// CRAMMD5Auth is the CRAM-MD5 mechanism (RFC 2195): the secret is not sent, but
// whoever listens can guess at it.
func CRAMMD5Auth(username, secret string) SASL { return sasl.CRAMMD5(username, secret) }

// SCRAMSHA1Auth is the SCRAM-SHA-1 mechanism (RFC 5802). The password is not
// sent, and the server must prove that it knows it. SASLprep is not applied: a
// password that is not ASCII is taken as the UTF-8 it is.
func SCRAMSHA1Auth(username, password string) SASL { return sasl.SCRAMSHA1(username, password) }

// SCRAMSHA256Auth is the SCRAM-SHA-256 mechanism (RFC 7677), otherwise as
// [SCRAMSHA1Auth].
func SCRAMSHA256Auth(username, password string) SASL { return sasl.SCRAMSHA256(username, password) }

// SCRAMSHA1PlusAuth is the SCRAM-SHA-1-PLUS mechanism: [SCRAMSHA1Auth] bound to
// the TLS connection whose state is given (see [Client.TLSConnectionState]), so
// that nobody in between can use the login. The binding is tls-exporter under
// TLS 1.3 (RFC 9266) and tls-unique under TLS 1.2, where a resumed session
// needs extended master secret. Cyrus 3.6 offers the mechanism and then refuses
// tls-exporter.
func SCRAMSHA1PlusAuth(username, password string, state tls.ConnectionState) SASL {
	return sasl.SCRAMSHA1Plus(username, password, state)
}

// SCRAMSHA256PlusAuth is the SCRAM-SHA-256-PLUS mechanism, otherwise as
// [SCRAMSHA1PlusAuth].
func SCRAMSHA256PlusAuth(username, password string, state tls.ConnectionState) SASL {
	return sasl.SCRAMSHA256Plus(username, password, state)
}

// XOAuth2Auth is the XOAUTH2 mechanism of Gmail and Exchange Online, which has no
// RFC, with an OAuth 2.0 access token. If the server refuses the token, the
// status it gives is part of the error's text.
func XOAuth2Auth(username, token string) SASL { return sasl.XOAuth2(username, token) }

// OAuthBearerAuth is the OAUTHBEARER mechanism (RFC 7628), otherwise as
// [XOAuth2Auth].
func OAuthBearerAuth(username, token string) SASL { return sasl.OAuthBearer(username, token) }

// ExternalAuth is the EXTERNAL mechanism (RFC 4422 appendix A): the server knows
// the client by its TLS certificate. identity is whom to act as, and usually "".
func ExternalAuth(identity string) SASL { return sasl.External(identity) }

// AnonymousAuth is the ANONYMOUS mechanism (RFC 4505). trace may tell the server
// who it is, such as a mail address, or be ""; one of more than 255 characters, or
// that is not UTF-8, is an error of Auth.
func AnonymousAuth(trace string) SASL { return sasl.Anonymous(trace) }

// maxChallenges ends an exchange in which the server never comes to an end. The
// longest known, GSSAPI, has about four challenges.
const maxChallenges = 32

// Auth logs in with the AUTH command and a SASL mechanism (RFC 5034). It is valid
// before login. After a refusal (*[Error]), and after an error of s, which
// cancels the exchange, the connection is usable and another mechanism may be
// tried, if the server does not hang up.
//
// The initial response is sent with the command only if the line is at most 255
// octets long, and never with XOAUTH2 and OAUTHBEARER, since Exchange Online
// wants two lines.
func (c *Client) Auth(ctx context.Context, s SASL) error {
	cmd := &command{Verb: "AUTH"}
	if s == nil {
		return &callError{op: opOf(cmd), err: errors.New("SASL is nil")}
	}
	if err := c.guard(cmd); err != nil {
		return err
	}
	if err := c.begin(ctx, opOf(cmd)); err != nil {
		return err
	}
	defer c.end()
	return c.authenticate(s)
}

// authenticate is Auth within an exchange.
func (c *Client) authenticate(s SASL) (err error) {
	cmd, withheld, err := c.startAuth(s)
	if err != nil {
		return err
	}
	o := opOf(cmd)
	start := c.opts.Trace.commandStart(c.ctx, o)
	defer func() { c.traceDone(o, start, 0, err) }()
	if err := c.send(cmd); err != nil {
		return err
	}
	answered := cmd.Secret // whether the server has any response
	for challenges := 0; ; challenges++ {
		challenge, done, err := c.challenge(o)
		switch {
		case err != nil:
			return withStatus(err, s)
		case done:
			return c.accepted(o, s, answered)
		}
		response := withheld
		switch {
		case challenges == maxChallenges:
			err = fmt.Errorf("%w: more than %d challenges", ErrTooLarge, maxChallenges)
		case withheld != nil: // this asks for it
			withheld = nil
		default:
			response, err = next(s, challenge)
		}
		if err == nil {
			err = checkResponse(response)
		}
		if err != nil {
			return c.cancelAuth(o, err)
		}
		c.secrets.AddResponse(response)
		if err := c.respond(o, base64.StdEncoding.EncodeToString(response), wire.Mask); err != nil {
			return err
		}
		answered = true
	}
}

// startAuth makes the AUTH command. withheld is the initial response if it is not
// part of the command.
func (c *Client) startAuth(s SASL) (cmd *command, withheld []byte, err error) {
	cmd = &command{Verb: "AUTH"}
	mech, ir, err := s.Start()
	if err == nil && (mech == "" || strings.Contains(mech, " ")) {
		err = errors.New("the mechanism has no valid name")
	}
	if err == nil {
		err = checkResponse(ir)
	}
	if err != nil {
		return nil, nil, &callError{op: opOf(cmd), err: err}
	}
	c.secrets = sasl.NewSecrets()
	cmd.Args = []string{mech}
	if ir == nil {
		return cmd, nil, check(cmd)
	}
	c.secrets.AddResponse(ir)
	line := command{Verb: cmd.Verb, Args: []string{mech, "="}, Secret: true}
	if len(ir) > 0 {
		line.Args[1] = base64.StdEncoding.EncodeToString(ir)
	}
	if line.Len() <= 255 && !strings.EqualFold(mech, "XOAUTH2") && !strings.EqualFold(mech, "OAUTHBEARER") {
		return &line, nil, check(&line)
	}
	return cmd, ir, check(cmd)
}

// checkResponse checks the length of a SASL response.
func checkResponse(response []byte) error {
	if base64.StdEncoding.EncodedLen(len(response)) > wire.MaxResponse {
		return fmt.Errorf("%w: SASL response of more than %d octets", ErrTooLarge, wire.MaxResponse)
	}
	return nil
}

// accepted ends a SASL exchange that the server has ended with +OK.
func (c *Client) accepted(o op, s SASL, answered bool) error {
	if !answered {
		return c.failWith(o, fmt.Errorf("%w: the server accepted before anything was proved", ErrMalformed), nil)
	}
	if f, ok := s.(interface{ Finish() error }); ok {
		if err := f.Finish(); err != nil {
			return c.fail(o, &callError{op: o, err: err})
		}
	}
	c.arrived()
	c.loggedIn()
	return nil
}

// next returns the response of s to a challenge.
func next(s SASL, encoded []byte) ([]byte, error) {
	// RFC 5034 section 4: no octet is ignored, which encoding/base64 does with
	// CR.
	challenge, err := base64.StdEncoding.AppendDecode(nil, encoded)
	if err != nil || bytes.IndexByte(encoded, '\r') >= 0 {
		return nil, fmt.Errorf("%w: a challenge is not base64", ErrMalformed)
	}
	return s.Next(challenge)
}

// cancelAuth ends a SASL exchange because of err, which it returns if the server
// agrees to that.
func (c *Client) cancelAuth(o op, err error) error {
	if err := c.respond(o, "*", "*"); err != nil {
		return err
	}
	_, done, reply := c.challenge(o)
	switch {
	case done && isRefusal(reply):
		return &callError{op: o, err: err}
	case reply != nil:
		return reply
	}
	return c.failWith(o, fmt.Errorf("%w: the server goes on though the exchange was canceled", ErrMalformed), nil)
}

// withStatus adds to a refusal what the server said about the bearer token.
func withStatus(err error, s SASL) error {
	if b, ok := s.(sasl.Bearer); ok && isRefusal(err) && b.Status() != "" {
		refused := err.(*Error)
		refused.Text = strings.TrimSpace(refused.Text + " (status " + b.Status() + ")")
	}
	return err
}

// Login logs in by the strongest method that the server offers: CAPA, then the
// first of SCRAM-SHA-256, SCRAM-SHA-1, CRAM-MD5 (not under TLS, where PLAIN does
// no harm), PLAIN and LOGIN that it lists, or else USER and PASS. It makes one
// attempt: a refusal (*[Error]) is returned and nothing else tried, since
// servers lock users out. It is valid before login.
//
// Where none of these is offered, or the server offers STLS and nothing else,
// the error is ErrUnsupported. Login never uses APOP, channel binding or OAuth;
// see [Client.APOP] and [Client.Auth]. For a server that cannot bear CAPA, use
// [Client.User] and [Client.Pass].
func (c *Client) Login(ctx context.Context, username, password string) error {
	login := op{verb: "login"}
	user := &command{Verb: "USER", Args: []string{username}}
	pass := &command{Verb: "PASS", Args: []string{password}, Secret: true}
	if err := cmp.Or(check(user), check(pass), c.guardUser(user)); err != nil {
		return err
	}
	if err := c.begin(ctx, login); err != nil {
		return err
	}
	defer c.end()
	caps, err := c.capa()
	if err != nil && !isRefusal(err) {
		return err
	}
	_, isTLS := c.TLSConnectionState()
	offered := func(mech string) bool { return slices.Contains(caps.SASL(), mech) }
	switch {
	case offered("SCRAM-SHA-256"):
		return c.authenticate(SCRAMSHA256Auth(username, password))
	case offered("SCRAM-SHA-1"):
		return c.authenticate(SCRAMSHA1Auth(username, password))
	case offered("CRAM-MD5") && !isTLS:
		return c.authenticate(CRAMMD5Auth(username, password))
	case offered("PLAIN"):
		return c.authenticate(PlainAuth("", username, password))
	case offered("LOGIN"):
		return c.authenticate(LoginAuth(username, password))
	case caps.Has("USER"), !caps.Has("SASL") && (isTLS || !caps.Has("STLS")):
		if err := c.roundTrip(user, nil); err != nil {
			return err
		}
		return c.logIn(pass, []byte(password))
	case caps.Has("STLS") && !isTLS:
		return &callError{op: login, text: "the server takes logins under TLS only: use StartTLS or DialStartTLS", err: ErrUnsupported}
	}
	return &callError{op: login, text: "the server offers none of the methods that Login uses; Auth may know one", err: ErrUnsupported}
}

// Capabilities is what a server answers to CAPA: names in upper case, and their
// arguments. A nil map is a server that offers nothing. (RFC 2449 section 5.)
type Capabilities map[string][]string

// Has reports whether the server lists name, in any case. (RFC 2449 section 5.)
func (c Capabilities) Has(name string) bool {
	_, ok := c[strings.ToUpper(name)]
	return ok
}

// SASL lists the SASL mechanisms that the server offers, in upper case. (RFC
// 5034 section 3.)
func (c Capabilities) SASL() []string {
	mechs := make([]string, len(c["SASL"]))
	for i, mech := range c["SASL"] {
		mechs[i] = strings.ToUpper(mech)
	}
	return mechs
}

// Implementation is what the server calls itself, or "". (RFC 2449 section 6.9.)
func (c Capabilities) Implementation() string {
	return strings.Join(c["IMPLEMENTATION"], " ")
}

// LoginDelay is the time that must pass between two logins. ok is false if the
// server announces none, or one that is not a number. (RFC 2449 section 6.5.)
func (c Capabilities) LoginDelay() (d time.Duration, ok bool) {
	seconds, ok := c.number("LOGIN-DELAY")
	return time.Duration(seconds) * time.Second, ok
}

// Expire is the number of days that messages stay on the server at least; -1 is
// for ever (NEVER). 0 means that what was retrieved may be deleted at QUIT. ok
// is false if the server announces none, or one that is not a number. (RFC 2449
// section 6.7.)
func (c Capabilities) Expire() (days int, ok bool) {
	if args := c["EXPIRE"]; len(args) > 0 && strings.EqualFold(args[0], "NEVER") {
		return -1, true
	}
	return c.number("EXPIRE")
}

// number is a capability's first argument. 31 bits are enough for any, and
// seconds in a time.Duration.
func (c Capabilities) number(name string) (n int, ok bool) {
	if args := c[name]; len(args) > 0 {
		v, err := strconv.ParseUint(args[0], 10, 31)
		return int(v), err == nil
	}
	return 0, false
}

// Capa sends the CAPA command. It is valid in any state, and the answer may
// change with StartTLS and login. A refusal (*[Error]) means that the server
// does not know the command. (RFC 2449 section 5.)
func (c *Client) Capa(ctx context.Context) (Capabilities, error) {
	if err := c.begin(ctx, op{verb: "CAPA"}); err != nil {
		return nil, err
	}
	defer c.end()
	return c.capa()
}

// capa is Capa within an exchange.
func (c *Client) capa() (Capabilities, error) {
	caps := make(Capabilities)
	err := c.rows(&command{Verb: "CAPA"}, wire.MaxAnswer, func(l *wire.Listing) (bad string, ok bool) {
		for row := range l.Rows() {
			if words := strings.Fields(row); len(words) > 0 {
				name := strings.ToUpper(words[0])
				caps[name] = append(caps[name], words[1:]...)
			}
		}
		return "", true
	})
	if err != nil {
		caps = nil
	}
	if err == nil || isRefusal(err) {
		days, ok := caps.Expire()
		c.knowsCapa, c.pipelining, c.expire0 = true, caps.Has("PIPELINING"), ok && days == 0
	}
	return caps, err
}

// UTF8 sends the UTF8 command, after which messages and texts may be UTF-8. It is
// valid before login, and StartTLS is not valid after it. It is sent whether or
// not CAPA lists it. (RFC 6856 section 2.)
func (c *Client) UTF8(ctx context.Context) error {
	return c.do(ctx, &command{Verb: "UTF8"}, func([]byte) bool { c.utf8 = true; return true })
}

// Lang sends the LANG command: it asks for the texts of replies in the language
// of the tag, such as "de"; "*" is the server's choice. selected is the tag
// that the server's reply names. It is valid in any state. (RFC 6856 section
// 3.)
func (c *Client) Lang(ctx context.Context, tag string) (selected string, err error) {
	cmd := &command{Verb: "LANG", Args: []string{tag}}
	if tag != "*" && strings.Trim(tag, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-") != "" || tag == "" {
		return "", &callError{op: opOf(cmd), err: errors.New("not a language tag")}
	}
	err = c.do(ctx, cmd, func(text []byte) bool {
		selected, _ = wire.Field(string(text))
		return true
	})
	return selected, err
}

// A Language is a language in which a server can write its replies. (RFC 6856
// section 3.2.)
type Language struct {
	Tag         string // for Lang
	Description string // in the language itself, or ""
}

// LangAll sends the LANG command without a tag and returns the languages that
// the server has. It is valid in any state. (RFC 6856 section 3.)
func (c *Client) LangAll(ctx context.Context) ([]Language, error) {
	var langs []Language
	cmd := &command{Verb: "LANG"}
	if err := c.begin(ctx, opOf(cmd)); err != nil {
		return nil, err
	}
	defer c.end()
	err := c.rows(cmd, wire.MaxAnswer, func(l *wire.Listing) (bad string, ok bool) {
		for row := range l.Rows() {
			tag, description := wire.Field(strings.Trim(row, " \t"))
			if tag == "" {
				return row, false
			}
			langs = append(langs, Language{tag, description})
		}
		return "", true
	})
	if err != nil {
		return nil, err
	}
	return langs, nil
}

// list sends a command that lists the messages. Some servers refuse to list an
// empty maildrop: whether it is that tells STAT.
func (c *Client) list(ctx context.Context, verb string, parse func(*wire.Listing) (bad string, ok bool)) error {
	cmd := &command{Verb: verb}
	if err := c.begin(ctx, opOf(cmd)); err != nil {
		return err
	}
	defer c.end()
	err := c.rows(cmd, wire.MaxListing, parse)
	if isRefusal(err) {
		messages := -1
		statErr := c.roundTrip(&command{Verb: "STAT"}, func(text []byte) (ok bool) {
			messages, _, ok = wire.Stat(string(text))
			return ok
		})
		switch {
		case statErr == nil && messages == 0:
			parse(new(wire.Listing))
			return nil
		case statErr != nil && !isRefusal(statErr):
			return statErr
		}
	}
	return err
}

// Stat sends the STAT command and returns the number of messages in the maildrop
// and their size in octets, without those marked for deletion. The size is -1 if
// the server's count has overflowed. It is valid after login. (RFC 1939
// section 5.)
func (c *Client) Stat(ctx context.Context) (count int, size int64, err error) {
	err = c.do(ctx, &command{Verb: "STAT"}, func(text []byte) (ok bool) {
		count, size, ok = wire.Stat(string(text))
		return ok
	})
	return count, size, err
}

// MessageInfo is a scan listing. (RFC 1939 section 5, LIST.)
type MessageInfo struct {
	Number int   // message number
	Size   int64 // octets, by the server's count, which may be off; -1 if it has overflowed
}

// MessageUID is a unique-id listing. (RFC 1939 section 7, UIDL.)
type MessageUID struct {
	Number int    // message number
	UID    string // unique-id
}

// List sends the LIST command for one message. A refusal (*[Error]) means that
// there is no such message, or that it is marked for deletion. It is valid after
// login. (RFC 1939 section 5.)
func (c *Client) List(ctx context.Context, number int) (MessageInfo, error) {
	var info MessageInfo
	err := c.do(ctx, &command{Verb: "LIST", Numbers: []int{number}}, func(text []byte) (ok bool) {
		info.Number, info.Size, ok = wire.Scan(string(text))
		return ok && info.Number == number
	})
	if err != nil {
		return MessageInfo{}, err
	}
	return info, nil
}

// ListAll sends the LIST command and returns the messages that are not marked
// for deletion. Their numbers may have gaps. If the server refuses, STAT is asked
// whether the maildrop is just empty. It is valid after login. (RFC 1939 section
// 5.)
func (c *Client) ListAll(ctx context.Context) ([]MessageInfo, error) {
	var infos []MessageInfo
	err := c.list(ctx, "LIST", func(l *wire.Listing) (bad string, ok bool) {
		infos = make([]MessageInfo, 0, l.Len())
		for row := range l.Rows() {
			n, size, ok := wire.Scan(row)
			if !ok {
				return row, false
			}
			infos = append(infos, MessageInfo{n, size})
		}
		return "", true
	})
	if err != nil {
		return nil, err
	}
	return infos, nil
}

// UIDL sends the UIDL command for one message. The unique-id stays the same from
// session to session. A refusal (*[Error]) means that there is no such message,
// that it is marked for deletion, or that the server does not know the command.
// It is valid after login. (RFC 1939 section 7.)
func (c *Client) UIDL(ctx context.Context, number int) (MessageUID, error) {
	var uid string
	err := c.do(ctx, &command{Verb: "UIDL", Numbers: []int{number}}, func(text []byte) bool {
		var ok bool
		uid, ok = wire.OneUID(string(text), number)
		return ok
	})
	if err != nil {
		return MessageUID{}, err
	}
	return MessageUID{number, uid}, nil
}

// UIDLAll sends the UIDL command and returns the unique-ids of the messages that
// are not marked for deletion. Copies of one message may have the same. If the
// server refuses, STAT is asked whether the maildrop is just empty. It is valid
// after login. (RFC 1939 section 7.)
//
// The unique-ids of a listing share memory: to keep one of many for long, keep a
// strings.Clone of it.
func (c *Client) UIDLAll(ctx context.Context) ([]MessageUID, error) {
	var uids []MessageUID
	err := c.list(ctx, "UIDL", func(l *wire.Listing) (bad string, ok bool) {
		uids = make([]MessageUID, 0, l.Len())
		for row, plain := range l.Rows() {
			n, uid, ok := wire.UID(row, plain)
			if !ok {
				return row, false
			}
			uids = append(uids, MessageUID{n, uid})
		}
		return "", true
	})
	if err != nil {
		return nil, err
	}
	return uids, nil
}

// Retr sends the RETR command and returns the message, whose text is read as it
// comes. The connection is the Message's until it has been read to its end or
// closed. A refusal (*[Error]) means that there is no such message, or that it is
// marked for deletion. It is valid after login. (RFC 1939 section 5.)
//
// A server with EXPIRE 0 may delete at QUIT what was retrieved.
func (c *Client) Retr(ctx context.Context, number int) (*Message, error) {
	return c.fetch(ctx, &command{Verb: "RETR", Numbers: []int{number}})
}

// Top sends the TOP command and returns the message's header, the empty line
// behind it, and that many lines of its body; otherwise it is as [Client.Retr].
// Servers need not know it, and some add or drop a line. (RFC 1939 section 7.)
func (c *Client) Top(ctx context.Context, number, lines int) (*Message, error) {
	return c.fetch(ctx, &command{Verb: "TOP", Numbers: []int{number, lines}})
}

// Dele sends the DELE command, which marks a message for deletion by
// [Client.Quit]. A refusal (*[Error]) means that there is no such message, or that
// it is marked already. It is valid after login. (RFC 1939 section 5.)
func (c *Client) Dele(ctx context.Context, number int) error {
	return c.do(ctx, &command{Verb: "DELE", Numbers: []int{number}}, func([]byte) bool { c.deletions++; return true })
}

// Noop sends the NOOP command, which keeps the session from being closed for
// inactivity. It is valid after login. (RFC 1939 section 5.)
func (c *Client) Noop(ctx context.Context) error {
	return c.do(ctx, &command{Verb: "NOOP"}, nil)
}

// Rset sends the RSET command, which takes back all marks of Dele. It is valid
// after login. (RFC 1939 section 5.)
func (c *Client) Rset(ctx context.Context) error {
	return c.do(ctx, &command{Verb: "RSET"}, func([]byte) bool { c.deletions = 0; return true })
}

// RetrAll sends a RETR command for each of the message numbers and returns
// their messages in that order. It returns an iterator; numbers are copied when
// the loop begins. If the server lists PIPELINING in CAPA, which is sent first
// unless it was answered since the login, several commands are sent ahead
// (Options.Window), so that the loop does not wait for each message.
//
//	for m, err := range c.RetrAll(ctx, numbers) {
//		if err != nil {
//			return err
//		}
//		if _, err := m.WriteTo(w); err != nil {
//			return err
//		}
//	}
//
// For a message that the server refuses, the loop gets a Message without text
// and an *[Error], and may go on. Any other error comes last, with a nil
// Message. A Message is valid for its step; what was not read of it is thrown
// away. While the loop runs, the Client is busy (see [Client]). A number less
// than 1 is an error that comes first and alone, with nothing sent.
//
// When the loop is left early, the replies to what was sent ahead are read and
// thrown away, for one Options.Timeout at the most, past which the connection is
// closed. The server may count these messages as downloaded, and delete them if
// that is its policy: after an early end, call Close rather than Quit, unless
// Options.Window is 1. With EXPIRE 0 (as Gmail has it) and Options.Window 0, no
// message is asked for before the loop wants it.
//
// It is valid after login. (RFC 1939 section 5, RFC 2449 section 6.6.)
func (c *Client) RetrAll(ctx context.Context, numbers []int) iter.Seq2[*Message, error] {
	return c.messages(ctx, run{verb: "RETR", retrieves: true, numbers: numbers})
}

// TopAll sends a TOP command for each of the message numbers; otherwise it is to
// [Client.Top] what [Client.RetrAll] is to Retr. EXPIRE 0 makes no difference to
// it. (RFC 1939 section 7, RFC 2449 section 6.6.)
func (c *Client) TopAll(ctx context.Context, numbers []int, lines int) iter.Seq2[*Message, error] {
	return c.messages(ctx, run{verb: "TOP", numbers: numbers, lines: []int{lines}})
}

// pipelines decides whether a run may send ahead, and sends CAPA if nothing is
// known. (RFC 2449 section 6.6.)
func (c *Client) pipelines(r *run) (bool, error) {
	if c.opts.Window == 1 || len(r.numbers) < 2 {
		return false, nil
	}
	if !c.knowsCapa {
		if _, err := c.capa(); err != nil && !isRefusal(err) {
			return false, err
		}
	}
	// With EXPIRE 0, what was retrieved may be deleted at QUIT (RFC 2449 section
	// 6.7): no message is retrieved then that the loop does not ask for.
	return c.pipelining && !(r.retrieves && c.expire0 && c.opts.Window == 0), nil
}

// start begins a run.
func (c *Client) start(r *run) error {
	ahead, err := c.pipelines(r)
	r.window = c.opts.Window
	if !ahead {
		r.window = 1
	}
	return err
}

// messages is RetrAll and TopAll.
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

// runMessages yields the messages of a run and ends the exchange. It returns
// what is left to yield, with a nil Message.
func (c *Client) runMessages(r *run, yield func(*Message, error) bool) (err error) {
	returns := false
	defer func() {
		if !returns {
			c.abandon(r)
		}
		c.end()
	}()
	err = c.start(r)
	for err == nil && r.answered < len(r.numbers) {
		var m *Message
		var refused error
		if m, refused, err = c.step(r); err != nil {
			break
		}
		if !yield(m, refused) {
			err = c.drainRun(r, m)
			returns = true
			c.traceUnanswered(r, err)
			return nil // Client.Err reports it
		}
		err = m.endStep()
		r.octets += m.n
	}
	returns = true
	c.traceUnanswered(r, err)
	return err
}

// step sends what is due of a run and reads the beginning of its next message.
func (c *Client) step(r *run) (m *Message, refused, err error) {
	if err := c.refill(r); err != nil {
		return nil, nil, err
	}
	if err := c.checkAlive(op{verb: r.verb}); err != nil {
		return nil, nil, err
	}
	return c.nextMessage(r)
}

// abandon closes the connection in the middle of a run, behind a panic or
// runtime.Goexit in the body of the loop.
func (c *Client) abandon(r *run) {
	o := op{verb: r.verb}
	c.fail(o, &callError{op: o, err: errors.New("a panic or runtime.Goexit ended the loop")})
	c.body.Lock()
	defer c.body.Unlock()
	if m := c.open; m != nil {
		m.err, c.open = m.errClosed(), nil
	}
}

// DeleAll sends a DELE command for each of the message numbers, several ahead of
// their replies as [Client.RetrAll] does. A refusal does not keep it from the
// rest. The error, if any, has a method Unwrap() []error: an *[Error] for each
// refusal, in order, and then what kept it from going on.
//
// It is valid after login. (RFC 1939 section 5, RFC 2449 section 6.6.)
func (c *Client) DeleAll(ctx context.Context, numbers []int) error {
	r := run{verb: "DELE", marks: true, numbers: slices.Clone(numbers)}
	var errs refusals
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

func (c *Client) deleteAll(r *run) (errs refusals, err error) {
	defer func() { c.traceUnanswered(r, err) }()
	if err := c.start(r); err != nil {
		return nil, err
	}
	for r.answered < len(r.numbers) {
		if err := c.refill(r); err != nil {
			return errs, err
		}
		o, start := r.next()
		_, _, err := c.status(o)
		c.traceDone(o, start, 0, err)
		switch {
		case isRefusal(err):
			c.deletions--
			errs = append(errs, err)
		case err != nil:
			return errs, err
		default:
			c.arrived()
		}
	}
	return errs, nil
}
