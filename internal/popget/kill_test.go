package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

var errKilled = &fs.PathError{Op: "kill", Err: errors.New("killed")}

// A killer is a disk that dies at one of its steps, in the middle of it if it
// is a write. With power it dies as a machine does whose power fails: what was
// not synced is lost.
type killer struct {
	noSync
	steps  int // left
	power  bool
	undone []change
}

// A change is not on disk until the folder or file with this name is synced.
type change struct {
	name string
	undo func()
}

func (k *killer) step() error {
	if k.steps--; k.steps >= 0 {
		return nil
	}
	if k.power {
		for _, c := range slices.Backward(k.undone) {
			c.undo()
		}
		k.undone = nil
	}
	return errKilled
}

func (k *killer) changed(name string, undo func()) { k.undone = append(k.undone, change{name, undo}) }

func (k *killer) synced(name string) {
	k.undone = slices.DeleteFunc(k.undone, func(c change) bool { return c.name == name })
}

// restore returns what makes a file as it is now.
func restore(name string) func() {
	data, err := os.ReadFile(name)
	if err != nil {
		return func() { os.Remove(name) }
	}
	return func() { os.WriteFile(name, data, 0o600) }
}

func (k *killer) mkdir(dir string) error {
	if err := k.step(); err != nil {
		return err
	}
	k.changed(filepath.Dir(dir), func() { os.RemoveAll(dir) })
	return k.noSync.mkdir(dir)
}

func (k *killer) rename(from, to string) error {
	if err := k.step(); err != nil {
		return err
	}
	back, away := restore(from), restore(to)
	k.changed(filepath.Dir(to), func() { back(); away() })
	return k.noSync.rename(from, to)
}

func (k *killer) remove(name string) error {
	if err := k.step(); err != nil {
		return err
	}
	k.changed(filepath.Dir(name), restore(name))
	return k.noSync.remove(name)
}

func (k *killer) syncDir(dir string) error {
	if err := k.step(); err != nil {
		return err
	}
	k.synced(dir)
	return nil
}

func (k *killer) open(name string, flag int) (file, error) {
	if err := k.step(); err != nil {
		return nil, err
	}
	if _, err := os.Stat(name); err != nil {
		k.changed(filepath.Dir(name), func() { os.Remove(name) })
	} else if flag&os.O_TRUNC != 0 {
		k.changed(name, restore(name))
	}
	f, err := k.noSync.open(name, flag)
	return killerFile{f, k, name}, err
}

type killerFile struct {
	file
	k    *killer
	name string
}

func (f killerFile) Write(b []byte) (int, error) {
	f.k.changed(f.name, restore(f.name))
	if err := f.k.step(); err != nil {
		if f.k.steps == -1 && !f.k.power {
			f.file.Write(b[:len(b)/2])
		}
		return 0, err
	}
	return f.file.Write(b)
}

func (f killerFile) Sync() error {
	if err := f.k.step(); err != nil {
		return err
	}
	f.k.synced(f.name)
	return nil
}

// TestKilled kills a run at each of its steps on disk, has a reader of mail at
// work, and runs again: each message comes once, and what is not on the server
// is on disk.
func TestKilled(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		power  bool
		fresh  bool // no Maildir before
		reader bool // moves what is new away
		second bool // a message has failed before
	}{
		{"no Maildir before", false, true, false, false},
		{"no Maildir before, no power", true, true, false, false},
		{"a reader", false, false, true, false},
		{"a reader, no power", true, false, true, false},
		{"two sessions", false, false, false, true},
		{"two sessions, a reader, no power", true, false, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			all := mails(3)
			before := w.dir
			if !tt.fresh {
				for _, uids := range []string{"a1 a2", "b1 b2", "c1 c2"} { // a log to be compacted
					w.post(uids, all...)
					w.mustPopget()
				}
			}
			uids := "d1 c2 d3"
			if tt.second {
				uids += " e4"
				w.post("e4", all[2]+"and more\r\n")
				all = append(all, w.mails[0].text)
				replyTo("RETR 1", "-ERR no\r\n")(w)
				w.popget()
				w.reply = nil
			}
			killed := true
			for steps := 0; killed; steps++ {
				w.dir = filepath.Join(t.TempDir(), "deep", "mail")
				if !tt.fresh {
					if err := os.CopyFS(w.dir, os.DirFS(before)); err != nil {
						t.Fatal(err)
					}
				}
				w.post(uids, all...)
				if killed = w.killedAt(steps, tt.power, tt.reader, all); t.Failed() {
					t.Fatalf("killed at step %d", steps)
				}
				if !killed && steps < 20 {
					t.Errorf("a run has %d steps", steps)
				}
			}
		})
	}
}

func (w *world) mustPopget(flags ...string) {
	w.t.Helper()
	w.now = w.now.Add(time.Hour)
	if _, stderr, err := w.popget(flags...); err != nil {
		w.t.Errorf("%v\n%s", err, stderr)
	}
}

// killedAt reports whether a run of so many steps was killed.
func (w *world) killedAt(steps int, power bool, reader bool, all []string) bool {
	w.t.Helper()
	away := w.t.TempDir()
	quick := w.disk
	w.disk = &killer{steps: steps, power: power}
	_, _, err := w.popget("-delete")
	w.disk = quick
	killed := errors.Is(err, errKilled)
	if err != nil && !killed {
		w.t.Error(err)
	}
	w.wantSafe(all)
	if reader {
		w.read(away, "")
	}
	w.mustPopget("-delete")
	w.wantMail(all, away)
	if len(w.mails) > 0 {
		w.t.Errorf("%d messages are left on the server", len(w.mails))
	}
	return killed
}

// wantSafe checks that what is not on the server is in new or cur.
func (w *world) wantSafe(all []string) {
	w.t.Helper()
	var there []string
	for _, sub := range []string{"new", "cur"} {
		files, _ := os.ReadDir(filepath.Join(w.dir, sub))
		for _, f := range files {
			text, err := os.ReadFile(filepath.Join(w.dir, sub, f.Name()))
			if err != nil {
				w.t.Fatal(err)
			}
			there = append(there, string(text))
		}
	}
	for _, text := range all {
		if !slices.Contains(w.texts(), text) && !slices.Contains(there, text) {
			w.t.Errorf("nowhere: %q", text)
		}
	}
}
