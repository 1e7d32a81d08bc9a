package interop

import "testing"

// Mailutils, Debian's mailutils-pop3d.
var mailutils = server{
	name:   "mailutils",
	unpack: true,
	has:    capa | pipelining | authCode | survives | exclusive | commitsFirst,
	checks: []check{
		{name: "EXPIRENEVER", run: func(t *testing.T, s *session) {
			// Its CAPA row lacks the space: no claim that the client could read.
			caps, err := s.dial(t, nil).Capa(clientContext(t))
			ok(t, err)
			if days, found := caps.Expire(); found || !caps.Has("EXPIRENEVER") {
				t.Errorf("EXPIRE %d, %v in %v", days, found, caps)
			}
		}},
	},
}

func init() {
	mailutils.find = mailutils.findUnpacked
	mailutils.script = func(t *testing.T, m *machine) string {
		return m.systemUsers(t) + m.inetd(t, m.plain, "/usr/sbin/pop3d --inetd")
	}
}
