package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

func TestAccountName(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ user, addr, want string }{
		{"Ada", "POP.Example.com", "Ada@pop.example.com"},
		{"Ada", "pop.example.com:110", "Ada@pop.example.com"},
		{"Ada", "pop.example.com:995", "Ada@pop.example.com"},
		{"Ada", "pop.example.com:1995", "Ada@pop.example.com:1995"},
		{"Ada", "pop.example.com.", "Ada@pop.example.com"},
		{"Ada", "pop.example.com.:995", "Ada@pop.example.com"},
		{"ada@example.com", "[::1]:995", "ada@example.com@::1"},
		{"ada@example.com", "[::1]", "ada@example.com@::1"},
		{"ada@example.com", "[::1]:2110", "ada@example.com@[::1]:2110"},
	} {
		if got := accountName(tt.user, tt.addr); got != tt.want {
			t.Errorf("%s at %s is %q, want %q", tt.user, tt.addr, got, tt.want)
		}
	}
}

// TestAccounts has each account keep a log of its own, where file names differ
// in case or not, and deliver beside the others.
func TestAccounts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	long := strings.Repeat("long/", 100)
	accounts := []string{"ada@example.com", "Ada@example.com", "ada@example.com:2110", "ada_example.com", "ada/example.com", `ada\example.com`, "CON", long, long + "x"}
	names := map[string]string{}
	for _, account := range accounts {
		b, err := openMaildir(noSync{}, nil, dir, account, t.Errorf)
		if err != nil {
			t.Fatal(err)
		}
		defer b.close()
		name := strings.ToLower(filepath.Base(b.state.path))
		if other, twice := names[name]; twice {
			t.Errorf("%q and %q have the same log %s", account, other, name)
		}
		names[name] = account
		if len(name) > 120 || strings.ContainsAny(name, `/\:*?"<>|%`) {
			t.Errorf("%q: a log named %s", account, name)
		}
	}
}

// TestLocked has a second run of an account end at once, and another account's
// deliver to the same Maildir meanwhile.
func TestLocked(t *testing.T) {
	t.Parallel()
	all := mails(40)
	w, other := newWorld(t, all[:20]...), newWorld(t, all[20:]...)
	other.dir = w.dir
	w.reply = func(line string) (string, bool) {
		if line == "RETR 10" {
			args := []string{"-plain", "-user", "ada", "-maildir", w.dir, w.addr}
			_, _, err := popget(context.Background(), w.now, w.disk, args...)
			if exitStatus(err) != tryAgain || !strings.Contains(err.Error(), "another popget") {
				t.Errorf("a second run: %v", err)
			}
			if _, _, err := other.popget("-delete"); err != nil {
				t.Errorf("another account's: %v", err)
			}
		}
		return "", false
	}
	if _, _, err := w.popget("-delete"); err != nil {
		t.Error(err)
	}
	if logins := w.count("PASS"); logins != 1 {
		t.Errorf("%d logins, want 1", logins)
	}
	w.wantMail(all)
}

// TestLockOfKilled has the lock of a process go when that is killed.
func TestLockOfKilled(t *testing.T) {
	const variable = "POPGET_TEST_LOCK"
	if name := os.Getenv(variable); name != "" { // the child
		if _, err := lockFile(name); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println("locked")
		io.Copy(io.Discard, os.Stdin) // until it is killed
		return
	}
	t.Parallel()
	name := filepath.Join(t.TempDir(), "lock")
	child := exec.Command(os.Args[0], "-test.run=^TestLockOfKilled$")
	child.Env = append(os.Environ(), variable+"="+name)
	stdin, err := child.StdinPipe() // which ends if this process does
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		t.Skip(err)
	}
	defer child.Process.Kill()
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "locked\n" {
		t.Fatalf("the child said %q, %v", line, err)
	}
	if _, err := lockFile(name); !errors.Is(err, errLocked) {
		t.Errorf("while the child lives: %v", err)
	}
	child.Process.Kill()
	child.Wait()
	lock, err := lockFile(name)
	if err != nil {
		t.Fatal(err)
	}
	lock.Close()
}

