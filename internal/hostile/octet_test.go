package hostile_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/pop3/internal/pop3test"
)

// A fate is what happens to a connection after so many octets.
type fate struct {
	name  string
	kind  string // what kindOf says of the error
	meet  func(*doomed)
	after bool // all goes on
}

var fates = []*fate{
	{"dropped", lost, func(d *doomed) { d.Conn.Close() }, false},
	{"stalled", "timeout", func(*doomed) {}, false},
	{"canceled and stalled", "canceled", func(d *doomed) { d.cancel() }, false},
	// What the client does about the cancel is done, and all octets come nevertheless.
	{"canceled too late", "canceled", func(d *doomed) { d.cancel(); synctest.Wait() }, true},
	{"canceled meanwhile", "canceled", func(d *doomed) { d.cancel() }, true},
}

// A doomed connection meets its fate after up octets to the server, or down octets from
// it.
type doomed struct {
	net.Conn
	fate          *fate
	cancel        func()
	up, down      int
	written, read int
	met           bool
	behind        int         // octets written after the fate was met
	closed        atomic.Bool // the client has closed it
	deadline      time.Time
	idle, idleFar net.Conn // idle has nothing to read and no room to write
}

func doom(conn net.Conn, f *fate, up, down int, cancel func()) *doomed {
	d := &doomed{Conn: conn, fate: f, up: up, down: down, cancel: cancel}
	d.idle, d.idleFar = pop3test.PipeSize(1)
	d.idle.Write([]byte{0})
	return d
}

// meet makes the fate come true, and reports whether the connection goes on.
func (d *doomed) meet() bool {
	if !d.met {
		d.met = true
		d.idle.SetDeadline(d.deadline)
		d.fate.meet(d)
	}
	return d.fate.after
}

func (d *doomed) Read(p []byte) (int, error) {
	if d.read >= d.down && !d.meet() {
		if d.fate.kind == lost {
			return 0, io.EOF
		}
		return d.idle.Read(p)
	}
	if !d.met {
		p = p[:min(len(p), d.down-d.read)]
	}
	n, err := d.Conn.Read(p)
	d.read += n
	return n, err
}

func (d *doomed) Write(p []byte) (int, error) {
	if d.met && !d.fate.after {
		d.behind += len(p)
	}
	n := len(p)
	if !d.met {
		n = min(n, d.up-d.written)
	}
	d.written += n
	if k, err := d.Conn.Write(p[:n]); err != nil {
		return k, err
	}
	switch {
	case n == len(p):
		return n, nil
	case d.meet():
		d.written += len(p) - n
		k, err := d.Conn.Write(p[n:])
		return n + k, err
	case d.fate.kind == lost:
		return n, pop3test.ErrReset
	}
	k, err := d.idle.Write(p[n:])
	return n + k, err
}

func (d *doomed) Close() error {
	d.closed.Store(true)
	d.idle.Close()
	if d.fate.after {
		return nil // what was on its way still comes
	}
	return d.Conn.Close()
}

func (d *doomed) SetDeadline(t time.Time) error {
	if d.deadline = t; d.met {
		return d.idle.SetDeadline(t)
	}
	return nil
}

// TestEveryOctet drops the connection, stalls the server and cancels the context after
// each octet of each dialogue, in either direction. However it ends, what was handed over
// is true, nil means done, and nothing is left.
func TestEveryOctet(t *testing.T) {
	t.Parallel()
	for _, d := range append(dialogues, underTLS) {
		t.Run(d.name, func(t *testing.T) {
			if d.random {
				pop3test.NeedRandom(t)
			}
			// QUIT without a line end behind its +OK was done, RFC 1939 section 6, and so was
			// one without TLS's goodbye.
			step, end := 1, len(" \r\n")
			if d == underTLS {
				step, end = 61, 100
			} else if testing.Short() {
				step = 7
			}
			// Once without harm, to learn what comes of it and how many octets there are.
			var whole *doomed
			var want *stage
			synctest.Test(t, func(t *testing.T) {
				whole = doom(d.dial(), fates[0], math.MaxInt, math.MaxInt, nil)
				want = d.play(t.Context(), whole, false)
			})
			if want.wrong != "" || want.err != nil {
				t.Fatalf("without harm: %s %v", want.wrong, want.err)
			}
			for _, f := range fates {
				t.Run(f.name, func(t *testing.T) {
					t.Parallel()
					harmed := 0
					for i := 0; i < whole.read && !t.Failed(); i += step {
						harmed += d.meets(t, want, f, math.MaxInt, i, i < whole.read-end)
					}
					for i := 0; i < whole.written && !t.Failed(); i += step {
						harmed += d.meets(t, want, f, i, math.MaxInt, i < whole.written-end)
					}
					if harmed < whole.read/step/2 {
						t.Errorf("only %d of %d octets did harm", harmed, whole.read+whole.written)
					}
				})
			}
		})
	}
}

