package pop3test

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Pipe.

func TestPipeEOF(t *testing.T) {
	t.Parallel()
	a, b := Pipe()
	if _, err := io.WriteString(a, "last words"); err != nil {
		t.Fatal(err)
	}
	a.Close()
	got, err := io.ReadAll(b)
	if err != nil || string(got) != "last words" {
		t.Errorf("after the peer's Close: read %q, %v; want what it wrote, nil", got, err)
	}
	if _, err := b.Write([]byte("x")); err != io.ErrClosedPipe {
		t.Errorf("Write to a closed peer: %v, want io.ErrClosedPipe", err)
	}
	if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write after Close: %v, want net.ErrClosed", err)
	}
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after Close: %v, want net.ErrClosed", err)
	}
	if err := a.SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("SetDeadline after Close: %v, want net.ErrClosed", err)
	}
	if n := a.LocalAddr().Network(); n != "pipe" {
		t.Errorf("Network() = %q, want pipe", n)
	}
}

func TestPipeDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := PipeSize(4)
		defer a.Close()
		defer b.Close()
		timedOut := func(op string, err error, want time.Duration, start time.Time) {
			t.Helper()
			var ne net.Error
			if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
				t.Errorf("%s: %v, want a timeout", op, err)
			}
			if d := time.Since(start); d != want {
				t.Errorf("%s took %v, want %v", op, d, want)
			}
		}

		start := time.Now()
		a.SetReadDeadline(start.Add(time.Hour))
		a.SetReadDeadline(start.Add(time.Second)) // sooner
		_, err := a.Read(make([]byte, 1))
		timedOut("Read", err, time.Second, start)

		start = time.Now()
		a.SetReadDeadline(start.Add(time.Second))
		time.AfterFunc(500*time.Millisecond, func() { a.SetReadDeadline(start.Add(time.Minute)) })
		_, err = a.Read(make([]byte, 1))
		timedOut("Read with a deadline moved meanwhile", err, time.Minute, start)

		start = time.Now()
		time.AfterFunc(time.Second, func() { a.SetDeadline(longAgo) })
		a.SetReadDeadline(time.Time{})
		_, err = a.Read(make([]byte, 1))
		timedOut("Read interrupted", err, time.Second, start)

		start = time.Now()
		a.SetWriteDeadline(start.Add(time.Second))
		n, err := a.Write([]byte("123456"))
		timedOut("Write to a full pipe", err, time.Second, start)
		if n != 4 {
			t.Errorf("wrote %d octets, want the 4 that fit", n)
		}

		// Lifting the deadlines makes the ends usable again.
		a.SetDeadline(time.Time{})
		go io.WriteString(a, "56")
		got := make([]byte, 6)
		if _, err := io.ReadFull(b, got); err != nil || string(got) != "123456" {
			t.Errorf("read %q, %v", got, err)
		}
	})
}

func TestPipeCloseWakes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, closer := range []string{"own", "peer"} {
			a, b := PipeSize(1)
			var read, write error
			var wg sync.WaitGroup
			wg.Go(func() { _, read = a.Read(make([]byte, 1)) })
			wg.Go(func() { _, write = a.Write([]byte("12")) })
			synctest.Wait() // both are blocked, durably
			wantRead, wantWrite := net.ErrClosed, net.ErrClosed
			if closer == "peer" {
				b.Close()
				wantRead, wantWrite = io.EOF, io.ErrClosedPipe
			} else {
				a.Close()
			}
			wg.Wait()
			if read != wantRead || write != wantWrite {
				t.Errorf("%s Close: Read %v, Write %v; want %v, %v", closer, read, write, wantRead, wantWrite)
			}
		}
	})
}

func TestPipeBothWays(t *testing.T) {
	t.Parallel()
	a, b := PipeSize(100)
	sent := bytes.Repeat([]byte("0123456789"), 50_000)
	var wg sync.WaitGroup
	for _, c := range []net.Conn{a, b} {
		wg.Go(func() {
			if n, err := c.Write(sent); n != len(sent) || err != nil {
				t.Errorf("Write: %d, %v", n, err)
			}
		})
		wg.Go(func() {
			got := make([]byte, len(sent))
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("what was read is not what was written (%v)", err)
			}
		})
	}
	wg.Wait()
}

// Server.

// A peer is the client's side of a session, by hand.
type peer struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

func newPeer(t *testing.T, conn net.Conn) *peer {
	// So that a server that does not answer fails the test.
	conn.SetDeadline(time.Now().Add(time.Minute))
	return &peer{t, conn, bufio.NewReader(conn)}
}

// session runs a session of s on a pipe and has read the greeting. At the end
// of the test it is over.
func serveSession(t *testing.T, s *Server) *peer {
	t.Helper()
	client, server := Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.ServeConn(server)
	}()
	t.Cleanup(func() {
		client.Close()
		<-done
	})
	p := newPeer(t, client)
	p.match(`\+OK pop3test ready.*`)
	return p
}

func (p *peer) send(text string) {
	p.t.Helper()
	if _, err := io.WriteString(p.conn, text); err != nil {
		p.t.Fatalf("sending %.40q: %v", text, err)
	}
}

func (p *peer) line() string {
	p.t.Helper()
	line, err := p.r.ReadString('\n')
	if err != nil {
		p.t.Fatalf("after %q: %v", line, err)
	}
	text, ok := strings.CutSuffix(line, "\r\n")
	if !ok {
		p.t.Fatalf("%q does not end in CRLF", line)
	}
	return text
}

func (p *peer) match(want string) string {
	p.t.Helper()
	got := p.line()
	if !regexp.MustCompile("^(?:" + want + ")$").MatchString(got) {
		p.t.Fatalf("got %q, want %q", got, want)
	}
	return got
}

