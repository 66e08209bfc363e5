package redisstore

import (
	"context"

	"github.com/redis/go-redis/v9"

	"github.com/idemq/idemq/dedup"
)

// NameOf is the name of a record in Redis.
func NameOf(s *Store, k dedup.Key) string { return s.name(k) }

// ComparesAndSets says whether the store has found out that the server knows SET … IFEQ.
func ComparesAndSets(s *Store) bool { return s.compareAndSet.Load() == compares }

// BucketOf is the name of the bucket of a key, and its digest.
func BucketOf(s *Store, k dedup.Key) (string, []byte) { return s.bucketOf(s.name(k)) }

// ClientOf is the client that Open made.
func ClientOf(s *Store) redis.UniversalClient { return s.rdb }

// Queueing makes every call go through the queue, as if somebody were under way.
func Queueing(s *Store) *Store {
	s.queue = true
	return s
}

// Queued is how many calls wait for the key's server to be free.
func Queued(ctx context.Context, s *Store, k dedup.Key) (n int) {
	l := s.laneOf(ctx, k)
	l.mu.Lock()
	defer l.mu.Unlock()
	for o := l.first; o != nil; o = o.next {
		n++
	}
	return n
}

// UnderWay says whether somebody is under way to the only server.
func UnderWay(s *Store) bool {
	s.lane.mu.Lock()
	defer s.lane.mu.Unlock()
	return s.lane.busy
}

// The bounds of a round trip.
const (
	MaxKeys  = maxKeys
	MaxBytes = maxBytes
)
