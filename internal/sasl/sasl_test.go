package sasl

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash"
	"log/slog"
	"math/big"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// client is what the caller of this package knows of a mechanism.
type client interface {
	Start() (mech string, ir []byte, err error)
	Next(challenge []byte) (response []byte, err error)
	Finish() error
}

func withNonce(s SCRAM, nonce string) SCRAM {
	s.newNonce = func() string { return nonce }
	return s
}

// tls12 is a state such as crypto/tls gives for a TLS 1.2 connection.
var tls12 = tls.ConnectionState{Version: tls.VersionTLS12, HandshakeComplete: true, TLSUnique: []byte("unique value")}

// mechanisms returns one value of each, with the given secret.
func mechanisms(username, secret string) []client {
	return []client{
		Plain("", username, secret),
		Login(username, secret),
		CRAMMD5(username, secret),
		withNonce(SCRAMSHA1(username, secret), sha1Nonce),
		withNonce(SCRAMSHA256(username, secret), sha256Nonce),
		withNonce(SCRAMSHA1Plus(username, secret, tls12), sha1Nonce),
		withNonce(SCRAMSHA256Plus(username, secret, tls12), sha256Nonce),
		XOAuth2(username, secret),
		OAuthBearer(username, secret),
		External(secret),
		Anonymous(secret),
	}
}

// RFC 5802 section 5 and RFC 7677 section 3: user "user", password "pencil".
const (
	sha1Nonce   = "fyko+d2lbbFgONRv9qkxdawL"
	sha1First   = "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096"
	sha1Final   = "v=rmF9pqV8S7suAoZWja4dJRkFsKQ="
	sha256Nonce = "rOprNGfwEbeRWgbNEkqO"
	sha256First = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
	sha256Final = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
)

// failureJSON is the challenge of RFC 7628 section 4.3.
const failureJSON = `{"status":"invalid_token","scope":"example_scope","openid-configuration":"https://example.com/.well-known/openid-config"}`

const noIR = "(none)"

