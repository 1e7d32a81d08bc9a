package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

func TestDemonstration(t *testing.T) {
	t.Chdir("../..")
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	t.Setenv("TMP", temp)
	stdout, stderr, err := popget(t.Context(), time.Now(), osDisk{})
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	for _, want := range []string{
		"1       524  2026-03-02 08:15  Jonas Weir                Apples on Saturday\n",
		"2       594  2026-03-03 19:02  André Pirard              Grüße aus Köln – und 一路平安\n",
		"3       484  2026-03-04 09:30  Renée Dubois              Déjeuner à midi\n",
		"4      5001  2026-03-05 16:45  Marsh, Ivo                The plan of the garden\n",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no row %q", want)
		}
	}
	for _, r := range stdout {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Errorf("the table holds %q:\n%s", r, stdout)
			break
		}
	}
	got, err := filepath.Glob(filepath.Join(temp, "popget-*", "*.eml"))
	want, _ := filepath.Glob("testdata/mail/*.eml")
	if err != nil || len(got) != len(want) || !strings.Contains(stdout, filepath.Dir(got[0])) {
		t.Fatalf("%d files, want %d (%v); standard output:\n%s", len(got), len(want), err, stdout)
	}
	for i := range want {
		text, err := os.ReadFile(want[i])
		if len(text) > 0 && !bytes.HasSuffix(text, []byte("\r\n")) {
			text = append(text, "\r\n"...) // a multi-line response cannot be without
		}
		file, err2 := os.ReadFile(got[i])
		if err := cmp.Or(err, err2); err != nil || !bytes.Equal(file, text) {
			t.Errorf("%s is not %s: %v", got[i], want[i], err)
		}
	}
}

// toFolder runs popget for a folder.
func (w *world) toFolder(dir string, flags ...string) (stdout, stderr string, err error) {
	return w.run(w.t.Context(), slices.Concat([]string{"-plain", "-auth", "user", "-user", "ada", "-dir", dir}, flags, []string{w.addr})...)
}

func TestFolder(t *testing.T) {
	t.Parallel()
	all := mails(3)
	for _, tt := range []struct {
		name, file string // a file that is there
		reply      func(w *world)
		want       []string
		err        string
	}{
		{"all", "other.eml", noReply, all, ""},
		{"a file that is there", "0002.eml", noReply, all[:1], "0002.eml: "},
		{"a refusal", "", replyToRETR(all[1], "-ERR no\r\n"), []string{all[0], all[2]}, "commands that the server refused: 1"},
		{"an early end", "", replyToRETR(all[1], "+OK\r\nfrom\r\n.\r\nmore\r\n.\r\n"), all[:1], "malformed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, all...)
			tt.reply(w)
			dir := t.TempDir()
			if tt.file != "" {
				if err := os.WriteFile(filepath.Join(dir, tt.file), []byte("older"), 0o600); err != nil {
					t.Fatal(err)
				}
				tt.want = append(slices.Clone(tt.want), "older")
			}
			stdout, _, err := w.toFolder(dir, "-q")
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("err = %v, want %s", err, tt.err)
			}
			if err == nil && !strings.Contains(stdout, "3 of 3 messages") {
				t.Errorf("it printed %q", stdout)
			}
			for i, text := range all {
				if got, want := strings.Contains(stdout, fmt.Sprintf("mail %03d", i)), slices.Contains(tt.want, text); got != want {
					t.Errorf("message %d has a row: %v, want %v\n%s", i+1, got, want, stdout)
				}
			}
			wantMail(t, tt.want, dir)
		})
	}
}

