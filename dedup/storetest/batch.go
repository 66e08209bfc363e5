package storetest

import (
	"errors"
	"fmt"

	"github.com/idemq/idemq/dedup"
)

const batchSays = "AcquireMany and SettleMany do what as many single calls do, one after another: answer i belongs to request i, equal keys are treated " +
	"one after another, one record's failure does not touch the others. "

func (e *env) batcher() dedup.Batcher {
	e.t.Helper()
	b, ok := e.store.(dedup.Batcher)
	if !ok {
		e.t.Skip("the store is no dedup.Batcher")
	}
	return b
}

// acquireMany demands the verdicts.
func (e *env) acquireMany(b dedup.Batcher, claims []dedup.Claim, want ...dedup.Verdict) []dedup.Record {
	e.t.Helper()
	got := b.AcquireMany(e.ctx, claims)
	e.check(len(got) == len(claims), "%d answers to %d claims", len(got), len(claims))
	records := make([]dedup.Record, len(got))
	for i, a := range got {
		e.ok(a.Err, fmt.Sprintf("AcquireMany [%d]", i))
		w := want[min(i, len(want)-1)]
		e.check(a.Verdict == w, "answer %d is %v, not %v: %+v", i, a.Verdict, w, a.Record)
		e.check(a.Record.Key == claims[i].Key, "answer %d is of %v, not of %v", i, a.Record.Key, claims[i].Key)
		records[i] = a.Record
	}
	return records
}

func (e *env) settleMany(b dedup.Batcher, s []dedup.HeldSettlement) []error {
	e.t.Helper()
	errs := b.SettleMany(e.ctx, s)
	e.check(len(errs) == len(s), "%d answers to %d settlements", len(errs), len(s))
	return errs
}

