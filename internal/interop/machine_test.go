package interop

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// A machine is what one server runs on: a folder, ports on loopback, a CA made for it, and the maildrops it serves.
type machine struct {
	server   *server
	dir      string // all it writes; readable by the users it runs as
	plain    string // host:port
	tls      string // host:port, implicit TLS; "" if the server has none
	delay    string // host:port of a second listener that enforces LOGIN-DELAY; "" if the server has none
	accounts []*account

	ca        *x509.Certificate
	caKey     *ecdsa.PrivateKey
	roots     *x509.CertPool
	cert, key string // files, PEM
	bundle    string // key, certificate and CA in one file
	caFile    string
	stop      func()
}

// The password of every account, and what crypt(3) makes of it, for servers that read /etc/shadow.
const (
	password      = "s3cret"
	passwordCrypt = "$6$interop$OMmpijZ6OJTYkEnVX2A.0ZGbolfwixeorQkdOvbOo3SBYVEunj/cF.Q0P7eZZcC/AN9kQxyGzhFUYJeDH3Ype0"
)

type account struct {
	name string
	mail []sample
}

// newMachine starts the server, its maildrops filled, and returns when it answers. The server ends with the test.
func newMachine(t *testing.T, s *server, accounts []*account) *machine {
	dir, err := os.MkdirTemp("", "pop3-interop-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	m := &machine{server: s, dir: dir, accounts: accounts, plain: freePort(t)}
	if s.has&implicitTLS != 0 {
		m.tls = freePort(t)
	}
	if s.has&loginDelay != 0 {
		m.delay = freePort(t)
	}
	m.makeCA(t)
	script := "set -eu\n" + s.script(t, m) + "\nread -r _ || :\n"
	if s.root() != "" {
		m.file(t, "server.sh", script)
		script = m.overlay()
	}
	m.launch(t, script)
	return m
}

// overlay is a script that lays the server's unpacked packages over the machine's root and runs server.sh in there: a
// machine that has the server installed, and may be written to, for as long as the namespace lives. The packages are
// copied because overlayfs refuses a layer that lies within another (ELOOP).
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

// canIsolate tells why launch would fail, if it would: for want of root or of Linux.
func canIsolate() error {
	out, err := exec.Command(isolated[0], slices.Concat(isolated[1:], []string{"/bin/true"})...).CombinedOutput()
	if err != nil && len(out) > 0 {
		err = errors.New(strings.TrimSpace(string(out)))
	}
	return err
}

// launch runs a script in namespaces of its own. The script is their first process and ends when its standard input does,
// and all the others with it, however these tests end.
func (m *machine) launch(t *testing.T, script string) {
	out, err := os.Create(filepath.Join(m.dir, "start.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(isolated[0], slices.Concat(isolated[1:], []string{"/bin/sh", m.file(t, "start.sh", script)})...)
	cmd.Stdout, cmd.Stderr = out, out
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	m.stop = func() { stdin.Close(); <-ended }
	t.Cleanup(func() {
		m.stop()
		if !t.Failed() {
			return
		}
		logs, _ := filepath.Glob(filepath.Join(m.dir, "*.log"))
		for _, log := range logs {
			text, _ := os.ReadFile(log)
			t.Logf("%s:\n%s", log, text)
		}
	})
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for _, addr := range []string{m.plain, m.tls, m.delay} {
		for addr != "" {
			if conn, err := net.Dial("tcp", addr); err == nil {
				conn.Close()
				break
			}
			select {
			case <-tick.C:
			case <-ended:
				t.Fatalf("%s ended before it served", m.server.name)
			case <-deadline:
				t.Fatalf("%s does not answer on %s", m.server.name, addr)
			}
		}
	}
}

// freePort reserves nothing, so it looks below Linux's range of ephemeral ports, which the connections of other checks
// take at any moment.
func freePort(t *testing.T) string {
	for range 100 {
		if ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 15000+mathrand.IntN(15000))); err == nil {
			defer ln.Close()
			return ln.Addr().String()
		}
	}
	t.Fatal("found no free port")
	return ""
}

func port(addr string) string { _, p, _ := net.SplitHostPort(addr); return p }

// file writes a file below the machine's folder and returns its path.
func (m *machine) file(t *testing.T, name, text string) string {
	path := filepath.Join(m.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// chown gives a folder and all in it to a user and group.
func chown(t *testing.T, dir string, uid, gid int) {
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, uid, gid)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// maildirs writes each account's mail to dir/NAME/Maildir, owned by Debian's mail user.
func (m *machine) maildirs(t *testing.T) string {
	for _, a := range m.accounts {
		box := filepath.Join("home", a.name, "Maildir")
		for _, sub := range []string{"cur", "new", "tmp"} {
			if err := os.MkdirAll(filepath.Join(m.dir, box, sub), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for i, mail := range a.mail {
			m.file(t, filepath.Join(box, "cur", maildirName(i)), mail.text)
		}
	}
	dir := filepath.Join(m.dir, "home")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	chown(t, dir, mailID, mailID)
	return dir
}

// The mail user and group of Debian (base-passwd).
const mailID = 8

// maildirName sorts by i, as a delivery time a second later than the one before would.
func maildirName(i int) string { return fmt.Sprintf("%d.M1P1.interop:2,", 1700000000+i) }

// systemUsers makes the accounts known to the machine below the overlay, mailboxes in /var/mail: for servers that know
// no users but the system's.
func (m *machine) systemUsers(t *testing.T) string {
	var passwd, shadow, group strings.Builder
	for i, a := range m.accounts {
		fmt.Fprintf(&passwd, "%s:x:%d:%d::/tmp:/bin/sh\n", a.name, 29000+i, 29000+i)
		fmt.Fprintf(&group, "%s:x:%d:\n", a.name, 29000+i)
		fmt.Fprintf(&shadow, "%s:%s:19000:0:99999:7:::\n", a.name, passwordCrypt)
		var box strings.Builder
		for _, mail := range a.mail {
			box.WriteString("From sender@example.org Mon Jan  1 00:00:00 2024\n" + mail.text)
			if !strings.HasSuffix(mail.text, "\n") {
				box.WriteString("\n")
			}
			box.WriteString("\n")
		}
		if err := os.Chown(m.file(t, "mail/"+a.name, box.String()), 29000+i, mailID); err != nil {
			t.Fatal(err)
		}
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

// inetd is a line of script that has this test binary accept connections on addr and run command for each, the
// connection its standard input and output: for servers that leave that to inetd.
func (m *machine) inetd(t *testing.T, addr, command string) string {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(m.file(t, "inetd", string(binary)), 0o755); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s='%s %s' %s/inetd &\n", inetdEnv, addr, command, m.dir)
}

const inetdEnv = "POP3_INTEROP_INETD"

// serveInetd is the other side of inetd: it runs in the server's namespace until that ends.
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

// makeCA makes a CA and the server's certificate, for localhost and 127.0.0.1.
func (m *machine) makeCA(t *testing.T) {
	m.ca, m.caKey = newCA(t)
	m.roots = x509.NewCertPool()
	m.roots.AddCert(m.ca)
	server := m.issue(t, &x509.Certificate{
		Subject:     pkix.Name{CommonName: "localhost"},
		DNSNames:    []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	der, err := x509.MarshalPKCS8PrivateKey(server.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	key := encode("PRIVATE KEY", der)
	cert := encode("CERTIFICATE", server.Certificate[0])
	ca := encode("CERTIFICATE", m.ca.Raw)
	m.key = m.file(t, "tls/key.pem", key)
	m.cert = m.file(t, "tls/cert.pem", cert)
	m.caFile = m.file(t, "tls/ca.pem", ca)
	m.bundle = m.file(t, "tls/bundle.pem", key+cert+ca)
}

func encode(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func newCA(t *testing.T) (*x509.Certificate, *ecdsa.PrivateKey) {
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "interop CA"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return ca, key
}

// issue has the machine's CA sign a certificate for a new key.
func (m *machine) issue(t *testing.T, template *x509.Certificate) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = m.ca.NotBefore, m.ca.NotAfter
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, m.ca, key.Public(), m.caKey)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der, m.ca.Raw}, PrivateKey: key}
}
