package conformance

import (
	"context"
	"crypto/fips140"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
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

// serve gives opts a connection to a server under TLS, or whose STLS leads there.
func serve(t *testing.T, opts *pop3.Options, config *tls.Config, stls bool, answer func(line string) string) (server *tls.Conn) {
	near, far := pop3test.Pipe()
	opts.DialContext = pop3test.DialTo(near)
	raw := &pop3test.Conn{Conn: far}
	server = tls.Server(raw, config)
	greeting := "+OK ready\r\n"
	if stls {
		keep := &pop3test.Conn{Conn: far, CloseFunc: func() error { return nil }}
		clear := pop3test.NewPeer(keep, greeting, pop3test.Replies{"CAPA": "-ERR\r\n", "STLS": "+OK\r\n" + pop3test.HangUp}.Answer)
		t.Cleanup(func() { near.Close(); far.Close(); clear.Wait() })
		go func() { clear.Wait(); server.Handshake() }()
		return server
	}
	peer := pop3test.NewPeer(server, greeting, answer)
	t.Cleanup(func() { near.Close(); peer.Wait() })
	return server
}

// TestServerIdentity: RFC 2595 section 2.4, RFC 7817 section 3, RFC 8314
// section 5.3. By DialTLS and by DialStartTLS alike, the name dialed is the name
// that counts.
func TestServerIdentity(t *testing.T) {
	t.Parallel()
	ca, stranger := pop3test.NewAuthority("authority"), pop3test.NewAuthority("stranger")
	wrongName := func(err error) bool { return errors.As(err, new(x509.HostnameError)) }
	tests := []struct {
		name    string
		ca      *pop3test.Authority
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
				config := &tls.Config{Certificates: []tls.Certificate{test.ca.Issue(&test.cert)}}
				opts := &pop3.Options{TLSConfig: &tls.Config{RootCAs: ca.Pool()}}
				serve(t, opts, config, startTLS, pop3test.Replies{}.Answer)
				dial := pop3.DialTLS
				if startTLS {
					dial = pop3.DialStartTLS
				}
				client, err := dial(t.Context(), test.dial, opts)
				if client != nil {
					client.Close()
				}
				if test.refused == nil && err != nil || test.refused != nil && (client != nil || err == nil || !test.refused(err)) {
					t.Errorf("got %v, %v", client, err)
				}
			})
		}
	}
}

