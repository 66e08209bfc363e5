package storetest

import (
	"errors"
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
	{"adopt-many", adoptSays + " AdoptMany and GetMany do what as many single calls do, one after another.", func(e *env) {
		b, i := e.batchAdopter(), e.inspector()
		b.AdoptMany(e.ctx, nil)
		b.GetMany(e.ctx, nil)
		var adoptions []dedup.Adoption
		var want []error
		add := func(r dedup.Record, over dedup.Fence, err error) {
			adoptions, want = append(adoptions, dedup.Adoption{Record: r, Over: over}), append(want, err)
		}
		keys := []dedup.Key{e.key("absent")}
		for st, r := range e.states() {
			from, err := i.Get(e.ctx, r.Key)
			e.ok(err, "Get")
			to, newer := from, from
			to.Key.ID, to.Fence = "adopted-"+st.String(), from.Fence+7
			newer.State, newer.Fence, newer.Nonce = dedup.Consumed, from.Fence+7, "other"
			add(to, 0, nil)
			add(to, 0, nil) // again
			add(newer, 0, dedup.ErrLeaseLost)
			add(newer, from.Fence, nil)
			keys = append(keys, to.Key, r.Key)
		}
		for n, err := range b.AdoptMany(e.ctx, adoptions) {
			e.check(errors.Is(err, want[n]), "AdoptMany [%d]: %v, not %v", n, err, want[n])
		}
		for n, f := range b.GetMany(e.ctx, keys) {
			r, err := i.Get(e.ctx, keys[n])
			e.check(errors.Is(f.Err, err), "GetMany [%d]: %v, and Get: %v", n, f.Err, err)
			e.check(n == 0 || f.Record.ReadAt.After(time.Time{}), "GetMany does not tell when it read")
			r.LeaseUntil, r.NotBefore = f.Record.LeaseUntil, f.Record.NotBefore // where they are computed from what is left
			d := difference(f.Record, r)
			e.check(d == "", "GetMany [%d] and Get differ: %s", n, d)
		}
		e.acquire(e.claim("adopted-consumed", "x"), dedup.Duplicate)
		e.acquire(e.claim("state-acquired", "x"), dedup.Duplicate)
	}},
	{"get-many-unreadable-neighbour", "I12: record bytes in the store do not corrupt a neighbour.", func(e *env) {
		b := e.batchAdopter()
		if e.h.Corrupt == nil {
			e.t.Skip("the harness cannot corrupt records")
		}
		e.settle(e.acquire(e.claim("good", "a"), dedup.Granted), e.consumed(nil))
		e.acquire(e.claim("bad", "a"), dedup.Granted)
		e.h.Corrupt(e.t, e.key("bad"), []byte("garbage"))
		for n, f := range b.GetMany(e.ctx, []dedup.Key{e.key("bad"), e.key("good")}) {
			e.neighbour([]string{"bad", "good"}[n], f.Err, "GetMany")
		}
	}},
}

// batchAdopter returns the store as a BatchAdopter, or leaves the test out.
func (e *env) batchAdopter() dedup.BatchAdopter {
	e.t.Helper()
	b, ok := e.store.(dedup.BatchAdopter)
	if !ok {
		e.t.Skip("the store is no dedup.BatchAdopter")
	}
	return b
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
