// Popget downloads a maildrop. Without a host it starts the server that the
// tests use, with testdata/mail in it, and downloads that.
//
// With -maildir it delivers what is new to a Maildir, and with -delete it then
// deletes from the server what is safely there. On any failure to deliver it
// closes the connection and never sends QUIT, which commits deletions and lets
// a server count what was retrieved as done; the next run goes on from there.
// A message that the server refuses to send is reported and not deleted. The
// others are done, QUIT included, but the exit status is 1.
package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"mime"
	"net/mail"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

func main() {
	err := run(context.Background(), os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr)
	if err != nil && err != flag.ErrHelp {
		fmt.Fprintln(os.Stderr, "popget:", err)
		os.Exit(1)
	}
}

// job is what to do with a maildrop.
type job struct {
	addr, user, dir, maildir string
	list, delete             bool
	stdout, stderr           io.Writer
}

// run is main with its surroundings as arguments.
func run(ctx context.Context, args []string, env func(string) string, stdin io.Reader, stdout, stderr io.Writer) error {
	j := &job{stdout: stdout, stderr: stderr}
	flags := flag.NewFlagSet("popget [flags] -user NAME host[:port]", flag.ContinueOnError)
	flags.SetOutput(stderr)
	useTLS := flags.Bool("tls", false, "TLS from the start (the default)")
	startTLS := flags.Bool("starttls", false, "TLS by STLS, or no session")
	plain := flags.Bool("plain", false, "no TLS; logs in to this machine only")
	ca := flags.String("ca", "", "trust the certificates in this PEM `file` and no others")
	auth := flags.String("auth", "auto", "`method`: auto, user, plain, login, cram-md5, scram-sha-1, scram-sha-256, apop,\nxoauth2 or oauthbearer")
	var level slog.LevelVar
	flags.BoolFunc("v", "log each command", func(string) error { level.Set(slog.LevelDebug); return nil })
	flags.BoolFunc("vv", "log each line of the dialogue too", func(string) error { level.Set(slog.LevelDebug - 4); return nil })
	flags.StringVar(&j.user, "user", "", "user `name`; the password is POP3_PASSWORD or a line of standard\ninput; the token of xoauth2 and oauthbearer is POP3_TOKEN")
	flags.BoolVar(&j.list, "list", false, "list the messages, download none")
	flags.StringVar(&j.dir, "dir", "", "write the messages to this `folder`, not to a temporary one")
	flags.StringVar(&j.maildir, "maildir", "", "deliver what is new to this Maildir `folder`")
	flags.BoolVar(&j.delete, "delete", false, "with -maildir: delete from the server what is safely there")
	if err := flags.Parse(args); err != nil {
		return err
	}
	j.addr = flags.Arg(0)
	if flags.NArg() > 1 || (j.addr == "") != (j.user == "") || j.dir != "" && j.maildir != "" ||
		j.delete && (j.list || j.maildir == "") || *useTLS && *startTLS || (*useTLS || *startTLS) && *plain {
		flags.Usage()
		return errors.New("a host needs -user, and -user a host; -tls, -starttls and -plain exclude each other, so do -dir and -maildir; " +
			"-delete needs -maildir and no -list")
	}

	opts := &pop3.Options{TLSConfig: &tls.Config{}}
	if level.Level() < slog.LevelInfo {
		opts.Trace = pop3.LogTrace(slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: &level})))
	}
	if *ca != "" {
		pem, err := os.ReadFile(*ca)
		opts.TLSConfig.RootCAs = x509.NewCertPool()
		if err != nil || !opts.TLSConfig.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("no certificate in %s: %v", *ca, err)
		}
	}
	variable := "POP3_PASSWORD"
	if *auth == "xoauth2" || *auth == "oauthbearer" {
		variable = "POP3_TOKEN"
	}
	secret := env(variable)
	if j.addr == "" {
		server := pop3test.NewServer()
		defer server.Close()
		j.addr, j.user, secret = server.Addr, "ada", "tides"
		*startTLS, opts.TLSConfig = true, server.ClientTLS()
		if err := fill(server.AddUser(j.user, secret)); err != nil {
			return err
		}
	} else if secret == "" {
		fmt.Fprintf(stderr, "%s, which a terminal shows: ", variable)
		line := bufio.NewScanner(stdin)
		if !line.Scan() {
			return fmt.Errorf("nothing in %s or on standard input", variable)
		}
		secret = line.Text()
	}

	// Not before: an interrupt must end the wait for a password.
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	dial := pop3.DialTLS
	if *plain {
		dial = pop3.Dial
	} else if *startTLS {
		dial = pop3.DialStartTLS
	}
	c, err := dial(ctx, j.addr, opts)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := login(ctx, c, *auth, j.user, secret); err != nil {
		return err
	}
	listing, err := c.ListAll(ctx)
	if err != nil {
		return err
	}
	if !j.list {
		return j.download(ctx, c, listing)
	}
	for _, m := range listing {
		fmt.Fprintf(stdout, "%5d %9d\n", m.Number, m.Size)
	}
	return c.Quit(ctx)
}

