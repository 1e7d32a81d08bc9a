package interop

import "testing"

// popa3d, Debian's package of the same name. It answers with bare status indicators and closes after a wrong password.
var popa3d = server{
	name:   "popa3d",
	folder: "popa3d",
	has:    refusesDeleted | commitsFirst | standardDELE | exactSizes | exactTop | untouched | rawHeaders | emptyBody,
	script: func(t *testing.T, m *machine) string {
		return m.systemUsers(t) + `
echo 'popa3d:x:28997:28997::/:/bin/false' >>/etc/passwd
echo 'popa3d:x:28997:' >>/etc/group
mkdir -p /var/lib/popa3d /var/empty
` + m.inetd(t, m.plain, "/usr/sbin/popa3d")
	},
	checks: []check{
		{name: "bare replies", mail: small(1), run: func(t *testing.T, s *session) {
			c := s.login(t, nil)
			if c.Greeting() != "" || c.LastReply() != "" {
				t.Errorf("greeting %q, reply to PASS %q", c.Greeting(), c.LastReply())
			}
			err := c.Dele(clientContext(t), 2)
			if refusal := s.refused(t, err, ""); refusal.Text != "" || refusal.Number != 2 || refusal.Command != "DELE" {
				t.Errorf("%+v", refusal)
			}
		}},
	},
}
