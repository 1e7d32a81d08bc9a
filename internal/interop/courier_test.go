package interop

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/pop3"
)

// Courier, Debian's courier-pop.
var courier = server{
	name:   "courier",
	unpack: true,
	has: capa | starttls | implicitTLS | pipelining | survives | utf8 | refusesDeleted | maildir | exactSizes | exactTop |
		untouched | emptyBody | fromLines | keepsNUL | keepsCR,
	sasl: []string{"PLAIN", "LOGIN", "CRAM-MD5", "CRAM-SHA1", "CRAM-SHA256"},
}

func init() {
	courier.find = courier.findUnpacked
	courier.script = courierScript
	courier.checks = courierChecks
}

func courierScript(t *testing.T, m *machine) string {
	home := m.maildirs(t)
	// $crypt and the others are filled in by the script below: one password, so one hash of each kind, for all.
	var users strings.Builder
	for _, a := range m.accounts {
		fmt.Fprintf(&users, "%s\tuid=%[2]d|gid=%[2]d|home=%[3]s/%[1]s|mail=%[3]s/%[1]s/Maildir", a.name, mailID, home)
		users.WriteString("|systempw=$crypt|hmac-md5pw=$md5|hmac-sha1pw=$sha1|hmac-sha256pw=$sha256\n")
	}
	m.file(t, "pop3d", fmt.Sprintf(`ADDRESS=127.0.0.1
PORT=%s
MAXPERIP=100
MAXDAEMONS=100
POP3AUTH="PLAIN LOGIN CRAM-MD5 CRAM-SHA1 CRAM-SHA256"
POP3AUTH_TLS="$POP3AUTH"
`, port(m.plain)))
	m.file(t, "pop3d-ssl", fmt.Sprintf(`TLS_CERTFILE=%s
TLS_CACHEFILE=
POP3_STARTTLS=YES
`, m.bundle))
	return fmt.Sprintf(`cd %[1]s
echo 'courier:x:28999:28999::/:/bin/false' >>/etc/passwd
echo 'courier:x:28999:' >>/etc/group
chown -R courier:courier /etc/courier /usr/lib/courier
cat pop3d >>/etc/courier/pop3d
cat pop3d-ssl >>/etc/courier/pop3d-ssl
mkdir -p /run/courier/authdaemon
chown -R courier:courier /run/courier
sed 's/^authmodulelist=.*/authmodulelist="authuserdb"/; s/^daemons=.*/daemons=2/' /etc/courier/authdaemonrc >authdaemonrc
cp authdaemonrc /etc/courier/authdaemonrc
umask 077
hash() { echo %[2]s | userdbpw "$1"; }
crypt=$(hash -md5) md5=$(hash -hmac-md5) sha1=$(hash -hmac-sha1) sha256=$(hash -hmac-sha256)
cat >/etc/courier/userdb <<USERS
%[3]sUSERS
makeuserdb
umask 022
/usr/lib/courier/courier-authlib/authdaemond >authdaemond.log 2>&1 &
cd /usr
set +u -a
prefix=/usr exec_prefix=/usr bindir=/usr/bin sbindir=/usr/sbin libexecdir=/usr/lib/courier
. /etc/courier/pop3d
. /etc/courier/pop3d-ssl
set +a
tcpd() { couriertcpd -address=127.0.0.1 -maxprocs=$MAXDAEMONS -maxperip=$MAXPERIP -nodnslookup -noidentlookup "$@"; }
login="/usr/lib/courier/courier/courierpop3login /usr/lib/courier/courier/courierpop3d Maildir"
tcpd %[4]s $login &
POP3_TLS=1 POP3_STARTTLS=NO POP3_TLS_REQUIRED=0 tcpd %[5]s $COURIERTLS -server -tcpd -user=courier $login &
`, m.dir, password, users.String(), port(m.plain), port(m.tls))
}

var rawHeader = sample{text: "X-City: Köln\n" + header + "\ntext\n"}

