//go:build unix

package main

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/internal/testserver"
)

// Each kind of Redis that a team runs: a worker that is told where it is, and an operator who is not.
func TestEveryKindOfRedis(t *testing.T) {
	t.Parallel()
	nats := testserver.SharedNATS(t)
	for name, c := range map[string]struct {
		store func(t *testing.T) string
		login bool // which the durable's metadata does not have
	}{
		"ACL": {login: true, store: func(t *testing.T) string {
			s := testserver.PrivateRedis(t)
			address := s.AddUser(t, "worker", "s3cret", "~idemq:*", "+@all")
			require.NoError(t, s.Client(t).Do(t.Context(), "ACL", "SETUSER", "default", "off").Err())
			return address
		}},
		"TLS": {login: true, store: func(t *testing.T) string {
			s := testserver.PrivateRedisTLS(t)
			q := url.Values{"tls_ca": {s.CA}, "tls_cert": {s.ClientCert}, "tls_key": {s.ClientKey}}
			return "rediss://" + s.TLSAddr() + "?" + q.Encode()
		}},
		"CLUSTER": {store: func(t *testing.T) string {
			return "redis+cluster://" + strings.Join(testserver.RedisCluster(t).Addrs(), ",")
		}},
		"SENTINEL": {store: func(t *testing.T) string {
			g := testserver.RedisSentinel(t, testserver.SentinelConfig{})
			return "redis+sentinel://" + strings.Join(g.SentinelAddrs(), ",") + "/" + g.MasterName()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, stream := c.store(t), "REDIS"+name
			worked(t, stream, nats.URL(), store)
			op := func(args ...string) (*process, int) {
				if c.login {
					args = append(args, "--store", store)
				}
				return idemq(t, append(args, "--nats", nats.URL(), "--json")...)
			}
			p, code := op("key", "list", "--scope", stream+"/D")
			require.Equal(t, exitFine, code, p.err.String())
			assert.Len(t, p.objects(keyFields...), 2)
			p, code = op("dlq", "replay", "--all", "--stream", stream)
			require.Equal(t, exitFine, code, p.err.String())
			assert.Equal(t, 1, number(p.last(replayTotals...), "published"))
			p, code = op("key", "show", "dead", "--scope", stream+"/D")
			require.Equal(t, exitFine, code, p.err.String())
			assert.Equal(t, "failed", p.object(keyFields...)["state"], "reopened")
			assert.NotContains(t, p.err.String(), "s3cret")

			if c.login {
				p, code = idemq(t, "key", "list", "--scope", stream+"/D", "--nats", nats.URL())
				assert.Equal(t, exitFailed, code)
				assert.Contains(t, p.err.String(), "give the whole URL with --store or IDEMQ_STORE")
			}
		})
	}
}
