package conformance

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// connect makes a client over conn, which is closed when the test ends.
func connect(t *testing.T, conn net.Conn) *pop3.Client {
	t.Helper()
	c, err := pop3.NewClient(t.Context(), conn, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestNoCredentialsInClear: RFC 2595 sections 2.2 and 2.3, RFC 8314 section 5.2. Over
// which connections a password may go. (That all methods go by this is shown in
// internal/hostile.)
func TestNoCredentialsInClear(t *testing.T) {
	t.Parallel()
	ip := func(s string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(s), Port: 110} }
	var (
		local  = ip("127.0.0.1")
		remote = pop3test.Elsewhere
		unix   = &net.UnixAddr{Name: "/run/pop3", Net: "unix"}
	)
	const allowed, refused = true, false
	for _, test := range []struct {
		name  string
		addr  net.Addr
		host  string // dialed, if not ""
		tls   bool
		allow bool // Options.AllowInsecureAuth
		want  bool
	}{
		{"remote", remote, "", false, false, refused},
		{"remote, IPv6", ip("2001:db8::1"), "", false, false, refused},
		{"no address", nil, "", false, false, refused},
		{"private", ip("10.0.0.1"), "", false, false, refused},
		{"unspecified", ip("0.0.0.0"), "", false, false, refused},
		{"remote, allowed", remote, "", false, true, allowed},
		{"remote, TLS of another make", remote, "", true, false, allowed},
		{"loopback", local, "", false, false, allowed},
		{"loopback, another", ip("127.8.9.10"), "", false, false, allowed},
		{"loopback, IPv6", ip("::1"), "", false, false, allowed},
		{"loopback, mapped", &net.TCPAddr{IP: net.ParseIP("::ffff:127.0.0.1").To16(), Port: 110}, "", false, false, allowed},
		{"unix socket", unix, "", false, false, allowed},
		{"pipe", pop3test.Addr{Net: "pipe", Name: "pipe"}, "", false, false, allowed},
		{"a name like one", pop3test.Addr{Net: "tcp", Name: "localhost.example.com:110"}, "", false, false, refused},
		{"dialed localhost", local, "localhost", false, false, allowed},
		{"dialed LOCALHOST", local, "LOCALHOST:110", false, false, allowed},
		{"dialed 127.0.0.1", local, "127.0.0.1:1110", false, false, allowed},
		{"dialed ::1", ip("::1"), "[::1]:110", false, false, allowed},
		{"dialed ::1 bare", ip("::1"), "::1", false, false, allowed},
		{"dialed a host", remote, "pop.example.com", false, false, refused},
		{"dialed a host through a local proxy", local, "pop.example.com", false, false, refused},
		{"dialed an IP through a local proxy", local, "192.0.2.1:110", false, false, refused},
		{"dialed a host through a unix socket", unix, "pop.example.com", false, false, refused},
		{"dialed localhost, which is remote", remote, "localhost", false, false, refused},
		{"dialed localhost.example.com", local, "localhost.example.com", false, false, refused},
		{"dialed a host, allowed", remote, "pop.example.com", false, true, allowed},
	} {
		conn := &pop3test.Conn{
			Conn:           pop3test.NewTape("+OK ready <1896.697170952@dbc.mtview.ca.us>\r\n", pop3test.Replies{}.Answer),
			RemoteAddrFunc: func() net.Addr { return test.addr },
		}
		var under net.Conn = conn
		if test.tls {
			under = pop3test.TLSConn{Conn: conn}
		}
		ctx, opts := t.Context(), &pop3.Options{AllowInsecureAuth: test.allow, DialContext: pop3test.DialTo(under)}
		c, err := pop3.NewClient(ctx, under, opts)
		if test.host != "" {
			conn.Conn = pop3test.NewTape("+OK <1896.697170952@dbc.mtview.ca.us>\r\n", pop3test.Replies{}.Answer)
			c, err = pop3.Dial(ctx, test.host, opts)
		}
		if err != nil {
			t.Fatal(err)
		}
		err = c.Pass(ctx, "secret")
		if sent := conn.Sent() != ""; sent != test.want || (err == nil) != test.want || !test.want && !errors.Is(err, pop3.ErrInsecureAuth) || c.Err() != nil {
			t.Errorf("%s: %v, sent: %t, Err = %v", test.name, err, sent, c.Err())
		}
	}
}

// A store is a server that refuses every login. It counts what could be held against a
// user: lines with something derived from the password, and refusals before the first.
type store struct {
	mechs    []string
	user     bool // USER and PASS are listed
	hashed   bool // SCRAM is refused before the proof, as by Dovecot
	awaited  []func(line string) string
	spent    int
	refusals int
}

func (s *store) refuse() string {
	if s.spent == 0 {
		s.refusals++
	}
	return "-ERR [AUTH] no\r\n"
}

func (s *store) answer(line string) string {
	if len(s.awaited) > 0 {
		next := s.awaited[0]
		s.awaited = s.awaited[1:]
		return next(line)
	}
	proof := func(string) string { s.spent++; return s.refuse() }
	verb, arg, _ := strings.Cut(line, " ")
	mech, ir, _ := strings.Cut(arg, " ")
	switch {
	case verb == "CAPA":
		rows := ""
		if s.user {
			rows = "USER\r\n"
		}
		return "+OK\r\nSASL " + strings.Join(s.mechs, " ") + "\r\n" + rows + ".\r\n"
	case verb == "USER":
		return "+OK\r\n"
	case verb == "PASS" || mech == "PLAIN":
		return proof(line)
	case mech == "LOGIN":
		s.awaited = append(s.awaited, func(string) string { return "+ \r\n" }, proof)
		return "+ \r\n"
	case mech == "CRAM-MD5":
		s.awaited = append(s.awaited, proof)
		return "+ PDFAeD4=\r\n"
	case s.hashed:
		return s.refuse()
	}
	s.awaited = append(s.awaited, proof)
	return "+ " + pop3test.SCRAMFirst(ir) + "\r\n"
}

// A wrong password is tried once, by one method, whatever the server offers, and at most
// one refusal comes before that. Which method it is, in what order, is shown in
// testdata/transcripts and in internal/sasl.
func TestLoginTriesOnce(t *testing.T) {
	pop3test.NeedMD5(t)
	all := []string{"SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN"}
	for bits := range 1 << 8 {
		s := &store{user: bits&1 != 0, hashed: bits&2 != 0}
		for i, mech := range all {
			if bits>>(3+i)&1 != 0 {
				s.mechs = append(s.mechs, mech)
			}
		}
		var conn net.Conn = pop3test.NewTape("+OK\r\n", s.answer)
		if bits&4 != 0 {
			conn = pop3test.TLSConn{Conn: conn}
		}
		c := connect(t, conn)
		err := c.Login(t.Context(), "alice", "s3cret")
		switch scramOnly := s.hashed && !s.user && !slices.ContainsFunc(s.mechs, func(mech string) bool { return !strings.HasPrefix(mech, "SCRAM") }); {
		case len(s.mechs) == 0 && !s.user:
			if !errors.Is(err, pop3.ErrUnsupported) {
				t.Errorf("%+v: %v, want ErrUnsupported", s, err)
			}
		case !errors.Is(err, pop3.ErrRefused) || c.Err() != nil:
			t.Errorf("%+v: %v, Err = %v", s, err, c.Err())
		case s.refusals > 1 || s.spent > 1 || s.spent < 1 && !scramOnly && s.refusals == 0:
			t.Errorf("%+v: the password was tried %d times, behind %d refusals", s, s.spent, s.refusals)
		}
	}
}

// Every mechanism, against the embedded server, with the right and a wrong password.
func TestMechanisms(t *testing.T) {
	const open, hashed = true, true
	type state = tls.ConnectionState
	for _, test := range []struct {
		name   string
		hashed bool // cannot be used in FIPS 140-only mode: SCRAM-SHA-256 needs a longer password
		open   bool // to everybody
		sasl   func(secret string, state state) pop3.SASL
	}{
		{"PLAIN", !hashed, !open, func(s string, _ state) pop3.SASL { return pop3.PlainAuth("", "alice", s) }},
		{"LOGIN", !hashed, !open, func(s string, _ state) pop3.SASL { return pop3.LoginAuth("alice", s) }},
		{"CRAM-MD5", hashed, !open, func(s string, _ state) pop3.SASL { return pop3.CRAMMD5Auth("alice", s) }},
		{"SCRAM-SHA-1", hashed, !open, func(s string, _ state) pop3.SASL { return pop3.SCRAMSHA1Auth("alice", s) }},
		{"SCRAM-SHA-256", hashed, !open, func(s string, _ state) pop3.SASL { return pop3.SCRAMSHA256Auth("alice", s) }},
		{"SCRAM-SHA-1-PLUS", hashed, !open, func(s string, state state) pop3.SASL { return pop3.SCRAMSHA1PlusAuth("alice", s, state) }},
		{"SCRAM-SHA-256-PLUS", hashed, !open, func(s string, state state) pop3.SASL { return pop3.SCRAMSHA256PlusAuth("alice", s, state) }},
		{"XOAUTH2", !hashed, !open, func(s string, _ state) pop3.SASL { return pop3.XOAuth2Auth("alice", s) }},
		{"OAUTHBEARER", !hashed, !open, func(s string, _ state) pop3.SASL { return pop3.OAuthBearerAuth("alice", s) }},
		{"EXTERNAL", !hashed, !open, func(s string, _ state) pop3.SASL {
			return pop3.ExternalAuth(map[bool]string{false: "bob"}[s == "s3cret"])
		}},
		{"ANONYMOUS", !hashed, open, func(string, state) pop3.SASL { return pop3.AnonymousAuth("") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if test.hashed {
				pop3test.NeedMD5(t)
			}
			s := pop3test.NewUnstartedServer()
			s.AddUser("alice", "s3cret").Token = "s3cret"
			s.AddUser("anonymous", "")
			client, peer := pop3test.Pipe()
			go s.ServeConn(tls.Server(peer, s.TLS))
			config := s.ClientTLS()
			config.Certificates = []tls.Certificate{pop3test.ClientCertificate("alice")}
			c := connect(t, tls.Client(client, config))
			state, _ := c.TLSConnectionState()
			if !test.open {
				if err := c.Auth(t.Context(), test.sasl("wr0ng!", state)); !errors.Is(err, pop3.ErrRefused) {
					t.Errorf("Auth with a wrong secret: %v", err)
				}
			}
			check(t, c.Auth(t.Context(), test.sasl("s3cret", state)))
			_, _, err := c.Stat(t.Context())
			check(t, err)
			check(t, c.Quit(t.Context()))
		})
	}
}

// In FIPS 140-only mode what may not be computed is an error, and no panic; Login passes
// it over for what any stored hash can serve.
func TestFIPS(t *testing.T) {
	if !inFIPSMode(t) {
		return
	}
	const password = "a password of some length" // SCRAM-SHA-256 needs that
	notAllowed := func(err error) bool {
		return err != nil && (strings.Contains(err.Error(), "not allowed") || strings.Contains(err.Error(), "FIPS 140-only"))
	}
	for _, test := range []struct {
		mechs   string
		first   string // that Login tries, or none
		refused bool   // by the server; otherwise it is not allowed
	}{
		{"SCRAM-SHA-1 CRAM-MD5 PLAIN", "PLAIN", true},
		{"CRAM-MD5 LOGIN", "LOGIN", true},
		{"SCRAM-SHA-256 PLAIN", "SCRAM-SHA-256", true},
		{"SCRAM-SHA-1 CRAM-MD5", "", false},
	} {
		conn := &pop3test.Conn{Conn: pop3test.NewTape("+OK <1.2@tape>\r\n", pop3test.Replies{
			"CAPA": "+OK\r\nSASL " + test.mechs + "\r\n.\r\n", "NOOP": "+OK\r\n", "": "-ERR [AUTH] no\r\n",
		}.Answer)}
		c := connect(t, conn)
		err := c.Login(t.Context(), "mrose", password)
		_, mech, _ := strings.Cut(strings.Split(conn.Sent(), "\r\n")[1], " ") // behind CAPA
		mech, _, _ = strings.Cut(mech, " ")
		if mech != test.first || errors.Is(err, pop3.ErrRefused) != test.refused || notAllowed(err) == test.refused {
			t.Errorf("%s: Login: %v, tried %q first", test.mechs, err, mech)
		}
		for what, err := range map[string]error{
			"APOP":        c.APOP(t.Context(), "mrose", password),
			"CRAM-MD5":    c.Auth(t.Context(), pop3.CRAMMD5Auth("mrose", password)),
			"SCRAM-SHA-1": c.Auth(t.Context(), pop3.SCRAMSHA1Auth("mrose", password)),
		} {
			if sent := conn.Sent(); !notAllowed(err) || sent != "" {
				t.Errorf("%s: %v, sent %q", what, err, sent)
			}
		}
		check(t, c.Noop(t.Context()))
	}
}

// inFIPSMode is true in FIPS 140-only mode. Otherwise it runs the test in that mode in a
// process of its own, if this machine and this build can.
func inFIPSMode(t *testing.T) bool {
	const mode = "fips140=only"
	if os.Getenv("GODEBUG") == mode {
		return true
	}
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "GODEBUG="+mode)
	out, err := cmd.CombinedOutput()
	switch exit := new(exec.ExitError); {
	case err != nil && !errors.As(err, &exit), bytes.Contains(out, []byte("FIPS 140-3 mode is incompatible")), bytes.Contains(out, []byte("purego")):
		t.Skipf("this test cannot be started in that mode: %v\n%s", err, out)
	case err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())):
		t.Errorf("%v\n%s", err, out)
	}
	return false
}
