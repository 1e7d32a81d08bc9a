package conformance

import (
	"bufio"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// What the dummy server of CPython's test_poplib holds.
const (
	dummyGreeting = "+OK dummy pop3 server ready. <timestamp>"
	dummyMessage  = "From: postmaster@python.org\r\nContent-Type: text/plain\r\n" +
		"MIME-Version: 1.0\r\nSubject: Dummy\r\n\r\nline1\r\nline2\r\nline3\r\n"
	dummyListing = "1 1\r\n2 2\r\n3 3\r\n4 4\r\n5 5\r\n."
)

// A dummy is a server that behaves as the one of CPython's test_poplib does,
// the two answers to a wrong USER or PASS included.
type dummy struct {
	greeting string
	answers  pop3test.Replies // in place of its own
	implicit bool             // TLS
}

var dummyAnswers = pop3test.Replies{
	"USER guido":   "+OK password required",
	"USER":         "-ERR no such user\r\n+OK password required",
	"PASS python":  "+OK 10 messages",
	"PASS":         "-ERR wrong password\r\n+OK 10 messages",
	"STAT":         "+OK 10 100",
	"LIST":         "+OK\r\n" + dummyListing,
	"LIST 1":       "+OK 1 1",
	"UIDL":         "+OK\r\n" + dummyListing,
	"UIDL 1":       "+OK 1 1",
	"RETR":         fmt.Sprintf("+OK %d bytes\r\n%s.", len(dummyMessage)+len(".\r\n"), dummyMessage),
	"TOP":          fmt.Sprintf("+OK %d bytes\r\n%s.", len(dummyMessage)+len(".\r\n"), dummyMessage),
	"DELE":         "+OK message marked for deletion.",
	"NOOP":         "+OK done nothing.",
	"RPOP":         "+OK done nothing.",
	"APOP":         "+OK done nothing.",
	"QUIT":         "+OK closing.",
	"UTF8":         "-ERR What is UTF8?!",
	"":             "-ERR unrecognized POP3 command",
	"CAPA":         "+OK Capability list follows\r\nUIDL\r\nIMPLEMENTATION python-testlib-pop-server\r\nSTLS\r\n.",
	"STLS":         "+OK Begin TLS negotiation",
	"CAPA and TLS": "+OK Capability list follows\r\nUIDL\r\nIMPLEMENTATION python-testlib-pop-server\r\n.",
}

// serve answers until the client has gone.
func (d *dummy) serve(conn net.Conn) {
	defer conn.Close()
	raw, secure := conn, d.implicit
	upgrade := func() net.Conn { return tls.Server(raw, pop3test.ServerTLS()) }
	if secure {
		conn = upgrade()
	}
	io.WriteString(conn, cmp.Or(d.greeting, dummyGreeting)+"\r\n")
	for r := bufio.NewReader(conn); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		verb, _, _ := strings.Cut(line, " ")
		if verb == "CAPA" && secure {
			line = "CAPA and TLS"
		}
		answer, ok := d.answers[verb]
		for _, question := range []string{line, verb, ""} {
			if !ok {
				answer, ok = dummyAnswers[question]
			}
		}
		if _, err := io.WriteString(conn, answer+"\r\n"); err != nil || verb == "QUIT" {
			return
		}
		if verb == "STLS" {
			conn, secure = upgrade(), true
			r.Reset(conn)
		}
	}
}

// start serves one connection, and returns options that lead there.
func (d *dummy) start(t *testing.T, config *tls.Config) *pop3.Options {
	near, far := pop3test.Pipe()
	t.Cleanup(func() { near.Close() })
	go d.serve(far)
	return &pop3.Options{DialContext: pop3test.DialTo(near), TLSConfig: config}
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
		return pop3.Dial(t.Context(), "localhost", d.start(t, nil))
	}},
	{"TestPOP3_SSLClass", true, func(t *testing.T, d *dummy) (*pop3.Client, error) {
		d.implicit = true
		return pop3.DialTLS(t.Context(), "localhost", d.start(t, pop3test.ScriptTLS()))
	}},
	{"TestPOP3_TLSClass", true, func(t *testing.T, d *dummy) (*pop3.Client, error) {
		return pop3.DialStartTLS(t.Context(), "localhost", d.start(t, pop3test.ScriptTLS()))
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
		c := class.client(t, &dummy{answers: pop3test.Replies{"NOOP": "-err"}})
		checkRefused(t, c.Noop(t.Context()))
		check(t, c.Err())
	}},
	{"test_user", "the dummy's second answer to a wrong name answers nothing, and is found", func(t *testing.T, class poplibClass) {
		c := class.client(t, &dummy{})
		check(t, c.User(t.Context(), "guido"))
		checkRefused(t, c.User(t.Context(), "invalid"))
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
		c := class.client(t, &dummy{answers: pop3test.Replies{"NOOP": "+" + strings.Repeat("a", 2058)}})
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
	{"test_apop_normal", "a timestamp that is no msg-id, for it has no @", func(t *testing.T, class poplibClass) {
		check(t, class.client(t, &dummy{}).APOP(t.Context(), "foo", "dummypassword"))
	}},
	{"test_apop_REDOS", "CVE-2018-1060: poplib puts a welcome of a million octets into the object; here the server says it, and one that just fits", func(t *testing.T, class poplibClass) {
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
		c := class.client(t, &dummy{answers: pop3test.Replies{"UTF8": "+OK I know RFC6856"}})
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
		config := pop3test.ScriptTLS()
		config.ServerName = "pop.example.org"
		err := class.client(t, &dummy{}).StartTLS(t.Context(), config)
		if errors.As(err, new(x509.HostnameError)) == class.secure {
			t.Errorf("StartTLS: %v", err)
		}
		err = class.client(t, &dummy{}).StartTLS(t.Context(), pop3test.ScriptTLS())
		if (err != nil) != class.secure {
			t.Errorf("StartTLS: %v", err)
		}
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

// TestPoplib has a twin for each case of CPython's Lib/test/test_poplib.py, under its
// name. Those of its class TestTimeouts are in TestTimeout of the top package, the
// greeting of its server in the transcript cpython-hola-mundo.
func TestPoplib(t *testing.T) {
	for _, class := range poplibClasses {
		t.Run(class.name, func(t *testing.T) {
			for _, test := range poplibCases {
				t.Run(test.name, func(t *testing.T) {
					t.Parallel()
					if strings.HasPrefix(test.name, "test_apop") {
						pop3test.NeedMD5(t)
					}
					if test.note != "" {
						t.Log(test.note)
					}
					test.run(t, class)
				})
			}
			if class.name != "TestPOP3_SSLClass" {
				return
			}
			t.Run("test_context", func(t *testing.T) {
				t.Parallel()
				t.Log("keyfile and certfile beside a context cannot be given: there is one tls.Config")
				d := &dummy{implicit: true}
				c, err := pop3.DialTLS(t.Context(), "localhost", d.start(t, &tls.Config{InsecureSkipVerify: true}))
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
}