// TestTLSAdvice: RFC 8314 section 5, RFC 2595 section 9. A failed handshake says what to do
// about it, if that is known, and is what crypto/tls and crypto/x509 say it is. A server
// that is too old, or has weak cipher suites alone, is refused unless TLSConfig allows it.
func TestTLSAdvice(t *testing.T) {
	t.Parallel()
	ca := pop3test.NewAuthority("Example Authority")
	here := &x509.Certificate{DNSNames: []string{"pop.example.com"}}
	good := []tls.Certificate{ca.Issue(here)}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	weak := []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}
	rsaOnly := &tls.Config{Certificates: []tls.Certificate{ca.IssueFor(here, key)}, MaxVersion: tls.VersionTLS12, CipherSuites: weak}
	roots := func(config *tls.Config) *tls.Config { config.RootCAs = ca.Pool(); return config }
	const noTLS = "TLS handshake: tls: first record does not look like a TLS handshake"
	const handshakeFailure = "TLS handshake: remote error: tls: handshake failure; if the server has RSA key exchange only, list its " +
		"cipher suites in TLSConfig.CipherSuites; if it wants a client certificate, set TLSConfig.Certificates"
	const hello10 = "\x16\x03\x01\x00\x2a\x02\x00\x00\x26\x03\x01rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr\x00\xc0\x13\x00"
	for _, test := range []struct {
		name   string
		raw    string      // what the server says at once,
		server *tls.Config // or else its TLS
		client *tls.Config
		told   bool   // by Trace, that the handshake failed
		want   string // behind "pop3: greeting: ", or no error
		as     any
	}{
		{"in the clear", "+OK ready\r\n", nil, nil, true,
			noTLS + "; the server answered in the clear: use DialStartTLS, or Dial, for this port", new(tls.RecordHeaderError)},
		{"no POP3", "HTTP/1.1 400 Bad Request\r\n", nil, nil, true, noTLS, new(tls.RecordHeaderError)},
		{"client certificate", "", &tls.Config{Certificates: good, ClientAuth: tls.RequireAnyClientCert}, roots(&tls.Config{}), false,
			"remote error: tls: certificate required; set TLSConfig.Certificates", new(*net.OpError)},
		{"client certificate, TLS 1.2", "", &tls.Config{Certificates: good, ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12}, roots(&tls.Config{}), true,
			handshakeFailure, new(*net.OpError)},
		{"another alert", "", &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, io.EOF }}, nil, true,
			"TLS handshake: remote error: tls: internal error", new(*net.OpError)},
		{"unknown authority", "", &tls.Config{Certificates: good}, &tls.Config{RootCAs: x509.NewCertPool()}, true,
			"TLS handshake: tls: failed to verify certificate: x509: certificate signed by unknown authority; the issuer is \"CN=Example Authority\": if you trust it, add its certificate to TLSConfig.RootCAs",
			new(x509.UnknownAuthorityError)},
		{"TLS 1.0", "", &tls.Config{Certificates: good, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}, roots(&tls.Config{}), true,
			"TLS handshake: remote error: tls: protocol version not supported; if the server has no TLS 1.2, set TLSConfig.MinVersion to allow an older version", new(*net.OpError)},
		{"TLS 1.0 at once", hello10, nil, nil, true,
			"TLS handshake: tls: server selected unsupported protocol version 301; set TLSConfig.MinVersion to allow it", nil},
		{"TLS 1.0 is allowed", "", &tls.Config{Certificates: good, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11},
			roots(&tls.Config{MinVersion: tls.VersionTLS10}), false, "", nil},
		{"RSA key exchange", "", rsaOnly, roots(&tls.Config{}), true, handshakeFailure, new(*net.OpError)},
		{"RSA key exchange is allowed", "", rsaOnly, roots(&tls.Config{CipherSuites: weak}), false, "", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if fips140.Enabled() && test.server != nil && test.server.MaxVersion > 0 {
				t.Skip("not allowed in FIPS 140 mode")
			}
			near, far := pop3test.Pipe()
			conn := &pop3test.Conn{Conn: near}
			go func() {
				defer far.Close()
				if test.server == nil {
					io.WriteString(far, test.raw)
				} else {
					far = tls.Server(far, test.server)
					io.WriteString(far, "+OK ready\r\n")
				}
				io.Copy(io.Discard, far)
			}()
			var told error
			trace := &pop3.Trace{TLSHandshakeDone: func(_ context.Context, _ tls.ConnectionState, err error) { told = err }}
			c, err := pop3.DialTLS(t.Context(), "pop.example.com", &pop3.Options{TLSConfig: test.client, DialContext: pop3test.DialTo(conn), Trace: trace})
			if (told != nil) != test.told || told != nil && told != err {
				t.Errorf("TLSHandshakeDone was told %v, want %v", told, err)
			}
			if test.want == "" {
				if check(t, err); err == nil {
					c.Close()
				}
				return
			}
			if want := "pop3: greeting: " + test.want; c != nil || err == nil || err.Error() != want || test.as != nil && !errors.As(err, test.as) || !conn.Closed() {
				t.Errorf("got  %v\nwant %s, a %T", err, want, test.as)
			}
		})
	}
}

// TestEncryptionEnds: RFC 2595 section 2.2. What comes in clear after the end of
// TLS is no reply.
func TestEncryptionEnds(t *testing.T) {
	t.Parallel()
	ca := pop3test.NewAuthority("authority")
	config := &tls.Config{Certificates: []tls.Certificate{ca.Issue(&x509.Certificate{DNSNames: []string{"pop.example.com"}})}}
	opts := &pop3.Options{TLSConfig: &tls.Config{RootCAs: ca.Pool()}}
	var server *tls.Conn
	server = serve(t, opts, config, false, func(string) string {
		raw := server.NetConn().(*pop3test.Conn)
		raw.WriteFunc = func(alert []byte) (int, error) { // in one piece: the client closes at the alert
			if _, err := io.WriteString(raw.Conn, string(alert)+"+OK in clear\r\n"); err != nil {
				t.Error(err)
			}
			return len(alert), nil
		}
		server.CloseWrite()
		return ""
	})
	c, err := pop3.DialTLS(t.Context(), "pop.example.com", opts)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Noop(t.Context()); !errors.Is(err, io.ErrUnexpectedEOF) || c.Err() == nil {
		t.Errorf("Noop: %v, Err: %v; want the end of the connection", err, c.Err())
	}
}

