package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"example.com/pop3"
)

// A message is a row of the listing and what has become of it.
type message struct {
	number int
	size   int64  // -1 if LIST does not say
	uid    string // "" if UIDL does not say

	stage stage
	mail  *delivery // what it is on disk, unless it is wanted
}

// A stage is how far a message has come.
type stage int

const (
	wanted   stage = iota // not fetched yet, or in vain
	known                 // delivered by an earlier run, and not fetched
	received              // fetched, but it may not be complete
	safe                  // fetched, complete, and delivered now or earlier
)

// listing returns the messages in the maildrop, without their unique-ids if uidl
// is false. odd is what is wrong with a listing that is usable all the same.
func listing(ctx context.Context, c *pop3.Client, uidl bool) (messages []*message, odd, err error) {
	list := c.Messages
	if !uidl {
		list = c.ListAll
	}
	rows, err := list(ctx)
	if err != nil && (len(rows) == 0 || c.Err() != nil || ctx.Err() != nil) {
		return nil, nil, err
	}
	seen := map[int]bool{} // a server may list a message twice
	for _, m := range rows {
		if !seen[m.Number] {
			messages = append(messages, &message{number: m.Number, size: m.Size, uid: m.UID})
		}
		seen[m.Number] = true
	}
	return messages, err, nil
}

// refused reports whether the server said -ERR.
func refused(err error) bool { return errors.Is(err, pop3.ErrRefused) }

// A store is where fetched messages go.
type store interface {
	// receive reads and stores the text of a message.
	receive(m *pop3.Message, row *message) error

	// refused is called if the server refuses to send a message.
	refused(row *message, err error) error

	// prove asks the server about a message that was received, as prove does. Unless
	// it fails, the messages received so far are complete.
	prove(ctx context.Context, c *pop3.Client, row *message) error

	// failed is called if err ends the session, and one of the messages may be the
	// reason. It returns err, or a worse error of its own.
	failed(err error, rows ...*message) error
}

// The most that is fetched before it is proved and delivered. Delivering several
// messages at once saves most of the time that fsync takes.
const (
	maxBatch       = 32
	maxBatchOctets = 1 << 20
)

// fetch fetches messages in batches. The first are small, so that something is
// delivered where no session lasts for long.
func fetch(ctx context.Context, c *pop3.Client, rows []*message, to store) error {
	for most := 1; len(rows) > 0; most = min(2*most, maxBatch) {
		n, octets := 0, int64(0)
		for n < min(most, len(rows)) && (n == 0 || octets+rows[n].size <= maxBatchOctets) {
			octets += max(rows[n].size, 0)
			n++
		}
		if err := fetchBatch(ctx, c, rows[:n], to); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// fetchBatch fetches messages and proves that they are complete.
func fetchBatch(ctx context.Context, c *pop3.Client, rows []*message, to store) error {
	var numbers []int
	for _, row := range rows {
		numbers = append(numbers, row.number)
	}
	var came []*message
	n := 0
	for m, err := range c.RetrAll(ctx, numbers) {
		if m == nil { // the text before may have ended early
			return to.failed(err, append(came[max(len(came)-1, 0):], rows[n:min(n+1, len(rows))]...)...)
		}
		if err != nil {
			err = to.refused(rows[n], err)
		} else if err = to.receive(m, rows[n]); err == nil {
			came = append(came, rows[n])
		}
		if err != nil {
			c.Close() // or the loop reads what is on its way
			return to.failed(err, rows[n])
		}
		n++
	}
	if len(came) == 0 {
		return nil
	}
	highest := slices.MaxFunc(came, func(a, b *message) int { return cmp.Compare(a.number, b.number) })
	err := to.prove(ctx, c, highest)
	switch {
	case err == nil:
		return nil
	case c.Err() != nil && !errors.Is(err, pop3.ErrMalformed): // lost, after the last one
		came = came[len(came)-1:]
	}
	return to.failed(err, came...)
}

// prove asks the server for the unique-id of a message, or for its size if uidl is
// false or the unique-id says nothing. An answer that is not that of the listing means
// that texts or numbers may not be what they seem. A server without dot-stuffing ends a
// text at a line ".", and the rest may look like a reply, "+OK" and all. Inbucket may
// answer RETR with half a text and then "-ERR Failed to RETR", so that each reply is
// that of the command before. GreenMail numbers an open session anew when another one
// deletes, which changes the highest number if it changes any.
//
// If the server refuses both questions, or gives another answer, which it may always
// do, a new listing decides.
func prove(ctx context.Context, c *pop3.Client, row *message, uidl bool) error {
	answered := false
	if uidl && row.uid != "" && !row.isNumber() {
		m, err := c.UIDL(ctx, row.number)
		if answered = !refused(err); answered && (err != nil || m.UID == row.uid) {
			return err
		}
	}
	if row.size >= 0 && !answered {
		m, err := c.List(ctx, row.number)
		if !refused(err) && (err != nil || m.Size == row.size) {
			return err
		}
	}
	rows, odd, err := listing(ctx, c, uidl)
	if err != nil || odd != nil && !refused(odd) {
		return cmp.Or(err, odd)
	}
	i := slices.IndexFunc(rows, func(m *message) bool { return m.number == row.number })
	same := i >= 0 && rows[i].uid == row.uid
	if i >= 0 && (row.uid == "" || row.isNumber() || rows[i].uid == "") { // the size may change when the text is read
		same = rows[i].size == row.size
	}
	if !same {
		return row.changed()
	}
	return nil
}

// isNumber reports whether the unique-id is just the message number.
func (m *message) isNumber() bool { return m.uid == strconv.Itoa(m.number) }

// changed returns the error for a message that is not the same as before.
func (m *message) changed() error {
	return &failure{tryAgain, fmt.Errorf("message %d is not the one that was listed: a text before it has ended early, or the server has changed the numbers", m.number)}
}
