package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
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
	j.opts.Trace = pop3.MultiTrace(j.opts.Trace, &pop3.Trace{CommandDone: j.watch})
	j.due = maps.Clone(b.state.faults)
	share := sound
	if b.state.server.Postponed {
		share = everything
	}
	if err := b.state.begin(); err != nil {
		return err
	}
	if err := j.runRound(ctx, b, share); err != nil {
		if len(j.later) > 0 && ctx.Err() == nil { // or they would never be tried
			err = cmp.Or(b.state.postpone(), err)
		}
		return err
	}
	if len(j.later) > 0 {
		err = j.runRound(ctx, b, failing)
	}
	j.summarize()
	if err != nil {
		return fmt.Errorf("second session, for messages that failed in earlier runs: %w", err)
	}
	return j.outcome()
}

// watch is a hook that notes which commands were answered, and which one was not.
func (j *job) watch(_ context.Context, info pop3.CommandInfo) {
	verb := info.Command
	switch {
	case verb == "UIDL" && info.Number > 0:
		verb = oneUIDL
	case verb == "CAPA" && !j.answered["PASS"] && !j.answered["AUTH"] && !j.answered["APOP"]:
		verb = firstCAPA
	}
	if info.Err == nil || refused(info.Err) {
		j.answered[verb], j.broke = true, ""
	} else if j.broke == "" {
		j.broke = verb
	}
}

// runRound runs one session, and another at once if popget now avoids the command
// that ended it.
func (j *job) runRound(ctx context.Context, b *maildir, share share) error {
	for {
		j.answered, j.broke = map[string]bool{}, ""
		if b.state.avoids(firstCAPA) && j.auth == "auto" {
			j.auth = "user"
		}
		if b.state.avoids(firstCAPA) || b.state.avoids("CAPA") {
			j.opts.Window = 1 // sends no CAPA
		}
		r := &round{job: j, box: b, state: b.state, share: share, told: map[string]bool{},
			times: map[string]int{}, spare: map[string][]*delivery{}, uids: map[string]bool{}}
		err := r.session(ctx)
		if err == nil {
			return b.state.absolve(j.answered)
		}
		if ctx.Err() != nil {
			return err
		}
		if again, blameErr := b.state.blame(j.broke, j.now()); !again || blameErr != nil {
			return cmp.Or(blameErr, err)
		}
	}
}

// A round is one session that delivers to a Maildir.
type round struct {
	*job
	box   *maildir
	state *state
	c     *pop3.Client
	share share
	told  map[string]bool // kinds of what is unusual about the server

	rows     []*message
	times    map[string]int         // how often each unique-id is in the listing
	spare    map[string][]*delivery // by digest: deliveries that are no message of this listing so far
	uids     map[string]bool        // of all earlier deliveries
	unproved []*message             // received

	renamed, back, undeleted, reused int // what there is to tell the user
}

// A share is what a session fetches: the messages that have not failed in an
// earlier run, those that have, or both.
type share int

const (
	sound share = iota
	failing
	everything
)

// maxKept is how many deletions in a row may leave a message on the server before
// no more are tried.
const maxKept = 2

// session connects and runs one session.
func (r *round) session(ctx context.Context) (err error) {
	if r.c, err = r.connect(ctx); err == nil {
		defer r.c.Close()
		err = r.list(ctx)
	}
	if err == nil {
		return r.run(ctx)
	}
	if r.share != failing || ctx.Err() != nil {
		return err
	}
	if err := r.state.postpone(); err != nil {
		return err
	}
	return &failure{tryAgain, fmt.Errorf("left to the next run: %w", err)}
}

