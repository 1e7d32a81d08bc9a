package main

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"example.com/pop3"
)

// When a message is new.
//
// A unique-id alone does not tell. Servers reuse the unique-id of a deleted
// message, replace all of them after a move, give several messages the same one,
// use message numbers, or list nothing for ten minutes. A message is known, and
// not fetched, only if
//
//   - a delivery has its unique-id and its size in LIST,
//   - that delivery was in every listing since,
//   - no QUIT was sent after an accepted DELE of it,
//   - no other message of this listing has the unique-id, and
//   - if the unique-id is just the message number, or before a DELE, the header
//     is that of the delivery.
//
// Every other message is fetched. If its text is that of a delivery, it is that
// message under another name, and known again; if not, it is new. A delivery
// accounts for one message of a listing at most, so two equal messages are two; nor
// for one that could not be fetched while the delivery was another message of the same
// listing. While such a message has no unique-id, nothing that may equal it is deleted.

// listed is what a message and its delivery have in common.
type listed struct {
	uid  string
	size int64
}

func (m *message) listed() listed  { return listed{m.uid, m.size} }
func (m *delivery) listed() listed { return listed{string(m.UID), m.Size} }

// delivered returns all deliveries, oldest first.
func (s *state) delivered() []*delivery {
	return slices.SortedFunc(maps.Values(s.deliveries), func(a, b *delivery) int { return cmp.Compare(a.ID, b.ID) })
}

// note notes which deliveries are not in the listing. A listing without
// unique-ids says nothing about them.
func (r *round) note() error {
	there := map[listed]bool{}
	for _, row := range r.rows {
		there[row.listed()] = true
	}
	var gone []*delivery
	for _, m := range r.state.delivered() {
		if m.UID != "" && m.Gone.IsZero() && !there[m.listed()] && !r.withoutUIDs() {
			m.Gone = r.now()
			gone = append(gone, m)
		}
	}
	return r.state.save(gone...)
}

func (r *round) withoutUIDs() bool { return len(r.rows) > 0 && r.times[""] == len(r.rows) }

// hasName reports whether a message can be known by its unique-id and size.
func (r *round) hasName(row *message) bool {
	return row.size >= 0 && row.uid != "" && !row.isNumber() && r.times[row.uid] == 1
}

// recognize finds the messages that are known by unique-id and size.
func (r *round) recognize() {
	standing := map[listed]*delivery{}
	for _, m := range r.state.delivered() {
		if m.UID != "" && m.Size >= 0 && m.Gone.IsZero() && m.Quit == 0 {
			standing[m.listed()] = m // the newest, if there are two
		}
	}
	for _, row := range r.rows {
		if m := standing[row.listed()]; m != nil && r.times[row.uid] == 1 {
			row.stage, row.mail = known, m
		}
	}
}

// checkHeaders compares the headers of known messages where the unique-id is a
// number and before a DELE. If the header is another, or the server refuses TOP,
// the message is wanted. One over -max-size is not asked for, nor deleted.
func (r *round) checkHeaders(ctx context.Context) error {
	var rows []*message
	var numbers []int
	for _, row := range r.rows {
		if row.stage == known && (row.isNumber() && !r.tooLarge(row) || r.deletesKnown(row)) {
			rows, numbers = append(rows, row), append(numbers, row.number)
		}
	}
	without := rows
	if len(rows) > 0 && !r.state.avoids("TOP") {
		without = nil
		i := 0
		for m, err := range r.c.TopAll(ctx, numbers, 0) {
			d := newDigest()
			if err == nil {
				_, err = m.WriteTo(d)
			}
			if header, _ := d.sums(); refused(err) {
				without = append(without, rows[i])
			} else if err != nil {
				return err
			} else if header != rows[i].mail.Header {
				rows[i].stage = wanted
			}
			i++
		}
		// FTGate answers TOP twice, and the second answer may come late.
		if err := prove(ctx, r.c, rows[i-1], !r.state.avoids(oneUIDL)); err != nil {
			if r.broke == "" || errors.Is(err, pop3.ErrMalformed) {
				r.broke = "TOP"
			}
			return err
		}
	}
	for _, row := range without {
		row.stage = wanted
		if row.isNumber() {
			r.tellOnce("TOP", "the server refuses TOP: every run downloads all messages to find the new ones")
		}
	}
	return nil
}

// findSpare finds the deliveries that are none of the known messages.
func (r *round) findSpare() {
	answering := r.answering()
	for _, m := range r.state.delivered() {
		r.uids[string(m.UID)] = true
		if !answering[m] {
			r.spare[m.Text] = append(r.spare[m.Text], m)
		}
	}
}

// spareFor returns the index of the spare delivery that a message with this text is,
// or -1.
func (r *round) spareFor(row *message, text string) int {
	spare := r.spare[text]
	if i := slices.IndexFunc(spare, func(m *delivery) bool { return m.listed() == row.listed() }); i >= 0 {
		return i
	}
	f := r.state.faults[row.key()]
	return slices.IndexFunc(spare, func(m *delivery) bool {
		stoodBeside := f != nil && r.hasName(row) && slices.Contains(f.Beside, m.ID)
		return !stoodBeside
	})
}

