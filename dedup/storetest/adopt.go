package storetest

import (
	"time"

	"github.com/idemq/idemq/dedup"
)

const adoptSays = "Adopt puts a whole record of another store in the place of the one with the given fence, and of nothing else: a tier " +
	"must not overwrite what somebody has done meanwhile. I1, I2, I3."

var adoptRules = []rule{
	{"adopt-whole-records", adoptSays, func(e *env) {
		a, i := e.adopter(), e.inspector()
		for st, r := range e.states() {
			from, err := i.Get(e.ctx, r.Key)
			e.ok(err, "Get")
			to := from
			to.Key.ID, to.Fence = "adopted-"+st.String(), from.Fence+7
			for range 2 { // an answer that was lost
				e.ok(a.Adopt(e.ctx, to, 0), "Adopt in the place of nothing")
				got, err := i.Get(e.ctx, to.Key)
				e.ok(err, "Get of what was adopted")
				e.check((got.LeaseLeft()-from.LeaseLeft()).Abs() < slack && (got.Wait()-from.Wait()).Abs() < slack,
					"the lease or the delay has changed: %v and %v, then %v and %v", from.LeaseLeft(), from.Wait(), got.LeaseLeft(), got.Wait())
				got.LeaseUntil, got.NotBefore, got.UpdatedAt = to.LeaseUntil, to.NotBefore, to.UpdatedAt
				d := difference(to, got)
				e.check(d == "", "what was adopted has changed: %s", d)
			}
		}
		e.acquire(e.claim("adopted-consumed", "x"), dedup.Duplicate)
		e.acquire(e.claim("adopted-acquired", "x"), dedup.Busy)
	}},
	{"adopt-refused", adoptSays, func(e *env) {
		a, i := e.adopter(), e.inspector()
		for st, r := range e.states() {
			now, err := i.Get(e.ctx, r.Key)
			e.ok(err, "Get")
			other := now
			other.State, other.Fence, other.Nonce = dedup.Consumed, now.Fence+7, "other"
			e.unchanged(r.Key, "Adopt over another fence in state "+st.String(), func() {
				for _, over := range []dedup.Fence{0, now.Fence - 1, now.Fence + 1, other.Fence} {
					e.lost(a.Adopt(e.ctx, other, over), "Adopt over another fence")
				}
				e.ok(a.Adopt(e.ctx, now, 1), "Adopt of what is there")
			})
			e.ok(a.Adopt(e.ctx, other, now.Fence), "Adopt over the fence that is there")
			e.acquire(e.claim(r.Key.ID, "x"), dedup.Duplicate)
			e.stale(r)
		}
		r := e.acquire(e.claim("gone", "a"), dedup.Granted)
		r.Key.ID = "never-seen"
		e.lost(a.Adopt(e.ctx, r, r.Fence), "Adopt over a record that is not there")
	}},
	{"adopt-keeps-steps", adoptSays + " The steps stay: what was done is done under the record that takes its place, too.", func(e *env) {
		a, i, s := e.adopter(), e.inspector(), e.stepStore()
		r := e.acquire(e.claim("1", "a"), dedup.Granted)
		want := e.saveStep(s, r, "one", nil)
		other, err := i.Get(e.ctx, r.Key)
		e.ok(err, "Get")
		other.Fence, other.Nonce, other.CreatedAt = r.Fence+7, "other", r.CreatedAt.Add(time.Hour)
		e.ok(a.Adopt(e.ctx, other, r.Fence), "Adopt")
		e.kept(s, r.Key, want...)
		want = e.saveStep(s, other, "two", want)
		e.kept(s, r.Key, want...)
	}},
	{"adopt-memory", "An adopted record is remembered for as long as the other store would have.", func(e *env) {
		a, i := e.adopter(), e.inspector()
		r := e.acquire(e.claim("1", "a"), dedup.Granted)
		e.settle(r, e.consumed(nil))
		from, err := i.Get(e.ctx, r.Key)
		e.ok(err, "Get")
		from.ReadAt = from.ReadAt.Add(-time.Hour) // another clock
		from.ExpiresAt = from.ReadAt.Add(e.unit)
		from.Key.ID, from.Fence = "brief", from.Fence+1
		e.ok(a.Adopt(e.ctx, from, 0), "Adopt")
		e.acquire(e.claim("brief", "b"), dedup.Duplicate)
		e.pass()
		e.newer(e.acquire(e.claim("brief", "b"), dedup.Granted), r)
	}},
}

// adopter returns the store as an Adopter, or leaves the test out.
func (e *env) adopter() dedup.Adopter {
	e.t.Helper()
	a, ok := e.store.(dedup.Adopter)
	if !ok {
		e.t.Skip("the store is no dedup.Adopter")
	}
	return a
}
