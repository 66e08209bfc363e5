package storetest

import (
	"time"

	"github.com/idemq/idemq/dedup"
)

const recordsOutlive = "Records outlive leases: their time to live is the memory (retention, and at least the longest retry delay), never the lease. "

var memoryRules = []rule{
	{"memory-outlives-lease-and-delay", recordsOutlive, func(e *env) {
		c := e.claim("lease", "a")
		c.Retention = time.Millisecond
		a := e.acquire(c, dedup.Granted)
		c.Key, c.Lease = e.key("delay"), 4*e.unit // time enough for the next call
		b := e.acquire(c, dedup.Granted)
		e.release(b, dedup.Release{Cause: retryCause, Delay: e.long})
		c.Key = e.key("extended")
		x := e.acquire(c, dedup.Granted)
		e.ok(e.store.Extend(e.ctx, hold(x), e.long), "Extend")
		for range 4 {
			e.pass()
		}
		e.acquire(e.claim("lease", "b"), dedup.Busy)
		e.acquire(e.claim("delay", "b"), dedup.Busy)
		e.acquire(e.claim("extended", "b"), dedup.Busy)
		e.settle(a, e.consumed(nil))
		e.settle(x, e.consumed(nil))
		e.acquire(e.claim("lease", "b"), dedup.Duplicate)
		e.acquire(e.claim("extended", "b"), dedup.Duplicate)
	}},
	{"memory-of-a-dead-owner", recordsOutlive + "A lease that ended leaves the record, and the next Acquire is attempt 2.", func(e *env) {
		old := e.acquire(e.brief("1", "a"), dedup.Granted)
		e.pass()
		e.pass()
		if got, ok := e.get(old.Key); ok {
			e.is(got, dedup.Acquired, 1)
			e.check(got.LeaseLeft() == 0, "a lease that is over has %v left", got.LeaseLeft())
		}
		e.is(e.acquire(e.claim("1", "b"), dedup.Granted), dedup.Acquired, 2)
	}},
	{"memory-ends", "Settle: remembered for the retention, then absent. I1: a key's fence strictly grows, across expiry.", func(e *env) {
		old := map[string]dedup.Record{}
		for id, s := range map[string]dedup.State{"consumed": dedup.Consumed, "owed": dedup.DeadOwed, "sent": dedup.DeadSent} {
			r := e.acquire(e.claim(id, "a"), dedup.Granted)
			e.settle(r, dedup.Settlement{State: s, Retention: e.unit})
			old[id] = r
		}
		c := e.brief("abandoned", "a")
		c.Retention = time.Millisecond
		old["abandoned"] = e.acquire(c, dedup.Granted)
		e.pass()
		for id, was := range old {
			_, there := e.get(was.Key)
			e.check(!there, "%s: it is still remembered", id)
			e.lost(e.store.Settle(e.ctx, hold(was), e.consumed(nil)), "Settle of a forgotten key")
			r := e.acquire(e.claim(id, "b"), dedup.Granted)
			e.is(r, dedup.Acquired, 1)
			e.newer(r, was)
			e.check(r.Generation == 1 && r.Abandoned == 0, "a forgotten key begins anew: %+v", r)
		}
	}},
	{"memory-of-the-settled", "consumed: remembered for the retention of Settle, not of the claim. I3.", func(e *env) {
		c := e.claim("1", "a")
		c.Retention = time.Millisecond
		e.settle(e.acquire(c, dedup.Granted), e.consumed([]byte("x")))
		e.pass()
		r := e.acquire(e.claim("1", "b"), dedup.Duplicate)
		e.check(r.ExpiresAt.IsZero() || r.ExpiresIn() > e.long/2, "it is remembered for %v, not %v", r.ExpiresIn(), e.long)
	}},
	{"memory-of-a-limit", "A key that dies at a limit is remembered for the claim's DeadRetention.", func(e *env) {
		for id, memory := range map[string]time.Duration{"brief": e.unit, "long": e.long} {
			e.release(e.acquire(e.claim(id, "a"), dedup.Granted), dedup.Release{})
			c := e.claim(id, "b")
			c.MaxAttempts, c.DeadRetention = 1, memory
			e.acquire(c, dedup.LetterOwed)
		}
		e.pass()
		e.acquire(e.claim("long", "c"), dedup.LetterOwed)
		e.acquire(e.claim("brief", "c"), dedup.Granted)
	}},
	{"memory-of-the-replayed", "Dead and reopened keys are remembered for DeadRetention: what was replayed is not remembered for less " +
		"than what was left (a second replay of the letter would run it again). I11.", func(e *env) {
		i := e.inspector()
		r := e.acquire(e.claim("1", "a"), dedup.Granted)
		e.settle(r, e.dead(dedup.DeadSent))
		q := e.request(r)
		q.Retention = time.Millisecond
		e.reopen(i, q, dedup.Reopened)
		c := e.brief("1", "b")
		c.Retention = time.Millisecond
		r = e.acquire(c, dedup.Granted)
		s := e.consumed(nil)
		s.Retention = time.Millisecond
		e.settle(r, s)
		e.pass()
		e.acquire(e.claim("1", "c"), dedup.Duplicate)
		e.reopen(i, q, dedup.Resolved)
	}},
}

var fingerprintRules = []rule{
	{"fingerprint-first", "A mismatch is a conflict before every other verdict. " +
		"I10: it never runs the handler.", func(e *env) {
		states := e.states()
		over := e.acquire(e.brief("over", "owner"), dedup.Granted)
		waiting := e.acquire(e.claim("waiting", "owner"), dedup.Granted)
		e.release(waiting, dedup.Release{Delay: e.long})
		e.pass()
		records := []dedup.Record{over, waiting}
		for _, r := range states {
			records = append(records, r)
		}
		for _, r := range records {
			for _, limit := range []int{0, 1} {
				for _, n := range []dedup.Nonce{"owner", "other"} {
					c := e.claim(r.Key.ID, n)
					c.Fingerprint, c.MaxAttempts, c.MaxAbandoned = print2, limit, limit
					e.unchanged(r.Key, "a conflict", func() {
						got := e.acquire(c, dedup.Conflict)
						e.check(got.Fingerprint == print1 && got.Fence == r.Fence, "the record is not the one in conflict: %+v", got)
					})
				}
			}
		}
		e.settle(states[dedup.Acquired], e.consumed(nil))
	}},
	{"fingerprint-zero", "A fingerprint that was not taken matches everything, and takes the place of none.", func(e *env) {
		none := func(id string, n dedup.Nonce) dedup.Claim {
			c := e.claim(id, n)
			c.Fingerprint = dedup.Fingerprint{}
			return c
		}
		r := e.acquire(e.claim("known", "a"), dedup.Granted)
		e.acquire(none("known", "b"), dedup.Busy)
		e.release(r, dedup.Release{})
		r = e.acquire(none("known", "b"), dedup.Granted)
		e.check(r.Fingerprint == print1, "a claim without a fingerprint has taken away the record's")
		e.settle(r, e.consumed(nil))
		e.acquire(none("known", "c"), dedup.Duplicate)
		c := e.claim("known", "c")
		c.Fingerprint = print2
		e.acquire(c, dedup.Conflict)

		r = e.acquire(none("unknown", "a"), dedup.Granted)
		e.check(r.Fingerprint.IsZero(), "%+v", r)
		e.acquire(e.claim("unknown", "b"), dedup.Busy)
		e.settle(r, e.consumed(nil))
		e.acquire(e.claim("unknown", "b"), dedup.Duplicate)
		c.Key = e.key("unknown")
		e.acquire(c, dedup.Duplicate)
	}},
}
