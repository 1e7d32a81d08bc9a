package pop3test

import (
	"bytes"
	"crypto/fips140"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"
	"sync"
)

var (
	errCancelled = errors.New("exchange cancelled")
	errBase64    = errors.New("not base64")
	errFailed    = errors.New("authentication failed")
)

// NeedRandom skips a test under the fake clock of testing/synctest that needs random octets,
// for TLS or SCRAM, in FIPS 140 mode: crypto/rand gathers them by the clock there, and panics
// if it stands still. To have read some before does not help, for a garbage collection may
// take away what was gathered.
func NeedRandom(t interface{ Skip(...any) }) {
	if fips140.Enabled() {
		t.Skip("crypto/rand in FIPS 140 mode, under a fake clock")
	}
}

// An exchange is one AUTH command (RFC 5034).
type exchange struct {
	*session
	initial []byte // the initial response, or nil
}

// A mechanism authenticates the user of a maildrop, or fails.
type mechanism struct {
	name string
	fits func(*session) bool
	run  func(*exchange) (*Maildrop, error)
}

// mechanisms, the strongest first.
var mechanisms = []mechanism{
	{"SCRAM-SHA-256-PLUS", secure, func(x *exchange) (*Maildrop, error) { return x.scram("SCRAM-SHA-256", sha256.New, true) }},
	{"SCRAM-SHA-1-PLUS", secure, func(x *exchange) (*Maildrop, error) { return x.scram("SCRAM-SHA-1", sha1.New, true) }},
	{"SCRAM-SHA-256", anyway, func(x *exchange) (*Maildrop, error) { return x.scram("SCRAM-SHA-256", sha256.New, false) }},
	{"SCRAM-SHA-1", anyway, func(x *exchange) (*Maildrop, error) { return x.scram("SCRAM-SHA-1", sha1.New, false) }},
	{"CRAM-MD5", anyway, (*exchange).cramMD5},
	{"PLAIN", (*session).clear, (*exchange).plain},
	{"LOGIN", (*session).clear, (*exchange).loginMechanism},
	{"XOAUTH2", (*session).clear, (*exchange).xoauth2},
	{"OAUTHBEARER", (*session).clear, (*exchange).oauthBearer},
	{"EXTERNAL", func(s *session) bool { return s.certifiedName() != "" }, (*exchange).external},
	{"ANONYMOUS", func(s *session) bool { return s.srv.user("anonymous") != nil }, (*exchange).anonymous},
}

func secure(s *session) bool { return s.tls != nil }
func anyway(*session) bool   { return true }

// MD5Allowed is false in FIPS 140-only mode, in which SHA-1 may not be used either.
var MD5Allowed = sync.OnceValue(func() bool {
	_, err := md5.New().Write(nil)
	return err == nil
})

// NeedMD5 skips a test that needs MD5 or SHA-1 where they are not allowed.
func NeedMD5(t interface{ Skip(...any) }) {
	if !MD5Allowed() {
		t.Skip("MD5 and SHA-1 are not allowed in FIPS 140-only mode")
	}
}

// offers reports whether m can be used in the session.
func (s *session) offers(m *mechanism) bool {
	if !MD5Allowed() && (strings.Contains(m.name, "MD5") || strings.Contains(m.name, "SHA-1")) {
		return false
	}
	return s.srv.hasMechanism(m.name) && !(s.srv.RequireTLS && s.tls == nil) && m.fits(s)
}

func (s *Server) hasMechanism(name string) bool {
	return s.Mechanisms == nil || slices.Contains(s.Mechanisms, name)
}

func (s *session) mechanisms() []string {
	var names []string
	for i := range mechanisms {
		if s.offers(&mechanisms[i]) {
			names = append(names, mechanisms[i].name)
		}
	}
	return names
}

func (s *session) auth(arg []byte) {
	if len(arg) == 0 {
		s.rows("Mechanisms follow", s.mechanisms())
		return
	}
	name, initial, given := strings.Cut(string(arg), " ")
	i := slices.IndexFunc(mechanisms, func(m mechanism) bool {
		return strings.EqualFold(name, m.name) && s.offers(&m)
	})
	if i < 0 {
		s.refuse("", "Mechanism is not available")
		return
	}
	x := &exchange{session: s}
	var err error
	if given {
		x.initial, err = decode(initial)
	}
	var d *Maildrop
	if err == nil {
		d, err = mechanisms[i].run(x)
	}
	switch err {
	case nil:
		s.login(d, true)
	case errCancelled:
		s.refuse("", "Authentication cancelled")
	case errBase64:
		s.refuse("", "Not base64")
	case errLineTooLong:
		s.refuse("", "Command too long")
	case errFailed:
		s.login(nil, false)
	default: // the connection broke
		s.done = true
	}
}

