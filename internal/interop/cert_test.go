package interop

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"testing"

	"example.com/pop3/internal/pop3test"
)

// An authority has issued the certificate of one server, for localhost and for its address.
type authority struct {
	*pop3test.Authority
	cert, key string // files, PEM
	bundle    string // key, certificate and CA in one file
	caFile    string
}

func newAuthority(t *testing.T, m *machine) *authority {
	a := &authority{Authority: pop3test.NewAuthority("interop CA")}
	server := a.Issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: "localhost"},
		DNSNames:    []string{"localhost"},
		IPAddresses: []net.IP{net.ParseIP(m.host)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	der, err := x509.MarshalPKCS8PrivateKey(server.PrivateKey)
	ok(t, err)
	key := encodePEM("PRIVATE KEY", der)
	cert := encodePEM("CERTIFICATE", server.Certificate[0])
	ca := encodePEM("CERTIFICATE", a.Cert.Raw)
	a.key = m.file(t, "tls/key.pem", key)
	a.cert = m.file(t, "tls/cert.pem", cert)
	a.caFile = m.file(t, "tls/ca.pem", ca)
	a.bundle = m.file(t, "tls/bundle.pem", key+cert+ca)
	return a
}

func encodePEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}