// play plays a dialogue: "> " is sent, "< " expected, "~ " matched.
func (p *peer) play(dialogue string) {
	p.t.Helper()
	for text := range strings.Lines(dialogue) {
		text = strings.TrimSuffix(strings.TrimLeft(text, "\t"), "\n")
		sign, rest, _ := strings.Cut(text, " ")
		switch sign {
		case ">":
			p.send(rest + "\r\n")
		case "<":
			if got := p.line(); got != rest {
				p.t.Fatalf("got %q, want %q", got, rest)
			}
		case "~":
			p.match(rest)
		}
	}
}

// rows reads a multi-line response and returns its lines, still stuffed.
func (p *peer) rows() []string {
	p.t.Helper()
	p.match(`\+OK.*`)
	var rows []string
	for {
		row := p.line()
		if row == "." {
			return rows
		}
		rows = append(rows, row)
	}
}

func (p *peer) ended() {
	p.t.Helper()
	if b, err := p.r.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Fatalf("got %q, %v; want the end of the connection", b, err)
	}
}

const mail = "From: a@example.com\r\n\r\none\r\n.two\r\n..\r\nlone\n.LF\r\n"

func TestCommands(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		dialogue string
	}{
		{"states", `
			> STAT
			< -ERR Command is not valid in this state
			> noop
			< -ERR Command is not valid in this state
			> XYZZY
			< -ERR Unknown command
			> 
			< -ERR Unknown command
			> PASS secret word
			< -ERR USER comes first
			> user tim
			< +OK Send the password
			> CAPAX
			< -ERR Unknown command
			> PASS secret word
			< -ERR USER comes first
			> USER
			< -ERR Argument is missing
			> uSeR tim
			< +OK Send the password
			> pAsS secret word
			< +OK Logged in
			> USER tim
			< -ERR Command is not valid in this state
			> APOP tim 0
			< -ERR Command is not valid in this state
			> AUTH PLAIN
			< -ERR Command is not valid in this state
			> STLS
			< -ERR Command is not valid in this state
			> UTF8
			< -ERR Command is not valid in this state
			> quit
			< +OK Goodbye`},
		{"wrong password", `
			> USER tim
			< +OK Send the password
			> PASS secret
			< -ERR [AUTH] Authentication failed
			> PASS secret word
			< -ERR USER comes first
			> USER nobody
			< +OK Send the password
			> PASS secret word
			< -ERR [AUTH] Authentication failed
			> APOP tim 00000000000000000000000000000000
			< -ERR [AUTH] Authentication failed
			> APOP nobody 00000000000000000000000000000000
			< -ERR [AUTH] Authentication failed
			> APOP tim
			< -ERR Argument is missing
			> RPOP tim
			< -ERR [AUTH] Authentication failed`},
		{"RPOP", `
			> USER trusting
			< +OK Send the password
			> RPOP rose
			< +OK Logged in`},
		{"RPOP alone", `
			> RPOP trusting
			< +OK Logged in`},
		{"transaction", `
			> USER tim
			< +OK Send the password
			> PASS secret word
			< +OK Logged in
			> STAT
			< +OK 3 66
			> LIST
			< +OK Scan listing follows
			< 1 48
			< 2 0
			< 3 18
			< .
			> LIST 3
			< +OK 3 18
			> LIST 4
			< -ERR No such message
			> LIST 0
			< -ERR No such message
			> LIST -1
			< -ERR Argument is no number
			> LIST 99999999999999999999
			< -ERR Argument is no number
			> UIDL
			< +OK Unique-id listing follows
			~ 1 [0-9a-f]{8}00000001
			~ 2 [0-9a-f]{8}00000002
			~ 3 [0-9a-f]{8}00000003
			< .
			> UIDL 2
			~ \+OK 2 [0-9a-f]{8}00000002
			> RETR 2
			< +OK 0 octets
			< .
			> RETR 3
			< +OK 18 octets
			< no header end
			< x
			< .
			> RETR
			< -ERR Argument is no number
			> TOP 1 1
			< +OK 28 octets
			< From: a@example.com
			< 
			< one
			< .
			> TOP 1 0
			< +OK 23 octets
			< From: a@example.com
			< 
			< .
			> TOP 3 0
			< +OK 18 octets
			< no header end
			< x
			< .
			> TOP 1
			< -ERR Argument is no number
			> TOP 1 -1
			< -ERR Argument is no number
			> DELE 1
			< +OK Message deleted
			> DELE 1
			< -ERR Message is deleted
			> RETR 1
			< -ERR Message is deleted
			> STAT
			< +OK 2 18
			> LIST
			< +OK Scan listing follows
			< 2 0
			< 3 18
			< .
			> UIDL
			< +OK Unique-id listing follows
			~ 2 .*
			~ 3 .*
			< .
			> RSET
			< +OK Deletions undone
			> STAT
			< +OK 3 66
			> NOOP
			< +OK`},
		{"LANG", `
			> LANG
			< +OK Language listing follows
			< en English
			< de Deutsch
			< es Español
			< .
			> LANG DE
			< +OK de Sprache geändert
			> PASS x
			< -ERR USER kommt zuerst
			> LANG sv
			< -ERR Unbekannte Sprache
			> LANG es
			< +OK es Idioma cambiado
			> LANG *
			< +OK en Language changed
			> USER tim
			< +OK Send the password
			> PASS secret word
			< +OK Logged in
			> LANG de
			< +OK de Sprache geändert
			> RETR 2
			< +OK 0 Oktette
			< .`},
		{"UTF8", `
			> USER utf8
			< +OK Send the password
			> PASS x
			< +OK Logged in
			> RETR 1
			< -ERR [UTF8] Message needs UTF-8 mode
			> TOP 1 0
			< -ERR [UTF8] Message needs UTF-8 mode
			> LIST 1
			< +OK 1 13
			> QUIT
			< +OK Goodbye`},
		{"UTF8 first", `
			> UTF8
			< +OK UTF-8 mode
			> STLS
			< -ERR Command is not valid in this state
			> USER utf8
			< +OK Send the password
			> PASS x
			< +OK Logged in
			> RETR 1
			< +OK 13 octets
			< Subject: é
			< .`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := NewUnstartedServer()
			s.AddUser("tim", "secret word", mail, "", "no header end\r\nx")
			s.AddUser("trusting", "x").TrustRPOP = true
			s.AddUser("utf8", "x").AddUTF8("Subject: é\r\n")
			serveSession(t, s).play(test.dialogue)
		})
	}
}

