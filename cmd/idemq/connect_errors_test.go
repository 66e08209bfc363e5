package main

import (
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/internal/testserver"
)

// secret stands for what must never be shown.
const secret = "s3cret-Pa55word"

// with runs the program in this environment.
func with(t *testing.T, env []string, args ...string) (*process, int) {
	t.Helper()
	p := command(t, args...)
	p.cmd.Env = environment(env...)
	p.start()
	return p, p.wait()
}

// wrongWay is a way in that leads nowhere.
type wrongWay struct {
	url       string
	env, args []string
	says      []string
	code      int // defaults to exitFailed
	secrets   []string
}

// check runs commands into it. They must say at once what is wrong, although they may wait, and keep secrets.
func (r wrongWay) check(t *testing.T) {
	t.Helper()
	for _, command := range [][]string{
		{"publish", "s", "--data", "x", "--json"},
		{"consume", "--stream", "S", "--durable", "D", "--exec", "true", "--store", "kv"},
		{"key", "show", "k", "--scope", "S/D", "--store", "kv"},
		{"demo", "--store", "kv", "--json"},
	} {
		begun := time.Now()
		p, code := with(t, r.env, append(append(command, "--nats", r.url, "--wait", "1m", "--log-level", "debug"), r.args...)...)
		assert.Less(t, time.Since(begun), 10*time.Second, "it tried again")
		want := r.code
		if want == 0 {
			want = exitFailed
			assert.Contains(t, p.err.String(), strings.TrimPrefix(redact(r.url), "nats://"), "which server?")
		}
		assert.Equal(t, want, code)
		for _, s := range r.says {
			assert.Contains(t, p.err.String(), s)
		}
		for _, s := range append(r.secrets, secret) {
			assert.NotContains(t, p.err.String(), s)
		}
		assert.Empty(t, p.out.String(), "standard output is for data")
	}
}

func TestRefusedLoginsAreFinalAndKeepSecrets(t *testing.T) {
	t.Parallel()
	start := func(opts ...func(*server.Options)) string { return testserver.NATS(t, opts...).URL() }
	operator := testserver.NewOperator(t)
	operated := start(operator.Trust)
	password := start(func(o *server.Options) { o.Username, o.Password = "app", "right" })
	token := start(func(o *server.Options) { o.Authorization = "right" })
	public, _ := testserver.NkeyFile(t)
	signed := start(func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} })
	_, nkey := testserver.NkeyFile(t)
	jwt, _ := operator.User(t)
	_, seed := operator.User(t)
	expired, stranger := operator.CredsFile(t, testserver.ExpiredUser), testserver.NewOperator(t).CredsFile(t)
	for name, r := range map[string]wrongWay{
		"password":            {url: password, args: []string{"--user", "app", "--password", secret}, says: []string{"--user and --password"}},
		"password variable":   {url: password, env: []string{"NATS_USER=app", "NATS_PASSWORD=" + secret}, says: []string{"NATS_PASSWORD"}},
		"URL":                 {url: strings.Replace(password, "//", "//app:"+secret+"@", 1), says: []string{"--nats"}},
		"token":               {url: token, args: []string{"--token", secret}, says: []string{"--token"}},
		"token in URL":        {url: strings.Replace(token, "//", "//"+secret+"@", 1), says: []string{"--nats"}},
		"user alone":          {url: token, args: []string{"--user", secret}, says: []string{"taken for a token"}},
		"nkey":                {url: signed, args: []string{"--nkey", nkey}, says: []string{"--nkey"}, secrets: lines(t, nkey)},
		"creds":               {url: operated, args: []string{"--creds", stranger}, says: []string{"--creds"}, secrets: lines(t, stranger)},
		"expired creds":       {url: operated, args: []string{"--creds", expired}, says: []string{"--creds", "expired on"}, secrets: lines(t, expired)},
		"JWT, another's seed": {url: operated, env: []string{"NATS_JWT=" + jwt, "NATS_SEED=" + seed}, says: []string{"NATS_JWT"}, secrets: []string{jwt, seed}},
		"nothing":             {url: operated, says: []string{"--creds", "--context"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r.says = append(r.says, "refused the login")
			r.check(t)
		})
	}
}

// lines of a file that are long enough to be secrets.
func lines(t *testing.T, path string) []string {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	var all []string
	for line := range strings.Lines(string(content)) {
		if line = strings.TrimSpace(line); len(line) > 40 && !strings.Contains(line, " ") {
			all = append(all, line)
		}
	}
	require.NotEmpty(t, all)
	return all
}

func TestRefusedTLSIsFinalAndNamesTheSetting(t *testing.T) {
	t.Parallel()
	ca, other := testserver.NewCA(t), testserver.NewCA(t)
	start := func(opts ...func(*server.Options)) string { return testserver.NATS(t, opts...).URL() }
	tls := start(ca.TLS(t))
	mutual := start(ca.TLS(t), ca.Mutual)
	trust := []string{"--tlsca", ca.File()}
	client := func(ca *testserver.CA, name string, changes ...func(*x509.Certificate)) []string {
		cert, key := ca.ClientFiles(t, name, changes...)
		return append([]string{"--tlscert", cert, "--tlskey", key}, trust...)
	}
	for name, r := range map[string]wrongWay{
		"no authority": {url: tls, says: []string{"not trusted", "--tlsca, NATS_CA"}},
		"wrong CA":     {url: tls, args: []string{"--tlsca", other.File()}, says: []string{"not trusted", "look at --tlsca"}},
		"wrong CA by environment": {
			url: tls, env: []string{"NATS_CA=" + other.File()}, says: []string{"not trusted", "look at NATS_CA"},
		},
		"expired": {url: start(ca.TLS(t, testserver.Expired)), args: trust, says: []string{"has expired", "renewed"}},
		"another name": {
			url: start(ca.TLS(t, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 2)} })), args: trust,
			says: []string{"for other names", "--nats"},
		},
		"no certificate": {url: mutual, args: trust, says: []string{"--tlscert and --tlskey"}},
		"wrong client":   {url: mutual, args: client(other, "wrong"), says: []string{"look at --tlscert"}},
		"expired client": {url: mutual, args: client(ca, "expired", testserver.Expired), says: []string{"--tlscert, which expired on"}},
		"no TLS":         {url: start(), args: trust, says: []string{"has no TLS", "--tlsca"}},
		"TLS not first":  {url: tls, args: append([]string{"--tlsfirst"}, trust...), says: []string{"look at --tlsfirst"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r.check(t)
		})
	}
}

