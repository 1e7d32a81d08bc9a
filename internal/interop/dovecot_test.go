package interop

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"example.com/pop3"
)

// Dovecot 2.3, Debian's dovecot-pop3d.
var dovecot = server{
	name: "dovecot",
	find: func() (string, error) {
		if _, err := os.Stat("/usr/lib/dovecot/pop3"); err != nil {
			return "", err
		}
		version, err := exec.Command("/usr/sbin/dovecot", "--version").Output()
		if err == nil && !strings.HasPrefix(string(version), "2.3.") {
			err = errors.New("the configuration here is for Dovecot 2.3, this is " + string(version))
		}
		text, _, _ := strings.Cut(string(version), " ")
		return text, err
	},
	has: capa | starttls | implicitTLS | pipelining | authCode | survives | apop | exclusive | refusesDeleted | commitsFirst |
		maildir | exactSizes | exactTop | untouched | emptyBody | rawHeaders | fromLines | keepsNUL | keepsCR | mixedLines,
	sasl: []string{"PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256", "OAUTHBEARER", "XOAUTH2", "EXTERNAL", "ANONYMOUS"},
}

// signingKey signs the tokens that Dovecot validates by itself.
const signingKey = "interop-signing-key-interop-signing-key"

func init() {
	dovecot.script = dovecotScript
	dovecot.checks = dovecotChecks
}

func dovecotScript(t *testing.T, m *machine) string {
	home := m.maildirs(t)
	var users strings.Builder
	for _, a := range m.accounts {
		fmt.Fprintf(&users, "%s:{PLAIN}%s::::::\n", a.name, password)
	}
	m.file(t, "users", users.String())
	m.file(t, "masters", "master:{PLAIN}"+password+"::::::\n")
	m.file(t, "oauth/default/HS256/default", base64.StdEncoding.EncodeToString([]byte(signingKey)))
	m.file(t, "oauth2.conf", `introspection_mode = local
local_validation_key_dict = fs:posix:prefix=`+m.dir+`/oauth/
username_attribute = sub
`)
	// Dovecot slows down an address after failed logins, by auth_failure_delay and by anvil's penalty: both off.
	m.file(t, "dovecot.conf", fmt.Sprintf(`base_dir = %[1]s/run
state_dir = %[1]s/state
instance_name = interop
log_path = %[1]s/dovecot.log
listen = 127.0.0.1
protocols = pop3
ssl = yes
ssl_cert = <%[2]s
ssl_key = <%[3]s
ssl_ca = <%[4]s
ssl_require_crl = no
ssl_verify_client_cert = yes
auth_ssl_username_from_cert = yes
disable_plaintext_auth = no
auth_mechanisms = plain login cram-md5 scram-sha-1 scram-sha-256 apop oauthbearer xoauth2 external anonymous
auth_master_user_separator = *
auth_username_chars =
auth_failure_delay = 0
first_valid_uid = 1
first_valid_gid = 1
mail_location = maildir:%[5]s/%%n/Maildir
pop3_lock_session = yes
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service pop3-login {
  inet_listener pop3 {
    port = %[6]s
  }
  inet_listener pop3s {
    port = %[7]s
    ssl = yes
  }
}
service stats {
  unix_listener stats-writer {
    mode = 0666
  }
}
passdb {
  driver = passwd-file
  master = yes
  args = %[1]s/masters
}
passdb {
  driver = oauth2
  mechanisms = oauthbearer xoauth2
  args = %[1]s/oauth2.conf
}
passdb {
  driver = static
  mechanisms = external
  args = nopassword=y
}
passdb {
  driver = passwd-file
  args = username_format=%%u %[1]s/users
}
userdb {
  driver = static
  args = uid=mail gid=mail home=%[5]s/%%n
}
`, m.dir, m.cert, m.key, m.caFile, home, port(m.plain), port(m.tls)))
	return "/usr/sbin/dovecot -c " + m.dir + "/dovecot.conf"
}

