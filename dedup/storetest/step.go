package storetest

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/idemq/idemq/dedup"
)

const (
	stepSays = "The result of a finished step is kept under the message's key, fenced, and is there on every later attempt " +
		"(else a handler of three calls that dies after the second makes the first two again)."
	stepHeldSays = "SaveStep needs the right fence, nonce and the state acquired, else ErrLeaseLost; nothing is changed then. I2: a stale " +
		"owner's result must not stand in the place of the new owner's."
	stepMemorySays = "Steps are remembered exactly as long as their record: gone earlier a retry repeats them, gone later a new operation under " +
		"a forgotten key takes an old one's results for its own."
)

var stepRules = []rule{
	{"steps-saved", stepSays, func(e *env) {
		s, r := e.stepStore(), e.acquire(e.claim("1", "a"), dedup.Granted)
		e.kept(s, r.Key)
		var want []dedup.SavedStep
		save := func(name string, data []byte) {
			e.t.Helper()
			given := bytes.Clone(data)
			e.ok(s.SaveStep(e.ctx, hold(r), dedup.SavedStep{Name: name, Data: given}), "SaveStep")
			for i := range given {
				given[i] = '!' // the caller's memory is the caller's
			}
			want = append(want, dedup.SavedStep{Name: name, Data: data})
			e.kept(s, r.Key, want...)
		}
		save("z-first", []byte("one"))
		save("a-second", every())
		save(strings.Repeat("n", dedup.MaxKeyLength), nil)
		save("0 0\n", []byte("\n7 7\n")) // to a store names are bytes, too
		save(`%d{}|\"`, []byte("{}"))
		save("large", bytes.Repeat(every(), 400))
		for range 2 { // an answer that was lost
			e.ok(s.SaveStep(e.ctx, hold(r), dedup.SavedStep{Name: "a-second", Data: []byte("again")}), "SaveStep")
		}
		want[1].Data = []byte("again")
		e.kept(s, r.Key, want...)
		got, err := s.Steps(e.ctx, r.Key)
		e.ok(err, "Steps")
		got[0].Data[0] = '?' // an answer is a copy
		e.kept(s, r.Key, want...)
		e.kept(s, e.key("2"))
		e.kept(s, dedup.Key{Scope: e.scope + "/x", ID: "1"})
		e.settle(r, e.consumed([]byte("result")))
		e.kept(s, r.Key, want...)
		e.check(string(e.acquire(e.claim("1", "b"), dedup.Duplicate).Result) == "result", "the steps have changed the result")
	}},
	{"steps-survive", stepSays + " That is over Release, takeover, death and replay: a replay must not charge twice.", func(e *env) {
		s := e.stepStore()
		r := e.acquire(e.brief("1", "a"), dedup.Granted)
		want := e.saveStep(s, r, "one", nil)
		e.pass()
		r = e.acquire(e.claim("1", "b"), dedup.Granted)
		e.kept(s, r.Key, want...)
		want = e.saveStep(s, r, "two", want)
		e.release(r, dedup.Release{Cause: retryCause})
		e.kept(s, r.Key, want...)
		r = e.acquire(e.claim("1", "c"), dedup.Granted)
		e.ok(s.SaveStep(e.ctx, hold(r), want[0]), "SaveStep of an earlier attempt's step")
		e.kept(s, r.Key, want...)
		e.settle(r, e.dead(dedup.DeadOwed))
		e.letterSent(r)
		e.kept(s, r.Key, want...)
		i, ok := e.store.(dedup.Inspector)
		if !ok {
			return
		}
		e.reopen(i, e.request(r), dedup.Reopened)
		e.kept(s, r.Key, want...)
		r = e.acquire(e.claim("1", "d"), dedup.Granted)
		want = e.saveStep(s, r, "three", want)
		e.settle(r, e.consumed(nil))
		e.kept(s, r.Key, want...)
	}},
	{"steps-refused", stepHeldSays, func(e *env) {
		s := e.stepStore()
		refused := func(h dedup.Hold, what string) {
			e.t.Helper()
			e.unchanged(h.Key, what, func() {
				e.lost(s.SaveStep(e.ctx, h, dedup.SavedStep{Name: "late", Data: []byte("x")}), what)
			})
			e.kept(s, h.Key)
		}
		refused(dedup.Hold{Key: e.key("never-seen"), Fence: 1, Nonce: "a"}, "SaveStep of an absent key")
		for st, r := range e.states() {
			for _, h := range []dedup.Hold{
				{Key: r.Key, Fence: r.Fence - 1, Nonce: r.Nonce},
				{Key: r.Key, Fence: r.Fence + 1, Nonce: r.Nonce},
				{Key: r.Key, Fence: r.Fence, Nonce: "other"},
				{Key: r.Key, Fence: r.Fence},
				{Key: r.Key},
			} {
				refused(h, "SaveStep with a stale hold in state "+st.String())
			}
			if st != dedup.Acquired {
				refused(hold(r), "SaveStep in state "+st.String())
			}
		}
		old := e.acquire(e.brief("over", "a"), dedup.Granted)
		e.pass()
		e.acquire(e.claim("over", "b"), dedup.Granted)
		refused(hold(old), "SaveStep after a takeover")
	}},
	{"steps-after-the-lease", "A lease that is over and not taken over does not end the claim: fence, nonce and state decide.", func(e *env) {
		s, r := e.stepStore(), e.acquire(e.brief("1", "a"), dedup.Granted)
		e.pass()
		e.kept(s, r.Key, e.saveStep(s, r, "late", nil)...)
	}},
	{"steps-forgotten", stepMemorySays, func(e *env) {
		s, i := e.stepStore(), e.inspector()
		for st, r := range e.states() {
			if st != dedup.Acquired {
				continue
			}
			e.saveStep(s, r, "one", nil)
			e.ok(i.Forget(e.ctx, r.Key, true), "Forget")
			e.kept(s, r.Key)
			r = e.acquire(e.claim(r.Key.ID, "b"), dedup.Granted)
			e.kept(s, r.Key)
			want := e.saveStep(s, r, "two", nil)
			e.kept(s, r.Key, want...)
			e.settle(r, e.dead(dedup.DeadSent))
			e.ok(i.Forget(e.ctx, r.Key, false), "Forget")
			e.reopen(i, e.request(r), dedup.Reopened)
			e.kept(s, r.Key)
		}
		for r, err := range i.List(e.ctx, dedup.Filter{Scope: e.scope}) {
			e.ok(err, "List")
			e.check(strings.HasPrefix(r.Key.ID, "state-"), "List shows %v, which is no record", r.Key)
		}
	}},
	{"steps-memory-ends", stepMemorySays, func(e *env) {
		s := e.stepStore()
		brief := e.brief("abandoned", "a")
		brief.Retention = time.Millisecond
		e.saveStep(s, e.acquire(brief, dedup.Granted), "one", nil)
		settled := e.acquire(e.claim("settled", "a"), dedup.Granted)
		e.saveStep(s, settled, "one", nil)
		e.settle(settled, dedup.Settlement{State: dedup.Consumed, Retention: e.unit}) // shorter than the claim's
		e.pass()
		for _, id := range []string{"abandoned", "settled"} {
			e.kept(s, e.key(id))
			r := e.acquire(e.claim(id, "b"), dedup.Granted)
			e.kept(s, r.Key)
			e.kept(s, r.Key, e.saveStep(s, r, "two", nil)...)
		}
	}},
	{"steps-memory-follows", stepMemorySays, func(e *env) {
		s := e.stepStore()
		c := e.claim("extended", "a")
		c.Retention, c.Lease = time.Millisecond, 4*e.unit // time enough for the next calls
		extended := e.acquire(c, dedup.Granted)
		want := e.saveStep(s, extended, "one", nil)
		e.ok(e.store.Extend(e.ctx, hold(extended), e.long), "Extend")
		c.Key = e.key("delayed")
		delayed := e.acquire(c, dedup.Granted)
		e.saveStep(s, delayed, "one", nil)
		e.release(delayed, dedup.Release{Delay: e.long})
		c.Key = e.key("settled")
		settled := e.acquire(c, dedup.Granted)
		e.saveStep(s, settled, "one", nil)
		e.settle(settled, e.consumed(nil))
		for range 5 {
			e.pass()
		}
		for _, id := range []string{"extended", "delayed", "settled"} {
			e.kept(s, e.key(id), want...)
		}
	}},
	{"steps-cancelled-context", "context.Context first: a call whose context has ended returns.", func(e *env) {
		s, r := e.stepStore(), e.acquire(e.claim("1", "a"), dedup.Granted)
		ctx, cancel := context.WithCancel(e.ctx)
		cancel()
		e.check(s.SaveStep(ctx, hold(r), dedup.SavedStep{Name: "one"}) != nil, "SaveStep with a cancelled context succeeded")
		_, err := s.Steps(ctx, r.Key)
		e.check(err != nil, "Steps with a cancelled context succeeded")
		e.kept(s, r.Key)
	}},
}

// stepStore returns the store as a StepStore, or leaves the test out.
func (e *env) stepStore() dedup.StepStore {
	e.t.Helper()
	s, ok := e.store.(dedup.StepStore)
	if !ok {
		e.t.Skip("the store is no dedup.StepStore")
	}
	return s
}

// saveStep saves a step and returns what is to be kept from then on.
func (e *env) saveStep(s dedup.StepStore, r dedup.Record, name string, before []dedup.SavedStep) []dedup.SavedStep {
	e.t.Helper()
	st := dedup.SavedStep{Name: name, Data: []byte("result of " + name)}
	e.ok(s.SaveStep(e.ctx, hold(r), st), "SaveStep")
	return append(before[:len(before):len(before)], st)
}

// kept demands the steps of a key.
func (e *env) kept(s dedup.StepStore, k dedup.Key, want ...dedup.SavedStep) {
	e.t.Helper()
	got, err := s.Steps(e.ctx, k)
	e.ok(err, "Steps")
	a, b := fmt.Sprintf("%+q", got), fmt.Sprintf("%+q", want)
	if len(got) == 0 && len(want) == 0 {
		return
	}
	e.check(a == b, "the steps of %v are %.300s, not %.300s", k, a, b)
}