// meets plays a dialogue to a connection that meets its fate. It returns 1 if it did harm.
// early is that not all of the session can have been done.
func (d *dialogue) meets(t *testing.T, want *stage, f *fate, up, down int, early bool) (harmed int) {
	synctest.Test(t, func(t *testing.T) {
		fail := func(format string, args ...any) {
			t.Errorf("%s after %d octets up, %d down: %s", f.name, up, down, fmt.Sprintf(format, args...))
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		why := errors.New("the caller is bored")
		below := d.dial()
		defer below.Close()
		conn := doom(below, f, up, down, func() { cancel(why) })
		start := time.Now()
		s := d.play(ctx, conn, false)
		took := time.Since(start)
		conn.idleFar.Close()

		if !conn.closed.Load() {
			fail("the connection is left open")
		}
		if conn.behind > 0 && d != underTLS { // crypto/tls may
			fail("%d octets were written behind the end", conn.behind)
		}
		if s.wrong == "" && slices.Equal(s.out, want.out) {
			if early && d.marks && !f.after {
				fail("QUIT did not fail")
			}
			if took > 0 && f.kind != "timeout" {
				fail("took %v", took)
			}
			return
		}
		harmed = 1
		if wrong := s.deviates(want, f.kind, why); wrong != "" {
			fail("%s", wrong)
		}
		if want := map[bool]time.Duration{true: timeout}[f.kind == "timeout"]; took != want {
			fail("took %v, want %v", took, want)
		}
	})
	return harmed
}

// deviates returns what is wrong with a session that was harmed. Up to the harm all calls
// come to what they should, and the next one says what the harm was.
func (s *stage) deviates(want *stage, harm string, why error) string {
	n := len(s.out)
	if s.wrong != "" {
		return s.wrong
	}
	if n > len(want.out) || !slices.Equal(s.out[:n-1], want.out[:n-1]) || s.err == nil {
		return fmt.Sprintf("%q, want %q and one error", s.out, want.out[:min(n, len(want.out))])
	}
	if _, text, _ := strings.Cut(want.out[n-1], ": "); !strings.HasPrefix(text, strings.TrimSuffix(fmt.Sprintf("%q", s.partial), `"`)) {
		return fmt.Sprintf("the message begins %q, want %s", s.partial, text)
	}
	kind, first := kindOf(s.err), cmp.Or(s.first, s.err) // if the connection is usable, the call has not begun
	switch reset := harm == lost && errors.Is(first, pop3test.ErrReset); {
	case kind == "refused" && strings.Contains(s.err.Error(), "the connection was lost"): // rule 4: it is the login's error
	case kind != harm && !reset, kindOf(first) != harm && !reset:
		return fmt.Sprintf("the error is %v, and the cause %v, want %s", s.err, first, harm)
	case harm == "canceled" && !errors.Is(s.err, why):
		return fmt.Sprintf("the error is not context.Cause: %v", s.err)
	}
	return ""
}

// splitAt cuts what a tape says in two.
func splitAt(at int) func(read int) int {
	return func(read int) int {
		if read < at {
			return at - read
		}
		return math.MaxInt
	}
}

// However short the segments in which a server's text comes, it is the same. (TestReference
// splits it at every octet.)
func TestSegments(t *testing.T) {
	t.Parallel()
	for _, d := range dialogues {
		want := d.whole(t.Context(), nil)
		for _, n := range []int{1, 2, 3, 7} {
			if s := d.whole(t.Context(), func(int) int { return n }); s.wrong != "" || !slices.Equal(s.out, want.out) {
				t.Fatalf("%s in segments of %d: %s\n%q, want\n%q", d.name, n, s.wrong, s.out, want.out)
			}
		}
	}
}

// TestStorm cancels sessions at random, under the scheduler of the machine: at an octet,
// while both sides go on, or at any time from another goroutine. A nil never comes with a
// connection that the context has closed. POP3_STORM is how many sessions there are.
func TestStorm(t *testing.T) {
	t.Parallel()
	sessions, err := strconv.Atoi(os.Getenv("POP3_STORM"))
	if err != nil {
		sessions = 400
	}
	var unharmed, closed, usable int
	why := errors.New("the caller is bored")
	for seed := range sessions {
		rnd := rand.New(rand.NewPCG(uint64(seed), 0))
		d := dialogues[rnd.IntN(len(dialogues))]
		want := d.whole(t.Context(), nil)
		ctx, cancel := context.WithCancelCause(t.Context())
		var s *stage
		if rnd.IntN(2) == 0 {
			f := &fate{"", "canceled", func(d *doomed) { d.cancel(); yield(rnd.IntN(3)) }, true}
			conn := doom(pop3test.NewTape(greeting, d.answer), f, 1+rnd.IntN(300), rnd.IntN(900), func() { cancel(why) })
			s = d.play(ctx, conn, true)
		} else {
			near, far := pop3test.Pipe()
			p := pop3test.NewPeer(far, greeting, d.answer)
			n := rnd.IntN(1 << rnd.IntN(10))
			go func() { yield(n); cancel(why) }()
			s = d.play(ctx, near, true)
			p.Stop()
		}
		cancel(nil)
		switch wrong := s.deviates(want, "canceled", why); {
		case s.wrong == "" && slices.Equal(s.out, want.out):
			unharmed++
		case wrong != "":
			t.Fatalf("seed %d, %s: %s", seed, d.name, wrong)
		case s.first != nil:
			closed++
		default:
			usable++
		}
	}
	// How many there are of each is up to the scheduler.
	if t.Logf("unharmed %d, closed %d, still usable %d", unharmed, closed, usable); sessions >= 400 && closed == 0 {
		t.Error("no cancel met a session")
	}
}

func yield(n int) {
	for range n {
		runtime.Gosched()
	}
}