// TestTempFolder has a run that fails name the temporary folder if there is mail
// in it, and remove it otherwise.
func TestTempFolder(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	t.Setenv("TMP", temp)
	for _, tt := range []struct {
		loses string
		files int
	}{{"RETR 1", 0}, {"RETR 3", 1}} {
		w := newWorld(t, mails(3)...)
		w.reply = func(line string) (string, bool) { return pop3test.HangUp, line == tt.loses }
		_, _, err := w.run(t.Context(), "-plain", "-auth", "user", "-user", "ada", w.addr)
		dirs, _ := filepath.Glob(filepath.Join(temp, "*"))
		files, _ := filepath.Glob(filepath.Join(temp, "*", "*.eml"))
		if exitStatus(err) != tryAgain || len(files) != tt.files || len(dirs) != min(tt.files, 1) {
			t.Errorf("lost at %s: %v; %q, %q", tt.loses, err, dirs, files)
		} else if len(dirs) > 0 && !strings.Contains(err.Error(), dirs[0]) {
			t.Errorf("%v does not name %s", err, dirs[0])
		}
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "Subject: one\r\n\r\nx\r\n", "Subject: two\r\n\r\n")
	stdout, _, err := w.run(t.Context(), "-plain", "-auth", "user", "-q", "-list", "-user", "ada", w.addr)
	if want := "    1        19\n    2        16\n"; err != nil || stdout != want || w.count("RETR") > 0 {
		t.Errorf("got %q, %v, want %q", stdout, err, want)
	}
}

func TestLogins(t *testing.T) {
	t.Parallel()
	s := pop3test.NewTLSServer()
	t.Cleanup(s.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.TLS.Certificates[0].Certificate[0]})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	get := func(args ...string) (string, error) {
		stdout, _, err := popget(t.Context(), time.Now(), osDisk{}, args...)
		return stdout, err
	}
	for method := range logins {
		drop := s.AddUser("ada", "tides", "Subject: hello\r\n\r\n")
		drop.Token = "tok"
		stdout, err := get("-ca", ca, "-auth", method, "-list", "-user", "ada", s.Addr)
		if err != nil || stdout != "    1        18\n" {
			t.Errorf("-auth %s: %v\n%s", method, err, stdout)
		}
		drop.Wait()
	}
	if _, err := get("-ca", ca, "-list", "pop3s://ada@"+s.Addr); err != nil {
		t.Error(err)
	}
	if _, err := get("-ca", ca, "-servername", "example.com", "-list", "-user", "ada", s.Addr); err != nil {
		t.Error(err)
	}
	for _, args := range [][]string{{"-user", "ada"}, {"-ca", ca, "-servername", "example.org", "-user", "ada"}} {
		if _, err := get(append(args, s.Addr)...); exitStatus(err) != badProtocol {
			t.Errorf("%q: a certificate was trusted: %v", args, err)
		}
	}
}

