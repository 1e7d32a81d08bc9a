package pop3test

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"regexp"
	"strings"
	"testing"
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func (p *peer) challenge() string {
	p.t.Helper()
	text, ok := strings.CutPrefix(p.line(), "+ ")
	b, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil {
		p.t.Fatalf("no challenge: %q", text)
	}
	return string(b)
}

func TestSASL(t *testing.T) {
	t.Parallel()
	failed := "< -ERR [AUTH] Authentication failed"
	in := "< +OK Logged in"
	tests := []struct {
		name     string
		dialogue string
	}{
		{"none", "> AUTH NONE\n< -ERR Mechanism is not available"},
		{"PLUS in clear", "> AUTH SCRAM-SHA-1-PLUS\n< -ERR Mechanism is not available"},
		{"EXTERNAL in clear", "> AUTH EXTERNAL =\n< -ERR Mechanism is not available"},
		{"cancel", "> AUTH PLAIN\n< + \n> *\n< -ERR Authentication cancelled\n> AUTH ANONYMOUS =\n" + in},
		{"bad base64", "> AUTH PLAIN ===\n< -ERR Not base64\n> AUTH PLAIN\n< + \n> x\n< -ERR Not base64"},
		{"long", "> AUTH PLAIN\n< + \n> " + strings.Repeat("x", maxResponse+1) + "\n< -ERR Command too long\n> QUIT\n< +OK Goodbye"},
		{"PLAIN", "> auth plain " + b64("\x00tim\x00tanstaaftanstaaf") + "\n" + in}, // RFC 4616 section 4
		{"PLAIN asked", "> AUTH PLAIN\n< + \n> " + b64("tim\x00tim\x00tanstaaftanstaaf") + "\n" + in},
		{"PLAIN wrong", "> AUTH PLAIN " + b64("\x00tim\x00x") + "\n" + failed},
		{"PLAIN for another", "> AUTH PLAIN " + b64("ursel\x00tim\x00tanstaaftanstaaf") + "\n" + failed},
		{"PLAIN malformed", "> AUTH PLAIN =\n" + failed},
		{"LOGIN", "> AUTH LOGIN\n< + VXNlcm5hbWU6\n> " + b64("tim") + "\n< + UGFzc3dvcmQ6\n> " + b64("tanstaaftanstaaf") + "\n" + in},
		{"LOGIN at once", "> AUTH LOGIN " + b64("tim") + "\n< + UGFzc3dvcmQ6\n> " + b64("tanstaaftanstaaf") + "\n" + in},
		{"LOGIN wrong", "> AUTH LOGIN " + b64("tim") + "\n< + UGFzc3dvcmQ6\n> \n" + failed},
		{"CRAM-MD5 at once", "> AUTH CRAM-MD5 =\n" + failed},
		{"CRAM-MD5 malformed", "> AUTH CRAM-MD5\n~ \\+ .*\n> \n" + failed},
		{"XOAUTH2", "> AUTH XOAUTH2\n< + \n> " + b64("user=tim\x01auth=Bearer vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg==\x01\x01") + "\n" + in},
		{"XOAUTH2 wrong", "> AUTH XOAUTH2 " + b64("user=tim\x01auth=Bearer x\x01\x01") + "\n< + " + b64(`{"status":"400","schemes":"bearer","scope":"mail"}`) + "\n> \n" + failed},
		{"no token", "> AUTH XOAUTH2 " + b64("user=ursel\x01auth=Bearer \x01\x01") + "\n~ \\+ .+\n> \n" + failed},
		{"OAUTHBEARER", "> AUTH OAUTHBEARER\n< + \n> " + b64("n,a=tim,\x01host=server.example.com\x01port=143\x01auth=Bearer vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg==\x01\x01") + "\n" + in},
		{"OAUTHBEARER wrong", "> AUTH OAUTHBEARER " + b64("n,a=tim,\x01auth=Bearer x\x01\x01") + "\n< + " + b64(`{"status":"invalid_token","schemes":"bearer","scope":"mail"}`) + "\n> AQ==\n" + failed},
		{"ANONYMOUS", "> AUTH ANONYMOUS " + b64("sirhc") + "\n" + in},
		{"SCRAM nobody", "> AUTH SCRAM-SHA-256 " + b64("n,,n=nobody,r=x") + "\n" + failed},
		{"SCRAM bound", "> AUTH SCRAM-SHA-256 " + b64("p=tls-unique,,n=tim,r=x") + "\n" + failed},
		{"SCRAM for another", "> AUTH SCRAM-SHA-256 " + b64("n,a=ursel,n=tim,r=x") + "\n" + failed},
		{"SCRAM extended", "> AUTH SCRAM-SHA-256 " + b64("n,,m=x,n=tim,r=x") + "\n" + failed},
		{"SCRAM malformed", "> AUTH SCRAM-SHA-256 =\n" + failed},
		{"SCRAM no proof", "> AUTH SCRAM-SHA-256 " + b64("n,,n=tim,r=x") + "\n~ \\+ .*\n> " + b64("c=biws,r=x") + "\n" + failed},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if strings.Contains(test.dialogue, "MD5") {
				NeedMD5(t)
			}
			s := NewUnstartedServer()
			s.AddUser("tim", "tanstaaftanstaaf").Token = "vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg=="
			s.AddUser("ursel", "")
			s.AddUser("anonymous", "")
			serveSession(t, s).play(test.dialogue)
		})
	}
}

