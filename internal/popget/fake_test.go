package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/pop3/internal/pop3test"
)

// A posted is a message on the server.
type posted struct{ text, uid string }

// A fake is a maildrop of pop3test with the habits of other servers. Between
// sessions its fields may be changed.
type fake struct {
	mu    sync.Mutex
	drop  *pop3test.Maildrop
	mails []posted

	numbers   bool // unique-ids are message numbers
	keeps     bool // QUIT deletes nothing
	unstuffed bool
	sizes     int                                       // of all messages in LIST, if not 0
	rewrite   func(text string) string                  // what is sent of a message
	reply     func(line string) (reply string, ok bool) // goes before all else

	session []posted // as the session numbers them
	marked  []bool
	late    string   // of the replies so far
	seen    []string // commands
}

func (f *fake) intercept(line string) (string, bool) {
	if strings.HasPrefix(line, "PASS ") {
		f.drop.Wait() // a session ends a little later than its QUIT
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = append(f.seen, line)
	reply, ok := f.answer(line)
	if ok && f.unstuffed { // what follows a line "." comes with the next reply
		reply = f.late + reply
		end := strings.Index(reply, "\r\n.\r\n") + len("\r\n.\r\n")
		if f.late = ""; end > len("\r\n.\r\n") {
			reply, f.late = reply[:end], reply[end:]
		}
	}
	return reply, ok
}

func (f *fake) answer(line string) (string, bool) {
	verb, arg, _ := strings.Cut(line, " ")
	if verb == "PASS" {
		f.session, f.marked, f.late = slices.Clone(f.mails), make([]bool, len(f.mails)), ""
	}
	if f.reply != nil {
		if reply, ok := f.reply(line); ok {
			return reply, true
		}
	}
	arg, _, _ = strings.Cut(arg, " ")
	n, _ := strconv.Atoi(arg)
	if n > len(f.session) {
		return "-ERR no such message\r\n", true
	}
	switch verb {
	case "STAT":
		return fmt.Sprintf("+OK %d 1000\r\n", len(f.session)), true
	case "LIST", "UIDL":
		if n > 0 {
			return "+OK " + f.row(verb, n) + "\r\n", true
		}
		return f.listing(verb), true
	case "RETR":
		return f.body(f.session[n-1].text), true
	case "TOP":
		header, _, _ := strings.Cut(f.session[n-1].text, "\r\n\r\n")
		return f.body(header + "\r\n\r\n"), true
	case "DELE":
		f.marked[n-1] = true
		return "+OK\r\n", true
	case "QUIT":
		f.commit()
		return "+OK\r\n", true
	}
	return "", false
}

// lose deletes message 1 for another session, which gives those behind it new
// numbers in this one, as GreenMail does. It is for reply too.
func (f *fake) lose() {
	f.session, f.marked, f.mails = f.session[1:], f.marked[1:], f.mails[1:]
}

// commit does what QUIT does. It is for reply too.
func (f *fake) commit() {
	var left []posted
	for i, m := range f.session {
		if !f.marked[i] || f.keeps {
			left = append(left, m)
		}
	}
	f.mails = left
}

func (f *fake) listing(verb string) string {
	rows := "+OK\r\n"
	for i := range f.session {
		if row := f.row(verb, i+1); row != "" {
			rows += row + "\r\n"
		}
	}
	return rows + ".\r\n"
}

// row is a row of LIST or UIDL.
func (f *fake) row(verb string, n int) string {
	m := f.session[n-1]
	switch {
	case verb == "LIST":
		return fmt.Sprintf("%d %d", n, cmp.Or(f.sizes, len(f.sent(m.text))))
	case f.numbers:
		return fmt.Sprintf("%d %d", n, n)
	case m.uid != "":
		return fmt.Sprintf("%d %s", n, m.uid)
	}
	return ""
}

func (f *fake) sent(text string) string {
	if f.rewrite != nil {
		return f.rewrite(text)
	}
	return text
}

func (f *fake) body(text string) string {
	text = f.sent(text)
	if !f.unstuffed {
		text = strings.ReplaceAll("\n"+text, "\n.", "\n..")[1:]
	}
	return "+OK\r\n" + text + ".\r\n"
}

// post replaces what is on the server by messages with these unique-ids.
func (f *fake) post(uids string, texts ...string) {
	f.mails = nil
	for i, uid := range strings.Fields(uids) {
		f.mails = append(f.mails, posted{texts[i], strings.Trim(uid, "-")}) // "-" is none
	}
}

func (f *fake) texts() []string {
	var all []string
	for _, m := range f.mails {
		all = append(all, m.text)
	}
	return all
}

// count returns how many commands began with verb in the last run.
func (f *fake) count(verb string) int {
	n := 0
	for _, line := range f.seen {
		if strings.HasPrefix(line, verb) {
			n++
		}
	}
	return n
}

// noSync is a disk for tests that need no real one.
type noSync struct{ osDisk }

func (noSync) syncDir(string) error { return nil }

func (d noSync) open(name string, flag int) (file, error) {
	f, err := d.osDisk.open(name, flag)
	return noSyncFile{f}, err
}

type noSyncFile struct{ file }

func (noSyncFile) Sync() error { return nil }

// A world is what popget runs in.
type world struct {
	*fake
	t    *testing.T
	addr string
	auth string
	dir  string // of the Maildir
	now  time.Time
	disk disk
}

func newWorld(t *testing.T, texts ...string) *world {
	w := &world{t: t, fake: &fake{}, auth: "user", dir: filepath.Join(t.TempDir(), "mail"), now: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), disk: noSync{}}
	s := pop3test.NewUnstartedServer()
	s.Intercept = w.intercept
	w.drop = s.AddUser("ada", "tides")
	s.Start()
	t.Cleanup(s.Close)
	w.addr = s.Addr
	for i, text := range texts {
		w.mails = append(w.mails, posted{text, fmt.Sprintf("uid-%d", i+1)})
	}
	return w
}

