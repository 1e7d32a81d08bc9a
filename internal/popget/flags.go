package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"example.com/pop3"
)

// flags are popget's arguments.
type flags struct {
	set *flag.FlagSet

	addr, user, ca, auth, serverName, dir, maildir, folder     string
	useTLS, startTLS, plain, list, delete, again, quiet, serve bool
	level                                                      slog.LevelVar
	timeout, keep                                              time.Duration
	maxSize                                                    int64
}

const usage = `Popget downloads the mail of one POP3 account.

Usage:
  popget [flags] pop3s://NAME@HOST[:PORT]   use TLS; the default port is 995
  popget [flags] pop3://NAME@HOST[:PORT]    use STARTTLS; the default port is 110
  popget [flags] -user NAME HOST[:PORT]     the same as pop3s://
  popget [flags]                            show how it works with sample mail
  popget -serve [FOLDER]                    serve the *.eml files of FOLDER, for tests

The password is read from the environment variable POP3_PASSWORD or else from
standard input; the token of xoauth2 and oauthbearer, from POP3_TOKEN likewise.

Flags:
`

const usageStatus = `
Exit status:
  0   success
  1   the server refused to send or delete a message; any other failure
  64  wrong usage
  69  unknown host, or the server refused the connection
  73  cannot write, or -maildir is not a Maildir or belongs to another user
  75  temporary failure, try again: temporary refusal, timeout, lost connection,
      interrupt, no reply to QUIT, or another popget is running
  76  the server broke the protocol, or TLS failed
  77  login refused
`

func (f *flags) usage(w io.Writer) {
	io.WriteString(w, usage)
	f.set.SetOutput(w)
	f.set.PrintDefaults()
	io.WriteString(w, usageStatus)
}

func parseFlags(args []string) (*flags, error) {
	f := &flags{set: flag.NewFlagSet("popget", flag.ContinueOnError)}
	f.set.SetOutput(io.Discard)
	f.set.Usage = func() {}
	f.define(f.set)
	err := f.set.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return f, err
	} else if err != nil {
		return f, usageError(err.Error())
	}
	if f.serve {
		return f, f.checkServe()
	}
	if err := f.parseHost(f.set.Arg(0)); err != nil {
		return f, err
	}
	return f, f.check()
}

func (f *flags) define(set *flag.FlagSet) {
	set.StringVar(&f.user, "user", "", "log in as `NAME`")
	set.BoolVar(&f.useTLS, "tls", false, "use TLS from the start (the default)")
	set.BoolVar(&f.startTLS, "starttls", false, "connect in the clear, then require TLS with the STLS command")
	set.BoolVar(&f.plain, "plain", false, "use no TLS; the login is allowed only if the server is on this machine")
	set.StringVar(&f.ca, "ca", "", "trust the certificates in this PEM `FILE` and no others")
	set.StringVar(&f.serverName, "servername", "", "expect a certificate for `NAME` instead of HOST")
	set.StringVar(&f.auth, "auth", "auto", "log in by `METHOD`: auto, user, plain, login, cram-md5, scram-sha-1,\nscram-sha-256, apop, xoauth2 or oauthbearer")
	set.DurationVar(&f.timeout, "timeout", 3*time.Minute, "give up if the server is silent for `TIME`")
	set.Func("max-size", "skip messages of more than `SIZE` bytes; 100k and 20M are in units of 1,024\nand 1,048,576 bytes", f.parseSize)
	set.BoolVar(&f.list, "list", false, "list the messages and download none")
	set.StringVar(&f.dir, "dir", "", "write each message to a new file in `FOLDER` (default: a temporary folder)")
	set.StringVar(&f.maildir, "maildir", "", "deliver new messages to the Maildir `FOLDER`")
	set.BoolFunc("delete", "with -maildir: delete messages from the server once they are stored;\n-delete=again also tries those that stayed on the server after two deletions", f.parseDelete)
	set.Func("keep", "with -delete: keep each message on the server for `TIME` after it was stored,\nsuch as 30d or 12h", f.parseKeep)
	set.BoolVar(&f.serve, "serve", false, "start a server for tests, which runs until it is interrupted; print its\naddresses, user, password and certificate file")
	set.BoolVar(&f.quiet, "q", false, "show no progress; with -maildir, print only what is unusual")
	set.BoolFunc("v", "log each command", func(string) error { f.level.Set(slog.LevelDebug); return nil })
	set.BoolFunc("vv", "log each line sent and received, except message text", func(string) error { f.level.Set(slog.LevelDebug - 4); return nil })
}

