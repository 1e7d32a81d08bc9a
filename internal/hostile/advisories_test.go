package hostile_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// What was found in other clients, one test each.

// CVE-2018-1060: poplib's pattern for the timestamp took time without end on a
// hostile greeting. Here the longest greetings are searched many times.
func TestCVE_2018_1060(t *testing.T) {
	t.Parallel()
	for greeting, digests := range map[string]bool{
		strings.Repeat("<", 2040):                     false,
		strings.Repeat("<a", 1020):                    false,
		strings.Repeat("<a@", 680):                    false,
		strings.Repeat("<>", 1020):                    false,
		strings.Repeat("< >", 680):                    false,
		strings.Repeat("<a\x80>", 510):                false,
		strings.Repeat("a", 2000) + "<":               false,
		strings.Repeat("<", 2000) + "1.2@host>":       true,
		strings.Repeat("> <", 600) + "<timestamp>":    true,
		"<" + strings.Repeat("a", 2000) + "@b> <c@d>": true,
	} {
		conn := &tape{pending: []byte("+OK " + greeting + "\r\n"), answer: replies(nil)}
		c, err := pop3.NewClient(t.Context(), conn, nil)
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if err := c.APOP(t.Context(), "u", "secret"); (err == nil) != digests || err != nil && !errors.Is(err, pop3.ErrUnsupported) {
				t.Fatalf("%.20q...: %v", greeting, err)
			}
		}
	}
}

