package hostile_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// A mail whose text looks like the end of its response and the replies of a
// server must come out as it is, and what comes behind it as well.
func TestForgedEnd(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"\n.\n", "\n.\r\n", "\r.\r", "\r.\r\n", "\r\n.\n", "\r\n.\r", "\r\n.\r\r\n", "\n\r.\r\n", "\r\n. \r\n",
		"\r\n.\x00\r\n", "\x00.\r\n", "\r\n.\r.\r\n", "\r\r\n.\r\r\n", "\n.\n.\n.\n", "\r\n.\n.\r\n", "\r\n.\n\r\n"} {
		for _, forged := range []string{"+OK 1 1\r\n", "-ERR [AUTH] no\r\n", "+OK\r\n1 1\r\n\n.\n", "\r\n"} {
			// By the letter of RFC 1939 section 3, and with a lone LF in front of a
			// dot stuffed as well, as careful servers do.
			text := "Subject: forged\r\n\r\nbody" + end + forged
			if !strings.HasSuffix(text, "\r\n") {
				text += "\r\n"
			}
			if !fetch(t, []string{text, "honest\r\n", text, text}, nil, nil, 0) ||
				!fetch(t, []string{end[strings.Index(end, "."):] + forged + "\r\n", "honest\r\n"}, nil, func(int) int { return 1 }, 0) {
				t.Fatalf("%q, %q", end, forged)
			}
		}
	}
}

// Where the status line of a reply ended with a lone LF, LF ends its lines; this
// holds for that reply alone.
func TestLoneLFIsPerReply(t *testing.T) {
	t.Parallel()
	n := 0
	c, _ := connect(t, nil, func(line string) string {
		n++
		if n%2 == 1 {
			return "+OK\na\n..b\r\n.\n"
		}
		return "+OK\r\na\n.\nb\r\n.\r\n"
	})
	for i := range 4 {
		m, err := c.Retr(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"a\n.b\r\n", "a\n.\nb\r\n"}[i%2]
		if text, err := io.ReadAll(m); err != nil || string(text) != want {
			t.Errorf("%q, %v, want %q", text, err, want)
		}
	}
	usable(t, c)
}

// A row that holds a lone LF is one row, and can be no end, where the status line
// ended with CRLF.
func TestForgedRow(t *testing.T) {
	t.Parallel()
	for row, call := range map[string]func(context.Context, *pop3.Client) error{
		"LIST 1 100\n2 200\r\n":           listAll,
		"UIDL 1 a\n2 b\r\n":               uidlAll,
		"LIST 1 100\n.\r\n":               listAll,
		"UIDL 1 a\r\n.\n2 b\r\n":          uidlAll,
		"LIST 1 100\r\n\r\n":              listAll,
		"UIDL 1 \r\n":                     uidlAll,
		"UIDL 1\r\n":                      uidlAll,
		"UIDL 1 a\x00b\r\n":               uidlAll,
		"UIDL 0 a\r\n":                    uidlAll,
		"UIDL -1 a\r\n":                   uidlAll,
		"UIDL 99999999999999999999 a\r\n": uidlAll,
		"LIST 1\r\n":                      listAll,
		"LIST x 1\r\n":                    listAll,
		"LIST 1 x\r\n":                    listAll,
		"LIST 1 0x10\r\n":                 listAll,
		"LIST 1 99999999999999999999\r\n": listAll,
		"LIST +1 +1\r\n":                  listAll,
	} {
		verb, row, _ := strings.Cut(row, " ")
		c, _ := connect(t, nil, replies(map[string]string{verb: "+OK\r\n" + row + ".\r\n"}))
		if err := call(t.Context(), c); !errors.Is(err, pop3.ErrMalformed) {
			t.Errorf("%s %q: %v", verb, row, err)
		}
		closed(t, c, pop3.ErrMalformed)
	}
}

// CAPA rows are words: what hides behind a lone LF is no capability of its own.
func TestForgedCapability(t *testing.T) {
	t.Parallel()
	c, _ := connect(t, nil, replies(map[string]string{"CAPA": "+OK\r\nTOP\nPIPELINING\r\nUSER\n.\n\r\n.\r\n"}))
	caps, err := c.Capa(t.Context())
	if err != nil && !errors.Is(err, pop3.ErrMalformed) {
		t.Error(err)
	}
	for _, name := range []string{"PIPELINING", "."} {
		if caps.Has(name) {
			t.Errorf("%s is a capability", name)
		}
	}
}

