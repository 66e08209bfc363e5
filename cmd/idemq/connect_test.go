//go:build unix

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/internal/testserver"
)

// access is a server with TLS and a way in: as flags, as variables, and as a context.
type access struct {
	url, ca string
	way     map[string]string // by the name of the context's field
}

// flagOf and variableOf are what the nats CLI calls the fields of contexts.
var (
	flagOf = map[string]string{
		"url": "--nats", "ca": "--tlsca", "user": "--user", "password": "--password", "token": "--token", "creds": "--creds",
		"nkey": "--nkey", "cert": "--tlscert", "key": "--tlskey", "jetstream_domain": "--js-domain",
		"jetstream_api_prefix": "--js-api-prefix", "inbox_prefix": "--inbox-prefix",
	}
	variableOf = map[string]string{
		"url": "NATS_URL", "ca": "NATS_CA", "user": "NATS_USER", "password": "NATS_PASSWORD", "token": "NATS_TOKEN", "creds": "NATS_CREDS",
		"nkey": "NATS_NKEY", "cert": "NATS_CERT", "key": "NATS_KEY", "jetstream_domain": "NATS_JS_DOMAIN",
		"user_jwt": "NATS_JWT", "user_seed": "NATS_SEED",
	}
)

// waysIn starts a server with TLS for each kind of login that it returns.
func waysIn(t *testing.T) map[string]access {
	t.Helper()
	ca := testserver.NewCA(t)
	on := func(way map[string]string, opts ...func(*server.Options)) access {
		s := testserver.NATS(t, append([]func(*server.Options){ca.TLS(t)}, opts...)...)
		return access{url: s.URL(), ca: ca.File(), way: way}
	}
	operator := testserver.NewOperator(t)
	token, seed := operator.User(t)
	public, nkey := testserver.NkeyFile(t)
	cert, key := ca.ClientFiles(t, "client")
	password := func(o *server.Options) { o.Username, o.Password = "app", secret }
	hub := func(o *server.Options) { o.JetStreamDomain = "hub" }
	return map[string]access{
		"password":   on(map[string]string{"user": "app", "password": secret}, password),
		"token":      on(map[string]string{"token": secret}, func(o *server.Options) { o.Authorization = secret }),
		"bare user":  on(map[string]string{"user": secret}, func(o *server.Options) { o.Authorization = secret }),
		"nkey":       on(map[string]string{"nkey": nkey}, func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} }),
		"creds":      on(map[string]string{"creds": operator.CredsFile(t)}, operator.Trust),
		"jwt":        on(map[string]string{"user_jwt": token, "user_seed": seed}, operator.Trust),
		"mutual":     on(map[string]string{"cert": cert, "key": key}, ca.Mutual),
		"tls first":  on(map[string]string{"tls_first": "true"}, func(o *server.Options) { o.TLSHandshakeFirst = true }),
		"domain":     on(map[string]string{"user": "app", "password": secret, "jetstream_domain": "hub"}, password, hub),
		"API prefix": on(map[string]string{"jetstream_api_prefix": "$JS.hub.API"}, hub),
		"inbox": on(map[string]string{"user": "app", "password": secret, "inbox_prefix": "_INBOX_app"}, func(o *server.Options) {
			o.Users = []*server.User{{Username: "app", Password: secret, Permissions: &server.Permissions{
				Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX_app.>"}},
			}}}
		}),
	}
}

// fields are those of the way in, with server and authority.
func (w access) fields() map[string]string {
	all := map[string]string{"url": w.url, "ca": w.ca}
	for name, v := range w.way {
		all[name] = v
	}
	return all
}

// flags is the way in as arguments, or nil if there is no flag for some of it.
func (w access) flags() []string {
	var args []string
	for name, v := range w.fields() {
		switch {
		case name == "tls_first":
			args = append(args, "--tlsfirst")
		case flagOf[name] == "":
			return nil
		default:
			args = append(args, flagOf[name], v)
		}
	}
	return args
}

func (w access) variables() []string {
	var env []string
	for name, v := range w.fields() {
		if variableOf[name] == "" {
			return nil
		}
		env = append(env, variableOf[name]+"="+v)
	}
	return env
}

// contexts is a folder for XDG_CONFIG_HOME with one context, selected or not.
func contexts(t *testing.T, fields map[string]string, selected bool) string {
	t.Helper()
	raw := map[string]any{"description": "of a test", "color_scheme": "", "nsc": "", "windows_ca_certs_match": nil, "tls_first": false}
	for name, v := range fields {
		raw[name] = v
		if v == "true" {
			raw[name] = true
		}
	}
	content, err := json.Marshal(raw)
	require.NoError(t, err)
	home := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(home, "nats", "context"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(home, "nats", "context", "ctx.json"), content, 0o600))
	if selected {
		require.NoError(t, os.WriteFile(filepath.Join(home, "nats", "context.txt"), []byte("ctx\n"), 0o600))
	}
	return home
}

