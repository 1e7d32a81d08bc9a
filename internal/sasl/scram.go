package sasl

import (
	"cmp"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"

	"example.com/pop3/internal/wire"
)

// What a server may ask for before it has proved anything.
const (
	minIterations = 4096      // RFC 5802 section 5.1 and RFC 7677 section 3
	maxIterations = 1_000_000 // about half a second of PBKDF2
	maxSalt       = 1024      // octets
)

// A SCRAM is an exchange of RFC 5802, with any hash.
type SCRAM struct{ *scram }

type scram struct {
	mechanism
	*scramState
}

type scramState struct {
	err                error // why Start must fail
	hash               func() hash.Hash
	username, password string
	gs2Header          string
	binding            []byte // channel binding data
	newNonce           func() string

	// The exchange under way.
	nonce     string                                 // ours
	first     string                                 // client-first-message-bare
	next      func(challenge string) (string, error) // nil if no challenge is due
	proof     string                                 // ours, base64
	final     string                                 // client-final-message
	signature string                                 // the server's as it must be, base64
	verified  bool
}

func newSCRAM(m mechanism, h func() hash.Hash, username, password string) SCRAM {
	return SCRAM{&scram{m, &scramState{
		err:       cmp.Or(require("user name", username), wire.CheckArg("password", password), checkHash(h, password)),
		hash:      h,
		username:  username,
		password:  password,
		gs2Header: "n,,",
		newNonce:  rand.Text, // RFC 5802 section 5.1: printable, no comma
	}}}
}

// checkHash fails in FIPS 140-only mode if that does not allow the hash, or the password.
func checkHash(h func() hash.Hash, password string) error {
	_, err := pbkdf2.Key(h, password, make([]byte, 16), 1, h().Size())
	return err
}

func newSCRAMPlus(m mechanism, h func() hash.Hash, username, password string, state tls.ConnectionState) SCRAM {
	s := newSCRAM(m, h, username, password)
	name, data, err := channelBinding(state)
	if err != nil {
		s.err = cmp.Or(s.err, fmt.Errorf("no channel binding: %w", err))
	}
	s.gs2Header, s.binding = "p="+name+",,", data
	return s
}

// SCRAMSHA1 returns SCRAM-SHA-1, RFC 5802.
func SCRAMSHA1(username, password string) SCRAM {
	return newSCRAM("SCRAM-SHA-1", sha1.New, username, password)
}

// SCRAMSHA256 returns SCRAM-SHA-256, RFC 7677.
func SCRAMSHA256(username, password string) SCRAM {
	return newSCRAM("SCRAM-SHA-256", sha256.New, username, password)
}

// SCRAMSHA1Plus returns SCRAM-SHA-1-PLUS, RFC 5802, bound to the connection of the state.
func SCRAMSHA1Plus(username, password string, state tls.ConnectionState) SCRAM {
	return newSCRAMPlus("SCRAM-SHA-1-PLUS", sha1.New, username, password, state)
}

// SCRAMSHA256Plus returns SCRAM-SHA-256-PLUS, RFC 7677, bound to the connection of the
// state.
func SCRAMSHA256Plus(username, password string, state tls.ConnectionState) SCRAM {
	return newSCRAMPlus("SCRAM-SHA-256-PLUS", sha256.New, username, password, state)
}

// channelBinding returns tls-exporter (RFC 9266) for TLS 1.3, which has no tls-unique,
// and tls-unique (RFC 5929), which every server must know, for what came before.
func channelBinding(state tls.ConnectionState) (name string, data []byte, err error) {
	switch {
	case !state.HandshakeComplete:
		return "", nil, errors.New("no TLS handshake has been completed")
	case state.Version >= tls.VersionTLS13:
		// A state that crypto/tls did not make has no exporter, and no way to tell.
		defer func() {
			if recover() != nil {
				err = errors.New("the connection state has no exporter")
			}
		}()
		data, err = state.ExportKeyingMaterial("EXPORTER-Channel-Binding", []byte{}, 32)
		return "tls-exporter", data, err
	case state.TLSUnique == nil:
		return "", nil, fmt.Errorf("this %s connection has no tls-unique (resumed without extended master secret)", tls.VersionName(state.Version))
	}
	return "tls-unique", state.TLSUnique, nil
}

