package main

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"example.com/pop3"
)

// A maildir is a Maildir that is locked for one account.
type maildir struct {
	dir   string
	tag   string // ends the names of the account's files and of no other account's
	disk  disk
	now   func() time.Time
	lock  io.Closer
	state *state
}

var subfolders = []string{"tmp", "new", "cur"}

// openMaildir opens or makes a Maildir, locks it for an account, and puts in
// order what a killed run has left. It reports that to odd.
func openMaildir(d disk, now func() time.Time, dir, account string, odd func(string, ...any)) (*maildir, error) {
	id := fmt.Sprintf("%x", sha256.Sum256([]byte(account)))[:16]
	b := &maildir{dir: dir, tag: "popget-" + id, disk: d, now: now}
	if err := b.makeFolders(); err != nil {
		return nil, err
	}
	log := filepath.Join(dir, ".popget-"+readable(account)+"-"+id)
	var err error
	if b.lock, err = lockFile(log + ",lock"); errors.Is(err, errLocked) {
		return nil, &failure{tryAgain, fmt.Errorf("another popget is fetching the mail of %s to %s", account, dir)}
	} else if err != nil {
		return nil, err
	}
	if err := b.recover(log, odd); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *maildir) close() {
	if b.state != nil && b.state.log != nil {
		b.state.log.Close()
	}
	b.lock.Close()
}

// accountName returns the name of an account, which no other account has.
func accountName(user, addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		host = strings.Trim(addr, "[]")
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if port != "" && port != "110" && port != "995" {
		host = net.JoinHostPort(host, port)
	}
	return user + "@" + host
}

// readable returns the part of a file name that shows the account to people. It
// may be cut and is not unique: that is what the digest behind it is for, also
// where file names ignore case.
func readable(account string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("@.-_", r) {
			return r
		}
		return '_'
	}, account)
	return name[:min(len(name), 64)]
}

// makeFolders makes what is missing of the Maildir, if dir is a Maildir, is empty,
// or was left half made.
func (b *maildir) makeFolders() error {
	files, err := os.ReadDir(b.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	missing, other := slices.Clone(subfolders), ""
	for _, f := range files {
		i := slices.Index(missing, f.Name())
		if i < 0 {
			if !strings.HasPrefix(f.Name(), ".popget-") {
				other = f.Name()
			}
			continue
		}
		// Stat follows symbolic links, which some Maildirs have here.
		if info, err := os.Stat(filepath.Join(b.dir, f.Name())); err != nil || !info.IsDir() {
			return &failure{cannotWrite, fmt.Errorf("%s is not a Maildir: %q in it is not a folder", b.dir, f.Name())}
		}
		missing = slices.Delete(missing, i, i+1)
	}
	if len(missing) > 0 && other != "" {
		return &failure{cannotWrite, fmt.Errorf("%s is not a Maildir: it has no folder %q, and is not empty (it has %q)", b.dir, missing[0], other)}
	}
	for _, name := range append([]string{""}, subfolders...) {
		path := filepath.Join(b.dir, name)
		if err := b.makeFolder(path); err != nil {
			return err
		}
		if info, err := os.Stat(path); err != nil {
			return err
		} else if foreign(info) {
			return &failure{cannotWrite, fmt.Errorf("%s belongs to another user, who could not read or remove what popget delivers", path)}
		}
	}
	return nil
}

// makeFolder makes a folder and those above it, and waits until they are on disk.
func (b *maildir) makeFolder(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if err := b.makeFolder(parent); err != nil {
		return err
	}
	// Another account's run may have just made it.
	if err := b.disk.mkdir(dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return b.disk.syncDir(parent)
}

// recover reads the log and resolves its intents, as the comment of delivery has
// it.
func (b *maildir) recover(log string, odd func(string, ...any)) error {
	s, err := openState(b.disk, log)
	if err != nil {
		return err
	}
	if b.state = s; s.damaged {
		odd("%s is damaged: what cannot be read is dropped, and mail may come again", log)
	}
	var open []*delivery
	for _, m := range s.deliveries {
		if !m.Done {
			open = append(open, m)
		}
	}
	if len(open) == 0 {
		return b.cleanTmp()
	}
	there, err := b.files()
	if err != nil {
		return err
	}
	done := 0
	for _, m := range open {
		switch sub, ok := there[m.Name]; {
		case sub == "tmp", !ok && b.now().Sub(m.Time) > 24*time.Hour:
			m.Forgotten = true
		default:
			m.Done = true
			done++
		}
	}
	odd("an earlier run was interrupted; of its last deliveries, complete: %d, undone: %d", done, len(open)-done)
	if err := s.save(open...); err != nil {
		return err
	}
	return b.cleanTmp()
}

// files returns the folder of each file of the account.
func (b *maildir) files() (map[string]string, error) {
	there := map[string]string{}
	for _, sub := range []string{"tmp", "new", "cur"} { // a reader moves files from new to cur
		files, err := os.ReadDir(filepath.Join(b.dir, sub))
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			// Readers add flags to the name: ":2,S", or something else on Windows.
			if i := strings.Index(f.Name(), b.tag); i >= 0 {
				there[f.Name()[:i+len(b.tag)]] = sub
			}
		}
	}
	return there, nil
}

// cleanTmp removes the account's files from tmp. No intent is open.
func (b *maildir) cleanTmp() error {
	files, err := os.ReadDir(filepath.Join(b.dir, "tmp"))
	for _, f := range files {
		if err == nil && strings.HasSuffix(f.Name(), b.tag) {
			err = b.disk.remove(filepath.Join(b.dir, "tmp", f.Name()))
		}
	}
	return err
}

// create makes a file in tmp.
func (b *maildir) create() (file, *delivery, error) {
	now := b.now()
	var random [8]byte
	rand.Read(random[:])
	a := &delivery{Time: now, Name: fmt.Sprintf("%d.M%dR%x.%s", now.Unix(), now.Nanosecond()/1000, random, b.tag)}
	f, err := b.disk.open(b.path("tmp", a), os.O_EXCL)
	return f, a, err
}

// write writes the text of a message to its file and to w. Then the file is on
// disk, but for the folder; or, unless isNew says so of the text's digest, it is
// removed.
func (b *maildir) write(f file, a *delivery, m *pop3.Message, w io.Writer, isNew func(text string) bool) error {
	d := newDigest()
	_, err := m.WriteTo(io.MultiWriter(f, d, w))
	a.Header, a.Text = d.sums()
	keep := err == nil && isNew(a.Text)
	if keep {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if !keep || err != nil {
		err = cmp.Or(err, b.disk.remove(b.path("tmp", a)))
	}
	return err
}

func (b *maildir) path(sub string, m *delivery) string { return filepath.Join(b.dir, sub, m.Name) }

// deliver moves mails from tmp to new: first the intent, then the rename, then
// the note. When it returns nil they are on disk.
func (b *maildir) deliver(mails []*delivery) error {
	if len(mails) == 0 {
		return nil
	}
	if err := b.disk.syncDir(filepath.Join(b.dir, "tmp")); err != nil {
		return err
	}
	for _, m := range mails {
		b.state.lastID++
		m.ID = b.state.lastID
	}
	if err := b.state.save(mails...); err != nil {
		return err
	}
	for _, m := range mails {
		if err := b.disk.rename(b.path("tmp", m), b.path("new", m)); err != nil {
			return err
		}
	}
	if err := b.disk.syncDir(filepath.Join(b.dir, "new")); err != nil {
		return err
	}
	for _, m := range mails {
		m.Done = true
	}
	return b.state.save(mails...)
}