// worksThrough publishes a message and consumes it, with its record kept on the same connection.
func worksThrough(t *testing.T, stream string, env, args []string) {
	t.Helper()
	fine := func(more ...string) *process {
		t.Helper()
		p, code := with(t, env, append(more, args...)...)
		require.Equal(t, exitFine, code, p.err.String())
		assert.NotContains(t, p.err.String()+p.out.String(), secret)
		return p
	}
	consume := []string{
		"consume", "--store", "kv", "--stream", stream, "--durable", "D", "--subjects", stream, "--create", "--json", "--idle-exit", "1ms", "--exec", "cat >/dev/null",
	}
	fine(consume...)
	fine("publish", stream, "--key", "k", "--data", "x")
	assert.Equal(t, 1, number(fine(consume...).object(summaryFields...), "executed"))
	assert.Equal(t, "consumed", fine("key", "show", "k", "--scope", stream+"/D", "--store", "kv").object(keyFields...)["state"])
}

func TestEveryLoginWorksAsFlagsVariablesAndContext(t *testing.T) {
	t.Parallel()
	for name, w := range waysIn(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if args := w.flags(); args != nil {
				worksThrough(t, "FLAGS", nil, args)
			}
			if env := w.variables(); env != nil {
				worksThrough(t, "VARIABLES", env, nil)
			}
			worksThrough(t, "CONTEXT", []string{"XDG_CONFIG_HOME=" + contexts(t, w.fields(), false)}, []string{"--context", "ctx"})
		})
	}
}

// On a server's own domain everything works without naming it, so only a wrong one shows that the name is used.
func TestDomainAndPrefixAreUsed(t *testing.T) {
	t.Parallel()
	s := testserver.NATS(t, func(o *server.Options) { o.JetStreamDomain = "hub" })
	look := []string{"key", "show", "k", "--scope", "S/D", "--store", "kv", "--nats", s.URL()}
	for flags, answers := range map[string]bool{
		"--js-domain=hub":             true,
		"--js-domain=spoke":           false,
		"--js-api-prefix=$JS.hub.API": true,
		"--js-api-prefix=elsewhere":   false,
	} {
		p, code := idemq(t, append(look, flags)...)
		assert.Equal(t, exitFailed, code, "%s: %s", flags, p.err.String())
		assert.Equal(t, answers, strings.Contains(p.err.String(), "there is no bucket"), "%s: %s", flags, p.err.String())
	}
}

func TestContextsAreFoundByVariableSelectionAndFile(t *testing.T) {
	t.Parallel()
	s := testserver.SharedNATS(t)
	stream(t, s, "FOUND", "found")
	good := map[string]string{"url": s.URL()}
	publish := []string{"publish", "found", "--data", "x"}
	home := contexts(t, good, false)
	for name, c := range map[string]struct{ env, args []string }{
		"variable":       {[]string{"XDG_CONFIG_HOME=" + home, "NATS_CONTEXT=ctx"}, nil},
		"selection":      {[]string{"XDG_CONFIG_HOME=" + contexts(t, good, true)}, nil},
		"file":           {nil, []string{"--context", filepath.Join(home, "nats", "context", "ctx.json")}},
		"home":           {[]string{"XDG_CONFIG_HOME=", "HOME=" + underConfig(t, home), "NATS_CONTEXT=ctx"}, nil},
		"no context":     {[]string{"XDG_CONFIG_HOME=" + contexts(t, map[string]string{"url": "nats://127.0.0.1:1", "nsc": "x"}, true), "NATS_URL=" + s.URL()}, []string{"--no-context"}},
		"value by env":   {[]string{"XDG_CONFIG_HOME=" + contexts(t, map[string]string{"url": s.URL(), "token": "env://OTHER"}, true), "OTHER=x"}, nil},
		"flag over both": {[]string{"XDG_CONFIG_HOME=" + contexts(t, map[string]string{"url": "nats://127.0.0.1:1"}, true), "NATS_URL=nats://127.0.0.1:2"}, []string{"-s", s.URL()}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, code := with(t, c.env, append(publish, c.args...)...)
			assert.Equal(t, exitFine, code, p.err.String())
		})
	}
}

// underConfig makes a home whose .config is this folder.
func underConfig(t *testing.T, config string) string {
	t.Helper()
	home := t.TempDir()
	require.NoError(t, os.Symlink(config, filepath.Join(home, ".config")))
	return home
}

