package pop3test

import (
	"crypto/pbkdf2"
	"fmt"
	"hash"
	"hash/fnv"
	"strings"
	"sync"
	"time"
)

// A Maildrop holds the messages of one user. Its methods may be called while
// the server runs.
type Maildrop struct {
	// Token is the bearer token that XOAUTH2 and OAUTHBEARER take for the
	// user; "" is none. To be set before the user connects.
	Token string

	// TrustRPOP lets RPOP in without a password. To be set before the user
	// connects.
	TrustRPOP bool

	name, password string
	salt           []byte

	mu       sync.Mutex
	unlocked sync.Cond
	messages []message // appended to and replaced, never changed: sessions share it
	lastUID  uint32
	locked   bool
	opened   time.Time // when the last session began
	logins   int
	quits    int
	salted   map[string][]byte // SCRAM's salted passwords, costly to make
}

type message struct {
	text     string // ends in CRLF unless it is empty
	uid      uint32
	needUTF8 bool
}

func newMaildrop(name, password string) *Maildrop {
	d := &Maildrop{name: name, password: password, salt: []byte("the salt of the user " + name)}
	d.unlocked.L = &d.mu
	return d
}

// Add appends messages, as a delivery does; a session that is open does not
// see them. Each is the octets that RETR delivers, dot-stuffing undone. One
// that does not end in CRLF is given it, for a multi-line response cannot be
// without; an empty one stays empty.
func (d *Maildrop) Add(messages ...string) { d.add(false, messages) }

// AddUTF8 is Add for messages that are refused with the code UTF8 until the
// client has sent the command UTF8 (RFC 6856 section 5).
func (d *Maildrop) AddUTF8(messages ...string) { d.add(true, messages) }

func (d *Maildrop) add(needUTF8 bool, messages []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, text := range messages {
		if text != "" && !strings.HasSuffix(text, "\r\n") {
			text += "\r\n"
		}
		d.lastUID++
		d.messages = append(d.messages, message{text, d.lastUID, needUTF8})
	}
}

// Messages returns what the maildrop holds now, deletions committed.
func (d *Maildrop) Messages() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	texts := make([]string, len(d.messages))
	for i, m := range d.messages {
		texts[i] = m.text
	}
	return texts
}

// UIDs returns the unique-ids of what the maildrop holds now.
func (d *Maildrop) UIDs() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	uids := make([]string, len(d.messages))
	for i, m := range d.messages {
		uids[i] = string(appendUID(nil, d.uidPrefix(), m.uid))
	}
	return uids
}

// uidPrefix tells the unique-ids of one user from another's.
func (d *Maildrop) uidPrefix() uint32 {
	h := fnv.New32a()
	h.Write([]byte(d.name))
	return h.Sum32()
}

// appendUID appends a unique-id of sixteen hexadecimal digits, Dovecot's form.
func appendUID(b []byte, prefix, uid uint32) []byte {
	const digits = "0123456789abcdef"
	id := uint64(prefix)<<32 | uint64(uid)
	for shift := 60; shift >= 0; shift -= 4 {
		b = append(b, digits[id>>shift&15])
	}
	return b
}

// Locked reports whether a session holds the maildrop (RFC 1939 section 4).
func (d *Maildrop) Locked() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.locked
}

// Wait waits until no session holds the maildrop. A server learns of a
// dropped connection only some time after the client dropped it.
func (d *Maildrop) Wait() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.locked {
		d.unlocked.Wait()
	}
}

// Logins returns how many sessions have entered the TRANSACTION state.
func (d *Maildrop) Logins() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.logins
}

// Quits returns how many of these sessions entered the UPDATE state, that is,
// sent QUIT.
func (d *Maildrop) Quits() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.quits
}

// open locks the maildrop for a session and returns its messages, or says why
// it cannot.
func (d *Maildrop) open(delay time.Duration) (messages []message, code, problem string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	switch {
	case d.locked:
		return nil, "IN-USE", "Maildrop is locked by another session"
	case delay > 0 && d.logins > 0 && now.Sub(d.opened) < delay:
		return nil, "LOGIN-DELAY", "Minimum time between logins has not passed"
	}
	d.locked = true
	d.opened = now
	d.logins++
	return d.messages, "", ""
}

// close unlocks the maildrop and, if the session ended by QUIT, removes the
// messages that it deleted; deleted is shorter than the maildrop when mail
// came in meanwhile, or nil.
func (d *Maildrop) close(quit bool, deleted []bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if quit {
		d.quits++
	}
	if quit && deleted != nil {
		var held []message
		for i, m := range d.messages {
			if i >= len(deleted) || !deleted[i] {
				held = append(held, m)
			}
		}
		d.messages = held
	}
	d.locked = false
	d.unlocked.Broadcast()
}

func (d *Maildrop) saltedPassword(name string, h func() hash.Hash, iterations int) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	id := fmt.Sprint(name, iterations)
	if key, ok := d.salted[id]; ok {
		return key, nil
	}
	key, err := pbkdf2.Key(h, d.password, d.salt, iterations, h().Size())
	if err != nil {
		return nil, err
	}
	if d.salted == nil {
		d.salted = make(map[string][]byte)
	}
	d.salted[id] = key
	return key, nil
}
