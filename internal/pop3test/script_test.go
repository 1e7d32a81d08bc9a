package pop3test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// start plays a script. wait ends it, and returns the result of Serve.
func start(t *testing.T, script string) (client net.Conn, wait func() error) {
	t.Helper()
	s, err := ParseScript("s", []byte(script))
	if err != nil {
		t.Fatal(err)
	}
	return s.Start()
}

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
			client, wait := start(t, test.script)
			for _, text := range test.client {
				io.WriteString(client, text)
			}
			got := make([]byte, len(test.want))
			io.ReadFull(client, got)
			if string(got) != test.want {
				t.Errorf("got %.100q, want %.100q", got, test.want)
			}
			if err := wait(); test.err == "" && err != nil || test.err != "" && (err == nil || !strings.HasPrefix(err.Error(), test.err)) {
				t.Errorf("Serve: %v, want %q", err, test.err)
			}
		})
	}
}

func TestScriptTLS(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, wait := start(t, "tls\nS: +OK\nC: NOOP\nS: +OK")
		newPeer(t, tls.Client(client, ScriptTLS())).play("< +OK | > NOOP | < +OK")
		implicit := wait()
		client, wait = start(t, "S: +OK\nC: STLS\nS: +OK\nstarttls\nC: NOOP\nS: +OK\nclose")
		p := newPeer(t, client)
		p.play("< +OK")
		p.stls(ScriptTLS()).play("> NOOP | < +OK")
		if explicit := wait(); implicit != nil || explicit != nil {
			t.Error(implicit, explicit)
		}
	})
}

func TestScriptTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, wait := start(t, "S: a\nlater 90s\nS: b\nstall")
		begun := time.Now()
		p := &peer{t: t, conn: client, r: bufio.NewReader(client)}
		p.play("< a\n< b")
		if d := time.Since(begun); d != 90*time.Second {
			t.Errorf("b came after %v, want 90s", d)
		}
		client.SetDeadline(time.Now().Add(time.Hour))
		if n, err := client.Write(make([]byte, pipeSize+1)); n != pipeSize || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("writing to a stalled server: %d, %v; want what fits and a timeout", n, err)
		}
		if err := wait(); err != nil {
			t.Error(err)
		}
	})
}

func TestScriptRepeatStops(t *testing.T) {
	t.Parallel()
	client, wait := start(t, `Srepeat: 1000000000 "x"`+"\neof")
	io.CopyN(io.Discard, client, 1<<20)
	if err := wait(); err != nil {
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
