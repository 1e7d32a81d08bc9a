package interop

import (
	"crypto/hmac"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"example.com/pop3"
)

// nginx's mail proxy in front of a Dovecot, Debian's nginx and libnginx-mod-mail. Before the login it answers by itself. It
// asks an HTTP service, here in the test process, whether a password is right, and logs in to Dovecot with USER and PASS.
var nginx = server{
	name:    "nginx",
	dovecot: true,
	folder:  "nginx",
	script:  nginxScript,
	has: capa | starttls | implicitTLS | pipelining | survives | apop | exclusive | refusesDeleted | commitsFirst | standardDELE |
		maildir | exactSizes | exactTop | untouched | emptyBody | rawHeaders | fromLines | keepsNUL | keepsCR | mixedLines | temporary,
	sasl: []string{"PLAIN", "LOGIN", "CRAM-MD5"},
	log:  logins{file: "nginx.log", line: `client (?:logged in|(login failed)).* login: "USER"`},
	checks: []check{
		{name: "Login by CRAM-MD5 alone", mail: small(1), run: func(t *testing.T, s *session) {
			s.tryLogin(t, pop3.DialStartTLS, s.extra["CRAM-MD5"], "CRAM-MD5")
		}},
		// A line before the login holds 128 octets at most.
		{name: "PLAIN that needs a line of its own", user: strings.Repeat("u", 60), password: strings.Repeat("p", 28),
			mail: small(1), run: func(t *testing.T, s *session) {
				s.tryLogin(t, pop3.DialTLS, s.tls, "PLAIN")
			}},
		{name: "user name and password of 60 octets", user: strings.Repeat("n", 60), password: strings.Repeat("p", 60),
			mail: small(1), run: func(t *testing.T, s *session) {
				s.tryLogin(t, pop3.Dial, s.plain, "CRAM-MD5")
				s.tryLogin(t, pop3.DialStartTLS, s.plain, "LOGIN")
				s.tryLogin(t, pop3.DialTLS, s.tls, "LOGIN")
			}},
		{name: "password of 100 octets", password: strings.Repeat("p", 100), mail: small(1), run: func(t *testing.T, s *session) {
			s.tryLogin(t, pop3.Dial, s.plain, "CRAM-MD5")
			s.tryLogin(t, pop3.DialTLS, s.tls, "CRAM-MD5")
			s.tryLogin(t, pop3.Dial, s.extra["PLAIN and LOGIN"], "USER")
		}},
	},
}

func nginxScript(t *testing.T, m *machine) string {
	service := httptest.NewServer(m.passwordService(m.open(t, "dovecot")))
	t.Cleanup(service.Close)
	m.file(t, "nginx.conf", fmt.Sprintf(`load_module /usr/lib/nginx/modules/ngx_mail_module.so;
user nobody nogroup;
worker_processes 1;
pid %[1]s/nginx.pid;
error_log %[1]s/nginx.log info;
events {
	worker_connections 512;
}
mail {
	server_name localhost;
	auth_http %[2]s;
	pop3_auth plain apop cram-md5;
	pop3_capabilities TOP USER UIDL PIPELINING;
	proxy_pass_error_message on;
	ssl_protocols TLSv1.3;
	ssl_certificate %[3]s;
	ssl_certificate_key %[4]s;
	server {
		listen %[5]s;
		protocol pop3;
		starttls on;
	}
	server {
		listen %[6]s ssl;
		protocol pop3;
	}
	server {
		listen %[7]s;
		protocol pop3;
		pop3_auth plain;
	}
	server {
		listen %[8]s;
		protocol pop3;
		pop3_auth cram-md5;
		starttls on;
	}
}
`, m.dir, service.Listener.Addr(), m.cert, m.key, m.plain, m.tls, m.open(t, "PLAIN and LOGIN"), m.open(t, "CRAM-MD5")))
	return m.dovecot(t, m.extra["dovecot"], "", plainPassword) + "nginx -c " + m.dir + "/nginx.conf\n"
}

// passwordService answers nginx (ngx_mail_auth_http_module), which sends the password, or a digest and its salt.
func (m *machine) passwordService(dovecot string) http.Handler {
	secrets := map[string]string{}
	for _, a := range m.accounts {
		secrets[a.user] = a.password
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, _ := url.PathUnescape(r.Header.Get("Auth-User"))
		pass, _ := url.PathUnescape(r.Header.Get("Auth-Pass"))
		secret, found := secrets[user]
		want := secret
		switch salt := r.Header.Get("Auth-Salt"); r.Header.Get("Auth-Method") {
		case "apop":
			sum := md5.Sum([]byte(salt + secret))
			want = hex.EncodeToString(sum[:])
		case "cram-md5":
			mac := hmac.New(md5.New, []byte(secret))
			io.WriteString(mac, salt)
			want = hex.EncodeToString(mac.Sum(nil))
		}
		if !found || pass != want {
			w.Header().Set("Auth-Status", "Invalid login or password")
			w.Header().Set("Auth-Wait", "1") // seconds; without it nginx closes the connection
			return
		}
		host, port, _ := net.SplitHostPort(dovecot)
		w.Header().Set("Auth-Status", "OK")
		w.Header().Set("Auth-Server", host)
		w.Header().Set("Auth-Port", port)
		w.Header().Set("Auth-User", user)
		w.Header().Set("Auth-Pass", secret)
	})
}