// TestExchanges plays whole exchanges: the vectors of the RFCs where there are any.
func TestExchanges(t *testing.T) {
	const token = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
	type step struct{ challenge, response string }
	for _, tt := range []struct {
		name   string
		client client
		mech   string
		ir     string
		steps  []step
		finish string // part of the error of Finish
	}{
		{"RFC 4616 section 4", Plain("", "tim", "tanstaaftanstaaf"), "PLAIN", "\x00tim\x00tanstaaftanstaaf", nil, ""},
		{"RFC 4616 section 4, identity", Plain("Ursel", "Kurt", "xipj3plmq"), "PLAIN", "Ursel\x00Kurt\x00xipj3plmq", nil, ""},
		{"PLAIN, UTF-8", Plain("", "jürgen", "пароль"), "PLAIN", "\x00jürgen\x00пароль", nil, ""},
		{"LOGIN", Login("tim", "tanstaaf"), "LOGIN", noIR, []step{{"Username:", "tim"}, {"Password:", "tanstaaf"}}, ""},
		{"LOGIN, prompts that mislead", Login("tim", ""), "LOGIN", noIR, []step{{"Password:", "tim"}, {"", ""}}, ""},
		{"LOGIN, cut short", Login("tim", "tanstaaf"), "LOGIN", noIR, []step{{"", "tim"}}, "before the exchange was over"},
		{"RFC 2195 section 2", CRAMMD5("tim", "tanstaaftanstaaf"), "CRAM-MD5", noIR,
			[]step{{"<1896.697170952@postoffice.reston.mci.net>", "tim b913a602c7eda7a495b4e6e7334d3890"}}, ""},
		{"CRAM-MD5, no challenge", CRAMMD5("tim", "tanstaaf"), "CRAM-MD5", noIR, nil, "before the exchange was over"},
		{"RFC 5802 section 5", withNonce(SCRAMSHA1("user", "pencil"), sha1Nonce), "SCRAM-SHA-1", "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL", []step{
			{sha1First, "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts="},
			{sha1Final, ""},
		}, ""},
		{"RFC 7677 section 3", withNonce(SCRAMSHA256("user", "pencil"), sha256Nonce), "SCRAM-SHA-256", "n,,n=user,r=rOprNGfwEbeRWgbNEkqO", []step{
			{sha256First, "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="},
			{sha256Final, ""},
		}, ""},
		{"SCRAM, extension in the final message", withNonce(SCRAMSHA1("user", "pencil"), sha1Nonce), "SCRAM-SHA-1", "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL", []step{
			{sha1First, "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts="},
			{sha1Final + ",x=unknown", ""},
		}, ""},
		{"SCRAM, server skips its proof", withNonce(SCRAMSHA1("user", "pencil"), sha1Nonce), "SCRAM-SHA-1", "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL", []step{
			{sha1First, "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts="},
		}, "without proof"},
		{"SCRAM, server skips everything", withNonce(SCRAMSHA256("a=b,c", "x"), "n"), "SCRAM-SHA-256", "n,,n=a=3Db=2Cc,r=n", nil, "without proof"},
		{"SCRAM-PLUS, TLS 1.2", withNonce(SCRAMSHA256Plus("user", "x", tls12), "n"), "SCRAM-SHA-256-PLUS", "p=tls-unique,,n=user,r=n", nil, "without proof"},
		{"XOAUTH2", XOAuth2("user@example.com", token), "XOAUTH2", "user=user@example.com\x01auth=Bearer " + token + "\x01\x01", nil, ""},
		{"XOAUTH2, refused", XOAuth2("user@example.com", token), "XOAUTH2", "user=user@example.com\x01auth=Bearer " + token + "\x01\x01",
			[]step{{`{"status":"401","schemes":"bearer","scope":"https://mail.example.com/"}`, ""}}, `refused the token (status "401")`},
		// RFC 7628 section 4.1 without its host and port.
		{"OAUTHBEARER", OAuthBearer("user@example.com", token), "OAUTHBEARER", "n,a=user@example.com,\x01auth=Bearer " + token + "\x01\x01", nil, ""},
		{"OAUTHBEARER, escaped user", OAuthBearer("a=b,c", token), "OAUTHBEARER", "n,a=a=3Db=2Cc,\x01auth=Bearer " + token + "\x01\x01", nil, ""},
		{"OAUTHBEARER, no user", OAuthBearer("", token), "OAUTHBEARER", "n,,\x01auth=Bearer " + token + "\x01\x01", nil, ""},
		{"RFC 7628 section 4.3", OAuthBearer("user@example.com", token), "OAUTHBEARER", "n,a=user@example.com,\x01auth=Bearer " + token + "\x01\x01",
			[]step{{failureJSON, "\x01"}}, `refused the token (status "invalid_token")`},
		{"RFC 4422 appendix A", External("fred@example.com"), "EXTERNAL", "fred@example.com", nil, ""},
		{"EXTERNAL, empty", External(""), "EXTERNAL", "", nil, ""},
		{"RFC 4505 section 4", Anonymous("sirhc"), "ANONYMOUS", "sirhc", nil, ""},
		{"ANONYMOUS, empty", Anonymous(""), "ANONYMOUS", "", nil, ""},
		{"ANONYMOUS, longest", Anonymous(strings.Repeat("é", 255)), "ANONYMOUS", strings.Repeat("é", 255), nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, err := tt.client.Next([]byte("early")); err == nil {
				t.Error("Next before Start: no error")
			}
			if tt.client.Finish() == nil {
				t.Error("Finish before Start: no error")
			}
			for range 2 { // a value is good for more than one exchange
				mech, ir, err := tt.client.Start()
				if err != nil {
					t.Fatal(err)
				}
				gotIR := string(ir)
				if ir == nil {
					gotIR = noIR
				}
				if mech != tt.mech || gotIR != tt.ir {
					t.Fatalf("Start = %q, %q, want %q, %q", mech, gotIR, tt.mech, tt.ir)
				}
				for _, step := range tt.steps {
					response, err := tt.client.Next([]byte(step.challenge))
					if err != nil || response == nil || string(response) != step.response {
						t.Fatalf("Next(%q) = %q (nil: %t), %v, want %q", step.challenge, response, response == nil, err, step.response)
					}
				}
				if err := tt.client.Finish(); (tt.finish == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.finish) {
					t.Fatalf("Finish = %v, want %q", err, tt.finish)
				}
			}
		})
	}
}