func TestNoMaildir(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		make  []string // folders, and files that do not end in /
		works bool
	}{
		{"nothing", nil, true},
		{"empty", []string{""}, true},
		{"half made", []string{"tmp/", "new/"}, true},
		{"a Maildir", []string{"tmp/", "new/", "cur/", ".Sent/", "dovecot-uidlist"}, true},
		{"photographs", []string{"beach.jpg"}, false},
		{"other folders", []string{"tmp/", "src/"}, false},
		{"a file for a folder", []string{"tmp/", "new/", "cur"}, false},
		{"a file", []string{"/"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, mails(1)...)
			for _, name := range tt.make {
				path := filepath.Join(w.dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				err := error(nil)
				if name == "/" {
					os.Remove(w.dir)
					err = os.WriteFile(w.dir, nil, 0o600)
				} else if strings.HasSuffix(name, "/") || name == "" {
					err = os.MkdirAll(path, 0o700)
				} else {
					err = os.WriteFile(path, nil, 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			before, _ := os.ReadDir(w.dir)
			_, _, err := w.popget()
			if tt.works {
				if err != nil {
					t.Error(err)
				}
				w.wantMail(mails(1))
				return
			}
			if exitStatus(err) != cannotWrite || w.count("USER") > 0 {
				t.Errorf("err = %v; %d logins", err, w.count("USER"))
			}
			if after, _ := os.ReadDir(w.dir); !slices.EqualFunc(before, after, func(a, b os.DirEntry) bool { return a.Name() == b.Name() }) {
				t.Errorf("it holds %v now", after)
			}
		})
	}
}

// TestLinkedMaildir has folders of a Maildir be symbolic links.
func TestLinkedMaildir(t *testing.T) {
	t.Parallel()
	w := newWorld(t, mails(2)...)
	w.mustPopget()
	for _, sub := range subfolders {
		path, elsewhere := filepath.Join(w.dir, sub), filepath.Join(t.TempDir(), sub)
		if err := errors.Join(os.Rename(path, elsewhere), os.Symlink(elsewhere, path)); err != nil {
			t.Skip(err)
		}
	}
	if _, _, err := w.popget("-delete"); err != nil {
		t.Error(err)
	}
	w.wantMail(mails(2))
}

func TestForeignMaildir(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("Windows does not give files to their users by a number")
	}
	w := newWorld(t, mails(1)...)
	w.mustPopget()
	cur := filepath.Join(w.dir, "cur")
	if err := os.Chown(cur, 12345, -1); err != nil { // only root may
		if err := errors.Join(os.Remove(cur), os.Symlink("/", cur)); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := w.popget()
	if exitStatus(err) != cannotWrite || err == nil || !strings.Contains(err.Error(), cur+" belongs to another user") || w.count("USER") > 0 {
		t.Errorf("err = %v; %d logins", err, w.count("USER"))
	}
}

// A Maildir that cannot be delivered to loses nothing, and the message is not
// to blame.
func TestDeliveryFails(t *testing.T) {
	t.Parallel()
	all := mails(80)
	w := newWorld(t, all...)
	kept, away := filepath.Join(w.dir, "new"), filepath.Join(w.dir, "away")
	w.reply = func(line string) (string, bool) {
		if line == "RETR 60" {
			os.Rename(kept, away)
		}
		return "", false
	}
	_, _, err := w.popget("-delete")
	if !errors.Is(err, os.ErrNotExist) || exitStatus(err) != cannotWrite || !strings.Contains(err.Error(), "nothing deleted") {
		t.Errorf("err = %v", err)
	}
	if w.count("QUIT") > 0 || len(w.mails) != 80 {
		t.Errorf("%d times QUIT, %d messages left", w.count("QUIT"), len(w.mails))
	}
	w.reply = nil
	if err := os.Rename(away, kept); err != nil {
		t.Fatal(err)
	}
	if _, stderr, err := w.popget("-delete"); err != nil || strings.Contains(stderr, "failed to fetch") {
		t.Errorf("%v\n%s", err, stderr)
	}
	w.wantMail(all)
	if len(w.mails) > 0 {
		t.Errorf("%d messages are left", len(w.mails))
	}
}

// A fullDisk has no room for a third message.
type fullDisk struct {
	noSync
	made int
}

func (d *fullDisk) open(name string, flag int) (file, error) {
	if flag&os.O_EXCL != 0 {
		if d.made++; d.made > 2 {
			return nil, &os.PathError{Op: "open", Path: name, Err: errors.New("disk full")}
		}
	}
	return d.noSync.open(name, flag)
}

// A full disk is no message's fault.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	all := mails(4)
	w := newWorld(t, all...)
	w.disk = &fullDisk{}
	if _, _, err := w.popget("-delete"); exitStatus(err) != cannotWrite {
		t.Errorf("err = %v", err)
	}
	w.disk = noSync{}
	if _, stderr, err := w.popget("-delete"); err != nil || stderr != "" {
		t.Errorf("%v\n%s", err, stderr)
	}
	w.wantMail(all)
}

// A smallDisk has no room for a file of more than max octets. It counts what is
// synced.
type smallDisk struct {
	noSync
	max   int
	full  func() // is called at such a file, if not nil
	syncs atomic.Int64
}

func (d *smallDisk) open(name string, flag int) (file, error) {
	f, err := d.noSync.open(name, flag)
	return &smallFile{f, d, d.max}, err
}

type smallFile struct {
	file
	disk *smallDisk
	left int
}

func (f *smallFile) Write(b []byte) (int, error) {
	if f.left -= len(b); f.left < 0 && f.disk.full == nil {
		return 0, &os.PathError{Op: "write", Path: "a file", Err: errors.New("disk full")}
	} else if f.left < 0 {
		f.disk.full()
	}
	return f.file.Write(b)
}

func (f *smallFile) Sync() error {
	f.disk.syncs.Add(1)
	return nil
}

// A message that is too large for the disk keeps no other from coming.
func TestTooLargeForDisk(t *testing.T) {
	t.Parallel()
	all := unlike(4)
	all[1] += strings.Repeat("x", 9000) + "\r\n"
	w := newWorld(t, all...)
	w.disk = &smallDisk{max: 5000}
	for run, left := range []int{4, 1, 1} {
		if _, _, err := w.popget("-delete"); exitStatus(err) != cannotWrite || len(w.mails) != left {
			t.Errorf("run %d: %v; %d messages are left, want %d", run, err, len(w.mails), left)
		}
	}
	w.wantMail(slices.Delete(slices.Clone(all), 1, 2))
	w.disk = noSync{}
	w.mustPopget("-delete")
	w.wantMail(all)
}

// An interrupt in the middle of a text without an end is that message's fault.
func TestInterruptWithoutEnd(t *testing.T) {
	t.Parallel()
	all := unlike(2)
	w := newWorld(t, all...)
	ctx, cancel := context.WithCancel(t.Context())
	w.disk = &smallDisk{max: 8000, full: cancel}
	replyToRETR(all[0], "+OK\r\n"+strings.Repeat(strings.Repeat("x", 998)+"\r\n", 50))(w)
	args := []string{"-plain", "-auth", "user", "-user", "ada", "-maildir", w.dir, w.addr}
	if _, _, err := w.run(ctx, args...); exitStatus(err) != tryAgain {
		t.Errorf("err = %v", err)
	}
	w.reply = nil
	if _, stderr, err := w.popget(); err != nil || !strings.Contains(stderr, "message 1 is tried after the others") {
		t.Errorf("%v\n%s", err, stderr)
	}
	w.wantMail(all)
}

// What was delivered before need not be on disk once more.
func TestSyncsWhatIsNew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.post(strings.Repeat("- ", 9), mails(9)...)
	w.mustPopget()
	d := &smallDisk{max: 1 << 20}
	w.disk = d
	w.mustPopget()
	if n := d.syncs.Load(); n > 0 || w.count("RETR ") != 9 {
		t.Errorf("%d times synced, %d times RETR", n, w.count("RETR "))
	}
}

