//go:build unix

package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/internal/testserver"
)

// worked runs a consumer over keys "done" and "dead", of which the latter dies.
func worked(t *testing.T, stream, nats, store string) {
	t.Helper()
	at := []string{"--nats", nats, "--store", store}
	consume := append([]string{
		"consume", "--stream", stream, "--durable", "D", "--subjects", stream, "--create", "--idle-exit", "1ms",
		"--exec", `test "$IDEMQ_KEY" = done || exit 65`,
	}, at...)
	fine(t, consume...)
	for _, key := range []string{"done", "dead"} {
		fine(t, append([]string{"publish", stream, "--data", "x", "--key", key}, at...)...)
	}
	fine(t, consume...)
}

func TestKeyListAndForgetWithTheStoreOfTheDurable(t *testing.T) {
	t.Parallel()
	s := testserver.SharedNATS(t)
	for name, store := range map[string]func(t *testing.T) string{
		"KV":    func(*testing.T) string { return "kv" },
		"REDIS": func(t *testing.T) string { return testserver.Redis(t).URL() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stream := "LIST" + name
			worked(t, stream, s.URL(), store(t))
			op := func(args ...string) (*process, int) {
				return idemq(t, append(args, "--nats", s.URL(), "--scope", stream+"/D")...)
			}

			p, code := op("key", "list", "--json")
			require.Equal(t, exitFine, code, p.err.String())
			assert.Contains(t, p.err.String(), "as noted at the durable consumer "+stream+"/D")
			assert.Len(t, p.objects(keyFields...), 2)
			p, code = op("key", "list", "--json", "--state", "dead")
			require.Equal(t, exitFine, code, p.err.String())
			assert.Equal(t, "dead", p.object(keyFields...)["key"])
			p, code = op("key", "list", "--state", "failed")
			assert.Equal(t, exitFine, code, "an empty list is an answer")
			assert.Contains(t, p.err.String(), "nothing is remembered")
			p, code = op("key", "list")
			require.Equal(t, exitFine, code)
			assert.Contains(t, p.out.String(), "KEY")
			assert.Contains(t, p.out.String(), "done")

			p, code = op("key", "forget", "done")
			assert.Equal(t, exitUsage, code, "nobody can be asked")
			assert.Contains(t, p.err.String(), "--force")
			_, code = op("key", "show", "done")
			assert.Equal(t, exitFine, code, "it is still there")
			_, code = op("key", "forget", "done", "--force")
			assert.Equal(t, exitFine, code)
			_, code = op("key", "show", "done")
			assert.Equal(t, exitNothingFound, code)
			_, code = op("key", "forget", "done", "--force")
			assert.Equal(t, exitNothingFound, code)
		})
	}
}

func TestNoAnswerFromTheWrongStore(t *testing.T) {
	t.Parallel()
	s := testserver.SharedNATS(t)
	worked(t, "WRONG", s.URL(), "kv://WRONG_ONE")
	show := func(args ...string) (*process, int) {
		return idemq(t, append([]string{"key", "show", "done", "--nats", s.URL()}, args...)...)
	}
	p, code := show("--scope", "WRONG/D", "--store", "kv://ANOTHER_ONE")
	assert.Equal(t, exitFailed, code)
	assert.Contains(t, p.err.String(), "no bucket ANOTHER_ONE", "looking creates nothing")
	_, code = show("--scope", "WRONG/D", "--store", "kv://ANOTHER_ONE")
	assert.Equal(t, exitFailed, code)
	worked(t, "OTHER", s.URL(), "kv://ANOTHER_ONE")
	p, code = show("--scope", "WRONG/D", "--store", "kv://ANOTHER_ONE")
	assert.Equal(t, exitFailed, code)
	assert.Contains(t, p.err.String(), "kv://WRONG_ONE")
	assert.Empty(t, p.out.String())
	p, code = show("--scope", "WRONG/D", "--store", "kv://WRONG_ONE")
	assert.Equal(t, exitFine, code, p.err.String())
	p, code = show("--scope", "WRONG/NOBODY")
	assert.Equal(t, exitUsage, code)
	assert.Contains(t, p.err.String(), "choose where records are kept")
	p, code = show("--scope", "nobody's scope")
	assert.Equal(t, exitUsage, code, p.err.String())
	p, code = show("--scope", "WRONG/D", "--store", "memory://")
	assert.Equal(t, exitUsage, code, p.err.String())
}

func TestAStoreIsEnoughWhenNATSIsAway(t *testing.T) {
	t.Parallel()
	redis := testserver.Redis(t).URL()
	p, code := idemq(t, "key", "show", "k", "--scope", "S/away", "--store", redis, "--nats", "nats://127.0.0.1:1")
	assert.Equal(t, exitNothingFound, code, p.err.String())
	assert.Contains(t, p.err.String(), "could not be checked")
}

func TestSameStore(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"redis://127.0.0.1:6379/0", "redis://localhost:6379/0", true},
		{"redis://127.0.0.1:6379/0", "rediss://127.0.0.1:6379/0", true},
		{"redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/1", false},
		{"redis://127.0.0.1:6379/0", "redis://127.0.0.2:6379/0", false},
		{"redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0?prefix=x", false},
		{"redis+cluster://a:1,b:2", "redis+cluster://b:2,c:3", true},
		{"redis+cluster://a:1,b:2", "redis+cluster://c:3", false},
		{"redis+cluster://a:1", "redis://a:1", false},
		{"redis+sentinel://a:1,b:2/orders/0", "redis+sentinel://b:2/orders/0", true},
		{"redis+sentinel://a:1/orders/0", "redis+sentinel://a:1/mails/0", false},
		{"kv://A", "kv://A", true},
		{"kv://A", "kv://B", false},
	} {
		assert.Equal(t, c.want, sameStore(c.a, c.b), "%s %s", c.a, c.b)
		assert.Equal(t, c.want, sameStore(c.b, c.a), "%s %s", c.b, c.a)
	}
	assert.NotContains(t, sameHost("[::1]:1"), "::")
}