func TestPassword(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, tt := range []struct {
		stdin  string
		status int
	}{{"tides\r\nmore", 0}, {"", usageWrong}, {"wrong\n", 77}} {
		p := process{func(string) string { return "" }, strings.NewReader(tt.stdin), io.Discard, io.Discard, time.Now, osDisk{}}
		err := run(t.Context(), []string{"-plain", "-list", "-user", "ada", w.addr}, p)
		if exitStatus(err) != tt.status || tt.status == usageWrong && !strings.Contains(err.Error(), "POP3_PASSWORD") {
			t.Errorf("with %q: %v", tt.stdin, err)
		}
		w.drop.Wait()
	}
	// An interrupt ends the wait.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	never, _ := io.Pipe()
	p := process{func(string) string { return "" }, never, io.Discard, io.Discard, time.Now, osDisk{}}
	if err := run(ctx, []string{"-plain", "-user", "ada", w.addr}, p); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ args, want string }{
		{"-nonsense", "flag provided but not defined: -nonsense"},
		{"localhost", "a user is missing: write pop3s://NAME@HOST, or -user NAME HOST"},
		{"-user ada", "a host is missing"},
		{"-servername x", "a host is missing"},
		{"-auth apop", "a host is missing"},
		{"-maildir= -user ada localhost", "-maildir is empty"},
		{"-dir= -user ada localhost", "-dir is empty"},
		{"-ca= -user ada localhost", "-ca is empty"},
		{"-maildir x", "a host is missing"},
		{"-user ada a b", "give one host, after the flags"},
		{"-user ada -delete localhost", "-delete requires -maildir"},
		{"-user ada -maildir x -dir y localhost", "-dir and -maildir cannot be combined"},
		{"-user ada -maildir x -delete -list localhost", "-list and -delete cannot be combined"},
		{"-user ada -maildir x -list localhost", "-list and -maildir cannot be combined"},
		{"-user ada -dir x -list localhost", "-list and -dir cannot be combined"},
		{"-user ada -maildir x -keep 3d localhost", "-keep requires -delete"},
		{"-user ada -maildir x -delete=maybe localhost", `invalid boolean value "maybe" for -delete: the only value it takes is again`},
		{"-user ada -keep 0d localhost", `invalid value "0d" for flag -keep: it takes a time, such as 30d or 12h`},
		{"-user ada -keep 3 localhost", `invalid value "3" for flag -keep: it takes a time, such as 30d or 12h`},
		{"-user ada -keep 99999999999d localhost", `invalid value "99999999999d" for flag -keep: it takes a time, such as 30d or 12h`},
		{"-user ada -max-size 3G localhost", `invalid value "3G" for flag -max-size: it takes a number above 0, such as 100k or 20M`},
		{"-user ada -max-size 9000000000000000M localhost", `invalid value "9000000000000000M" for flag -max-size: it takes a number above 0, such as 100k or 20M`},
		{"-user ada -timeout 0s localhost", "-timeout must be above 0"},
		{"-user ada -auth nonsense localhost", `-auth does not know "nonsense"`},
		{"-user ada -plain -tls localhost", "-plain and -tls cannot be combined"},
		{"-user ada -plain -starttls localhost", "-plain and -starttls cannot be combined"},
		{"-user ada -tls -starttls localhost", "-tls and -starttls cannot be combined"},
		{"-user ada -plain -servername x localhost", "-plain and -servername cannot be combined"},
		{"-user ada -plain -ca x localhost", "-plain and -ca cannot be combined"},
		{"-user ada -ca nowhere localhost", "-ca: open nowhere"},
		{"-user ada -ca popget_test.go localhost", "-ca: no certificate in popget_test.go"},
		{"-starttls -plain pop3://ada@localhost", "-plain and -starttls cannot be combined"},
		{"-user ada ada:tides@localhost", "HOST contains @ or /: write pop3s://NAME@HOST, or -user NAME HOST"},
		{"pop3s:/ada:tides@localhost", "HOST contains @ or /: write pop3s://NAME@HOST, or -user NAME HOST"},
		{"-user ada ada:tides", "the port is neither a number nor the name of a service"},
		{"-user ada ada:tides:localhost", "HOST contains more than one colon and is not an IPv6 address"},
		{"-user ada pöp.example.com", "HOST is not ASCII: write it in its xn-- form"},
		{"pop3s://ada@:995", "a host is missing before the port"},
		{"-plain pop3s://ada@localhost", "-plain does not go with pop3s://, which is TLS"},
		{"-starttls pop3s://ada@localhost", "-starttls does not go with pop3s://, which is TLS from the start; use pop3://"},
		{"-tls pop3://ada@localhost", "-tls does not go with pop3://, which is STARTTLS; use pop3s://"},
		{"-user bob pop3://ada@localhost", "-user and the address name different users"},
		{"pop3://localhost", "a user is missing: write pop3s://NAME@HOST, or -user NAME HOST"},
		{"pop3://ada:tides@localhost", "a password in the address can be seen by others: use POP3_PASSWORD or standard input"},
		{"pop3://ada:tides@localhost:x", "the address is not of the form pop3s://NAME@HOST:PORT"},
		{"pop3://ada:tides@localhost/inbox", "the address is not of the form pop3s://NAME@HOST:PORT"},
		{"imap://ada@localhost", "the address begins neither with pop3s:// nor with pop3://"},
		{"-serve a b", "-serve takes one folder and no other flag"},
		{"-serve -list", "-serve takes one folder and no other flag"},
		{"-serve nowhere", "open nowhere"},
		{"", "no testdata/mail here: give a host, give -serve a folder, or run popget at the top of its source tree"},
	} {
		stdout, stderr, err := popget(t.Context(), time.Now(), osDisk{}, strings.Fields(tt.args)...)
		if exitStatus(err) != usageWrong || !strings.HasPrefix(err.Error(), tt.want) || !strings.HasSuffix(err.Error(), "; see popget -h") ||
			strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "tides") {
			t.Errorf("popget %s: %v\nwant %s", tt.args, err, tt.want)
		}
		if stdout+stderr != "" {
			t.Errorf("popget %s printed %q%q", tt.args, stdout, stderr)
		}
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	stdout, stderr, err := popget(t.Context(), time.Now(), osDisk{}, "-h")
	if err != nil || stderr != "" {
		t.Errorf("%v\n%s", err, stderr)
	}
	for _, want := range []string{"Usage:", "pop3s://NAME@HOST", "-max-size", "-delete=again", "Exit status:", "  77  "} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
}

