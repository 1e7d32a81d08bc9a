package sasl

import (
	"bytes"
	"cmp"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"hash"
	"regexp"
	"strings"
	"testing"

	"example.com/pop3/internal/pop3test"
)

func withNonce(s SCRAM, nonce string) SCRAM {
	s.newNonce = func() string { return nonce }
	return s
}

// tls12 is a state such as crypto/tls gives for a TLS 1.2 connection.
var tls12 = tls.ConnectionState{Version: tls.VersionTLS12, HandshakeComplete: true, TLSUnique: []byte("unique value")}

// mechanisms returns one value of each, with the given secret.
func mechanisms(username, secret string) []Client {
	return []Client{
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
		client Client
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
			if strings.Contains(tt.mech, "MD5") || strings.Contains(tt.mech, "SHA-1") {
				pop3test.NeedMD5(t)
			}
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
	pop3test.NeedMD5(t)
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
	pop3test.NeedMD5(t)
	for _, tt := range []struct {
		client Client
		want   string
	}{
		{Plain("", "", "canary"), "PLAIN: the user name is empty"},
		{Plain("a\x00canary", "user", "x"), "PLAIN: the identity holds a NUL"},
		{Plain("", "user\x00canary", "x"), "PLAIN: the user name holds a NUL"},
		{Plain("", "user", "canary\x00"), "PLAIN: the password holds a NUL"},
		{Login("", "canary"), "LOGIN: the user name is empty"},
		{Login("user\x00canary", "x"), "LOGIN: the user name holds a NUL"},
		{Login("user", "canary\x00"), "LOGIN: the password holds a NUL"},
		{CRAMMD5("", "canary"), "CRAM-MD5: the user name is empty"},
		{CRAMMD5("user", "canary\x00"), "CRAM-MD5: the secret holds control octet 0x00"},
		{SCRAMSHA1("", "canary"), "SCRAM-SHA-1: the user name is empty"},
		{SCRAMSHA1("user\tcanary", "x"), "SCRAM-SHA-1: the user name holds control octet 0x09"},
		{SCRAMSHA256("user", "canary\x7f"), "SCRAM-SHA-256: the password holds control octet 0x7f"},
		{SCRAMSHA256("user", "canary\n"), "SCRAM-SHA-256: the password ends with a line break"},
		{SCRAMSHA1Plus("user", "canary", tls.ConnectionState{}), "SCRAM-SHA-1-PLUS: no channel binding: no TLS handshake has been completed"},
		{SCRAMSHA256Plus("user", "canary", tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS12}),
			"SCRAM-SHA-256-PLUS: no channel binding: this TLS 1.2 connection has no tls-unique (resumed without extended master secret)"},
		{SCRAMSHA256Plus("user", "canary", tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS13}),
			"SCRAM-SHA-256-PLUS: no channel binding: the connection state has no exporter"},
		{SCRAMSHA256Plus("", "canary", tls.ConnectionState{}), "SCRAM-SHA-256-PLUS: the user name is empty"},
		{XOAuth2("", "canary"), "XOAUTH2: the user name is empty"},
		{XOAuth2("user", ""), "XOAUTH2: the token is empty"},
		{XOAuth2("user\x01auth=Bearer canary", "x"), "XOAUTH2: the user name holds control octet 0x01"},
		{OAuthBearer("user\x01", "canary"), "OAUTHBEARER: the user name holds control octet 0x01"},
		{OAuthBearer("", "canary\r\n"), "OAUTHBEARER: the token ends with a line break"},
		{OAuthBearer("user", ""), "OAUTHBEARER: the token is empty"},
		{External("canary\x00"), "EXTERNAL: the identity holds control octet 0x00"},
		{Anonymous("canary\r\nx"), "ANONYMOUS: the trace holds control octet 0x0d"},
		{Anonymous("canary\xff"), "ANONYMOUS: the trace is not UTF-8"},
		{Anonymous(strings.Repeat("é", 256)), "ANONYMOUS: the trace is longer than 255 characters"},
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

func TestSCRAMServerFirst(t *testing.T) {
	pop3test.NeedMD5(t)
	const r = "r=" + sha1Nonce
	salt := base64.StdEncoding.EncodeToString(make([]byte, maxSalt))
	for _, tt := range []struct{ challenge, want string }{
		{sha1First, ""},
		{sha1First + ",x=unknown,y=", ""},
		{r + "x,s=" + salt + ",i=4096", ""},
		{r + "x,s=AA==,i=10000", ""},

		{"", "malformed"},
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
		{"e=not pencil!", `server reported the error "not ***!"`},

		{r + ",s=AA==,i=4096", "nonce does not extend"},
		{r[:len(r)-1] + ",s=AA==,i=4096", "nonce does not extend"},
		{"r=x" + sha1Nonce + "x,s=AA==,i=4096", "nonce does not extend"},
		{"r=" + strings.ToLower(sha1Nonce) + "xx,s=AA==,i=4096", "nonce does not extend"},
		{r + "x y,s=AA==,i=4096", "nonce is not printable"},
		{r + "\x00,s=AA==,i=4096", "nonce is not printable"},
		{r + "é,s=AA==,i=4096", "nonce is not printable"},
		{r + "\xff,s=AA==,i=4096", "nonce is not printable"},

		{r + "x,s=,i=4096", "the salt has 0 octets"},
		{r + "x,s=AAA,i=4096", "salt is not base64"},
		{r + "x,s=AB==,i=4096", "salt is not base64"}, // bits behind the last octet
		{r + "x,s=A\nA==,i=4096", "salt is not base64"},
		{r + "x,s=-_-_,i=4096", "salt is not base64"},
		{r + "x,s=" + base64.StdEncoding.EncodeToString(make([]byte, maxSalt+1)) + ",i=4096", "the salt has 1025 octets"},

		{r + "x,s=AA==,i=", `iteration count ""`},
		{r + "x,s=AA==,i=4095", `iteration count "4095"`},
		{r + "x,s=AA==,i=1000001", `iteration count "1000001"`},
		{r + "x,s=AA==,i=4294971392", `iteration count "4294971392"`}, // 4096 in 32 bits
		{r + "x,s=AA==,i=18446744073709555712", `iteration count "18446744073709555712"`},
		{r + "x,s=AA==,i=-4096", `iteration count "-4096"`},
		{r + "x,s=AA==,i=+4096", `iteration count "+4096"`},
		{r + "x,s=AA==,i=4096 ", `iteration count "4096 "`},
		{r + "x,s=AA==,i=4_096", `iteration count "4_096"`},
		{r + "x,s=AA==,i=pencil", `iteration count "***"`},
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
	pop3test.NeedMD5(t)
	flipped := sha1Final[:2] + "s" + sha1Final[3:]
	for _, tt := range []struct{ challenge, want string }{
		{"", "malformed"},
		{"x=y," + sha1Final, "malformed"},
		{sha1First, "malformed"},
		{"v=", "signature is wrong"},
		{flipped, "signature is wrong"},
		{sha1Final[:len(sha1Final)-1], "signature is wrong"},
		{sha1Final + "\n", "signature is wrong"},
		{"v=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=", "signature is wrong"}, // the client's proof sent back
		{sha256Final, "signature is wrong"},
		{"m=must," + sha1Final, "unknown extension"},
		{sha1Final + ",m=must", "unknown extension"},
		{"e=invalid-proof", `server reported the error "invalid-proof"`},
		{"e=" + "v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=", `server reported the error "***"`},
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
	pop3test.NeedMD5(t)
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

// crypto/tls itself refuses the exporter to a client that may renegotiate (RFC 9266 section 3).
func TestSCRAMPlusRenegotiation(t *testing.T) {
	config := pop3test.ScriptTLS()
	config.Renegotiation = tls.RenegotiateOnceAsClient
	near, far := pop3test.Pipe()
	defer near.Close()
	go tls.Server(far, pop3test.ServerTLS()).Handshake()
	client := tls.Client(near, config)
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	_, _, err := SCRAMSHA256Plus("user", "pencil", client.ConnectionState()).Start()
	if err == nil || !strings.Contains(err.Error(), "SCRAM-SHA-256-PLUS: no channel binding: crypto/tls: ") {
		t.Errorf("Start: %v", err)
	}
}

func TestBearerStatus(t *testing.T) {
	const token = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
	for _, tt := range []struct{ challenge, want string }{
		{failureJSON, "invalid_token"},
		{`{"status":"invalid_token","schemes":"bearer mac","scope":"https://mail.example.com/"}`, "invalid_token"}, // RFC 7628 section 4.4
		{`{"status":"a\u0000\r\n\u001b[2Jb\u007fc\u202ed é"}`, "a[2Jbcd "},
		{`{"status":"` + strings.Repeat("x", 1000) + `"}`, strings.Repeat("x", 128)},
		{`{"status":"` + token + `"}`, "***"},
		{`{"status":"bad token ` + token + `!"}`, "bad token ***!"},
		{`{"status":"bad token ` + token[:20] + `..."}`, "bad token ***..."},
		{`{"status":"` + strings.Repeat("x", 100) + token + `"}`, strings.Repeat("x", 100) + "***"},
		{`{"status":"` + token[:3] + `\u0001` + token[3:] + `"}`, "***"},
		{`{"status":401}`, "401"},
		{`{"status":null}`, ""},
		{`{"scope":"x"}`, ""},
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

// TestCanary prints SCRAM at each point of its exchange: what it has then, the proof and the
// server's signature, is not to be seen. All that can be done without looking inside is in
// internal/hostile.
func TestCanary(t *testing.T) {
	pop3test.NeedMD5(t)
	for _, s := range mechanisms("user", "canary-7f3a") {
		scram, ok := s.(SCRAM)
		if !ok {
			continue
		}
		scram.Start()
		scram.Next([]byte("r=" + scram.nonce + "x,s=AA==,i=4096"))
		if scram.proof == "" || scram.signature == "" {
			t.Fatalf("%v: there is no proof", s)
		}
		var within struct {
			s Client
			S []Client
		}
		within.s, within.S = s, []Client{s}
		out := fmt.Sprintf("%v %+v %#v %s %q %v %+v %#v %s %q", s, s, s, s, s, within, within, within, within, within)
		for _, secret := range []string{scram.proof, scram.signature} {
			if strings.Contains(out, secret) {
				t.Errorf("%v: %q is shown: %s", s, secret, out)
			}
		}
	}
}

func names(methods []*Method) string {
	var list []string
	for _, m := range methods {
		list = append(list, cmp.Or(m.Mech, "USER"))
	}
	return strings.Join(list, " ")
}

func TestMethods(t *testing.T) {
	all := []string{"LOGIN", "PLAIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "GSSAPI", ""}
	for _, tt := range []struct {
		mechs     []string
		user, tls bool
		want      string
	}{
		{all, true, false, "SCRAM-SHA-256 SCRAM-SHA-1 CRAM-MD5 PLAIN LOGIN USER"},
		{all, true, true, "SCRAM-SHA-256 SCRAM-SHA-1 PLAIN LOGIN CRAM-MD5 USER"},
		{all[:3], false, true, "PLAIN LOGIN CRAM-MD5"},
		{all[2:3], true, true, "CRAM-MD5 USER"},
		{nil, true, false, "USER"},
		{all[5:], false, false, ""},
	} {
		if got := names(Methods(tt.mechs, tt.user, tt.tls)); got != tt.want {
			t.Errorf("%q, TLS %t: %s, want %s", tt.mechs, tt.tls, got, tt.want)
		}
	}
}

// Lines of more than 128 octets do not pass nginx's mail proxy. Base64 comes in fours, so
// of most methods no line has just 128.
func TestLineLengths(t *testing.T) {
	pop3test.NeedMD5(t)
	for _, tt := range []struct {
		m              *Method
		user, password int
		longest        int // line, in octets with CRLF
		fits           bool
	}{
		{plain, 45, 46, 126, true},
		{plain, 45, 47, 130, false},
		{plain, 91, 0, 126, true},
		{login, 93, 93, 126, true},
		{login, 94, 1, 130, false},
		{login, 1, 94, 130, false},
		{cramMD5, 60, 1000, 126, true},
		{cramMD5, 61, 1, 130, false},
		{userPass, 121, 121, 128, true},
		{userPass, 122, 1, 129, false},
		{userPass, 1, 122, 129, false},
		{scram256, 1000, 1000, 0, true},
	} {
		user, password := strings.Repeat("u", tt.user), strings.Repeat("p", tt.password)
		if tt.m.line != nil && tt.m.line(user, password) != tt.longest || tt.m.fits(user, password) != tt.fits {
			t.Errorf("%q, %d and %d octets: fits %t, want a line of %d octets", tt.m.Mech, tt.user, tt.password, tt.m.fits(user, password), tt.longest)
		}
	}
	for _, tt := range []struct {
		mechs          string
		user, tls      bool
		name, password int
		want           string
	}{
		{"PLAIN LOGIN CRAM-MD5 SCRAM-SHA-1", true, true, 5, 5, "SCRAM-SHA-1"},
		{"PLAIN LOGIN CRAM-MD5", true, true, 5, 5, "PLAIN"},
		{"PLAIN LOGIN CRAM-MD5", true, false, 5, 5, "CRAM-MD5"},
		{"PLAIN LOGIN", true, true, 60, 60, "LOGIN"},
		{"PLAIN LOGIN", true, true, 5, 100, "USER"},
		{"PLAIN LOGIN", false, true, 5, 100, "PLAIN"}, // nothing fits
		{"PLAIN LOGIN CRAM-MD5", true, true, 5, 100, "CRAM-MD5"},
		{"PLAIN LOGIN CRAM-MD5", true, true, 100, 100, "USER"},
		{"PLAIN LOGIN CRAM-MD5", true, false, 100, 100, "CRAM-MD5"},
		{"PLAIN", true, true, 122, 5, "PLAIN"},
	} {
		m := Choose(Methods(strings.Fields(tt.mechs), tt.user, tt.tls), strings.Repeat("u", tt.name), strings.Repeat("p", tt.password))
		if got := names([]*Method{m}); got != tt.want {
			t.Errorf("%s, %d and %d octets, TLS %t: chose %s, want %s", tt.mechs, tt.name, tt.password, tt.tls, got, tt.want)
		}
	}
}

func TestSpent(t *testing.T) {
	pop3test.NeedMD5(t)
	for _, tt := range []struct {
		m     *Method
		spent string // after 0, 1 and 2 responses
	}{
		{scram256, "false false true"}, {scram1, "false false true"}, {cramMD5, "false true true"},
		{plain, "false true true"}, {login, "false true true"}, // a refused name of LOGIN is final
	} {
		if got := fmt.Sprint(tt.m.Spent(0), tt.m.Spent(1), tt.m.Spent(2)); got != tt.spent {
			t.Errorf("%s: spent %s, want %s", tt.m.Mech, got, tt.spent)
		}
		if mech, _, err := tt.m.New("user", "pencil").Start(); mech != tt.m.Mech || err != nil {
			t.Errorf("%s: New makes %s, %v", tt.m.Mech, mech, err)
		}
	}
	if userPass.New("user", "pencil") != nil {
		t.Error("USER and PASS are a mechanism")
	}
}

func TestKinds(t *testing.T) {
	for _, tt := range []struct {
		mech                      string
		name, bearer, clientFirst bool
	}{
		{"PLAIN", true, false, true}, {"plain", true, false, true}, {"EXTERNAL", true, false, true}, {"ANONYMOUS", true, false, true},
		{"SCRAM-SHA-512-PLUS", true, false, true}, {"scram-sha-1", true, false, true},
		{"XOAUTH2", true, true, false}, {"oauthbearer", true, true, false},
		{"LOGIN", true, false, false}, {"CRAM-MD5", true, false, false}, {"KERBEROS_V4", true, false, false},
		{"", false, false, false}, {"A B", false, false, false}, {"A\r\nQUIT", false, false, false}, {"Ä", false, false, false},
		{strings.Repeat("X", 20), true, false, false}, {strings.Repeat("X", 21), false, false, false}, // RFC 4422 section 3.1
	} {
		if IsName(tt.mech) != tt.name || IsBearer(tt.mech) != tt.bearer || IsClientFirst(tt.mech) != tt.clientFirst {
			t.Errorf("%q: name %t, bearer %t, client first %t", tt.mech, IsName(tt.mech), IsBearer(tt.mech), IsClientFirst(tt.mech))
		}
	}
}

func TestMask(t *testing.T) {
	for _, tt := range []struct {
		secrets    []string
		text, want string
	}{
		{[]string{"tanstaaf"}, "wrong password tanstaaf, tanstaaf!", "wrong password ***, ***!"},
		{[]string{"tanstaaf"}, "TANSTAAF or TanStaaf", "*** or ***"},
		{[]string{"Tanstaaf"}, "tanstaaf", "***"},
		{[]string{"tanstaaftanstaaf"}, "cut off: tanstaaf... and tanstaafT", "cut off: ***... and ***"},
		{[]string{"tanstaaftanstaaf"}, "cut off: tanstaa...", "cut off: tanstaa..."},
		{[]string{"tanstaaf", "tanstaaftanstaaf"}, "tanstaaftanstaaf", "***"},
		{[]string{" tanstaaf\t"}, "tanstaaf", "***"}, // the text comes without blanks around it
		{[]string{"the"}, "the password is wrong", "the password is wrong"},
		{[]string{"four"}, "fourfour", "***"},
		{[]string{"tanstaaf", "staafhorse"}, "tanstaafhorse", "***"}, // they overlap
		{[]string{"four", ""}, "", ""},
		{[]string{"größe"}, "GRößE", "***"}, // only ASCII is folded
		{nil, "tanstaaf", "tanstaaf"},
	} {
		text := []byte(tt.text)
		if got := NewSecrets(tt.secrets...).Mask(text); string(got) != tt.want || string(text) != tt.text {
			t.Errorf("%q: Mask(%q) = %q, want %q", tt.secrets, tt.text, got, tt.want)
		}
	}
	if got := (*Secrets)(nil).Mask([]byte("x")); string(got) != "x" {
		t.Errorf("no Secrets: %q", got)
	}
}

// What each response holds that is secret, and what is not.
func TestAddResponse(t *testing.T) {
	for _, tt := range []struct {
		mech      string
		n         int
		response  string
		echo      string
		want      string
		hasBase64 bool // which is masked as well
	}{
		{"PLAIN", 0, "identity\x00long.user@example.com\x00tanstaaf", "identity long.user@example.com tanstaaf", "identity long.user@example.com ***", true},
		{"plain", 0, "\x00tim\x00tanstaaf", "tim tanstaaf", "tim ***", true},
		{"LOGIN", 0, "long.user@example.com", "long.user@example.com", "long.user@example.com", false},
		{"LOGIN", 1, "tanstaaf", "tanstaaf", "***", true},
		{"CRAM-MD5", 0, "long.user@example.com b913a602c7eda7a4", "long.user@example.com b913a602c7eda7a4", "long.user@example.com ***", true},
		{"SCRAM-SHA-256", 0, "n,,n=long.user@example.com,r=abcdefgh", "n,,n=long.user@example.com", "n,,n=long.user@example.com", false},
		{"SCRAM-SHA-256", 1, "c=biws,r=abcdefgh,p=v0X8v3Bz2T0CJGbJ", "p=v0X8v3Bz2T0CJGbJ", "p=***", true},
		{"XOAUTH2", 0, "user=long.user@example.com\x01auth=Bearer vF9dft4q\x01\x01", "long.user@example.com vF9dft4q", "long.user@example.com ***", true},
		{"OAUTHBEARER", 0, "n,a=long.user@example.com,\x01auth=Bearer vF9dft4q\x01\x01", "long.user@example.com vF9dft4q", "long.user@example.com ***", true},
		{"EXTERNAL", 0, "long.user@example.com", "long.user@example.com", "long.user@example.com", false},
		{"ANONYMOUS", 0, "long.user@example.com", "long.user@example.com", "long.user@example.com", false},
		{"X-MECH", 0, "tanstaaf", "tanstaaf", "***", true}, // nobody knows
	} {
		s := NewSecrets()
		s.AddResponse(tt.mech, tt.n, []byte(tt.response))
		if got := string(s.Mask([]byte(tt.echo))); got != tt.want {
			t.Errorf("%s: Mask(%q) = %q, want %q", tt.mech, tt.echo, got, tt.want)
		}
		encoded := base64.StdEncoding.EncodeToString([]byte(tt.response))
		if got := string(s.Mask([]byte(encoded))); (got == "***") != tt.hasBase64 {
			t.Errorf("%s: Mask(%q) = %q", tt.mech, encoded, got)
		}
	}
}

// FuzzMechanisms gives every mechanism the same challenges, one a line.
func FuzzMechanisms(f *testing.F) {
	pop3test.NeedMD5(f)
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
