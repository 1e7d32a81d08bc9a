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
	"strconv"
	"strings"
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

	failed  error // of a write: nothing behind it could be read
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
	Key   string    // the message's, or the verb
	Count int       // of failures; 0 means that it is over
	Time  time.Time // of the last failure
}

// key is the message's name among the faults.
func (m message) key() string {
	if m.uid == "" {
		return fmt.Sprintf("#%d %d", m.number, m.size)
	}
	return fmt.Sprintf("%s %d", url.PathEscape(m.uid), m.size)
}

// A server is what is known about the server.
type server struct {
	Told      map[string]string `json:",omitempty"` // what the user has been told, by kind
	Postponed bool              `json:",omitempty"` // there was no second session
}

type record struct {
	Popget   int       `json:",omitempty"` // version of the log, in its first line
	Account  string    `json:",omitempty"`
	Delivery *delivery `json:",omitempty"`
	Fault    *fault    `json:",omitempty"`
	Server   *server   `json:",omitempty"`
}

// remember is how long deliveries that are no longer listed are kept, and faults.
const remember = 90 * 24 * time.Hour

func openState(d disk, path, account string) (*state, error) {
	s := &state{disk: d, path: path, deliveries: map[int]*delivery{}, faults: map[string]*fault{}}
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := s.read(data); err != nil {
		return nil, err
	}
	if s.lines == 0 || s.damaged || s.lines > 2*s.live() {
		if err := s.rewrite(account); err != nil {
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
func (s *state) rewrite(account string) error {
	records := []record{{Popget: 1, Account: account}, {Server: &s.server}}
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
	count := 1
	if f := s.faults[key]; f != nil {
		count += f.Count
	}
	return s.write(record{Fault: &fault{key, count, now}})
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
var dispensable = []string{"UIDL", "TOP", "CAPA"}

// avoids reports whether a command has ended two sessions in a row, less than a
// day ago. Then it is not sent.
func (s *state) avoids(verb string, now time.Time) bool {
	f := s.faults[verb]
	return f != nil && f.Count >= 2 && now.Sub(f.Time) < 24*time.Hour
}

// blame notes which dispensable command ended a session with err, if one did.
func (s *state) blame(err error, now time.Time) error {
	for _, verb := range dispensable {
		if strings.Contains(err.Error(), "pop3: "+verb) {
			return s.fail(verb, now)
		}
	}
	return nil
}

// absolve notes that the commands that were sent have not ended the session.
func (s *state) absolve(now time.Time) error {
	var sent []string
	for _, verb := range dispensable {
		if !s.avoids(verb, now) {
			sent = append(sent, verb)
		}
	}
	return s.heal(sent...)
}

// postpone notes whether the next run is to try failed messages in its first
// session.
func (s *state) postpone(on bool) error {
	next := s.server
	next.Postponed = on
	return s.write(record{Server: &next})
}