func TestBody(t *testing.T) {
	t.Parallel()
	s := NewUnstartedServer()
	long := strings.Repeat("x", 3*maxOutput) + "\r\n.\r\n" + strings.Repeat(".\r\n", maxOutput)
	d := s.AddUser("u", "p", mail, ".", "\r\n.\r\n", "lone LF\n", "nul \x00 8-bit \xff", long)
	p := serveSession(t, s)
	p.play("> USER u\n~ .*\n> PASS p\n~ .*")
	for i, message := range d.Messages() {
		p.send(fmt.Sprintf("LIST %d\r\nRETR %[1]d\r\n", i+1))
		p.match(fmt.Sprintf(`\+OK %d %d`, i+1, len(message)))
		want := strings.ReplaceAll("\r\n"+message, "\r\n.", "\r\n..")[2:] + ".\r\n"
		p.match(fmt.Sprintf(`\+OK %d octets`, len(message)))
		got := make([]byte, len(want))
		if _, err := io.ReadFull(p.r, got); err != nil || string(got) != want {
			t.Errorf("message %d: got %.100q (%v), want %.100q", i+1, got, err, want)
		}
	}
	p.play("> NOOP\n< +OK")
	if got := d.Messages()[3]; got != "lone LF\n\r\n" {
		t.Errorf("a lone LF at the end: held as %q, want CRLF behind it", got)
	}
}

func TestAPOP(t *testing.T) {
	t.Parallel()
	s := NewUnstartedServer()
	s.AddUser("two words", "tanstaaf")
	client, server := Pipe()
	go s.ServeConn(server)
	t.Cleanup(s.Close)
	p := newPeer(t, client)
	greeting := p.line()
	stamp := greeting[strings.IndexByte(greeting, '<'):]
	digest := md5.Sum([]byte(stamp + "tanstaaf"))
	p.play("> APOP two words " + hex.EncodeToString(digest[:]) + "\n< +OK Logged in")
	if other := serveSessionGreeting(t, s); other == greeting {
		t.Errorf("two sessions have the same timestamp: %q", other)
	}

	// The computation itself, by the example of RFC 1939 section 7.
	digest = md5.Sum([]byte("<1896.697170952@dbc.mtview.ca.us>tanstaaf"))
	if got := hex.EncodeToString(digest[:]); got != "c4c9334bac560ecc979e58001b3e22fb" {
		t.Errorf("digest %s", got)
	}
}

func serveSessionGreeting(t *testing.T, s *Server) string {
	client, server := Pipe()
	go s.ServeConn(server)
	defer client.Close()
	return newPeer(t, client).line()
}

// TestUpdate: deletions are committed by QUIT in the TRANSACTION state alone.
func TestUpdate(t *testing.T) {
	t.Parallel()
	s := NewUnstartedServer()
	d := s.AddUser("u", "p", "one", "two", "three")
	uids := d.UIDs()
	login := "> USER u\n< +OK Send the password\n> PASS p\n< +OK Logged in\n"

	p := serveSession(t, s)
	p.play(login + "> DELE 1\n< +OK Message deleted")
	if !d.Locked() {
		t.Error("not locked in a session")
	}
	second := serveSession(t, s)
	second.play("> USER u\n~ .*\n> PASS p\n< -ERR [IN-USE] Maildrop is locked by another session")
	p.conn.Close()
	d.Wait()
	if n := len(d.Messages()); n != 3 || d.Logins() != 1 || d.Quits() != 0 {
		t.Errorf("after a dropped connection: %d messages, %d logins, %d quits; want 3, 1, 0", n, d.Logins(), d.Quits())
	}

	p = second
	p.play(login + "> DELE 2\n< +OK Message deleted\n> RSET\n~ .*\n> DELE 1\n~ .*\n> DELE 3\n~ .*")
	d.Add("four") // while the session is open
	p.play("> STAT\n< +OK 1 5\n> QUIT\n< +OK Goodbye")
	if d.Locked() {
		t.Error("locked when the reply to QUIT was read")
	}
	if got, want := d.Messages(), []string{"two\r\n", "four\r\n"}; !slices.Equal(got, want) {
		t.Errorf("after QUIT: %q, want %q", got, want)
	}
	if got := d.UIDs(); got[0] != uids[1] || slices.Contains(uids, got[1]) {
		t.Errorf("UIDs %v after %v: not kept, or used again", got, uids)
	}
	p.ended()
	if d.Quits() != 1 {
		t.Errorf("%d quits, want 1", d.Quits())
	}
}

