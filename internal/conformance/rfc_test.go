package conformance

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

var transcriptName = regexp.MustCompile(`\(transcript (\S+)\)`)

// TestRFCTable fails if a row of the table of duties names a test or a
// transcript that is not there, says n/a without a reason, or comes twice.
func TestRFCTable(t *testing.T) {
	const file = root + "testdata/rfc.tsv"
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	keywords := []string{"MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "REQUIRED",
		"must", "must not", "should", "may not", "may only", "only", "binds"}
	tests := make(map[string][]string) // of a directory
	seen := make(map[string]bool)
	covered, na, deviations := 0, 0, 0
	header := true
	for i, line := range strings.Split(strings.TrimSuffix(string(data), "\n"), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Split(line, "\t")
		if len(fields) != 6 {
			t.Fatalf("%s:%d: %d fields, want 6", file, i+1, len(fields))
		}
		if header {
			header = false
			continue
		}
		section, keyword, requirement, proof, note := fields[0]+" "+fields[1], fields[2], fields[3], fields[4], fields[5]
		if !slices.Contains(keywords, keyword) {
			t.Errorf("%s:%d: keyword %q", file, i+1, keyword)
		}
		if requirement == "" || seen[section+requirement] {
			t.Errorf("%s:%d: %q is empty or comes twice", file, i+1, requirement)
		}
		seen[section+requirement] = true

		for _, named := range transcriptName.FindAllStringSubmatch(note, -1) {
			if _, err := os.Stat(filepath.Join(transcripts, named[1]+".txt")); err != nil {
				t.Errorf("%s:%d: %v", file, i+1, err)
			}
		}
		switch {
		case proof == "n/a":
			na++
			if note == "" {
				t.Errorf("%s:%d: n/a without a reason", file, i+1)
			}
			continue
		case strings.HasPrefix(note, "Deviation"):
			deviations++
		default:
			covered++
		}
		for name := range strings.SplitSeq(proof, " ") {
			dir, test, _ := strings.Cut(name, ":")
			if _, known := tests[dir]; !known {
				tests[dir] = testsIn(t, filepath.Join("../..", dir))
			}
			test, sub, isSub := strings.Cut(test, "/")
			if !slices.Contains(tests[dir], test) {
				t.Errorf("%s:%d: there is no test %s", file, i+1, name)
			}
			if !isSub {
				continue
			}
			// Of subtests only the transcripts can be looked up.
			if test != "TestTranscripts" {
				t.Errorf("%s:%d: %s is not a transcript", file, i+1, name)
			} else if _, err := os.Stat(filepath.Join(transcripts, sub+".txt")); err != nil {
				t.Errorf("%s:%d: %v", file, i+1, err)
			}
		}
	}
	t.Logf("%d rows: %d held, %d held in part or otherwise, %d not applicable", covered+deviations+na, covered, deviations, na)
}

func testsIn(t *testing.T, dir string) (names []string) {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range f.Decls {
			if fn, isFunc := decl.(*ast.FuncDecl); isFunc && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") {
				names = append(names, fn.Name.Name)
			}
		}
	}
	return names
}

// pipeTo gives opts a connection to serve, which runs until it is done. The
// returned function waits for it.
func pipeTo(opts *pop3.Options, serve func(net.Conn) error) (wait func() error) {
	client, server := pop3test.Pipe()
	done := make(chan error, 1)
	go func() {
		defer server.Close()
		done <- serve(server)
	}()
	opts.DialContext = func(context.Context, string, string) (net.Conn, error) { return client, nil }
	return func() error { client.Close(); return <-done }
}

// greet is one POP3 session of a greeting and a QUIT, in TLS.
func greet(config *tls.Config, then ...func(*tls.Conn) error) func(net.Conn) error {
	return func(raw net.Conn) error {
		conn := tls.Server(raw, config)
		if err := conn.Handshake(); err != nil {
			return err
		}
		if _, err := io.WriteString(conn, "+OK ready\r\n"); err != nil {
			return err
		}
		for _, f := range then {
			if err := f(conn); err != nil {
				return err
			}
		}
		return nil
	}
}

// An issuer makes certificates as a test wants them.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (ca *issuer) issue(t *testing.T, template x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(1)
	template.NotBefore = time.Unix(0, 0)
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	template.BasicConstraintsValid = true
	parent, signer := ca.cert, ca.key
	if parent == nil {
		parent, signer = &template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func newIssuer(t *testing.T) (*issuer, *x509.CertPool) {
	t.Helper()
	root := new(issuer).issue(t, x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	})
	pool := x509.NewCertPool()
	pool.AddCert(root.Leaf)
	return &issuer{root.Leaf, root.PrivateKey.(*ecdsa.PrivateKey)}, pool
}

