package interop

import (
	"fmt"
	"testing"
)

// Perdition in front of a Dovecot, Debian's perdition. Before the login it knows USER, PASS, CAPA, STLS and QUIT alone.
var perdition = server{
	name:    "Perdition",
	dovecot: true,
	folder:  "perdition",
	script:  perditionScript,
	has: capa | starttls | implicitTLS | pipelining | survives | refusesDeleted | commitsFirst | standardDELE | maildir |
		exactSizes | exactTop | untouched | emptyBody | rawHeaders | fromLines | keepsNUL | keepsCR | mixedLines,
	log: dovecotLog,
	checks: []check{
		{name: "drops what is pipelined behind PASS", mail: small(2), run: func(t *testing.T, s *session) {
			caps, err := s.dial(t, nil).Capa(clientContext(t))
			ok(t, err)
			if caps.Has("PIPELINING") {
				t.Errorf("CAPA before login has PIPELINING: %v", caps)
			}
			dropsBehindPass(t, s)
		}},
	},
}

func perditionScript(t *testing.T, m *machine) string {
	script := m.dovecot(t, m.open(t, "dovecot"), "", plainPassword)
	m.file(t, "perdition.conf", "")
	for mode, addr := range map[string]string{"tls_listen": m.plain, "ssl_listen": m.tls} {
		script += fmt.Sprintf(`perdition.pop3 --no_daemon --config_file %[1]s/perdition.conf --pid_file %[1]s/%[2]s.pid \
	--bind_address %[3]s --listen_port %[4]s --outgoing_server %[3]s --outgoing_port %[5]s --map_library '' \
	--no_bind_banner --username nobody --group nogroup --ssl_mode %[2]s --ssl_cert_file %[6]s --ssl_key_file %[7]s \
	--ssl_no_cert_verify --ssl_ca_accept_self_signed &
`, m.dir, mode, m.host, port(addr), port(m.extra["dovecot"]), m.cert, m.key)
	}
	return script
}
