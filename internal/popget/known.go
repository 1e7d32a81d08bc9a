package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
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
// accounts for one message of a listing at most, so two equal messages are two.

// listed is what a message and its delivery have in common.
type listed struct {
	uid  string
	size int64
}

func (m message) listed() listed   { return listed{m.uid, m.size} }
func (m *delivery) listed() listed { return listed{string(m.UID), m.Size} }

// isNumber reports whether the unique-id is just the message number.
func (m message) isNumber() bool { return m.uid == strconv.Itoa(m.number) }

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
			r.known[row.number] = m
		}
	}
}

// checkHeaders compares the headers of known messages where the unique-id is a
// number and before a DELE. If the header is another, or the server refuses TOP,
// the message is not known.
func (r *round) checkHeaders(ctx context.Context) error {
	var numbers []int
	for _, row := range r.rows {
		if m := r.known[row.number]; m != nil && (row.isNumber() || r.share&sound != 0 && r.mayDelete(m)) {
			numbers = append(numbers, row.number)
		}
	}
	if len(numbers) == 0 {
		return nil
	}
	if r.state.avoids("TOP", r.now()) {
		r.unknow(numbers...)
		return nil
	}
	i := 0
	for m, err := range r.c.TopAll(ctx, numbers, 0) {
		d := newDigest()
		if err == nil {
			_, err = m.WriteTo(d)
		}
		if err != nil && !refused(err) {
			return err
		}
		if header, _ := d.sums(); err != nil || header != r.known[numbers[i]].Header {
			r.unknow(numbers[i])
		}
		i++
	}
	return nil
}

func (r *round) unknow(numbers ...int) {
	for _, n := range numbers {
		delete(r.known, n)
	}
}

// findSpare finds the deliveries that are none of the known messages.
func (r *round) findSpare() {
	answering := map[*delivery]bool{}
	for _, m := range r.known {
		answering[m] = true
	}
	for _, m := range r.state.delivered() {
		r.uids[string(m.UID)] = true
		if !answering[m] {
			r.spare[m.Text] = append(r.spare[m.Text], m)
		}
	}
}

// meet notes that a message has the text of m, and reports whether that changes m.
func (r *round) meet(m *delivery, row message) bool {
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
	m.Gone, m.Quit = time.Time{}, 0
	return *m != before
}

// forget notes which deliveries are no message of the listing, and forgets those
// that have been gone for long.
func (r *round) forget() error {
	answering, unread := map[*delivery]bool{}, map[listed]bool{}
	for _, row := range r.rows {
		if m := cmp.Or(r.known[row.number], r.safe[row.number]); m != nil {
			answering[m] = true
		} else {
			unread[row.listed()] = true
		}
	}
	var changed []*delivery
	for _, m := range r.state.delivered() {
		if answering[m] || unread[m.listed()] || m.UID != "" && r.withoutUIDs() {
			continue
		}
		before := *m
		if m.Kept, m.Quit = 0, 0; m.Gone.IsZero() {
			m.Gone = r.now()
		}
		m.Forgotten = r.now().Sub(m.Gone) > remember
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

// tellHabits reports what is unusual about the listing.
func (r *round) tellHabits(odd error) error {
	numbers, shared := false, false
	for _, row := range r.rows {
		numbers = numbers || row.isNumber()
		shared = shared || row.uid != "" && r.times[row.uid] > 1
	}
	var text []string
	say := func(is bool, format string, args ...any) {
		if is {
			text = append(text, fmt.Sprintf(format, args...))
		}
	}
	say(odd != nil, "%v", odd)
	say(r.withoutUIDs(), "the listing has no unique-ids: every run downloads all messages to find the new ones")
	say(r.times[""] > 0 && !r.withoutUIDs(), "some messages have no unique-id: every run downloads them to see whether they are new")
	say(shared, "some messages share a unique-id: every run downloads them to see whether they are new")
	say(numbers, "unique-ids are just message numbers: every run checks the headers")
	return r.tellOnce("listing", strings.Join(text, "; "))
}

// tellOnce reports something about the server unless the last run has done so.
// An empty text means that there is nothing to report.
func (r *round) tellOnce(kind, text string) error {
	s := r.state.server
	if s.Told[kind] == text {
		return nil
	}
	if text != "" {
		r.odd("%s", text)
	}
	told := map[string]string{kind: text}
	for k, v := range s.Told {
		if k != kind {
			told[k] = v
		}
	}
	s.Told = told
	return r.state.write(record{Server: &s})
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
