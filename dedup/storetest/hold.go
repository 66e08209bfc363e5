package storetest

import (
	"strings"

	"github.com/idemq/idemq/dedup"
)

const heldSays = "Extend, Release and Settle need the right fence and owner nonce and state. The same call repeated in its own end " +
	"state succeeds again; anything else, absence included, is ErrLeaseLost and changes nothing (fence alone: a late repeated " +
	"Settle(Dead) killed a reopened key, and the replay was lost). I2."

var holdRules = []rule{
	{"extend-restarts-the-lease", "acquired, Extend by the holder: acquired, lease restarts.", func(e *env) {
		r := e.acquire(e.brief("1", "a"), dedup.Granted)
		for range 2 {
			e.ok(e.store.Extend(e.ctx, hold(r), e.long), "Extend")
		}
		e.pass()
		busy := e.acquire(e.claim("1", "b"), dedup.Busy)
		e.is(busy, dedup.Acquired, 1)
		e.check(busy.Fence == r.Fence && busy.Nonce == "a", "Extend has changed the owner: %+v", busy)
		e.check(busy.Wait() > e.long/2 && busy.Wait() <= e.long, "the time left is %v of %v", busy.Wait(), e.long)
		e.settle(r, e.consumed(nil))
	}},
	{"extend-shortens-the-lease", "acquired, Extend by the holder: the lease restarts with the length that Extend is given.", func(e *env) {
		r := e.acquire(e.claim("1", "a"), dedup.Granted)
		e.ok(e.store.Extend(e.ctx, hold(r), e.unit), "Extend")
		e.pass()
		e.newer(e.acquire(e.claim("1", "b"), dedup.Granted), r)
	}},
	{"extend-after-its-end", "Extend is allowed after the end of the lease if nobody took over.", func(e *env) {
		c := e.brief("1", "a")
		r := e.acquire(c, dedup.Granted)
		e.pass()
		e.ok(e.store.Extend(e.ctx, hold(r), e.long), "Extend after the end")
		e.acquire(e.claim("1", "b"), dedup.Busy)
		again := e.acquire(c, dedup.Granted)
		e.is(again, dedup.Acquired, 1)
		e.check(again.Fence == r.Fence && again.Abandoned == 0, "Extend must not count as a takeover: %+v", again)
		e.settle(r, e.consumed(nil))
	}},
	{"held-after-its-end", "A lease that is over and not taken over does not end the claim: fence, nonce and state decide.", func(e *env) {
		a, b := e.acquire(e.brief("1", "a"), dedup.Granted), e.acquire(e.brief("2", "a"), dedup.Granted)
		e.pass()
		e.settle(a, e.consumed([]byte("late")))
		e.release(b, dedup.Release{Cause: retryCause})
		e.acquire(e.claim("1", "b"), dedup.Duplicate)
		r := e.acquire(e.claim("2", "b"), dedup.Granted)
		e.check(r.Abandoned == 0, "a released claim is not abandoned: %+v", r)
	}},
	{"held-stale-fence-or-nonce", heldSays, func(e *env) {
		for s, r := range e.states() {
			for _, h := range []dedup.Hold{
				{Key: r.Key, Fence: r.Fence - 1, Nonce: r.Nonce},
				{Key: r.Key, Fence: r.Fence + 1, Nonce: r.Nonce},
				{Key: r.Key, Fence: 0, Nonce: r.Nonce},
				{Key: r.Key, Fence: r.Fence, Nonce: "other"},
				{Key: r.Key, Fence: r.Fence, Nonce: dedup.Nonce(strings.ToUpper(string(r.Nonce)))},
				{Key: r.Key, Fence: r.Fence, Nonce: r.Nonce + "x"},
				{Key: r.Key, Fence: r.Fence, Nonce: ""},
				{Key: r.Key, Fence: 0, Nonce: ""},
			} {
				e.refused(h, s)
			}
		}
	}},
	{"held-absent", heldSays, func(e *env) {
		k := e.key("never-seen")
		for _, h := range []dedup.Hold{{Key: k, Fence: 1, Nonce: "a"}, {Key: k, Fence: 0, Nonce: ""}, {Key: k, Fence: 0, Nonce: "a"}} {
			e.refused(h, dedup.Absent)
		}
		e.lost(e.store.LetterSent(e.ctx, k, 0), "LetterSent of an absent key")
		e.lost(e.store.LetterSent(e.ctx, k, 1), "LetterSent of an absent key")
		r := e.acquire(e.claim(k.ID, "a"), dedup.Granted)
		e.is(r, dedup.Acquired, 1)
	}},
	{"held-wrong-state", heldSays, func(e *env) {
		repeat := map[dedup.State]map[string]bool{ // what succeeds again, in which state
			dedup.Failed:   {"release": true},
			dedup.Consumed: {"consumed": true},
			dedup.DeadOwed: {"dead-owed": true},
			dedup.DeadSent: {"dead-owed": true, "dead": true}, // LetterSent may have come in between
		}
		for s, r := range e.states() {
			if s == dedup.Acquired {
				continue
			}
			for name, call := range e.calls(hold(r)) {
				what := name + " in state " + s.String()
				e.unchanged(r.Key, what, func() {
					if err := call(); repeat[s][name] {
						e.ok(err, what+", repeated")
					} else {
						e.lost(err, what)
					}
				})
			}
		}
	}},
	{"settle-needs-an-end-state", "Settle ends a claim: consumed, or dead. " + heldSays, func(e *env) {
		for s, r := range e.states() {
			for _, to := range []dedup.State{dedup.Absent, dedup.Acquired, dedup.Failed} {
				what := "Settle(" + to.String() + ") in state " + s.String()
				e.unchanged(r.Key, what, func() {
					e.check(e.store.Settle(e.ctx, hold(r), e.dead(to)) != nil, "%s succeeded", what)
				})
			}
		}
	}},
}

// calls are the changes that need a hold, by name.
func (e *env) calls(h dedup.Hold) map[string]func() error {
	out := map[string]func() error{
		"extend":  func() error { return e.store.Extend(e.ctx, h, e.long) },
		"release": func() error { return e.store.Release(e.ctx, h, dedup.Release{Cause: retryCause, Delay: e.long}) },
	}
	for _, s := range []dedup.State{dedup.Consumed, dedup.DeadOwed, dedup.DeadSent} {
		out[s.String()] = func() error {
			return e.store.Settle(e.ctx, h, dedup.Settlement{State: s, Result: []byte("late"), Cause: letterCause, Retention: e.long})
		}
	}
	return out
}

// refused demands that h can do nothing.
func (e *env) refused(h dedup.Hold, s dedup.State) {
	e.t.Helper()
	for name, call := range e.calls(h) {
		what := name + " in state " + s.String()
		e.unchanged(h.Key, what, func() { e.lost(call(), what) })
	}
}
