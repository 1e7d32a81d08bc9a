// Package sasl is the client side of the SASL mechanisms (RFC 4422) that POP3's
// AUTH command carries. It knows neither network nor base64: it is given decoded
// challenges and returns responses to be encoded.
//
// Every constructor returns a value with the methods
//
//	Start() (mech string, ir []byte, err error)
//	Next(challenge []byte) (response []byte, err error)
//	Finish() error
//
// Start begins an exchange, as often as it is called; a nil ir is none at all,
// an empty one is an initial response of no octets. Next answers one challenge.
// Finish is to be called when the server reports success, and is an error if the
// exchange does not bear that out. After any error only Start is of use. Those that
// send a token also have Status() string, what the server said against it.
//
// Names and passwords go out as they are, in UTF-8 if they are not ASCII: the
// standard library has no SASLprep (RFC 4013). Control characters, which SASLprep
// prohibits and which some mechanisms use as separators, are refused by Start.
//
// A value prints as the name of its mechanism and never shows a secret.
package sasl

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"unicode/utf8"
)

// A mechanism is the name of one, embedded by all so that none prints its secrets.
// There are places where fmt calls no Format method: an unexported field, a %w that
// gets no error. A pointer within a value prints there as an address, and so that is
// all that the values of this package hold.
type mechanism string

func (m mechanism) Format(f fmt.State, _ rune) { io.WriteString(f, string(m)) }
func (m mechanism) LogValue() slog.Value       { return slog.StringValue(string(m)) }

func (m mechanism) errorf(format string, args ...any) error {
	return fmt.Errorf(string(m)+": "+format, args...)
}

// check refuses what no mechanism can carry. The error names the value, never shows it.
func (m mechanism) check(what, value string) error {
	if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return m.errorf("%s contains a control character", what)
	}
	return nil
}

func (m mechanism) require(what, value string) error {
	if value == "" {
		return m.errorf("%s is empty", what)
	}
	return m.check(what, value)
}

// An Exchange is a mechanism whose responses do not depend on earlier challenges.
type Exchange struct{ *exchange }

type exchange struct {
	mechanism
	err     error // why Start must fail
	ir      []byte
	answers []answer

	ok   bool // under way, and nothing has gone wrong
	left []answer
}

type answer func(challenge []byte) (response []byte, err error)

func (x *exchange) Start() (mech string, ir []byte, err error) {
	x.ok, x.left = x.err == nil, x.answers
	if x.err != nil {
		return "", nil, x.err
	}
	return string(x.mechanism), bytes.Clone(x.ir), nil
}

func (x *exchange) Next(challenge []byte) (response []byte, err error) {
	if !x.ok || len(x.left) == 0 {
		x.ok = false
		return nil, x.errorf("unexpected challenge")
	}
	response, err = x.left[0](challenge)
	x.ok, x.left = err == nil, x.left[1:]
	return response, err
}

// Finish fails if the server has not asked for all the credentials: Exchange 2003
// says "+OK" where it means "+", and nobody is logged in yet.
func (x *exchange) Finish() error {
	if !x.ok || len(x.left) > 0 {
		return x.errorf("server reported success before the exchange was over")
	}
	return nil
}

// Plain returns PLAIN, RFC 4616. An empty identity is that of the user.
func Plain(identity, username, password string) Exchange {
	const m = mechanism("PLAIN")
	return Exchange{&exchange{
		mechanism: m,
		err: cmp.Or(
			m.check("identity", identity),
			m.require("user name", username),
			m.check("password", password),
		),
		ir: []byte(identity + "\x00" + username + "\x00" + password),
	}}
}

// Login returns LOGIN, which has no RFC (draft-murchison-sasl-login). The server asks for
// the user name and then the password; servers word that differently, so only the order counts.
func Login(username, password string) Exchange {
	const m = mechanism("LOGIN")
	return Exchange{&exchange{
		mechanism: m,
		err: cmp.Or(
			m.require("user name", username),
			m.check("password", password),
		),
		answers: []answer{
			func([]byte) ([]byte, error) { return []byte(username), nil },
			func([]byte) ([]byte, error) { return []byte(password), nil },
		},
	}}
}

// CRAMMD5 returns CRAM-MD5, RFC 2195.
func CRAMMD5(username, secret string) Exchange {
	const m = mechanism("CRAM-MD5")
	return Exchange{&exchange{
		mechanism: m,
		err: cmp.Or(
			m.require("user name", username),
			m.check("secret", secret),
		),
		answers: []answer{func(challenge []byte) ([]byte, error) {
			// The digest of nothing would be good for every server that asks so.
			if len(challenge) == 0 {
				return nil, m.errorf("empty challenge")
			}
			if _, err := md5.New().Write(challenge); err != nil { // FIPS 140-only mode, where hmac.New panics
				return nil, m.errorf("%w", err)
			}
			h := hmac.New(md5.New, []byte(secret))
			h.Write(challenge)
			return []byte(username + " " + hex.EncodeToString(h.Sum(nil))), nil
		}},
	}}
}

// External returns EXTERNAL, RFC 4422 appendix A. An empty identity is the one that the
// server derives from what it knows already, such as a client certificate.
func External(identity string) Exchange {
	const m = mechanism("EXTERNAL")
	return Exchange{&exchange{mechanism: m, err: m.check("identity", identity), ir: []byte(identity)}}
}

// maxTrace is the most characters of an ANONYMOUS message, RFC 4505 section 2.
const maxTrace = 255

// Anonymous returns ANONYMOUS, RFC 4505. The trace may be empty.
func Anonymous(trace string) Exchange {
	const m = mechanism("ANONYMOUS")
	err := m.check("trace", trace)
	switch {
	case !utf8.ValidString(trace):
		err = m.errorf("trace is not UTF-8")
	case utf8.RuneCountInString(trace) > maxTrace:
		err = m.errorf("trace is longer than %d characters", maxTrace)
	}
	return Exchange{&exchange{mechanism: m, err: err, ir: []byte(trace)}}
}

// saslName escapes what separates the fields of a GS2 message, RFC 5801 section 4.
var saslName = strings.NewReplacer("=", "=3D", ",", "=2C")

const (
	maxText   = 128 // octets of the server's text that an error or a status repeats
	maxShared = 16  // octets of a secret that such text may have in common with it, less one
)

// clean makes text from the server fit to be shown: printable ASCII, no more than maxText
// octets, and nothing at all if it repeats a secret or, as a truncated echo would, a long part of one.
func clean(text string, secrets ...string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, text)
	text = text[:min(len(text), maxText)]
	for _, secret := range secrets {
		n := min(len(secret), maxShared)
		for i := 0; n > 0 && i+n <= len(secret); i++ {
			if strings.Contains(text, secret[i:i+n]) {
				return ""
			}
		}
	}
	return text
}