func TestCapa(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		configure func(*Server)
		want      string
		loggedIn  string // difference
	}{
		{"default", func(*Server) {},
			"TOP|UIDL|RESP-CODES|AUTH-RESP-CODE|PIPELINING|USER|SASL SCRAM-SHA-256 SCRAM-SHA-1 CRAM-MD5 PLAIN LOGIN XOAUTH2 OAUTHBEARER|STLS|UTF8 USER|LANG|IMPLEMENTATION pop3test",
			"STLS|"},
		{"all", func(s *Server) {
			s.AddUser("anonymous", "")
			s.Mechanisms = []string{"ANONYMOUS", "PLAIN", "EXTERNAL", "SCRAM-SHA-1-PLUS"}
			s.Expire, s.LoginDelay, s.Implementation = "30 USER", 90*time.Second, "Test 1"
		},
			"TOP|UIDL|RESP-CODES|AUTH-RESP-CODE|PIPELINING|USER|SASL PLAIN ANONYMOUS|STLS|UTF8 USER|LANG|EXPIRE 30 USER|LOGIN-DELAY 90|IMPLEMENTATION Test 1",
			"STLS|"},
		{"few", func(s *Server) {
			s.Disable = []string{"TOP", "SASL", "STLS", "UTF8", "LANG", "PIPELINING", "AUTH-RESP-CODE", "APOP", "IMPLEMENTATION"}
		}, "UIDL|RESP-CODES|USER", ""},
		{"edited", func(s *Server) {
			s.Capabilities = func(rows []string, loggedIn, secure bool) []string {
				return []string{fmt.Sprint("LOGGED-IN ", loggedIn), fmt.Sprint("SECURE ", secure)}
			}
		}, "LOGGED-IN false|SECURE false", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := NewUnstartedServer()
			test.configure(s)
			s.AddUser("u", "p")
			p := serveSession(t, s)
			p.send("CAPA\r\n")
			if got := strings.Join(p.rows(), "|"); got != test.want {
				t.Errorf("before login:\n%s, want\n%s", got, test.want)
			}
			p.play("> USER u\n~ .*\n> PASS p\n< +OK Logged in\n> CAPA")
			want := strings.Replace(test.want, test.loggedIn, "", 1)
			want = strings.Replace(want, "LOGGED-IN false", "LOGGED-IN true", 1)
			if got := strings.Join(p.rows(), "|"); got != want {
				t.Errorf("after login:\n%s, want\n%s", got, want)
			}
		})
	}
}

func TestDisable(t *testing.T) {
	t.Parallel()
	s := NewUnstartedServer()
	s.Disable = []string{"CAPA", "APOP", "USER", "SASL", "STLS", "UTF8", "LANG", "RPOP"}
	p := serveSession(t, s)
	for _, c := range []string{"CAPA", "APOP u x", "USER u", "PASS p", "AUTH", "STLS", "UTF8", "LANG", "RPOP u"} {
		p.play("> " + c + "\n< -ERR Unknown command")
	}

	s = NewUnstartedServer()
	s.Disable = []string{"PIPELINING"}
	p = serveSession(t, s)
	p.play("> CAPAX\n~ -ERR.*\n> USER u\n~ \\+OK.*")
	p.send("USER u\r\nNOOP\r\n")
	p.play("< -ERR Pipelining is not available")
	p.ended()
}

func TestLoginDelay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := NewUnstartedServer()
		s.LoginDelay = time.Minute
		s.AddUser("u", "p")
		serveSession(t, s).play("> USER u\n~ .*\n> PASS p\n< +OK Logged in\n> QUIT\n~ .*")
		time.Sleep(s.LoginDelay - 1)
		p := serveSession(t, s)
		p.play("> USER u\n~ .*\n> PASS p\n< -ERR [LOGIN-DELAY] Minimum time between logins has not passed")
		time.Sleep(time.Nanosecond)
		p.play("> USER u\n~ .*\n> PASS p\n< +OK Logged in")
	})
}

func TestIntercept(t *testing.T) {
	t.Parallel()
	s := NewUnstartedServer()
	var seen []string
	s.Intercept = func(line string) (string, bool) {
		seen = append(seen, line)
		return "-ERR [SYS/TEMP] Try later\r\n", strings.HasPrefix(line, "pass")
	}
	p := serveSession(t, s)
	p.play("> USER u\n< +OK Send the password\n> pass p\n< -ERR [SYS/TEMP] Try later\n> QUIT\n< +OK Goodbye")
	if want := []string{"USER u", "pass p", "QUIT"}; !slices.Equal(seen, want) {
		t.Errorf("Intercept saw %q, want %q", seen, want)
	}
}

func TestLongLine(t *testing.T) {
	t.Parallel()
	s := NewUnstartedServer()
	s.AddUser("u", "p")
	p := serveSession(t, s)
	p.play("> USER " + strings.Repeat("x", maxCommand-5) + "\n< +OK Send the password")
	p.play("> USER " + strings.Repeat("x", maxCommand-4) + "\n< -ERR Command too long")
	go io.WriteString(p.conn, "NOOP "+strings.Repeat("x", 10*maxInput)+"\r\nUSER u\r\nPASS p\r\n")
	p.play("< -ERR Command too long\n< +OK Send the password\n< +OK Logged in")
}