func TestFlagsOverrideSingleFieldsOfAContext(t *testing.T) {
	t.Parallel()
	all := waysIn(t)
	password, creds := all["password"], all["creds"]
	fields := password.fields()
	fields["password"] = "wrong"
	home := "XDG_CONFIG_HOME=" + contexts(t, fields, true)
	worksThrough(t, "PASSWORD", []string{home}, []string{"--password", secret})
	worksThrough(t, "VARIABLE", []string{home, "NATS_PASSWORD=" + secret}, nil)
	// Another kind of login sets the context's aside; its authority stays.
	worksThrough(t, "CREDS", []string{home}, []string{"--creds", creds.way["creds"], "--nats", creds.url})
	worksThrough(t, "URL", []string{home}, []string{"--nats", strings.Replace(password.url, "//", "//app:"+secret+"@", 1)})
	nkey := all["nkey"] // of which the client would not think if there were a login in the URL
	worksThrough(t, "NKEY", []string{"NATS_URL=" + strings.Replace(nkey.url, "//", "//app:wrong@", 1)}, []string{"--nkey", nkey.way["nkey"], "--tlsca", nkey.ca})
}

func TestContextsThatCannotBeUsedSayWhy(t *testing.T) {
	t.Parallel()
	s := testserver.SharedNATS(t)
	write := func(content string, selected bool) string {
		home := contexts(t, nil, selected)
		require.NoError(t, os.WriteFile(filepath.Join(home, "nats", "context", "ctx.json"), []byte(content), 0o600))
		return home
	}
	dangling := contexts(t, nil, true)
	require.NoError(t, os.Remove(filepath.Join(dangling, "nats", "context", "ctx.json")))
	folder := contexts(t, nil, false)
	require.NoError(t, os.Mkdir(filepath.Join(folder, "nats", "context.txt"), 0o700))
	for name, c := range map[string]struct {
		home, says string
		code       int
		args       []string
	}{
		"named, not there":       {folder, filepath.Join("nats", "context", "other.json"), exitUsage, []string{"--context", "other"}},
		"named outside":          {folder, "slashes", exitUsage, []string{"--context", "../ctx"}},
		"named nothing":          {folder, "--no-context", exitUsage, []string{"--context", ""}},
		"selected, not there":    {dangling, filepath.Join("nats", "context", "ctx.json"), exitFailed, nil},
		"selection unreadable":   {folder, "context.txt", exitFailed, nil},
		"not JSON":               {write(`{"password":"`+secret+`",,}`, true), "ctx.json", exitFailed, nil},
		"wrong type":             {write(`{"password":["`+secret+`"]}`, true), `"password"`, exitFailed, nil},
		"no object":              {write(`"`+secret+`"`, true), "ctx.json", exitFailed, nil},
		"nsc":                    {contexts(t, map[string]string{"nsc": "nsc://o/a/" + secret}, true), `"nsc"`, exitUsage, nil},
		"socks":                  {contexts(t, map[string]string{"socks_proxy": "socks5://u:" + secret + "@h"}, true), `"socks_proxy"`, exitUsage, nil},
		"windows":                {contexts(t, map[string]string{"windows_cert_store": "user"}, true), `"windows_cert_store"`, exitUsage, nil},
		"creds of nsc":           {contexts(t, map[string]string{"creds": "nsc://o/a/u"}, true), "nsc://", exitUsage, nil},
		"password of 1password":  {contexts(t, map[string]string{"user": "u", "password": "op://v/" + secret}, true), "op://", exitUsage, nil},
		"two kinds of login":     {contexts(t, map[string]string{"token": secret, "creds": "f"}, true), "exclude each other", exitUsage, nil},
		"domain and prefix":      {contexts(t, map[string]string{"jetstream_domain": "d", "jetstream_api_prefix": "p"}, true), "exclude each other", exitUsage, nil},
		"password without user":  {contexts(t, map[string]string{"password": secret}, true), "--user", exitUsage, nil},
		"certificate alone":      {contexts(t, map[string]string{"cert": "c.pem"}, true), "--tlskey", exitUsage, nil},
		"variable that is unset": {contexts(t, map[string]string{"token": "env://IDEMQ_TEST_UNSET"}, true), "IDEMQ_TEST_UNSET", exitFailed, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, code := with(t, []string{"XDG_CONFIG_HOME=" + c.home}, append([]string{"publish", "s", "--data", "x", "--nats", s.URL()}, c.args...)...)
			assert.Equal(t, c.code, code, p.err.String())
			assert.Contains(t, p.err.String(), c.says)
			assert.NotContains(t, p.err.String(), secret)
			assert.Empty(t, p.out.String())
		})
	}
}

