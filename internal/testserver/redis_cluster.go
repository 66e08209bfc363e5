package testserver

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	clusterMasters = 3
	clusterSlots   = 16384

	// formLimit bounds the forming of a Cluster or a Sentinel group; on an idle
	// machine it takes a few seconds.
	formLimit = 60 * time.Second
)

// RedisClusterServers is a Redis Cluster of one test's own: three masters without
// replicas, with a third of the slots each.
type RedisClusterServers struct {
	masters []*PrivateRedisServer
}

// RedisCluster starts a Cluster of three redis-server processes from PATH on free
// ports of the loopback interface, and stops it when the test ends. It returns
// when every master says that the Cluster is complete. The flags go to each
// server. Without a binary the test is skipped, or fails if Redis is required.
func RedisCluster(t testing.TB, flags ...string) *RedisClusterServers {
	t.Helper()
	c := &RedisClusterServers{}
	var busPorts []int
	for range clusterMasters {
		var busPort int
		c.masters = append(c.masters, privateRedis(t, func() ([]string, error) {
			var err error
			if busPort, err = freePort(); err != nil {
				return nil, err
			}
			return append([]string{"--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(busPort)}, flags...), nil
		}))
		busPorts = append(busPorts, busPort)
	}
	ctx, cancel := context.WithTimeout(t.Context(), formLimit)
	defer cancel()
	if err := c.form(ctx, t, busPorts); err != nil {
		t.Fatalf("testserver: form a Redis Cluster: %v", err)
	}
	return c
}

// form shares out the slots and makes the masters know each other.
func (c *RedisClusterServers) form(ctx context.Context, t testing.TB, busPorts []int) error {
	t.Helper()
	clients := make([]*redis.Client, len(c.masters))
	for i, m := range c.masters {
		rdb := m.Client(t)
		clients[i] = rdb
		from, to := i*clusterSlots/clusterMasters, (i+1)*clusterSlots/clusterMasters-1
		if err := rdb.ClusterAddSlotsRange(ctx, from, to).Err(); err != nil {
			return err
		}
		// Equal epochs would be settled by the servers, which takes longer.
		if err := rdb.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err(); err != nil {
			return err
		}
	}
	for i, m := range c.masters[1:] {
		host, port, err := net.SplitHostPort(m.Addr())
		if err != nil {
			return err
		}
		if err := clients[0].Do(ctx, "CLUSTER", "MEET", host, port, busPorts[i+1]).Err(); err != nil {
			return err
		}
	}
	return until(ctx, func() error {
		for i, rdb := range clients {
			info, err := rdb.ClusterInfo(ctx).Result()
			if err != nil {
				return err
			}
			for _, want := range []string{"cluster_state:ok", "cluster_slots_ok:16384", "cluster_size:3"} {
				if !strings.Contains(info, want) {
					return fmt.Errorf("master %d lacks %s:\n%s", i, want, info)
				}
			}
		}
		return nil
	})
}

// Masters are the servers, in the order of the slots that they had first.
func (c *RedisClusterServers) Masters() []*PrivateRedisServer { return c.masters }

// Addrs are the hosts and ports of the masters.
func (c *RedisClusterServers) Addrs() []string {
	addrs := make([]string, len(c.masters))
	for i, m := range c.masters {
		addrs[i] = m.Addr()
	}
	return addrs
}

// Client returns a client of the Cluster that is closed when the test ends. It
// keeps to the deadlines of contexts.
func (c *RedisClusterServers) Client(t testing.TB) *redis.ClusterClient {
	t.Helper()
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs(), ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// until asks again and again until check has no error, and returns the last error
// when the context ends.
func until(ctx context.Context, check func() error) error {
	again := time.NewTicker(answerPause)
	defer again.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-again.C:
		}
	}
}
