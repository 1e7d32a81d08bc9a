package hostile_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// TestSoak runs 100,000 sessions and 1,000,000 commands against the server of
// this module, over sockets, and finds as much in use at the end as after the
// first tenth. It takes minutes, and runs only if POP3_SOAK is set.
func TestSoak(t *testing.T) {
	if os.Getenv("POP3_SOAK") == "" {
		t.Skip("POP3_SOAK is not set")
	}
	const sessions, parts = 100_000, 10
	srv := pop3test.NewServer()
	defer srv.Close()
	text := strings.Repeat("A line of a message that is neither long nor short.\r\n", 20)
	drop := srv.AddUser("u", "p")
	commands, failed := 0, 0
	trace := &pop3.Trace{CommandStart: func(context.Context, pop3.CommandInfo) { commands++ }}
	start := time.Now()
	var first usage
	for part := range parts {
		for i := range sessions / parts {
			if len(drop.Messages()) < 3 {
				drop.Add(text, text, text)
			}
			if err := soakSession(t, srv, &pop3.Options{Trace: trace}, i); err != nil {
				t.Fatal(err)
			}
			if i%5 == 4 {
				failed++
			}
			drop.Wait()
		}
		now := measure()
		t.Logf("%v: %d sessions (%d of them dropped), %d commands; %v", time.Since(start).Round(time.Second),
			(part+1)*sessions/parts, failed, commands, now)
		if part == 0 {
			first = now
			continue
		}
		if now.goroutines > first.goroutines+5 || now.files > first.files+5 || now.heap > first.heap+first.heap/2+1<<20 {
			t.Fatalf("more is in use than at first: %v", first)
		}
	}
	if commands < 1_000_000 {
		t.Errorf("%d commands are too few", commands)
	}
}

// soakSession is one session, which ends in one of five ways.
func soakSession(t *testing.T, srv *pop3test.Server, opts *pop3.Options, i int) error {
	ctx := t.Context()
	c, err := pop3.Dial(ctx, srv.Addr, opts)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.User(ctx, "u"); err != nil {
		return err
	}
	if err := c.Pass(ctx, "p"); err != nil {
		return err
	}
	if _, _, err := c.Stat(ctx); err != nil {
		return err
	}
	uids, err := c.UIDLAll(ctx)
	if err != nil {
		return err
	}
	for m, err := range c.RetrAll(ctx, numbers(len(uids))) {
		if err != nil {
			return err
		}
		if i%5 == 4 {
			m.Read(make([]byte, 10))
			return nil // in the middle, by break, and Close
		}
		if n, err := m.WriteTo(io.Discard); err != nil || n < 1000 {
			return fmt.Errorf("message of %d octets, %w", n, err)
		}
	}
	for range 3 {
		if err := c.Noop(ctx); err != nil {
			return err
		}
	}
	switch i % 5 {
	case 0:
		return c.Close()
	case 1:
		if err := c.DeleAll(ctx, numbers(len(uids))); err != nil {
			return err
		}
	case 2:
		if err := c.Dele(ctx, 99); err == nil {
			return fmt.Errorf("DELE 99 was accepted")
		}
	}
	return c.Quit(ctx)
}

// A usage is what is in use.
type usage struct {
	heap              uint64
	goroutines, files int
}

func (u usage) String() string {
	return fmt.Sprintf("heap %d KiB, %d goroutines, %d open files", u.heap>>10, u.goroutines, u.files)
}

func measure() (u usage) {
	runtime.GC()
	runtime.GC() // for what the pools held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	files, _ := os.ReadDir("/proc/self/fd") // or none elsewhere
	return usage{m.HeapAlloc, runtime.NumGoroutine(), len(files)}
}
