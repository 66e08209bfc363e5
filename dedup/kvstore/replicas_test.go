package kvstore

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/internal/testserver"
)

const replicas = 3

// cluster starts three servers that know each other.
func cluster(t *testing.T) []*testserver.NATSServer {
	t.Helper()
	var routes []*url.URL
	var ports []int
	for range replicas {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		port := l.Addr().(*net.TCPAddr).Port
		require.NoError(t, l.Close())
		ports = append(ports, port)
		routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", port)})
	}
	var servers []*testserver.NATSServer
	for i := range replicas {
		servers = append(servers, testserver.NATS(t, func(o *server.Options) {
			o.ServerName = fmt.Sprint("replica-", i)
			o.Cluster = server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: ports[i]}
			o.Routes = routes
		}))
	}
	return servers
}

// openCluster returns a store with three replicas.
func openCluster(t *testing.T) *Store {
	t.Helper()
	js, err := jetstream.New(cluster(t)[0].Conn(t))
	require.NoError(t, err)
	for ctx := testContext(t); ; { // a request before the servers have elected a leader is never answered
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		s, err := New(attempt, js, Config{Replicas: replicas})
		cancel()
		if err == nil {
			return s
		}
		require.NoError(t, ctx.Err(), "the last error: %v", err)
	}
}

func TestAnswersOfReplicasAreConfirmedByAWrite(t *testing.T) {
	s, ctx := openCluster(t), testContext(t)
	revision := func(k dedup.Key) uint64 {
		e, err := s.read(ctx, k)
		require.NoError(t, err)
		return e.revision
	}
	r := acquire(t, s, claimOf("1", "n1"), dedup.Granted)
	require.NoError(t, s.Settle(ctx, holdOf(r), dedup.Settlement{State: dedup.Consumed, Result: []byte("ok"), Retention: time.Hour}))
	first := acquire(t, s, claimOf("1", "n2"), dedup.Duplicate)
	before := revision(r.Key)
	again := acquire(t, s, claimOf("1", "n2"), dedup.Duplicate)
	assert.Greater(t, revision(r.Key), before, "written again")
	assert.Equal(t, r.Fence, again.Fence, "under the fence of the claim")
	assert.Equal(t, "ok", string(again.Result))
	assert.Equal(t, first.ExpiresAt, again.ExpiresAt, "and not remembered any longer")
	got, err := s.Get(ctx, r.Key)
	require.NoError(t, err)
	assert.Equal(t, first.ExpiresAt, got.ExpiresAt)

	absent := dedup.Hold{Key: dedup.Key{Scope: "s", ID: "absent"}, Fence: 1, Nonce: "n"}
	require.ErrorIs(t, s.Extend(ctx, absent, time.Minute), dedup.ErrLeaseLost)
	assert.NotZero(t, revision(absent.Key), "a marker has confirmed that there is nothing")
	acquire(t, s, dedup.Claim{Key: absent.Key, Nonce: "n", Lease: time.Minute, Retention: time.Hour}, dedup.Granted)
}

func TestOneOfManyIsGrantedWithReplicas(t *testing.T) {
	const workers = 32
	s, ctx := openCluster(t), testContext(t)
	verdicts := make([]dedup.Verdict, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			v, _, err := s.Acquire(ctx, claimOf("1", dedup.Nonce(fmt.Sprint("n", w))))
			assert.NoError(t, err)
			verdicts[w] = v
		})
	}
	wg.Wait()
	count := map[dedup.Verdict]int{}
	for _, v := range verdicts {
		count[v]++
	}
	assert.Equal(t, map[dedup.Verdict]int{dedup.Granted: 1, dedup.Busy: workers - 1}, count)
}
