package interop

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// A server is a row of the table. To add one: how to find it, how to start it, what it can do.
type server struct {
	name   string
	unpack bool // install.sh unpacks it; else it is installed
	// find returns the version to be run, or why it cannot be.
	find func() (version string, err error)
	// script returns the shell commands that leave the server running in the background, its configuration and its
	// maildrops written. They run as root in a namespace that ends with the test.
	script func(t *testing.T, m *machine) string
	has    feature
	sasl   []string // what CAPA lists without TLS, in its order
	checks []check  // beside those for all
}

// A feature is something that some servers have, or do, and others do not.
type feature uint

const (
	capa           feature = 1 << iota // answers CAPA
	starttls                           // STLS
	implicitTLS                        // a second port
	pipelining                         // lists PIPELINING
	authCode                           // a wrong password is [AUTH]
	survives                           // a wrong password leaves the connection open
	apop                               // APOP
	exclusive                          // one session a maildrop, the second is [IN-USE]
	loginDelay                         // enforces LOGIN-DELAY
	utf8                               // UTF8 (RFC 6856)
	refusesDeleted                     // DELE of what is deleted is an error
	commitsFirst                       // deletions are done when QUIT is answered
	maildir                            // mail is files, which can vanish under a session
	exactSizes                         // STAT and LIST count the octets that RETR sends
	exactTop                           // TOP sends the lines asked for and no more
	untouched                          // mail is the same in every session, headers too
	emptyBody                          // so is a message that ends after its headers
	rawHeaders                         // and 8-bit octets in a header, without UTF8
	fromLines                          // and lines that begin "From "
	keepsNUL                           // and NUL octets
	keepsCR                            // and a CR that is no line end's
	mixedLines                         // and mail with CRLF on disk, which does not become CR CRLF
)

func (s *server) root() string {
	if !s.unpack {
		return ""
	}
	root := os.Getenv("POP3_INTEROP_ROOT")
	if root == "" {
		cache := os.Getenv("XDG_CACHE_HOME")
		if cache == "" {
			cache = filepath.Join(os.Getenv("HOME"), ".cache")
		}
		root = filepath.Join(cache, "pop3-interop")
	}
	return filepath.Join(root, s.name)
}

// findUnpacked is find for what install.sh unpacks.
func (s *server) findUnpacked() (string, error) {
	version, err := os.ReadFile(filepath.Join(s.root(), ".version"))
	if err != nil {
		err = fmt.Errorf("not unpacked by install.sh: %w", err)
	}
	return strings.TrimSpace(string(version)), err
}

var servers = []*server{&dovecot, &courier, &cyrus, &popa3d, &mailutils}

// A check is one test of the client against one server, on an account of its own.
type check struct {
	name  string
	needs feature  // the server must have
	lacks feature  // the server must not have
	user  string   // default: a name made for it
	mail  []sample // what is in the maildrop
	run   func(t *testing.T, s *session)
}

// tally is what TestMain prints: go test -v, or go test in this folder, shows it.
var tally struct {
	sync.Mutex
	lines []string
}

func TestMain(m *testing.M) {
	if spec := os.Getenv(inetdEnv); spec != "" {
		fmt.Fprintln(os.Stderr, serveInetd(spec))
		os.Exit(1)
	}
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		flag.Set("test.parallel", "16") // the checks wait more than they work: servers answer a wrong password late
	}
	status := m.Run()
	slices.Sort(tally.lines)
	for _, line := range tally.lines {
		fmt.Println("interop:", line)
	}
	os.Exit(status)
}

func report(line string) {
	tally.Lock()
	defer tally.Unlock()
	tally.lines = append(tally.lines, line)
}

// TestServers runs each check that fits on each server that is there.
func TestServers(t *testing.T) {
	required := os.Getenv("POP3_INTEROP") == "require"
	namespaces := canIsolate()
	found := 0
	for _, s := range servers {
		version, err := s.find()
		err = cmp.Or(err, namespaces)
		if err == nil {
			found++
		} else {
			err = fmt.Errorf("%s not run: %w", s.name, err)
			report(err.Error())
		}
		t.Run(s.name, func(t *testing.T) {
			if err != nil {
				if required && s == &dovecot {
					t.Fatal(err)
				}
				t.Skip(err)
			}
			t.Parallel()
			s.test(t, version)
		})
	}
	if required && found < 2 {
		t.Errorf("%d servers ran, want Dovecot and one more at least", found)
	}
}

func (s *server) test(t *testing.T, version string) {
	var rows []check
	for _, c := range slices.Concat(checks, mechanisms(s), s.checks, []check{gone}) {
		if c.needs&^s.has == 0 && c.lacks&s.has == 0 {
			rows = append(rows, c)
		}
	}
	accounts := make([]*account, len(rows))
	for i, c := range rows {
		accounts[i] = &account{name: c.user}
		if c.user == "" {
			accounts[i].name = fmt.Sprintf("user%02d", i)
		}
		for _, mail := range c.mail {
			if mail.needs&^s.has == 0 {
				accounts[i].mail = append(accounts[i].mail, mail)
			}
		}
	}
	m := newMachine(t, s, accounts)
	var ran, passed atomic.Int32
	run := func(t *testing.T, i int) {
		ran.Add(1)
		t.Cleanup(func() {
			if !t.Failed() {
				passed.Add(1)
			}
		})
		rows[i].run(t, &session{machine: m, user: accounts[i].name, mail: accounts[i].mail})
	}
	last := len(rows) - 1
	t.Run("check", func(t *testing.T) {
		for i, c := range rows[:last] {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				run(t, i)
			})
		}
	})
	t.Run(rows[last].name, func(t *testing.T) { run(t, last) })
	line := fmt.Sprintf("%s %s: %d checks run, %d passed", s.name, version, ran.Load(), passed.Load())
	report(line)
	t.Log(line)
}