func (f *flags) parseSize(s string) error {
	digits, unit := s, int64(1)
	if n, ok := strings.CutSuffix(strings.ToLower(s), "k"); ok {
		digits, unit = n, 1<<10
	} else if n, ok := strings.CutSuffix(strings.ToLower(s), "m"); ok {
		digits, unit = n, 1<<20
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 || n > 1<<62/unit {
		return errors.New("it takes a number above 0, such as 100k or 20M")
	}
	f.maxSize = n * unit
	return nil
}

func (f *flags) parseDelete(s string) (err error) {
	if f.again = s == "again"; f.again {
		s = "true"
	}
	if f.delete, err = strconv.ParseBool(s); err != nil {
		return errors.New("the only value it takes is again")
	}
	return nil
}

func (f *flags) parseKeep(s string) (err error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n int
		n, err = strconv.Atoi(days)
		f.keep = time.Duration(n) * 24 * time.Hour
		if n > 100000 {
			err = strconv.ErrRange
		}
	} else {
		f.keep, err = time.ParseDuration(s)
	}
	if err != nil || f.keep <= 0 {
		return errors.New("it takes a time, such as 30d or 12h")
	}
	return nil
}

// parseHost reads HOST[:PORT] or an address that begins with pop3s:// or
// pop3://. Its errors do not repeat the argument, which may hold a password.
func (f *flags) parseHost(s string) error {
	if strings.Contains(s, "://") {
		return f.parseURL(s)
	}
	if strings.ContainsAny(s, "@/") {
		return usageError("HOST contains @ or /: write pop3s://NAME@HOST, or -user NAME HOST")
	}
	return f.setAddr(s)
}

func (f *flags) parseURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return usageError("the address is not of the form pop3s://NAME@HOST:PORT")
	}
	if _, ok := u.User.Password(); ok {
		return usageError("a password in the address can be seen by others: use POP3_PASSWORD or standard input")
	}
	name := u.User.Username()
	switch {
	case u.Scheme != "pop3" && u.Scheme != "pop3s":
		return usageError("the address begins neither with pop3s:// nor with pop3://")
	case name != "" && f.user != "" && name != f.user:
		return usageError("-user and the address name different users")
	case u.Scheme == "pop3s" && f.plain:
		return usageError("-plain does not go with pop3s://, which is TLS")
	case u.Scheme == "pop3s" && f.startTLS:
		return usageError("-starttls does not go with pop3s://, which is TLS from the start; use pop3://")
	case u.Scheme == "pop3" && f.useTLS:
		return usageError("-tls does not go with pop3://, which is STARTTLS; use pop3s://")
	}
	if name != "" {
		f.user = name
	}
	f.startTLS = f.startTLS || u.Scheme == "pop3" && !f.plain
	return f.setAddr(u.Host)
}

// setAddr sets the address, with the number of its port.
func (f *flags) setAddr(s string) error {
	f.addr = s
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host = strings.Trim(s, "[]")
	}
	_, notIP := netip.ParseAddr(host)
	switch {
	case host == "" && s != "":
		return usageError("a host is missing before the port")
	case notIP != nil && strings.Contains(host, ":"):
		return usageError("HOST contains more than one colon and is not an IPv6 address")
	case strings.ContainsFunc(host, func(r rune) bool { return r > unicode.MaxASCII }):
		return usageError("HOST is not ASCII: write it in its xn-- form")
	case port == "":
		return nil
	}
	n, err := net.LookupPort("tcp", port)
	if err != nil {
		return usageError("the port is neither a number nor the name of a service")
	}
	f.addr = net.JoinHostPort(host, strconv.Itoa(n))
	return nil
}