// TestAddress has each form of the address reach the right server in the right
// way.
func TestAddress(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ args, dial, addr, user string }{
		{"-user ada pop.example.com", "TLS", "pop.example.com", "ada"},
		{"-user ada -starttls pop.example.com:2110", "STLS", "pop.example.com:2110", "ada"},
		{"pop3s://ada@pop.example.com:995", "TLS", "pop.example.com:995", "ada"},
		{"POP3S://ada@pop.example.com/", "TLS", "pop.example.com", "ada"},
		{"-tls pop3s://ada%40example.com@pop.example.com", "TLS", "pop.example.com", "ada@example.com"},
		{"pop3://ada@pop.example.com", "STLS", "pop.example.com", "ada"},
		{"-starttls pop3://ada@[::1]:2110", "STLS", "[::1]:2110", "ada"},
		{"-plain pop3://ada@localhost", "plain", "localhost", "ada"},
		{"-user ada pop3s://localhost", "TLS", "localhost", "ada"},
		{"pop3s://ada@example.com@pop.example.com", "TLS", "pop.example.com", "ada@example.com"},
		{"-user ada localhost:", "TLS", "localhost:", "ada"},
		{"-user ada localhost:pop3s", "TLS", "localhost:995", "ada"},
		{"-starttls -user ada localhost:0110", "STLS", "localhost:110", "ada"},
		{"-user ada ::1", "TLS", "::1", "ada"},
	} {
		f, err := parseFlags(strings.Fields(tt.args))
		if err != nil {
			t.Errorf("popget %s: %v", tt.args, err)
			continue
		}
		dial := map[[2]bool]string{{false, false}: "TLS", {true, false}: "STLS", {false, true}: "plain"}[[2]bool{f.startTLS, f.plain}]
		if dial != tt.dial || f.addr != tt.addr || f.user != tt.user {
			t.Errorf("popget %s: %s to %s as %s", tt.args, dial, f.addr, f.user)
		}
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	refusal := func(command string, code pop3.Code) error { return &pop3.Error{Command: command, Code: code} }
	for _, tt := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{refusal("RETR", ""), 1},
		{errors.New("anything"), 1},
		{refusal("", ""), unavailable},
		{refusal("RETR", pop3.CodeSysTemp), tryAgain},
		{&loginError{refusal("PASS", pop3.CodeInUse)}, tryAgain},
		{&loginError{refusal("PASS", pop3.CodeAuth)}, 77},
		{&loginError{refusal("PASS", "")}, 77},
		{&loginError{pop3.ErrUnsupported}, badProtocol},
		{&loginError{fmt.Errorf("challenge: %w", pop3.ErrMalformed)}, badProtocol},
		{refusal("STLS", ""), badProtocol},
		{refusal("STLS", pop3.CodeSysTemp), tryAgain},
		{&handshakeError{errors.New("anything")}, badProtocol},
		{&handshakeError{os.ErrDeadlineExceeded}, tryAgain},
		{&handshakeError{&net.OpError{Op: "read", Err: errors.New("connection reset")}}, tryAgain},
		{&loginError{pop3.ErrInsecureAuth}, usageWrong},
		{&pop3.Error{Command: "RETR", Err: pop3.ErrMalformed}, badProtocol},
		{&pop3.Error{Command: "LIST", Err: pop3.ErrTooLarge}, badProtocol},
		{&pop3.Error{Command: "RETR", Err: pop3.ErrTooLarge}, 1},
		{&pop3.Error{Command: "RETR", Err: io.ErrUnexpectedEOF}, tryAgain},
		{fmt.Errorf("x: %w", os.ErrDeadlineExceeded), tryAgain},
		{&net.OpError{Op: "read", Err: errors.New("connection reset")}, tryAgain},
		{&net.OpError{Op: "dial", Err: errors.New("connection refused")}, unavailable},
		{&net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}, unavailable},
		{&net.OpError{Op: "dial", Err: &net.DNSError{IsTemporary: true}}, tryAgain},
		{&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, tryAgain},
		{&net.OpError{Op: "remote error", Err: errors.New("tls: handshake failure")}, badProtocol},
		{&os.PathError{}, cannotWrite},
		{&os.LinkError{}, cannotWrite},
		{fmt.Errorf("x: %w", &failure{tryAgain, os.ErrExist}), tryAgain},
	} {
		if got := exitStatus(tt.err); got != tt.want {
			t.Errorf("exitStatus(%v) = %d, want %d", tt.err, got, tt.want)
		}
	}
}