func login(ctx context.Context, c *pop3.Client, method, user, secret string) error {
	switch method {
	case "auto":
		return c.Login(ctx, user, secret)
	case "apop":
		return c.APOP(ctx, user, secret)
	case "user":
		if err := c.User(ctx, user); err != nil {
			return err
		}
		return c.Pass(ctx, secret)
	}
	mechanism := map[string]func(user, secret string) pop3.SASL{
		"plain": func(user, secret string) pop3.SASL { return pop3.PlainAuth("", user, secret) },
		"login": pop3.LoginAuth, "cram-md5": pop3.CRAMMD5Auth, "scram-sha-1": pop3.SCRAMSHA1Auth,
		"scram-sha-256": pop3.SCRAMSHA256Auth, "xoauth2": pop3.XOAuth2Auth, "oauthbearer": pop3.OAuthBearerAuth,
	}[method]
	if mechanism == nil {
		return fmt.Errorf("-auth %q is not known", method)
	}
	return c.Auth(ctx, mechanism(user, secret))
}

// download fetches what is new, deletes if asked to, and quits.
func (j *job) download(ctx context.Context, c *pop3.Client, listing []pop3.MessageInfo) (err error) {
	p := newProgress(j.stderr)
	box, deliver := &maildir{}, j.save
	switch {
	case j.maildir != "":
		box, err = openMaildir(ctx, c, j.maildir, j.user, j.addr)
		deliver = box.deliver
	case j.dir != "":
		err = os.MkdirAll(j.dir, 0o700)
	default:
		j.dir, err = os.MkdirTemp("", "popget-")
	}
	if err != nil {
		return err
	}
	var numbers, safe []int
	for _, m := range listing {
		if box.has(m.Number) {
			safe = append(safe, m.Number)
			continue
		}
		numbers = append(numbers, m.Number)
		p.ofOctets += max(m.Size, 0)
	}
	p.ofMessages = len(numbers)
	refused := ""
	for m, err := range c.RetrAll(ctx, numbers) {
		if err != nil && m != nil {
			fmt.Fprintln(j.stderr, "popget:", err)
			refused = "the rest"
			continue
		}
		if err == nil {
			err = deliver(m, p)
		}
		if err != nil {
			// Messages behind this one may be on their way: after a QUIT the server
			// might count them as retrieved.
			c.Close()
			return fmt.Errorf("stopped at %v, nothing deleted: %w", p, err)
		}
		safe = append(safe, m.Number)
		p.messages++
	}
	if !j.delete {
		safe = nil
	}
	if err := c.DeleAll(ctx, safe); err != nil {
		if c.Err() != nil || ctx.Err() != nil {
			return fmt.Errorf("stopped after %v, nothing deleted: %w", p, err)
		}
		fmt.Fprintln(j.stderr, "popget:", err)
		refused = cmp.Or(refused, "to delete all of it")
		if len(err.(interface{ Unwrap() []error }).Unwrap()) == len(safe) {
			safe = nil
		}
	}
	if len(safe) > 0 {
		// Now and not later: whether they are deleted may remain unknown. All of
		// them: with some gone, a server may give the others other unique-ids.
		if err := box.forget(safe); err != nil {
			return fmt.Errorf("%v delivered, nothing deleted: %w", p, err)
		}
	}
	if err := c.Quit(ctx); err != nil {
		return fmt.Errorf("%v delivered: %w", p, err)
	}
	if refused != "" {
		return fmt.Errorf("%v delivered, the server refused %s", p, refused)
	}
	fmt.Fprintf(j.stdout, "%v to %s%s, %d deleted\n", p, j.dir, j.maildir, len(safe))
	return nil
}

// fill puts testdata/mail in a maildrop.
func fill(drop *pop3test.Maildrop) error {
	files, _ := filepath.Glob("testdata/mail/*.eml")
	if files == nil {
		return errors.New("no testdata/mail here: without a host, run popget at the top of its source tree")
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		drop.Add(string(text))
	}
	return nil
}

// save writes m to a file named by its number and prints its row of the table.
func (j *job) save(m *pop3.Message, p *progress) error {
	f, err := os.OpenFile(filepath.Join(j.dir, fmt.Sprintf("%04d.eml", m.Number)), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	size, err := m.WriteTo(io.MultiWriter(f, p))
	if err == nil {
		fmt.Fprintf(j.stdout, "%5d %9d  %s\n", m.Number, size, summary(io.NewSectionReader(f, 0, size)))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
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

// progress counts what comes and says so once a second: on a terminal in one
// line that it writes again and again, elsewhere in a line each.
type progress struct {
	w                    io.Writer
	end                  string // of what it writes
	start, last          time.Time
	messages, ofMessages int
	octets, ofOctets     int64 // ofOctets is what LIST claims
}

func newProgress(w io.Writer) *progress {
	p := &progress{w: w, end: "\n", start: time.Now(), last: time.Now()}
	if f, ok := w.(*os.File); ok {
		// /dev/null is such a device too, which does no harm.
		if info, err := f.Stat(); err == nil && info.Mode()&fs.ModeCharDevice != 0 {
			p.end = "\x1b[K\r" // what comes next is written over it
		}
	}
	return p
}

// Write counts the octets of a message.
func (p *progress) Write(b []byte) (int, error) {
	p.octets += int64(len(b))
	if time.Since(p.last) >= time.Second {
		p.last = time.Now()
		left := p.last.Sub(p.start).Seconds() / float64(p.octets) * float64(max(p.ofOctets-p.octets, 0))
		fmt.Fprintf(p.w, "%v, %.0f s left%s", p, left, p.end)
	}
	return len(b), nil
}

func (p *progress) String() string {
	mb, seconds := float64(p.octets)/1e6, max(time.Since(p.start).Seconds(), 1e-3)
	return fmt.Sprintf("%d of %d messages, %.2f MB, %.2f MB/s", p.messages, p.ofMessages, mb, mb/seconds)
}
