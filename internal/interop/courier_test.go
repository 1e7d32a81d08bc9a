package interop

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"example.com/pop3"
)

// Courier, Debian's courier-pop.
var courier = server{
	name:   "Courier",
	folder: "courier",
	has: capa | starttls | implicitTLS | pipelining | survives | utf8 | refusesDeleted | standardDELE | maildir |
		exactSizes | exactTop | untouched | emptyBody | fromLines | keepsNUL | keepsCR,
	sasl:   []string{"PLAIN", "LOGIN", "CRAM-MD5", "CRAM-SHA1", "CRAM-SHA256"},
	log:    logins{file: "start.log", line: `LOGIN(?:, user=USER|( FAILED), .*), ip=.*, port=\[PORT\]`},
	script: courierScript,
	checks: courierChecks,
}

func courierScript(t *testing.T, m *machine) string {
	home := m.maildirs(t)
	// The script below sets $crypt and the others: all accounts have one password.
	var users strings.Builder
	for _, a := range m.accounts {
		fmt.Fprintf(&users, "%s\tuid=%[2]d|gid=%[2]d|home=%[3]s/%[1]s|mail=%[3]s/%[1]s/Maildir", a.user, mailID, home)
		users.WriteString("|systempw=$crypt|hmac-md5pw=$md5|hmac-sha1pw=$sha1|hmac-sha256pw=$sha256\n")
	}
	m.file(t, "pop3d", fmt.Sprintf(`ADDRESS=%s
PORT=%s
MAXPERIP=100
MAXDAEMONS=100
POP3AUTH="PLAIN LOGIN CRAM-MD5 CRAM-SHA1 CRAM-SHA256"
POP3AUTH_TLS="$POP3AUTH"
`, m.host, port(m.plain)))
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
tcpd() { couriertcpd -address=%[6]s -maxprocs=$MAXDAEMONS -maxperip=$MAXPERIP -nodnslookup -noidentlookup "$@"; }
login="/usr/lib/courier/courier/courierpop3login /usr/lib/courier/courier/courierpop3d Maildir"
tcpd %[4]s $login &
POP3_TLS=1 POP3_STARTTLS=NO POP3_TLS_REQUIRED=0 tcpd %[5]s $COURIERTLS -server -tcpd -user=courier $login &
`, m.dir, password, users.String(), port(m.plain), port(m.tls), m.host)
}

var rawHeader = sample{text: "X-City: Köln\n" + header + "\ntext\n"}

var courierChecks = []check{
	{name: "drops what is pipelined behind PASS", mail: small(2), run: dropsBehindPass},
	{name: "CAPA after login", mail: small(1), run: func(t *testing.T, s *session) {
		// Courier still lists what it now refuses.
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
		count(t, s.login(t, nil), 1) // Courier lists the delay and does not enforce it
	}},
	{name: "mail with raw UTF-8 headers", mail: []sample{rawHeader}, run: func(t *testing.T, s *session) {
		// Without UTF8 (RFC 6856) Courier sends a notice of its own with the message attached.
		ctx := clientContext(t)
		c := s.login(t, nil)
		m, err := c.Retr(ctx, 1)
		if notice := read(t, m, err); bytes.Equal(notice, s.mail[0].wire()) {
			t.Error("RETR sends the message as it is without UTF8")
		}
		quit(t, c)
		c = s.dial(t, nil)
		ok(t, c.UTF8(ctx))
		ok(t, s.userPass(ctx, c))
		m, err = c.Retr(ctx, 1)
		same(t, "with UTF8", read(t, m, err), s.mail[0].wire())
		quit(t, c)
	}},
	{name: "8-bit user name", user: "jürgen", mail: small(1), run: func(t *testing.T, s *session) {
		count(t, s.login(t, nil), 1)
		c := s.dial(t, nil)
		ok(t, c.Auth(clientContext(t), pop3.CRAMMD5Auth(s.user, s.password)))
		count(t, c, 1)
	}},
}
