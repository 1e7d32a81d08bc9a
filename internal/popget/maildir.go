package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"example.com/pop3"
)

// A maildir delivers to a Maildir, and keeps a log in it: the unique-ids of the
// messages that were delivered and are still on the server, a line each. It
// forgets the others, for a server may use a unique-id again once the message is
// gone (RFC 1939 section 7).
//
// The name of a file is a digest of account, unique-id and text: what is
// delivered and not in the log, since the run was killed or the server did not
// delete it, is delivered once more to the same name. That does no harm unless
// the file was moved away in the meantime; better twice than never.
type maildir struct {
	dir, account string
	tmpPrefix    string            // begins the names of our files in tmp, and of no other account's
	keys         map[int]string    // unique-id of each message number
	log          string            // its path
	logged       map[string]bool   // unique-ids in it
	paths        map[string]string // files, by name without flags
}

func openMaildir(ctx context.Context, c *pop3.Client, dir, user, addr string) (*maildir, error) {
	uids, err := c.UIDLAll(ctx)
	if err != nil {
		return nil, fmt.Errorf("no unique-ids for -maildir: %w", err)
	}
	account := url.QueryEscape(user + "@" + addr) // fit for a file name
	d := &maildir{dir: dir, account: account, tmpPrefix: "popget-" + account + ",",
		keys: map[int]string{}, logged: map[string]bool{}, paths: map[string]string{}}
	d.log = filepath.Join(dir, ".popget-"+account)
	copies, there := map[string]int{}, map[string]bool{}
	for _, m := range uids {
		// Copies of a message may share a unique-id (RFC 1939 section 7): later
		// ones have their ordinal behind a tab, which is in no unique-id.
		d.keys[m.Number] = m.UID
		if copies[m.UID]++; copies[m.UID] > 1 {
			d.keys[m.Number] = fmt.Sprintf("%s\t%d", m.UID, copies[m.UID])
		}
		there[d.keys[m.Number]] = true
	}
	for _, sub := range []string{"tmp", "new", "cur"} {
		sub = filepath.Join(dir, sub)
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return nil, err
		}
		files, err := os.ReadDir(sub)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			name, _, _ := strings.Cut(f.Name(), ":")
			d.paths[name] = filepath.Join(sub, f.Name())
			if strings.HasPrefix(name, d.tmpPrefix) { // left by a run that was killed
				os.Remove(d.paths[name])
			}
		}
	}
	log, err := os.ReadFile(d.log)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for line := range strings.Lines(string(log)) {
		// A last line torn by a kill might read as another message's unique-id.
		if key, whole := strings.CutSuffix(line, "\n"); whole && there[key] {
			d.logged[key] = true
		}
	}
	return d, errors.Join(d.rewrite(), syncDir(filepath.Dir(dir)))
}

// has reports whether a message was delivered by an earlier run.
func (d *maildir) has(number int) bool {
	key, ok := d.keys[number]
	return ok && d.logged[key]
}

// deliver delivers m, or fails; when it returns nil the message is on disk.
func (d *maildir) deliver(m *pop3.Message, p *progress) error {
	key, ok := d.keys[m.Number]
	if !ok {
		return fmt.Errorf("message %d is in LIST but not in UIDL", m.Number)
	}
	f, err := os.CreateTemp(filepath.Join(d.dir, "tmp"), d.tmpPrefix+"*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // in vain once it is renamed
	defer f.Close()
	digest := sha256.New()
	fmt.Fprintf(digest, "%s\n%s\n", d.account, key)
	if _, err := m.WriteTo(io.MultiWriter(f, digest, p)); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	name := fmt.Sprintf("popget-%x", digest.Sum(nil)[:16])
	path, ok := d.paths[name] // the same octets, and in cur if they have been read
	if !ok {
		path = filepath.Join(d.dir, "new", name)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return err
	}
	d.logged[key] = true
	return write(d.log, os.O_APPEND, key)
}

// forget makes the log ready for the server to delete these messages.
func (d *maildir) forget(numbers []int) error {
	for _, number := range numbers {
		delete(d.logged, d.keys[number])
	}
	return d.rewrite()
}

// rewrite writes the log anew, so that a kill leaves the old or the new one.
func (d *maildir) rewrite() error {
	next := d.log + ",new" // no account has a comma
	err := write(next, os.O_TRUNC, slices.Sorted(maps.Keys(d.logged))...)
	if err == nil {
		err = os.Rename(next, d.log)
	}
	if err != nil {
		os.Remove(next)
		return err
	}
	return syncDir(d.dir)
}

// write writes lines to a file, and to the disk.
func write(name string, flag int, lines ...string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|flag, 0o600)
	if err != nil {
		return err
	}
	for _, line := range lines {
		if _, err = f.WriteString(line + "\n"); err != nil {
			break
		}
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// syncDir makes the names in a folder durable. Windows cannot be asked to.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
