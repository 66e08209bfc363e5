package testserver

import (
	"crypto/x509"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTLSWantsTheAuthorityAndAClientCertificate(t *testing.T) {
	ca, other := NewCA(t), NewCA(t)
	s := NATS(t, ca.TLS(t), ca.Mutual)
	cert, key := ca.ClientFiles(t, "client")
	newStream(t, s.Conn(t, nats.RootCAs(ca.File()), nats.ClientCert(cert, key)), "TLS")

	_, err := nats.Connect(s.URL(), nats.RootCAs(other.File()), nats.ClientCert(cert, key))
	unknown := x509.UnknownAuthorityError{}
	assert.ErrorAs(t, err, &unknown)
	_, err = nats.Connect(s.URL(), nats.RootCAs(ca.File()))
	assert.Error(t, err) // told by the alert, or by the end of the connection
}

func TestExpiredCertificatesAreRefused(t *testing.T) {
	ca := NewCA(t)
	s := NATS(t, ca.TLS(t, Expired))
	_, err := nats.Connect(s.URL(), nats.RootCAs(ca.File()))
	invalid := x509.CertificateInvalidError{}
	require.ErrorAs(t, err, &invalid)
	assert.Equal(t, x509.Expired, invalid.Reason)
}

func TestOperatorLetsItsUsersInAndNobodyElse(t *testing.T) {
	o := NewOperator(t)
	s := NATS(t, o.Trust)
	newStream(t, s.Conn(t, nats.UserCredentials(o.CredsFile(t))), "OPERATOR")
	for name, opt := range map[string]nats.Option{
		"another operator": nats.UserCredentials(NewOperator(t).CredsFile(t)),
		"expired":          nats.UserCredentials(o.CredsFile(t, ExpiredUser)),
		"none":             nats.Token("token"),
	} {
		_, err := nats.Connect(s.URL(), opt)
		assert.ErrorIs(t, err, nats.ErrAuthorization, name)
	}
}

func TestNkeyFile(t *testing.T) {
	public, file := NkeyFile(t)
	s := NATS(t, func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} })
	opt, err := nats.NkeyOptionFromSeed(file)
	require.NoError(t, err)
	newStream(t, s.Conn(t, opt), "NKEY")
}
