package storetest

import (
	"github.com/idemq/idemq/dedup"
)

var acquireRules = []rule{
	{"acquire-absent", "absent, Acquire: acquired, attempt 1, new fence.", func(e *env) {
		c := e.claim("1", "a")
		r := e.acquire(c, dedup.Granted)
		e.is(r, dedup.Acquired, 1)
		e.check(r.Fence > 0 && r.Fence <= 1<<53, "fence %d", r.Fence)
		e.check(r.Nonce == "a" && r.Fingerprint == print1 && r.Generation == 1, "%+v", r)
		e.check(r.Abandoned == 0 && r.Interrupted == 0 && len(r.Result) == 0 && r.Cause == dedup.Cause{}, "%+v", r)
		e.check(!r.CreatedAt.IsZero() && r.FailedAt.IsZero() && !r.ReadAt.IsZero(), "%+v", r)
		left := r.LeaseLeft()
		e.check(left > e.long/2 && left <= c.Lease, "%v of a lease of %v are left", left, c.Lease)
		e.unchanged(c.Key, "nothing", func() {})
		if got, ok := e.get(c.Key); ok {
			d := difference(r, got)
			e.check(d == "", "Acquire and Get do not answer the same: %s", d)
		}
	}},
	{"acquire-busy", "acquired, lease running, Acquire by another: same, verdict Busy, with the time left.", func(e *env) {
		c := e.claim("1", "a")
		first := e.acquire(c, dedup.Granted)
		e.unchanged(c.Key, "a busy Acquire", func() {
			for _, n := range []dedup.Nonce{"b", "c", "A", "aa"} {
				r := e.acquire(e.claim("1", n), dedup.Busy)
				e.check(r.Fence == first.Fence && r.Nonce == "a" && r.Attempt == 1, "the record is not the holder's: %+v", r)
				w := r.Wait()
				e.check(w > e.long/2 && w <= c.Lease, "the time left is %v of %v", w, c.Lease)
			}
		})
		e.settle(first, e.consumed(nil))
	}},
	{"acquire-same-nonce", "acquired, lease running, Acquire with the same owner nonce: same, the same fence again. " +
		"I8: an Acquire whose reply was lost can be repeated without a second grant while that lease runs.", func(e *env) {
		c := e.claim("1", "a")
		first := e.acquire(c, dedup.Granted)
		e.unchanged(c.Key, "a repeated Acquire", func() {
			for range 3 {
				r := e.acquire(c, dedup.Granted)
				e.is(r, dedup.Acquired, 1)
				e.check(r.Fence == first.Fence, "fence %d, then %d", first.Fence, r.Fence)
				e.check(r.LeaseUntil.Equal(first.LeaseUntil), "a repeated Acquire must not restart the lease")
			}
		})
		e.ok(e.store.Extend(e.ctx, hold(first), 2*e.long), "Extend")
		r := e.acquire(c, dedup.Granted)
		e.check(r.Fence == first.Fence, "fence %d, then %d after Extend", first.Fence, r.Fence)
	}},
	{"acquire-takeover", "acquired, lease over, Acquire: takeover, new fence, attempt + 1, abandoned + 1. " +
		"I2: a stale owner never changes state and always gets ErrLeaseLost.", func(e *env) {
		c := e.brief("1", "a")
		old := e.acquire(c, dedup.Granted)
		e.pass()
		r := e.acquire(e.claim("1", "b"), dedup.Granted)
		e.is(r, dedup.Acquired, 2)
		e.newer(r, old)
		e.check(r.Abandoned == 1 && r.Nonce == "b" && !r.FailedAt.IsZero(), "%+v", r)
		e.check(r.CreatedAt.Equal(old.CreatedAt), "CreatedAt was %v and is %v", old.CreatedAt, r.CreatedAt)
		e.stale(old)
		e.acquire(c, dedup.Busy)
		e.settle(r, e.consumed([]byte("b")))
		e.stale(old)
	}},
	{"acquire-takeover-by-itself", "acquired, lease over, Acquire: takeover, new fence, attempt + 1, whoever comes. " +
		"I8 holds only while that lease runs.", func(e *env) {
		c := e.brief("1", "a")
		old := e.acquire(c, dedup.Granted)
		e.pass()
		c.Lease = e.long
		r := e.acquire(c, dedup.Granted)
		e.is(r, dedup.Acquired, 2)
		e.newer(r, old)
		e.check(r.Abandoned == 1, "%+v", r)
		e.stale(old)
	}},
	{"acquire-failed-due", "failed, Acquire: acquired, attempt + 1, new fence. Failed before notBefore: same, verdict Busy, " +
		"with the time left (else N duplicates burn N attempts at once).", func(e *env) {
		c := e.claim("later", "a")
		first := e.acquire(c, dedup.Granted)
		e.release(first, dedup.Release{Cause: retryCause, Delay: e.long})
		e.unchanged(c.Key, "an Acquire before notBefore", func() {
			for _, n := range []dedup.Nonce{"b", "c", "d"} {
				r := e.acquire(e.claim("later", n), dedup.Busy)
				e.is(r, dedup.Failed, 1)
				w := r.Wait()
				e.check(w > e.long/2 && w <= e.long, "the time left is %v of %v", w, e.long)
			}
		})

		first = e.acquire(e.claim("soon", "a"), dedup.Granted)
		e.release(first, dedup.Release{Cause: retryCause, Delay: e.unit})
		e.pass()
		r := e.acquire(e.claim("soon", "b"), dedup.Granted)
		e.is(r, dedup.Acquired, 2)
		e.newer(r, first)
		e.check(r.Abandoned == 0 && r.Interrupted == 0 && r.Nonce == "b", "%+v", r)
		e.check(r.NotBefore.IsZero(), "NotBefore of a running claim is %v", r.NotBefore)
		e.stale(first)
	}},
	{"acquire-spent-nonce", "Failed, Acquire with the nonce that released it: Busy, for the call is a late copy, and granting it " +
		"would leave a lease that nobody holds. I4: the key is eventually granted again.", func(e *env) {
		c := e.claim("1", "a")
		first := e.acquire(c, dedup.Granted)
		e.release(first, dedup.Release{Cause: retryCause})
		e.unchanged(c.Key, "a late copy of an Acquire", func() { e.is(e.acquire(c, dedup.Busy), dedup.Failed, 1) })
		r := e.acquire(e.claim("1", "b"), dedup.Granted)
		e.is(r, dedup.Acquired, 2)
		e.acquire(c, dedup.Busy)
	}},
	{"acquire-settled", "consumed, Acquire: Duplicate; dead and owed: LetterOwed; dead and sent: Dead; the record stays the same, " +
		"also for the nonce that settled it. I3.", func(e *env) {
		want := map[dedup.State]dedup.Verdict{
			dedup.Consumed: dedup.Duplicate, dedup.DeadOwed: dedup.LetterOwed, dedup.DeadSent: dedup.Dead,
		}
		for s, old := range e.states() {
			v, settled := want[s]
			if !settled {
				continue
			}
			e.unchanged(old.Key, "an Acquire in state "+s.String(), func() {
				for _, n := range []dedup.Nonce{"owner", "other"} {
					c := e.claim(old.Key.ID, n)
					c.MaxAttempts, c.MaxAbandoned = 1, 1
					r := e.acquire(c, v)
					e.is(r, s, 1)
					e.check(r.Fence == old.Fence, "fence %d, not %d", r.Fence, old.Fence)
					e.check(r.Wait() == 0, "a settled key has nothing to wait for, and says %v", r.Wait())
				}
			})
		}
	}},
}

// stale demands that the owner of an earlier claim can change nothing.
func (e *env) stale(r dedup.Record) {
	e.t.Helper()
	h := hold(r)
	e.unchanged(r.Key, "a stale owner", func() {
		e.lost(e.store.Extend(e.ctx, h, e.long), "Extend by a stale owner")
		e.lost(e.store.Release(e.ctx, h, dedup.Release{}), "Release by a stale owner")
		for _, s := range []dedup.State{dedup.Consumed, dedup.DeadOwed, dedup.DeadSent} {
			e.lost(e.store.Settle(e.ctx, h, e.dead(s)), "Settle("+s.String()+") by a stale owner")
		}
		e.lost(e.store.LetterSent(e.ctx, r.Key, r.Fence), "LetterSent for a stale fence")
	})
}
