package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/mail"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"example.com/pop3"
)

// A folder is a store that writes each message to a file.
type folder struct {
	*job
	unproved []entry
}

// An entry is a file and its row in the table.
type entry struct{ file, row string }

// toFolder downloads all messages and prints a table of them.
func (j *job) toFolder(ctx context.Context) error {
	c, err := j.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	rows, odd, err := listing(ctx, c, false)
	if err != nil {
		return err
	}
	if odd != nil && !refused(odd) {
		j.odd("%v", odd)
		j.unread = odd
	}
	rows = slices.DeleteFunc(rows, func(row *message) bool {
		if j.tooLarge(row) {
			j.odd(tooLarge, row.number, row.size)
		}
		return j.tooLarge(row)
	})
	j.progress.expect(rows)
	if err := j.fillFolder(ctx, c, rows); err != nil {
		return err
	}
	if err := c.Quit(ctx); err != nil {
		return err
	}
	return j.outcome()
}

// fillFolder fetches messages to -dir or a temporary folder.
func (j *job) fillFolder(ctx context.Context, c *pop3.Client, rows []*message) error {
	isTemp := j.dir == ""
	var err error
	if isTemp {
		j.dir, err = os.MkdirTemp("", "popget-")
	} else {
		err = os.MkdirAll(j.dir, 0o700)
	}
	if err != nil {
		return err
	}
	err = fetch(ctx, c, rows, &folder{job: j})
	switch {
	case err == nil:
		fmt.Fprintf(j.stdout, "%v to %s\n", j.progress, j.dir)
	case j.progress.messages > 0:
		err = fmt.Errorf("stopped at %v to %s: %w", j.progress, j.dir, err)
	case isTemp:
		os.Remove(j.dir)
	}
	return err
}

// receive writes a message to a file named by its number. Its row of the table is
// printed when the message is known to be complete.
func (f *folder) receive(m *pop3.Message, listed *message) error {
	file, err := os.OpenFile(filepath.Join(f.dir, fmt.Sprintf("%04d.eml", m.Number)), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	size, err := m.WriteTo(io.MultiWriter(&gauge{message: listed}, file, f.progress))
	if e, ok := as[*failure](err); ok {
		err = e // without what the library says of a writer that fails
	}
	row := fmt.Sprintf("%5d %9d  %s\n", m.Number, size, summary(io.NewSectionReader(file, 0, size)))
	f.unproved = append(f.unproved, entry{file.Name(), row})
	return errors.Join(err, file.Close())
}

func (f *folder) prove(ctx context.Context, c *pop3.Client, row *message) error {
	if err := prove(ctx, c, row, false); err != nil {
		return err
	}
	for _, e := range f.unproved {
		io.WriteString(f.stdout, e.row)
	}
	f.progress.messages += len(f.unproved)
	f.unproved = nil
	return nil
}

func (f *folder) refused(_ *message, err error) error {
	f.odd("%v", err)
	f.refuse(err)
	return nil
}

func (f *folder) failed(err error, _ ...*message) error {
	for _, e := range f.unproved {
		os.Remove(e.file)
	}
	return err
}

// summary is the date, sender and subject of a message, if it has a header. An
// encoded word in a charset that package mime does not know is shown as it is.
func summary(r io.Reader) string {
	var h mail.Header
	// A MiB is ample for a header, and an end for one that has none.
	if m, err := mail.ReadMessage(io.LimitReader(r, 1<<20)); err == nil {
		h = m.Header
	}
	date, from, subject := "", h.Get("From"), h.Get("Subject")
	if t, err := h.Date(); err == nil {
		date = t.Format("2006-01-02 15:04")
	}
	if a, err := mail.ParseAddress(from); err == nil {
		from = cmp.Or(a.Name, a.Address)
	}
	if s, err := new(mime.WordDecoder).DecodeHeader(subject); err == nil {
		subject = s
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar // to a terminal it might be an escape sequence
	}, fmt.Sprintf("%-16s  %-24.24s  %.60s", date, from, subject))
}

// progress counts what comes. On a terminal it shows that once a second, in one
// line that is erased before anything else is written.
type progress struct {
	w                    io.Writer // nil if nothing is to be shown
	shown                int       // length of the line
	start, last          time.Time
	messages, ofMessages int
	octets, ofOctets     int64 // ofOctets is what LIST claims
}

func newProgress(w io.Writer) *progress {
	p := &progress{start: time.Now(), last: time.Now()}
	if t, ok := w.(terminal); ok {
		p.w = t
	}
	return p
}

// erase overwrites the line with spaces: not every terminal knows the escape
// sequence for it.
func (p *progress) erase() {
	if p.shown > 0 {
		fmt.Fprintf(p.w, "\r%*s\r", p.shown, "")
		p.shown = 0
	}
}

// An eraser is a writer that erases the line of progress first.
type eraser struct {
	w io.Writer
	p *progress
}

func (e eraser) Write(b []byte) (int, error) {
	e.p.erase()
	return e.w.Write(b)
}

// expect adds to what is to come.
func (p *progress) expect(rows []*message) {
	for _, row := range rows {
		p.ofMessages++
		p.ofOctets += max(row.size, 0)
	}
}

// Write counts the octets of a message.
func (p *progress) Write(b []byte) (int, error) {
	p.octets += int64(len(b))
	if p.w != nil && time.Since(p.last) >= time.Second {
		p.last = time.Now()
		left := p.last.Sub(p.start).Seconds() / float64(p.octets) * float64(max(p.ofOctets-p.octets, 0))
		p.erase()
		p.shown, _ = fmt.Fprintf(p.w, "%v, %.0f s left", p, left)
	}
	return len(b), nil
}

func (p *progress) String() string {
	return fmt.Sprintf("%d of %s, %s", p.messages, count(p.ofMessages, "message"), p.rate())
}

func (p *progress) rate() string {
	mb, seconds := float64(p.octets)/1e6, max(time.Since(p.start).Seconds(), 1e-3)
	return fmt.Sprintf("%.2f MB, %.2f MB/s", mb, mb/seconds)
}
