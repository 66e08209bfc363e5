package testserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Certificates are valid from certBefore before they are made, so that clocks
// may differ, for certLife.
const (
	certBefore = time.Hour
	certLife   = 24 * time.Hour
)

// CA is a certificate authority of one test. It signs in memory; what clients
// read are files in a directory of the test.
type CA struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes an authority that nobody else trusts.
func NewCA(t testing.TB) *CA {
	t.Helper()
	ca := &CA{dir: t.TempDir()}
	ca.key = newKey(t)
	template := certTemplate("testserver CA")
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, &ca.key.PublicKey, ca.key)
	if err != nil {
		t.Fatalf("testserver: certificate authority: %v", err)
	}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatalf("testserver: certificate authority: %v", err)
	}
	writePEM(t, ca.File(), "CERTIFICATE", der)
	return ca
}

// File is where the authority's own certificate is, as PEM.
func (ca *CA) File() string { return filepath.Join(ca.dir, "ca.pem") }

// TLS turns TLS on for [NATS], with a certificate for 127.0.0.1. Each change is
// applied to that certificate before it is signed.
func (ca *CA) TLS(t testing.TB, changes ...func(*x509.Certificate)) func(*server.Options) {
	t.Helper()
	template := certTemplate("testserver")
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	der, key := ca.sign(t, template, changes)
	return func(o *server.Options) {
		o.TLSConfig = &tls.Config{
			MinVersion:   tls.VersionTLS12,
			Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		}
		o.TLSTimeout = natsStartLimit.Seconds()
	}
}

// Mutual makes a server with [CA.TLS] ask clients for a certificate of this
// authority, too.
func (ca *CA) Mutual(o *server.Options) {
	o.TLSConfig.ClientAuth = tls.RequireAndVerifyClientCert
	o.TLSConfig.ClientCAs = x509.NewCertPool()
	o.TLSConfig.ClientCAs.AddCert(ca.cert)
	o.TLSVerify = true
}

// ClientFiles makes a certificate for clients, and returns where it and its key
// are, as PEM. Each change is applied to it before it is signed.
func (ca *CA) ClientFiles(t testing.TB, name string, changes ...func(*x509.Certificate)) (certFile, keyFile string) {
	t.Helper()
	template := certTemplate(name)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	der, key := ca.sign(t, template, changes)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatalf("testserver: key of %s: %v", name, err)
	}
	certFile, keyFile = filepath.Join(ca.dir, name+".pem"), filepath.Join(ca.dir, name+"-key.pem")
	writePEM(t, certFile, "CERTIFICATE", der)
	writePEM(t, keyFile, "PRIVATE KEY", keyDER)
	return certFile, keyFile
}

// Expired is a change that lets a certificate end before it is used.
func Expired(c *x509.Certificate) { c.NotAfter = time.Now().Add(-certBefore / 2) }

func (ca *CA) sign(t testing.TB, template *x509.Certificate, changes []func(*x509.Certificate)) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	for _, change := range changes {
		change(template)
	}
	key := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		t.Fatalf("testserver: certificate of %s: %v", template.Subject.CommonName, err)
	}
	return der, key
}

func certTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-certBefore),
		NotAfter:     time.Now().Add(certLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("testserver: key: %v", err)
	}
	return key
}

func writePEM(t testing.TB, path, kind string, der []byte) {
	t.Helper()
	err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
	if err != nil {
		t.Fatalf("testserver: %v", err)
	}
}