// TestNoMoreChallenges goes to the end of every mechanism and one challenge further.
func TestNoMoreChallenges(t *testing.T) {
	secrets := mechanisms("user", "pencil")
	for i, steps := range [][]string{
		{}, {"Username:", "Password:"}, {"<1@example.com>"},
		{sha1First, sha1Final}, {sha256First, sha256Final}, {sha1First}, {sha256First},
		{failureJSON}, {failureJSON}, {}, {},
	} {
		s := secrets[i]
		if _, _, err := s.Start(); err != nil {
			t.Fatalf("%v: %v", s, err)
		}
		for _, challenge := range steps {
			if _, err := s.Next([]byte(challenge)); err != nil {
				t.Fatalf("%v: Next(%q): %v", s, challenge, err)
			}
		}
		for range 2 {
			if response, err := s.Next(nil); err == nil {
				t.Errorf("%v: one challenge too many answered %q", s, response)
			}
			if s.Finish() == nil {
				t.Errorf("%v: Finish after an unexpected challenge: no error", s)
			}
		}
	}
}

func TestBadArguments(t *testing.T) {
	for _, tt := range []struct {
		client client
		want   string
	}{
		{Plain("", "", "canary"), "PLAIN: user name is empty"},
		{Plain("a\x00canary", "user", "x"), "PLAIN: identity contains a control character"},
		{Plain("", "user\ncanary", "x"), "PLAIN: user name contains a control character"},
		{Plain("", "user", "canary\x7f"), "PLAIN: password contains a control character"},
		{Plain("", "user", "canary\x1f"), "PLAIN: password contains a control character"},
		{Login("", "canary"), "LOGIN: user name is empty"},
		{Login("user", "canary\r"), "LOGIN: password contains a control character"},
		{CRAMMD5("", "canary"), "CRAM-MD5: user name is empty"},
		{CRAMMD5("user", "canary\x00"), "CRAM-MD5: secret contains a control character"},
		{SCRAMSHA1("", "canary"), "SCRAM-SHA-1: user name is empty"},
		{SCRAMSHA1("user\tcanary", "x"), "SCRAM-SHA-1: user name contains a control character"},
		{SCRAMSHA256("user", "canary\x01"), "SCRAM-SHA-256: password contains a control character"},
		{SCRAMSHA1Plus("user", "canary", tls.ConnectionState{}), "SCRAM-SHA-1-PLUS: no channel binding: no TLS handshake has been completed"},
		{SCRAMSHA256Plus("user", "canary", tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS12}),
			"SCRAM-SHA-256-PLUS: no channel binding: this TLS 1.2 connection has no tls-unique (resumed without extended master secret)"},
		{SCRAMSHA256Plus("user", "canary", tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS13}),
			"SCRAM-SHA-256-PLUS: no channel binding: the connection state has no exporter"},
		{SCRAMSHA256Plus("", "canary", tls.ConnectionState{}), "SCRAM-SHA-256-PLUS: user name is empty"},
		{XOAuth2("", "canary"), "XOAUTH2: user name is empty"},
		{XOAuth2("user", ""), "XOAUTH2: token is empty"},
		{XOAuth2("user\x01auth=Bearer canary", "x"), "XOAUTH2: user name contains a control character"},
		{OAuthBearer("user\x01", "canary"), "OAUTHBEARER: user name contains a control character"},
		{OAuthBearer("", "canary\n"), "OAUTHBEARER: token contains a control character"},
		{OAuthBearer("user", ""), "OAUTHBEARER: token is empty"},
		{External("canary\x00"), "EXTERNAL: identity contains a control character"},
		{Anonymous("canary\r\n"), "ANONYMOUS: trace contains a control character"},
		{Anonymous("canary\xff"), "ANONYMOUS: trace is not UTF-8"},
		{Anonymous(strings.Repeat("é", 256)), "ANONYMOUS: trace is longer than 255 characters"},
	} {
		mech, ir, err := tt.client.Start()
		if err == nil || err.Error() != tt.want || mech != "" || ir != nil {
			t.Errorf("%v: Start = %q, %q, %v, want %s", tt.client, mech, ir, err, tt.want)
		}
		if _, err := tt.client.Next([]byte("go on")); err == nil {
			t.Errorf("%v: Next after a failed Start: no error", tt.client)
		}
		if tt.client.Finish() == nil {
			t.Errorf("%v: Finish after a failed Start: no error", tt.client)
		}
	}
}

func TestCRAMMD5EmptyChallenge(t *testing.T) {
	s := CRAMMD5("tim", "tanstaaf")
	s.Start()
	if response, err := s.Next(nil); err == nil || err.Error() != "CRAM-MD5: empty challenge" {
		t.Errorf("Next = %q, %v", response, err)
	}
	if _, err := s.Next([]byte("<1896@example.com>")); err == nil {
		t.Error("a second challenge was answered")
	}
	if s.Finish() == nil {
		t.Error("Finish: no error")
	}
}

