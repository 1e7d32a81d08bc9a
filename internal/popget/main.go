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
	auth := flags.String("auth", "auto", "`auto`, user, plain, login, cram-md5, scram-sha-1, scram-sha-256, apop,\nxoauth2, oauthbearer or external")
	var level slog.LevelVar
	flags.BoolFunc("v", "log each command", func(string) error { level.Set(slog.LevelDebug); return nil })
	flags.BoolFunc("vv", "log each line of the dialogue too", func(string) error { level.Set(slog.LevelDebug - 4); return nil })
	flags.StringVar(&j.user, "user", "", "user `name`; the password is POP3_PASSWORD or a line of standard input, which a\nterminal shows as it is typed; the token of xoauth2 and oauthbearer is POP3_TOKEN")
	flags.BoolVar(&j.list, "list", false, "list the messages, download none")
	flags.StringVar(&j.dir, "dir", "", "write the messages to this `folder`, not to a temporary one")
	flags.StringVar(&j.maildir, "maildir", "", "deliver what is new to this Maildir `folder`")
	flags.BoolVar(&j.delete, "delete", false, "with -maildir: delete from the server what is safely there")
	if err := flags.Parse(args); err != nil {
		return err
	}
	j.addr = flags.Arg(0)
	if flags.NArg() > 1 || (j.addr == "") != (j.user == "") || j.dir != "" && j.maildir != "" ||
		j.delete && (j.list || j.maildir == "") || (*useTLS || *startTLS) && *plain {
		flags.Usage()
		return errors.New("these arguments do not go together")
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
		server, err := demoServer("ada", "tides")
		if err != nil {
			return err
		}
		defer server.Close()
		j.addr, j.user, secret = server.Addr, "ada", "tides"
		*startTLS, opts.TLSConfig = true, server.ClientTLS()
	} else if secret == "" && *auth != "external" {
		if isTerminal(stdin) {
			fmt.Fprintf(stderr, "%s (it will show): ", variable)
		}
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
	if j.list {
		return j.headers(ctx, c, listing)
	}
	return j.download(ctx, c, listing)
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
	case "plain":
		return c.Auth(ctx, pop3.PlainAuth("", user, secret))
	case "external":
		return c.Auth(ctx, pop3.ExternalAuth(user))
	}
	mechanism := map[string]func(user, secret string) pop3.SASL{
		"login": pop3.LoginAuth, "cram-md5": pop3.CRAMMD5Auth, "scram-sha-1": pop3.SCRAMSHA1Auth,
		"scram-sha-256": pop3.SCRAMSHA256Auth, "xoauth2": pop3.XOAuth2Auth, "oauthbearer": pop3.OAuthBearerAuth,
	}[method]
	if mechanism == nil {
		return fmt.Errorf("-auth %q is not known", method)
	}
	return c.Auth(ctx, mechanism(user, secret))
}

// headers prints the table of messages, from TOP, and quits.
func (j *job) headers(ctx context.Context, c *pop3.Client, listing []pop3.MessageInfo) error {
	var numbers []int
	for _, m := range listing {
		numbers = append(numbers, m.Number)
	}
	for m, err := range c.TopAll(ctx, numbers, 0) {
		if m == nil {
			return err
		}
		printRow(j.stdout, listing[0], m) // without a header if TOP was refused
		listing = listing[1:]
	}
	return c.Quit(ctx)
}