// TestServerIdentity: RFC 2595 section 2.4, RFC 7817 section 3, RFC 8314
// section 5.3. By DialTLS and by DialStartTLS alike, the name dialed is the name
// that counts.
func TestServerIdentity(t *testing.T) {
	t.Parallel()
	ca, pool := newIssuer(t)
	stranger, _ := newIssuer(t)
	wrongName := func(err error) bool { return errors.As(err, new(x509.HostnameError)) }
	tests := []struct {
		name    string
		ca      *issuer
		cert    x509.Certificate
		dial    string
		refused func(error) bool // nil if the session is good
	}{
		{"the name", ca, x509.Certificate{DNSNames: []string{"pop.example.com"}}, "pop.example.com", nil},
		{"another case", ca, x509.Certificate{DNSNames: []string{"POP.example.com"}}, "pop.Example.COM", nil},
		{"the second of two names", ca, x509.Certificate{DNSNames: []string{"imap.example.com", "pop.example.com"}}, "pop.example.com", nil},
		{"a wildcard", ca, x509.Certificate{DNSNames: []string{"*.example.com"}}, "pop.example.com", nil},
		{"a wildcard is not its parent", ca, x509.Certificate{DNSNames: []string{"*.example.com"}}, "example.com", wrongName},
		{"a wildcard is one label", ca, x509.Certificate{DNSNames: []string{"*.example.com"}}, "a.pop.example.com", wrongName},
		{"another name", ca, x509.Certificate{DNSNames: []string{"pop.example.org"}}, "pop.example.com", wrongName},
		{"a common name is no name", ca, x509.Certificate{Subject: pkix.Name{CommonName: "pop.example.com"}}, "pop.example.com", wrongName},
		{"an address", ca, x509.Certificate{IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1)}}, "192.0.2.1", nil},
		{"another address", ca, x509.Certificate{IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1)}}, "192.0.2.2", wrongName},
		{"an authority nobody knows", stranger, x509.Certificate{DNSNames: []string{"pop.example.com"}}, "pop.example.com",
			func(err error) bool { return errors.As(err, new(x509.UnknownAuthorityError)) }},
		{"expired", ca, x509.Certificate{DNSNames: []string{"pop.example.com"}, NotAfter: time.Unix(1, 0)}, "pop.example.com",
			func(err error) bool {
				var invalid x509.CertificateInvalidError
				return errors.As(err, &invalid) && invalid.Reason == x509.Expired
			}},
	}
	for _, test := range tests {
		for _, startTLS := range []bool{false, true} {
			name := test.name + " by DialTLS"
			if startTLS {
				name = test.name + " by STLS"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				config := &tls.Config{Certificates: []tls.Certificate{test.ca.issue(t, test.cert)}}
				opts := &pop3.Options{TLSConfig: &tls.Config{RootCAs: pool}}
				var client *pop3.Client
				var err error
				if startTLS {
					wait := pipeTo(opts, func(conn net.Conn) error {
						read := make([]byte, len("CAPA\r\n"))
						io.WriteString(conn, "+OK ready\r\n")
						io.ReadFull(conn, read)
						io.WriteString(conn, "+OK\r\nSTLS\r\n.\r\n")
						io.ReadFull(conn, read)
						io.WriteString(conn, "+OK\r\n")
						return tls.Server(conn, config).Handshake()
					})
					defer wait()
					client, err = pop3.DialStartTLS(t.Context(), test.dial, opts)
				} else {
					wait := pipeTo(opts, greet(config))
					defer wait()
					client, err = pop3.DialTLS(t.Context(), test.dial, opts)
				}
				if client != nil {
					defer client.Close()
				}
				if test.refused == nil {
					if err != nil {
						t.Fatal(err)
					}
					return
				}
				if err == nil || !test.refused(err) || client != nil {
					t.Errorf("got %v, want a refused certificate and no client", err)
				}
			})
		}
	}
}

