package storetest

import (
	"errors"

	"github.com/idemq/idemq/dedup"
)

const reopenSays = "Reopen(key, L, generation, fingerprint): dead and sent with fence L, or absent: failed, attempt 0, the letter's generation + 1, " +
	"new fence. Failed, acquired or owed with another fence: go on. Consumed, or dead and sent with a larger fence: resolved. Anything " +
	"else: stop. I11: replaying twice runs once."

// request is the replay of the letter of r.
func (e *env) request(r dedup.Record) dedup.ReopenRequest {
	return dedup.ReopenRequest{Key: r.Key, Fence: r.Fence, Generation: max(1, r.Generation), Fingerprint: r.Fingerprint, Retention: e.long}
}

func (e *env) reopen(i dedup.Inspector, q dedup.ReopenRequest, want dedup.Reopening) {
	e.t.Helper()
	got, err := i.Reopen(e.ctx, q)
	e.ok(err, "Reopen")
	e.check(got == want, "Reopen says %v, not %v", got, want)
}

// letter makes a key dead and returns the record of its claim.
func (e *env) letter(id string) dedup.Record {
	e.t.Helper()
	r := e.acquire(e.claim(id, "owner"), dedup.Granted)
	e.settle(r, e.dead(dedup.DeadOwed))
	e.letterSent(r)
	return r
}

var reopenRules = []rule{
	{"reopen-dead", reopenSays, func(e *env) {
		i := e.inspector()
		r := e.letter("1")
		e.reopen(i, e.request(r), dedup.Reopened)
		got, _ := e.get(r.Key)
		e.is(got, dedup.Failed, 0)
		e.newer(got, r)
		e.check(got.Generation == 2 && got.Nonce == "" && got.Fingerprint == print1 && got.FailedAt.IsZero(), "%+v", got)
		e.check(got.Interrupted == 0 && got.Abandoned == 0 && got.Wait() == 0, "%+v", got)
		e.stale(r)
		e.lost(e.store.Release(e.ctx, dedup.Hold{Key: r.Key, Fence: got.Fence}, dedup.Release{}), "Release by nobody of a reopened key")
		e.unchanged(r.Key, "a second replayer", func() { e.reopen(i, e.request(r), dedup.AlreadyOpen) })

		run := e.acquire(e.claim("1", "owner"), dedup.Granted) // the nonce of the dead claim is not spent for the replay
		e.is(run, dedup.Acquired, 1)
		e.newer(run, got)
		e.stale(r)
		e.unchanged(r.Key, "a replayer while it runs", func() { e.reopen(i, e.request(r), dedup.AlreadyOpen) })
		e.settle(run, e.consumed([]byte("replayed")))
		e.unchanged(r.Key, "a replayer after it was consumed", func() { e.reopen(i, e.request(r), dedup.Resolved) })
		e.acquire(e.claim("1", "b"), dedup.Duplicate)
	}},
	{"reopen-absent", reopenSays, func(e *env) {
		i := e.inspector()
		old := e.letter("1")
		e.ok(i.Forget(e.ctx, old.Key, false), "Forget")
		q := e.request(old)
		q.Generation, q.Fingerprint = 4, print2
		e.reopen(i, q, dedup.Reopened)
		got, _ := e.get(old.Key)
		e.is(got, dedup.Failed, 0)
		e.newer(got, old)
		e.check(got.Generation == 5 && got.Fingerprint == print2 && !got.CreatedAt.IsZero(), "%+v", got)
		e.acquire(e.claim("1", "b"), dedup.Conflict)
		c := e.claim("1", "b")
		c.Fingerprint = print2
		e.newer(e.acquire(c, dedup.Granted), got)
	}},
	{"reopen-second-death", reopenSays + " An old letter never opens a later death.", func(e *env) {
		i := e.inspector()
		first := e.letter("1")
		e.reopen(i, e.request(first), dedup.Reopened)
		second := e.acquire(e.claim("1", "b"), dedup.Granted)
		e.check(second.Generation == 2, "generation %d, not 2", second.Generation)
		e.settle(second, e.dead(dedup.DeadOwed))
		e.unchanged(first.Key, "the first letter's replay while the second is owed", func() {
			e.reopen(i, e.request(first), dedup.AlreadyOpen)
			e.reopen(i, e.request(second), dedup.NotSettled)
		})
		e.letterSent(second)
		e.unchanged(first.Key, "the first letter's replay", func() { e.reopen(i, e.request(first), dedup.Resolved) })
		e.reopen(i, e.request(second), dedup.Reopened)
		got, _ := e.get(first.Key)
		e.check(got.Generation == 3, "generation %d, not 3", got.Generation)
	}},
	{"reopen-not-settled", reopenSays, func(e *env) {
		i := e.inspector()
		want := map[dedup.State]dedup.Reopening{
			dedup.Acquired: dedup.NotSettled, dedup.Failed: dedup.NotSettled, dedup.DeadOwed: dedup.NotSettled, dedup.Consumed: dedup.Resolved,
		}
		for s, r := range e.states() {
			if w, ok := want[s]; ok {
				e.unchanged(r.Key, "Reopen in state "+s.String(), func() { e.reopen(i, e.request(r), w) })
			}
		}
	}},
	{"reopen-other-fence", reopenSays, func(e *env) {
		i := e.inspector()
		want := map[dedup.State][2]dedup.Reopening{ // of an earlier letter, and of a later one
			dedup.Acquired: {dedup.AlreadyOpen, dedup.AlreadyOpen},
			dedup.Failed:   {dedup.AlreadyOpen, dedup.AlreadyOpen},
			dedup.DeadOwed: {dedup.AlreadyOpen, dedup.AlreadyOpen},
			dedup.Consumed: {dedup.Resolved, dedup.Resolved},
			dedup.DeadSent: {dedup.Resolved, dedup.NotSettled},
		}
		for s, r := range e.states() {
			e.unchanged(r.Key, "Reopen by another letter in state "+s.String(), func() {
				q := e.request(r)
				q.Fence = r.Fence - 1
				e.reopen(i, q, want[s][0])
				q.Fence = r.Fence + 1
				e.reopen(i, q, want[s][1])
			})
		}
	}},
	{"reopen-rebind", "An edited replay re-binds the fingerprint, whenever the record is failed. I10.", func(e *env) {
		i := e.inspector()
		edited := func(r dedup.Record, rebind bool) dedup.ReopenRequest {
			q := e.request(r)
			q.Fingerprint, q.Rebind = print2, rebind
			return q
		}
		bound := func(r dedup.Record, f dedup.Fingerprint) {
			e.t.Helper()
			got, _ := e.get(r.Key)
			e.check(got.Fingerprint == f, "the fingerprint is %v, not %v", got.Fingerprint, f)
		}
		r := e.letter("dead")
		e.reopen(i, edited(r, true), dedup.Reopened)
		bound(r, print2)
		e.acquire(e.claim("dead", "x"), dedup.Conflict)

		r = e.letter("open")
		e.reopen(i, edited(r, false), dedup.Reopened)
		bound(r, print1)
		e.unchanged(r.Key, "Reopen without Rebind", func() { e.reopen(i, edited(r, false), dedup.AlreadyOpen) })
		e.reopen(i, edited(r, true), dedup.AlreadyOpen)
		bound(r, print2)
		c := e.claim("open", "x")
		c.Fingerprint = print2
		e.acquire(c, dedup.Granted)
		back := edited(r, true)
		back.Fingerprint = print1
		e.unchanged(r.Key, "Rebind while it runs", func() { e.reopen(i, back, dedup.AlreadyOpen) })
	}},
}