func (s *scram) Start() (mech string, ir []byte, err error) {
	s.next, s.verified = nil, false
	if s.err != nil {
		return s.cannotStart(s.err)
	}
	s.nonce = s.newNonce()
	s.first = "n=" + saslName.Replace(s.username) + ",r=" + s.nonce
	s.proof, s.final, s.signature = "", "", ""
	s.next = s.serverFirst
	return string(s.mechanism), []byte(s.gs2Header + s.first), nil
}

func (s *scram) Next(challenge []byte) (response []byte, err error) {
	next := s.next
	s.next, s.verified = nil, false
	if next == nil {
		return nil, errors.New("unexpected challenge")
	}
	message := string(challenge)
	if reason, ok := strings.CutPrefix(message, "e="); ok {
		reason, _, _ = strings.Cut(reason, ",")
		return nil, fmt.Errorf("the server reported the error %q", s.clean(reason))
	}
	// RFC 5802 section 5.1: anything else that is not understood is ignored.
	if strings.Contains(","+message, ",m=") {
		return nil, errors.New("the server requires an unknown extension")
	}
	answer, err := next(message)
	if err != nil {
		return nil, err
	}
	return []byte(answer), nil
}

// serverFirst answers the server-first-message with the client-final-message.
func (s *scram) serverFirst(message string) (string, error) {
	fields := strings.SplitN(message, ",", 4) // the fourth is extensions
	for i, prefix := range []string{"r=", "s=", "i="} {
		if i >= len(fields) || !strings.HasPrefix(fields[i], prefix) {
			return "", errors.New("the server's first message is malformed")
		}
	}
	nonce, salt64, count := fields[0][2:], fields[1][2:], fields[2][2:]

	if len(nonce) <= len(s.nonce) || !strings.HasPrefix(nonce, s.nonce) {
		return "", errors.New("the server's nonce does not extend the client's")
	}
	if strings.ContainsFunc(nonce, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", errors.New("the server's nonce is not printable ASCII")
	}
	salt, err := base64.StdEncoding.Strict().DecodeString(salt64)
	if err != nil || strings.ContainsAny(salt64, "\r\n") { // which DecodeString skips
		return "", errors.New("the salt is not base64")
	}
	if len(salt) == 0 || len(salt) > maxSalt {
		return "", fmt.Errorf("the salt has %d octets, not 1 to %d", len(salt), maxSalt)
	}
	iterations, err := strconv.ParseUint(count, 10, 31)
	if err != nil || iterations < minIterations || iterations > maxIterations {
		return "", fmt.Errorf("the iteration count %q is not between %d and %d", s.clean(count), minIterations, maxIterations)
	}

	salted, err := pbkdf2.Key(s.hash, s.password, salt, int(iterations), s.hash().Size())
	if err != nil {
		return "", err // in FIPS 140-only mode
	}
	final := "c=" + base64.StdEncoding.EncodeToString(append([]byte(s.gs2Header), s.binding...)) + ",r=" + nonce
	auth := s.first + "," + message + "," + final

	clientKey := s.mac(salted, "Client Key")
	h := s.hash()
	h.Write(clientKey)
	proof := s.mac(h.Sum(nil), auth)
	subtle.XORBytes(proof, proof, clientKey)

	s.proof = base64.StdEncoding.EncodeToString(proof)
	s.signature = base64.StdEncoding.EncodeToString(s.mac(s.mac(salted, "Server Key"), auth))
	s.next = s.serverFinal
	s.final = final + ",p=" + s.proof
	return s.final, nil
}

// serverFinal checks the server-final-message. POP3 has no way to send it along with the
// +OK, so that it comes as a challenge, to be answered with nothing.
func (s *scram) serverFinal(message string) (string, error) {
	verifier, _, _ := strings.Cut(message, ",")
	signature, ok := strings.CutPrefix(verifier, "v=")
	if !ok {
		return "", errors.New("the server's final message is malformed")
	}
	if !hmac.Equal([]byte(signature), []byte(s.signature)) {
		return "", errors.New("the server's signature is wrong: it does not know the password")
	}
	s.verified = true
	return "", nil
}

// Finish fails unless the server has proved that it knows the password.
func (s *scram) Finish() error {
	if !s.verified {
		return errors.New("the server reported success without proof that it knows the password")
	}
	return nil
}

func (s *scram) mac(key []byte, message string) []byte {
	h := hmac.New(s.hash, key)
	io.WriteString(h, message)
	return h.Sum(nil)
}

func (s *scram) clean(text string) string { return clean(text, s.password, s.proof, s.final) }