// TestStatusAtWork has servers do what sets an exit status.
func TestStatusAtWork(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mute.Close() })
	server := func(prepare func(s *pop3test.Server), start func(s *pop3test.Server)) string {
		s := pop3test.NewUnstartedServer()
		s.AddUser("ada", "tides", mails(2)...)
		prepare(s)
		start(s)
		t.Cleanup(s.Close)
		return s.Addr
	}
	replying := func(verb, reply string) string {
		return server(func(s *pop3test.Server) {
			s.Intercept = func(line string) (string, bool) { return reply, strings.HasPrefix(line, verb) }
		}, (*pop3test.Server).Start)
	}
	for _, tt := range []struct {
		name, flags, addr string
		status            int
		text              string // part of what popget says
	}{
		{"nobody listens", "-plain -list", closed.Addr().String(), unavailable, "refused"},
		{"a silent server", "-plain -list -timeout 20ms", mute.Addr().String(), tryAgain, "timeout after 20ms"},
		{"a silent handshake", "-list -timeout 20ms", mute.Addr().String(), tryAgain, "timeout after 20ms"},
		{"a challenge that is not base64", "-plain -list -auth cram-md5", replying("AUTH", "+ ***\r\n"), badProtocol, "not base64"},
		{"STLS is not offered", "-starttls -list", replying("CAPA", "+OK\r\nUSER\r\n.\r\n"), badProtocol, "-tls may work"},
		{"STLS is refused", "-starttls -list", replying("STLS", "-ERR no\r\n"), badProtocol, "server refused"},
		{"CAPA ends the session", "-plain -list", replying("CAPA", pop3test.HangUp), tryAgain, "-auth user does not"},
		{"RETR is refused for now", "-plain -maildir x", replying("RETR", "-ERR [SYS/TEMP] no\r\n"), tryAgain, "refused: 2"},
		{"one is refused for now, one for good", "-plain -maildir x", server(func(s *pop3test.Server) {
			s.Intercept = func(line string) (string, bool) {
				reply, ok := map[string]string{"RETR 1": "-ERR [SYS/TEMP] no\r\n", "RETR 2": "-ERR no\r\n"}[line]
				return reply, ok
			}
		}, (*pop3test.Server).Start), 1, "refused: 2"},
		{"the same to a folder", "-plain -dir x", replying("RETR", "-ERR [SYS/TEMP] no\r\n"), tryAgain, "refused: 2"},
		{"a text without an end", "-plain -dir x", replying("RETR", "+OK\r\n"+strings.Repeat(strings.Repeat("x", 998)+"\r\n", 2000)+pop3test.HangUp),
			badProtocol, "message 1 has no end: "},
		{"no TLS", "-list", replying("", ""), badProtocol, "use -starttls for this port"},
		{"an unknown issuer", "-list", server(func(*pop3test.Server) {}, (*pop3test.Server).StartTLS), badProtocol, "with -ca FILE"},
		{"TLS 1.1", "-list", server(func(s *pop3test.Server) {
			s.TLS.MinVersion, s.TLS.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		}, (*pop3test.Server).StartTLS), badProtocol, "popget needs TLS 1.2 or later"},
		{"a certificate that cannot be parsed", "-list", server(func(s *pop3test.Server) {
			s.TLS.Certificates = slices.Clone(s.TLS.Certificates)
			s.TLS.Certificates[0].Certificate = [][]byte{{1, 2, 3}}
		}, (*pop3test.Server).StartTLS), badProtocol, "certificate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			args := append(strings.Fields(strings.Replace(tt.flags, " x", " "+t.TempDir(), 1)), "-user", "ada", tt.addr)
			_, stderr, err := popget(t.Context(), time.Now(), noSync{}, args...)
			if exitStatus(err) != tt.status || !strings.Contains(explain(err), tt.text) {
				t.Errorf("status %d, want %d: %v, want %q\n%s", exitStatus(err), tt.status, err, tt.text, stderr)
			}
		})
	}
}

