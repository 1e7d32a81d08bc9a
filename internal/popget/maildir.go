package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"example.com/pop3"
)

// A maildir delivers to a Maildir, and keeps a log of unique-ids in it: a line
// "+ID" for each message delivered and "-ID" for each deleted from the server,
// for some servers then use the unique-id again.
//
// The name of a file is a digest of account, unique-id and text: a run killed
// after it named a file and before it logged that does no harm, for the next one
// gives that message the same name.
type maildir struct {
	dir, account string
	tmpPrefix    string            // begins the names of our files in tmp, and of no other account's
	keys         map[int]string    // unique-id of each message number
	logged       map[string]bool   // unique-ids delivered
	paths        map[string]string // files, by name without flags
	log          *os.File
}

func openMaildir(ctx context.Context, c *pop3.Client, dir, user, addr string) (*maildir, error) {
	uids, err := c.UIDLAll(ctx)
	if err != nil {
		return nil, fmt.Errorf("no unique-ids for -maildir: %w", err)
	}
	account := url.QueryEscape(user + "@" + addr) // fit for a file name
	d := &maildir{dir: dir, account: account, tmpPrefix: "popget-" + account + ",",
		keys: map[int]string{}, logged: map[string]bool{}, paths: map[string]string{}}
	copies := map[string]int{}
	for _, m := range uids {
		// Copies of a message may share a unique-id (RFC 1939 section 7): later
		// ones have their ordinal behind a tab, which is in no unique-id.
		d.keys[m.Number] = m.UID
		if copies[m.UID]++; copies[m.UID] > 1 {
			d.keys[m.Number] = fmt.Sprintf("%s\t%d", m.UID, copies[m.UID])
		}
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
	path := filepath.Join(dir, ".popget-"+account)
	log, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// A last line torn by a kill might read as another message's unique-id.
	if whole := bytes.LastIndexByte(log, '\n') + 1; whole < len(log) {
		log = log[:whole]
		if err := os.Truncate(path, int64(whole)); err != nil {
			return nil, err
		}
	}
	for line := range strings.Lines(string(log)) {
		d.logged[strings.TrimSuffix(line[1:], "\n")] = line[0] == '+'
	}
	if d.log, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
		return nil, err
	}
	return d, errors.Join(syncDir(dir), syncDir(filepath.Dir(dir)))
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
	return d.note("+", m.Number)
}

// note logs what has become of these messages.
func (d *maildir) note(sign string, numbers ...int) error {
	var lines strings.Builder
	for _, number := range numbers {
		lines.WriteString(sign + d.keys[number] + "\n")
	}
	_, err := d.log.WriteString(lines.String())
	return errors.Join(err, d.log.Sync())
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