func TestSCRAMServerFirst(t *testing.T) {
	const r = "r=" + sha1Nonce
	salt := base64.StdEncoding.EncodeToString(make([]byte, maxSalt))
	for _, tt := range []struct{ challenge, want string }{
		{sha1First, ""},
		{sha1First + ",x=unknown,y=", ""},
		{r + "x,s=" + salt + ",i=4096", ""},
		{r + "x,s=AA==,i=10000", ""},

		{"", "malformed"},
		{"r=", "malformed"},
		{",,,", "malformed"},
		{r + "x,s=AA==", "malformed"},
		{r + "x,i=4096,s=AA==", "malformed"},
		{"s=AA==," + r + "x,i=4096", "malformed"},
		{"x=y," + sha1First, "malformed"},
		{strings.ToUpper(sha1First[:2]) + sha1First[2:], "malformed"},
		{sha1Final, "malformed"},

		{"m=must," + sha1First, "unknown extension"},
		{sha1First + ",m=must", "unknown extension"},
		{sha1First + ",x=y,m=", "unknown extension"},

		{"e=unknown-user", `server reported the error "unknown-user"`},
		{"e=other-error,x=y", `server reported the error "other-error"`},
		{"e=" + strings.Repeat("x", 1000), `server reported the error "` + strings.Repeat("x", 128) + `"`},
		{"e=a\x1b[2J\r\n\u202eb\xff", `server reported the error "a[2Jb"`},
		{"e=not pencil!", `server reported the error ""`},

		{r + ",s=AA==,i=4096", "nonce does not extend"},
		{r[:len(r)-1] + ",s=AA==,i=4096", "nonce does not extend"},
		{"r=," + "s=AA==,i=4096", "nonce does not extend"},
		{"r=x" + sha1Nonce + "x,s=AA==,i=4096", "nonce does not extend"},
		{"r=" + strings.ToLower(sha1Nonce) + "xx,s=AA==,i=4096", "nonce does not extend"},
		{"r=" + strings.Repeat("x", 40) + ",s=AA==,i=4096", "nonce does not extend"},
		{r + "x y,s=AA==,i=4096", "nonce is not printable"},
		{r + "\x00,s=AA==,i=4096", "nonce is not printable"},
		{r + "\x7f,s=AA==,i=4096", "nonce is not printable"},
		{r + "é,s=AA==,i=4096", "nonce is not printable"},
		{r + "\xff,s=AA==,i=4096", "nonce is not printable"},

		{r + "x,s=,i=4096", "salt of 0 octets"},
		{r + "x,s=AAA,i=4096", "salt is not base64"},
		{r + "x,s=AB==,i=4096", "salt is not base64"}, // bits behind the last octet
		{r + "x,s=A\nA==,i=4096", "salt is not base64"},
		{r + "x,s=AA==\r\n,i=4096", "salt is not base64"},
		{r + "x,s=-_-_,i=4096", "salt is not base64"},
		{r + "x,s=AA== ,i=4096", "salt is not base64"},
		{r + "x,s=" + base64.StdEncoding.EncodeToString(make([]byte, maxSalt+1)) + ",i=4096", "salt of 1025 octets"},

		{r + "x,s=AA==,i=", `iteration count ""`},
		{r + "x,s=AA==,i=0", `iteration count "0"`},
		{r + "x,s=AA==,i=1", `iteration count "1"`},
		{r + "x,s=AA==,i=4095", `iteration count "4095"`},
		{r + "x,s=AA==,i=1000001", `iteration count "1000001"`},
		{r + "x,s=AA==,i=4294971392", `iteration count "4294971392"`}, // 4096 in 32 bits
		{r + "x,s=AA==,i=18446744073709555712", `iteration count "18446744073709555712"`},
		{r + "x,s=AA==,i=-4096", `iteration count "-4096"`},
		{r + "x,s=AA==,i=+4096", `iteration count "+4096"`},
		{r + "x,s=AA==,i=4096 ", `iteration count "4096 "`},
		{r + "x,s=AA==,i=0x1000", `iteration count "0x1000"`},
		{r + "x,s=AA==,i=4_096", `iteration count "4_096"`},
		{r + "x,s=AA==,i=1e4", `iteration count "1e4"`},
		{r + "x,s=AA==,i=pencil", `iteration count ""`},
	} {
		s := withNonce(SCRAMSHA1("user", "pencil"), sha1Nonce)
		s.Start()
		hashed := 0
		s.hash = func() hash.Hash { hashed++; return sha1.New() }
		response, err := s.Next([]byte(tt.challenge))
		if tt.want == "" {
			if err != nil || !bytes.HasPrefix(response, []byte("c=biws,r="+sha1Nonce)) {
				t.Errorf("Next(%.80q) = %q, %v", tt.challenge, response, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) || response != nil {
			t.Errorf("Next(%.80q) = %q, %v, want %s", tt.challenge, response, err, tt.want)
		}
		if hashed != 0 {
			t.Errorf("Next(%.80q): hashed before refusing", tt.challenge)
		}
		if _, err := s.Next([]byte(sha1First)); err == nil {
			t.Errorf("Next(%.80q): the exchange went on after the error", tt.challenge)
		}
		if s.Finish() == nil {
			t.Errorf("Next(%.80q): Finish: no error", tt.challenge)
		}
	}
}

func TestSCRAMServerFinal(t *testing.T) {
	flipped := sha1Final[:2] + "s" + sha1Final[3:]
	for _, tt := range []struct{ challenge, want string }{
		{"", "malformed"},
		{"x=y," + sha1Final, "malformed"},
		{sha1First, "malformed"},
		{"v=", "signature is wrong"},
		{flipped, "signature is wrong"},
		{sha1Final[:len(sha1Final)-1], "signature is wrong"},
		{sha1Final + "\n", "signature is wrong"},
		{"v=AAAAAAAAAAAAAAAAAAAAAAAAAAA=", "signature is wrong"},
		{"v=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=", "signature is wrong"}, // the client's proof sent back
		{sha256Final, "signature is wrong"},
		{"m=must," + sha1Final, "unknown extension"},
		{sha1Final + ",m=must", "unknown extension"},
		{"e=invalid-proof", `server reported the error "invalid-proof"`},
		{"e=" + "v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=", `server reported the error ""`},
		{"e=invalid-proof," + sha1Final, `server reported the error "invalid-proof"`},
	} {
		s := withNonce(SCRAMSHA1("user", "pencil"), sha1Nonce)
		s.Start()
		if _, err := s.Next([]byte(sha1First)); err != nil {
			t.Fatal(err)
		}
		response, err := s.Next([]byte(tt.challenge))
		if err == nil || !strings.Contains(err.Error(), tt.want) || response != nil {
			t.Errorf("Next(%q) = %q, %v, want %s", tt.challenge, response, err, tt.want)
		}
		if _, err := s.Next([]byte(sha1Final)); err == nil {
			t.Errorf("Next(%q): a second try was allowed", tt.challenge)
		}
		if s.Finish() == nil {
			t.Errorf("Next(%q): Finish: no error", tt.challenge)
		}
	}
}

// TestSCRAMRestart proves nothing by a proof of the exchange before.
func TestSCRAMRestart(t *testing.T) {
	s := withNonce(SCRAMSHA1("user", "pencil"), sha1Nonce)
	s.Start()
	s.Next([]byte(sha1First))
	s.Next([]byte(sha1Final))
	if err := s.Finish(); err != nil {
		t.Fatal(err)
	}
	s.Start()
	if s.Finish() == nil {
		t.Error("Finish of a second exchange: no error")
	}
}

func TestSCRAMNonce(t *testing.T) {
	s := SCRAMSHA256("user", "pencil")
	_, first, _ := s.Start()
	_, second, _ := s.Start()
	if bytes.Equal(first, second) {
		t.Error("two exchanges have one nonce")
	}
	if !regexp.MustCompile(`^n,,n=user,r=[!-+\--~]{20,}$`).Match(first) {
		t.Errorf("initial response %q", first)
	}
}

// scramServer checks a client's messages as RFC 5802 section 3 has the server do it, and returns its final message.
func scramServer(t *testing.T, h func() hash.Hash, password, salt string, iterations int, gs2Header string, binding []byte, ir, serverFirst, clientFinal []byte) []byte {
	t.Helper()
	mac := func(key, message []byte) []byte {
		m := hmac.New(h, key)
		m.Write(message)
		return m.Sum(nil)
	}
	bare, ok := bytes.CutPrefix(ir, []byte(gs2Header))
	if !ok {
		t.Fatalf("initial response %q, want the header %q", ir, gs2Header)
	}
	m := regexp.MustCompile(`^(c=([^,]*),r=[^,]*),p=(.*)$`).FindSubmatch(clientFinal)
	if m == nil {
		t.Fatalf("client's final message %q", clientFinal)
	}
	if want := base64.StdEncoding.EncodeToString(slices.Concat([]byte(gs2Header), binding)); string(m[2]) != want {
		t.Errorf("channel binding %s, want %s", m[2], want)
	}
	proof, err := base64.StdEncoding.DecodeString(string(m[3]))
	if err != nil || len(proof) != h().Size() {
		t.Fatalf("proof %q", m[3])
	}
	salted, err := pbkdf2.Key(h, password, []byte(salt), iterations, h().Size())
	if err != nil {
		t.Fatal(err)
	}
	auth := bytes.Join([][]byte{bare, serverFirst, m[1]}, []byte(","))
	sum := h()
	sum.Write(mac(salted, []byte("Client Key")))
	stored := sum.Sum(nil)
	for i, c := range mac(stored, auth) {
		proof[i] ^= c // now the client's key
	}
	sum = h()
	sum.Write(proof)
	if !bytes.Equal(sum.Sum(nil), stored) {
		t.Error("the client's proof is wrong")
	}
	return []byte("v=" + base64.StdEncoding.EncodeToString(mac(mac(salted, []byte("Server Key")), auth)))
}

// TestSCRAMPlus binds to connections of both TLS versions, and has the other end of the
// connection check it.
func TestSCRAMPlus(t *testing.T) {
	const password = "pässword,="
	for _, tt := range []struct {
		version uint16
		header  string
		hash    func() hash.Hash
		client  func(string, string, tls.ConnectionState) SCRAM
	}{
		{tls.VersionTLS12, "p=tls-unique,,", sha1.New, SCRAMSHA1Plus},
		{tls.VersionTLS12, "p=tls-unique,,", sha256.New, SCRAMSHA256Plus},
		{tls.VersionTLS13, "p=tls-exporter,,", sha1.New, SCRAMSHA1Plus},
		{tls.VersionTLS13, "p=tls-exporter,,", sha256.New, SCRAMSHA256Plus},
	} {
		near, far := handshake(t, tt.version)
		binding := far.TLSUnique
		if tt.version == tls.VersionTLS13 {
			var err error
			if binding, err = far.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32); err != nil {
				t.Fatal(err)
			}
		}
		s := tt.client("jürgen=a,b", password, near)
		mech, ir, err := s.Start()
		if err != nil || !strings.HasSuffix(mech, "-PLUS") {
			t.Fatalf("Start = %q, %q, %v", mech, ir, err)
		}
		first := []byte("r=" + s.nonce + "%server,s=c2FsdA==,i=4096,x=ignored")
		final, err := s.Next(first)
		if err != nil {
			t.Fatal(err)
		}
		verifier := scramServer(t, tt.hash, password, "salt", 4096, tt.header, binding, ir, first, final)
		if response, err := s.Next(verifier); err != nil || response == nil || len(response) != 0 {
			t.Errorf("%v: Next(%q) = %q, %v", s, verifier, response, err)
		}
		if err := s.Finish(); err != nil {
			t.Error(err)
		}
	}
}

// TestSCRAMPlusRenegotiation has crypto/tls itself refuse the exporter (RFC 9266 section 3).
func TestSCRAMPlusRenegotiation(t *testing.T) {
	near, _ := handshake(t, tls.VersionTLS13, func(c *tls.Config) { c.Renegotiation = tls.RenegotiateOnceAsClient })
	_, _, err := SCRAMSHA256Plus("user", "pencil", near).Start()
	if err == nil || !strings.Contains(err.Error(), "SCRAM-SHA-256-PLUS: no channel binding: crypto/tls: ") {
		t.Errorf("Start: %v", err)
	}
}

// handshake returns the states of the two ends of a TLS connection.
func handshake(t *testing.T, version uint16, adjust ...func(*tls.Config)) (client, server tls.ConnectionState) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"pop.example.com"},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{
		ServerName:             "pop.example.com",
		Certificates:           []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs:                x509.NewCertPool(),
		MinVersion:             version,
		MaxVersion:             version,
		SessionTicketsDisabled: true, // net.Pipe has no room for a ticket that nobody reads
	}
	config.RootCAs.AddCert(cert)
	for _, f := range adjust {
		f(config)
	}

	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	near, far := tls.Client(a, config), tls.Server(b, config)
	done := make(chan error)
	go func() { done <- far.Handshake() }()
	err = near.Handshake()
	if err != nil {
		a.Close()
	}
	if farErr := <-done; err != nil || farErr != nil {
		t.Fatalf("handshake: %v, %v", err, farErr)
	}
	return near.ConnectionState(), far.ConnectionState()
}

