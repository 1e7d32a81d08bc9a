package main

import (
	"context"
	"errors"
	"slices"

	"example.com/pop3"
)

// A message is a row of the listing.
type message struct {
	number int
	size   int64  // -1 if LIST does not say
	uid    string // "" if UIDL does not say
}

// listing returns the messages in the maildrop, without their unique-ids if uidl
// is false. odd is what is wrong with a listing that is usable all the same.
func listing(ctx context.Context, c *pop3.Client, uidl bool) (messages []message, odd, err error) {
	list := c.Messages
	if !uidl {
		list = c.ListAll
	}
	rows, err := list(ctx)
	if err != nil && (rows == nil || c.Err() != nil || ctx.Err() != nil) {
		return nil, nil, err
	}
	seen := map[int]bool{} // a server may list a message twice
	for _, m := range rows {
		if !seen[m.Number] {
			messages = append(messages, message{m.Number, m.Size, m.UID})
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
	receive(m *pop3.Message, row message) error

	// proved is called when the reply after the last message was read well: that
	// message and those before it are complete.
	proved() error

	// refused is called if the server refuses to send a message.
	refused(row message, err error) error

	// failed is called if err ends the session, and one of the messages may be the
	// reason. It returns err, or a worse error of its own.
	failed(err error, rows ...message) error
}

// fetch fetches messages. The reply after a message proves that it is complete,
// for the last one that of NOOP: a server without dot-stuffing ends a text at a
// line "." and sends the rest as its next reply. A refusal proves nothing. It may
// belong to the message before it, as Inbucket's "-ERR Failed to RETR" does, and
// then every reply is the one to the command before; two NOOPs show that.
func fetch(ctx context.Context, c *pop3.Client, rows []message, to store) error {
	if len(rows) == 0 {
		return nil
	}
	var numbers []int
	for _, row := range rows {
		numbers = append(numbers, row.number)
	}
	var before, last []message // received and not proved: before a refusal, and last of all
	n, noops := 0, 1
	for m, err := range c.RetrAll(ctx, numbers) {
		// On failure, Close: otherwise the loop reads what is on its way.
		switch {
		case m == nil:
			return to.failed(err, slices.Concat(before, last, rows[n:min(n+1, len(rows))])...)
		case err != nil:
			before, last, noops = append(before, last...), nil, 2
			if err := to.refused(rows[n], err); err != nil {
				c.Close()
				return to.failed(err)
			}
		default:
			if last != nil && noops == 1 {
				err = to.proved()
			}
			if err == nil {
				err = to.receive(m, rows[n])
			}
			if err != nil {
				c.Close()
				return to.failed(err, append(before, rows[n])...)
			}
			last = rows[n : n+1]
		}
		n++
	}
	for range noops {
		if err := c.Noop(ctx); err != nil {
			return to.failed(err, slices.Concat(before, last)...)
		}
	}
	return to.proved()
}
