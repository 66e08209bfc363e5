package memstore

import (
	"math"
	"time"

	"github.com/idemq/idemq/dedup"
)

// kept is a record in the map, without the key, which stands beside it there. Times are counted from the store's beginning:
// that takes a third of the room of a time.Time, and holds no pointer for the garbage collector to follow, and a store may
// hold millions. Counted like this they compare by the monotonic clock, as a time.Time of this process does.
type kept struct {
	fence       dedup.Fence
	nonce       dedup.Nonce
	result      []byte
	cause       dedup.Cause
	fingerprint dedup.Fingerprint
	state       dedup.State
	attempt     int
	abandoned   int
	interrupted int
	generation  int
	retention   time.Duration

	leaseUntil, notBefore, expires, created, failed, updated moment
}

// moment is a time, counted from the store's beginning.
type moment time.Duration

const never moment = math.MinInt64 // the zero time.Time

func (s *Store) moment(t time.Time) moment {
	if t.IsZero() {
		return never
	}
	return moment(t.Sub(s.epoch))
}

func (s *Store) time(m moment) time.Time {
	if m == never {
		return time.Time{}
	}
	return s.epoch.Add(time.Duration(m))
}

// pack keeps a record, whose key is in the map.
func (s *Store) pack(into *kept, r *dedup.Record) {
	*into = kept{
		fence: r.Fence, nonce: r.Nonce, result: r.Result, cause: r.Cause, fingerprint: r.Fingerprint, state: r.State,
		attempt: r.Attempt, abandoned: r.Abandoned, interrupted: r.Interrupted, generation: r.Generation, retention: r.Retention,
		leaseUntil: s.moment(r.LeaseUntil), notBefore: s.moment(r.NotBefore), expires: s.moment(r.ExpiresAt),
		created: s.moment(r.CreatedAt), failed: s.moment(r.FailedAt), updated: s.moment(r.UpdatedAt),
	}
}

// unpack makes the record of a key, the zero one if there is none or it has expired.
func (s *Store) unpack(into *dedup.Record, k dedup.Key, from *kept, now time.Time) {
	if from == nil || !s.lives(from, now) {
		*into = dedup.Record{}
		return
	}
	*into = dedup.Record{
		Key: k, State: from.state, Fence: from.fence, Nonce: from.nonce,
		Attempt: from.attempt, Abandoned: from.abandoned, Interrupted: from.interrupted, Generation: from.generation,
		Fingerprint: from.fingerprint, Result: from.result, Cause: from.cause,
		LeaseUntil: s.time(from.leaseUntil), NotBefore: s.time(from.notBefore), Retention: from.retention,
		ExpiresAt: s.time(from.expires), CreatedAt: s.time(from.created), FailedAt: s.time(from.failed),
		UpdatedAt: s.time(from.updated),
	}
}

// lives says whether a record has not expired.
func (s *Store) lives(r *kept, now time.Time) bool { return r.expires > moment(now.Sub(s.epoch)) }