func TestBearerStatus(t *testing.T) {
	const token = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
	for _, tt := range []struct{ challenge, want string }{
		{failureJSON, "invalid_token"},
		{`{"status":"invalid_token","schemes":"bearer mac","scope":"https://mail.example.com/"}`, "invalid_token"}, // RFC 7628 section 4.4
		{`{"status":"a\u0000\r\n\u001b[2Jb\u007fc\u202ed é"}`, "a[2Jbcd "},
		{`{"status":"` + strings.Repeat("x", 1000) + `"}`, strings.Repeat("x", 128)},
		{`{"status":"` + token + `"}`, ""},
		{`{"status":"bad token ` + token + `!"}`, ""},
		{`{"status":"bad token ` + token[:20] + `..."}`, ""},
		{`{"status":"` + strings.Repeat("x", 100) + token + `"}`, ""},
		{`{"status":"` + token[:3] + `\u0001` + token[3:] + `"}`, ""},
		{`{"status":401}`, "401"},
		{`{"status":null}`, ""},
		{`{"scope":"x"}`, ""},
		{`["status"]`, ""},
		{`{"status":"401"`, ""},
		{`nonsense`, ""},
		{``, ""},
		{strings.Repeat(`[`, 1<<16), ""},
	} {
		for _, s := range []Bearer{XOAuth2("user", token), OAuthBearer("user", token)} {
			s.Start()
			response, err := s.Next([]byte(tt.challenge))
			if err != nil || response == nil || string(response) != s.answer {
				t.Errorf("%v: Next(%.80q) = %q, %v", s, tt.challenge, response, err)
			}
			if got := s.Status(); got != tt.want {
				t.Errorf("%v: Status after %.80q = %q, want %q", s, tt.challenge, got, tt.want)
			}
			if err := s.Finish(); err == nil || strings.Contains(err.Error(), token) {
				t.Errorf("%v: Finish after %.80q = %v", s, tt.challenge, err)
			}
			s.Start()
			if got := s.Status(); got != "" {
				t.Errorf("%v: Status after a new Start = %q", s, got)
			}
			if err := s.Finish(); err != nil {
				t.Errorf("%v: Finish after a new Start: %v", s, err)
			}
		}
	}
}

