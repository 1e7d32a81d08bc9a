// Popget downloads a maildrop. Without a host it starts the server that the
// tests use, with testdata/mail in it, and downloads that. With -serve it only
// starts that server, for tests in any language.
//
// With -maildir it delivers each message to a Maildir once. With -delete it then
// lists the maildrop again and deletes what is safely on disk and still has its
// number. After a failure it closes the connection without QUIT, which commits
// deletions and lets a server count messages as retrieved; the next run continues
// from there. Messages that failed in an earlier run are tried in a session of
// their own after the others, so that they do not hold them up.
//
// The rule for what is new is in known.go. What is on disk when a run is killed
// is in the comment of delivery.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

func main() {
	p := process{os.Getenv, withTerminal(os.Stdin), os.Stdout, withTerminal(os.Stderr), time.Now, osDisk{}}
	err := run(context.Background(), os.Args[1:], p)
	if err != nil {
		fmt.Fprintln(os.Stderr, "popget:", explain(err))
	}
	os.Exit(exitStatus(err))
}

// A process is what popget gets from its surroundings.
type process struct {
	env            func(string) string
	stdin          io.Reader // a terminal or not
	stdout, stderr io.Writer // stderr likewise
	now            func() time.Time
	disk           disk
}

// A job says what to do with a maildrop, and what has been done.
type job struct {
	process
	addr, user, auth, secret   string
	dial                       func(context.Context, string, *pop3.Options) (*pop3.Client, error)
	opts                       *pop3.Options
	dir, maildir               string
	list, delete, again, quiet bool
	keep                       time.Duration
	progress                   *progress

	total, fresh, deleted int   // messages
	refusals, temporary   int   // of RETR and DELE: all, and those that may pass
	unread                error // why some rows of the listing could not be read

	due      map[string]*fault  // when the run began
	later    []*message         // failed in earlier runs, and not tried in this one
	held     map[*delivery]bool // not deleted, because they may be twins of those
	answered map[string]bool    // commands of this session
	broke    string             // the command that ended the session
}

// odd reports something unusual that is no failure.
func (j *job) odd(format string, args ...any) {
	fmt.Fprintln(j.stderr, "popget:", flagNames.Replace(fmt.Sprintf(format, args...)))
}

// refuse counts a refusal of RETR or DELE.
func (j *job) refuse(err error) {
	j.refusals++
	if e, ok := as[*pop3.Error](err); ok && e.Temporary() {
		j.temporary++
	}
}

// run is main without os.Exit.
func run(ctx context.Context, args []string, p process) error {
	f, err := parseFlags(args)
	if errors.Is(err, flag.ErrHelp) {
		f.usage(p.stdout)
		return nil
	} else if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	if f.serve {
		return serve(ctx, f.folder, p.stdout)
	}
	j, err := f.job(p)
	if err != nil {
		return err
	}
	defer j.progress.erase()
	if j.addr == "" {
		server := pop3test.NewServer()
		defer server.Close()
		if err := fill(server.AddUser("ada", "tides"), sample); err != nil {
			return err
		}
		j.addr, j.user, j.secret, j.dial, j.opts.TLSConfig = server.Addr, "ada", "tides", pop3.DialStartTLS, server.ClientTLS()
	} else if err := j.findSecret(ctx); err != nil {
		return err
	}
	switch {
	case j.list:
		return j.toList(ctx)
	case j.maildir != "":
		return j.toMaildir(ctx)
	default:
		return j.toFolder(ctx)
	}
}

// toList prints the scan listing.
func (j *job) toList(ctx context.Context) error {
	c, err := j.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	rows, err := c.ListAll(ctx)
	for _, m := range rows {
		fmt.Fprintf(j.stdout, "%5d %9d\n", m.Number, m.Size)
	}
	if err != nil {
		return err
	}
	return c.Quit(ctx)
}

// summarize prints what was done.
func (j *job) summarize() {
	if j.quiet {
		return
	}
	fmt.Fprintf(j.stdout, "%s, %d new", count(j.total, "message"), j.fresh)
	if j.progress.messages > 0 {
		fmt.Fprintf(j.stdout, " (%v)", j.progress.rate())
	}
	fmt.Fprintf(j.stdout, ", %d deleted; %s\n", j.deleted, j.maildir)
}

// count returns a number with its noun.
func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// outcome returns an error if something is left undone though no session failed.
func (j *job) outcome() error {
	if j.unread != nil {
		return j.unread
	}
	if len(j.later) > 0 {
		return &failure{tryAgain, fmt.Errorf("messages that failed in earlier runs, left to the next run: %d", len(j.later))}
	}
	err := fmt.Errorf("commands that the server refused: %d", j.refusals)
	switch j.refusals {
	case 0:
		return nil
	case j.temporary:
		return &failure{tryAgain, err}
	}
	return err
}

// tooLarge reports whether a message is over -max-size.
func (j *job) tooLarge(m *message) bool {
	return j.opts.MaxMessageSize > 0 && m.size > j.opts.MaxMessageSize
}

// mayDelete reports whether to delete a delivered message. If the clock was wrong,
// its age may be below 0.
func (j *job) mayDelete(m *delivery) bool {
	return j.delete && (m.Kept < maxKept || j.again) && max(j.now().Sub(m.Time), 0) >= j.keep
}
