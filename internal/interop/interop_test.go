package interop

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A server is a row of the servers table. A new one says how it is found and started and what it can do.
type server struct {
	name    string
	dovecot bool   // needs the installed Dovecot
	folder  string // where install.sh unpacks it, or ""

	// script writes the configuration and returns the shell commands that start the server in the background. They run as
	// root in a namespace that ends with the test.
	script func(t *testing.T, m *machine) string

	has    feature
	sasl   []string // what CAPA lists without TLS, in any order
	log    logins
	checks []check // those for this server alone
}

var servers = []*server{&dovecot, &hashed, &courier, &cyrus, &nginx, &perdition, &twisted, &mailutils, &popa3d}

// A feature is something that some servers have or do.
type feature uint

const (
	capa feature = 1 << iota
	starttls
	implicitTLS
	pipelining
	authCode
	temporary
	survives
	apop
	hashes
	exclusive
	utf8
	standardDELE
	refusesDeleted
	commitsFirst
	maildir
	exactSizes
	exactTop
	untouched
	emptyBody
	rawHeaders
	fromLines
	keepsNUL
	keepsCR
	mixedLines
)

// features names each feature, for "has" and "has no" to stand before it.
var features = map[feature]string{
	capa:           "CAPA",
	starttls:       "STLS",
	implicitTLS:    "port for TLS",
	pipelining:     "PIPELINING after login",
	authCode:       "[AUTH] for a wrong password",
	temporary:      "[SYS/TEMP]",
	survives:       "second try after a wrong password",
	apop:           "APOP",
	hashes:         "hashed passwords",
	exclusive:      "locks on maildrops",
	utf8:           "UTF8",
	standardDELE:   "DELE as RFC 1939 has it",
	refusesDeleted: "refusal for a second DELE",
	commitsFirst:   "commit before the answer to QUIT",
	maildir:        "files that can vanish under a session",
	exactSizes:     "sizes that are what RETR sends",
	exactTop:       "TOP that sends the lines asked for",
	untouched:      "mail that is the same in each session",
	emptyBody:      "mail without a body",
	rawHeaders:     "raw UTF-8 headers without UTF8",
	fromLines:      "lines that begin with From",
	keepsNUL:       "NUL octets",
	keepsCR:        "lone CR octets",
	mixedLines:     "mail stored with CRLF",
}

// A check is one test of the client against one server, on an account of its own.
type check struct {
	name  string
	needs feature // the server must have
	lacks feature // the server must not have
	mech  string  // the server must offer

	user     string // default: a name made for the check
	password string // default: the one of all accounts
	mail     []sample
	run      func(t *testing.T, s *session)
}

// unfit returns why s cannot go through c, each behind "has".
func (s *server) unfit(c check) (why []string) {
	for bit := feature(1); bit != 0; bit <<= 1 {
		switch {
		case c.needs&^s.has&bit != 0:
			why = append(why, "no "+features[bit])
		case c.lacks&s.has&bit != 0:
			why = append(why, features[bit])
		}
	}
	if c.mech != "" && !slices.Contains(s.sasl, c.mech) {
		why = append(why, "no AUTH "+c.mech)
	}
	return why
}

// root returns the folder that install.sh unpacked s to, or "".
func (s *server) root() string {
	if s.folder == "" {
		return ""
	}
	cache := cmp.Or(os.Getenv("XDG_CACHE_HOME"), filepath.Join(os.Getenv("HOME"), ".cache"))
	return filepath.Join(cmp.Or(os.Getenv("POP3_INTEROP_ROOT"), filepath.Join(cache, "pop3-interop")), s.folder)
}

// find returns the server's version, or why it cannot run.
func (s *server) find() (version string, err error) {
	if s.dovecot {
		if version, err = findDovecot(); err != nil {
			return "", err
		}
	}
	if s.folder != "" {
		text, err := os.ReadFile(filepath.Join(s.root(), ".version"))
		if err != nil {
			return "", fmt.Errorf("not unpacked by install.sh: %w", err)
		}
		version = strings.TrimSpace(string(text))
	}
	return version, canIsolate()
}

// canIsolate returns an error without root or Linux.
func canIsolate() error {
	out, err := exec.Command(isolated[0], slices.Concat(isolated[1:], []string{"/bin/true"})...).CombinedOutput()
	if err != nil && len(out) > 0 {
		err = errors.New(strings.TrimSpace(string(out)))
	}
	return err
}

func TestMain(m *testing.M) {
	if spec := os.Getenv(inetdEnv); spec != "" {
		fmt.Fprintln(os.Stderr, serveInetd(spec))
		os.Exit(1)
	}
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		flag.Set("test.parallel", "32") // the checks mostly wait, since servers delay the answer to a wrong password
	}
	status := m.Run()
	printResults(os.Stdout)
	os.Exit(status)
}

// TestServers runs the checks on each server that is there.
func TestServers(t *testing.T) {
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			s.test(t)
		})
	}
}

// required holds the servers that must run if POP3_INTEROP is "require". The others must then run if they are there.
var required = []*server{&dovecot, &hashed, &courier, &nginx}

func (s *server) test(t *testing.T) {
	require := os.Getenv("POP3_INTEROP") == "require"
	rows := slices.Concat(checks, s.checks)
	accounts := s.accounts(append(rows, gone))
	var m *machine
	version, err := s.find()
	found := err == nil
	if found {
		m, err = newMachine(t, s, slices.Collect(maps.Values(accounts)))
	}
	s.note(func(r *result) { r.version, r.notRun = version, err })
	if err != nil {
		if require && (found || slices.Contains(required, s)) {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	run := func(t *testing.T, c check) {
		t.Cleanup(func() {
			s.note(func(r *result) { r.checks[c.name] = outcome(t) })
		})
		if why := s.unfit(c); why != nil {
			t.Skipf("%s has %s", s.name, strings.Join(why, ", "))
		}
		c.run(t, &session{machine: m, account: accounts[c.name]})
	}
	t.Run("check", func(t *testing.T) {
		for _, c := range rows {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				run(t, c)
			})
		}
	})
	t.Run(gone.name, func(t *testing.T) { run(t, gone) })
}

// accounts returns an account for each check that fits, by the check's name.
func (s *server) accounts(rows []check) map[string]*account {
	accounts := map[string]*account{}
	for i, c := range rows {
		if s.unfit(c) != nil {
			continue
		}
		a := &account{user: cmp.Or(c.user, fmt.Sprintf("user%02d", i)), password: cmp.Or(c.password, password)}
		for _, mail := range c.mail {
			if mail.needs&^s.has == 0 {
				a.mail = append(a.mail, mail)
			}
		}
		accounts[c.name] = a
	}
	return accounts
}
