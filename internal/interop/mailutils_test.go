package interop

import "testing"

// Mailutils, Debian's mailutils-pop3d.
var mailutils = server{
	name:   "Mailutils",
	folder: "mailutils",
	has:    capa | pipelining | authCode | survives | exclusive | commitsFirst | standardDELE,
	script: func(t *testing.T, m *machine) string {
		return m.systemUsers(t) + m.inetd(t, m.plain, "/usr/sbin/pop3d --inetd")
	},
	checks: []check{
		{name: "EXPIRENEVER", run: func(t *testing.T, s *session) {
			// The row of CAPA lacks the space, so the client cannot read it.
			caps, err := s.dial(t, nil).Capa(clientContext(t))
			ok(t, err)
			if days, found := caps.Expire(); found || !caps.Has("EXPIRENEVER") {
				t.Errorf("EXPIRE %d, %v in %v", days, found, caps)
			}
		}},
	},
}