var batchRules = []rule{
	{"batch-many", batchSays + "I3.", func(e *env) {
		b := e.batcher()
		e.acquireMany(b, nil, dedup.Granted)
		e.settleMany(b, nil)
		var claims []dedup.Claim
		for i := range 100 {
			claims = append(claims, e.claim(fmt.Sprint("k", i), "a"))
		}
		var settlements []dedup.HeldSettlement
		for i, r := range e.acquireMany(b, claims, dedup.Granted) {
			e.is(r, dedup.Acquired, 1)
			s := dedup.HeldSettlement{Hold: hold(r), Settlement: e.consumed(fmt.Appendf(every(), "%d", i))}
			if i%10 == 9 {
				s.Settlement = e.dead(dedup.DeadOwed)
			}
			settlements = append(settlements, s)
		}
		for i := range claims {
			again := e.acquire(claims[i], dedup.Granted)
			e.check(again.Fence == settlements[i].Hold.Fence, "AcquireMany and Acquire with the same nonce: fence %d and %d", settlements[i].Hold.Fence, again.Fence)
		}
		for range 2 { // the second time repeated
			for i, err := range e.settleMany(b, settlements) {
				e.ok(err, fmt.Sprintf("SettleMany [%d]", i))
			}
		}
		for i, a := range b.AcquireMany(e.ctx, claims) {
			e.ok(a.Err, "AcquireMany")
			if i%10 == 9 {
				e.check(a.Verdict == dedup.LetterOwed && a.Record.Cause == letterCause, "answer %d: %+v", i, a)
				continue
			}
			e.check(a.Verdict == dedup.Duplicate && string(a.Record.Result) == string(fmt.Appendf(every(), "%d", i)), "answer %d: %+v", i, a)
		}
	}},
	{"batch-mixed", batchSays + "Fingerprint first.", func(e *env) {
		b := e.batcher()
		var claims []dedup.Claim
		var want []dedup.Verdict
		for s, v := range map[dedup.State]dedup.Verdict{
			dedup.Acquired: dedup.Busy, dedup.Failed: dedup.Granted, dedup.Consumed: dedup.Duplicate, dedup.DeadOwed: dedup.LetterOwed, dedup.DeadSent: dedup.Dead,
		} {
			claims, want = append(claims, e.claim("state-"+s.String(), "x")), append(want, v)
		}
		e.states()
		limit, conflict := e.claim("limit", "x"), e.claim("state-consumed", "x")
		e.release(e.acquire(e.claim("limit", "a"), dedup.Granted), dedup.Release{})
		limit.MaxAttempts, limit.Letters = 1, false
		conflict.Fingerprint = print2
		claims, want = append(claims, limit, conflict, e.claim("new", "x")), append(want, dedup.Dead, dedup.Conflict, dedup.Granted)
		e.acquireMany(b, claims, want...)
	}},
	{"batch-equal-keys", batchSays + "I8.", func(e *env) {
		b := e.batcher()
		other := e.claim("1", "c")
		other.Fingerprint = print2
		got := e.acquireMany(b, []dedup.Claim{e.claim("1", "a"), e.claim("1", "b"), e.claim("2", "a"), e.claim("1", "a"), other},
			dedup.Granted, dedup.Busy, dedup.Granted, dedup.Granted, dedup.Conflict)
		e.check(got[0].Fence == got[1].Fence && got[0].Fence == got[3].Fence, "the fences of one key are %d, %d, %d", got[0].Fence, got[1].Fence, got[3].Fence)
		h := hold(got[0])
		errs := e.settleMany(b, []dedup.HeldSettlement{
			{Hold: h, Settlement: e.consumed([]byte("first"))},
			{Hold: h, Settlement: e.consumed([]byte("second"))},
			{Hold: h, Settlement: e.dead(dedup.DeadOwed)},
		})
		e.ok(errs[0], "the first")
		e.ok(errs[1], "the first, repeated")
		e.lost(errs[2], "a Settle(Dead) after it")
		r := e.acquire(e.claim("1", "b"), dedup.Duplicate)
		e.check(string(r.Result) == "first", "the result is %q", r.Result)
	}},
	{"batch-stale-neighbours", batchSays + heldSays, func(e *env) {
		b := e.batcher()
		r := e.acquireMany(b, []dedup.Claim{e.claim("1", "a"), e.claim("2", "a"), e.claim("3", "a"), e.claim("4", "a")}, dedup.Granted)
		holds := []dedup.Hold{hold(r[0]), hold(r[1]), hold(r[2]), {Key: e.key("absent"), Fence: 1, Nonce: "a"}, hold(r[3])}
		holds[0].Fence++
		holds[2].Nonce = "b"
		var s []dedup.HeldSettlement
		for _, h := range holds {
			s = append(s, dedup.HeldSettlement{Hold: h, Settlement: e.consumed(nil)})
		}
		for i, err := range e.settleMany(b, s) {
			if i == 1 || i == 4 {
				e.ok(err, "the right hold among wrong ones")
			} else {
				e.lost(err, "a wrong hold")
			}
		}
		for i, v := range []dedup.Verdict{dedup.Busy, dedup.Duplicate, dedup.Busy, dedup.Duplicate} {
			e.acquire(e.claim(fmt.Sprint(i+1), "x"), v)
		}
	}},
	{"batch-unreadable-neighbour", batchSays + "I12: record bytes in the store do not corrupt a neighbour.", func(e *env) {
		b := e.batcher()
		if e.h.Corrupt == nil {
			e.t.Skip("the harness cannot corrupt records")
		}
		ids := []string{"first", "bad", "last"}
		var claims []dedup.Claim
		var settlements []dedup.HeldSettlement
		for _, id := range ids {
			claims = append(claims, e.claim(id, "a"))
		}
		for _, r := range e.acquireMany(b, claims, dedup.Granted) {
			settlements = append(settlements, dedup.HeldSettlement{Hold: hold(r), Settlement: e.consumed([]byte(r.Key.ID))})
		}
		e.h.Corrupt(e.t, e.key("bad"), []byte("garbage"))
		for i, a := range b.AcquireMany(e.ctx, claims) {
			e.neighbour(ids[i], a.Err, "AcquireMany")
			e.check(ids[i] == "bad" || a.Verdict == dedup.Granted, "%s: %v", ids[i], a.Verdict)
		}
		for i, err := range e.settleMany(b, settlements) {
			e.neighbour(ids[i], err, "SettleMany")
		}
		for _, id := range []string{"first", "last"} {
			r := e.acquire(e.claim(id, "b"), dedup.Duplicate)
			e.check(string(r.Result) == id, "%s has the result %q", id, r.Result)
		}
	}},
}

func (e *env) neighbour(id string, err error, what string) {
	e.t.Helper()
	if id == "bad" {
		e.check(errors.Is(err, dedup.ErrUnreadable), "%s of garbage: %v, not ErrUnreadable", what, err)
		return
	}
	e.ok(err, what+" beside garbage")
}
