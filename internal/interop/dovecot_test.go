package interop

import (
	"cmp"
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
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/pop3"
)

var dovecot = server{
	name:    "Dovecot",
	dovecot: true,
	script: func(t *testing.T, m *machine) string {
		return m.dovecot(t, m.plain, m.tls, plainPassword)
	},
	has:    dovecotHas,
	sasl:   dovecotSASL,
	log:    dovecotLog,
	checks: dovecotChecks,
}

// hashed is a Dovecot with passwords in a form that serves neither SCRAM nor CRAM-MD5 nor APOP. It offers them all the same.
var hashed = server{
	name:    "Dovecot, hashed",
	dovecot: true,
	script: func(t *testing.T, m *machine) string {
		return m.dovecot(t, m.plain, m.tls, func(*account) string { return "{SHA512-CRYPT}" + passwordCrypt })
	},
	has:    dovecotHas&^exclusive | hashes,
	sasl:   dovecotSASL,
	log:    dovecotLog,
	checks: slices.Concat(hashedChecks, dovecotChecks),
}

func plainPassword(a *account) string { return "{PLAIN}" + a.password }

const dovecotHas = capa | starttls | implicitTLS | pipelining | authCode | survives | apop | exclusive | refusesDeleted |
	commitsFirst | standardDELE | maildir | exactSizes | exactTop | untouched | emptyBody | rawHeaders | fromLines | keepsNUL |
	keepsCR | mixedLines | temporary

var dovecotSASL = []string{
	"PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256", "OAUTHBEARER", "XOAUTH2", "EXTERNAL", "ANONYMOUS",
}

// findDovecot returns the version of the Dovecot that is installed.
func findDovecot() (string, error) {
	text, err := exec.Command("/usr/sbin/dovecot", "--version").Output()
	if err != nil {
		return "", err
	}
	if _, err := os.Stat("/usr/lib/dovecot/pop3"); err != nil {
		return "", err
	}
	version, _, _ := strings.Cut(string(text), " ")
	if !strings.HasPrefix(version, "2.3.") {
		return "", errors.New("the configuration here is for Dovecot 2.3, this is " + version)
	}
	return version, nil
}

// dovecotLog matches how the auth process ends an attempt, which auth_debug has it log.
var dovecotLog = logins{file: "dovecot.log", line: `client passdb out: (?:OK|(FAIL))\t\d+\tuser=USER\b`}

// signingKey signs the tokens that Dovecot validates by itself.
const signingKey = "interop-signing-key-interop-signing-key"

// dovecot returns the command that starts a Dovecot with the machine's maildrops. stored returns an account's password as
// Dovecot has it; tls may be "".
func (m *machine) dovecot(t *testing.T, plain, tls string, stored func(*account) string) string {
	home := m.maildirs(t)
	var users strings.Builder
	for _, a := range m.accounts {
		fmt.Fprintf(&users, "%s:%s::::::\n", a.user, stored(a))
	}
	m.file(t, "users", users.String())
	m.file(t, "masters", "master:{PLAIN}"+password+"::::::\n")
	m.file(t, "oauth/default/HS256/default", base64.StdEncoding.EncodeToString([]byte(signingKey)))
	m.file(t, "oauth2.conf", `introspection_mode = local
local_validation_key_dict = fs:posix:prefix=`+m.dir+`/oauth/
username_attribute = sub
`)
	lock := "no"
	if m.server.has&exclusive != 0 {
		lock = "yes"
	}
	m.file(t, "dovecot.conf", os.Expand(dovecotConfig, func(name string) string {
		return map[string]string{
			"dir": m.dir, "cert": m.cert, "key": m.key, "ca": m.caFile, "home": home, "lock": lock,
			"host": m.host, "plain": port(plain), "tls": cmp.Or(port(tls), "0"),
		}[name]
	}))
	return "/usr/sbin/dovecot -c " + m.dir + "/dovecot.conf\n"
}