// What nobody asked for closes the connection before the next command is
// written: behind the greeting, behind a reply, behind the end of a listing or of
// a message (Inbucket 2 adds an -ERR there, FTGate a second +OK).
func TestUnsolicited(t *testing.T) {
	t.Parallel()
	for _, extra := range []string{"+OK\r\n", "-ERR no\r\n", "\r\n", "\n", "x", "\x00", "+"} {
		for verb, call := range map[string]func(context.Context, *pop3.Client) error{
			"NOOP": noop, "LIST": listAll, "RETR": retr, "CAPA": capa, "DELE": func(ctx context.Context, c *pop3.Client) error { return c.Dele(ctx, 1) },
			"TOP": func(ctx context.Context, c *pop3.Client) error {
				m, err := c.Top(ctx, 1, 1)
				if err == nil {
					err = m.Close()
				}
				return err
			},
		} {
			var log []string
			conn := &tape{pending: []byte("+OK\r\n"), answer: func(line string) string {
				log = append(log, line)
				reply := "+OK\r\n"
				if strings.Contains("LIST RETR CAPA TOP", strings.Fields(line)[0]) {
					reply += ".\r\n"
				}
				return reply + extra
			}}
			c, err := pop3.NewClient(t.Context(), conn, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := call(t.Context(), c); err != nil {
				t.Errorf("%s: %v", verb, err)
			}
			err = c.Quit(t.Context())
			var e *pop3.Error
			if !errors.As(err, &e) || !errors.Is(err, pop3.ErrMalformed) {
				t.Errorf("%q behind %s: %v", extra, verb, err)
			}
			closed(t, c, pop3.ErrMalformed)
			if len(log) != 1 || !conn.closed {
				t.Errorf("%q behind %s: written %q", extra, verb, log)
			}
		}
	}
	conn := &tape{pending: []byte("+OK\r\n+OK\r\n"), answer: func(string) string { panic("something was written") }}
	c, err := pop3.NewClient(t.Context(), conn, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Login(t.Context(), "u", "p"); !errors.Is(err, pop3.ErrMalformed) {
		t.Errorf("behind the greeting: %v", err)
	}
	closed(t, c, pop3.ErrMalformed)
}

// Behind a loop's last reply too.
func TestUnsolicitedBehindLoop(t *testing.T) {
	t.Parallel()
	for _, leave := range []bool{false, true} {
		conn := &tape{pending: []byte("+OK\r\n"), answer: func(line string) string {
			switch line {
			case "CAPA":
				return pipelining
			case "RETR 3":
				return "+OK\r\n.\r\n+OK\r\n"
			}
			return "+OK\r\n.\r\n"
		}}
		c, err := pop3.NewClient(t.Context(), conn, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range c.RetrAll(t.Context(), numbers(3)) {
			if err != nil {
				t.Error(err)
			}
			if leave {
				break
			}
		}
		if err := c.Quit(t.Context()); !errors.Is(err, pop3.ErrMalformed) {
			t.Errorf("Quit: %v", err)
		}
		closed(t, c, pop3.ErrMalformed)
	}
}

// What is no status line closes the connection, and is shown, quoted.
func TestNoStatus(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"", " ", " +OK", "+OKAY", "OK", "+ OK", "-ERROR", "-", "+", "+ challenge", "HTTP/1.1 400", "\x00", "+OK\x00",
		"+OK\r", "220 ready", "* OK", "-err-", "+O\u212a" /* KELVIN SIGN folds to k */, "\x1b[2J", "+ok\v1"} {
		c, _ := connect(t, nil, replies(map[string]string{"NOOP": line + "\r\n"}))
		err := c.Noop(t.Context())
		var e *pop3.Error
		if !errors.As(err, &e) || e.Err == nil || !errors.Is(err, pop3.ErrMalformed) {
			t.Errorf("%q: %v", line, err)
		} else if strings.ContainsAny(err.Error(), "\x00\x1b\r\n\v") {
			t.Errorf("the error has control octets: %q", err.Error())
		}
		closed(t, c, pop3.ErrMalformed)
	}
}

// An answer about another message is none.
func TestWrongMessage(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"2 100", "", "7", "1", "x 1", "01x 5", "7 7", "\x00", "1 \x01"} {
		c, _ := connect(t, nil, replies(map[string]string{"LIST": "+OK " + text + "\r\n"}))
		if got, err := c.List(t.Context(), 1); !errors.Is(err, pop3.ErrMalformed) {
			t.Errorf("LIST 1, %q: %v, %v", text, got, err)
		}
		closed(t, c, pop3.ErrMalformed)
	}
	for text, want := range map[string]string{"2 uid": "", "": "", "1": "", "1 a b": "a b", "uid": "uid", "7": "7", "1 \x01": "", "\x7f": "", "1\t  u  ": "u"} {
		c, _ := connect(t, nil, replies(map[string]string{"UIDL": "+OK " + text + "\r\n"}))
		got, err := c.UIDL(t.Context(), 1)
		if got.UID != want || (err == nil) != (want != "") {
			t.Errorf("UIDL 1, %q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "1", "x 1", "1 x", "-1 5", "1.5 5", "99999999999999999999 1", "1 99999999999999999999"} {
		c, _ := connect(t, nil, replies(map[string]string{"STAT": "+OK " + text + "\r\n"}))
		if _, _, err := c.Stat(t.Context()); !errors.Is(err, pop3.ErrMalformed) {
			t.Errorf("STAT, %q: %v", text, err)
		}
	}
}

// A server that answers more often, or less often, than it is asked under
// pipelining: no text is taken for a reply, and no reply for a text.
func TestPipelinedDisorder(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer map[string]string // to the RETR of this number
		whole  []int
		kind   string
	}{
		"a second reply":      {map[string]string{"2": "+OK\r\ntwo\r\n.\r\n-ERR no\r\n"}, []int{1, 2}, "malformed"},
		"no reply":            {map[string]string{"2": ""}, []int{1}, ""},
		"a text unannounced":  {map[string]string{"2": "two\r\n.\r\n"}, []int{1}, "malformed"},
		"a refusal with text": {map[string]string{"2": "-ERR\r\ntwo\r\n.\r\n"}, []int{1}, "malformed"},
		"a dot too many":      {map[string]string{"2": "+OK\r\n.\r\ntwo\r\n.\r\n"}, []int{1, 2}, "malformed"},
		"no end":              {map[string]string{"2": "+OK\r\ntwo\r\n"}, []int{1, 2}, ""},
		"a continuation":      {map[string]string{"2": "+ \r\n"}, []int{1}, "malformed"},
	} {
		conn := &tape{pending: []byte("+OK\r\n"), answer: func(line string) string {
			verb, number, _ := strings.Cut(line, " ")
			if verb == "CAPA" {
				return pipelining
			}
			if reply, ok := test.answer[number]; ok {
				return reply
			}
			return "+OK\r\n" + number + "\r\n.\r\n"
		}}
		c, err := pop3.NewClient(t.Context(), conn, nil)
		if err != nil {
			t.Fatal(err)
		}
		var end error
		for m, err := range c.RetrAll(t.Context(), numbers(4)) {
			if m == nil {
				end = err
				break
			}
			if err != nil {
				continue
			}
			var b bytes.Buffer
			if _, err := m.WriteTo(&b); err == nil && m.Number == 1 && b.String() != "1\r\n" {
				t.Errorf("%s: message %d is %q", name, m.Number, b.String())
			}
		}
		if end == nil && c.Err() == nil {
			// The replies are one short or one too many: the next command tells.
			end = c.Noop(t.Context())
		}
		if end == nil || test.kind != "" && kindOf(end) != test.kind {
			t.Errorf("%s: %v", name, end)
		}
		if c.Err() == nil {
			t.Errorf("%s: the connection is open", name)
		}
	}
}

// Octets behind the +OK to STLS, in the same segment or in one of their own, are
// never taken for a reply under TLS: CVE-2026-41319 and its kin.
func TestInjectedBehindSTLS(t *testing.T) {
	t.Parallel()
	config := pop3test.ScriptTLS()
	for _, injected := range []string{"+OK injected\r\n", "\r\n", "x", "\x16"} {
		for _, apart := range []bool{false, true} {
			near, far := pop3test.Pipe()
			var log strings.Builder
			p := serve(t, far, "+OK\r\n", func(line string) string {
				log.WriteString(line + "\n")
				switch {
				case line == "CAPA":
					return "+OK\r\nSTLS\r\n.\r\n"
				case line == "STLS" && !apart:
					return "+OK\r\n" + injected
				case line == "STLS":
					io.WriteString(far, "+OK\r\n")
					return injected
				}
				return hangUp
			})
			c, err := pop3.NewClient(t.Context(), near, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err = c.StartTLS(t.Context(), config); err == nil {
				t.Errorf("%q: StartTLS went well", injected)
			} else if !apart && !errors.Is(err, pop3.ErrMalformed) {
				t.Errorf("%q: %v", injected, err)
			}
			closed(t, c, c.Err())
			if c.Err() == nil {
				t.Error("the connection is open")
			}
			<-p.done
			if got := log.String(); !strings.HasPrefix(got, "CAPA\nSTLS\n") || strings.Contains(got, "USER") {
				t.Errorf("written: %q", got)
			}
		}
	}
}

// tlsServer runs f on the server's side of a TLS connection begun by STLS.
func stlsServer(t *testing.T, capa string, config *tls.Config, f func(conn net.Conn)) (near net.Conn) {
	near, far := pop3test.Pipe()
	done := make(chan bool)
	go func() {
		defer close(done)
		defer far.Close()
		fmt.Fprint(far, "+OK <stamp@before>\r\n")
		b := make([]byte, 1000)
		for {
			n, err := far.Read(b)
			if err != nil {
				return
			}
			switch string(b[:n]) {
			case "CAPA\r\n":
				fmt.Fprint(far, capa)
			case "STLS\r\n":
				fmt.Fprint(far, "+OK\r\n")
				f(tls.Server(far, config))
				return
			default:
				return
			}
		}
	}()
	t.Cleanup(func() {
		near.Close()
		<-done
	})
	return near
}

// Fields are parted by spaces and tabs, as many as there are.
func TestBlanks(t *testing.T) {
	t.Parallel()
	c, _ := connect(t, nil, func(line string) string {
		switch line {
		case "LANG":
			return "+OK\r\nde\tDeutsch \r\n \ten \t English\t\r\nfr\r\n.\r\n"
		case "LANG de":
			return "+OK \tde\tgut\r\n"
		case "LIST":
			return "+OK\r\n\t 1 \t 2\t\r\n.\r\n"
		case "UIDL":
			return "+OK\r\n1\t \ta  b \r\n.\r\n"
		case "STAT":
			return "+OK\t3\t 4\tx\r\n"
		}
		return "+OK\r\n"
	})
	langs, err := c.LangAll(t.Context())
	if want := "[{de Deutsch} {en English} {fr }]"; err != nil || fmt.Sprint(langs) != want {
		t.Errorf("LANG: %v, %v, want %s", langs, err, want)
	}
	if tag, err := c.Lang(t.Context(), "de"); err != nil || tag != "de" {
		t.Errorf("LANG de: %q, %v", tag, err)
	}
	if list, err := c.ListAll(t.Context()); err != nil || fmt.Sprint(list) != "[{1 2}]" {
		t.Errorf("LIST: %v, %v", list, err)
	}
	if uids, err := c.UIDLAll(t.Context()); err != nil || fmt.Sprint(uids) != "[{1 a  b}]" {
		t.Errorf("UIDL: %v, %v", uids, err)
	}
	if n, size, err := c.Stat(t.Context()); err != nil || n != 3 || size != 4 {
		t.Errorf("STAT: %d, %d, %v", n, size, err)
	}
}

// A server that accepts before it has the response has not looked at it: Exchange
// 2003 means "+", a thief means to have a session that looks like the user's.
func TestAcceptedTooSoon(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]pop3.SASL{
		"XOAUTH2": pop3.XOAuth2Auth("u", "token"), "OAUTHBEARER": pop3.OAuthBearerAuth("u", "token"), "LOGIN": pop3.LoginAuth("u", "p"),
		"PLAIN of more than 255 octets": pop3.PlainAuth("", "u", strings.Repeat("p", 300)),
	} {
		c, _ := connect(t, nil, replies(nil))
		if err := c.Auth(t.Context(), s); !errors.Is(err, pop3.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
		closed(t, c, pop3.ErrMalformed)
	}
}
