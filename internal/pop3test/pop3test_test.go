package pop3test

import (
	"bufio"
	"bytes"
	"crypto/md5"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
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

// A peer is the client's side of a session, by hand.
type peer struct {
	t        *testing.T
	conn     net.Conn
	r        *bufio.Reader
	greeting string
}

func newPeer(t *testing.T, conn net.Conn) *peer {
	// So that a server that does not answer fails the test.
	conn.SetDeadline(time.Now().Add(time.Minute))
	return &peer{t: t, conn: conn, r: bufio.NewReader(conn)}
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
	p.greeting = p.match(`\+OK pop3test ready.*`)
	return p
}

// newSession is a session of user u, who has these messages.
func newSession(t *testing.T, messages ...string) (s *Server, d *Maildrop, p *peer) {
	t.Helper()
	s = NewUnstartedServer()
	d = s.AddUser("u", "p", messages...)
	return s, d, serveSession(t, s)
}

// dial connects to a server that listens, under TLS if there is a config.
func dial(t *testing.T, s *Server, config *tls.Config) *peer {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if config != nil {
		conn = tls.Client(conn, config)
	}
	p := newPeer(t, conn)
	p.match(`\+OK.*`)
	return p
}

// stls begins TLS.
func (p *peer) stls(config *tls.Config) *peer {
	p.t.Helper()
	p.play("> STLS | ~ \\+OK.*")
	return newPeer(p.t, tls.Client(p.conn, config))
}

// in logs in as user u, whose password is p.
func (p *peer) in() {
	p.t.Helper()
	p.play("> USER u | < +OK Send the password | > PASS p | < +OK Logged in")
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

// play plays a dialogue, whose steps are lines or parted by " | ": "> " is sent, "< "
// expected, "~ " matched.
func (p *peer) play(dialogue string) {
	p.t.Helper()
	for text := range strings.SplitSeq(strings.ReplaceAll(dialogue, "\n", " | "), " | ") {
		sign, rest, _ := strings.Cut(strings.TrimLeft(text, "\t"), " ")
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
			> STAT | < -ERR Command is not valid in this state
			> noop | < -ERR Command is not valid in this state | > XYZZY | < -ERR Unknown command
			>  | < -ERR Unknown command | > PASS secret word | < -ERR USER comes first
			> user tim | < +OK Send the password | > CAPAX | < -ERR Unknown command
			> PASS secret word | < -ERR USER comes first | > USER | < -ERR Argument is missing
			> uSeR tim | < +OK Send the password | > pAsS secret word | < +OK Logged in
			> USER tim | < -ERR Command is not valid in this state
			> APOP tim 0 | < -ERR Command is not valid in this state
			> AUTH PLAIN | < -ERR Command is not valid in this state
			> STLS | < -ERR Command is not valid in this state
			> UTF8 | < -ERR Command is not valid in this state | > quit | < +OK Goodbye`},
		{"wrong password", `
			> USER tim | < +OK Send the password | > PASS secret | < -ERR [AUTH] Authentication failed
			> PASS secret word | < -ERR USER comes first | > USER nobody | < +OK Send the password
			> PASS secret word | < -ERR [AUTH] Authentication failed
			> APOP tim 00000000000000000000000000000000 | < -ERR [AUTH] Authentication failed
			> APOP nobody 00000000000000000000000000000000 | < -ERR [AUTH] Authentication failed
			> APOP tim | < -ERR Argument is missing | > RPOP tim | < -ERR [AUTH] Authentication failed`},
		{"RPOP", `
			> USER trusting | < +OK Send the password | > RPOP rose | < +OK Logged in`},
		{"RPOP alone", `
			> RPOP trusting | < +OK Logged in`},
		{"transaction", `
			> USER tim | < +OK Send the password | > PASS secret word | < +OK Logged in
			> STAT | < +OK 3 66 | > LIST | < +OK Scan listing follows | < 1 48 | < 2 0 | < 3 18 | < .
			> LIST 3 | < +OK 3 18 | > LIST 4 | < -ERR No such message | > LIST 0 | < -ERR No such message
			> LIST -1 | < -ERR Argument is no number
			> LIST 99999999999999999999 | < -ERR Argument is no number
			> UIDL | < +OK Unique-id listing follows | ~ 1 [0-9a-f]{8}00000001 | ~ 2 [0-9a-f]{8}00000002 | ~ 3 [0-9a-f]{8}00000003 | < .
			> UIDL 2 | ~ \+OK 2 [0-9a-f]{8}00000002 | > RETR 2 | < +OK 0 octets | < .
			> RETR 3 | < +OK 18 octets | < no header end | < x | < . | > RETR | < -ERR Argument is no number
			> TOP 1 1 | < +OK 28 octets | < From: a@example.com | <  | < one | < .
			> TOP 1 0 | < +OK 23 octets | < From: a@example.com | <  | < .
			> TOP 3 0 | < +OK 18 octets | < no header end | < x | < .
			> TOP 1 | < -ERR Argument is no number | > TOP 1 -1 | < -ERR Argument is no number
			> DELE 1 | < +OK Message deleted | > DELE 1 | < -ERR Message is deleted
			> RETR 1 | < -ERR Message is deleted | > STAT | < +OK 2 18
			> LIST | < +OK Scan listing follows | < 2 0 | < 3 18 | < .
			> UIDL | < +OK Unique-id listing follows | ~ 2 .* | ~ 3 .* | < .
			> RSET | < +OK Deletions undone | > STAT | < +OK 3 66 | > NOOP | < +OK`},
		{"LANG", `
			> LANG | < +OK Language listing follows | < en English | < de Deutsch | < es Español | < .
			> LANG DE | < +OK de Sprache geändert | > AUTH PLAIN = | < -ERR [AUTH] Anmeldung fehlgeschlagen
			> LANG sv | < -ERR Unknown language | > LANG es | < +OK es Idioma cambiado
			> LANG * | < +OK en Language changed`},
		{"UTF8", `
			> USER utf8 | < +OK Send the password | > PASS x | < +OK Logged in
			> RETR 1 | < -ERR [UTF8] Message needs UTF-8 mode
			> TOP 1 0 | < -ERR [UTF8] Message needs UTF-8 mode | > LIST 1 | < +OK 1 13
			> QUIT | < +OK Goodbye`},
		{"UTF8 first", `
			> UTF8 | < +OK UTF-8 mode | > STLS | < -ERR Command is not valid in this state
			> USER utf8 | < +OK Send the password | > PASS x | < +OK Logged in
			> RETR 1 | < +OK 13 octets | < Subject: é | < .`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if strings.Contains(test.dialogue, "APOP") {
				NeedMD5(t)
			}
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
	long := strings.Repeat("x", 3*maxOutput) + "\r\n.\r\n" + strings.Repeat(".\r\n", maxOutput)
	_, d, p := newSession(t, mail, ".", "\r\n.\r\n", "lone LF\n", "nul \x00 8-bit \xff", long)
	p.in()
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
	NeedMD5(t)
	t.Parallel()
	s := NewUnstartedServer()
	s.AddUser("two words", "tanstaaf")
	var stamps []string
	for range 2 {
		p := serveSession(t, s)
		_, stamp, _ := strings.Cut(p.greeting, "<")
		digest := md5.Sum([]byte("<" + stamp + "tanstaaf"))
		p.play("> APOP two words " + hex.EncodeToString(digest[:]) + " | < +OK Logged in | > QUIT | ~ .*")
		stamps = append(stamps, stamp)
	}
	if stamps[0] == stamps[1] {
		t.Errorf("two sessions have the same timestamp: %q", stamps[0])
	}
	s.RequireTLS = true
	serveSession(t, s).play("> APOP two words x | < -ERR TLS is required")
}

// TestUpdate: deletions are committed by QUIT in the TRANSACTION state alone.
func TestUpdate(t *testing.T) {
	t.Parallel()
	s, d, p := newSession(t, "one", "two", "three")
	uids := d.UIDs()
	p.in()
	p.play("> DELE 1 | < +OK Message deleted")
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
	p.in()
	p.play("> DELE 2\n< +OK Message deleted\n> RSET\n~ .*\n> DELE 1\n~ .*\n> DELE 3\n~ .*")
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
	const first, last = "TOP|UIDL|RESP-CODES|AUTH-RESP-CODE|PIPELINING|USER|SASL ", "UTF8 USER|LANG|"
	const all = "SCRAM-SHA-256 SCRAM-SHA-1 CRAM-MD5 PLAIN LOGIN XOAUTH2 OAUTHBEARER|"
	const few = "EXPIRE 30 USER|LOGIN-DELAY 90|IMPLEMENTATION Test 1"
	tests := []struct {
		name      string
		configure func(*Server)
		want      string
		loggedIn  string
	}{
		{"default", func(*Server) {},
			first + all + "STLS|" + last + "IMPLEMENTATION pop3test", first + all + last + "IMPLEMENTATION pop3test"},
		{"all", func(s *Server) {
			s.AddUser("anonymous", "")
			s.Mechanisms = []string{"ANONYMOUS", "PLAIN", "EXTERNAL", "SCRAM-SHA-1-PLUS"}
			s.Expire, s.LoginDelay, s.Implementation = "30 USER", 90*time.Second, "Test 1"
		}, first + "PLAIN ANONYMOUS|STLS|" + last + few, first + "PLAIN ANONYMOUS|" + last + few},
		{"few", func(s *Server) {
			s.Disable = []string{"TOP", "SASL", "STLS", "UTF8", "LANG", "PIPELINING", "AUTH-RESP-CODE", "APOP", "IMPLEMENTATION"}
		}, "UIDL|RESP-CODES|USER", "UIDL|RESP-CODES|USER"},
		{"edited", func(s *Server) {
			s.Capabilities = func(rows []string, loggedIn, secure bool) []string {
				return []string{fmt.Sprint("LOGGED-IN ", loggedIn), fmt.Sprint("SECURE ", secure)}
			}
		}, "LOGGED-IN false|SECURE false", "LOGGED-IN true|SECURE false"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if strings.Contains(test.want, "MD5") {
				NeedMD5(t)
			}
			s := NewUnstartedServer()
			test.configure(s)
			s.AddUser("u", "p")
			p := serveSession(t, s)
			p.send("CAPA\r\n")
			if got := strings.Join(p.rows(), "|"); got != test.want {
				t.Errorf("before login:\n%s, want\n%s", got, test.want)
			}
			p.play("> USER u\n~ .*\n> PASS p\n< +OK Logged in\n> CAPA")
			if got := strings.Join(p.rows(), "|"); got != test.loggedIn {
				t.Errorf("after login:\n%s, want\n%s", got, test.loggedIn)
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
		p.in()
	})
}

func TestIntercept(t *testing.T) {
	t.Parallel()
	s := NewUnstartedServer()
	var seen []string
	s.Intercept = func(line string) (string, bool) {
		seen = append(seen, line)
		if line == "NOOP" {
			return "+OK half a" + HangUp, true
		}
		return "-ERR [SYS/TEMP] Try later\r\n", strings.HasPrefix(line, "pass")
	}
	p := serveSession(t, s)
	p.play("> USER u\n< +OK Send the password\n> pass p\n< -ERR [SYS/TEMP] Try later\n> NOOP")
	if rest, err := io.ReadAll(p.r); err != nil || string(rest) != "+OK half a" {
		t.Errorf("before it hung up the server sent %q, %v", rest, err)
	}
	if want := []string{"USER u", "pass p", "NOOP"}; !slices.Equal(seen, want) {
		t.Errorf("Intercept saw %q, want %q", seen, want)
	}
}

func TestLongLine(t *testing.T) {
	t.Parallel()
	_, _, p := newSession(t)
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
	const n = 500
	commands := "USER u\r\nPASS p\r\n" + strings.Repeat("STAT\r\nRETR 1\r\nLIST 2\r\nnoop\r\n", n) + "QUIT\r\n"
	want := "+OK Send the password\r\n+OK Logged in\r\n" + strings.Repeat(fmt.Sprintf("+OK 1 %d\r\n+OK %[1]d octets\r\n%s.\r\n"+
		"-ERR No such message\r\n+OK\r\n", len(mail), strings.ReplaceAll(mail, "\r\n.", "\r\n..")), n) + "+OK Goodbye\r\n"
	s := NewServer()
	defer s.Close()
	s.AddUser("u", "p", mail)
	client, server := net.Pipe()
	go s.ServeConn(server)
	piped := newPeer(t, client)
	piped.line()
	for name, p := range map[string]*peer{"socket": dial(t, s, nil), "net.Pipe": piped} {
		p.send(commands)
		if got, err := io.ReadAll(p.r); err != nil || string(got) != want {
			t.Errorf("%s: the replies are not those of the commands in order (%d octets, %v)", name, len(got), err)
		}
	}
}

func TestSTLS(t *testing.T) {
	t.Parallel()
	s := NewServer()
	defer s.Close()
	s.AddUser("u", "p")
	p := dial(t, s, nil)
	// What is behind STLS in the same segment must never be answered.
	p.send("LANG de\r\nSTLS\r\nUSER injected\r\nNOOP\r\n")
	p.play("~ \\+OK de.*\n~ \\+OK .*")
	if p.r.Buffered() > 0 {
		t.Fatal("octets behind the reply to STLS")
	}
	p = newPeer(t, tls.Client(p.conn, s.ClientTLS()))
	p.play("> PASS p\n< -ERR USER comes first\n> STLS\n< -ERR TLS is active already\n> CAPA")
	rows := p.rows()
	if slices.Contains(rows, "STLS") {
		t.Errorf("STLS offered under TLS: %q", rows)
	}
	if !slices.ContainsFunc(rows, func(r string) bool { return strings.HasPrefix(r, "SASL SCRAM-SHA-256-PLUS ") }) {
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
		dial(t, s, config)
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
			> USER u | < -ERR TLS is required
			> RPOP u | < -ERR TLS is required | > AUTH SCRAM-SHA-256 | < -ERR Mechanism is not available
			> CAPA`)
	for _, row := range p.rows() {
		if row == "USER" || strings.HasPrefix(row, "SASL") {
			t.Errorf("%q is offered", row)
		}
	}
	p.stls(s.ClientTLS()).in()

	// A client from elsewhere cannot send passwords in clear to any server.
	s = NewUnstartedServer()
	client, server := Pipe()
	defer client.Close()
	go s.ServeConn(&Conn{Conn: server, RemoteAddrFunc: func() net.Addr { return Elsewhere }})
	p = newPeer(t, client)
	p.line()
	p.play("> USER u\n< -ERR TLS is required\n> AUTH PLAIN\n< -ERR Mechanism is not available\n> AUTH SCRAM-SHA-256\n~ \\+ .*")
}

// TestClose: no goroutine is left, whatever the sessions were doing.
func TestClose(t *testing.T) {
	t.Parallel()
	s := NewUnstartedServer()
	s.Start()
	d := s.AddUser("u", "p", strings.Repeat("x", 16<<20))
	idle := dial(t, s, nil)              // waits for a command
	dial(t, s, nil).play("> STLS\n~ .*") // waits for a handshake
	dial(t, s, nil).play("> AUTH PLAIN\n< + ")
	p := dial(t, s, nil)
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
	_, _, p := newSession(t, mail)
	p.in()
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