func TestUnknownFieldsOfAContextAreNamed(t *testing.T) {
	t.Parallel()
	s := testserver.SharedNATS(t)
	stream(t, s, "UNKNOWN", "unknown")
	home := contexts(t, map[string]string{"url": s.URL(), "new_field": secret}, true)
	p, code := with(t, []string{"XDG_CONFIG_HOME=" + home}, "publish", "unknown", "--data", "x")
	assert.Equal(t, exitFine, code)
	assert.Contains(t, p.err.String(), "new_field")
	assert.NotContains(t, p.err.String(), secret)
}

func TestHelpShowsNoSecretsOfVariables(t *testing.T) {
	t.Parallel()
	env := []string{"IDEMQ_STORE=redis://:" + secret + "@h"}
	for name, variable := range variableOf {
		v := secret
		if name == "url" {
			v = "nats://u:" + secret + "@h"
		}
		env = append(env, variable+"="+v)
	}
	p, code := with(t, env, "--help")
	require.Equal(t, exitFine, code)
	assert.Contains(t, p.out.String(), "--creds")
	assert.NotContains(t, p.out.String()+p.err.String(), secret)
}

// The demo's workers are processes of their own, and must get in as it does.
func TestDemoPassesItsConnectionOn(t *testing.T) {
	t.Parallel()
	all := waysIn(t)
	for _, name := range []string{"password", "creds", "jwt", "mutual", "domain"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			home := contexts(t, all[name].fields(), false)
			p, _ := demo(t, "--messages", "50", "--store", "kv", "--json", "--context", "ctx")
			p.cmd.Env = append(p.cmd.Env, "XDG_CONFIG_HOME="+home)
			require.Equal(t, exitFine, p.start().wait(), p.err.String())
			assert.Equal(t, 0, number(p.object(demoFields...), "lost"))
			assert.NotContains(t, p.err.String()+p.out.String(), secret)
		})
	}
}

func TestDemoKeepsAwayFromASelectedContext(t *testing.T) {
	t.Parallel()
	home := contexts(t, map[string]string{"url": "nats://127.0.0.1:1", "nsc": "unsupported"}, true)
	for _, env := range [][]string{nil, {"NATS_CONTEXT=ctx"}, {"NATS_CREDS=nowhere"}} {
		p, _ := demo(t, "--messages", "20", "--store", "kv", "--no-kill")
		p.cmd.Env = append(append(p.cmd.Env, "XDG_CONFIG_HOME="+home), env...)
		require.Equal(t, exitFine, p.start().wait(), p.err.String())
		assert.Contains(t, p.out.String(), "(embedded)")
	}
	p, code := idemq(t, "demo", "--creds", "nowhere")
	assert.Equal(t, exitUsage, code)
	assert.Contains(t, p.err.String(), "--creds")
}

// Credentials have an end, and are renewed in their file while a worker runs.
func TestConsumeComesBackWithRenewedCredentials(t *testing.T) {
	t.Parallel()
	ca, operator := testserver.NewCA(t), testserver.NewOperator(t)
	s := testserver.NATS(t, ca.TLS(t), operator.Trust)
	right, wrong, file := operator.CredsFile(t), testserver.NewOperator(t).CredsFile(t), filepath.Join(t.TempDir(), "creds")
	replace := func(by string) {
		content, err := os.ReadFile(by)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file+".new", content, 0o600))
		require.NoError(t, os.Rename(file+".new", file))
	}
	at := []string{"--nats", s.URL(), "--tlsca", ca.File(), "--creds"}
	replace(right)
	p := command(t, append([]string{
		"consume", "--store", "kv", "--stream", "RENEW", "--durable", "D", "--subjects", "renew", "--create", "--exec", `echo "ran $IDEMQ_KEY" >&2`,
	}, append(at, file)...)...).start()
	publish := append(append([]string{"publish", "renew", "--data", "x"}, at...), right, "--key")
	require.Eventually(t, func() bool {
		_, code := idemq(t, append(publish, "before")...)
		return code == exitFine
	}, patience, tick)
	p.says(&p.err, "ran before")

	s.Stop()
	replace(wrong)
	s.Start(t)
	p.says(&p.err, "look at --creds")
	fine(t, append(publish, "meanwhile")...)
	for range 3 {
		before := strings.Count(p.err.String(), "look at --creds")
		require.Eventually(t, func() bool { return strings.Count(p.err.String(), "look at --creds") > before }, patience, tick, "it gave up")
	}
	replace(right)
	p.says(&p.err, "ran meanwhile")
	for _, line := range append(lines(t, right), lines(t, wrong)...) {
		assert.NotContains(t, p.err.String(), line)
	}
}
