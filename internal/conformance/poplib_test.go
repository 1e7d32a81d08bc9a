package conformance

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// What the dummy server of CPython's test_poplib holds.
const (
	dummyGreeting = "+OK dummy pop3 server ready. <timestamp>"
	dummyMessage  = "From: postmaster@python.org\r\nContent-Type: text/plain\r\n" +
		"MIME-Version: 1.0\r\nSubject: Dummy\r\n\r\nline1\r\nline2\r\nline3\r\n"
	dummyListing = "1 1\r\n2 2\r\n3 3\r\n4 4\r\n5 5\r\n.\r\n"
)

// A dummy is a server that behaves as the one of CPython's test_poplib does,
// the two answers to a wrong USER or PASS included.
type dummy struct {
	knowsUTF8 bool
	greeting  string
	answers   map[string]string // to verbs, in place of its own

	implicit bool // TLS

	addr  string
	trust *tls.Config // for a client
}

// start serves one connection, until the test is over.
func (d *dummy) start(t *testing.T) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.addr = ln.Addr().String()
	ca, pool := newIssuer(t)
	d.trust = &tls.Config{RootCAs: pool}
	config := &tls.Config{Certificates: []tls.Certificate{ca.issue(t, x509.Certificate{
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	})}}
	done := make(chan struct{})
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
	go func() {
		defer close(done)
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if d.implicit {
			d.serve(tls.Server(conn, config), config)
		} else {
			d.serve(conn, config)
		}
	}()
}

func (d *dummy) serve(conn net.Conn, config *tls.Config) {
	greeting := d.greeting
	if greeting == "" {
		greeting = dummyGreeting
	}
	if _, err := io.WriteString(conn, greeting+"\r\n"); err != nil {
		return
	}
	for r := bufio.NewReader(conn); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		verb, arg, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
		_, secure := conn.(*tls.Conn)
		if _, err := io.WriteString(conn, d.answer(verb, arg, secure)); err != nil || verb == "QUIT" {
			return
		}
		if verb == "STLS" && !secure {
			conn = tls.Server(conn, config)
			r.Reset(conn)
		}
	}
}

func (d *dummy) answer(verb, arg string, secure bool) string {
	if answer, ok := d.answers[verb]; ok {
		return answer + "\r\n"
	}
	refuseUnless := func(good bool, refusal string) string {
		if good {
			return ""
		}
		return refusal + "\r\n"
	}
	switch verb {
	case "USER":
		return refuseUnless(arg == "guido", "-ERR no such user") + "+OK password required\r\n"
	case "PASS":
		return refuseUnless(arg == "python", "-ERR wrong password") + "+OK 10 messages\r\n"
	case "STAT":
		return "+OK 10 100\r\n"
	case "LIST", "UIDL":
		if arg != "" {
			return fmt.Sprintf("+OK %s %s\r\n", arg, arg)
		}
		return "+OK\r\n" + dummyListing
	case "RETR", "TOP":
		return fmt.Sprintf("+OK %d bytes\r\n%s.\r\n", len(dummyMessage)+len(".\r\n"), dummyMessage)
	case "DELE":
		return "+OK message marked for deletion.\r\n"
	case "NOOP", "RPOP", "APOP":
		return "+OK done nothing.\r\n"
	case "QUIT":
		return "+OK closing.\r\n"
	case "CAPA":
		stls := "STLS\r\n"
		if secure {
			stls = ""
		}
		return "+OK Capability list follows\r\nUIDL\r\nIMPLEMENTATION python-testlib-pop-server\r\n" + stls + ".\r\n"
	case "UTF8":
		if d.knowsUTF8 {
			return "+OK I know RFC6856\r\n"
		}
		return "-ERR What is UTF8?!\r\n"
	case "STLS":
		if secure {
			return "-ERR Command not permitted when TLS active\r\n"
		}
		return "+OK Begin TLS negotiation\r\n"
	}
	return "-ERR unrecognized POP3 command\r\n"
}

// A poplibClass is one of the classes of test_poplib: the same cases over
// another kind of connection.
type poplibClass struct {
	name    string
	secure  bool
	connect func(t *testing.T, d *dummy) (*pop3.Client, error)
}

