package main

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/internal/testserver"
)

func TestUsageErrorsExitWithTwo(t *testing.T) {
	t.Parallel()
	consume := []string{"consume", "--stream", "S", "--durable", "D", "--exec", "true"}
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"unknown command":       {[]string{"frobnicate"}, "frobnicate"},
		"unknown flag":          {[]string{"publish", "s", "--frob"}, "--frob"},
		"log level":             {[]string{"publish", "s", "--log-level", "loud"}, "debug, info, warn or error"},
		"no subject":            {[]string{"publish"}, "1 argument"},
		"header":                {[]string{"publish", "s", "--header", "x"}, "NAME:VALUE"},
		"key and no key":        {[]string{"publish", "s", "--key", "k", "--no-key"}, "exclude each other"},
		"empty key":             {[]string{"publish", "s", "--key", "", "--data", "x"}, "key"},
		"key with a space":      {[]string{"publish", "s", "--key", "a b", "--data", "x"}, "key"},
		"key with a control":    {[]string{"publish", "s", "--key", "a\x1bb", "--data", "x"}, "key"},
		"key of 256 bytes":      {[]string{"publish", "s", "--key", strings.Repeat("k", 256), "--data", "x"}, "key"},
		"count":                 {[]string{"publish", "s", "--count", "0", "--data", "x"}, "--count"},
		"no store":              {consume, "--store or IDEMQ_STORE"},
		"unknown store":         {append(consume, "--store", "mongodb://u:secret@h"), "memory://"},
		"unknown store's name":  {append(consume, "--store", "mongodb://u:secret@h"), `"mongodb://h"`},
		"memory without scheme": {append(consume, "--store", "memory"), "memory://"},
		"malformed redis":       {append(consume, "--store", "redis://:secret@h:x", "--nats", "nats://127.0.0.1:1"), "redis://host"},
		"malformed NATS":        {append(consume, "--store", "memory://", "--nats", "nats://u:secret@h:x"), "nats://host:4222"},
		"no exec":               {consume[:5], "--exec"},
		"no workers":            {append(consume, "--store", "memory://", "--workers", "0"), "--workers"},
		"subjects alone":        {append(consume, "--store", "memory://", "--subjects", "a"), "--create"},
		"key in memory":         {[]string{"key", "show", "k", "--scope", "S/D", "--store", "memory://"}, "worker"},
		"key without scope":     {[]string{"key", "show", "k", "--store", "kv"}, "--scope"},
		"demo in memory":        {[]string{"demo", "--store", "memory://"}, "processes"},
		"demo of nothing":       {[]string{"demo", "--messages", "0"}, "--messages"},
		"demo of NaN":           {[]string{"demo", "--duplicates", "NaN"}, "--duplicates"},
		"key twice":             {[]string{"publish", "s", "--data", "x", "--key", "k", "--header", "idempotency-key:k"}, "exclude each other"},
		"two keys":              {[]string{"publish", "s", "--data", "x", "--header", "Idempotency-Key:a", "--header", "Idempotency-Key:a"}, "one key"},
		"demo's store":          {[]string{"demo", "--store", "etcd://x"}, "redis://"},
		"dev's port":            {[]string{"dev", "--port", "70000"}, "--port"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, code := idemq(t, c.args...)
			assert.Equal(t, exitUsage, code, p.err.String())
			assert.Contains(t, p.err.String(), c.says)
			assert.NotContains(t, p.err.String(), "secret")
			assert.NotContains(t, p.err.String(), "\x1b", "control characters of the input reach the terminal")
			assert.Empty(t, p.out.String(), "standard output is for data")
		})
	}
}

// An address where nobody listens, and one where somebody does but never answers.
func TestUnreachableServersAreNamedWithinTenSeconds(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = silent.Close() })
	nats := testserver.SharedNATS(t).URL()
	for name, host := range map[string]string{"closed": closed.Addr().String(), "silent": silent.Addr().String()} {
		for what, args := range map[string][]string{
			"nats":    {"publish", "s", "--data", "x", "--nats", "nats://u:secret@" + host},
			"nats x2": {"publish", "s", "--data", "x", "--nats", "u:secret@" + host + ",u:secret@" + host},
			"redis":   {"key", "show", "k", "--scope", "S/D", "--store", "redis://u:secret@" + host},
			"redis of consume": {
				"consume", "--stream", "S", "--durable", "D", "--exec", "true",
				"--nats", nats, "--store", "redis://u:secret@" + host,
			},
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				t.Parallel()
				begun := time.Now()
				p, code := idemq(t, args...)
				assert.Equal(t, exitFailed, code)
				assert.Less(t, time.Since(begun), 10*time.Second)
				assert.Contains(t, p.err.String(), host)
				assert.NotContains(t, p.err.String(), "secret")
			})
		}
	}
}

func TestAServerWithoutJetStreamIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	s := testserver.NATS(t, func(o *server.Options) { o.JetStream = false })
	p, code := idemq(t, "consume", "--stream", "S", "--durable", "D", "--exec", "true", "--store", "memory://", "--nats", s.URL())
	assert.Equal(t, exitFailed, code)
	assert.Contains(t, p.err.String(), "is it enabled")
}

func TestWaitWaitsForTheServer(t *testing.T) {
	t.Parallel()
	s := testserver.NATS(t)
	stream(t, s, "LATE", "late")
	s.Stop()
	p := command(t, "publish", "late", "--data", "x", "--nats", s.URL(), "--wait", "1m", "--log-level", "info").start()
	p.says(&p.err, "waiting for a server")
	s.Start(t)
	assert.Equal(t, exitFine, p.wait(), p.err.String())
}

func TestEveryCommandHasHelpWithAnExample(t *testing.T) {
	t.Parallel()
	a := &app{}
	var look func(c *cobra.Command)
	look = func(c *cobra.Command) {
		if !c.Hidden {
			assert.NotEmpty(t, c.Short, c.CommandPath())
			if c.Runnable() && len(c.Commands()) == 0 {
				assert.NotEmpty(t, c.Example, c.CommandPath())
			}
		}
		for _, sub := range c.Commands() {
			look(sub)
		}
	}
	look(a.root())
	var out, errOut bytes.Buffer
	assert.Equal(t, exitFine, run(t.Context(), []string{"--help"}, nil, &out, &errOut))
	assert.Contains(t, out.String(), "4 an invariant is broken")
	assert.NotContains(t, out.String(), "demo-worker")
}

func TestRedact(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"nats://u:p@h:4222":                 "nats://h:4222",
		"nats://token@h":                    "nats://h",
		"u:p@h":                             "h",
		"nats://u:p@a,nats://u:p@b":         "nats://a,nats://b",
		"redis://u:p@ss/w@h:6379/1?pass=pw": "redis://h:6379/1",
		"redis://:p@h:x":                    "redis://h:x",
		"kv":                                "kv",
	} {
		assert.Equal(t, want, redact(url), url)
	}
}