// TestPipelining has many commands in one segment answered in order, and the
// client read nothing before all of them are written. On net.Pipe, which holds
// nothing, this needs a server that reads while it cannot write.
func TestPipelining(t *testing.T) {
	t.Parallel()
	const n = 2000
	var commands, want strings.Builder
	commands.WriteString("USER u\r\nPASS p\r\n")
	want.WriteString("+OK Send the password\r\n+OK Logged in\r\n")
	for i := range n {
		switch i % 4 {
		case 0:
			commands.WriteString("STAT\r\n")
			fmt.Fprintf(&want, "+OK 1 %d\r\n", len(mail))
		case 1:
			commands.WriteString("RETR 1\r\n")
			fmt.Fprintf(&want, "+OK %d octets\r\n%s.\r\n", len(mail), strings.ReplaceAll(mail, "\r\n.", "\r\n.."))
		case 2:
			fmt.Fprintf(&commands, "LIST %d\r\n", i+1)
			want.WriteString("-ERR No such message\r\n")
		case 3:
			commands.WriteString("noop\r\n")
			want.WriteString("+OK\r\n")
		}
	}
	commands.WriteString("QUIT\r\n")
	want.WriteString("+OK Goodbye\r\n")

	s := NewServer()
	defer s.Close()
	s.AddUser("u", "p", mail)
	dial := map[string]func() net.Conn{
		"socket": func() net.Conn {
			conn, err := net.Dial("tcp", s.Addr)
			if err != nil {
				t.Fatal(err)
			}
			return conn
		},
		"net.Pipe": func() net.Conn {
			client, server := net.Pipe()
			go s.ServeConn(server)
			return client
		},
	}
	for _, name := range slices.Sorted(maps.Keys(dial)) {
		conn := dial[name]()
		p := newPeer(t, conn)
		p.line()
		p.send(commands.String())
		got, err := io.ReadAll(p.r)
		if err != nil || string(got) != want.String() {
			t.Errorf("%s: the replies are not those of %d commands in order (%d octets, %v)", name, n, len(got), err)
		}
		conn.Close()
	}
}

func TestSTLS(t *testing.T) {
	t.Parallel()
	s := NewServer()
	defer s.Close()
	s.AddUser("u", "p")
	conn, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p := newPeer(t, conn)
	p.line()
	// What is behind STLS in the same segment must never be answered.
	p.send("LANG de\r\nSTLS\r\nUSER injected\r\nNOOP\r\n")
	p.play("~ \\+OK de.*\n~ \\+OK .*")
	if p.r.Buffered() > 0 {
		t.Fatal("octets behind the reply to STLS")
	}
	secured := tls.Client(conn, s.ClientTLS())
	p = newPeer(t, secured)
	p.play("> PASS p\n< -ERR USER comes first\n> STLS\n< -ERR TLS is active already\n> CAPA")
	rows := p.rows()
	if slices.Contains(rows, "STLS") {
		t.Errorf("STLS offered under TLS: %q", rows)
	}
	if !slices.ContainsFunc(rows, func(r string) bool { return strings.HasPrefix(r, "SASL SCRAM-SHA-256-PLUS SCRAM-SHA-1-PLUS ") }) {
		t.Errorf("no -PLUS offered under TLS: %q", rows)
	}
	p.play("> USER u\n~ .*\n> PASS p\n< +OK Logged in\n> QUIT\n< +OK Goodbye")
	if _, err := p.r.ReadByte(); err != io.EOF {
		t.Errorf("after QUIT: %v, want a close_notify and so io.EOF", err)
	}

	s = NewUnstartedServer()
	s.TLS = nil
	serveSession(t, s).play("> STLS\n< -ERR Unknown command")
}

func TestImplicitTLS(t *testing.T) {
	t.Parallel()
	s := NewTLSServer()
	defer s.Close()
	for _, name := range []string{"localhost", "127.0.0.1", "::1", "example.com"} {
		config := s.ClientTLS()
		config.ServerName = name
		conn, err := tls.Dial("tcp", s.Addr, config)
		if err != nil {
			t.Fatal(err)
		}
		newPeer(t, conn).match(`\+OK.*`)
		conn.Close()
	}

	// On a pipe and by the clock of a bubble, which begins in 2000.
	synctest.Test(t, func(t *testing.T) {
		s := NewUnstartedServer()
		client, server := Pipe()
		go s.ServeConn(tls.Server(server, s.TLS))
		p := newPeer(t, tls.Client(client, ScriptTLS()))
		p.match(`\+OK.*`)
		client.Close()
		s.Close()
	})
}

func TestRequireTLS(t *testing.T) {
	t.Parallel()
	s := NewUnstartedServer()
	s.RequireTLS = true
	s.AddUser("u", "p")
	p := serveSession(t, s)
	p.play(`
		> USER u
		< -ERR TLS is required
		> APOP u x
		< -ERR TLS is required
		> RPOP u
		< -ERR TLS is required
		> AUTH SCRAM-SHA-256
		< -ERR Mechanism is not available
		> CAPA`)
	for _, row := range p.rows() {
		if row == "USER" || strings.HasPrefix(row, "SASL") {
			t.Errorf("%q is offered", row)
		}
	}
	p.play("> STLS\n~ \\+OK.*")
	p = newPeer(t, tls.Client(p.conn, s.ClientTLS()))
	p.play("> USER u\n~ .*\n> PASS p\n< +OK Logged in")

	// A client from elsewhere cannot send passwords in clear to any server.
	s = NewUnstartedServer()
	client, server := Pipe()
	defer client.Close()
	go s.ServeConn(remote{server})
	p = newPeer(t, client)
	p.line()
	p.play("> USER u\n< -ERR TLS is required\n> AUTH PLAIN\n< -ERR Mechanism is not available\n> AUTH CRAM-MD5\n~ \\+ .*")
}

type remote struct{ net.Conn }

func (remote) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1} }

// TestClose: no goroutine is left, whatever the sessions were doing.
func TestClose(t *testing.T) {
	t.Parallel()
	s := NewUnstartedServer()
	s.Start()
	d := s.AddUser("u", "p", strings.Repeat("x", 16<<20))
	dial := func() *peer {
		conn, err := net.Dial("tcp", s.Addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		p := newPeer(t, conn)
		p.match(`\+OK.*`)
		return p
	}
	idle := dial()              // waits for a command
	dial().play("> STLS\n~ .*") // waits for a handshake
	dial().play("> AUTH PLAIN\n< + ")
	p := dial()
	p.play("> USER u\n~ .*\n> PASS p\n~ .*\n> DELE 1\n~ .*\n> RSET\n~ .*\n> RETR 1\n~ .*") // cannot write on
	s.Close()
	if d.Locked() || len(d.Messages()) != 1 {
		t.Errorf("after Close: locked %t, %d messages", d.Locked(), len(d.Messages()))
	}
	idle.ended()
	s.Close() // again
	client, server := Pipe()
	s.ServeConn(server)
	if _, err := client.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("ServeConn after Close: Read %v, want io.EOF", err)
	}
}