func TestUnreadableFilesAreNamedWithTheirSetting(t *testing.T) {
	t.Parallel()
	ca := testserver.NewCA(t)
	cert, key := ca.ClientFiles(t, "client")
	_, another := ca.ClientFiles(t, "another")
	_, nkey := testserver.NkeyFile(t)
	seed := lines(t, nkey)[0]
	jwt, _ := testserver.NewOperator(t).User(t)
	missing := filepath.Join(t.TempDir(), "missing")
	rubbish := filepath.Join(t.TempDir(), "rubbish")
	require.NoError(t, os.WriteFile(rubbish, []byte(secret), 0o600))
	for name, c := range map[string]struct {
		env, args, says []string
		code            int
	}{
		"creds missing":        {args: []string{"--creds", missing}, says: []string{missing, "--creds"}, code: exitFailed},
		"creds missing by env": {env: []string{"NATS_CREDS=" + missing}, says: []string{missing, "NATS_CREDS"}, code: exitFailed},
		"creds a folder":       {args: []string{"--creds", filepath.Dir(rubbish)}, says: []string{"--creds"}, code: exitFailed},
		"creds rubbish":        {args: []string{"--creds", rubbish}, says: []string{rubbish, "--creds"}, code: exitFailed},
		"creds themselves":     {args: []string{"--creds", jwt}, says: []string{"--creds must name a file"}, code: exitUsage},
		"nkey missing":         {args: []string{"--nkey", missing}, says: []string{missing, "--nkey"}, code: exitFailed},
		"nkey rubbish":         {args: []string{"--nkey", rubbish}, says: []string{rubbish, "--nkey"}, code: exitFailed},
		"nkey itself":          {env: []string{"NATS_NKEY=" + seed}, says: []string{"NATS_NKEY must name a file"}, code: exitUsage},
		"CA missing":           {args: []string{"--tlsca", missing}, says: []string{missing, "--tlsca"}, code: exitFailed},
		"CA rubbish":           {args: []string{"--tlsca", rubbish}, says: []string{rubbish, "--tlsca"}, code: exitFailed},
		"certificate missing":  {args: []string{"--tlscert", missing, "--tlskey", key}, says: []string{missing, "--tlscert"}, code: exitFailed},
		"key missing":          {args: []string{"--tlscert", cert, "--tlskey", missing}, says: []string{missing, "--tlskey"}, code: exitFailed},
		"key of another":       {args: []string{"--tlscert", cert, "--tlskey", another}, says: []string{"--tlskey"}, code: exitFailed},
		"certificate alone":    {args: []string{"--tlscert", cert}, says: []string{"--tlskey"}, code: exitUsage},
		"seed rubbish":         {env: []string{"NATS_JWT=" + jwt, "NATS_SEED=" + secret}, says: []string{"NATS_SEED"}, code: exitFailed},
		"seed alone":           {env: []string{"NATS_SEED=" + seed}, says: []string{"NATS_JWT"}, code: exitUsage},
		"two logins":           {args: []string{"--token", secret, "--nkey", nkey}, says: []string{"--nkey", "--token"}, code: exitUsage},
		"login twice":          {args: []string{"--token", "x", "-s", "nats://u:" + secret + "@h"}, says: []string{"--token", "--nats"}, code: exitUsage},
		"password alone":       {args: []string{"--password", secret}, says: []string{"--user"}, code: exitUsage},
		"domain and prefix":    {args: []string{"--js-domain", "d", "--js-api-prefix", "p"}, says: []string{"--js-domain"}, code: exitUsage},
		"context and none":     {args: []string{"--context", "c", "--no-context"}, says: []string{"--no-context"}, code: exitUsage},
		"proxy":                {env: []string{"NATS_SOCKS_PROXY=socks5://u:" + secret + "@h"}, says: []string{"NATS_SOCKS_PROXY"}, code: exitUsage},
		"port of a password":   {args: []string{"-s", "nats://u:1?" + secret + "@h"}, says: []string{"percent-encoded"}, code: exitUsage},
		"password with commas": {args: []string{"-s", "nats://u:" + secret + ",x@h"}, says: []string{"percent-encoded"}, code: exitUsage},
		"password with slash":  {args: []string{"-s", "nats://u:" + secret + "/x@h"}, says: []string{"percent-encoded"}, code: exitUsage},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, code := with(t, c.env, append([]string{"publish", "s", "--data", "x", "--log-level", "debug"}, c.args...)...)
			assert.Equal(t, c.code, code, p.err.String())
			for _, s := range c.says {
				assert.Contains(t, p.err.String(), s)
			}
			for _, s := range []string{secret, seed, jwt} {
				assert.NotContains(t, p.err.String(), s)
			}
			assert.Empty(t, p.out.String())
		})
	}
}
