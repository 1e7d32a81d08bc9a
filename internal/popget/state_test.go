package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// openLog opens a log at path.
func openLog(t *testing.T, path string) *state {
	t.Helper()
	s, err := openState(noSync{}, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.log.Close() })
	return s
}

// A log that ends anywhere is read as far as it goes, and goes on from there.
func TestLogCut(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	s := openLog(t, path)
	for i := range 4 {
		if err := s.save(&delivery{ID: i + 1}, &delivery{ID: 2, Size: int64(i)}); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(whole) + 1 {
		s := &state{deliveries: map[int]*delivery{}, faults: map[string]*fault{}}
		if err := s.read(whole[:cut]); err != nil {
			t.Fatal(err)
		}
		lines, torn := bytes.Count(whole[:cut], []byte("\n")), cut > 0 && whole[cut-1] != '\n'
		if s.lines != lines || s.damaged != torn {
			t.Fatalf("cut at %d, %d lines were read, want %d; damaged %v, want %v", cut, s.lines, lines, s.damaged, torn)
		}
		if cut%41 != 0 { // what follows takes time
			continue
		}
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		before := len(s.deliveries)
		if err := openLog(t, path).save(&delivery{ID: 9, UID: "a\xff b%"}); err != nil {
			t.Fatal(err)
		}
		if s = openLog(t, path); s.damaged || len(s.deliveries) != before+1 || s.deliveries[9].UID != "a\xff b%" {
			t.Fatalf("cut at %d, what was appended is not read: %v", cut, s.deliveries)
		}
	}
	// A line that was changed ends the log, too.
	whole[len(whole)-5] ^= 1
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if s := openLog(t, path); !s.damaged || len(s.deliveries) != 4 || s.deliveries[2].Size != 2 {
		t.Errorf("a changed line was read: %v", s.deliveries)
	}
}

// A tornFile takes half of what is written to it.
type tornFile struct{ file }

func (f tornFile) Write(b []byte) (int, error) {
	n, _ := f.file.Write(b[:len(b)/2])
	return n, io.ErrShortWrite
}

// Nothing is written behind a line that is not whole, where it could not be read.
func TestLogTorn(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	s := openLog(t, path)
	log := s.log
	for _, s.log = range []file{tornFile{log}, log} {
		if err := s.save(&delivery{ID: 1}); err == nil {
			t.Error("written behind a torn line")
		}
	}
	if s := openLog(t, path); !s.damaged || len(s.deliveries) > 0 {
		t.Errorf("damaged %v, %v", s.damaged, s.deliveries)
	}
}

// A log that a file system has lost is worth a word.
func TestLogEmpty(t *testing.T) {
	t.Parallel()
	w := newWorld(t, mails(1)...)
	if _, stderr, err := w.popget(); err != nil || stderr != "" {
		t.Errorf("without a log: %q, %v", stderr, err)
	}
	logs, _ := filepath.Glob(filepath.Join(w.dir, ".popget-*"))
	if err := os.Truncate(logs[0], 0); err != nil {
		t.Fatal(err)
	}
	if _, stderr, err := w.popget(); err != nil || !strings.Contains(stderr, logs[0]+" is damaged") {
		t.Errorf("with an empty log: %q, %v", stderr, err)
	}
}

func TestLogCompacted(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	size := func() int64 {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	s := openLog(t, path)
	one := &delivery{ID: 1, Name: "one"}
	for range 3 {
		if err := s.save(one); err != nil {
			t.Fatal(err)
		}
	}
	before := size()
	if openLog(t, path); size() != before {
		t.Error("compacted with less than half of it dead")
	}
	if err := s.save(one, one, one, one); err != nil {
		t.Fatal(err)
	}
	if s := openLog(t, path); size() >= before || len(s.deliveries) != 1 || *s.deliveries[1] != *one {
		t.Errorf("not compacted: %d octets, %v", size(), s.deliveries)
	}
}

func TestLogOfAnotherVersion(t *testing.T) {
	t.Parallel()
	w := newWorld(t, mails(1)...)
	w.mustPopget()
	logs, _ := filepath.Glob(filepath.Join(w.dir, ".popget-*"))
	f, err := os.Create(logs[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := writeRecords(f, []record{{Popget: 2}}); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, _, err := w.popget(); err == nil || !strings.Contains(err.Error(), "version") || w.count("PASS") > 0 {
		t.Errorf("err = %v, %d logins", err, w.count("PASS"))
	}
}

// TestIntent has a run find an intent alone.
func TestIntent(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		sub  string // where the file is
		age  time.Duration
		done bool
	}{
		{"new", time.Hour, true}, {"cur", time.Hour, true}, {"cur", 48 * time.Hour, true}, {"away", time.Hour, true},
		{"tmp", time.Hour, false}, {"tmp", 48 * time.Hour, false}, {"away", 25 * time.Hour, false},
	} {
		t.Run(fmt.Sprint(tt.sub, tt.age), func(t *testing.T) {
			t.Parallel()
			all := mails(1)
			w := newWorld(t, all...)
			w.mustPopget()
			logs, _ := filepath.Glob(filepath.Join(w.dir, ".popget-*"))
			s := openLog(t, logs[0])
			m := s.deliveries[1]
			m.Done, m.Time = false, w.now
			if err := s.save(m); err != nil {
				t.Fatal(err)
			}
			suffix := map[string]string{"cur": seen}[tt.sub]
			if err := os.MkdirAll(filepath.Join(w.dir, tt.sub), 0o700); err != nil {
				t.Fatal(err)
			}
			w.read(filepath.Join(w.dir, tt.sub), suffix)
			w.now = w.now.Add(tt.age)
			_, stderr, err := w.popget()
			if err != nil || !strings.Contains(stderr, "an earlier run was interrupted") {
				t.Errorf("err = %v; said %q", err, stderr)
			}
			if fetched := w.count("RETR "); (fetched == 0) != tt.done {
				t.Errorf("fetched %d, want done %v", fetched, tt.done)
			}
			if tt.sub == "away" && !tt.done {
				all = append(all, all...)
			}
			var more []string
			if tt.sub == "away" {
				more = []string{filepath.Join(w.dir, "away")}
			}
			w.wantMail(all, more...)
		})
	}
}

// TestForgets has what is listed no more forgotten after 90 days, if there were
// listings.
func TestForgets(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	all := mails(3)
	for _, tt := range []struct {
		name   string
		days   []int // at which the maildrop is listed without the message
		again  int   // at which the message is there again
		twice  bool  // and is delivered again
		listed bool
	}{
		{"no listing", nil, 400, false, false},
		{"one listing", []int{100}, 400, false, false},
		{"89 days", []int{1, 90}, 90, false, false},
		{"91 days, once", []int{1, 92}, 92, false, false},
		{"a clock that was wrong", []int{-20000, 1}, 1, false, false},
		{"a clock that was wrong twice", []int{20000, 20001, 1, 2}, 2, false, false},
		{"91 days", []int{1, 92, 93}, 93, true, false},
		{"listed all the time", nil, 400, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			start := w.now
			at := func(days int, uids string, texts ...string) {
				w.now = start.Add(time.Duration(days) * day)
				w.post(uids, texts...)
				w.mustPopget()
			}
			w.reply = nil
			at(0, "u1 u2", all...)
			for _, n := range tt.days {
				at(n, "u2", all[1])
			}
			if tt.listed {
				at(200, "u1 u2", all...)
			}
			at(tt.again, "x1 u2", all...)
			want := all[:2]
			if tt.twice {
				want = append([]string{all[0]}, want...)
			}
			w.wantMail(want)
		})
	}
}
