package interop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/pop3"
)

// Twisted's POP3 server with its maildir, Debian's python3-twisted.
var twisted = server{
	name:   "Twisted",
	folder: "twisted",
	script: twistedScript,
	has:    capa | implicitTLS | survives | commitsFirst | untouched | emptyBody | rawHeaders | fromLines | keepsNUL | keepsCR,
	log: logins{
		file: "twisted.log",
		line: `Authenticated login for USER\b|(Denied) login attempt from .*port=PORT\)`,
	},
	checks: []check{
		{name: "UIDL without the number, sizes without CR", mail: awkward, run: twistedListings},
		{name: "DELE at once", mail: small(3), run: twistedDele},
		{name: "RETR without an answer", mail: small(2), run: func(t *testing.T, s *session) {
			// Twisted does not answer a RETR when the file is gone.
			c := s.login(t, nil)
			ok(t, os.Remove(filepath.Join(s.dir, "home", s.user, "Maildir", "cur", maildirName(1))))
			ctx, cancel := context.WithTimeout(clientContext(t), 200*time.Millisecond)
			defer cancel()
			if m, err := c.Retr(ctx, 2); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("RETR 2: %v, %v", m, err)
			}
			if err := c.Noop(clientContext(t)); !errors.Is(err, pop3.ErrClosed) {
				t.Errorf("NOOP: %v", err)
			}
		}},
		{name: "dot without its stuffing", mail: atChunk("."+strings.Repeat("x", 100), "last"), run: func(t *testing.T, s *session) {
			// Twisted stuffs each chunk of 16 KiB by itself and leaves out the dot that a chunk begins with.
			c := s.login(t, nil)
			m, err := c.Retr(clientContext(t), 1)
			same(t, "RETR 1", read(t, m, err), s.mail[0].wire())
			quit(t, c)
		}},
		{name: "end within the text", mail: atChunk(".", "the rest"), run: func(t *testing.T, s *session) {
			// The same fault ends the text early. What follows the end shows that it is not the whole message.
			c := s.login(t, nil)
			m, err := c.Retr(clientContext(t), 1)
			ok(t, err)
			if _, err := m.WriteTo(io.Discard); !errors.Is(err, pop3.ErrMalformed) || !strings.Contains(err.Error(), "the rest") {
				t.Errorf("got %v, want ErrMalformed and the first line behind the end", err)
			}
			if c.Err() == nil {
				t.Error("Err is nil")
			}
		}},
	},
}

// atChunk returns a message with these lines from octet 16,384 on.
func atChunk(lines ...string) []sample {
	text := header + "\n"
	text += strings.Repeat("x", 1<<14-len(text)-1) + "\n"
	return []sample{{text: text + strings.Join(lines, "\n") + "\n"}}
}

func twistedListings(t *testing.T, s *session) {
	ctx := clientContext(t)
	c := s.login(t, nil)
	for i, mail := range s.mail {
		uid, err := c.UIDL(ctx, i+1)
		ok(t, err)
		if uid.Number != i+1 || uid.UID == "" || uid.UID != c.LastReply() {
			t.Errorf("%s: UIDL %+v from %q", mail.name, uid, c.LastReply())
		}
		info, err := c.List(ctx, i+1)
		ok(t, err)
		m, err := c.Retr(ctx, i+1)
		same(t, mail.name, read(t, m, err), mail.wire())
		if size := int64(len(mail.text)); info.Size != size || m.Size != size {
			t.Errorf("%s: LIST says %d octets, RETR %d, want %d", mail.name, info.Size, m.Size, size)
		}
	}
	quit(t, c)
}

// twistedDele shows that Twisted moves the file at DELE and still counts the message, and that RSET alone moves it back.
func twistedDele(t *testing.T, s *session) {
	ctx := clientContext(t)
	c := s.login(t, nil)
	for range 2 {
		ok(t, c.Dele(ctx, 2))
		count(t, c, 3)
		info, err := c.List(ctx, 2)
		ok(t, err)
		if info.Size != 0 {
			t.Errorf("LIST 2 after DELE 2: %+v", info)
		}
		_, err = c.Retr(ctx, 2)
		s.refused(t, err, "")
		ok(t, c.Rset(ctx))
		m, err := c.Retr(ctx, 2)
		same(t, "after RSET", read(t, m, err), s.mail[1].wire())
	}
	ok(t, c.Dele(ctx, 2))
	if err := c.Dele(ctx, 2); err == nil || c.Err() == nil {
		t.Errorf("a second DELE 2: %v, Err %v", err, c.Err())
	}
	count(t, s.login(t, nil), 2)
}

func twistedScript(t *testing.T, m *machine) string {
	home := m.maildirs(t)
	users := ""
	for _, a := range m.accounts {
		users += fmt.Sprintf("%s %s\n", a.user, a.password)
	}
	m.file(t, "users", users)
	m.file(t, "server.py", twistedServer)
	return fmt.Sprintf("/usr/bin/python3 %[1]s/server.py %[1]s %[2]s %[3]s %[4]s %[5]s %[6]s %[7]s &\n",
		m.dir, home, m.host, port(m.plain), port(m.tls), m.cert, m.key)
}

// twistedServer mends what Twisted 22.4's maildir cannot do on Python 3: RETR, for which it opens files as text, and UIDL.
// DELE moves a file to .Trash, which must be there.
const twistedServer = `import hashlib, os, sys
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.internet import protocol, reactor, ssl
from twisted.mail import maildir, pop3
from twisted.python import log
from zope.interface import implementer

folder, home, host, port, tls_port, cert, key = sys.argv[1:]
log.startLogging(open(folder + "/twisted.log", "w"), setStdout=False)


class Box(maildir.MaildirMailbox):
    def getUidl(self, i):
        if not self.list[i]:
            raise ValueError("deleted")
        return hashlib.md5(os.path.basename(self.list[i]).encode()).hexdigest().encode()

    def getMessage(self, i):
        return open(self.list[i], "rb")


@implementer(IRealm)
class Realm:
    def requestAvatar(self, avatar, mind, *interfaces):
        box = os.path.join(home, avatar.decode(), "Maildir")
        for sub in "cur", "new", "tmp":
            os.makedirs(os.path.join(box, ".Trash", sub), exist_ok=True)
        return pop3.IMailbox, Box(box), lambda: None


class Session(pop3.POP3):
    def connectionMade(self):
        self.transport.setTcpNoDelay(True)
        super().connectionMade()


class Factory(protocol.ServerFactory):
    protocol = Session
    users = dict(line.split() for line in open(folder + "/users"))
    portal = Portal(Realm(), [InMemoryUsernamePasswordDatabaseDontUse(**{u: p.encode() for u, p in users.items()})])

    def buildProtocol(self, addr):
        p = super().buildProtocol(addr)
        p.portal = self.portal
        return p


reactor.listenTCP(int(port), Factory(), interface=host)
reactor.listenSSL(int(tls_port), Factory(), ssl.DefaultOpenSSLContextFactory(key, cert), interface=host)
reactor.run()
`
