package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"example.com/pop3/internal/pop3test"
)

// get runs popget for ada and returns what it wrote.
func get(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	env := func(name string) string {
		return map[string]string{"POP3_PASSWORD": "tides", "POP3_TOKEN": "tok"}[name]
	}
	err = run(ctx, args, env, strings.NewReader(""), &out, &errs)
	return out.String(), errs.String(), err
}

// mails makes n messages, no two alike.
func mails(n int) []string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("Subject: mail %d\r\n\r\n.%s\r\n", i, strings.Repeat("tide ", i*37%200)))
	}
	return all
}

// delivered returns the messages in new and cur, and checks that tmp is empty.
func delivered(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	for _, sub := range []string{"new", "cur"} {
		files, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			text, err := os.ReadFile(filepath.Join(dir, sub, f.Name()))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, string(text))
		}
	}
	if left, err := os.ReadDir(filepath.Join(dir, "tmp")); err != nil || len(left) > 0 {
		t.Errorf("left in tmp: %v, %v", left, err)
	}
	return all
}

// wantMail checks that the Maildir holds exactly these messages, each once.
func wantMail(t *testing.T, dir string, want []string) {
	t.Helper()
	got := delivered(t, dir)
	if !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
		t.Errorf("the Maildir holds %d messages %.200q, want %d", len(got), got, len(want))
	}
}

// replies is a Server.Intercept that knows these commands, and counts all.
type replies struct {
	mu    sync.Mutex
	fixed map[string]string
	seen  []string
}

func (r *replies) intercept(line string) (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, line)
	reply, ok := r.fixed[line]
	return reply, ok
}

// count returns how many commands began with verb since the last call.
func (r *replies) count(verb string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, line := range r.seen {
		if strings.HasPrefix(line, verb) {
			n++
		}
	}
	r.seen = nil
	return n
}

// serve starts a server for ada. The arguments for popget end in its address.
func serve(t *testing.T, intercept func(string) (string, bool), messages ...string) (*pop3test.Maildrop, []string) {
	s := pop3test.NewUnstartedServer()
	s.Intercept = intercept
	drop := s.AddUser("ada", "tides", messages...)
	s.Start()
	t.Cleanup(s.Close)
	return drop, []string{"-user", "ada", "-plain", s.Addr}
}

func with(args []string, more ...string) []string { return slices.Concat(more, args) }

