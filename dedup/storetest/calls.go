package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/idemq/idemq/dedup"
)

var (
	print1 = dedup.FingerprintOf([]byte("one payload"))
	print2 = dedup.FingerprintOf([]byte("another payload"))

	letterCause = dedup.Cause{Class: dedup.Permanent, Message: "no such account"}
	retryCause  = dedup.Cause{Message: "timeout\nof \"billing\" \x1b[31m 100% "}
)

func (e *env) key(id string) dedup.Key { return dedup.Key{Scope: e.scope, ID: id} }

// claim asks for a key for a time that never ends, without limits, with letters.
func (e *env) claim(id string, n dedup.Nonce) dedup.Claim {
	return dedup.Claim{
		Key: e.key(id), Nonce: n, Fingerprint: print1, Lease: e.long, Retention: 2 * e.long, DeadRetention: 4 * e.long, Letters: true,
	}
}

// brief is claim with a lease that pass ends.
func (e *env) brief(id string, n dedup.Nonce) dedup.Claim {
	c := e.claim(id, n)
	c.Lease = e.unit
	return c
}

// acquire demands a verdict.
func (e *env) acquire(c dedup.Claim, want dedup.Verdict) dedup.Record {
	e.t.Helper()
	v, r, err := e.store.Acquire(e.ctx, c)
	e.ok(err, "Acquire")
	e.check(v == want, "Acquire says %v, not %v; the record: %+v", v, want, r)
	e.check(r.Key == c.Key, "the record is that of %v, not of %v", r.Key, c.Key)
	return r
}

func hold(r dedup.Record) dedup.Hold { return dedup.Hold{Key: r.Key, Fence: r.Fence, Nonce: r.Nonce} }

func (e *env) settle(r dedup.Record, s dedup.Settlement) {
	e.t.Helper()
	e.ok(e.store.Settle(e.ctx, hold(r), s), "Settle("+s.State.String()+")")
}

func (e *env) release(r dedup.Record, rel dedup.Release) {
	e.t.Helper()
	e.ok(e.store.Release(e.ctx, hold(r), rel), "Release")
}

func (e *env) letterSent(r dedup.Record) {
	e.t.Helper()
	e.ok(e.store.LetterSent(e.ctx, r.Key, r.Fence), "LetterSent")
}

func (e *env) consumed(result []byte) dedup.Settlement {
	return dedup.Settlement{State: dedup.Consumed, Result: result, Retention: e.long}
}

func (e *env) dead(s dedup.State) dedup.Settlement {
	return dedup.Settlement{State: s, Cause: letterCause, Retention: e.long}
}

// lost demands ErrLeaseLost.
func (e *env) lost(err error, what string) {
	e.t.Helper()
	e.check(errors.Is(err, dedup.ErrLeaseLost), "%s: %v, not ErrLeaseLost", what, err)
}

// get reads a record; ok is false if there is none or the store cannot tell.
func (e *env) get(k dedup.Key) (r dedup.Record, ok bool) {
	e.t.Helper()
	i, is := e.store.(dedup.Inspector)
	if !is {
		return r, false
	}
	r, err := i.Get(e.ctx, k)
	if errors.Is(err, dedup.ErrNotFound) {
		return r, false
	}
	e.ok(err, "Get")
	return r, true
}

// unchanged demands that f does not change the record of k, as far as the store can be looked into.
func (e *env) unchanged(k dedup.Key, what string, f func()) {
	e.t.Helper()
	before, was := e.get(k)
	f()
	after, is := e.get(k)
	e.check(was == is, "%s: the record was there: %v, is there now: %v", what, was, is)
	if was {
		d := difference(before, after)
		e.check(d == "", "%s has changed the record: %s", what, d)
	}
}

// slack is how exactly a store knows when it forgets a record, if it reckons back from a time to live.
const slack = 2 * time.Second

func difference(a, b dedup.Record) string {
	switch d := a.ExpiresAt.Sub(b.ExpiresAt).Abs(); {
	case d > slack:
		return fmt.Sprintf("ExpiresAt %v, then %v", a.ExpiresAt, b.ExpiresAt)
	case !bytes.Equal(a.Result, b.Result):
		return fmt.Sprintf("Result %.40q, then %.40q", a.Result, b.Result)
	}
	for _, r := range []*dedup.Record{&a, &b} {
		r.ReadAt, r.ExpiresAt, r.Result = time.Time{}, time.Time{}, nil
	}
	if x, y := fmt.Sprintf("%+v", a), fmt.Sprintf("%+v", b); x != y {
		return x + "\n\tthen " + y
	}
	return ""
}

// is demands what a caller relies on in a record.
func (e *env) is(r dedup.Record, s dedup.State, attempt int) {
	e.t.Helper()
	e.check(r.State == s, "the state is %v, not %v: %+v", r.State, s, r)
	e.check(r.Attempt == attempt, "the attempt is %d, not %d: %+v", r.Attempt, attempt, r)
}

// newer demands that a fence has grown.
func (e *env) newer(r, than dedup.Record) {
	e.t.Helper()
	e.check(r.Fence > than.Fence, "fence %d after %d (I1: a key's fence strictly grows)", r.Fence, than.Fence)
}

// states brings a key of its own into every state; the record is the one of the claim that did.
func (e *env) states() map[dedup.State]dedup.Record {
	e.t.Helper()
	out := map[dedup.State]dedup.Record{}
	for _, s := range []dedup.State{dedup.Acquired, dedup.Failed, dedup.Consumed, dedup.DeadOwed, dedup.DeadSent} {
		r := e.acquire(e.claim("state-"+s.String(), "owner"), dedup.Granted)
		switch s {
		case dedup.Failed:
			e.release(r, dedup.Release{Cause: retryCause})
		case dedup.Consumed:
			e.settle(r, e.consumed([]byte("result")))
		case dedup.DeadOwed, dedup.DeadSent:
			e.settle(r, e.dead(dedup.DeadOwed))
			if s == dedup.DeadSent {
				e.letterSent(r)
			}
		default:
		}
		out[s] = r
	}
	return out
}
