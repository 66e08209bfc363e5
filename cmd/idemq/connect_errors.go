package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"syscall"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// explain says which server refused, why, and which setting to look at. What trying again cannot help comes back as an
// exitError.
func (l link) explain(err error) error {
	server := redact(l.get(urlField))
	failed := func(format string, args ...any) error { return &exitError{exitFailed, fmt.Errorf(format, args...)} }
	if malformed := (*url.Error)(nil); errors.As(err, &malformed) {
		return l.malformedURL() // its text repeats the URL, password included
	}
	invalid, unknown := x509.CertificateInvalidError{}, x509.UnknownAuthorityError{}
	hostname, record := x509.HostnameError{}, tls.RecordHeaderError{}
	switch {
	case isRefusal(err):
		return failed("the NATS server %s refused the login: %w; look at %s", server, err, l.login())
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return failed("the certificate of the NATS server %s has expired or is not valid yet: %w; it must be renewed, or this clock set",
			server, err)
	case errors.As(err, &hostname):
		return failed("the certificate of the NATS server %s is for other names: %w; look at %s", server, err, l[urlField].From)
	case errors.As(err, &unknown):
		return failed("the certificate of the NATS server %s is signed by an authority that is not trusted: %w; look at %s",
			server, err, l.from(caField, ways(caField)))
	case errors.As(err, &invalid):
		return failed("the certificate of the NATS server %s is not valid: %w", server, err)
	case errors.As(err, &record):
		return failed("the NATS server %s does not begin with TLS: %w; look at %s",
			server, err, l.from(tlsFirstField, ways(tlsFirstField)))
	case errors.Is(err, nats.ErrSecureConnWanted):
		return failed("the NATS server %s has no TLS, which %s asks for: %w", server, l.encryption(), err)
	case errors.Is(err, nats.ErrNkeysNotSupported):
		return failed("the NATS server %s takes no nkeys: %w; look at %s", server, err, l.from(nkeyField, nkeyField))
	case isAlert(err):
		return failed("the NATS server %s refused TLS: %w; look at %s", server, err, l.clientCertificate())
	}
	return fmt.Errorf("cannot reach NATS at %s: %w; start one with idemq dev, or name another with --nats", server, err)
}

// isRefusal reports whether a server has refused a login.
func isRefusal(err error) bool {
	refusals := []error{nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired}
	return slices.ContainsFunc(refusals, func(r error) bool { return errors.Is(err, r) })
}

// isAlert reports whether the server ended TLS, which it does when it does not like the client's certificate. In TLS 1.3
// it says so after the handshake, and the client may notice only that the connection is gone.
func isAlert(err error) bool {
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "remote error" {
		return true
	}
	gone := errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
	return errors.Is(err, nats.ErrTLS) && gone
}

// from is where a field was given, else how it can be.
func (l link) from(name, otherwise string) string {
	if l.has(name) {
		return l[name].From
	}
	return otherwise
}

// login says which settings a refused login was made with.
func (l link) login() string {
	switch {
	case l.has(urlLoginField):
		return "user and password in the URL (" + l[urlField].From + ")"
	case l.has(userField) && l.has(passwordField):
		return l[userField].From + " and " + l[passwordField].From
	case l.has(userField):
		return l[userField].From + ", which without a password is taken for a token"
	case l.has(tokenField):
		return l[tokenField].From
	case l.has(nkeyField):
		return l[nkeyField].From
	case l.has(credsField):
		return l[credsField].From + l.expiry()
	case l.has(jwtField):
		return l[jwtField].From + l.expiry()
	case l.has(certField):
		return l[certField].From + ", or log in with --creds, --nkey, --user or --token"
	}
	return "how to log in: with --creds, --nkey, --user, --token or --context, as idemq --help says"
}

// expiry says so if the credentials have expired; the server does not.
func (l link) expiry() string {
	token, err := l[jwtField].text()
	if l.has(credsField) {
		_, content, readErr := l[credsField].content()
		if readErr != nil {
			return ""
		}
		token, err = nkeys.ParseDecoratedJWT(content)
	}
	if err != nil {
		return ""
	}
	claims, err := jwt.DecodeUserClaims(token)
	if err != nil || claims.Expires == 0 || time.Now().Before(time.Unix(claims.Expires, 0)) {
		return ""
	}
	return ", whose credentials expired on " + time.Unix(claims.Expires, 0).UTC().Format(time.RFC3339)
}

// clientCertificate says which certificate was shown, and whether it has expired.
func (l link) clientCertificate() string {
	if !l.has(certField) {
		return "--tlscert and --tlskey: the server may ask for a client's certificate"
	}
	about := l[certField].From
	pair, err := tls.LoadX509KeyPair(expand(l.get(certField)), expand(l.get(keyField)))
	if err == nil && time.Now().After(pair.Leaf.NotAfter) {
		about += ", which expired on " + pair.Leaf.NotAfter.UTC().Format(time.RFC3339)
	}
	return about
}

// encryption says which setting turned TLS on.
func (l link) encryption() string {
	for _, name := range []string{caField, certField, tlsFirstField} {
		if l.has(name) {
			return l[name].From
		}
	}
	return l[urlField].From
}