// A run delivers as it goes, not at its end, and a refusal makes no difference.
func TestDeliversEarly(t *testing.T) {
	t.Parallel()
	all := mails(2 * maxBatch)
	w := newWorld(t, all...)
	dying := &killer{steps: 1 << 30}
	w.disk = dying
	w.reply = func(line string) (string, bool) {
		if line == fmt.Sprintf("RETR %d", maxBatch) { // in the sixth batch
			dying.steps = 0
		}
		return "-ERR no\r\n", line == "RETR 2"
	}
	if _, _, err := w.popget(); !errors.Is(err, errKilled) {
		t.Errorf("err = %v", err)
	}
	if files, _ := os.ReadDir(filepath.Join(w.dir, "new")); len(files) != maxBatch-2 {
		t.Errorf("%d messages were delivered before the end", len(files))
	}
	w.disk, w.reply = noSync{}, nil
	w.mustPopget()
	w.wantMail(all)
}

// What cannot be noted is not deleted.
func TestLogFails(t *testing.T) {
	t.Parallel()
	all := mails(2)
	w := newWorld(t, all...)
	dying := &killer{steps: 1 << 30}
	w.disk = dying
	w.reply = func(line string) (string, bool) {
		if line == "DELE 2" {
			dying.steps = 0
		}
		return "", false
	}
	if _, _, err := w.popget("-delete"); exitStatus(err) != cannotWrite || !strings.Contains(err.Error(), "nothing deleted") {
		t.Errorf("err = %v", err)
	}
	if w.count("QUIT") > 0 || len(w.mails) != 2 {
		t.Errorf("%d times QUIT, %d messages left", w.count("QUIT"), len(w.mails))
	}
	w.wantMail(all)
}

// An interrupt deletes nothing, keeps what has come, and is no message's fault.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	all := mails(80)
	w := newWorld(t, all...)
	ctx, cancel := context.WithCancel(t.Context())
	w.reply = func(line string) (string, bool) {
		if line == "RETR 60" {
			cancel()
		}
		return "", false
	}
	_, _, err := w.run(ctx, "-plain", "-auth", "user", "-user", "ada", "-maildir", w.dir, "-delete", w.addr)
	if !errors.Is(err, context.Canceled) || exitStatus(err) != tryAgain {
		t.Errorf("err = %v", err)
	}
	if w.count("QUIT") > 0 || len(w.mails) != 80 {
		t.Errorf("%d times QUIT, %d messages left", w.count("QUIT"), len(w.mails))
	}
	if left, _ := os.ReadDir(filepath.Join(w.dir, "tmp")); len(left) > 0 {
		t.Errorf("left in tmp: %v", left)
	}
	w.reply = nil
	if _, stderr, err := w.popget("-delete"); err != nil || stderr != "" {
		t.Errorf("%v\n%s", err, stderr)
	}
	w.wantMail(all)
}