// TestTLSVersions: RFC 8314 section 5: TLS 1.2 or later, and no less by default;
// RFC 2595 section 9: what is weak can be refused.
func TestTLSVersions(t *testing.T) {
	t.Parallel()
	const suite = tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
	tests := []struct {
		name   string
		server *tls.Config
		client *tls.Config
		ok     bool
	}{
		{"TLS 1.1", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, &tls.Config{}, false},
		{"TLS 1.2", &tls.Config{MaxVersion: tls.VersionTLS12}, &tls.Config{}, true},
		{"TLS 1.3", &tls.Config{MinVersion: tls.VersionTLS13}, &tls.Config{}, true},
		{"TLS 1.2 refused", &tls.Config{MaxVersion: tls.VersionTLS12}, &tls.Config{MinVersion: tls.VersionTLS13}, false},
		{"suite", &tls.Config{MaxVersion: tls.VersionTLS12}, &tls.Config{CipherSuites: []uint16{suite}}, true},
		{"suite refused", &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}},
			&tls.Config{CipherSuites: []uint16{suite}}, false},
	}
	ca, pool := newIssuer(t)
	cert := ca.issue(t, x509.Certificate{DNSNames: []string{"pop.example.com"}})
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.server.Certificates = []tls.Certificate{cert}
			test.client.RootCAs = pool
			opts := &pop3.Options{TLSConfig: test.client}
			wait := pipeTo(opts, greet(test.server))
			defer wait()
			client, err := pop3.DialTLS(t.Context(), "pop.example.com", opts)
			if (err == nil) != test.ok {
				t.Errorf("DialTLS: %v", err)
			}
			if err != nil {
				return
			}
			defer client.Close()
			if state, isTLS := client.TLSConnectionState(); !isTLS || state.Version < tls.VersionTLS12 {
				t.Errorf("version %#x, TLS %v", state.Version, isTLS)
			}
		})
	}
}

// A remoteConn is a connection to somewhere else.
type remoteConn struct{ net.Conn }

func (remoteConn) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 110}
}

// TestNoCredentialsInClear: RFC 2595 sections 2.2 and 2.3, RFC 8314 section 5.2.
// The script sees that nothing is written.
func TestNoCredentialsInClear(t *testing.T) {
	t.Parallel()
	script, err := pop3test.ParseScript("clear", []byte("S: +OK ready <1896.697170952@dbc.mtview.ca.us>\nC: QUIT\nS: +OK\n"))
	if err != nil {
		t.Fatal(err)
	}
	client, server := pop3test.Pipe()
	done := make(chan error)
	go func() { done <- script.Serve(server) }()
	ctx := t.Context()
	c, err := pop3.NewClient(ctx, remoteConn{client}, nil)
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]func() error{
		"User":  func() error { return c.User(ctx, "mrose") },
		"Pass":  func() error { return c.Pass(ctx, "secret") },
		"APOP":  func() error { return c.APOP(ctx, "mrose", "secret") },
		"RPOP":  func() error { return c.RPOP(ctx, "mrose") },
		"Login": func() error { return c.Login(ctx, "mrose", "secret") },
	}
	for name, mech := range map[string]pop3.SASL{
		"PLAIN":       pop3.PlainAuth("", "mrose", "secret"),
		"LOGIN":       pop3.LoginAuth("mrose", "secret"),
		"CRAM-MD5":    pop3.CRAMMD5Auth("mrose", "secret"),
		"SCRAM":       pop3.SCRAMSHA256Auth("mrose", "secret"),
		"XOAUTH2":     pop3.XOAuth2Auth("mrose", "token"),
		"OAUTHBEARER": pop3.OAuthBearerAuth("mrose", "token"),
		"foreign":     &fixedSASL{mech: "X-MECH"},
	} {
		calls["Auth "+name] = func() error { return c.Auth(ctx, mech) }
	}
	for name, call := range calls {
		if err := call(); !errors.Is(err, pop3.ErrInsecureAuth) {
			t.Errorf("%s: %v, want ErrInsecureAuth", name, err)
		}
	}
	if err := c.Quit(ctx); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestEncryptionEnds: RFC 2595 section 2.2. What comes in clear after the end of
// TLS is no reply.
func TestEncryptionEnds(t *testing.T) {
	t.Parallel()
	ca, pool := newIssuer(t)
	config := &tls.Config{Certificates: []tls.Certificate{ca.issue(t, x509.Certificate{DNSNames: []string{"pop.example.com"}})}}
	opts := &pop3.Options{TLSConfig: &tls.Config{RootCAs: pool}}
	wait := pipeTo(opts, greet(config, func(conn *tls.Conn) error {
		if err := conn.CloseWrite(); err != nil {
			return err
		}
		raw := conn.NetConn()
		raw.SetWriteDeadline(time.Time{}) // CloseWrite leaves one
		if _, err := io.WriteString(raw, "+OK in clear\r\n"); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, raw)
		return err
	}))
	c, err := pop3.DialTLS(t.Context(), "pop.example.com", opts)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Noop(t.Context()); !errors.Is(err, io.ErrUnexpectedEOF) || c.Err() == nil {
		t.Errorf("Noop: %v, Err: %v; want the end of the connection", err, c.Err())
	}
	if err := wait(); err != nil {
		t.Error(err)
	}
}