var dovecotChecks = []check{
	{name: "AUTH OAUTHBEARER", mail: small(1), run: func(t *testing.T, s *session) {
		s.bearer(t, pop3.OAuthBearerAuth, "invalid_token")
	}},
	{name: "AUTH XOAUTH2", mail: small(1), run: func(t *testing.T, s *session) {
		s.bearer(t, pop3.XOAuth2Auth, "401")
	}},
	{name: "AUTH EXTERNAL", mail: small(1), run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		opts := s.options()
		opts.TLSConfig.Certificates = []tls.Certificate{s.issue(t, &x509.Certificate{
			Subject:     pkix.Name{CommonName: s.user},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		})}
		c := s.dialTLS(t, opts)
		s.refused(t, c.Auth(ctx, pop3.ExternalAuth("somebody else")), pop3.CodeAuth)
		ok(t, c.Auth(ctx, pop3.ExternalAuth("")))
		count(t, c, 1)
		quit(t, c)
		c = s.via(t, pop3.DialStartTLS, s.plain, opts)
		ok(t, c.Auth(ctx, pop3.ExternalAuth(s.user)))
		s.refused(t, s.dialTLS(t, nil).Auth(ctx, pop3.ExternalAuth("")), pop3.CodeAuth)
	}},
	{name: "master user", mail: small(1), run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.dial(t, nil)
		s.refused(t, c.Auth(ctx, pop3.PlainAuth(s.user, "master", "wrong")), pop3.CodeAuth)
		ok(t, c.Auth(ctx, pop3.PlainAuth(s.user, "master", password)))
		count(t, c, 1)
		quit(t, c)
		c = s.dial(t, nil)
		ok(t, c.User(ctx, s.user+"*master"))
		ok(t, c.Pass(ctx, password))
		count(t, c, 1)
	}},
	{name: "8-bit user name", user: "jürgen", mail: small(1), run: func(t *testing.T, s *session) {
		c := s.login(t, nil)
		count(t, c, 1)
		quit(t, c)
		for mech, auth := range passwordAuth {
			c := s.dialTLS(t, nil)
			if err := c.Auth(clientContext(t), auth(s.user, password)); err != nil {
				t.Fatalf("AUTH %s: %v", mech, err)
			}
			count(t, c, 1)
			quit(t, c)
		}
	}},
	{name: "bad commands", run: func(t *testing.T, s *session) {
		// Before login Dovecot closes after the third unknown command.
		ctx := clientContext(t)
		c := s.dial(t, nil)
		for range 3 {
			_, _, err := c.Stat(ctx)
			s.refused(t, err, "")
		}
		// The third answer and the parting words come together or apart: these are either octets that nothing asked for or
		// the answer to the fourth.
		for range 3 {
			if _, _, err := c.Stat(ctx); err == nil {
				t.Error("STAT succeeds")
			}
		}
		if c.Err() == nil {
			t.Error("Err is nil")
		}
	}},
	{name: "AUTH ANONYMOUS", user: "anonymous", mail: small(1), run: func(t *testing.T, s *session) {
		c := s.dial(t, nil)
		ok(t, c.Auth(clientContext(t), pop3.AnonymousAuth("interop")))
		count(t, c, 1)
	}},
	{name: "a password of 20,000 octets", run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.dial(t, nil)
		err := c.Auth(ctx, pop3.PlainAuth("", s.user, strings.Repeat("x", 20000)))
		// Dovecot closes with some of it unread, which is a reset.
		if err == nil || errors.Is(err, context.DeadlineExceeded) || c.Err() == nil {
			t.Errorf("%v, Err %v", err, c.Err())
		}
	}},
}

// bearer tries tokens that Dovecot refuses, then one that it takes, on one connection.
func (s *session) bearer(t *testing.T, auth func(username, token string) pop3.SASL, status string) {
	ctx := clientContext(t)
	c := s.dialTLS(t, nil)
	now := time.Now()
	for name, token := range map[string]string{
		"expired":   bearerToken(s.user, signingKey, now.Add(-time.Hour)),
		"wrong key": bearerToken(s.user, "another", now.Add(time.Hour)),
	} {
		err := c.Auth(ctx, auth(s.user, token))
		s.refused(t, err, pop3.CodeAuth)
		if text := err.Error(); !strings.Contains(text, status) || strings.Contains(text, token) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ok(t, c.Auth(ctx, auth(s.user, bearerToken(s.user, signingKey, now.Add(time.Hour)))))
	count(t, c, 1)
	quit(t, c)
}

// bearerToken is a JSON web token (RFC 7519), signed HS256.
func bearerToken(user, key string, expires time.Time) string {
	encode := base64.RawURLEncoding.EncodeToString
	issued := expires.Add(-2 * time.Hour).Unix()
	token := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." +
		encode(fmt.Appendf(nil, `{"sub":%q,"iss":"interop","iat":%d,"nbf":%[2]d,"exp":%d}`, user, issued, expires.Unix()))
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(token))
	return token + "." + encode(mac.Sum(nil))
}
