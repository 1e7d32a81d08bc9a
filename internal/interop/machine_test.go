package interop

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A machine is what one server runs on.
type machine struct {
	server   *server
	dir      string            // for all its files; the users that the server runs as may read it
	host     string            // an address in 127.0.0.0/8 that no other server has, of this run or another
	plain    string            // host:port without TLS
	tls      string            // host:port with implicit TLS, or ""
	extra    map[string]string // host:port of whatever else listens
	accounts []*account
	stop     func()
	*authority
}

// An account is a maildrop and its login.
type account struct {
	user, password string
	mail           []sample
}

// Most accounts have this password; crypt(3) makes passwordCrypt of it.
const (
	password      = "s3cret"
	passwordCrypt = "$6$interop$OMmpijZ6OJTYkEnVX2A.0ZGbolfwixeorQkdOvbOo3SBYVEunj/cF.Q0P7eZZcC/AN9kQxyGzhFUYJeDH3Ype0"
)

// newMachine fills the maildrops and starts the server, which runs until the test ends. It returns an error if the server
// cannot be reached.
func newMachine(t *testing.T, s *server, accounts []*account) (*machine, error) {
	dir, err := os.MkdirTemp("", "pop3-interop-")
	ok(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	ok(t, os.Chmod(dir, 0o755))
	m := &machine{server: s, dir: dir, accounts: accounts, extra: map[string]string{}}
	m.host = fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	m.plain = m.freePort(t)
	if s.has&implicitTLS != 0 {
		m.tls = m.freePort(t)
	}
	m.authority = newAuthority(t, m)
	script := "set -eu\n" + s.script(t, m) + "\nread -r _ || :\n"
	if s.root() != "" {
		m.file(t, "server.sh", script)
		script = m.overlay()
	}
	return m, m.launch(t, script)
}

// open returns one more address for the server to listen on.
func (m *machine) open(t *testing.T, name string) string {
	m.extra[name] = m.freePort(t)
	return m.extra[name]
}

// freePort returns host:port. A server that listens at all addresses may have any port; the range is below the one that
// Linux takes clients' ports from.
func (m *machine) freePort(t *testing.T) string {
	for range 100 {
		addr := net.JoinHostPort(m.host, strconv.Itoa(15000+rand.IntN(15000)))
		if ln, err := net.Listen("tcp", addr); err == nil {
			ln.Close()
			return addr
		}
	}
	t.Fatal("found no free port")
	return ""
}

func port(addr string) string { _, p, _ := net.SplitHostPort(addr); return p }

// overlay returns a script that lays the server's unpacked packages over the root and runs server.sh there. In the
// namespace the server is installed, and everything may be written to. The packages are copied because overlayfs refuses a
// layer that lies within another (ELOOP).
func (m *machine) overlay() string {
	return fmt.Sprintf(`set -eu
mkdir -p %[1]s/layers
mount -t tmpfs -o mode=755 tmpfs %[1]s/layers
cd %[1]s/layers
mkdir work root
cp -a %[2]s upper
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work overlay root
mkdir -p root/proc root/dev root%[1]s
mount --rbind /proc root/proc
mount --rbind /dev root/dev
mount -t tmpfs -o mode=755 tmpfs root/run
mount --bind %[1]s root%[1]s
exec chroot root /bin/sh %[1]s/server.sh
`, m.dir, m.server.root())
}

var isolated = []string{"unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"}

// launch runs a script in namespaces of its own and returns when the server answers at all its addresses. The script is
// the first process there. It ends when its standard input does, however the tests end, and all other processes with it.
func (m *machine) launch(t *testing.T, script string) error {
	out, err := os.Create(filepath.Join(m.dir, "start.log"))
	ok(t, err)
	defer out.Close()
	cmd := exec.Command(isolated[0], slices.Concat(isolated[1:], []string{"/bin/sh", m.file(t, "start.sh", script)})...)
	cmd.Stdout, cmd.Stderr = out, out
	stdin, err := cmd.StdinPipe()
	ok(t, err)
	ok(t, cmd.Start())
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	m.stop = func() { stdin.Close(); <-ended }
	t.Cleanup(func() {
		m.stop()
		if t.Failed() {
			m.printLogs(t)
		}
	})
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(2 * time.Minute) // Cyrus may take half a minute on a busy machine
	for _, addr := range append(slices.Collect(maps.Values(m.extra)), m.plain, m.tls) {
		for addr != "" {
			if conn, err := net.Dial("tcp", addr); err == nil {
				conn.Close()
				break
			}
			select {
			case <-tick.C:
			case <-ended:
				return errors.New("it ended before it served")
			case <-deadline:
				return fmt.Errorf("it does not answer at %s", addr)
			}
		}
	}
	return nil
}

func (m *machine) printLogs(t *testing.T) {
	files, _ := filepath.Glob(filepath.Join(m.dir, "*.log"))
	for _, file := range files {
		text, _ := os.ReadFile(file)
		t.Logf("%s:\n%s", file, text)
	}
}

// file writes a file in the machine's folder and returns its path.
func (m *machine) file(t *testing.T, name, text string) string {
	path := filepath.Join(m.dir, name)
	ok(t, os.MkdirAll(filepath.Dir(path), 0o755))
	ok(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

// maildirs writes each account's mail to USER/Maildir in the folder that it returns. Debian's mail user owns them.
func (m *machine) maildirs(t *testing.T) string {
	for _, a := range m.accounts {
		box := filepath.Join("home", a.user, "Maildir")
		for _, sub := range []string{"cur", "new", "tmp"} {
			ok(t, os.MkdirAll(filepath.Join(m.dir, box, sub), 0o755))
		}
		for i, mail := range a.mail {
			m.file(t, filepath.Join(box, "cur", maildirName(i)), mail.text)
		}
	}
	dir := filepath.Join(m.dir, "home")
	ok(t, os.MkdirAll(dir, 0o755))
	ok(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, mailID, mailID)
	}))
	return dir
}