// TestClientCertificate: RFC 8314 section 5.5: a certificate is given if there is
// one for this connection and the server asks for it, and EXTERNAL goes with it.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	ca, pool := newIssuer(t)
	serverCert := ca.issue(t, x509.Certificate{DNSNames: []string{"pop.example.com"}})
	clientCert := ca.issue(t, x509.Certificate{
		Subject: pkix.Name{CommonName: "mrose"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	tests := []struct {
		name  string
		asked tls.ClientAuthType
		certs []tls.Certificate
		given int
	}{
		{"asked for", tls.RequestClientCert, []tls.Certificate{clientCert}, 1},
		{"not asked for", tls.NoClientCert, []tls.Certificate{clientCert}, 0},
		{"none to give", tls.RequestClientCert, nil, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			opts := &pop3.Options{TLSConfig: &tls.Config{RootCAs: pool, Certificates: test.certs}}
			config := &tls.Config{Certificates: []tls.Certificate{serverCert}, ClientAuth: test.asked}
			wait := pipeTo(opts, greet(config, func(conn *tls.Conn) error {
				if n := len(conn.ConnectionState().PeerCertificates); n != test.given {
					t.Errorf("%d certificates were given, want %d", n, test.given)
				}
				const auth = "AUTH EXTERNAL bXJvc2U=\r\n"
				line := make([]byte, len(auth))
				if _, err := io.ReadFull(conn, line); err != nil || string(line) != auth {
					t.Errorf("got %q, %v, want %q", line, err, auth)
				}
				_, err := io.WriteString(conn, "+OK\r\n")
				return err
			}))
			c, err := pop3.DialTLS(t.Context(), "pop.example.com", opts)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.Auth(t.Context(), pop3.ExternalAuth("mrose")); err != nil {
				t.Error(err)
			}
			if err := wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A recordConn keeps what is read from a connection.
type recordConn struct {
	net.Conn
	read []byte
}

func (c *recordConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read = append(c.read, p[:n]...)
	return n, err
}

// TestCloseAlert: RFC 8314 section 3.4. The last that the server gets after Quit
// is an alert. TLS 1.2 shows what a record is; TLS 1.3 hides it.
func TestCloseAlert(t *testing.T) {
	t.Parallel()
	ca, pool := newIssuer(t)
	config := &tls.Config{
		Certificates: []tls.Certificate{ca.issue(t, x509.Certificate{DNSNames: []string{"pop.example.com"}})},
		MaxVersion:   tls.VersionTLS12,
	}
	opts := &pop3.Options{TLSConfig: &tls.Config{RootCAs: pool}}
	wait := pipeTo(opts, func(raw net.Conn) error {
		record := &recordConn{Conn: raw}
		err := greet(config, func(conn *tls.Conn) error {
			if _, err := io.ReadFull(conn, make([]byte, len("QUIT\r\n"))); err != nil {
				return err
			}
			if _, err := io.WriteString(conn, "+OK\r\n"); err != nil {
				return err
			}
			_, err := io.Copy(io.Discard, conn)
			return err
		})(record)
		const recordTypeAlert, header = 21, 5
		last := byte(0)
		for b := record.read; len(b) > header; b = b[min(len(b), header+int(binary.BigEndian.Uint16(b[3:]))):] {
			last = b[0]
		}
		if last != recordTypeAlert {
			t.Errorf("the last record is of type %d, want an alert", last)
		}
		return err
	})
	c, err := pop3.DialTLS(t.Context(), "pop.example.com", opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Quit(t.Context()); err != nil {
		t.Error(err)
	}
	if err := wait(); err != nil {
		t.Error(err)
	}
}

// TestPorts: RFC 1939 section 3 and RFC 8314 section 3.1.
func TestPorts(t *testing.T) {
	t.Parallel()
	tests := []struct {
		dial func(context.Context, string, *pop3.Options) (*pop3.Client, error)
		addr string
		want string
	}{
		{pop3.Dial, "pop.example.com", "pop.example.com:110"},
		{pop3.Dial, "pop.example.com:1110", "pop.example.com:1110"},
		{pop3.Dial, "::1", "[::1]:110"},
		{pop3.Dial, "[::1]", "[::1]:110"},
		{pop3.DialStartTLS, "pop.example.com", "pop.example.com:110"},
		{pop3.DialTLS, "pop.example.com", "pop.example.com:995"},
		{pop3.DialTLS, "pop.example.com:1995", "pop.example.com:1995"},
	}
	errNoNetwork := errors.New("no network")
	for _, test := range tests {
		var got string
		_, err := test.dial(t.Context(), test.addr, &pop3.Options{
			DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
				got = network + " " + addr
				return nil, errNoNetwork
			},
		})
		if got != "tcp "+test.want || !errors.Is(err, errNoNetwork) {
			t.Errorf("%s: dialed %q, error %v, want tcp %s", test.addr, got, err, test.want)
		}
	}
}