// CVE-2013-1752: poplib read lines without a bound.
func TestCVE_2013_1752(t *testing.T) {
	t.Parallel()
	for verb, call := range map[string]func(context.Context, *pop3.Client) error{"NOOP": noop, "LIST": listAll, "UIDL": uidlAll, "CAPA": capa, "RETR": retr} {
		c, err := flooded(t, verb, flood{"", "A", -1, ""}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := call(t.Context(), c); !errors.Is(err, pop3.ErrTooLarge) {
			t.Errorf("%s: %v", verb, err)
		}
		closed(t, c, pop3.ErrTooLarge)
	}
	if _, err := flooded(t, "", flood{"", "A", -1, ""}, nil); !errors.Is(err, pop3.ErrTooLarge) {
		t.Errorf("greeting: %v", err)
	}
}

// CVE-2025-15367, and net-pop#31: control octets in an argument were sent on, and
// with them other commands. (TestInjection has them all.)
func TestCVE_2025_15367(t *testing.T) {
	t.Parallel()
	c, p := connect(t, nil, replies(nil))
	for _, name := range []string{"u\r\nDELE 1", "u\nDELE 1", "u\rDELE 1", "u\x00", "\x7f"} {
		if c.User(t.Context(), name) == nil || c.Pass(t.Context(), name) == nil || c.RPOP(t.Context(), name) == nil {
			t.Errorf("%q was taken", name)
		}
	}
	if got := p.received(); len(got) > 0 {
		t.Errorf("written: %q", got)
	}
	usable(t, c)
}

// CVE-2026-41319, and the paper "Why TLS is better without STARTTLS": a reply
// that came in clear, behind the one to STLS, was taken for one under TLS.
func TestCVE_2026_41319(t *testing.T) {
	t.Parallel()
	near := stlsServer(t, "+OK\r\nSTLS\r\n.\r\n", pop3test.ScriptTLS(), func(net.Conn) {})
	c, err := pop3.NewClient(t.Context(), &appending{Conn: near, behind: "+OK\r\n", add: "+OK logged in\r\n"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.StartTLS(t.Context(), pop3test.ScriptTLS()); !errors.Is(err, pop3.ErrMalformed) {
		t.Error(err)
	}
	closed(t, c, pop3.ErrMalformed)
}

// appending adds octets to what ends so, as who sits between can.
type appending struct {
	net.Conn
	behind, add string
}

func (a *appending) Read(p []byte) (int, error) {
	n, err := a.Conn.Read(p)
	if strings.HasSuffix(string(p[:n]), a.behind) {
		n += copy(p[n:], a.add)
	}
	return n, err
}

// CVE-2021-22946, CVE-2021-39272: TLS was asked for, the server said something
// else, and the login went on in clear.
func TestCVE_2021_22946(t *testing.T) { testNoTLS(t) }
func TestCVE_2021_39272(t *testing.T) { testNoTLS(t) }
func TestCVE_2006_5867(t *testing.T)  { testNoTLS(t) }
func testNoTLS(t *testing.T) {
	t.Parallel()
	for name, reply := range map[string]map[string]string{
		"not offered":       {"CAPA": "+OK\r\nUSER\r\n.\r\n"},
		"refused":           {"CAPA": "+OK\r\nSTLS\r\n.\r\n", "STLS": "-ERR no\r\n"},
		"CAPA refused":      {"CAPA": "-ERR\r\n", "STLS": "-ERR no\r\n"},
		"CAPA accepted":     {"CAPA": "+OK\r\n.\r\n"},
		"nonsense":          {"CAPA": "+OK\r\nSTLS\r\n.\r\n", "STLS": "+OKAY\r\n"},
		"no handshake":      {"CAPA": "+OK\r\nSTLS\r\n.\r\n"},
		"hung up":           {"CAPA": "+OK\r\nSTLS\r\n.\r\n", "STLS": hangUp},
		"logged in already": {"CAPA": "+OK\r\nSTLS\r\n.\r\n", "STLS": "-ERR already authenticated\r\n"},
	} {
		near, far := pop3test.Pipe()
		p := serve(t, far, "+OK\r\n", func(line string) string {
			verb, _, _ := strings.Cut(line, " ")
			switch r, ok := reply[verb]; {
			case ok:
				return r
			case strings.HasPrefix(line, "\x16"): // a ClientHello
				return hangUp
			}
			return "+OK\r\n"
		})
		c, err := pop3.DialStartTLS(t.Context(), "mail.example", &pop3.Options{
			Timeout:     patience,
			DialContext: func(context.Context, string, string) (net.Conn, error) { return near, nil },
		})
		if c != nil || err == nil {
			t.Errorf("%s: went on without TLS", name)
		}
		<-p.done // closed
		for _, line := range p.received() {
			if line != "CAPA" && line != "STLS" && !strings.HasPrefix(line, "\x16") {
				t.Errorf("%s: %q was sent", name, line)
			}
		}
	}
}

// CVE-2005-2335: a UIDL row without unique-id, and rows of any other shape.
func TestCVE_2005_2335(t *testing.T) {
	t.Parallel()
	for _, row := range []string{"1", "1 ", "", " ", "x", "1\t", "\x001 a", "1 a\x07"} {
		c, _ := connect(t, nil, replies(map[string]string{"UIDL": "+OK\r\n" + row + "\r\n.\r\n"}))
		if uids, err := c.UIDLAll(t.Context()); uids != nil || !errors.Is(err, pop3.ErrMalformed) {
			t.Errorf("%q: %v, %v", row, uids, err)
		}
		closed(t, c, pop3.ErrMalformed)
	}
}

// CVE-2008-2711 and CVE-2010-1167: a server's text, control octets and all, went
// into messages and logs, where it crashed the program or moved the cursor.
func TestCVE_2008_2711(t *testing.T) { testServerText(t) }
func TestCVE_2010_1167(t *testing.T) { testServerText(t) }
func testServerText(t *testing.T) {
	t.Parallel()
	nasty := "\x1b[2J\x07\x00%s%n%x \x80\xff\u202e" + strings.Repeat("\x1b", 1500)
	printable := func(where, text string) {
		t.Helper()
		if i := strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x202e || r == 0xfffd }); i >= 0 {
			t.Errorf("%s shows %q", where, text[i:min(len(text), i+20)])
		}
	}
	for _, reply := range []string{"-ERR " + nasty, "-ERR [" + nasty[:9] + "] x", nasty, "+OK " + nasty} {
		var b bytes.Buffer
		log := slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug - 8}))
		c, _ := connect(t, &pop3.Options{Trace: pop3.LogTrace(log)}, replies(map[string]string{"STAT": reply + "\r\n"}))
		_, _, err := c.Stat(t.Context())
		if err == nil {
			t.Fatalf("%.10q was taken", reply)
		}
		printable("the error", err.Error())
		if len(err.Error()) > 4*512+200 {
			t.Errorf("an error of %d octets", len(err.Error()))
		}
		if e := c.Noop(t.Context()); e != nil {
			printable("the next error", e.Error())
		}
		for line := range strings.Lines(b.String()) {
			printable("the log", strings.TrimSuffix(line, "\n"))
		}
	}
	if _, err := pop3.NewClient(t.Context(), &tape{pending: []byte("-ERR " + nasty + "\r\n")}, nil); err == nil {
		t.Error("the greeting was taken")
	} else {
		printable("the greeting's error", err.Error())
	}
}

