package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// A state is what popget remembers about an account in a Maildir. On disk it is
// a log of records, one in a line, each with a checksum. A later record replaces
// an earlier one about the same thing. The log is read up to the first line that
// is not whole, which a kill may have left.
type state struct {
	disk       disk
	path       string
	log        file
	deliveries map[int]*delivery // by ID
	faults     map[string]*fault // by key
	server     server

	failed  error // of a write: nothing after it could be read
	lastID  int
	lines   int // in the log
	damaged bool
}

// A delivery is a message that was delivered, or is about to be.
//
//	killed before    on disk is                  the next run
//	the intent       a file in tmp               removes it: the message is new
//	the rename       intent, file in tmp         notes that it was not done, then removes it
//	the note         intent, file in new or cur  notes that it was done
//	                 intent alone, for a day     does the same: a reader has moved the file
//	                 intent alone, older         notes that it was not done: tmp was cleaned
//	the mark         nothing of a deletion       knows the message: it sends DELE again
//	QUIT's reply     mark                        fetches the message if it is listed
//
// At worst a message is fetched once more. It is not lost, because an intent makes
// no message known, and not delivered twice, because the intent is on disk before
// the file has a name that readers see.
type delivery struct {
	ID        int
	Name      string    // of its file, in tmp, then in new
	Time      time.Time // of the delivery
	UID       uniqueID  `json:",omitempty"`
	Size      int64     // in LIST
	Header    string    // digest
	Text      string    // digest
	Done      bool      `json:",omitempty"` // false is an intent
	Gone      time.Time `json:",omitzero"`  // when a listing first lacked it
	Old       time.Time `json:",omitzero"`  // when one first lacked it more than 90 days later
	Quit      mark      `json:",omitempty"`
	Kept      int       `json:",omitempty"` // deletions in a row that left it on the server
	Forgotten bool      `json:",omitempty"`
}

// A mark says that QUIT was sent after an accepted DELE.
type mark int

const (
	quitSent     mark = iota + 1 // with unknown result
	quitAnswered                 // with +OK
)

// A uniqueID may hold octets that are not UTF-8, which a JSON string may not.
type uniqueID string

func (id uniqueID) MarshalText() ([]byte, error) { return []byte(url.PathEscape(string(id))), nil }

func (id *uniqueID) UnmarshalText(text []byte) error {
	s, err := url.PathUnescape(string(text))
	*id = uniqueID(s)
	return err
}

// A fault is a message that could not be fetched, or a command that ended the
// session.
type fault struct {
	Key    string    // the message's, or the verb
	Count  int       // of failures, or see avoided; 0 means that it is over
	Time   time.Time // of the last failure
	Beside []int     `json:",omitempty"` // deliveries that were other messages of the same listing
}

// key is the message's name among the faults.
func (m *message) key() string {
	if m.uid == "" {
		return fmt.Sprintf("#%d %d", m.number, m.size)
	}
	return fmt.Sprintf("%s %d", url.PathEscape(m.uid), m.size)
}

// A server is what is known about the server.
type server struct {
	Told      map[string]bool `json:",omitempty"` // what the user has been told, by kind
	Postponed bool            `json:",omitempty"` // there was no second session
}

type record struct {
	Popget   int       `json:",omitempty"` // version of the log, in its first line
	Delivery *delivery `json:",omitempty"`
	Fault    *fault    `json:",omitempty"`
	Server   *server   `json:",omitempty"`
}

// remember is how long deliveries that are no longer listed are kept, and faults.
const remember = 90 * 24 * time.Hour

func openState(d disk, path string) (*state, error) {
	s := &state{disk: d, path: path, deliveries: map[int]*delivery{}, faults: map[string]*fault{}}
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	s.damaged = err == nil && len(data) == 0 // no run leaves it so
	if err := s.read(data); err != nil {
		return nil, err
	}
	if s.lines == 0 || s.damaged || s.lines > 2*s.live() {
		if err := s.rewrite(); err != nil {
			return nil, err
		}
	}
	s.log, err = d.open(path, os.O_APPEND)
	return s, err
}

// live is how many lines the log needs.
func (s *state) live() int { return 2 + len(s.deliveries) + len(s.faults) }

// read reads the log as far as it goes.
func (s *state) read(data []byte) error {
	for line := range bytes.Lines(data) {
		sum, text, _ := bytes.Cut(line, []byte(" "))
		text, whole := bytes.CutSuffix(text, []byte("\n"))
		var r record
		if n, err := strconv.ParseUint(string(sum), 16, 32); !whole || err != nil ||
			uint32(n) != crc32.ChecksumIEEE(text) || json.Unmarshal(text, &r) != nil {
			s.damaged = true
			return nil
		}
		if s.lines == 0 && r.Popget != 1 {
			return fmt.Errorf("%s was written by another version of popget", s.path)
		}
		s.lines++
		s.apply(r)
	}
	return nil
}

