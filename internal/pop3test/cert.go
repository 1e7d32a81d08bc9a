package pop3test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"sync"
	"time"
)

// An Authority issues certificates.
type Authority struct {
	Cert *x509.Certificate
	key  crypto.Signer
}

// NewAuthority returns an Authority with a certificate of its own. It panics if the
// machine has no randomness, as all of its methods do.
func NewAuthority(name string) *Authority {
	root := new(Authority).Issue(&x509.Certificate{
		Subject:  pkix.Name{CommonName: name},
		IsCA:     true,
		KeyUsage: x509.KeyUsageCertSign,
	})
	return &Authority{root.Leaf, root.PrivateKey.(crypto.Signer)}
}

// Pool returns a pool that holds the authority's certificate.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.Cert)
	return pool
}

// Issue returns a certificate for a new ECDSA key. See IssueFor.
func (a *Authority) Issue(template *x509.Certificate) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(fmt.Sprintf("pop3test: certificate key: %v", err))
	}
	return a.IssueFor(template, key)
}

// IssueFor returns a certificate for key. The zero Authority makes it sign itself. What
// the template leaves out of the usage and the validity is filled in: for signatures, and
// from 1970, since the clock of testing/synctest begins in 2000, to 2099.
func (a *Authority) IssueFor(template *x509.Certificate, key crypto.Signer) tls.Certificate {
	t := *template
	t.BasicConstraintsValid = true
	if t.KeyUsage == 0 {
		t.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	}
	if t.NotBefore.IsZero() {
		t.NotBefore = time.Unix(0, 0)
	}
	if t.NotAfter.IsZero() {
		t.NotAfter = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	parent, signer := a.Cert, a.key
	if parent == nil {
		parent, signer = &t, key
	}
	der, err := x509.CreateCertificate(rand.Reader, &t, parent, key.Public(), signer)
	if err != nil {
		panic(fmt.Sprintf("pop3test: certificate: %v", err))
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(fmt.Sprintf("pop3test: certificate: %v", err))
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// testAuthority is that of one process.
var testAuthority = sync.OnceValue(func() *Authority { return NewAuthority("pop3test authority") })

var serverCertificate = sync.OnceValue(func() tls.Certificate {
	return testAuthority().Issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: "localhost"},
		DNSNames:    []string{"localhost", "example.com"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
})

// AuthorityPEM returns the certificate of the authority that has issued the
// servers' certificates, in PEM, for clients that read what they trust from a
// file.
func AuthorityPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: testAuthority().Cert.Raw})
}

// ServerTLS returns the server's side of [ScriptTLS], which is that of every [Server] and
// [Script].
func ServerTLS() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{serverCertificate()},
		ClientCAs:    testAuthority().Pool(),
		ClientAuth:   tls.VerifyClientCertIfGiven, // for the EXTERNAL mechanism
	}
}

// ScriptTLS returns a client configuration that trusts the certificate of
// [Script] and of every [Server] that has no other, as "localhost".
func ScriptTLS() *tls.Config {
	return &tls.Config{RootCAs: testAuthority().Pool(), ServerName: "localhost"}
}

// ClientCertificate issues a certificate with which a client can prove to be
// name by the EXTERNAL mechanism; servers trust it unless Server.TLS says
// otherwise.
func ClientCertificate(name string) tls.Certificate {
	return testAuthority().Issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}