// The name in a certificate is the server's text too, and its error has it in
// clear before the certificate has been verified.
func TestServerTextInCertificate(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), Subject: pkix.Name{CommonName: "a\nb\x1b"},
		DNSNames: []string{"evil\nlevel=INFO msg=forged\x1b[2J"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Skip(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	near := stlsServer(t, "+OK\r\nSTLS\r\n.\r\n", config, func(conn net.Conn) { conn.(*tls.Conn).Handshake() })
	c, err := pop3.NewClient(t.Context(), near, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = c.StartTLS(t.Context(), &tls.Config{ServerName: "localhost"})
	if err == nil || strings.ContainsAny(err.Error(), "\n\x1b") {
		t.Errorf("the error is %q", err)
	}
}

// node-pop3#37: the password was part of the error. (TestSecrets has the rest.)
func TestNodePop3_37(t *testing.T) {
	t.Parallel()
	c, _ := connect(t, nil, func(line string) string { return "-ERR unknown command: " + line + "\r\n" })
	err := c.Pass(t.Context(), canary)
	if err == nil || strings.Contains(fmt.Sprintf("%v %+v %#v %s", err, err, err, c.LastReply()), canary) {
		t.Errorf("%v", err)
	}
}

// GHSA-95fj-3fxw-g62g: a server that skips its own proof, at any place of the
// exchange, is taken for the real one. It need not know the password.
func TestGHSA_95fj_3fxw_g62g(t *testing.T) {
	t.Parallel()
	encode := func(s string) string { return "+ " + base64.StdEncoding.EncodeToString([]byte(s)) + "\r\n" }
	for _, login := range []bool{false, true} {
		for name, answers := range map[string][]string{
			"at once":           {"+OK\r\n"},
			"after the first":   {"first", "+OK\r\n"},
			"an empty proof":    {"first", encode("v="), "+OK\r\n"},
			"a wrong proof":     {"first", encode("v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="), "+OK\r\n"},
			"nothing":           {"first", "+ \r\n", "+OK\r\n"},
			"the nonce alone":   {encode("r=x,s=QUJD,i=4096"), "+OK\r\n"},
			"no work":           {"weak", "+OK\r\n"},
			"work without end":  {"endless", "+OK\r\n"},
			"a text, not proof": {"first", "+ proof\r\n", "+OK\r\n"},
		} {
			left := slices.Clone(answers)
			c, _ := connect(t, nil, func(line string) string {
				if line == "CAPA" {
					return "+OK\r\nSASL SCRAM-SHA-256\r\n.\r\n"
				}
				if line == "*" || len(left) == 0 { // the server has no mind to let it be canceled
					return "+OK\r\n"
				}
				answer := left[0]
				left = left[1:]
				if i := map[string]int{"first": 4096, "weak": 1, "endless": 1_000_000_000}[answer]; i > 0 {
					_, ir, _ := strings.Cut(line, "SCRAM-SHA-256 ")
					first, _ := base64.StdEncoding.DecodeString(ir)
					_, nonce, _ := strings.Cut(string(first), ",r=")
					return encode(fmt.Sprintf("r=%smore,s=QUJD,i=%d", nonce, i))
				}
				return answer
			})
			var err error
			if login {
				err = c.Login(t.Context(), "user", "password")
			} else {
				err = c.Auth(t.Context(), pop3.SCRAMSHA256Auth("user", "password"))
			}
			if err == nil {
				t.Errorf("%s: the server was taken for the real one", name)
			}
			if c.Err() == nil {
				t.Errorf("%s: the connection is open", name)
			}
			closed(t, c, c.Err())
		}
	}
}

// MailKit writes all queued commands before it reads a reply: a server that does
// not read on is a deadlock. (TestNoDeadlock has every window.)
func TestMailKitDeadlock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		near, far := pop3test.PipeSize(16 << 10)
		go singleMinded(far, func(int) int { return 20 << 10 })
		fetchSizes(t, near, math.MaxInt, 40, func(int) int { return 20 << 10 })
	})
}

// A connection without TLS to another machine sends no credentials by any method,
// whatever the server offers.
func TestNoCredentialsInClear(t *testing.T) {
	t.Parallel()
	near, far := pop3test.Pipe()
	p := serve(t, far, "+OK <1.2@host>\r\n", replies(map[string]string{"CAPA": "+OK\r\nUSER\r\nSASL PLAIN\r\n.\r\n"}))
	c, err := pop3.Dial(t.Context(), "mail.example", &pop3.Options{
		// The proxy is on this machine; the server is not.
		DialContext: func(context.Context, string, string) (net.Conn, error) { return near, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range calls[:6] {
		if err := m.call(t.Context(), c); !errors.Is(err, pop3.ErrInsecureAuth) {
			t.Errorf("%s: %v", m.name, err)
		}
	}
	if got := p.received(); len(got) > 0 {
		t.Errorf("written: %q", got)
	}
	usable(t, c)
}
