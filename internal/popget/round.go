package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"example.com/pop3"
)

// toMaildir delivers what is new. Messages that failed in earlier runs are tried
// in a second session, so that they hold up neither the others nor their
// deletion. If there is no second session (LOGIN-DELAY), the next run tries them at
// the end of its first one.
func (j *job) toMaildir(ctx context.Context) error {
	b, err := openMaildir(j.disk, j.now, j.maildir, accountName(j.user, j.addr), j.odd)
	if err != nil {
		return err
	}
	defer b.close()
	if b.state.avoids("CAPA", j.now()) {
		j.opts.Window = 1 // sends no CAPA
	}
	what := sound
	if b.state.server.Postponed {
		what |= failing
		if err := b.state.postpone(false); err != nil {
			return err
		}
	}
	if err := j.runRound(ctx, b, what); err != nil {
		return err
	}
	if j.later > 0 {
		err = j.runRound(ctx, b, failing)
	}
	j.summarize()
	if err != nil {
		return fmt.Errorf("messages that failed in earlier runs: %w", err)
	}
	return j.outcome()
}

// runRound connects and runs one session.
func (j *job) runRound(ctx context.Context, b *maildir, what share) error {
	c, err := j.connect(ctx)
	if err != nil {
		if what != failing {
			return err
		}
		if err := b.state.postpone(true); err != nil {
			return err
		}
		return &failure{tryAgain, fmt.Errorf("left to the next run: %w", err)}
	}
	defer c.Close()
	err = newRound(j, b, c, what).run(ctx)
	if err != nil && c.Err() != nil && ctx.Err() == nil {
		return cmp.Or(b.state.blame(err, j.now()), err)
	}
	return err
}

// A round is one session that delivers to a Maildir.
type round struct {
	*job
	box   *maildir
	state *state
	c     *pop3.Client
	share share
	rows  []message
	times map[string]int // how often each unique-id is in the listing

	known map[int]*delivery      // by message number: not to be fetched
	spare map[string][]*delivery // by digest: deliveries that are no message of this listing so far
	uids  map[string]bool        // of all earlier deliveries
	safe  map[int]*delivery      // by message number: fetched in this session and on disk

	unproved, ready []arrival // received; also proved, but not on disk yet
	readyOctets     int64

	renamed, back, undeleted, reused int // what there is to tell the user
}

// A share is what a session fetches: the messages that have not failed in an
// earlier run, those that have, or both.
type share int

const (
	sound share = 1 << iota
	failing
)

// An arrival is a message whose text has been received.
type arrival struct {
	message
	mail  *delivery
	isOld bool // delivered before; otherwise it is in tmp
}

// maxKept is how many deletions in a row may leave a message on the server before
// no more are tried.
const maxKept = 2

func newRound(j *job, b *maildir, c *pop3.Client, what share) *round {
	return &round{job: j, box: b, state: b.state, c: c, share: what, times: map[string]int{},
		known: map[int]*delivery{}, spare: map[string][]*delivery{}, uids: map[string]bool{}, safe: map[int]*delivery{}}
}

func (r *round) run(ctx context.Context) error {
	if err := r.list(ctx); err != nil {
		return err
	}
	r.recognize()
	if err := r.checkHeaders(ctx); err != nil {
		return fmt.Errorf("nothing fetched: %w", err)
	}
	r.findSpare()
	err := r.fetch(ctx)
	r.tellFound()
	if err != nil {
		return fmt.Errorf("stopped at %v, nothing deleted: %w", r.progress, err)
	}
	if r.share&sound != 0 {
		if err := r.forget(); err != nil {
			return err
		}
	}
	if err := r.deleteAndQuit(ctx); err != nil {
		return err
	}
	return r.state.absolve(r.now())
}

// list gets the listing and notes what is no longer in it.
func (r *round) list(ctx context.Context) error {
	rows, odd, err := listing(ctx, r.c, !r.state.avoids("UIDL", r.now()))
	if err != nil {
		return err
	}
	r.rows = rows
	for _, row := range rows {
		r.times[row.uid]++
	}
	if r.share&sound != 0 {
		r.total = len(rows)
		if odd != nil && !refused(odd) {
			r.unread = odd
		}
		if err := r.tellHabits(odd); err != nil {
			return err
		}
	}
	return r.note()
}

// fetch fetches what is not known. Messages that failed in earlier runs come
// last, each between two NOOPs, so that their failure is nobody else's.
func (r *round) fetch(ctx context.Context) error {
	first, last := r.queue()
	r.progress.expect(slices.Concat(first, last))
	if err := fetch(ctx, r.c, first, r); err != nil {
		return err
	}
	for _, row := range last {
		if err := r.c.Noop(ctx); err != nil {
			return r.failed(err)
		}
		if err := fetch(ctx, r.c, []message{row}, r); err != nil {
			return err
		}
	}
	return r.settle()
}

// queue returns what to fetch: first the messages that have never failed, then
// the others, beginning with those that failed least often.
func (r *round) queue() (first, last []message) {
	faults := r.state.faults
	for _, row := range r.rows {
		switch fault := faults[row.key()]; {
		case r.known[row.number] != nil, fault == nil && r.share == failing, r.tooLarge(row):
		case fault == nil:
			first = append(first, row)
		default:
			if r.share != failing {
				r.odd("message %d has failed in %d earlier runs and is tried after the others", row.number, fault.Count)
			}
			last = append(last, row)
		}
	}
	slices.SortStableFunc(last, func(a, b message) int {
		return cmp.Compare(faults[a.key()].Count, faults[b.key()].Count)
	})
	switch r.share {
	case sound:
		r.later, last = len(last), nil
	case failing:
		r.later -= len(last)
	}
	return first, last
}