func (r *round) run(ctx context.Context) error {
	if err := r.note(); err != nil {
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
	if err := r.noteBeside(); err != nil {
		return err
	}
	if r.share != failing {
		if err := r.forget(); err != nil {
			return err
		}
	}
	if err := r.deleteAndQuit(ctx); err != nil {
		return err
	}
	if r.share == failing || maps.Equal(r.told, r.state.server.Told) {
		return nil
	}
	next := r.state.server
	next.Told = r.told
	return r.state.write(record{Server: &next})
}

// list gets the listing.
func (r *round) list(ctx context.Context) error {
	rows, odd, err := listing(ctx, r.c, !r.state.avoids("UIDL"))
	if err != nil {
		return err
	}
	r.rows = rows
	for _, row := range rows {
		r.times[row.uid]++
	}
	if r.share != failing {
		r.total = len(rows)
		if odd != nil && !refused(odd) {
			r.unread = odd
		}
		r.tellHabits(odd)
	}
	return nil
}

// fetch fetches what is not known. Messages that failed in earlier runs come
// last, each by itself, so that their failure is nobody else's.
func (r *round) fetch(ctx context.Context) error {
	first, last := r.queue()
	switch r.share {
	case sound:
		r.later, last = last, nil
	case failing:
		first = nil
		r.later = slices.DeleteFunc(r.later, func(row *message) bool { // deletions change the numbers it may go by
			return row.uid != "" && !row.isNumber() || slices.ContainsFunc(last, func(m *message) bool { return m.key() == row.key() })
		})
	}
	r.progress.ofMessages, r.progress.ofOctets = r.progress.messages, r.progress.octets
	r.progress.expect(slices.Concat(first, last))
	if err := fetch(ctx, r.c, first, r); err != nil {
		return err
	}
	for _, row := range last {
		if err := r.c.Noop(ctx); err != nil && !refused(err) {
			return r.failed(err)
		}
		if err := fetch(ctx, r.c, []*message{row}, r); err != nil {
			return err
		}
	}
	return nil
}

// queue returns what to fetch: first the messages that have not failed in an
// earlier run, then the others, beginning with those that failed least often.
func (r *round) queue() (first, last []*message) {
	for _, row := range r.rows {
		fault := r.due[row.key()]
		switch {
		case row.stage == known:
		case r.tooLarge(row):
			r.tellOnce("large "+row.key(), tooLarge, row.number, row.size)
		case fault == nil:
			first = append(first, row)
		default:
			last = append(last, row)
			if r.share != failing {
				r.odd("message %d is tried after the others; earlier runs that failed to fetch it: %d", row.number, fault.Count)
			}
		}
	}
	slices.SortStableFunc(last, func(a, b *message) int {
		return cmp.Compare(r.due[a.key()].Count, r.due[b.key()].Count)
	})
	return first, last
}

const tooLarge = "message %d skipped: %d octets exceed -max-size"

// A gauge counts the octets of a text. It ends one that is much longer than LIST
// says: there are servers that send a text without an end.
type gauge struct {
	*message
	came int64
}

func (g *gauge) isOver(extra int64) bool { return g.size > 0 && g.came > 10*g.size+extra }

func (g *gauge) Write(b []byte) (int, error) {
	if g.came += int64(len(b)); g.isOver(1 << 20) {
		return 0, &failure{badProtocol, fmt.Errorf("message %d has no end: %d octets have come, and LIST says %d", g.number, g.came, g.size)}
	}
	return len(b), nil
}

// receive implements store. A message is to blame if its text cannot be written,
// for it may be the only one that is too large for the disk, and if popget is
// interrupted while too much of it comes.
func (r *round) receive(m *pop3.Message, row *message) error {
	f, arrived, err := r.box.create()
	if err != nil {
		return err
	}
	g := &gauge{message: row}
	isNew := func(text string) bool { return r.spareFor(row, text) < 0 }
	err = r.box.write(f, arrived, m, io.MultiWriter(g, r.progress), isNew)
	if e, ok := as[*failure](err); ok {
		err = e // without what the library says of a writer that fails
	}
	switch {
	case err == nil:
	case isLocal(err), errors.Is(err, context.Canceled) && g.isOver(1<<12):
		return cmp.Or(r.state.fail(row.key(), r.now()), err)
	default:
		return err
	}
	r.progress.messages++
	if i := r.spareFor(row, arrived.Text); i >= 0 {
		spare := r.spare[arrived.Text]
		arrived = spare[i]
		r.spare[arrived.Text] = slices.Delete(spare, i, i+1)
	}
	row.stage, row.mail = received, arrived
	r.unproved = append(r.unproved, row)
	return nil
}

// prove implements store. It delivers what is proved.
func (r *round) prove(ctx context.Context, c *pop3.Client, row *message) error {
	if err := prove(ctx, c, row, !r.state.avoids(oneUIDL)); err != nil {
		return err
	}
	var fresh, changed []*delivery
	for _, row := range r.unproved {
		if row.mail.ID != 0 {
			if r.meet(row.mail, row) {
				changed = append(changed, row.mail)
			}
			continue
		}
		row.mail.UID, row.mail.Size = uniqueID(row.uid), row.size
		fresh = append(fresh, row.mail)
		if row.uid != "" && r.uids[row.uid] && !row.isNumber() {
			r.reused++
		}
	}
	if err := r.box.deliver(fresh); err != nil {
		return err
	}
	var keys []string
	for _, row := range r.unproved {
		row.stage = safe
		keys = append(keys, row.key())
	}
	r.fresh += len(fresh)
	r.unproved = nil
	return cmp.Or(r.state.save(changed...), r.state.heal(keys...))
}

// refused implements store.
func (r *round) refused(row *message, err error) error {
	r.odd("%v", err)
	r.refuse(err)
	return r.state.fail(row.key(), r.now())
}

// failed implements store.
func (r *round) failed(err error, rows ...*message) error {
	for _, row := range r.unproved {
		if row.mail.ID == 0 {
			r.disk.remove(r.box.path("tmp", row.mail))
		}
	}
	if isLocal(err) || errors.Is(err, context.Canceled) {
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
	rows, err := r.dele(ctx, r.deletable())
	if err == nil {
		err = r.mark(rows, quitSent) // before QUIT, because what it did may never be known
	}
	if err != nil {
		return fmt.Errorf("%d new, nothing deleted: %w", r.fresh, err)
	}
	if err := r.c.Quit(ctx); err != nil {
		return fmt.Errorf("%d new: %w", r.fresh, err)
	}
	r.deleted += len(rows)
	return r.mark(rows, quitAnswered)
}

// dele sends DELE and returns the messages that the server will delete. A server
// may have numbered the session anew since it was listed (GreenMail). No message is
// marked yet, or Courier would number its listing anew.
func (r *round) dele(ctx context.Context, rows []*message) ([]*message, error) {
	if len(rows) == 0 {
		return nil, nil
	}
	again, _, err := listing(ctx, r.c, !r.state.avoids("UIDL"))
	if err != nil {
		return nil, err
	}
	there, hasUIDs := map[int]*message{}, false
	for _, row := range again {
		there[row.number] = row
		hasUIDs = hasUIDs || row.uid != "" // some servers refuse a second UIDL
	}
	var numbers []int
	for _, row := range rows {
		isUnique := hasUIDs && row.uid != "" && !row.isNumber() && r.times[row.uid] == 1
		now := there[row.number]
		if now == nil || hasUIDs && now.uid != row.uid || !isUnique && (now.size != row.size || len(again) != len(r.rows)) {
			return nil, row.changed()
		}
		numbers = append(numbers, row.number)
	}
	err = r.c.DeleAll(ctx, numbers)
	var all interface{ Unwrap() []error }
	if err == nil || r.c.Err() != nil || ctx.Err() != nil || !errors.As(err, &all) {
		return rows, err
	}
	r.odd("%v", err)
	for _, err := range all.Unwrap() {
		if e, ok := as[*pop3.Error](err); ok {
			rows = slices.DeleteFunc(rows, func(row *message) bool { return row.number == e.Number })
			r.refuse(err)
		}
	}
	return rows, nil
}

// deletable returns the messages to delete.
func (r *round) deletable() []*message {
	var rows []*message
	var kept int
	held := map[*delivery]bool{}
	mayBeTwin := r.twins()
	for _, row := range r.rows {
		switch {
		case row.stage != safe && row.stage != known:
		case !r.mayDelete(row.mail):
			if row.mail.Kept >= maxKept {
				kept++
			}
		case row.stage == known && !r.deletesKnown(row):
		case mayBeTwin(row):
			held[row.mail] = true
		default:
			rows = append(rows, row)
		}
	}
	if kept > 0 {
		r.tellOnce("kept", "messages that remain after %d accepted deletions: %d; -delete=again tries once more", maxKept, kept)
	}
	if len(held) > 0 && (r.share == failing || len(r.later) == 0) {
		r.tellOnce("held", "messages not deleted yet, because one of about their size without a unique-id was not fetched: %d", len(held))
	}
	r.held = held
	return rows
}

// deletesKnown reports whether a known message may be deleted in this session. In
// the second one that is done if it might have been the twin of one that was due.
func (r *round) deletesKnown(row *message) bool {
	return r.mayDelete(row.mail) && !r.tooLarge(row) && (r.share != failing || r.held[row.mail])
}

// twins returns a function that reports whether a message may equal one that has
// not come and has no name to know it by. If it were deleted, its delivery would
// account for the other. Headers that servers write (UW-IMAP's Status) make some
// difference in size.
func (r *round) twins() func(*message) bool {
	sizes := map[int64]bool{}
	for _, row := range r.rows {
		if row.stage == wanted && !r.hasName(row) {
			sizes[row.size>>8] = true
		}
	}
	return func(row *message) bool {
		size := row.size >> 8
		return sizes[-1] || sizes[size-1] || sizes[size] || sizes[size+1] || row.size < 0 && len(sizes) > 0
	}
}

// mark notes that QUIT is sent, or was answered.
func (r *round) mark(rows []*message, to mark) error {
	var mails []*delivery
	for _, row := range rows {
		row.mail.Quit = to
		if r.again && to == quitSent {
			row.mail.Kept = 0
		}
		mails = append(mails, row.mail)
	}
	return r.state.save(mails...)
}