// decode decodes a response; "=" is the empty one of an AUTH command (RFC
// 5034 section 4). It is never nil if err is.
func decode(text string) ([]byte, error) {
	if text == "=" {
		return []byte{}, nil
	}
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, errBase64
	}
	return b, nil
}

// challenge sends a challenge and returns the response.
func (x *exchange) challenge(text string) ([]byte, error) {
	b := append(x.buffer(), "+ "...)
	b = base64.StdEncoding.AppendEncode(b, []byte(text))
	x.write(append(b, "\r\n"...))
	line, err := x.readLine(maxResponse)
	if err != nil {
		return nil, err
	}
	if string(line) == "*" {
		return nil, errCancelled
	}
	return decode(string(line))
}

// first returns the initial response, asking for it if need be.
func (x *exchange) first() ([]byte, error) {
	if x.initial != nil {
		return x.initial, nil
	}
	return x.challenge("")
}

// password checks a password in clear.
func (x *exchange) password(name, password string) (*Maildrop, error) {
	if d := x.srv.user(name); d != nil && d.password == password {
		return d, nil
	}
	return nil, errFailed
}

// plain is RFC 4616.
func (x *exchange) plain() (*Maildrop, error) {
	b, err := x.first()
	if err != nil {
		return nil, err
	}
	fields := strings.Split(string(b), "\x00")
	if len(fields) != 3 || fields[0] != "" && fields[0] != fields[1] {
		return nil, errFailed
	}
	return x.password(fields[1], fields[2])
}

// loginMechanism is LOGIN, which no RFC describes.
func (x *exchange) loginMechanism() (*Maildrop, error) {
	name := x.initial
	if name == nil {
		var err error
		if name, err = x.challenge("Username:"); err != nil {
			return nil, err
		}
	}
	password, err := x.challenge("Password:")
	if err != nil {
		return nil, err
	}
	return x.password(string(name), string(password))
}

// cramMD5 is RFC 2195.
func (x *exchange) cramMD5() (*Maildrop, error) {
	if x.initial != nil {
		return nil, errFailed
	}
	stamp := timestamp()
	b, err := x.challenge(stamp)
	if err != nil {
		return nil, err
	}
	i := max(bytes.LastIndexByte(b, ' '), 0)
	d := x.srv.user(string(b[:i]))
	if d == nil {
		return nil, errFailed
	}
	mac := keyed(md5.New, []byte(d.password), stamp)
	if string(b[i:]) != " "+hex.EncodeToString(mac) {
		return nil, errFailed
	}
	return d, nil
}