// receive implements store.
func (r *round) receive(m *pop3.Message, row message) error {
	arrived, err := r.box.receive(m, r.progress)
	if err != nil {
		return err
	}
	r.progress.messages++
	a := arrival{message: row, mail: arrived}
	if old := r.spare[arrived.Text]; len(old) > 0 {
		a.mail, a.isOld, r.spare[arrived.Text] = old[0], true, old[1:]
		err = r.disk.remove(r.box.path("tmp", arrived))
	}
	r.unproved = append(r.unproved, a)
	return err
}

// How much may wait to be delivered. Delivering several messages at once saves
// most of the time that fsync takes.
const (
	maxReady       = 32
	maxReadyOctets = 1 << 20
)

// proved implements store.
func (r *round) proved() error {
	for _, a := range r.unproved {
		r.readyOctets += max(a.size, 0)
	}
	r.ready, r.unproved = append(r.ready, r.unproved...), nil
	if len(r.ready) < maxReady && r.readyOctets < maxReadyOctets {
		return nil
	}
	return r.settle()
}

// settle delivers what is ready and writes the state.
func (r *round) settle() error {
	var fresh, changed []*delivery
	var healed []record
	for _, a := range r.ready {
		if !a.isOld {
			a.mail.UID, a.mail.Size = uniqueID(a.uid), a.size
			fresh = append(fresh, a.mail)
			if a.uid != "" && r.uids[a.uid] && !a.isNumber() {
				r.reused++
			}
		} else if r.meet(a.mail, a.message) {
			changed = append(changed, a.mail)
		}
		if r.state.faults[a.key()] != nil {
			healed = append(healed, record{Fault: &fault{Key: a.key()}})
		}
	}
	if len(fresh) > 0 {
		if err := r.box.deliver(fresh); err != nil {
			return err
		}
	}
	if err := r.state.write(append(records(changed), healed...)...); err != nil {
		return err
	}
	for _, a := range r.ready {
		r.safe[a.number] = a.mail
	}
	r.fresh += len(fresh)
	r.ready, r.readyOctets = nil, 0
	return nil
}

// refused implements store.
func (r *round) refused(row message, err error) error {
	r.odd("%v", err)
	r.refuse(err)
	return r.state.fail(row.key(), r.now())
}

// failed implements store.
func (r *round) failed(err error, rows ...message) error {
	if isLocal(err) {
		return err
	}
	for _, a := range r.unproved {
		if !a.isOld {
			r.disk.remove(r.box.path("tmp", a.mail))
		}
	}
	if err := r.settle(); err != nil {
		return err
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	for _, row := range rows {
		if err := r.state.fail(row.key(), r.now()); err != nil {
			return err
		}
	}
	return err
}

// deleteAndQuit deletes what is on disk, if asked to, and quits.
func (r *round) deleteAndQuit(ctx context.Context) error {
	numbers, mails, err := r.deletable()
	if err != nil {
		return err
	}
	if err := r.dele(ctx, numbers, mails); err != nil {
		return fmt.Errorf("%d new, nothing deleted: %w", r.fresh, err)
	}
	// Before QUIT, because what it did may never be known.
	if err := r.mark(mails, quitSent); err != nil {
		return fmt.Errorf("%d new, nothing deleted: %w", r.fresh, err)
	}
	if err := r.c.Quit(ctx); err != nil {
		return fmt.Errorf("%d new: %w", r.fresh, err)
	}
	r.deleted += len(mails)
	return r.mark(mails, quitAnswered)
}

// dele sends DELE and removes from mails those that the server refuses to delete.
func (r *round) dele(ctx context.Context, numbers []int, mails map[int]*delivery) error {
	err := r.c.DeleAll(ctx, numbers)
	var all interface{ Unwrap() []error }
	if err == nil || r.c.Err() != nil || ctx.Err() != nil || !errors.As(err, &all) {
		return err
	}
	r.odd("%v", err)
	for _, err := range all.Unwrap() {
		if e, ok := as[*pop3.Error](err); ok {
			delete(mails, e.Number)
			r.refuse(err)
		}
	}
	return nil
}

// deletable returns what to delete.
func (r *round) deletable() (numbers []int, mails map[int]*delivery, err error) {
	mails = map[int]*delivery{}
	kept := 0
	for _, row := range r.rows {
		m := r.safe[row.number]
		if m == nil && r.share&sound != 0 {
			m = r.known[row.number]
		}
		switch {
		case m == nil:
		case r.mayDelete(m):
			numbers = append(numbers, row.number)
			mails[row.number] = m
		case m.Kept >= maxKept:
			kept++
		}
	}
	if r.share&sound == 0 {
		return numbers, mails, nil
	}
	text := ""
	if kept > 0 {
		text = fmt.Sprintf("messages that the server keeps though it said +OK to %d deletions: %d; -delete=again tries once more", maxKept, kept)
	}
	return numbers, mails, r.tellOnce("kept", text)
}

// mark notes that QUIT is sent, or was answered.
func (r *round) mark(mails map[int]*delivery, to mark) error {
	for _, m := range mails {
		m.Quit = to
		if r.again && to == quitSent {
			m.Kept = 0
		}
	}
	return r.state.write(records(slices.Collect(maps.Values(mails)))...)
}