var poplibClasses = []poplibClass{
	{"TestPOP3Class", false, func(t *testing.T, d *dummy) (*pop3.Client, error) {
		d.start(t)
		return pop3.Dial(t.Context(), d.addr, nil)
	}},
	{"TestPOP3_SSLClass", true, func(t *testing.T, d *dummy) (*pop3.Client, error) {
		d.implicit = true
		d.start(t)
		return pop3.DialTLS(t.Context(), d.addr, &pop3.Options{TLSConfig: d.trust})
	}},
	{"TestPOP3_TLSClass", true, func(t *testing.T, d *dummy) (*pop3.Client, error) {
		d.start(t)
		c, err := pop3.Dial(t.Context(), d.addr, &pop3.Options{TLSConfig: d.trust})
		if err != nil {
			return nil, err
		}
		return c, c.StartTLS(t.Context(), nil)
	}},
}

func (class poplibClass) client(t *testing.T, d *dummy) *pop3.Client {
	t.Helper()
	c, err := class.connect(t, d)
	if c != nil {
		t.Cleanup(func() { c.Close() })
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// checkRefused is for what poplib raises error_proto of, and the connection
// lives on.
func checkRefused(t *testing.T, err error) {
	t.Helper()
	var reply *pop3.Error
	if !errors.As(err, &reply) || reply.Err != nil {
		t.Errorf("got %v, want a refusal", err)
	}
}

// poplibCases are the cases of TestPOP3Class. The two other classes have the
// same and change some of them. A note says what poplib's case does that a
// typed API does not let anybody write.
var poplibCases = []struct {
	name string
	note string
	run  func(t *testing.T, class poplibClass)
}{
	{"test_getwelcome", "the greeting is given without its +OK", func(t *testing.T, class poplibClass) {
		c := class.client(t, &dummy{})
		if got := c.Greeting(); got != strings.TrimPrefix(dummyGreeting, "+OK ") {
			t.Errorf("Greeting: %q", got)
		}
	}},
	{"test_exceptions", "poplib has the server echo -err by a private method; here NOOP is answered so", func(t *testing.T, class poplibClass) {
		c := class.client(t, &dummy{answers: map[string]string{"NOOP": "-err"}})
		checkRefused(t, c.Noop(t.Context()))
		check(t, c.Err())
	}},
	{"test_user", "", func(t *testing.T, class poplibClass) {
		c := class.client(t, &dummy{})
		check(t, c.User(t.Context(), "guido"))
		checkRefused(t, c.User(t.Context(), "invalid"))
		// The dummy's second answer is still there, and answers nothing.
		if err := c.Noop(t.Context()); !errors.Is(err, pop3.ErrMalformed) {
			t.Errorf("after two answers: %v, want ErrMalformed", err)
		}
	}},
	{"test_pass_", "", func(t *testing.T, class poplibClass) {
		c := class.client(t, &dummy{})
		check(t, c.Pass(t.Context(), "python"))
		checkRefused(t, c.User(t.Context(), "invalid"))
	}},
	{"test_control_characters", "of the releases since CVE-2025-15367", func(t *testing.T, class poplibClass) {
		c := class.client(t, &dummy{})
		for octet := range 0x80 {
			if octet >= ' ' && octet != 0x7F {
				continue
			}
			if err := c.User(t.Context(), "guido"+string(rune(octet))); err == nil {
				t.Errorf("octet %#x in a name is accepted", octet)
			}
		}
		check(t, c.User(t.Context(), "guido"))
	}},
	{"test_stat", "", func(t *testing.T, class poplibClass) {
		c := class.client(t, &dummy{})
		if count, size, err := c.Stat(t.Context()); count != 10 || size != 100 || err != nil {
			t.Errorf("Stat: %d, %d, %v", count, size, err)
		}
	}},
	{"test_list", "", func(t *testing.T, class poplibClass) {
		c := class.client(t, &dummy{})
		want := []pop3.MessageInfo{{Number: 1, Size: 1}, {Number: 2, Size: 2}, {Number: 3, Size: 3}, {Number: 4, Size: 4}, {Number: 5, Size: 5}}
		if got, err := c.ListAll(t.Context()); !slices.Equal(got, want) || err != nil {
			t.Errorf("ListAll: %v, %v", got, err)
		}
		if got, err := c.List(t.Context(), 1); got != want[0] || err != nil {
			t.Errorf("List: %v, %v", got, err)
		}
	}},
	{"test_retr", "retr('foo') does not compile: a message has a number", func(t *testing.T, class poplibClass) {
		c := class.client(t, &dummy{})
		m, err := c.Retr(t.Context(), 1)
		checkDummyMessage(t, m, err)
	}},
	{"test_too_long_lines", "poplib has the server echo 2,058 octets by a private method; here they answer NOOP", func(t *testing.T, class poplibClass) {
		c := class.client(t, &dummy{answers: map[string]string{"NOOP": "+" + strings.Repeat("a", 2058)}})
		if err := c.Noop(t.Context()); !errors.Is(err, pop3.ErrTooLarge) {
			t.Errorf("Noop: %v, want ErrTooLarge", err)
		}
		// Where poplib goes on and takes the rest of the line for the next reply.
		if err := c.Noop(t.Context()); !errors.Is(err, pop3.ErrClosed) {
			t.Errorf("the Noop behind: %v, want ErrClosed", err)
		}
	}},
	{"test_dele", "dele('foo') does not compile: a message has a number", func(t *testing.T, class poplibClass) {
		check(t, class.client(t, &dummy{}).Dele(t.Context(), 1))
	}},
	{"test_noop", "", func(t *testing.T, class poplibClass) {
		check(t, class.client(t, &dummy{}).Noop(t.Context()))
	}},
	{"test_rpop", "", func(t *testing.T, class poplibClass) {
		check(t, class.client(t, &dummy{}).RPOP(t.Context(), "foo"))
	}},
	{"test_apop_normal", "", func(t *testing.T, class poplibClass) {
		check(t, class.client(t, &dummy{}).APOP(t.Context(), "foo", "dummypassword"))
	}},
	{"test_apop_REDOS", "poplib puts a welcome of a million octets into the object; here the server says it, and one that just fits", func(t *testing.T, class poplibClass) {
		_, err := class.connect(t, &dummy{greeting: "+OK" + strings.Repeat("<", 1_000_000)})
		if !errors.Is(err, pop3.ErrTooLarge) {
			t.Errorf("a greeting of a million octets: %v, want ErrTooLarge", err)
		}
		c := class.client(t, &dummy{greeting: "+OK " + strings.Repeat("<", 2044)})
		if err := c.APOP(t.Context(), "a", "kb"); !errors.Is(err, pop3.ErrUnsupported) {
			t.Errorf("APOP: %v, want ErrUnsupported", err)
		}
	}},
	{"test_top", "", func(t *testing.T, class poplibClass) {
		m, err := class.client(t, &dummy{}).Top(t.Context(), 1, 1)
		checkDummyMessage(t, m, err)
	}},
	{"test_uidl", "uidl('foo') does not compile: a message has a number", func(t *testing.T, class poplibClass) {
		c := class.client(t, &dummy{})
		want := []pop3.MessageUID{{Number: 1, UID: "1"}, {Number: 2, UID: "2"}, {Number: 3, UID: "3"}, {Number: 4, UID: "4"}, {Number: 5, UID: "5"}}
		if got, err := c.UIDLAll(t.Context()); !slices.Equal(got, want) || err != nil {
			t.Errorf("UIDLAll: %v, %v", got, err)
		}
		if got, err := c.UIDL(t.Context(), 1); got != want[0] || err != nil {
			t.Errorf("UIDL: %v, %v", got, err)
		}
	}},
	{"test_utf8_raises_if_unsupported", "", func(t *testing.T, class poplibClass) {
		checkRefused(t, class.client(t, &dummy{}).UTF8(t.Context()))
	}},
	{"test_utf8", "", func(t *testing.T, class poplibClass) {
		c := class.client(t, &dummy{knowsUTF8: true})
		check(t, c.UTF8(t.Context()))
		if got := c.LastReply(); got != "I know RFC6856" {
			t.Errorf("LastReply: %q", got)
		}
	}},
	{"test_capa", "", func(t *testing.T, class poplibClass) {
		caps, err := class.client(t, &dummy{}).Capa(t.Context())
		if !caps.Has("IMPLEMENTATION") || caps.Implementation() != "python-testlib-pop-server" || err != nil {
			t.Errorf("Capa: %v, %v", caps, err)
		}
	}},
	{"test_quit", "poplib looks that its socket is None", func(t *testing.T, class poplibClass) {
		c := class.client(t, &dummy{})
		check(t, c.Quit(t.Context()))
		if got := c.LastReply(); got != "closing." {
			t.Errorf("LastReply: %q", got)
		}
		if err := c.Noop(t.Context()); !errors.Is(c.Err(), pop3.ErrClosed) || !errors.Is(err, pop3.ErrClosed) {
			t.Errorf("after Quit: Err %v, Noop %v, want ErrClosed", c.Err(), err)
		}
	}},
	{"test_stls_capa", "", func(t *testing.T, class poplibClass) {
		caps, err := class.client(t, &dummy{}).Capa(t.Context())
		if caps.Has("STLS") == class.secure || err != nil {
			t.Errorf("Capa: %v, %v", caps, err)
		}
	}},
	{"test_stls", "poplib asks the server, which refuses a second STLS; here it is not sent", func(t *testing.T, class poplibClass) {
		c := class.client(t, &dummy{})
		if err := c.StartTLS(t.Context(), &tls.Config{InsecureSkipVerify: true}); (err != nil) != class.secure {
			t.Errorf("StartTLS: %v", err)
		}
		check(t, c.Noop(t.Context()))
	}},
	{"test_stls_context", "", func(t *testing.T, class poplibClass) {
		d := &dummy{}
		c := class.client(t, d)
		config := d.trust.Clone()
		config.ServerName = "pop.example.org"
		err := c.StartTLS(t.Context(), config)
		if class.secure {
			if err == nil {
				t.Error("StartTLS in TLS: no error")
			}
			return
		}
		if !errors.As(err, new(x509.HostnameError)) {
			t.Errorf("StartTLS: %v, want a wrong name", err)
		}
		d = &dummy{}
		c = class.client(t, d)
		config = d.trust.Clone()
		config.ServerName = "localhost"
		check(t, c.StartTLS(t.Context(), config))
	}},
}

func checkDummyMessage(t *testing.T, m *pop3.Message, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(m)
	if string(body) != dummyMessage || len(body) != 113 || m.Size != 116 || err != nil {
		t.Errorf("%d octets announced, got %q, %v", m.Size, body, err)
	}
}

// TestPoplib has a twin for each case of CPython's Lib/test/test_poplib.py,
// under its name.
func TestPoplib(t *testing.T) {
	for _, class := range poplibClasses {
		t.Run(class.name, func(t *testing.T) {
			for _, test := range poplibCases {
				t.Run(test.name, func(t *testing.T) {
					t.Parallel()
					if test.note != "" {
						t.Log(test.note)
					}
					test.run(t, class)
				})
			}
			if class.name != "TestPOP3_SSLClass" {
				return
			}
			t.Run("test__all__", func(t *testing.T) {
				t.Log("that POP3_SSL is public is for the compiler to see: DialTLS is called above")
			})
			t.Run("test_context", func(t *testing.T) {
				t.Parallel()
				t.Log("keyfile and certfile beside a context cannot be given: there is one tls.Config")
				d := &dummy{implicit: true}
				d.start(t)
				c, err := pop3.DialTLS(t.Context(), d.addr, &pop3.Options{TLSConfig: &tls.Config{InsecureSkipVerify: true}})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if _, isTLS := c.TLSConnectionState(); !isTLS {
					t.Error("the connection is not TLS")
				}
				check(t, c.Noop(t.Context()))
			})
		})
	}
	t.Run("TestTimeouts", func(t *testing.T) {
		t.Run("testTimeoutDefault", func(t *testing.T) {
			t.Parallel()
			t.Log("poplib takes the default of the socket module; here it is 3 minutes")
			synctest.Test(t, func(t *testing.T) { timesOut(t, 0, 3*time.Minute) })
		})
		t.Run("testTimeoutNone", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { timesOut(t, -1, 0) })
		})
		t.Run("testTimeoutValue", func(t *testing.T) {
			t.Parallel()
			t.Log("poplib refuses a timeout of 0; here it is the default")
			synctest.Test(t, func(t *testing.T) { timesOut(t, 30*time.Second, 30*time.Second) })
		})
	})
}

// timesOut connects to a server that greets as the one of TestTimeouts does and
// answers the first command after a day; a timeout must come after so long, or
// not at all if it is 0. The clock is the bubble's.
func timesOut(t *testing.T, timeout, after time.Duration) {
	conn, peer := pop3test.Pipe()
	defer conn.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer peer.Close()
		io.WriteString(peer, "+ Hola mundo\n")
		if _, err := io.ReadFull(peer, make([]byte, len("NOOP\r\n"))); err != nil {
			return
		}
		<-time.After(24 * time.Hour)
		io.WriteString(peer, "+OK\r\n")
	}()
	c, err := pop3.NewClient(t.Context(), conn, &pop3.Options{Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Greeting(); got != "Hola mundo" {
		t.Errorf("Greeting: %q", got)
	}
	start := time.Now()
	err = c.Noop(t.Context())
	var netErr net.Error
	switch {
	case after == 0:
		check(t, err)
	case !errors.As(err, &netErr) || !netErr.Timeout():
		t.Errorf("Noop: %v, want a timeout", err)
	case time.Since(start) != after:
		t.Errorf("a timeout after %v, want %v", time.Since(start), after)
	}
	c.Close()
	<-done
}
