package testserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// certificateLife is far longer than a test; the past half forgives odd clocks.
const certificateLife = 48 * time.Hour

// Certificates are files of a small private certification authority that nobody
// else trusts, and of a server and a client that it vouches for. They end with
// the test.
type Certificates struct {
	CA                    string
	ServerCert, ServerKey string // for localhost, 127.0.0.1 and ::1
	ClientCert, ClientKey string
}

// NewCertificates makes certificates for a test.
func NewCertificates(t testing.TB) Certificates {
	t.Helper()
	a := authority{t: t, dir: t.TempDir()}
	var c Certificates
	c.CA, _ = a.issue("ca", &x509.Certificate{
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	})
	c.ServerCert, c.ServerKey = a.issue("server", &x509.Certificate{
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, // replicas are clients
		DNSNames:    []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	})
	c.ClientCert, c.ClientKey = a.issue("client", &x509.Certificate{
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return c
}

// authority signs certificates; the first one that it issues is its own.
type authority struct {
	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// issue completes a certificate and writes it and its key to files.
func (a *authority) issue(name string, cert *x509.Certificate) (certFile, keyFile string) {
	a.t.Helper()
	check := func(err error) {
		a.t.Helper()
		if err != nil {
			a.t.Fatalf("testserver: make the certificate of %s: %v", name, err)
		}
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	check(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	cert.SerialNumber, cert.Subject = serial, pkix.Name{CommonName: name}
	cert.NotBefore, cert.NotAfter = time.Now().Add(-certificateLife/2), time.Now().Add(certificateLife/2)
	if a.cert == nil {
		a.cert, a.key = cert, key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, a.cert, key.Public(), a.key)
	check(err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	check(err)
	certFile, keyFile = filepath.Join(a.dir, name+".crt"), filepath.Join(a.dir, name+".key")
	check(os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	check(os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
	return certFile, keyFile
}

// TLSRedis is a private Redis server that speaks TLS on a second port.
type TLSRedis struct {
	*PrivateRedisServer // speaks plainly, for the test itself
	Certificates

	port int
}

// PrivateRedisTLS starts a server like [PrivateRedis] with a certificate of a
// private authority. It demands a certificate of its clients unless flags say
// otherwise: PrivateRedisTLS(t, "--tls-auth-clients", "no").
func PrivateRedisTLS(t testing.TB, flags ...string) *TLSRedis {
	t.Helper()
	s := &TLSRedis{Certificates: NewCertificates(t)}
	s.PrivateRedisServer = privateRedis(t, func() ([]string, error) {
		var err error
		s.port, err = freePort()
		return append([]string{
			"--tls-port", strconv.Itoa(s.port), "--tls-ca-cert-file", s.CA,
			"--tls-cert-file", s.ServerCert, "--tls-key-file", s.ServerKey,
		}, flags...), err
	})
	return s
}

// TLSAddr is where the server speaks TLS.
func (s *TLSRedis) TLSAddr() string { return redisAddr(s.port) }
