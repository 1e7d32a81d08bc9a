package interop

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/pop3"
)

// Cyrus, Debian's cyrus-pop3d.
var cyrus = server{
	name:   "Cyrus",
	folder: "cyrus",
	has: capa | starttls | implicitTLS | pipelining | authCode | survives | apop | refusesDeleted |
		commitsFirst | standardDELE | exactSizes | exactTop | untouched | emptyBody | rawHeaders | fromLines,
	sasl: []string{"SCRAM-SHA-512", "SCRAM-SHA-384", "SCRAM-SHA-256", "SCRAM-SHA-224", "SCRAM-SHA-1", "DIGEST-MD5",
		"CRAM-MD5", "NTLM", "PLAIN", "LOGIN"},
	script: cyrusScript,
	checks: cyrusChecks,
}

func cyrusScript(t *testing.T, m *machine) string {
	// A mailbox is a folder of numbered files with CRLF, which reconstruct takes in.
	var logins strings.Builder
	var boxes, folders []string
	for _, a := range m.accounts {
		folder := filepath.Join(m.dir, "spool", a.user[:1], "user", a.user)
		ok(t, os.MkdirAll(folder, 0o755))
		for i, mail := range a.mail {
			ok(t, os.WriteFile(filepath.Join(folder, fmt.Sprintf("%d.", i+1)), mail.wire(), 0o644))
		}
		boxes = append(boxes, "user."+a.user)
		folders = append(folders, folder)
		fmt.Fprintf(&logins, "echo %s | saslpasswd2 -p -c -u interop -f sasldb %s\n", password, a.user)
	}
	m.file(t, "imapd.conf", fmt.Sprintf(`configdirectory: %[1]s/config
defaultpartition: default
partition-default: %[1]s/spool
hashimapspool: yes
mailbox_legacy_dirs: yes
proc_path: /run/cyrus/proc
mboxname_lockpath: /run/cyrus/lock
servername: interop
defaultdomain: interop
virtdomains: off
unixhierarchysep: no
autocreate_quota: 0
allowplaintext: yes
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: %[1]s/sasldb
tls_server_cert: %[2]s
tls_server_key: %[3]s
popminpoll: 0
popexpiretime: 30
popdelay_popminpoll: 1
popdelay_popexpiretime: 0
`, m.dir, m.cert, m.key))
	m.file(t, "cyrus.conf", fmt.Sprintf(`START {
}
SERVICES {
  pop cmd="pop3d" listen="%s" prefork=1
  pops cmd="pop3d -s" listen="%s" prefork=1
  popdelay cmd="pop3d" listen="%s" prefork=0
}
EVENTS {
}
`, m.plain, m.tls, m.open(t, "delay")))
	// The first reconstruct makes cyrus.header and fails, since the mailbox is not listed yet. The second lists it, and the
	// third takes in the mail.
	return fmt.Sprintf(`cd %[1]s
echo 'cyrus:x:28998:8::%[1]s:/bin/sh' >>/etc/passwd
mkdir -p config/socket /run/cyrus/proc /run/cyrus/lock /run/cyrus/socket
cp imapd.conf cyrus.conf /etc/
%[2]s
chown -R cyrus:mail config spool sasldb /run/cyrus
bin=/usr/lib/cyrus/bin
$bin/ctl_cyrusdb -r
echo %[3]s | xargs -n1 -P8 $bin/reconstruct -p default >/dev/null 2>&1 || :
$bin/reconstruct -P %[4]s >/dev/null
$bin/reconstruct %[3]s >/dev/null
$bin/master -p master.pid -l 64 -d -L master.log
`, m.dir, logins.String(), strings.Join(boxes, " "), strings.Join(folders, " "))
}

var cyrusChecks = []check{
	{name: "LOGIN-DELAY", mail: small(1), run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.via(t, pop3.Dial, s.extra["delay"], nil)
		caps, err := c.Capa(ctx)
		ok(t, err)
		if delay, found := caps.LoginDelay(); !found || delay != time.Minute {
			t.Errorf("LOGIN-DELAY %v, %v", delay, found)
		}
		ok(t, c.Login(ctx, s.user, s.password))
		quit(t, c)
		c = s.via(t, pop3.Dial, s.extra["delay"], nil)
		err = c.Login(ctx, s.user, s.password)
		if !s.refused(t, err, pop3.CodeLoginDelay).Temporary() {
			t.Errorf("not temporary: %v", err)
		}
	}},
	{name: "EXPIRE", mail: small(20), run: func(t *testing.T, s *session) {
		// With EXPIRE 0 a message that was sent may be deleted (RFC 2449 section 6.7), so the client asks for none before the
		// loop wants it. The port with EXPIRE 0 comes first, because its LOGIN-DELAY counts logins at the other one too.
		ctx := clientContext(t)
		for _, want := range []int{0, 30} {
			addr := s.extra["delay"]
			if want != 0 {
				addr = s.plain
			}
			var d dialogue
			opts := s.options()
			opts.Trace = d.trace()
			c := s.via(t, pop3.Dial, addr, opts)
			ok(t, c.Login(ctx, s.user, s.password))
			caps, err := c.Capa(ctx)
			ok(t, err)
			if days, found := caps.Expire(); !found || days != want {
				t.Errorf("EXPIRE %d, %v", days, found)
			}
			for m, err := range c.RetrAll(ctx, numbers(20)) {
				if m == nil {
					t.Fatal(err)
				}
				same(t, fmt.Sprint("message ", m.Number), read(t, m, err), s.mail[m.Number-1].wire())
			}
			if ahead := d.ahead("RETR"); (ahead == 1) != (want == 0) {
				t.Errorf("EXPIRE %d: %d RETR in a row", want, ahead)
			}
			quit(t, c)
		}
	}},
	{name: "SCRAM-PLUS under TLS 1.2", mail: small(1), run: func(t *testing.T, s *session) {
		for _, auth := range plusAuth {
			opts := s.options()
			opts.TLSConfig.MaxVersion = tls.VersionTLS12
			c := s.dialTLS(t, opts)
			state, _ := c.TLSConnectionState()
			ok(t, c.Auth(clientContext(t), auth(s.user, s.password, state)))
			count(t, c, 1)
			quit(t, c)
		}
	}},
	{name: "SCRAM-PLUS under TLS 1.3", mail: small(1), run: func(t *testing.T, s *session) {
		// Cyrus 3.6 offers the mechanism and does not know tls-exporter (RFC 9266).
		for _, auth := range plusAuth {
			c := s.dialTLS(t, nil)
			state, _ := c.TLSConnectionState()
			s.refused(t, c.Auth(clientContext(t), auth(s.user, s.password, state)), pop3.CodeAuth)
			ok(t, c.Login(clientContext(t), s.user, s.password))
			count(t, c, 1)
			quit(t, c)
		}
	}},
	{name: "USER that is refused", run: func(t *testing.T, s *session) {
		// Cyrus refuses USER, where others wait for PASS.
		err := s.dial(t, nil).User(clientContext(t), "nobody/x")
		s.refused(t, err, pop3.CodeAuth)
	}},
}

var plusAuth = []func(username, password string, state tls.ConnectionState) pop3.SASL{
	pop3.SCRAMSHA1PlusAuth, pop3.SCRAMSHA256PlusAuth,
}