func TestNoLeak(t *testing.T) {
	t.Parallel()
	// A bubble with a goroutine left at its end is a failure.
	synctest.Test(t, func(t *testing.T) {
		s := NewUnstartedServer()
		s.AddUser("u", "p", strings.Repeat("x", 1<<20))
		for _, last := range []string{"QUIT\r\n", "AUTH LOGIN\r\n", "STLS\r\n", "USER u\r\nPASS p\r\nRETR 1\r\n", "half a line"} {
			client, server := Pipe()
			var wg sync.WaitGroup
			wg.Go(func() { s.ServeConn(server) })
			io.WriteString(client, last)
			synctest.Wait()
			client.Close()
			wg.Wait()
		}
	})
}

// TestAllocations: a client's allocations are counted in the same process, so
// the server's everyday commands must make none.
func TestAllocations(t *testing.T) {
	s := NewUnstartedServer()
	s.AddUser("u", "p", mail)
	p := serveSession(t, s)
	p.play("> USER u\n~ .*\n> PASS p\n~ .*")
	commands := []byte(strings.Repeat("STAT\r\nRETR 1\r\nLIST\r\nUIDL 1\r\nTOP 1 1\r\n", 20) + "NOOP\r\n")
	p.send(string(commands))
	size := 0
	for line := ""; line != "+OK\r\n"; size += len(line) {
		var err error
		if line, err = p.r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	replies := make([]byte, size)
	n := testing.AllocsPerRun(100, func() {
		p.conn.Write(commands)
		if _, err := io.ReadFull(p.r, replies); err != nil {
			t.Fatal(err)
		}
	})
	// The race detector has sync.Pool forget some buffers.
	if n > 10 {
		t.Errorf("%.0f allocations for %d commands", n, bytes.Count(commands, []byte("\n")))
	}
}

// SASL.

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
		{"SCRAM nobody", "> AUTH SCRAM-SHA-1 " + b64("n,,n=nobody,r=x") + "\n" + failed},
		{"SCRAM bound", "> AUTH SCRAM-SHA-1 " + b64("p=tls-unique,,n=tim,r=x") + "\n" + failed},
		{"SCRAM for another", "> AUTH SCRAM-SHA-1 " + b64("n,a=ursel,n=tim,r=x") + "\n" + failed},
		{"SCRAM extended", "> AUTH SCRAM-SHA-1 " + b64("n,,m=x,n=tim,r=x") + "\n" + failed},
		{"SCRAM malformed", "> AUTH SCRAM-SHA-1 =\n" + failed},
		{"SCRAM no proof", "> AUTH SCRAM-SHA-1 " + b64("n,,n=tim,r=x") + "\n~ \\+ .*\n> " + b64("c=biws,r=x") + "\n" + failed},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := NewUnstartedServer()
			s.AddUser("tim", "tanstaaftanstaaf").Token = "vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg=="
			s.AddUser("ursel", "")
			s.AddUser("anonymous", "")
			serveSession(t, s).play(test.dialogue)
		})
	}
}