// mailID is the mail user's and group's in Debian (base-passwd).
const mailID = 8

// maildirName returns the file name of a message that was delivered i seconds after the first.
func maildirName(i int) string { return fmt.Sprintf("%d.M1P1.interop:2,", 1700000000+i) }

// systemUsers writes each account's mail to a file for /var/mail. It returns the part of a script that makes the accounts
// users of the system, for servers that know no others.
func (m *machine) systemUsers(t *testing.T) string {
	var passwd, shadow, group strings.Builder
	for i, a := range m.accounts {
		fmt.Fprintf(&passwd, "%s:x:%d:%d::/tmp:/bin/sh\n", a.user, 29000+i, 29000+i)
		fmt.Fprintf(&group, "%s:x:%d:\n", a.user, 29000+i)
		fmt.Fprintf(&shadow, "%s:%s:19000:0:99999:7:::\n", a.user, passwordCrypt)
		var box strings.Builder
		for _, mail := range a.mail {
			box.WriteString("From sender@example.org Mon Jan  1 00:00:00 2024\n" + mail.text)
			if !strings.HasSuffix(mail.text, "\n") {
				box.WriteString("\n")
			}
			box.WriteString("\n")
		}
		ok(t, os.Chown(m.file(t, "mail/"+a.user, box.String()), 29000+i, mailID))
	}
	m.file(t, "passwd", passwd.String())
	m.file(t, "shadow", shadow.String())
	m.file(t, "group", group.String())
	return fmt.Sprintf(`cd %s
cat passwd >>/etc/passwd
cat shadow >>/etc/shadow
cat group >>/etc/group
chgrp mail mail
chmod 2775 mail
mount --bind mail /var/mail
`, m.dir)
}

// inetd returns a line of script by which this test binary accepts connections on addr and runs command for each, for
// servers that leave that to inetd.
func (m *machine) inetd(t *testing.T, addr, command string) string {
	self, err := os.Executable()
	ok(t, err)
	binary, err := os.ReadFile(self)
	ok(t, err)
	ok(t, os.Chmod(m.file(t, "inetd", string(binary)), 0o755))
	return fmt.Sprintf("%s='%s %s' %s/inetd &\n", inetdEnv, addr, command, m.dir)
}

const inetdEnv = "POP3_INTEROP_INETD"

// serveInetd runs in the server's namespace. The connection is the command's standard input and output.
func serveInetd(spec string) error {
	words := strings.Fields(spec)
	ln, err := net.Listen("tcp", words[0])
	if err != nil {
		return err
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		file, err := conn.(*net.TCPConn).File()
		conn.Close()
		if err != nil {
			return err
		}
		cmd := exec.Command(words[1], words[2:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = file, file, os.Stderr
		cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
		err = cmd.Start()
		file.Close()
		if err != nil {
			return err
		}
		go cmd.Wait()
	}
}