func TestDemonstration(t *testing.T) {
	t.Chdir("../..")
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	t.Setenv("TMP", temp)
	stdout, stderr, err := get(t.Context())
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

func TestFolderKeepsWhatIsThere(t *testing.T) {
	t.Parallel()
	drop, args := serve(t, nil, mails(2)...)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "0002.eml"), []byte("older"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := get(t.Context(), with(args, "-dir", dir)...); !errors.Is(err, os.ErrExist) {
		t.Errorf("err = %v, want ErrExist", err)
	}
	if text, _ := os.ReadFile(filepath.Join(dir, "0002.eml")); string(text) != "older" {
		t.Errorf("0002.eml was overwritten with %q", text)
	}
	drop.Wait()
	if drop.Quits() != 0 {
		t.Error("QUIT was sent after a failure to deliver")
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	var r replies
	_, args := serve(t, r.intercept, "Subject: one\r\n\r\nx\r\n", "Subject: two\r\n\r\n")
	stdout, _, err := get(t.Context(), with(args, "-list")...)
	if err != nil {
		t.Fatal(err)
	}
	if want := "    1        19\n    2        16\n"; stdout != want {
		t.Errorf("got %q, want %q", stdout, want)
	}
	if r.count("RETR") > 0 {
		t.Error("-list retrieved messages")
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
	for _, method := range []string{"auto", "user", "plain", "login", "cram-md5", "scram-sha-1", "scram-sha-256", "apop", "xoauth2", "oauthbearer"} {
		drop := s.AddUser("ada", "tides", "Subject: hello\r\n\r\n")
		drop.Token = "tok"
		stdout, _, err := get(t.Context(), "-ca", ca, "-auth", method, "-list", "-user", "ada", s.Addr)
		if err != nil || stdout != "    1        18\n" {
			t.Errorf("-auth %s: %v\n%s", method, err, stdout)
		}
		drop.Wait()
	}
	if _, _, err := get(t.Context(), "-ca", ca, "-auth", "nonsense", "-user", "ada", s.Addr); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("-auth nonsense: %v", err)
	}
	if _, _, err := get(t.Context(), "-user", "ada", s.Addr); err == nil {
		t.Error("without -ca an unknown authority was trusted")
	}
}

func TestPassword(t *testing.T) {
	t.Parallel()
	_, args := serve(t, nil, mails(1)...)
	nothing := func(string) string { return "" }
	err := run(t.Context(), with(args, "-list"), nothing, strings.NewReader("tides\r\nmore"), io.Discard, io.Discard)
	if err != nil {
		t.Error(err)
	}
	err = run(t.Context(), with(args, "-list"), nothing, strings.NewReader(""), io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "POP3_PASSWORD") {
		t.Errorf("without a password: %v", err)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, args := range []string{
		"localhost", "-user ada", "-user ada a b", "-nonsense", "-user ada -delete localhost", "-user ada -maildir x -dir y localhost",
		"-user ada -maildir x -delete -list localhost", "-user ada -plain -tls localhost", "-user ada -plain -starttls localhost",
		"-user ada -tls -starttls localhost",
	} {
		_, stderr, err := get(t.Context(), strings.Fields(args)...)
		if err == nil || !strings.Contains(stderr, "Usage of popget") {
			t.Errorf("popget %s: %v\n%s", args, err, stderr)
		}
	}
}

func TestLogs(t *testing.T) {
	t.Parallel()
	_, args := serve(t, nil, mails(1)...)
	for flag, want := range map[string][2]bool{"-list": {false, false}, "-v": {true, false}, "-vv": {true, true}} {
		_, stderr, err := get(t.Context(), with(args, "-list", flag)...)
		got := [2]bool{strings.Contains(stderr, "command=STAT") || strings.Contains(stderr, "command=LIST"), strings.Contains(stderr, "line=LIST")}
		if err != nil || got != want || strings.Contains(stderr, "tides") {
			t.Errorf("%s: %v; logs commands and lines %v, want %v\n%s", flag, err, got, want, stderr)
		}
	}
}

func TestMaildirTwice(t *testing.T) {
	t.Parallel()
	var r replies
	all := mails(30)
	drop, args := serve(t, r.intercept, all[:29]...)
	dir := filepath.Join(t.TempDir(), "deep", "mail")
	args = with(args, "-maildir", dir)
	for _, fetched := range []int{29, 0, 1} {
		if fetched == 1 {
			drop.Add(all[29])
		}
		if _, _, err := get(t.Context(), args...); err != nil {
			t.Fatal(err)
		}
		drop.Wait()
		if n := r.count("RETR"); n != fetched {
			t.Errorf("retrieved %d messages, want %d", n, fetched)
		}
	}
	wantMail(t, dir, all)
	if drop.Quits() != 3 || len(drop.Messages()) != 30 {
		t.Errorf("%d times QUIT, %d messages left; want 3 and 30", drop.Quits(), len(drop.Messages()))
	}
	// What earlier runs delivered is deleted too, and not retrieved again.
	if _, _, err := get(t.Context(), with(args, "-delete")...); err != nil {
		t.Fatal(err)
	}
	drop.Wait()
	if n := r.count("RETR"); n > 0 || len(drop.Messages()) > 0 {
		t.Errorf("-delete retrieved %d messages and left %d", n, len(drop.Messages()))
	}
	wantMail(t, dir, all)
}

// A kill can come before the log has its line, or in the middle of one.
func TestTornLog(t *testing.T) {
	t.Parallel()
	all := mails(4)
	drop, args := serve(t, nil, all...)
	for cut := range 40 { // more than two lines
		dir := t.TempDir()
		args := with(args, "-maildir", dir)
		if _, _, err := get(t.Context(), args...); err != nil {
			t.Fatal(err)
		}
		drop.Wait()
		logs, err := filepath.Glob(filepath.Join(dir, ".popget-*"))
		if err != nil || len(logs) != 1 {
			t.Fatalf("logs %q, %v", logs, err)
		}
		log, err := os.ReadFile(logs[0])
		if err != nil {
			t.Fatal(err)
		}
		whole := len(log)
		if err := os.WriteFile(logs[0], log[:whole-cut], 0o600); err != nil {
			t.Fatal(err)
		}
		// The messages may have been read in the meantime, and a killed run's
		// last file may be there.
		files, _ := os.ReadDir(filepath.Join(dir, "new"))
		for _, f := range files {
			if err := os.Rename(filepath.Join(dir, "new", f.Name()), filepath.Join(dir, "cur", f.Name()+seen)); err != nil {
				t.Fatal(err)
			}
		}
		left := "popget-" + strings.TrimPrefix(filepath.Base(logs[0]), ".popget-") + ",123"
		if err := os.WriteFile(filepath.Join(dir, "tmp", left), []byte("Sub"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := get(t.Context(), args...); err != nil {
			t.Fatal(err)
		}
		drop.Wait()
		wantMail(t, dir, all)
		if log, err := os.ReadFile(logs[0]); err != nil || len(log) != whole {
			t.Errorf("cut by %d, the log came back with %d octets, want %d (%v)", cut, len(log), whole, err)
		}
	}
}

// seen is a Maildir's flag for a message that was read. Windows has no colon in
// file names.
var seen = map[bool]string{true: "", false: ":2,S"}[filepath.Separator == '\\']

func TestDeliveryFails(t *testing.T) {
	t.Parallel()
	all := mails(40)
	dir := t.TempDir()
	kept, away := filepath.Join(dir, "new"), filepath.Join(dir, "away")
	drop, args := serve(t, func(line string) (string, bool) {
		if line == "RETR 25" {
			os.Rename(kept, away)
		}
		return "", false
	}, all...)
	args = with(args, "-maildir", dir, "-delete")
	_, stderr, err := get(t.Context(), args...)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "nothing deleted") {
		t.Fatalf("err = %v, want ErrNotExist; standard error:\n%s", err, stderr)
	}
	drop.Wait()
	if drop.Quits() != 0 || len(drop.Messages()) != 40 {
		t.Errorf("%d times QUIT, %d messages left; want 0 and 40", drop.Quits(), len(drop.Messages()))
	}
	if err := os.Rename(away, kept); err != nil {
		t.Fatal(err)
	}
	for _, text := range delivered(t, dir) {
		if !slices.Contains(all, text) {
			t.Errorf("half a message in new: %q", text)
		}
	}
}

func TestInterrupt(t *testing.T) {
	t.Parallel()
	all := mails(40)
	ctx, cancel := context.WithCancel(t.Context())
	drop, args := serve(t, func(line string) (string, bool) {
		if line == "RETR 25" {
			cancel()
		}
		return "", false
	}, all...)
	dir := t.TempDir()
	args = with(args, "-maildir", dir, "-delete")
	if _, _, err := get(ctx, args...); !errors.Is(err, context.Canceled) {
		t.Fatalf("err = %v, want Canceled", err)
	}
	drop.Wait()
	if drop.Quits() != 0 || len(drop.Messages()) != 40 {
		t.Errorf("%d times QUIT, %d messages left; want 0 and 40", drop.Quits(), len(drop.Messages()))
	}
	if _, _, err := get(t.Context(), args...); err != nil {
		t.Fatal(err)
	}
	wantMail(t, dir, all)
}

// cutter relays one connection at a time to addr and cuts it when the server
// has sent so many octets.
type cutter struct {
	net.Listener
	addr  string
	after int64
}

func (p *cutter) relay() {
	client, err := p.Accept()
	if err != nil {
		return
	}
	defer client.Close()
	server, err := net.Dial("tcp", p.addr)
	if err != nil {
		return
	}
	var upstream sync.WaitGroup
	upstream.Go(func() {
		io.Copy(server, client)
		server.Close()
	})
	io.CopyN(client, server, p.after)
	server.Close()
	client.Close()
	upstream.Wait()
}

func TestConnectionCut(t *testing.T) {
	t.Parallel()
	for _, flags := range [][]string{nil, {"-delete"}} {
		t.Run(strings.Join(flags, ""), func(t *testing.T) {
			t.Parallel()
			all := mails(60)
			drop, args := serve(t, nil, all...)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			p := &cutter{Listener: l, addr: args[len(args)-1]}
			args[len(args)-1] = l.Addr().String()
			dir := t.TempDir()
			args = with(args, slices.Concat(flags, []string{"-maildir", dir})...)
			random := rand.New(rand.NewPCG(1939, 1))
			runs := 0
			for done := false; !done; runs++ {
				if runs == 200 {
					t.Fatal("no end in sight")
				}
				p.after = random.Int64N(6000 + 500*int64(runs))
				var relay sync.WaitGroup
				relay.Go(p.relay)
				_, _, err := get(t.Context(), args...)
				relay.Wait()
				drop.Wait()
				done = err == nil
				if runs == 0 && done {
					t.Fatal("the connection was not cut")
				}
				if _, err := os.Stat(filepath.Join(dir, "new")); err != nil {
					continue
				}
				safe := delivered(t, dir)
				for _, text := range all {
					if !slices.Contains(safe, text) && !slices.Contains(drop.Messages(), text) {
						t.Fatalf("cut at octet %d, %q is nowhere", p.after, text)
					}
				}
			}
			t.Logf("%d runs", runs)
			wantMail(t, dir, all)
			if left := len(drop.Messages()); left != 0 && flags != nil || left != 60 && flags == nil {
				t.Errorf("%d messages are left on the server", left)
			}
		})
	}
}

func TestSharedUniqueIDs(t *testing.T) {
	t.Parallel()
	all := mails(5)
	all[3] = all[1] // the identical copies of RFC 1939 section 7; all[2] breaks it
	r := &replies{fixed: map[string]string{"UIDL": "+OK\r\n1 a\r\n2 b\r\n3 b\r\n4 b\r\n5 +c d\r\n.\r\n", "RETR 3": "-ERR not now\r\n"}}
	drop, args := serve(t, r.intercept, all...)
	dir := t.TempDir()
	args = with(args, "-maildir", dir)
	if _, _, err := get(t.Context(), args...); err == nil {
		t.Fatal("a refused message went unreported")
	}
	drop.Wait()
	wantMail(t, dir, []string{all[0], all[1], all[3], all[4]})
	r.count("")
	delete(r.fixed, "RETR 3")
	if _, _, err := get(t.Context(), with(args, "-delete")...); err != nil {
		t.Fatal(err)
	}
	drop.Wait()
	wantMail(t, dir, all)
	if n := r.count("RETR"); n != 1 || len(drop.Messages()) > 0 {
		t.Errorf("retrieved %d messages, want 1; %d are left", n, len(drop.Messages()))
	}
}

// A renumberer is a Server.Intercept whose unique-ids are the message numbers, as
// some servers have it.
type renumberer struct {
	texts  []string
	fixed  map[string]string // replies
	marked map[int]bool
}

func (r *renumberer) intercept(line string) (string, bool) {
	reply, fixed := r.fixed[line]
	verb, arg, _ := strings.Cut(line, " ")
	n, _ := strconv.Atoi(arg)
	switch verb {
	case "LIST", "UIDL":
		r.marked = map[int]bool{}
		rows := ""
		for i := range r.texts {
			rows += fmt.Sprintf("%d %d\r\n", i+1, i+1)
		}
		return cmp.Or(reply, "+OK\r\n"+rows+".\r\n"), true
	case "RETR":
		return "+OK\r\n" + strings.ReplaceAll(r.texts[n-1], "\n.", "\n..") + ".\r\n", true
	case "DELE":
		if !fixed && r.marked[n] {
			return "-ERR marked already\r\n", true
		}
		r.marked[n] = r.marked[n] || !fixed
		return cmp.Or(reply, "+OK\r\n"), true
	case "QUIT":
		var left []string
		for i, text := range r.texts {
			if !r.marked[i+1] {
				left = append(left, text)
			}
		}
		r.texts = left
		return cmp.Or(reply, "+OK\r\n"), true
	}
	return "", false
}

// A message that is gone from the server may leave its unique-id to another,
// which must be delivered before it is deleted.
func TestUniqueIDUsedAgain(t *testing.T) {
	t.Parallel()
	all := mails(4)
	a, b, c := all[0], all[1], all[2]
	type texts = []string
	type step struct {
		there  texts // before
		delete bool
		fixed  map[string]string
		left   texts
		gets   int // RETR
	}
	no, lost := "-ERR not now\r\n", "what?\r\n"
	for name, steps := range map[string][]step{
		"deleted":                 {{texts{a}, true, nil, nil, 1}, {texts{b}, true, nil, nil, 1}},
		"delivered, then deleted": {{texts{a}, false, nil, texts{a}, 1}, {texts{a}, true, nil, nil, 0}, {texts{b}, true, nil, nil, 1}},
		"the reply was lost":      {{texts{a}, true, map[string]string{"QUIT": lost}, nil, 1}, {texts{b}, true, nil, nil, 1}},
		"deleted by another":      {{texts{a}, false, nil, texts{a}, 1}, {nil, false, nil, nil, 0}, {texts{b}, true, nil, nil, 1}},
		// Nothing was deleted, so nothing has another number now.
		"all refused":       {{texts{a, b}, true, map[string]string{"DELE 1": no, "DELE 2": no}, texts{a, b}, 2}, {texts{a, b}, true, nil, nil, 0}},
		"one refused":       {{texts{a, b}, true, map[string]string{"DELE 2": no}, texts{b}, 2}, {texts{b, c}, true, nil, nil, 2}},
		"the other refused": {{texts{a, b}, true, map[string]string{"DELE 1": no}, texts{a}, 2}, {texts{a, c}, true, nil, nil, 2}},
		"listed twice":      {{texts{a}, true, map[string]string{"LIST": "+OK\r\n1 9\r\n1 9\r\n.\r\n"}, nil, 2}, {texts{b}, true, nil, nil, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			var r renumberer
			gets := 0
			drop, args := serve(t, func(line string) (string, bool) {
				if strings.HasPrefix(line, "RETR ") {
					gets++
				}
				return r.intercept(line)
			})
			dir := t.TempDir()
			var want []string
			for i, step := range steps {
				gets, r.texts, r.fixed = 0, step.there, step.fixed
				for _, text := range step.there {
					if !slices.Contains(want, text) {
						want = append(want, text)
					}
				}
				args := with(args, "-maildir", dir)
				if step.delete {
					args = with(args, "-delete")
				}
				if _, _, err := get(t.Context(), args...); (err != nil) != (step.fixed != nil) {
					t.Errorf("run %d: %v", i, err)
				}
				drop.Wait()
				if !slices.Equal(r.texts, step.left) || gets != step.gets {
					t.Errorf("run %d left %q on the server, want %q; RETR %d times, want %d", i, r.texts, step.left, gets, step.gets)
				}
			}
			if name == "one refused" {
				want = append(want, b) // it has another number now, which is another file
			}
			wantMail(t, dir, want)
		})
	}
}

// What cannot be forgotten is not deleted.
func TestLogFails(t *testing.T) {
	t.Parallel()
	all := mails(2)
	dir := t.TempDir()
	drop, args := serve(t, func(line string) (string, bool) {
		if line == "DELE 2" { // in the way of a new log
			logs, _ := filepath.Glob(filepath.Join(dir, ".popget-*"))
			if len(logs) != 1 || os.Mkdir(logs[0]+",new", 0o700) != nil {
				t.Errorf("logs: %q", logs)
			}
		}
		return "", false
	}, all...)
	_, _, err := get(t.Context(), with(args, "-maildir", dir, "-delete")...)
	if err == nil || !strings.Contains(err.Error(), "nothing deleted") {
		t.Errorf("err = %v", err)
	}
	drop.Wait()
	if drop.Quits() != 0 || len(drop.Messages()) != 2 {
		t.Errorf("%d times QUIT, %d messages left; want 0 and 2", drop.Quits(), len(drop.Messages()))
	}
	wantMail(t, dir, all)
}

// What a killed run left of a new log counts for nothing.
func TestHalfALog(t *testing.T) {
	t.Parallel()
	r := &replies{fixed: map[string]string{"UIDL": "+OK\r\n1 a\r\n2 b\r\n3 bc\r\n.\r\n"}}
	all := mails(3)
	drop, args := serve(t, r.intercept, all...)
	dir := t.TempDir()
	log := filepath.Join(dir, ".popget-"+url.QueryEscape("ada@"+args[len(args)-1]))
	// The last line is torn: it is no unique-id "b".
	for name, text := range map[string]string{log: "a\nb", log + ",new": "b\nbc\n" + strings.Repeat("d\n", 100)} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := get(t.Context(), with(args, "-maildir", dir)...); err != nil {
		t.Fatal(err)
	}
	drop.Wait()
	wantMail(t, dir, all[1:])
	text, err := os.ReadFile(log)
	if left, _ := filepath.Glob(log + ",*"); err != nil || string(text) != "a\nb\nbc\n" || len(left) > 0 {
		t.Errorf("the log is %q, %v; %q are left", text, err, left)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	all := mails(4)
	for _, test := range []struct {
		command, reply string
		delivered      []string
		left           []string
	}{
		{"RETR 2", "-ERR \x1b[31mnot now\r\n", slices.Delete(slices.Clone(all), 1, 2), all[1:2]},
		{"DELE 2", "-ERR not now\r\n", all, all[1:2]},
		{"UIDL", "-ERR unknown command\r\n", nil, all},
		{"UIDL", "+OK\r\n1 a\r\n3 c\r\n4 d\r\n.\r\n", all[:1], all},
		{"LIST", "-ERR not now\r\n", nil, all},
		{"QUIT", "-ERR some messages not deleted\r\n", all, all},
	} {
		t.Run(test.command, func(t *testing.T) {
			r := &replies{fixed: map[string]string{test.command: test.reply}}
			drop, args := serve(t, r.intercept, all...)
			dir := t.TempDir()
			_, stderr, err := get(t.Context(), with(args, "-maildir", dir, "-delete")...)
			if err == nil || strings.Contains(stderr, "\x1b") {
				t.Errorf("err = %v; standard error: %q", err, stderr)
			}
			drop.Wait()
			if left := drop.Messages(); !slices.Equal(left, test.left) {
				t.Errorf("%d messages are left, want %d", len(left), len(test.left))
			}
			if test.delivered != nil {
				wantMail(t, dir, test.delivered)
			}
			// Nothing of it keeps the next run from doing the rest.
			r.mu.Lock()
			clear(r.fixed)
			r.mu.Unlock()
			if _, _, err := get(t.Context(), with(args, "-maildir", dir, "-delete")...); err != nil {
				t.Error(err)
			}
			drop.Wait()
			if len(drop.Messages()) > 0 {
				t.Errorf("%d messages are left in the end", len(drop.Messages()))
			}
		})
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		p := newProgress(&out)
		p.messages, p.ofMessages, p.ofOctets = 1, 2, 8e6
		for range 4 { // the first and the third are too soon
			time.Sleep(time.Second / 2)
			p.Write(make([]byte, 1e6))
		}
		const want = "1 of 2 messages, 2.00 MB, 2.00 MB/s, 3 s left\n1 of 2 messages, 4.00 MB, 2.00 MB/s, 2 s left\n"
		if got := out.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