// dovecotConfig turns off what slows down an address after failed logins: auth_failure_delay and anvil's penalty.
const dovecotConfig = `base_dir = ${dir}/run
state_dir = ${dir}/state
instance_name = interop
log_path = ${dir}/dovecot.log
auth_debug = yes
listen = ${host}
protocols = pop3
ssl = yes
ssl_cert = <${cert}
ssl_key = <${key}
ssl_ca = <${ca}
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
mail_location = maildir:${home}/%n/Maildir
pop3_lock_session = ${lock}
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service pop3-login {
  inet_listener pop3 {
    port = ${plain}
  }
  inet_listener pop3s {
    port = ${tls}
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
  args = ${dir}/masters
}
passdb {
  driver = oauth2
  mechanisms = oauthbearer xoauth2
  args = ${dir}/oauth2.conf
}
passdb {
  driver = static
  mechanisms = external
  args = nopassword=y
}
passdb {
  driver = passwd-file
  args = username_format=%u ${dir}/users
}
userdb {
  driver = static
  args = uid=mail gid=mail home=${home}/%n
}
`

var hashedChecks = []check{
	{name: "what hashed passwords cannot serve", mail: small(1), run: func(t *testing.T, s *session) {
		// Dovecot offers these mechanisms and refuses them as it refuses a wrong password.
		ctx := clientContext(t)
		for _, mech := range []string{"SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "APOP"} {
			c := s.dial(t, nil)
			if mech == "APOP" {
				s.refused(t, c.APOP(ctx, s.user, s.password), pop3.CodeAuth)
			} else {
				s.refused(t, c.Auth(ctx, passwordAuth[mech](s.user, s.password)), pop3.CodeAuth)
			}
			ok(t, c.Auth(ctx, pop3.PlainAuth("", s.user, s.password)))
			count(t, c, 1)
			quit(t, c)
		}
		s.logged(t, slices.Repeat([]string{refused, accepted}, 4)...)
	}},
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
		opts.TLSConfig.Certificates = []tls.Certificate{s.Issue(&x509.Certificate{
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
		ok(t, c.Pass(ctx, s.password))
		count(t, c, 1)
	}},
	{name: "8-bit user name", user: "jürgen", mail: small(1), run: func(t *testing.T, s *session) {
		c := s.login(t, nil)
		count(t, c, 1)
		quit(t, c)
		for mech, auth := range passwordAuth {
			if s.server.unfit(authCheck(mech)) != nil {
				continue
			}
			c := s.dialTLS(t, nil)
			if err := c.Auth(clientContext(t), auth(s.user, s.password)); err != nil {
				t.Fatalf("AUTH %s: %v", mech, err)
			}
			count(t, c, 1)
			quit(t, c)
		}
	}},
	{name: "bad commands", run: func(t *testing.T, s *session) {
		// Dovecot closes after the third unknown command before login.
		ctx := clientContext(t)
		c := s.dial(t, nil)
		for range 3 {
			_, _, err := c.Stat(ctx)
			s.refused(t, err, "")
		}
		// Its last line comes with the third answer or after it, and so is either what nothing asked for or the answer to
		// the fourth.
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
	{name: "password of 20,000 octets", run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.dial(t, nil)
		err := c.Auth(ctx, pop3.PlainAuth("", s.user, strings.Repeat("x", 20000)))
		// Dovecot closes with some of it unread, which resets the connection.
		if err == nil || errors.Is(err, context.DeadlineExceeded) || c.Err() == nil {
			t.Errorf("%v, Err %v", err, c.Err())
		}
	}},
}

// bearer tries tokens that Dovecot refuses and then one that it takes. A refusal must hold status and no token.
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
	s.logged(t, refused, refused, accepted)
}

// bearerToken returns a JSON web token (RFC 7519) signed with HS256.
func bearerToken(user, key string, expires time.Time) string {
	encode := base64.RawURLEncoding.EncodeToString
	issued := expires.Add(-2 * time.Hour).Unix()
	token := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." +
		encode(fmt.Appendf(nil, `{"sub":%q,"iss":"interop","iat":%d,"nbf":%[2]d,"exp":%d}`, user, issued, expires.Unix()))
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(token))
	return token + "." + encode(mac.Sum(nil))
}