// apiNames finds what users of popget cannot set or call.
var apiNames = regexp.MustCompile(`Options\.|TLSConfig|\b(Dial|DialTLS|DialStartTLS|StartTLS|Auth|Login|User|Pass)\b`)

// notPopget are texts for callers of the library that popget cannot bring about.
var notPopget = []string{
	"was not made by", "Options.Window is negative", "Options.MaxMessageSize is negative", "set Options.Timeout to less than 0",
}

// TestAdvice has no text of the library name its API to a user of popget.
func TestAdvice(t *testing.T) {
	t.Parallel()
	texts := strings.Join(libraryTexts(t), "\n")
	for line := range strings.Lines(texts) {
		isOther := slices.ContainsFunc(notPopget, func(s string) bool { return strings.Contains(line, s) })
		if text := explain(errors.New(line)); !isOther && apiNames.MatchString(text) {
			t.Errorf("popget would say %q", text)
		}
	}
	for i := 0; i < len(advice) && !strings.HasPrefix(advice[i], "context canceled"); i += 2 {
		if !strings.Contains(texts, advice[i]) {
			t.Errorf("the library no longer says %q", advice[i])
		}
	}
	for _, text := range notPopget {
		if !strings.Contains(texts, text) {
			t.Errorf("the library no longer says %q", text)
		}
	}
}

// libraryTexts returns the strings in the library's source that are sentences.
func libraryTexts(t *testing.T) (texts []string) {
	for _, pattern := range []string{"../../*.go", "../wire/*.go", "../stream/*.go", "../sasl/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("no files match %s: %v", pattern, err)
		}
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING && strings.Contains(lit.Value, " ") {
					texts = append(texts, strings.Trim(lit.Value, "`\""))
				}
				return true
			})
		}
	}
	return texts
}

// TestInterrupted has an interrupt called by its name.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, mails(3)...)
	ctx, cancel := context.WithCancelCause(t.Context())
	w.reply = func(line string) (string, bool) {
		if line == "RETR 2" {
			cancel(errors.New("interrupt signal received")) // as signal.NotifyContext of Go 1.26
		}
		return "", false
	}
	_, _, err := w.run(ctx, "-plain", "-auth", "user", "-dir", t.TempDir(), "-user", "ada", w.addr)
	if text := explain(err); !strings.HasSuffix(text, ": interrupted") {
		t.Errorf("popget says %q", text)
	}
}

// Values of flags reach the library.
func TestFlagValues(t *testing.T) {
	t.Parallel()
	f, err := parseFlags(strings.Fields("-timeout 5s -max-size 2M -keep 30d -delete -maildir x -servername y -user ada localhost"))
	if err != nil {
		t.Fatal(err)
	}
	j, err := f.job(process{})
	if err != nil || j.opts.Timeout != 5*time.Second || j.opts.MaxMessageSize != 2<<20 || j.keep != 30*24*time.Hour || j.opts.TLSConfig.ServerName != "y" {
		t.Errorf("%+v, %v", j, err)
	}
}

func TestLogs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, mails(1)...)
	for flag, want := range map[string][2]bool{"-q": {false, false}, "-v": {true, false}, "-vv": {true, true}} {
		_, stderr, err := w.run(t.Context(), "-plain", "-auth", "user", "-list", flag, "-user", "ada", w.addr)
		got := [2]bool{strings.Contains(stderr, "command=LIST"), strings.Contains(stderr, "line=LIST")}
		if err != nil || got != want || strings.Contains(stderr, "tides") {
			t.Errorf("%s: %v; logs commands and lines %v, want %v\n%s", flag, err, got, want, stderr)
		}
	}
}