// TestCRAMMD5 has the key and the challenge's form of RFC 2195 section 2.
func TestCRAMMD5(t *testing.T) {
	NeedMD5(t)
	t.Parallel()
	s := NewUnstartedServer()
	s.AddUser("tim two", "tanstaaftanstaaf")
	p := serveSession(t, s)
	answer := func() (challenge, response string) {
		p.send("AUTH CRAM-MD5\r\n")
		challenge = p.challenge()
		mac := hmac.New(md5.New, []byte("tanstaaftanstaaf"))
		mac.Write([]byte(challenge))
		return challenge, b64("tim two " + hex.EncodeToString(mac.Sum(nil)))
	}
	first, old := answer()
	p.play("> * | < -ERR Authentication cancelled")
	second, _ := answer()
	p.play("> " + old + " | < -ERR [AUTH] Authentication failed")
	third, now := answer()
	if first == second || second == third {
		t.Error("the same challenge twice")
	}
	p.play("> " + now + " | < +OK Logged in")
}

// scram is a SCRAM client written along RFC 5802 section 3, held to the
// examples of RFC 5802 section 5 and RFC 7677 section 3 by TestSCRAMVectors.
func scram(h func() hash.Hash, password, salt string, iterations int, messages string) (proof, signature string) {
	salted, _ := pbkdf2.Key(h, password, []byte(salt), iterations, h().Size())
	mac := func(key []byte, text string) []byte {
		m := hmac.New(h, key)
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	clientKey := mac(salted, "Client Key")
	stored := h()
	stored.Write(clientKey)
	p := mac(stored.Sum(nil), messages)
	for i := range p {
		p[i] ^= clientKey[i]
	}
	return b64(string(p)), b64(string(mac(mac(salted, "Server Key"), messages)))
}

func TestSCRAMVectors(t *testing.T) {
	NeedMD5(t)
	t.Parallel()
	for _, v := range []struct {
		h                                                 func() hash.Hash
		first, serverFirst, final, salt, proof, signature string
	}{
		{sha1.New, "n=user,r=fyko+d2lbbFgONRv9qkxdawL",
			"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
			"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j",
			"QSXCR+Q6sek8bf92", "v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=", "rmF9pqV8S7suAoZWja4dJRkFsKQ="},
		{sha256.New, "n=user,r=rOprNGfwEbeRWgbNEkqO",
			"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
			"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
			"W22ZaJ0SNY7soEsUEjb6gQ==", "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=", "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="},
	} {
		salt, _ := base64.StdEncoding.DecodeString(v.salt)
		proof, signature := scram(v.h, "pencil", string(salt), 4096, v.first+","+v.serverFirst+","+v.final)
		if proof != v.proof || signature != v.signature {
			t.Errorf("got %s and %s, want %s and %s", proof, signature, v.proof, v.signature)
		}
	}
}

func TestSCRAM(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		mechanism string
		h         func() hash.Hash
		version   uint16 // of TLS, or 0
		binding   string
	}{
		{"SCRAM-SHA-1", sha1.New, 0, "n"},
		{"SCRAM-SHA-1", sha1.New, 0, "y"},
		{"SCRAM-SHA-256", sha256.New, 0, "n"},
		{"SCRAM-SHA-256", sha256.New, tls.VersionTLS13, "n"},
		{"SCRAM-SHA-1-PLUS", sha1.New, tls.VersionTLS12, "p=tls-unique"},
		{"SCRAM-SHA-256-PLUS", sha256.New, tls.VersionTLS13, "p=tls-exporter"},
	} {
		for _, fault := range []string{"", "password", "nonce", "binding", "answer"} {
			t.Run(fmt.Sprintf("%s %s %x %s", test.mechanism, test.binding, test.version, fault), func(t *testing.T) {
				t.Parallel()
				if strings.Contains(test.mechanism, "SHA-1") {
					NeedMD5(t)
				}
				s := NewUnstartedServer()
				s.Iterations = 1000 // FIPS 140-only mode wants so many
				s.AddUser("a,b=c", "pencil of fourteen")
				p := serveSession(t, s)
				var data []byte
				if test.version != 0 {
					config := s.ClientTLS()
					config.MaxVersion = test.version
					p = p.stls(config)
					p.play("> NOOP | ~ -ERR.*")
					state := p.conn.(*tls.Conn).ConnectionState()
					switch test.binding {
					case "p=tls-unique":
						data = state.TLSUnique
					case "p=tls-exporter":
						data, _ = state.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
					}
				}
				header, first := test.binding+",,", "n=a=2Cb=3Dc,r=nonce"
				p.send("AUTH " + test.mechanism + " " + b64(header+first) + "\r\n")
				serverFirst := p.challenge()
				m := regexp.MustCompile(`^r=(nonce.{15,}),s=(.+),i=1000$`).FindStringSubmatch(serverFirst)
				if m == nil {
					t.Fatalf("server-first-message %q", serverFirst)
				}
				nonce, password := m[1], "pencil of fourteen"
				salt, _ := base64.StdEncoding.DecodeString(m[2])
				switch fault {
				case "password":
					password = "pencil of thirteen"
				case "nonce":
					nonce = nonce[:len(nonce)-1]
				case "binding":
					data = append(bytes.Clone(data), 'x')
				}
				final := "c=" + b64(header+string(data)) + ",r=" + nonce
				proof, signature := scram(test.h, password, string(salt), 1000, first+","+serverFirst+","+final)
				p.send(b64(final+",p="+proof) + "\r\n")
				if fault == "" || fault == "answer" {
					if got := p.challenge(); got != "v="+signature {
						t.Fatalf("server-final-message %q, want v=%s", got, signature)
					}
				}
				switch fault {
				case "":
					p.play("> \n< +OK Logged in")
				case "answer":
					p.send(b64("x") + "\r\n")
					fallthrough
				default:
					p.play("< -ERR [AUTH] Authentication failed")
				}
			})
		}
	}

	t.Run("downgraded", func(t *testing.T) {
		t.Parallel()
		s, _, p := newSession(t)
		p = p.stls(s.ClientTLS())
		p.play("> AUTH SCRAM-SHA-256 " + b64("y,,n=u,r=x") + " | < -ERR [AUTH] Authentication failed")
		p.play("> AUTH SCRAM-SHA-256-PLUS " + b64("p=tls-unique,,n=u,r=x") + " | < -ERR [AUTH] Authentication failed")
	})
}

func TestExternal(t *testing.T) {
	t.Parallel()
	s := NewTLSServer()
	defer s.Close()
	s.AddUser("tim", "p")
	for _, test := range []struct{ certificate, dialogue string }{
		{"tim", "> AUTH EXTERNAL =\n< +OK Logged in\n> QUIT\n< +OK Goodbye"},
		{"tim", "> AUTH EXTERNAL\n< + \n> " + b64("tim") + "\n< +OK Logged in\n> QUIT\n< +OK Goodbye"},
		{"tim", "> AUTH EXTERNAL " + b64("ursel") + "\n< -ERR [AUTH] Authentication failed"},
		{"ursel", "> AUTH EXTERNAL =\n< -ERR [AUTH] Authentication failed"},
		{"", "> AUTH EXTERNAL =\n< -ERR Mechanism is not available"},
	} {
		config := s.ClientTLS()
		if test.certificate != "" {
			config.Certificates = []tls.Certificate{ClientCertificate(test.certificate)}
		}
		dial(t, s, config).play(test.dialogue)
	}
}
