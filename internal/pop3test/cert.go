package pop3test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"sync"
	"time"
)

// An authority issues the certificates of one process.
type authority struct {
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	pool   *x509.CertPool
	server tls.Certificate
}

var testAuthority = sync.OnceValue(func() *authority {
	template := certTemplate("pop3test authority")
	template.IsCA = true
	template.KeyUsage = x509.KeyUsageCertSign
	a := &authority{cert: template, pool: x509.NewCertPool()}
	root := a.issue(template)
	a.cert, a.key = root.Leaf, root.PrivateKey.(*ecdsa.PrivateKey)
	a.pool.AddCert(a.cert)

	template = certTemplate("localhost")
	template.DNSNames = []string{"localhost", "example.com"}
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	a.server = a.issue(template)
	return a
})

func certTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Unix(0, 0), // the clock of testing/synctest begins in 2000
		NotAfter:              time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
}

// issue signs template with the authority's key, or with its own if the
// authority has none yet. It panics if the machine has no randomness.
func (a *authority) issue(template *x509.Certificate) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(fmt.Sprintf("pop3test: certificate key: %v", err))
	}
	signer := a.key
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, signer)
	if err != nil {
		panic(fmt.Sprintf("pop3test: certificate: %v", err))
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(fmt.Sprintf("pop3test: certificate: %v", err))
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func serverTLS() *tls.Config {
	a := testAuthority()
	return &tls.Config{
		Certificates: []tls.Certificate{a.server},
		ClientCAs:    a.pool,
		ClientAuth:   tls.VerifyClientCertIfGiven, // for the EXTERNAL mechanism
	}
}

// ScriptTLS returns a client configuration that trusts the certificate of
// [Script] and of every [Server] that has no other, as "localhost".
func ScriptTLS() *tls.Config {
	return &tls.Config{RootCAs: testAuthority().pool, ServerName: "localhost"}
}

// ClientCertificate issues a certificate with which a client can prove to be
// name by the EXTERNAL mechanism; servers trust it unless Server.TLS says
// otherwise.
func ClientCertificate(name string) tls.Certificate {
	template := certTemplate(name)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return testAuthority().issue(template)
}
