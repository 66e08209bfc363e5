package redisstore

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// failoverAddr is the address that go-redis gives a client that follows a Sentinel group.
const failoverAddr = "FailoverClient"

// Ping asks the server for a sign of life, on a Cluster every master. The error names the addresses.
func (s *Store) Ping(ctx context.Context) error {
	var err error
	switch c := s.rdb.(type) {
	case *redis.ClusterClient: // its own Ping asks any one node
		err = c.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
			if err := node.Ping(ctx).Err(); err != nil {
				return fmt.Errorf("master %s: %w", node.Options().Addr, err)
			}
			return nil
		})
	default:
		err = s.rdb.Ping(ctx).Err()
	}
	if err != nil {
		return fmt.Errorf("redisstore: no answer from %s: %w", s.Describe(), err)
	}
	return nil
}

// Describe returns where the records are, without credentials and other settings, in the form that [Open] takes:
// redis://127.0.0.1:6379/0, unix:///run/redis.sock?db=0, redis+sentinel://a:26379,b:26379/mymaster/0 or
// redis+cluster://a:6379,b:6379, with rediss instead of redis for TLS. Lists are sorted, so that the same addresses always
// give the same text; other addresses of the same servers do not. A prefix other than the default is appended.
//
// [Open] does not take redis+ring://a:6379,b:6379, which stands for a Ring, nor redis+sentinel://unknown, which stands for
// a client of redis.NewFailoverClient: it does not say whom it follows. [OpenSentinel] does.
func (s *Store) Describe() string {
	where, query := s.where, url.Values{}
	switch c := s.rdb.(type) {
	case *redis.Client:
		switch o := c.Options(); {
		case where != "":
		case o.Addr == failoverAddr:
			where = scheme(kindSentinel, o.TLSConfig) + "://unknown"
		case o.Network == "unix":
			where = (&url.URL{Scheme: kindUnix, Path: o.Addr}).String()
			query.Set("db", strconv.Itoa(o.DB))
		default:
			where = fmt.Sprintf("%s://%s/%d", scheme(kindServer, o.TLSConfig), hostList([]string{o.Addr}), o.DB)
		}
	case *redis.ClusterClient:
		where = scheme(kindCluster, c.Options().TLSConfig) + "://" + hostList(c.Options().Addrs)
	case *redis.Ring:
		where = scheme("redis+ring", c.Options().TLSConfig) + "://" + hostList(slices.Collect(maps.Values(c.Options().Addrs)))
	default:
		where = "redis://"
	}
	if s.cfg.Prefix != defaultPrefix {
		query.Set("prefix", s.cfg.Prefix)
	}
	if len(query) > 0 {
		where += "?" + query.Encode()
	}
	return where
}

// scheme is the kind, or with TLS rediss instead of redis.
func scheme(kind string, conf *tls.Config) string {
	if conf == nil {
		return kind
	}
	return strings.Replace(kind, "redis", "rediss", 1)
}

// hostList is the addresses as a URL has them.
func hostList(addrs []string) string {
	hosts := slices.Clone(addrs)
	slices.Sort(hosts)
	hosts = slices.Compact(hosts)
	for i, h := range hosts {
		hosts[i] = strings.TrimPrefix((&url.URL{Host: h}).String(), "//")
	}
	return strings.Join(hosts, ",")
}
