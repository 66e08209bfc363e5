package redisstore

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// Parameters of an address with TLS; the first three name files.
const (
	paramCA         = "tls_ca"
	paramCert       = "tls_cert"
	paramKey        = "tls_key"
	paramServerName = "tls_server_name"
)

// tlsSettings is what an address says about TLS beyond what go-redis knows.
type tlsSettings struct {
	roots *x509.CertPool    // nil for the system's
	certs []tls.Certificate // of the client
	name  string            // that the servers' certificates must bear; empty for the host of each
}

// takeTLS removes the parameters about TLS and reads the files.
func (a *address) takeTLS() (tlsSettings, error) {
	var set tlsSettings
	for _, name := range []string{paramCA, paramCert, paramKey, paramServerName} {
		if a.query.Has(name) && !a.tls {
			return set, fmt.Errorf("redisstore: parameter %s of the URL needs TLS: a scheme that begins with rediss", name)
		}
	}
	set.name = a.take(paramServerName)
	if file := a.take(paramCA); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return set, fmt.Errorf("redisstore: parameter %s of the URL: %w", paramCA, err)
		}
		set.roots = x509.NewCertPool()
		if !set.roots.AppendCertsFromPEM(pem) {
			return set, fmt.Errorf("redisstore: parameter %s of the URL: %s has no certificate in PEM form", paramCA, file)
		}
	}
	cert, key := a.take(paramCert), a.take(paramKey)
	switch {
	case cert == "" && key == "":
		return set, nil
	case cert == "" || key == "":
		return set, errors.New("redisstore: the URL must have both of " + paramCert + " and " + paramKey + ", or neither")
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return set, fmt.Errorf("redisstore: parameters %s and %s of the URL: %w", paramCert, paramKey, err)
	}
	set.certs = []tls.Certificate{pair}
	return set, nil
}

// apply changes the settings for one server; there are none without TLS.
func (set *tlsSettings) apply(conf *tls.Config) {
	if conf == nil {
		return
	}
	conf.MinVersion = tls.VersionTLS12
	conf.RootCAs, conf.Certificates = set.roots, set.certs
	if set.name != "" {
		conf.ServerName = set.name
	}
}

// applyToMany does it for several servers: each proves the name under which it was called, where go-redis would ask all
// for the name of the first.
func (set *tlsSettings) applyToMany(conf *tls.Config) {
	if conf == nil {
		return
	}
	conf.ServerName = ""
	set.apply(conf)
}