// noteBeside notes which deliveries a message that could not be fetched is not. Only
// those are noted that have about its size: headers that servers write (UW-IMAP's
// Status) make some difference.
func (r *round) noteBeside() error {
	var changed []record
	for _, row := range r.rows {
		f := r.state.faults[row.key()]
		if f == nil || row.stage != wanted || !r.hasName(row) {
			continue
		}
		next := *f
		next.Beside = slices.Clone(f.Beside)
		for _, other := range r.rows {
			isNear := other.size < 0 || max(other.size, row.size)-min(other.size, row.size) < 512
			if (other.stage == known || other.stage == safe) && isNear && !slices.Contains(next.Beside, other.mail.ID) {
				next.Beside = append(next.Beside, other.mail.ID)
			}
		}
		if len(next.Beside) > len(f.Beside) {
			changed = append(changed, record{Fault: &next})
		}
	}
	return r.state.write(changed...)
}

// answering returns the deliveries that are messages of this listing.
func (r *round) answering() map[*delivery]bool {
	all := map[*delivery]bool{}
	for _, row := range r.rows {
		if row.stage == known || row.stage == safe {
			all[row.mail] = true
		}
	}
	return all
}

// meet notes that a message has the text of m, and reports whether that changes m.
func (r *round) meet(m *delivery, row *message) bool {
	before := *m
	switch {
	case m.Quit != 0:
		r.undeleted++
	case row.uid == "" || m.UID == "":
	case m.UID != uniqueID(row.uid) && !row.isNumber():
		r.renamed++
	case m.Size == row.size && !m.Gone.IsZero():
		r.back++
	}
	if row.uid != "" {
		m.UID, m.Size = uniqueID(row.uid), row.size
	} else if !m.Gone.IsZero() || m.Quit != 0 {
		m.UID = "" // which may be another message's by now
	}
	if m.Quit == quitAnswered {
		m.Kept++
	}
	m.Gone, m.Old, m.Quit = time.Time{}, time.Time{}, 0
	return *m != before
}

// forget notes which deliveries are no message of the listing, and forgets those
// that have been gone for long.
func (r *round) forget() error {
	answering, unread := r.answering(), map[listed]bool{}
	for _, row := range r.rows {
		if row.stage == wanted {
			unread[row.listed()] = true
		}
	}
	var changed []*delivery
	for _, m := range r.state.delivered() {
		if answering[m] || unread[m.listed()] || m.UID != "" && r.withoutUIDs() {
			continue
		}
		before := *m
		m.Kept, m.Quit = 0, 0
		m.age(r.now())
		if *m != before {
			changed = append(changed, m)
		}
	}
	records := records(changed)
	for key, f := range r.state.faults {
		if r.now().Sub(f.Time) > remember {
			records = append(records, record{Fault: &fault{Key: key}})
		}
	}
	return r.state.write(records...)
}

// age notes a listing without a message. One listing is not enough to forget the
// message, because the clock may have been wrong at one.
func (m *delivery) age(now time.Time) {
	switch isOld := now.Sub(m.Gone) > remember; {
	case m.Gone.IsZero():
		m.Gone = now
	case isOld && m.Old.IsZero():
		m.Old = now
	case isOld:
		m.Forgotten = now.Sub(m.Old) >= 24*time.Hour
	}
}

// tellHabits reports what is unusual about the listing.
func (r *round) tellHabits(odd error) {
	shared := false
	for _, row := range r.rows {
		shared = shared || row.uid != "" && r.times[row.uid] > 1
		if row.isNumber() {
			r.tellOnce("numbers", "unique-ids are just message numbers: every run checks the headers")
		}
	}
	if odd != nil {
		r.tellOnce("odd", "%v", odd)
	}
	if r.withoutUIDs() {
		r.tellOnce("none", "the listing has no unique-ids: every run downloads all messages to find the new ones")
	} else if r.times[""] > 0 {
		r.tellOnce("some", "some messages have no unique-id: every run downloads them to see whether they are new")
	}
	if shared {
		r.tellOnce("shared", "some messages share a unique-id: every run downloads them to see whether they are new")
	}
}

// tellOnce reports something about the server unless the last run has done so. A
// text may have a time in it: the kind counts.
func (r *round) tellOnce(kind, format string, args ...any) {
	if !r.told[kind] && !r.state.server.Told[kind] {
		r.odd(format, args...)
	}
	r.told[kind] = true
}

// tellFound reports what is unusual about what was fetched.
func (r *round) tellFound() {
	say := func(text string, n int) {
		if n > 0 {
			r.odd("%s: %d", text, n)
		}
	}
	say("messages with another unique-id than before, not delivered again", r.renamed)
	say("messages that were missing from an earlier listing, not delivered again", r.back)
	say("messages still on the server after their deletion, not delivered again", r.undeleted)
	say("new messages that reuse a unique-id", r.reused)
}