func keyed(h func() hash.Hash, key []byte, text string) []byte {
	mac := hmac.New(h, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// scram is RFC 5802 and RFC 7677, with the channel bindings of RFC 5929
// (tls-unique) and RFC 9266 (tls-exporter) if plus is set.
func (x *exchange) scram(name string, h func() hash.Hash, plus bool) (*Maildrop, error) {
	b, err := x.first()
	if err != nil {
		return nil, err
	}
	fields := strings.SplitN(string(b), ",", 3)
	if len(fields) != 3 {
		return nil, errFailed
	}
	header, firstBare := fields[0]+","+fields[1]+",", fields[2]
	binding, ok := x.binding(fields[0], name, plus)
	attrs := strings.Split(firstBare, ",")
	if !ok || len(attrs) < 2 || !strings.HasPrefix(attrs[0], "n=") || !strings.HasPrefix(attrs[1], "r=") {
		return nil, errFailed
	}
	unescape := strings.NewReplacer("=2C", ",", "=3D", "=")
	d := x.srv.user(unescape.Replace(attrs[0][2:]))
	if d == nil || fields[1] != "" && fields[1] != "a="+attrs[0][2:] {
		return nil, errFailed
	}

	iterations := x.srv.Iterations
	if iterations == 0 {
		iterations = 4096
	}
	salted, err := d.saltedPassword(name, h, iterations)
	if err != nil {
		return nil, errFailed
	}
	nonce := attrs[1][2:] + rand.Text()
	encode := base64.StdEncoding.EncodeToString
	serverFirst := fmt.Sprintf("r=%s,s=%s,i=%d", nonce, encode(d.salt), iterations)
	b, err = x.challenge(serverFirst)
	if err != nil {
		return nil, err
	}

	final := string(b)
	i := strings.LastIndex(final, ",p=")
	if i < 0 {
		return nil, errFailed
	}
	unproved, proof := final[:i], final[i+len(",p="):]
	if unproved != "c="+encode(append([]byte(header), binding...))+",r="+nonce {
		return nil, errFailed
	}
	messages := firstBare + "," + serverFirst + "," + unproved
	clientKey := keyed(h, salted, "Client Key")
	stored := h()
	stored.Write(clientKey)
	want := keyed(h, stored.Sum(nil), messages)
	for i := range want {
		want[i] ^= clientKey[i]
	}
	if proof != encode(want) {
		return nil, errFailed
	}
	// The client answers the server's proof with an empty response.
	serverKey := keyed(h, salted, "Server Key")
	if b, err = x.challenge("v=" + encode(keyed(h, serverKey, messages))); err != nil {
		return nil, err
	}
	if len(b) > 0 {
		return nil, errFailed
	}
	return d, nil
}

// SCRAMFirst returns a challenge that answers what a client of SCRAM says first. Both are
// in base64, as on the wire. The server's part of the nonce is of two octets, so that base64
// of the proof is not part of base64 of the response to it.
func SCRAMFirst(response string) string {
	first, _ := base64.StdEncoding.DecodeString(response)
	_, nonce, _ := strings.Cut(string(first), ",r=")
	return base64.StdEncoding.EncodeToString([]byte("r=" + nonce + "xy,s=AA==,i=4096"))
}

// binding returns the channel binding data that the flag of a SCRAM exchange
// asks for.
func (x *exchange) binding(flag, name string, plus bool) (data []byte, ok bool) {
	if !plus {
		// "y" says that the server was not seen to offer -PLUS; if it does,
		// someone has edited the list (RFC 5802 section 6).
		return nil, flag == "n" || flag == "y" && !(x.tls != nil && x.srv.hasMechanism(name+"-PLUS"))
	}
	switch {
	case flag == "p=tls-exporter":
		data, err := x.tls.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
		return data, err == nil
	case flag == "p=tls-unique" && x.tls.TLSUnique != nil:
		return x.tls.TLSUnique, true
	}
	return nil, false
}

// xoauth2 is Google's mechanism, which Exchange Online has too.
func (x *exchange) xoauth2() (*Maildrop, error) {
	b, err := x.first()
	if err != nil {
		return nil, err
	}
	name, rest, ok := strings.Cut(strings.TrimPrefix(string(b), "user="), "\x01")
	return x.bearer(name, strings.Split(rest, "\x01"), ok, "400")
}

// oauthBearer is RFC 7628.
func (x *exchange) oauthBearer() (*Maildrop, error) {
	b, err := x.first()
	if err != nil {
		return nil, err
	}
	fields := strings.Split(string(b), "\x01")
	header := strings.Split(fields[0], ",")
	ok := len(header) == 3 && header[0] == "n" && strings.HasPrefix(header[1], "a=") && header[2] == ""
	var name string
	if ok {
		name = strings.NewReplacer("=2C", ",", "=3D", "=").Replace(header[1][2:])
	}
	return x.bearer(name, fields[1:], ok, "invalid_token")
}

// bearer checks the token among fields. A failure is told by a challenge with
// JSON, and the client has to answer before it gets the -ERR (RFC 7628 section
// 3.2.3).
func (x *exchange) bearer(name string, fields []string, ok bool, status string) (*Maildrop, error) {
	if d := x.srv.user(name); ok && d != nil && d.Token != "" && slices.Contains(fields, "auth=Bearer "+d.Token) {
		return d, nil
	}
	if _, err := x.challenge(`{"status":"` + status + `","schemes":"bearer","scope":"mail"}`); err != nil {
		return nil, err
	}
	return nil, errFailed
}

// certifiedName is the name in the certificate that the client proved to own.
func (s *session) certifiedName() string {
	if s.tls == nil || len(s.tls.VerifiedChains) == 0 {
		return ""
	}
	return s.tls.VerifiedChains[0][0].Subject.CommonName
}

// external is RFC 4422 appendix A.
func (x *exchange) external() (*Maildrop, error) {
	b, err := x.first()
	if err != nil {
		return nil, err
	}
	name := x.certifiedName()
	d := x.srv.user(name)
	if d == nil || len(b) > 0 && string(b) != name {
		return nil, errFailed
	}
	return d, nil
}

// anonymous is RFC 4505. The trace, whatever it is, leads nowhere.
func (x *exchange) anonymous() (*Maildrop, error) {
	if _, err := x.first(); err != nil {
		return nil, err
	}
	return x.srv.user("anonymous"), nil
}