// TestCRAMMD5 has the key and the challenge's form of RFC 2195 section 2,
// whose example is checked too.
func TestCRAMMD5(t *testing.T) {
	t.Parallel()
	digest := func(challenge string) string {
		mac := hmac.New(md5.New, []byte("tanstaaftanstaaf"))
		mac.Write([]byte(challenge))
		return hex.EncodeToString(mac.Sum(nil))
	}
	if got := digest("<1896.697170952@postoffice.reston.mci.net>"); got != "b913a602c7eda7a495b4e6e7334d3890" {
		t.Errorf("example of RFC 2195: %s", got)
	}
	s := NewUnstartedServer()
	s.AddUser("tim two", "tanstaaftanstaaf")
	p := serveSession(t, s)
	p.send("AUTH CRAM-MD5\r\n")
	old := digest(p.challenge())
	p.play("> " + b64("tim two "+digest("another")) + "\n< -ERR [AUTH] Authentication failed\n> AUTH CRAM-MD5")
	if now := digest(p.challenge()); now == old {
		t.Error("the same challenge twice")
	} else {
		p.play("> " + b64("tim two "+now) + "\n< +OK Logged in")
	}
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
	tests := []struct {
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
	}
	for _, test := range tests {
		for _, fault := range []string{"", "password", "nonce", "binding", "answer"} {
			t.Run(fmt.Sprintf("%s %s %x %s", test.mechanism, test.binding, test.version, fault), func(t *testing.T) {
				t.Parallel()
				s := NewUnstartedServer()
				s.Iterations = 100
				s.AddUser("a,b=c", "pencil")
				p := serveSession(t, s)
				header, data := test.binding+",,", ""
				if test.version != 0 {
					config := s.ClientTLS()
					config.MaxVersion = test.version
					p.play("> STLS\n~ \\+OK.*")
					conn := tls.Client(p.conn, config)
					if err := conn.Handshake(); err != nil {
						t.Fatal(err)
					}
					p = newPeer(t, conn)
					state := conn.ConnectionState()
					switch test.binding {
					case "p=tls-unique":
						data = string(state.TLSUnique)
					case "p=tls-exporter":
						b, err := state.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
						if err != nil {
							t.Fatal(err)
						}
						data = string(b)
					}
				}
				first := "n=a=2Cb=3Dc,r=nonce"
				p.send("AUTH " + test.mechanism + " " + b64(header+first) + "\r\n")
				serverFirst := p.challenge()
				var nonce, salt string
				for i, f := range strings.Split(serverFirst, ",") {
					switch i {
					case 0:
						nonce = f[2:]
					case 1:
						b, _ := base64.StdEncoding.DecodeString(f[2:])
						salt = string(b)
					}
				}
				if !strings.HasPrefix(nonce, "nonce") || len(nonce) < 20 || !strings.HasSuffix(serverFirst, ",i=100") {
					t.Fatalf("server-first-message %q", serverFirst)
				}
				password := "pencil"
				switch fault {
				case "password":
					password = "pen"
				case "nonce":
					nonce = nonce[:len(nonce)-1]
				case "binding":
					data += "x"
				}
				final := "c=" + b64(header+data) + ",r=" + nonce
				proof, signature := scram(test.h, password, salt, 100, first+","+serverFirst+","+final)
				p.send(b64(final+",p="+proof) + "\r\n")
				switch fault {
				case "", "answer":
					if got := p.challenge(); got != "v="+signature {
						t.Fatalf("server-final-message %q, want v=%s", got, signature)
					}
					if fault == "" {
						p.play("> \n< +OK Logged in")
						return
					}
					p.send(b64("x") + "\r\n")
				}
				p.match(`-ERR \[AUTH\] Authentication failed`)
			})
		}
	}

	t.Run("downgraded", func(t *testing.T) {
		t.Parallel()
		s := NewUnstartedServer()
		s.AddUser("u", "p")
		client, server := Pipe()
		defer client.Close()
		go s.ServeConn(tls.Server(server, s.TLS))
		p := newPeer(t, tls.Client(client, s.ClientTLS()))
		p.line()
		p.play("> AUTH SCRAM-SHA-256 " + b64("y,,n=u,r=x") + "\n< -ERR [AUTH] Authentication failed")
		p.play("> AUTH SCRAM-SHA-256-PLUS " + b64("p=tls-unique,,n=u,r=x") + "\n< -ERR [AUTH] Authentication failed")
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
		conn, err := tls.Dial("tcp", s.Addr, config)
		if err != nil {
			t.Fatal(err)
		}
		p := newPeer(t, conn)
		p.line()
		p.play(test.dialogue)
		conn.Close()
	}
}

// TestLanguages: each text that is sent has its translations.
func TestLanguages(t *testing.T) {
	t.Parallel()
	for english := range german {
		if spanish[english] == "" {
			t.Errorf("no Spanish for %q", english)
		}
	}
	for english := range spanish {
		if german[english] == "" {
			t.Errorf("no German for %q", english)
		}
	}
	var source []byte
	for _, file := range []string{"session.go", "lang.go", "sasl.go", "server.go", "maildrop.go"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		source = append(source, b...)
	}
	sent := regexp.MustCompile(`(?:refuse\("[A-Z0-9]*", |ok\(|rows\(|text\(|return nil, "[A-Z-]+", )"([^"]+)"`).FindAllSubmatch(source, -1)
	if len(sent) < 30 {
		t.Errorf("only %d texts found", len(sent))
	}
	for _, m := range sent {
		if text := string(m[1]); german[text] == "" {
			t.Errorf("no German for %q", text)
		}
	}
}

// Script.

func TestScript(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, script string
		client       []string // each sent as one write
		want         string   // what the client gets
		err          string
	}{
		{"plain", "# comment\n\nS: +OK\nC: NOOP\nS:\nS: x\n", []string{"NOOP\r\n"}, "+OK\r\n\r\nx\r\n", ""},
		{"octets", `Sq: "a\x00\n"` + "\n" + `Cq: "\xff"` + "\nS: b\nclose", []string{"\xff"}, "a\x00\nb\r\n", ""},
		{"pattern", `C~: APOP \w+ [0-9a-f]{4}` + "\nS: ok\n", []string{"APOP u 12ab\r\n"}, "ok\r\n", ""},
		{"no match", `C~: NOOP` + "\nS: ok\n", []string{"NOOPS\r\n"}, "", `s:1: got "NOOPS\r\n", want a line that matches ^(?:NOOP)` + "\r\n$"},
		{"no end", `C~: NOOP`, []string{"NO"}, "", `s:1: got "NO" and then EOF, want a line that matches`},
		{"repeat", `Srepeat: 100000 "ab"` + "\nclose", nil, strings.Repeat("ab", 100000), ""},
		{"segment", "in one segment:\nS: a\n# comment\nSq: \"b\"\nSrepeat: 2 \"c\"\nC: x", []string{"x\r\n"}, "a\r\nbcc", ""},
		{"together", "together:\nC: a\nC: b\nS: ab\nclose", []string{"a\r\nb\r\n"}, "ab\r\n", ""},
		{"differs", "S: +OK\n> c.Stat()\nC: STAT\nS: x", []string{"STAX\r\nQUIT\r\n"}, "+OK\r\n", `s:3: got "STAX\r\n", want "STAT\r\n"`},
		// The line is not waited for.
		{"differs early", "C: STAT", []string{"QUI"}, "", `s:1: got "QUI", want "STAT\r\n"`},
		{"lone LF", "C: STAT", []string{"STAT\n"}, "", `s:1: got "STAT\n", want "STAT\r\n"`},
		{"gone", "C: STAT", []string{"ST"}, "", `s:1: got "ST" and then EOF, want "STAT\r\n"`},
		{"stray QUIT", "S: a\n\neof", []string{"QUIT\r\n"}, "a\r\n", `s:3: got "QUIT\r\n", want the end of the connection`},
		{"stray QUIT at the end", "S: a\n", []string{"QUIT\r\n"}, "a\r\n", `s:2: got "QUIT\r\n", want the end of the connection`},
		{"clear behind STLS", "C: STLS\nS: +OK\nstarttls", []string{"STLS\r\nUSER u\r\n"}, "+OK\r\n", `s:3: got "USER u\r\n" in clear, want a TLS handshake`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s, err := ParseScript("s", []byte(test.script))
			if err != nil {
				t.Fatal(err)
			}
			client, server := Pipe()
			result := make(chan error, 1)
			go func() { result <- s.Serve(server) }()
			for _, text := range test.client {
				io.WriteString(client, text)
			}
			got := make([]byte, len(test.want))
			io.ReadFull(client, got)
			if string(got) != test.want {
				t.Errorf("got %.100q, want %.100q", got, test.want)
			}
			client.Close()
			if err := <-result; test.err == "" && err != nil || test.err != "" && (err == nil || !strings.HasPrefix(err.Error(), test.err)) {
				t.Errorf("Serve: %v, want %q", err, test.err)
			}
		})
	}
}

