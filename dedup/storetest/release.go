package storetest

import (
	"github.com/idemq/idemq/dedup"
)

var releaseRules = []rule{
	{"release-counted", "acquired, Release by the holder: failed, attempt and last cause kept.", func(e *env) {
		r := e.acquire(e.claim("1", "a"), dedup.Granted)
		e.release(r, dedup.Release{Cause: retryCause, Delay: e.long, MaxInterrupted: 1})
		got := e.acquire(e.claim("1", "b"), dedup.Busy)
		e.is(got, dedup.Failed, 1)
		e.check(got.Cause == retryCause, "the cause is %+q, not %+q", got.Cause, retryCause)
		e.check(got.Fence == r.Fence && got.Nonce == "a" && got.Interrupted == 0 && got.Abandoned == 0, "%+v", got)
		e.check(!got.FailedAt.IsZero(), "the time of the first failure is missing: %+v", got)
	}},
	{"release-first-failure", "FailedAt is the first failure of this generation; later ones leave it.", func(e *env) {
		r := e.acquire(e.claim("1", "a"), dedup.Granted)
		e.release(r, dedup.Release{Cause: retryCause})
		r = e.acquire(e.claim("1", "b"), dedup.Granted)
		first := r.FailedAt
		e.pass()
		e.release(r, dedup.Release{Cause: letterCause})
		r = e.acquire(e.claim("1", "c"), dedup.Granted)
		e.check(!first.IsZero() && r.FailedAt.Equal(first), "FailedAt was %v and is %v", first, r.FailedAt)
		e.is(r, dedup.Acquired, 3)
	}},
	{"release-uncounted", "Release uncounted (shutdown) takes the attempt back and raises interrupted; beyond its limit it counts.",
		func(e *env) {
			for i, n := range []dedup.Nonce{"a", "b"} {
				r := e.acquire(e.claim("1", n), dedup.Granted)
				e.is(r, dedup.Acquired, 1)
				e.check(r.Interrupted == i, "interrupted %d times, not %d", r.Interrupted, i)
				e.check(r.FailedAt.IsZero(), "an interruption is no failure: %+v", r)
				e.release(r, dedup.Release{Uncounted: true, MaxInterrupted: 2})
				if got, ok := e.get(r.Key); ok {
					e.is(got, dedup.Failed, 0)
				}
			}
			r := e.acquire(e.claim("1", "c"), dedup.Granted)
			e.is(r, dedup.Acquired, 1)
			e.release(r, dedup.Release{Uncounted: true, MaxInterrupted: 2})
			r = e.acquire(e.claim("1", "d"), dedup.Granted)
			e.is(r, dedup.Acquired, 2)
			e.check(r.Interrupted == 3, "interrupted %d times, not 3", r.Interrupted)
		}},
	{"release-uncounted-is-below-the-limit", "A shutdown below the limit of interrupted never makes a dead letter.", func(e *env) {
		for i := range 6 {
			c := e.claim("1", dedup.Nonce(rune('a'+i)))
			c.MaxAttempts, c.MaxAbandoned = 1, 1
			r := e.acquire(c, dedup.Granted)
			e.is(r, dedup.Acquired, 1)
			e.release(r, dedup.Release{Uncounted: true}) // no limit
		}
	}},
	{"release-repeated", "The same call repeated in its own end state succeeds again and changes nothing; an uncounted one " +
		"gives one attempt back. I2.", func(e *env) {
		r := e.acquire(e.claim("1", "a"), dedup.Granted)
		e.release(r, dedup.Release{Cause: retryCause, Uncounted: true})
		e.unchanged(r.Key, "a repeated Release", func() {
			e.release(r, dedup.Release{Cause: retryCause, Uncounted: true})
			e.release(r, dedup.Release{Cause: letterCause, Delay: e.long})
		})
		r = e.acquire(e.claim("1", "b"), dedup.Granted)
		e.is(r, dedup.Acquired, 1)
		e.check(r.Interrupted == 1, "interrupted %d times, not once", r.Interrupted)
	}},
	{"release-delay-past", "failed with notBefore past is due; a delay below zero is none.", func(e *env) {
		r := e.acquire(e.claim("1", "a"), dedup.Granted)
		e.release(r, dedup.Release{Cause: retryCause, Delay: -e.long})
		e.acquire(e.claim("1", "b"), dedup.Granted)
	}},
}