// TestSummary has popget say what came, and with -q nothing but what is odd.
func TestSummary(t *testing.T) {
	t.Parallel()
	w := newWorld(t, mails(3)...)
	for _, tt := range []struct{ flags, want string }{
		{"", "3 messages, 3 new (0.00 MB, "},
		{"", "3 messages, 0 new, 0 deleted; " + w.dir + "\n"},
		{"-q", ""},
		{"-delete", "3 messages, 0 new, 3 deleted; " + w.dir + "\n"},
		{"", "0 messages, 0 new, 0 deleted; " + w.dir + "\n"},
	} {
		stdout, stderr, err := w.popget(strings.Fields(tt.flags)...)
		if err != nil || stderr != "" || !strings.HasPrefix(stdout, tt.want) || tt.want == "" && stdout != "" {
			t.Errorf("popget %s printed %q, want %q; %q, %v", tt.flags, stdout, tt.want, stderr, err)
		}
	}
	w.post("y1 y1", mails(2)...)
	stdout, stderr, err := w.popget("-q")
	if err != nil || stdout != "" || !strings.Contains(stderr, sharedUIDs) {
		t.Errorf("-q printed %q and %q, %v", stdout, stderr, err)
	}
}

// TestKeep has -keep delete only what was delivered long ago.
func TestKeep(t *testing.T) {
	t.Parallel()
	all := mails(3)
	w := newWorld(t, all[:2]...)
	start := w.now
	for _, tt := range []struct {
		days    int
		deleted int
	}{{0, 0}, {29, 0}, {30, 2}, {58, 0}, {59, 1}} {
		if tt.days == 29 {
			w.mails = append(w.mails, posted{all[2], "u3"})
		}
		w.now = start.AddDate(0, 0, tt.days)
		if _, _, err := w.popget("-delete", "-keep", "30d"); err != nil || w.count("DELE ") != tt.deleted {
			t.Errorf("after %d days DELE was sent %d times, want %d; %v", tt.days, w.count("DELE "), tt.deleted, err)
		}
	}
	w.wantMail(all)
}

// TestServe uses the server as a client in another language would.
func TestServe(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for name, text := range map[string]string{"a.eml": "Subject: a\r\n\r\nx\ny\r\n", "b.eml": "Subject: b\n\n.y\n", "c.txt": "no mail"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, out := io.Pipe()
	done := make(chan error)
	go func() {
		done <- run(ctx, []string{"-serve", folder}, process{stdout: out})
	}()
	said := map[string]string{}
	b := make([]byte, 4096)
	n, _ := r.Read(b)
	for line := range strings.Lines(string(b[:n])) {
		name, value, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(line, "POP3_")), "=")
		said[name] = value
	}
	if said["MESSAGES"] != "2" {
		t.Errorf("it said %v", said)
	}
	for _, args := range [][]string{{"-starttls", "-ca", said["CA"], said["PLAIN"]}, {"-ca", said["CA"], said["TLS"]}, {"-plain", said["PLAIN"]}} {
		dir := t.TempDir()
		args := append([]string{"-user", said["USER"], "-dir", dir}, args...)
		env := func(string) string { return said["PASSWORD"] }
		if err := run(t.Context(), args, process{env, nil, io.Discard, io.Discard, time.Now, osDisk{}}); err != nil {
			t.Errorf("%q: %v", args, err)
		}
		wantMail(t, []string{"Subject: a\r\n\r\nx\ny\r\n", "Subject: b\r\n\r\n.y\r\n"}, dir)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("interrupted: %v", err)
	}
	if _, err := os.Stat(said["CA"]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", said["CA"], err)
	}
}

// A cutter relays connections to addr and cuts each when the server has sent so
// many octets.
type cutter struct {
	net.Listener
	addr  string
	after atomic.Int64
}

func (p *cutter) relay() {
	for {
		client, err := p.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.addr)
		if err != nil {
			client.Close()
			return
		}
		var upstream sync.WaitGroup
		upstream.Go(func() {
			io.Copy(server, client)
			server.Close()
		})
		io.CopyN(client, server, p.after.Load())
		server.Close()
		client.Close()
		upstream.Wait()
	}
}