func (f *flags) checkServe() error {
	f.folder = f.set.Arg(0)
	if f.set.NFlag() > 1 || f.set.NArg() > 1 {
		return usageError("-serve takes one folder and no other flag")
	}
	return nil
}

// given reports whether a flag was given, if only an empty value.
func (f *flags) given(name string) bool {
	found := false
	f.set.Visit(func(g *flag.Flag) { found = found || g.Name == name })
	return found
}

// check returns the first rule that is broken.
func (f *flags) check() error {
	for _, name := range []string{"user", "ca", "servername", "dir", "maildir"} {
		if f.given(name) && f.set.Lookup(name).Value.String() == "" { // such as a variable that is not set
			return usageError("-" + name + " is empty")
		}
	}
	needHost := []string{"user", "tls", "starttls", "plain", "ca", "servername", "auth", "maildir"}
	for _, rule := range []struct {
		broken bool
		text   string
	}{
		{f.set.NArg() > 1, "give one host, after the flags"},
		{f.addr == "" && slices.ContainsFunc(needHost, f.given), "a host is missing"},
		{f.addr != "" && f.user == "", "a user is missing: write pop3s://NAME@HOST, or -user NAME HOST"},
		{f.plain && f.useTLS, "-plain and -tls cannot be combined"},
		{f.plain && f.startTLS, "-plain and -starttls cannot be combined"},
		{f.useTLS && f.startTLS, "-tls and -starttls cannot be combined"},
		{f.plain && f.ca != "", "-plain and -ca cannot be combined"},
		{f.plain && f.serverName != "", "-plain and -servername cannot be combined"},
		{f.dir != "" && f.maildir != "", "-dir and -maildir cannot be combined"},
		{f.list && f.delete, "-list and -delete cannot be combined"},
		{f.list && f.maildir != "", "-list and -maildir cannot be combined"},
		{f.list && f.dir != "", "-list and -dir cannot be combined"},
		{f.delete && f.maildir == "", "-delete requires -maildir"},
		{f.keep != 0 && !f.delete, "-keep requires -delete"},
		{f.timeout <= 0, "-timeout must be above 0"},
		{logins[f.auth] == nil, fmt.Sprintf("-auth does not know %q", f.auth)},
	} {
		if rule.broken {
			return usageError(rule.text)
		}
	}
	return nil
}

// job returns what the arguments ask for.
func (f *flags) job(p process) (*job, error) {
	progress := newProgress(p.stderr)
	if f.quiet {
		progress = newProgress(nil)
	}
	p.stdout, p.stderr = eraser{p.stdout, progress}, eraser{p.stderr, progress}
	opts := &pop3.Options{TLSConfig: &tls.Config{ServerName: f.serverName}, Timeout: f.timeout, MaxMessageSize: f.maxSize}
	if f.level.Level() < slog.LevelInfo {
		opts.Trace = pop3.LogTrace(slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: &f.level})))
	}
	if f.ca != "" {
		pem, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, usageError("-ca: " + err.Error())
		}
		opts.TLSConfig.RootCAs = x509.NewCertPool()
		if !opts.TLSConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, usageError("-ca: no certificate in " + f.ca)
		}
	}
	j := &job{process: p, opts: opts, addr: f.addr, user: f.user, auth: f.auth, dir: f.dir, maildir: f.maildir,
		list: f.list, delete: f.delete, again: f.again, keep: f.keep, quiet: f.quiet, progress: progress}
	switch {
	case f.plain:
		j.dial = pop3.Dial
	case f.startTLS:
		j.dial = pop3.DialStartTLS
	default:
		j.dial = pop3.DialTLS
	}
	return j, nil
}