// TestClientCertificate: RFC 8314 section 5.5: a certificate is given if there is
// one for this connection and the server asks for it, and EXTERNAL goes with it.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	ca := pop3test.NewAuthority("authority")
	serverCert := ca.Issue(&x509.Certificate{DNSNames: []string{"pop.example.com"}})
	clientCert := ca.Issue(&x509.Certificate{Subject: pkix.Name{CommonName: "mrose"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
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
			opts := &pop3.Options{TLSConfig: &tls.Config{RootCAs: ca.Pool(), Certificates: test.certs}}
			config := &tls.Config{Certificates: []tls.Certificate{serverCert}, ClientAuth: test.asked}
			server := serve(t, opts, config, false, pop3test.Replies{"AUTH": "+ \r\n", "bXJvc2U=": "+OK\r\n", "": "-ERR\r\n"}.Answer)
			c, err := pop3.DialTLS(t.Context(), "pop.example.com", opts)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.Auth(t.Context(), pop3.ExternalAuth("mrose")); err != nil {
				t.Error(err)
			}
			if n := len(server.ConnectionState().PeerCertificates); n != test.given {
				t.Errorf("%d certificates were given, want %d", n, test.given)
			}
		})
	}
}

// TestCloseAlert: RFC 8314 section 3.4. The last that the server gets after Quit is an
// alert; Close and a failure send none, for a peer that does not read could hold it up.
// TLS 1.2 shows what a record is; TLS 1.3 hides it.
func TestCloseAlert(t *testing.T) {
	t.Parallel()
	ca := pop3test.NewAuthority("authority")
	config := &tls.Config{
		Certificates: []tls.Certificate{ca.Issue(&x509.Certificate{DNSNames: []string{"pop.example.com"}})},
		MaxVersion:   tls.VersionTLS12,
	}
	const alert, applicationData = 21, 23 // RFC 5246 appendix A.1
	for _, test := range []struct {
		name string
		end  func(context.Context, *pop3.Client) error
		ok   bool
		last byte // record sent
	}{
		{"Quit", func(ctx context.Context, c *pop3.Client) error { return c.Quit(ctx) }, true, alert},
		{"Close", func(_ context.Context, c *pop3.Client) error { return c.Close() }, true, applicationData},
		{"a failure", func(ctx context.Context, c *pop3.Client) error { return c.Rset(ctx) }, false, applicationData},
	} {
		opts := &pop3.Options{TLSConfig: &tls.Config{RootCAs: ca.Pool()}}
		serve(t, opts, config, false, pop3test.Replies{"RSET": "what?\r\n"}.Answer)
		near, _ := opts.DialContext(t.Context(), "", "")
		conn := &pop3test.Conn{Conn: near}
		opts.DialContext = pop3test.DialTo(conn)
		c, err := pop3.DialTLS(t.Context(), "pop.example.com", opts)
		if err == nil {
			err = c.Noop(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := test.end(t.Context(), c); (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
		const header = 5
		last := byte(0)
		for b := []byte(conn.Sent()); len(b) > header; b = b[min(len(b), header+int(binary.BigEndian.Uint16(b[3:]))):] {
			last = b[0]
		}
		if last != test.last {
			t.Errorf("%s: the last record is of type %d, want %d", test.name, last, test.last)
		}
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
		{pop3.Dial, "pop.example.com:", "pop.example.com:110"},
		{pop3.Dial, "192.0.2.1", "192.0.2.1:110"},
		{pop3.Dial, "::1", "[::1]:110"},
		{pop3.Dial, "[2001:db8::1]:1", "[2001:db8::1]:1"},
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
