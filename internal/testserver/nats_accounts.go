package testserver

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
)

// Operator is decentralised authentication of one test: an operator whom the
// server trusts, and an account with JetStream that it has signed.
type Operator struct {
	claims   *jwt.OperatorClaims
	resolver *server.MemAccResolver
	system   string
	account  nkeys.KeyPair
}

// NewOperator makes an operator with a system account and one for users.
func NewOperator(t testing.TB) *Operator {
	t.Helper()
	signer := newNkey(t, nkeys.CreateOperator)
	o := &Operator{claims: jwt.NewOperatorClaims(publicKey(t, signer)), resolver: &server.MemAccResolver{}}
	o.claims.Name = "testserver"
	o.system = publicKey(t, o.newAccount(t, signer, "SYS", nil))
	o.account = o.newAccount(t, signer, "APP", &jwt.JetStreamLimits{
		MemoryStorage: jwt.NoLimit, DiskStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit,
	})
	// The server reads the operator's own token.
	token, err := o.claims.Encode(signer)
	if err != nil {
		t.Fatalf("testserver: operator: %v", err)
	}
	if o.claims, err = jwt.DecodeOperatorClaims(token); err != nil {
		t.Fatalf("testserver: operator: %v", err)
	}
	return o
}

// Trust makes a server of [NATS] take users of this operator, and nobody else.
func (o *Operator) Trust(opts *server.Options) {
	opts.TrustedOperators = []*jwt.OperatorClaims{o.claims}
	opts.AccountResolver = o.resolver
	opts.SystemAccount = o.system
}

// User makes a user of the account, and returns the token and the seed that the
// user signs with. Each change is applied to the user before it is signed.
func (o *Operator) User(t testing.TB, changes ...func(*jwt.UserClaims)) (token, seed string) {
	t.Helper()
	user := newNkey(t, nkeys.CreateUser)
	claims := jwt.NewUserClaims(publicKey(t, user))
	claims.Name = "app"
	for _, change := range changes {
		change(claims)
	}
	token, err := claims.Encode(o.account)
	if err != nil {
		t.Fatalf("testserver: user: %v", err)
	}
	return token, seedOf(t, user)
}

// CredsFile makes a user as [Operator.User] does, and returns a file with its
// credentials.
func (o *Operator) CredsFile(t testing.TB, changes ...func(*jwt.UserClaims)) string {
	t.Helper()
	token, seed := o.User(t, changes...)
	creds, err := jwt.FormatUserConfig(token, []byte(seed))
	if err != nil {
		t.Fatalf("testserver: credentials: %v", err)
	}
	return writeSecret(t, "app.creds", creds)
}

// ExpiredUser is a change that lets a user's credentials end before they are used.
func ExpiredUser(c *jwt.UserClaims) { c.Expires = time.Now().Add(-certBefore).Unix() }

// NkeyFile makes a user that logs in with a signature alone: its public key, for
// server.NkeyUser, and a file with its seed.
func NkeyFile(t testing.TB) (public, file string) {
	t.Helper()
	user := newNkey(t, nkeys.CreateUser)
	return publicKey(t, user), writeSecret(t, "user.nk", []byte(seedOf(t, user)))
}

func (o *Operator) newAccount(t testing.TB, signer nkeys.KeyPair, name string, limits *jwt.JetStreamLimits) nkeys.KeyPair {
	t.Helper()
	key := newNkey(t, nkeys.CreateAccount)
	claims := jwt.NewAccountClaims(publicKey(t, key))
	claims.Name = name
	if limits != nil {
		claims.Limits.JetStreamLimits = *limits
	}
	token, err := claims.Encode(signer)
	if err == nil {
		err = o.resolver.Store(claims.Subject, token)
	}
	if err != nil {
		t.Fatalf("testserver: account %s: %v", name, err)
	}
	return key
}

func newNkey(t testing.TB, create func() (nkeys.KeyPair, error)) nkeys.KeyPair {
	t.Helper()
	key, err := create()
	if err != nil {
		t.Fatalf("testserver: nkey: %v", err)
	}
	return key
}

func publicKey(t testing.TB, key nkeys.KeyPair) string {
	t.Helper()
	public, err := key.PublicKey()
	if err != nil {
		t.Fatalf("testserver: nkey: %v", err)
	}
	return public
}

func seedOf(t testing.TB, key nkeys.KeyPair) string {
	t.Helper()
	seed, err := key.Seed()
	if err != nil {
		t.Fatalf("testserver: nkey: %v", err)
	}
	return string(seed)
}

func writeSecret(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatalf("testserver: %v", err)
	}
	return path
}