// TestCanary prints every mechanism at every point of its exchange, every way there is.
func TestCanary(t *testing.T) {
	const canary = "canary-7f3a"
	names := []string{
		"PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS",
		"XOAUTH2", "OAUTHBEARER", "EXTERNAL", "ANONYMOUS",
	}
	for i, s := range mechanisms(canary, canary) {
		secrets := []string{canary}
		check := func(at string) {
			var text, structured bytes.Buffer
			slog.New(slog.NewTextHandler(&text, nil)).Info("msg", "s", s)
			slog.New(slog.NewJSONHandler(&structured, nil)).Info("msg", "s", s)
			encoded, _ := json.Marshal(s)
			printed := map[string]string{"slog text": text.String(), "slog JSON": structured.String()}
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%t", "%c", "%U", "%o", "%b", "%e", "%20v", "%-20s", "%w"} {
				printed[verb] = fmt.Sprintf(verb, s)
				if !strings.Contains(printed[verb], names[i]) && verb != "%w" {
					t.Errorf("%s: %s prints %q", names[i], verb, printed[verb])
				}
			}
			for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%p", "%w"} {
				printed[verb+" in structs"] = fmt.Sprintf(verb, struct {
					s client
					S client
					t []client
				}{s, s, []client{s}})
			}
			printed["JSON"] = string(encoded)
			for how, out := range printed {
				for _, secret := range secrets {
					if strings.Contains(out, secret) || strings.Contains(out, fmt.Sprintf("%x", secret)) {
						t.Errorf("%s: %s: %s shows a secret: %s", names[i], at, how, out)
					}
				}
			}
			for how, out := range map[string]*bytes.Buffer{"slog text": &text, "slog JSON": &structured} {
				if !strings.Contains(out.String(), names[i]) {
					t.Errorf("%s: %s has no name: %s", names[i], how, out)
				}
			}
		}
		check("new")
		mech, ir, err := s.Start()
		if err != nil || mech != names[i] {
			t.Fatalf("Start = %q, %q, %v, want %s", mech, ir, err, names[i])
		}
		check("started")
		challenges := []string{
			"r=" + sha1Nonce + canary + ",s=AA==,i=4096", "r=" + sha256Nonce + canary + ",s=AA==,i=4096",
			"e=" + canary, `{"status":"` + canary + `"}`, "v=" + canary,
		}
		if sc, ok := s.(SCRAM); ok {
			challenges = slices.Insert(challenges, 0, "r="+sc.nonce+"x,s=AA==,i=4096")
		}
		for _, challenge := range challenges {
			response, err := s.Next([]byte(challenge))
			if sc, ok := s.(SCRAM); ok && err == nil {
				secrets = append(secrets, sc.proof, sc.signature)
			}
			for _, secret := range secrets {
				if err != nil && strings.Contains(err.Error(), secret) {
					t.Errorf("%v: Next(%q): the error shows a secret: %v", s, challenge, err)
				}
			}
			if len(response) > 4 {
				secrets = append(secrets, string(response))
			}
			check("after " + challenge)
			if err := s.Finish(); err != nil && strings.Contains(err.Error(), canary) {
				t.Errorf("%v: Finish shows a secret: %v", s, err)
			}
		}
	}
}

