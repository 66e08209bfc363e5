package storetest

import "github.com/idemq/idemq/dedup"

const limitSays = "failed with notBefore past, or acquired with lease over, Acquire when the limit of attempts (or of abandonments) " +
	"is reached: dead, owed, new fence, the acquirer's nonce; the handler is not run (a handler that kills its process would loop " +
	"for ever). Where no letters are configured it goes straight to sent. I4: or is dead with a letter."

var limitRules = []rule{
	{"limit-attempts-letter", limitSays, func(e *env) { e.attempts(true) }},
	{"limit-attempts-no-letter", limitSays, func(e *env) { e.attempts(false) }},
	{"limit-attempts-lease-over", limitSays, func(e *env) { e.leaseOver(true) }},
	{"limit-attempts-lease-over-no-letter", limitSays, func(e *env) { e.leaseOver(false) }},
	{"limit-abandoned-letter", limitSays, func(e *env) { e.abandoned(true) }},
	{"limit-abandoned-no-letter", limitSays, func(e *env) { e.abandoned(false) }},
	{"limit-only-when-due", "acquired, lease running, or failed before notBefore: Busy, also when the limit of attempts is reached.",
		func(e *env) {
			c := e.claim("1", "a")
			r := e.acquire(c, dedup.Granted)
			c.MaxAttempts, c.MaxAbandoned = 1, 1
			e.acquire(c, dedup.Granted)
			c.Nonce = "b"
			e.acquire(c, dedup.Busy)
			e.release(r, dedup.Release{Delay: e.long})
			e.acquire(c, dedup.Busy)
		}},
	{"limit-none", "A limit of 0 is no limit.", func(e *env) {
		for i := range 12 {
			r := e.acquire(e.claim("1", dedup.Nonce(rune('a'+i))), dedup.Granted)
			e.is(r, dedup.Acquired, i+1)
			e.release(r, dedup.Release{Cause: retryCause})
		}
	}},
}

func deadBy(letters bool) (dedup.Verdict, dedup.State) {
	if letters {
		return dedup.LetterOwed, dedup.DeadOwed
	}
	return dedup.Dead, dedup.DeadSent
}

// died demands a death on behalf of the acquirer c, and that it is the same for everybody who comes after.
func (e *env) died(c dedup.Claim, old dedup.Record, attempt int, class dedup.Class) dedup.Record {
	e.t.Helper()
	v, s := deadBy(c.Letters)
	r := e.acquire(c, v)
	e.is(r, s, attempt)
	e.newer(r, old)
	e.check(r.Nonce == c.Nonce, "the nonce is %q, not the acquirer's", r.Nonce)
	e.check(r.Cause.Class == class && r.Cause.Message != "", "the cause is %+v, not of class %s", r.Cause, class)
	e.check(!r.FailedAt.IsZero(), "a dead key has no time of its first failure: %+v", r)
	e.unchanged(c.Key, "an Acquire of a dead key", func() {
		other := c
		other.Nonce = "other"
		for _, again := range []dedup.Claim{c, other} {
			got := e.acquire(again, v)
			e.check(got.Fence == r.Fence, "fence %d, then %d: one key, one fate", r.Fence, got.Fence)
		}
	})
	e.stale(old)
	e.letterSent(r)
	e.is(e.acquire(c, dedup.Dead), dedup.DeadSent, attempt)
	return r
}

func (e *env) attempts(letters bool) {
	var r dedup.Record
	for i, n := range []dedup.Nonce{"a", "b"} {
		c := e.claim("1", n)
		c.MaxAttempts, c.Letters = 2, letters
		r = e.acquire(c, dedup.Granted)
		e.is(r, dedup.Acquired, i+1)
		e.release(r, dedup.Release{Cause: retryCause})
	}
	c := e.claim("1", "c")
	c.MaxAttempts, c.Letters = 2, letters
	dead := e.died(c, r, 2, dedup.Exhausted)
	e.check(dead.Cause.Message == retryCause.Message, "the last cause is %q, not %q", dead.Cause.Message, retryCause.Message)
}

func (e *env) leaseOver(letters bool) {
	old := e.acquire(e.brief("1", "a"), dedup.Granted)
	e.pass()
	c := e.claim("1", "b")
	c.MaxAttempts, c.Letters = 1, letters
	r := e.died(c, old, 1, dedup.Exhausted)
	e.check(r.Abandoned == 1, "abandoned %d times, not once", r.Abandoned)
}

func (e *env) abandoned(letters bool) {
	old := e.acquire(e.brief("one", "a"), dedup.Granted)
	second := e.brief("two", "a")
	second.MaxAbandoned = 2
	e.acquire(second, dedup.Granted)
	e.pass()
	c := e.claim("one", "b")
	c.MaxAbandoned, c.Letters = 1, letters
	e.died(c, old, 1, dedup.Abandoned)

	second.Nonce, second.Letters = "b", letters
	old = e.acquire(second, dedup.Granted)
	e.check(old.Abandoned == 1, "%+v", old)
	e.pass()
	second.Nonce = "c"
	r := e.died(second, old, 2, dedup.Abandoned)
	e.check(r.Abandoned == 2, "abandoned %d times, not twice", r.Abandoned)
}