// popget runs popget for the Maildir, with more flags. Afterwards no session
// is open.
func (w *world) popget(flags ...string) (stdout, stderr string, err error) {
	w.seen = nil
	args := slices.Concat([]string{"-plain", "-auth", w.auth, "-user", "ada", "-maildir", w.dir}, flags, []string{w.addr})
	stdout, stderr, err = w.run(w.t.Context(), args...)
	return stdout, stderr, err
}

// run runs popget with any arguments.
func (w *world) run(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	stdout, stderr, err = popget(ctx, w.now, w.disk, args...)
	w.drop.Wait()
	return stdout, stderr, err
}

// popget runs popget as ada and returns what it wrote.
func popget(ctx context.Context, now time.Time, d disk, args ...string) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	env := func(name string) string {
		return map[string]string{"POP3_PASSWORD": "tides", "POP3_TOKEN": "tok"}[name]
	}
	err = run(ctx, args, process{env, strings.NewReader(""), &out, &errs, func() time.Time { return now }, d})
	return out.String(), errs.String(), err
}

// wantMail checks that these folders hold exactly these messages, each once.
func wantMail(t *testing.T, want []string, folders ...string) {
	t.Helper()
	var got []string
	for _, dir := range folders {
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			text, err := os.ReadFile(filepath.Join(dir, f.Name()))
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, string(text))
			if strings.Contains(strings.TrimSuffix(f.Name(), seen), ":") {
				t.Errorf("Windows cannot have a file %q", f.Name())
			}
		}
	}
	slices.Sort(got)
	if want := slices.Sorted(slices.Values(want)); !slices.Equal(got, want) {
		t.Errorf("there are %d messages, want %d:\n%.80q\nwant\n%.80q", len(got), len(want), got, want)
	}
}

// wantMail checks that the Maildir holds exactly these messages, and tmp none.
func (w *world) wantMail(want []string, more ...string) {
	w.t.Helper()
	wantMail(w.t, want, append(more, filepath.Join(w.dir, "new"), filepath.Join(w.dir, "cur"))...)
	if left, err := os.ReadDir(filepath.Join(w.dir, "tmp")); err != nil || len(left) > 0 {
		w.t.Errorf("left in tmp: %v, %v", left, err)
	}
}

// read is a reader of mail that moves what is new to another folder, such as
// cur.
func (w *world) read(to, suffix string) {
	w.t.Helper()
	files, err := os.ReadDir(filepath.Join(w.dir, "new"))
	for _, f := range files {
		if err == nil {
			err = os.Rename(filepath.Join(w.dir, "new", f.Name()), filepath.Join(to, f.Name()+suffix))
		}
	}
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
}

// seen is a Maildir's flag for a message that was read.
var seen = map[bool]string{true: "", false: ":2,S"}[filepath.Separator == '\\']

// unlike makes n messages, no two of about the same size.
func unlike(n int) []string {
	all := mails(n)
	for i := range all {
		all[i] += strings.Repeat("x", 600*i) + "\r\n"
	}
	return all
}

// mails makes n messages of the same size, no two alike.
func mails(n int) []string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("From: ada\r\nSubject: mail %03d\r\n\r\n.%s\r\n", i, strings.Repeat("tide ", 20)))
	}
	return all
}