var courierChecks = []check{
	{name: "drops what is pipelined behind PASS", mail: small(1), run: func(t *testing.T, s *session) {
		// What a client that trusts PIPELINING from before login would wait for in vain. NOOP's answer follows PASS's.
		conn, err := net.Dial("tcp", s.plain)
		ok(t, err)
		defer conn.Close()
		text := textproto.NewConn(conn)
		say := func(commands, want string) {
			t.Helper()
			_, err := io.WriteString(conn, commands)
			ok(t, err)
			line, err := text.ReadLine()
			ok(t, err)
			if !strings.HasPrefix(line, want) {
				t.Fatalf("%q is answered %q", commands, line)
			}
		}
		say("", "+OK")
		say("USER "+s.user+"\r\n", "+OK")
		say("PASS "+password+"\r\nSTAT\r\nLIST\r\n", "+OK logged in.")
		say("NOOP\r\n", "+OK Yup.")
		say("QUIT\r\n", "+OK Bye")

		// The client asks CAPA only once PASS is answered.
		var d dialogue
		opts := s.options()
		opts.Trace = d.trace()
		c := s.login(t, opts)
		for m, err := range c.RetrAll(clientContext(t), []int{1, 2}) {
			if m == nil {
				t.Fatal(err)
			} else if m.Number == 1 {
				same(t, "message 1", read(t, m, err), s.mail[0].wire())
			}
		}
		for i, line := range d.lines {
			if strings.HasPrefix(line, "C: PASS") && !strings.HasPrefix(d.lines[i+1], "S: ") {
				t.Errorf("%q follows PASS", d.lines[i+1])
			}
		}
	}},
	{name: "CAPA after login", mail: small(1), run: func(t *testing.T, s *session) {
		// Courier goes on listing what it now refuses.
		ctx := clientContext(t)
		c := s.login(t, nil)
		caps, err := c.Capa(ctx)
		ok(t, err)
		if delay, found := caps.LoginDelay(); !caps.Has("STLS") || !caps.Has("SASL") || !found || delay != 10*time.Second {
			t.Errorf("%v", caps)
		}
		if err := c.StartTLS(ctx, nil); err == nil {
			t.Error("STLS after login succeeds")
		}
		count(t, c, 1)
		quit(t, c)
		count(t, s.login(t, nil), 1) // the delay is announced, not enforced
	}},
	{name: "mail with raw UTF-8 headers", mail: []sample{rawHeader}, run: func(t *testing.T, s *session) {
		// RFC 6856 has UTF8 ask for it; without, Courier sends a notice of its own making, the mail attached.
		ctx := clientContext(t)
		c := s.login(t, nil)
		m, err := c.Retr(ctx, 1)
		if notice := read(t, m, err); bytes.Equal(notice, s.mail[0].wire()) {
			t.Error("sent as it is without UTF8")
		}
		quit(t, c)
		c = s.dial(t, nil)
		ok(t, c.UTF8(ctx))
		ok(t, c.User(ctx, s.user))
		ok(t, c.Pass(ctx, password))
		m, err = c.Retr(ctx, 1)
		same(t, "with UTF8", read(t, m, err), s.mail[0].wire())
		quit(t, c)
	}},
	{name: "STLS with commands behind it", run: func(t *testing.T, s *session) {
		// Courier answers, under TLS, what was sent with STLS in the clear: who could inject there speaks for the user.
		// The client sends nothing behind STLS, and takes nothing that is buffered behind its answer.
		var d dialogue
		opts := s.options()
		opts.Trace = d.trace()
		c := s.via(t, pop3.DialStartTLS, s.plain, opts)
		ok(t, c.Login(clientContext(t), s.user, password))
		at := slices.Index(d.lines, "C: STLS")
		if at < 0 || !strings.HasPrefix(d.lines[at+1], "S: +OK") {
			t.Errorf("%q", d.lines)
		}
	}},
	{name: "8-bit user name", user: "jürgen", mail: small(1), run: func(t *testing.T, s *session) {
		count(t, s.login(t, nil), 1)
		c := s.dial(t, nil)
		ok(t, c.Auth(clientContext(t), pop3.CRAMMD5Auth(s.user, password)))
		count(t, c, 1)
	}},
}