// download fetches what is new, deletes if asked to, and quits.
func (j *job) download(ctx context.Context, c *pop3.Client, listing []pop3.MessageInfo) (err error) {
	p := newProgress(j.stderr)
	box := &maildir{}
	deliver := func(m *pop3.Message) error { return j.save(m, p) }
	switch {
	case j.maildir != "":
		if box, err = openMaildir(ctx, c, j.maildir, j.user, j.addr); err == nil {
			defer box.log.Close()
		}
		deliver = func(m *pop3.Message) error { return box.deliver(m, p) }
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
	refusals := 0
	refused := func(err error) {
		refusals++
		p.clear()
		fmt.Fprintln(j.stderr, "popget:", err)
	}
	err = fetch(ctx, c, numbers, func(m *pop3.Message) error {
		if err := deliver(m); err != nil {
			return err
		}
		safe = append(safe, m.Number)
		p.messages++
		return nil
	}, refused)
	p.clear()
	if err != nil {
		return fmt.Errorf("stopped at %v, nothing deleted: %w", p, err)
	}
	if !j.delete {
		safe = nil
	}
	if err := c.DeleAll(ctx, safe); err != nil {
		if c.Err() != nil || ctx.Err() != nil {
			return fmt.Errorf("stopped after %v, nothing deleted: %w", p, err)
		}
		refused(err)
		safe = nil // not all of it
	}
	if err := c.Quit(ctx); err != nil {
		return fmt.Errorf("%v delivered, perhaps not all deleted: %w", p, err)
	}
	if err := box.forget(safe); err != nil {
		return err
	}
	if refusals > 0 {
		return fmt.Errorf("%v delivered, the server refused the rest", p)
	}
	fmt.Fprintf(j.stdout, "%v to %s%s, %d deleted\n", p, j.dir, j.maildir, len(safe))
	return nil
}

// fetch retrieves messages and hands each to deliver. One that the server
// refuses goes to refused, and the rest go on. When deliver fails, messages
// behind this one are already on their way: after a QUIT the server might count
// them as retrieved, so the connection is closed.
func fetch(ctx context.Context, c *pop3.Client, numbers []int, deliver func(*pop3.Message) error, refused func(error)) error {
	for m, err := range c.RetrAll(ctx, numbers) {
		if m == nil {
			return err
		}
		if err != nil {
			refused(err)
			continue
		}
		if err := deliver(m); err != nil {
			c.Close()
			return err
		}
	}
	return nil
}

// demoServer serves testdata/mail.
func demoServer(user, password string) (*pop3test.Server, error) {
	files, _ := filepath.Glob("testdata/mail/*.eml")
	if files == nil {
		return nil, errors.New("no testdata/mail here: without a host, run popget at the top of its source tree")
	}
	server := pop3test.NewServer()
	maildrop := server.AddUser(user, password)
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			server.Close()
			return nil, err
		}
		maildrop.Add(string(text))
	}
	return server, nil
}

// save writes m to a file named by its number and prints its row of the table.
func (j *job) save(m *pop3.Message, p *progress) error {
	f, err := os.OpenFile(filepath.Join(j.dir, fmt.Sprintf("%04d.eml", m.Number)), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	size, err := m.WriteTo(io.MultiWriter(f, p))
	if err == nil {
		p.clear()
		printRow(j.stdout, pop3.MessageInfo{Number: m.Number, Size: size}, io.NewSectionReader(f, 0, size))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
	}
	return err
}

// printRow prints number, size, date, sender and subject. It reads the header
// from r and shows nothing of one that cannot be parsed.
func printRow(w io.Writer, info pop3.MessageInfo, r io.Reader) {
	var date, from, subject string
	// A MiB is ample for a header, and an end for one that has none.
	if m, err := mail.ReadMessage(io.LimitReader(r, 1<<20)); err == nil {
		if t, err := m.Header.Date(); err == nil {
			date = t.Format("2006-01-02 15:04")
		}
		from, subject = m.Header.Get("From"), decode(m.Header.Get("Subject"))
		if a, err := mail.ParseAddress(from); err == nil && a.Name != "" {
			from = a.Name
		}
		from = decode(from)
	}
	fmt.Fprintf(w, "%5d %9d  %-16s  %-24.24s  %.60s\n", info.Number, info.Size, date, from, subject)
}

// decode resolves encoded-words whose charset is known. What is not printable,
// encoded or not, is replaced: to a terminal it might be an escape sequence.
func decode(field string) string {
	if s, err := new(mime.WordDecoder).DecodeHeader(field); err == nil {
		field = s
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, field)
}

// progress counts what comes and says so: on a terminal in one line that it
// writes again and again, elsewhere in a line a second.
type progress struct {
	w                    io.Writer
	begin, end           string // of what it writes
	start, last          time.Time
	every                time.Duration
	messages, ofMessages int
	octets, ofOctets     int64 // ofOctets is what LIST claims
}

func newProgress(w io.Writer) *progress {
	now := time.Now()
	if isTerminal(w) {
		return &progress{w: w, begin: "\r\x1b[K", start: now, last: now, every: time.Second / 5}
	}
	return &progress{w: w, end: "\n", start: now, last: now, every: time.Second}
}

// Write counts the octets of a message.
func (p *progress) Write(b []byte) (int, error) {
	p.octets += int64(len(b))
	if time.Since(p.last) >= p.every {
		p.last = time.Now()
		left := p.last.Sub(p.start).Seconds() / float64(p.octets) * float64(max(p.ofOctets-p.octets, 0))
		fmt.Fprintf(p.w, "%s%v, %.0f s left%s", p.begin, p, left, p.end)
	}
	return len(b), nil
}

// clear makes room on a terminal.
func (p *progress) clear() { fmt.Fprint(p.w, p.begin) }

func (p *progress) String() string {
	mb, seconds := float64(p.octets)/1e6, max(time.Since(p.start).Seconds(), 1e-3)
	return fmt.Sprintf("%d of %d messages, %.2f MB, %.2f MB/s", p.messages, p.ofMessages, mb, mb/seconds)
}

// isTerminal is true of /dev/null too, which does no harm.
func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&fs.ModeCharDevice != 0
}
