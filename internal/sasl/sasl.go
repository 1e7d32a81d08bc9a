// Package sasl is the client side of the SASL mechanisms (RFC 4422) that POP3's AUTH
// command carries. A mechanism is given decoded challenges and returns responses to be
// encoded. [Methods] and [Secrets] also know what these look like on the wire.
//
// Every mechanism has the methods of [Client]:
//
//	Start() (mech string, ir []byte, err error)
//	Next(challenge []byte) (response []byte, err error)
//	Finish() error
//
// Start begins an exchange, as often as it is called; a nil ir is none at all, an empty
// one is an initial response of no octets. Next answers one challenge. Finish is to be
// called when the server reports success, and is an error if the exchange does not bear
// that out. After any error only Start is of use. Those that send a token also have
// Status() string, what the server said against it.
//
// Names and passwords are sent as they are, in UTF-8 if they are not ASCII: the standard
// library has no SASLprep (RFC 4013). Start refuses control characters, which SASLprep
// prohibits and some mechanisms use as separators; PLAIN and LOGIN, which can carry them,
// refuse NUL alone.
//
// A value prints as the name of its mechanism and never shows a secret.
package sasl

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"unicode/utf8"

	"example.com/pop3/internal/wire"
)

// A mechanism is the name of one, embedded by all so that none prints its secrets. There
// are places where fmt calls no Format method, such as an unexported field. There it
// follows one pointer if a verb does not fit, and so whatever is secret is two pointers
// away from a value of this package.
type mechanism string

func (m mechanism) Format(f fmt.State, _ rune) { io.WriteString(f, string(m)) }
func (m mechanism) LogValue() slog.Value       { return slog.StringValue(string(m)) }

// cannotStart returns the results of a failed Start. The error names the mechanism, since
// nothing else tells the caller.
func (m mechanism) cannotStart(err error) (mech string, ir []byte, _ error) {
	return "", nil, fmt.Errorf("%s: %w", string(m), err)
}

// checkNUL refuses what PLAIN and LOGIN cannot carry.
func checkNUL(what, value string) error {
	if strings.Contains(value, "\x00") {
		return fmt.Errorf("the %s holds a NUL", what)
	}
	return nil
}

func require(what, value string) error {
	if value == "" {
		return fmt.Errorf("the %s is empty", what)
	}
	return wire.CheckArg(what, value)
}

// checkName refuses a user name that PLAIN and LOGIN cannot carry.
func checkName(username string) error {
	if username == "" {
		return errors.New("the user name is empty")
	}
	return checkNUL("user name", username)
}

// checkMD5 fails in FIPS 140-only mode, where hmac.New panics.
func checkMD5() error {
	_, err := md5.New().Write(nil)
	return err
}

// An Exchange is a mechanism whose responses do not depend on earlier challenges.
type Exchange struct{ *exchange }

type exchange struct {
	mechanism
	*responses
	err  error // why Start must fail
	ok   bool  // under way, and nothing has gone wrong
	left []answer
}

type responses struct {
	ir      []byte
	answers []answer
}

type answer func(challenge []byte) (response []byte, err error)

func (x *exchange) Start() (mech string, ir []byte, err error) {
	x.ok, x.left = x.err == nil, x.answers
	if x.err != nil {
		return x.cannotStart(x.err)
	}
	return string(x.mechanism), bytes.Clone(x.ir), nil
}

func (x *exchange) Next(challenge []byte) (response []byte, err error) {
	if !x.ok || len(x.left) == 0 {
		x.ok = false
		return nil, errors.New("unexpected challenge")
	}
	response, err = x.left[0](challenge)
	x.ok, x.left = err == nil, x.left[1:]
	return response, err
}

// Finish fails if the server has not asked for all the credentials: Exchange 2003 says
// "+OK" where it means "+", and nobody is logged in yet.
func (x *exchange) Finish() error {
	if !x.ok || len(x.left) > 0 {
		return errors.New("the server reported success before the exchange was over")
	}
	return nil
}

// Plain returns PLAIN, RFC 4616. An empty identity is that of the user.
func Plain(identity, username, password string) Exchange {
	const m = mechanism("PLAIN")
	return Exchange{&exchange{
		mechanism: m,
		err: cmp.Or(
			checkNUL("identity", identity),
			checkName(username),
			checkNUL("password", password),
		),
		responses: &responses{ir: []byte(identity + "\x00" + username + "\x00" + password)},
	}}
}

// Login returns LOGIN, which has no RFC (draft-murchison-sasl-login). The server asks for
// the user name and then the password; servers word that differently, so only the order
// counts.
func Login(username, password string) Exchange {
	const m = mechanism("LOGIN")
	return Exchange{&exchange{
		mechanism: m,
		err:       cmp.Or(checkName(username), checkNUL("password", password)),
		responses: &responses{answers: []answer{
			func([]byte) ([]byte, error) { return []byte(username), nil },
			func([]byte) ([]byte, error) { return []byte(password), nil },
		}},
	}}
}

// CRAMMD5 returns CRAM-MD5, RFC 2195.
func CRAMMD5(username, secret string) Exchange {
	const m = mechanism("CRAM-MD5")
	return Exchange{&exchange{
		mechanism: m,
		err:       cmp.Or(require("user name", username), wire.CheckArg("secret", secret), checkMD5()),
		responses: &responses{answers: []answer{func(challenge []byte) ([]byte, error) {
			// A digest of an empty challenge could be replayed to any server.
			if len(challenge) == 0 {
				return nil, errors.New("empty challenge")
			}
			h := hmac.New(md5.New, []byte(secret))
			h.Write(challenge)
			return []byte(username + " " + hex.EncodeToString(h.Sum(nil))), nil
		}}},
	}}
}

// External returns EXTERNAL, RFC 4422 appendix A. An empty identity is the one that the
// server derives from what it knows already, such as a client certificate.
func External(identity string) Exchange {
	const m = mechanism("EXTERNAL")
	return Exchange{&exchange{mechanism: m, err: wire.CheckArg("identity", identity), responses: &responses{ir: []byte(identity)}}}
}

// maxTrace is the most characters of an ANONYMOUS message, RFC 4505 section 2.
const maxTrace = 255

// Anonymous returns ANONYMOUS, RFC 4505. The trace may be empty.
func Anonymous(trace string) Exchange {
	const m = mechanism("ANONYMOUS")
	err := wire.CheckArg("trace", trace)
	switch {
	case !utf8.ValidString(trace):
		err = errors.New("the trace is not UTF-8")
	case utf8.RuneCountInString(trace) > maxTrace:
		err = fmt.Errorf("the trace is longer than %d characters", maxTrace)
	}
	return Exchange{&exchange{mechanism: m, err: err, responses: &responses{ir: []byte(trace)}}}
}

// saslName escapes what separates the fields of a GS2 message, RFC 5801 section 4.
var saslName = strings.NewReplacer("=", "=3D", ",", "=2C")

// maxText is how much of the server's text an error or a status repeats, in octets.
const maxText = 128

// clean makes text from the server fit to be shown: printable ASCII, no more than maxText
// octets, and no secrets.
func clean(text string, secrets ...string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, text)
	text = string(NewSecrets(secrets...).Mask([]byte(text)))
	return text[:min(len(text), maxText)]
}