func (s *state) apply(r record) {
	if m := r.Delivery; m != nil {
		s.lastID = max(s.lastID, m.ID)
		s.deliveries[m.ID] = m
		if m.Forgotten {
			delete(s.deliveries, m.ID)
		}
	}
	if f := r.Fault; f != nil {
		s.faults[f.Key] = f
		if f.Count == 0 {
			delete(s.faults, f.Key)
		}
	}
	if r.Server != nil {
		s.server = *r.Server
	}
}

// write writes records to the log, waits until they are on disk, and applies them.
func (s *state) write(records ...record) error {
	if len(records) == 0 || s.failed != nil {
		return s.failed
	}
	if s.failed = writeRecords(s.log, records); s.failed != nil {
		return s.failed
	}
	s.lines += len(records)
	for _, r := range records {
		s.apply(r)
	}
	return nil
}

func writeRecords(f file, records []record) error {
	var b bytes.Buffer
	for _, r := range records {
		text, err := json.Marshal(r)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%08x %s\n", crc32.ChecksumIEEE(text), text)
	}
	if _, err := f.Write(b.Bytes()); err != nil {
		return err
	}
	return f.Sync()
}

// rewrite replaces the log by one that has nothing but what counts. A kill leaves
// the old one or the new one.
func (s *state) rewrite() error {
	records := []record{{Popget: 1}, {Server: &s.server}}
	for _, m := range s.deliveries {
		records = append(records, record{Delivery: m})
	}
	for _, f := range s.faults {
		records = append(records, record{Fault: f})
	}
	next := s.path + ",new"
	f, err := s.disk.open(next, os.O_TRUNC)
	if err != nil {
		return err
	}
	if err := errors.Join(writeRecords(f, records), f.Close()); err != nil {
		return err
	}
	if err := s.disk.rename(next, s.path); err != nil {
		return err
	}
	s.lines = len(records)
	return s.disk.syncDir(filepath.Dir(s.path))
}

// save writes deliveries that have changed.
func (s *state) save(mails ...*delivery) error { return s.write(records(mails)...) }

func records(mails []*delivery) []record {
	all := make([]record, len(mails))
	for i, m := range mails {
		all[i].Delivery = m
	}
	return all
}

// fail counts a failure.
func (s *state) fail(key string, now time.Time) error {
	next := fault{Key: key, Count: 1, Time: now}
	if f := s.faults[key]; f != nil {
		next.Count, next.Beside = f.Count+1, f.Beside
	}
	return s.write(record{Fault: &next})
}

// heal forgets faults.
func (s *state) heal(keys ...string) error {
	var records []record
	for _, key := range keys {
		if s.faults[key] != nil {
			records = append(records, record{Fault: &fault{Key: key}})
		}
	}
	return s.write(records...)
}

// dispensable are the commands that popget can do without if the server
// mishandles them: Twisted 22.4 never answers UIDL, FTGate answers TOP twice, and
// others hang up on CAPA. Without UIDL or TOP, whole messages are fetched.
var dispensable = []string{"UIDL", oneUIDL, "TOP", firstCAPA, "CAPA"}

const (
	oneUIDL   = "UIDL of a message"
	firstCAPA = "CAPA before the login"
)

// avoided is the count of a dispensable command that has ended two sessions, and
// was not answered in between. Each run takes one off, and does not send the command
// until 1 is left.
const avoided = 22

// begin begins a run.
func (s *state) begin() error {
	var records []record
	if s.server.Postponed {
		next := s.server
		next.Postponed = false
		records = append(records, record{Server: &next})
	}
	for _, verb := range dispensable {
		if f := s.faults[verb]; s.avoids(verb) {
			records = append(records, record{Fault: &fault{Key: verb, Count: f.Count - 1, Time: f.Time}})
		}
	}
	return s.write(records...)
}

// postpone has the next run try at the end of its first session what has failed.
func (s *state) postpone() error {
	next := s.server
	next.Postponed = true
	return s.write(record{Server: &next})
}

// avoids reports whether not to send a command.
func (s *state) avoids(verb string) bool { return s.faults[verb] != nil && s.faults[verb].Count > 1 }

// blame notes that a command ended a session, and reports whether another session
// without it may end well. If it was to prove messages, those have failed too.
func (s *state) blame(verb string, now time.Time) (again bool, err error) {
	if !slices.Contains(dispensable, verb) || s.avoids(verb) {
		return false, nil
	}
	count := 1
	if s.faults[verb] != nil {
		count = avoided
	}
	return count > 1 && verb != oneUIDL, s.write(record{Fault: &fault{Key: verb, Count: count, Time: now}})
}

// absolve notes that commands were answered.
func (s *state) absolve(answered map[string]bool) error {
	var verbs []string
	for _, verb := range dispensable {
		if answered[verb] && !s.avoids(verb) {
			verbs = append(verbs, verb)
		}
	}
	return s.heal(verbs...)
}