// FuzzMechanisms gives every mechanism the same challenges, one a line.
func FuzzMechanisms(f *testing.F) {
	for _, seed := range []string{
		"", "\n", "\n\n\n", "Username:\nPassword:\nAgain:", "<1896.697170952@postoffice.reston.mci.net>",
		sha1First + "\n" + sha1Final, sha256First + "\n" + sha256Final,
		sha1First + ",x=y\n" + sha1Final + ",x=y\n", sha1First + "\ne=invalid-proof", sha256First + "\n" + sha1Final,
		"r=" + sha1Nonce + "x,s=AA==,i=4095", "r=" + sha1Nonce + "x,s=,i=4096", "m=x," + sha1First, "e=\x00",
		failureJSON, `{"status":"pencil"}`, `{"status":"\u0000"}` + "\n", `[[[[`,
	} {
		f.Add([]byte(seed))
	}
	// A count within the bounds is honest work; the fuzzer's time is for the rest.
	slow := regexp.MustCompile(`i=0*[1-9][0-9]{4,6}`)
	f.Fuzz(func(t *testing.T, data []byte) {
		if slow.Match(data) {
			t.Skip()
		}
		challenges := bytes.Split(data, []byte("\n"))
		const secret = "pencil"
		for _, s := range mechanisms("user", secret) {
			if _, _, err := s.Start(); err != nil {
				t.Fatalf("%v: %v", s, err)
			}
			var failed error
			answered := 0
			for _, challenge := range challenges {
				response, err := s.Next(challenge)
				switch {
				case err != nil:
					failed = err
					if response != nil {
						t.Errorf("%v: Next(%q) = %q and an error", s, challenge, response)
					}
					if text := err.Error(); strings.Contains(text, secret) || len(text) > 512 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
						t.Errorf("%v: Next(%q): %q", s, challenge, text)
					}
				case failed != nil:
					t.Errorf("%v: Next(%q) = %q after %v", s, challenge, response, failed)
				case response == nil:
					t.Errorf("%v: Next(%q) = nil", s, challenge)
				default:
					answered++
				}
			}
			if answered > 2 {
				t.Errorf("%v answered %d challenges", s, answered)
			}
			finish := s.Finish()
			if failed != nil && finish == nil {
				t.Errorf("%v: Finish: no error after %v", s, failed)
			}
			switch s := s.(type) {
			case Bearer:
				if status := s.Status(); strings.Contains(status, secret) || len(status) > maxText || strings.ContainsFunc(status, func(r rune) bool { return r < ' ' || r > '~' }) {
					t.Errorf("%v: Status = %q", s, status)
				}
			case SCRAM:
				if finish == nil && !bytes.HasPrefix(challenges[1], []byte("v=")) {
					t.Errorf("%v: verified by %q", s, challenges)
				}
			}
		}
	})
}
