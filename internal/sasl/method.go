package sasl

import (
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"

	"example.com/pop3/internal/wire"
)

// A Client is the client side of a mechanism.
type Client interface {
	Start() (mech string, ir []byte, err error)
	Next(challenge []byte) (response []byte, err error)
	Finish() error
}

// IsName reports whether name may be that of a mechanism, in any case (RFC 4422 section
// 3.1).
func IsName(name string) bool {
	return name != "" && len(name) <= 20 && strings.Trim(name, wire.Alphanumeric+"-_") == ""
}

// IsBearer reports whether a mechanism sends a token.
func IsBearer(mech string) bool {
	return strings.EqualFold(mech, "XOAUTH2") || strings.EqualFold(mech, "OAUTHBEARER")
}

// IsClientFirst reports whether a mechanism begins with the client's response and knows
// no empty challenge, so that one can only mean that the server has not taken the initial
// response.
func IsClientFirst(mech string) bool {
	switch mech = strings.ToUpper(mech); mech {
	case "PLAIN", "EXTERNAL", "ANONYMOUS":
		return true
	}
	return strings.HasPrefix(mech, "SCRAM-")
}

// ShortLine is how many octets, CRLF included, a line may have that every server takes:
// nginx's mail proxy takes no more. (RFC 5034 section 4 has 255.)
const ShortLine = 128

// A Method is a way to log in with a name and a password.
type Method struct {
	Mech string // "" is USER and PASS, which is no mechanism

	// AnyStore means that the method works however the server stores the password.
	AnyStore bool

	new  func(username, password string) Client // nil for USER and PASS
	line func(username, password string) int    // octets of the longest line; nil if it does not matter
	free int                                    // how many responses come before any that derives from the password
}

var (
	scram256 = &Method{Mech: "SCRAM-SHA-256", free: 1,
		new: func(u, p string) Client { return SCRAMSHA256(u, p) }}
	scram1 = &Method{Mech: "SCRAM-SHA-1", free: 1,
		new: func(u, p string) Client { return SCRAMSHA1(u, p) }}
	cramMD5 = &Method{Mech: "CRAM-MD5",
		new:  func(u, p string) Client { return CRAMMD5(u, p) },
		line: func(u, _ string) int { return responseLine(len(u) + len(" ") + hex.EncodedLen(md5.Size)) }}
	plain = &Method{Mech: "PLAIN", AnyStore: true,
		new:  func(u, p string) Client { return Plain("", u, p) },
		line: func(u, p string) int { return responseLine(len("\x00\x00") + len(u) + len(p)) }}
	login = &Method{Mech: "LOGIN", AnyStore: true,
		new:  func(u, p string) Client { return Login(u, p) },
		line: func(u, p string) int { return responseLine(max(len(u), len(p))) }}
	userPass = &Method{AnyStore: true,
		line: func(u, p string) int { return len("USER \r\n") + max(len(u), len(p)) }}
)

// responseLine returns the length of the line for a response of n octets.
func responseLine(n int) int { return base64.StdEncoding.EncodedLen(n) + len("\r\n") }

// Methods returns the methods that a server offers, the strongest first. user means that
// it takes USER and PASS.
func Methods(mechs []string, user, isTLS bool) (offered []*Method) {
	order := []*Method{scram256, scram1, cramMD5, plain, login, userPass}
	if isTLS {
		// TLS protects a password better than CRAM-MD5, for which the server must have it
		// in the clear.
		order = []*Method{scram256, scram1, plain, login, cramMD5, userPass}
	}
	for _, m := range order {
		if m == userPass && user || m != userPass && slices.Contains(mechs, m.Mech) {
			offered = append(offered, m)
		}
	}
	return offered
}

// Choose returns the first of the methods that will do. It passes over one that FIPS
// 140-only mode rules out, if any of the simple methods is offered (PLAIN, LOGIN, USER and
// PASS), and a simple method with a line over ShortLine, if a later one fits. Where a
// simple method comes first, CRAM-MD5 with such a line is passed over like one.
func Choose(methods []*Method, username, password string) *Method {
	willDo := func(m *Method) bool { return m.fits(username, password) && m.computable(username, password) }
	simple := slices.ContainsFunc(methods, func(m *Method) bool { return m.AnyStore })
	passed := false // over a simple method
	for i, m := range methods {
		switch {
		case simple && !m.computable(username, password):
		case (m.AnyStore || passed) && !m.fits(username, password) && slices.ContainsFunc(methods[i+1:], willDo):
			passed = true
		default:
			return m
		}
	}
	return methods[0]
}

// New returns the client side of the mechanism, or nil if the method is USER and PASS.
func (m *Method) New(username, password string) Client {
	if m.new == nil {
		return nil
	}
	return m.new(username, password)
}

// Spent reports whether anything derived from the password was in the first sent
// responses.
func (m *Method) Spent(sent int) bool { return sent > m.free }

func (m *Method) fits(username, password string) bool {
	return m.line == nil || m.line(username, password) <= ShortLine
}

// computable is false where FIPS 140-only mode rules a method out.
func (m *Method) computable(username, password string) bool {
	if m.new == nil {
		return true
	}
	_, _, err := m.new(username, password).Start()
	return err == nil
}