var forgetRules = []rule{
	{"forget", "any, Forget (operator): absent, refused while a lease runs unless forced. I1: the fence grows across Forget.", func(e *env) {
		i := e.inspector()
		for _, force := range []bool{false, true} {
			err := i.Forget(e.ctx, e.key("never-seen"), force)
			e.check(errors.Is(err, dedup.ErrNotFound), "Forget of an absent key: %v", err)
		}
		for s, old := range e.states() {
			if s == dedup.Acquired {
				e.unchanged(old.Key, "a refused Forget", func() {
					err := i.Forget(e.ctx, old.Key, false)
					e.check(errors.Is(err, dedup.ErrLeaseRunning), "Forget while a lease runs: %v", err)
				})
			}
			e.ok(i.Forget(e.ctx, old.Key, s == dedup.Acquired), "Forget in state "+s.String())
			_, err := i.Get(e.ctx, old.Key)
			e.check(errors.Is(err, dedup.ErrNotFound), "Get after Forget: %v", err)
			err = i.Forget(e.ctx, old.Key, true)
			e.check(errors.Is(err, dedup.ErrNotFound), "a second Forget: %v", err)
			e.stale(old)
			r := e.acquire(e.claim(old.Key.ID, "owner"), dedup.Granted)
			e.is(r, dedup.Acquired, 1)
			e.newer(r, old)
			e.check(r.Generation == 1 && r.Cause == dedup.Cause{}, "a forgotten key begins anew: %+v", r)
			e.stale(old)
		}
	}},
	{"forget-lease-over", "Forget is refused while a lease runs; one that is over does not run.", func(e *env) {
		i := e.inspector()
		r := e.acquire(e.brief("1", "a"), dedup.Granted)
		e.pass()
		e.ok(i.Forget(e.ctx, r.Key, false), "Forget after the lease")
		e.stale(r)
	}},
	{"fence-grows", "I1: a key's fence strictly grows, across takeover, release, Forget and death.", func(e *env) {
		i := e.inspector()
		last := dedup.Record{}
		for round := range 4 {
			for _, n := range []dedup.Nonce{"a", "b", "c", "d"} {
				r := e.acquire(e.claim("1", n), dedup.Granted)
				e.newer(r, last)
				if last = r; n != "d" {
					e.release(r, dedup.Release{})
				}
			}
			switch round {
			case 0:
				e.ok(i.Forget(e.ctx, last.Key, true), "Forget")
			case 1:
				e.ok(e.store.Extend(e.ctx, hold(last), e.unit), "Extend")
				e.pass()
				r := e.acquire(e.claim("1", "over"), dedup.Granted)
				e.newer(r, last)
				last = r
				e.release(r, dedup.Release{})
			default:
				e.settle(last, e.dead(dedup.DeadSent))
				e.reopen(i, e.request(last), dedup.Reopened)
				got, _ := e.get(last.Key)
				e.newer(got, last)
				last = got
			}
		}
	}},
}