// TestConnectionCut cuts connections anywhere until a run goes to its end.
func TestConnectionCut(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"-q", "-delete"} {
		t.Run(flag, func(t *testing.T) {
			t.Parallel()
			all := mails(60)
			w := newWorld(t, all...)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			p := &cutter{Listener: l, addr: w.addr}
			w.addr = l.Addr().String()
			var relay sync.WaitGroup
			relay.Go(p.relay)
			defer relay.Wait()
			defer l.Close()
			random := rand.New(rand.NewPCG(1939, 1))
			for runs := 0; ; runs++ {
				if runs == 200 {
					t.Fatal("no end in sight")
				}
				p.after.Store(random.Int64N(6000 + 500*int64(runs)))
				_, _, err := w.popget(flag)
				w.wantSafe(all)
				if err == nil {
					break
				}
			}
			w.wantMail(all)
			if left := len(w.mails); left != 0 && flag == "-delete" || left != 60 && flag == "-q" {
				t.Errorf("%d messages are left on the server", left)
			}
		})
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		screen := &fakeTerminal{}
		p := newProgress(screen)
		p.messages = 1
		p.expect([]*message{{size: 4e6}, {size: 4e6}})
		for range 4 { // the first and the third are too soon
			time.Sleep(time.Second / 2)
			p.Write(make([]byte, 1e6))
		}
		io.WriteString(eraser{screen, p}, "done\n")
		p.erase()
		const first, second = "1 of 2 messages, 2.00 MB, 2.00 MB/s, 3 s left", "1 of 2 messages, 4.00 MB, 2.00 MB/s, 2 s left"
		blank := "\r" + strings.Repeat(" ", len(first)) + "\r"
		if want := first + blank + second + blank + "done\n"; screen.String() != want {
			t.Errorf("got %q, want %q", screen, want)
		}
	})
}

// TestProgressShown has progress shown on a terminal alone, and not with -q.
func TestProgressShown(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		flag   string
		stderr io.Writer
		want   bool
	}{{"-v", &fakeTerminal{}, true}, {"-v", io.Discard, false}, {"-q", &fakeTerminal{}, false}} {
		f, err := parseFlags([]string{tt.flag, "-user", "ada", "localhost"})
		if err != nil {
			t.Fatal(err)
		}
		j, err := f.job(process{stderr: tt.stderr})
		if shown := err == nil && j.progress.w != nil; shown != tt.want {
			t.Errorf("%s to %T: %v; progress is shown: %v", tt.flag, tt.stderr, err, shown)
		}
		if screen, ok := tt.stderr.(*fakeTerminal); ok && tt.want {
			j.progress.shown = 3
			j.odd("a line")
			if want := "\r   \rpopget: a line\n"; screen.String() != want {
				t.Errorf("over progress was written %q, want %q", screen, want)
			}
		}
	}
}

// A fakeTerminal is one whose echo can be turned off or not.
type fakeTerminal struct {
	strings.Builder
	typed        string
	canHide      bool
	hidden, seen bool // now; when it was read
}

func (t *fakeTerminal) Read(b []byte) (int, error) {
	t.seen = !t.hidden
	return copy(b, t.typed), io.EOF
}

func (t *fakeTerminal) hideInput() (restore func(), ok bool) {
	t.hidden = t.canHide
	return func() { t.hidden = false }, t.canHide
}

// TestPrompt has the password asked for on any terminal, and hidden where that
// is possible.
func TestPrompt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, canHide := range []bool{true, false} {
		screen := &fakeTerminal{typed: "tides\n", canHide: canHide}
		p := process{func(string) string { return "" }, screen, io.Discard, screen, time.Now, osDisk{}}
		err := run(t.Context(), []string{"-plain", "-list", "-user", "ada", w.addr}, p)
		want := map[bool]string{true: "password for ada: \n", false: "password for ada (it will be visible): "}[canHide]
		if err != nil || screen.String() != want || screen.seen == canHide || screen.hidden {
			t.Errorf("%v; it asked %q, want %q; seen %v, hidden afterwards %v", err, screen, want, screen.seen, screen.hidden)
		}
		w.drop.Wait()
	}
}

func TestNoTerminal(t *testing.T) {
	t.Parallel()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if _, is := withTerminal(null).(terminal); is {
		t.Errorf("%s is a terminal", null.Name())
	}
}