func TestScriptTLS(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"implicit": "tls\nS: +OK\nC: NOOP\nS: +OK",
		"starttls": "S: +OK\nC: STLS\nS: +OK\nstarttls\nC: NOOP\nS: +OK\nclose",
	} {
		synctest.Test(t, func(t *testing.T) {
			s, err := ParseScript(name, []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			client, server := Pipe()
			var wg sync.WaitGroup
			wg.Go(func() {
				if err := s.Serve(server); err != nil {
					t.Error(err)
				}
			})
			p := newPeer(t, client)
			if name == "starttls" {
				p.play("< +OK\n> STLS\n< +OK")
			}
			p = newPeer(t, tls.Client(client, ScriptTLS()))
			if name == "implicit" {
				p.play("< +OK")
			}
			p.play("> NOOP\n< +OK")
			client.Close()
			wg.Wait()
		})
	}
}

func TestScriptTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, err := ParseScript("s", []byte("S: a\nlater 90s\nS: b\nstall"))
		if err != nil {
			t.Fatal(err)
		}
		client, server := PipeSize(16)
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := s.Serve(server); err != nil {
				t.Error(err)
			}
		})
		start := time.Now()
		p := &peer{t, client, bufio.NewReader(client)}
		p.play("< a\n< b")
		if d := time.Since(start); d != 90*time.Second {
			t.Errorf("b came after %v, want 90s", d)
		}
		client.SetDeadline(time.Now().Add(time.Hour))
		if n, err := client.Write(make([]byte, 17)); n != 16 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("writing to a stalled server: %d, %v; want the 16 octets that fit and a timeout", n, err)
		}
		client.Close()
		wg.Wait()
	})
}

func TestScriptRepeatStops(t *testing.T) {
	t.Parallel()
	s, err := ParseScript("s", []byte(`Srepeat: 1000000000 "x"`+"\neof"))
	if err != nil {
		t.Fatal(err)
	}
	client, server := Pipe()
	result := make(chan error)
	go func() { result <- s.Serve(server) }()
	io.CopyN(io.Discard, client, 1<<20)
	client.Close()
	if err := <-result; err != nil {
		t.Errorf("a client that has had enough: %v", err)
	}
}

func TestParseScript(t *testing.T) {
	t.Parallel()
	s, err := ParseScript("s", []byte("> c.Stat()\r\n= 2 320\r\nC: STAT\r\nS: +OK 2 320\r\n=\n>  c.Quit()\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprintf("%q", s.Calls), `[{'\x01' "c.Stat()" ["2 320" ""]} {'\x06' " c.Quit()" []}]`; got != want {
		t.Errorf("Calls %s, want %s", got, want)
	}
	for script, want := range map[string]string{
		"S: a\nX: b":                 `s:2: unknown step "X: b"`,
		"nonsense":                   `s:1: unknown step "nonsense"`,
		"Sq: a":                      `s:1: invalid syntax`,
		"C~: (":                      `s:1: error parsing regexp`,
		"later x":                    `s:1: time: invalid duration`,
		"Srepeat: x \"a\"":           `s:1: strconv.Atoi`,
		"Srepeat: 1200000000 \"ab\"": `s:1: more octets than a step may have`,
		"Srepeat: -1 \"a\"":          `s:1: more octets than a step may have`,
		"Srepeat: 1 \"\"":            `s:1: more octets than a step may have`,
		"close\n\nS: a":              `s:3: "S: a" comes after close`,
		"S: a\ntls":                  `s:2: tls is not the first step`,
		"= x":                        `s:1: a result comes before any call`,
		"in one segment:\nC: a":      `s:2: no S line follows the directive`,
		"together:\nS: a":            `s:2: no C line follows the directive`,
		"together:":                  `s:1: no C line follows the directive`,
		"in one segment:\nSrepeat: 20000000 \"a\"": `s:2: too many octets for one segment`,
	} {
		if _, err := ParseScript("s", []byte(script)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", script, err, want)
		}
	}
}

func BenchmarkRETR(b *testing.B) {
	s := NewUnstartedServer()
	text := strings.Repeat("a line of ordinary length, as mail has them, of base64 or not.\r\n", 64)
	s.AddUser("u", "p", text)
	client, server := Pipe()
	go s.ServeConn(server)
	defer s.Close()
	io.WriteString(client, "USER u\r\nPASS p\r\n")
	batch := bytes.Repeat([]byte("RETR 1\r\n"), 100)
	reply := len(fmt.Sprintf("+OK %d octets\r\n%s.\r\n", len(text), text))
	r := bufio.NewReaderSize(client, 64<<10)
	for range 3 {
		r.ReadString('\n')
	}
	b.SetBytes(int64(100 * reply))
	b.ReportAllocs()
	for b.Loop() {
		client.Write(batch)
		if _, err := r.Discard(100 * reply); err != nil {
			b.Fatal(err)
		}
	}
}
