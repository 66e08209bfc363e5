package storetest

import (
	"bytes"
	"strings"

	"github.com/idemq/idemq/dedup"
)

const duplicateSays = "acquired, Settle(Consumed, result) by the holder: consumed; consumed, Acquire: Duplicate, with the stored result. " +
	"I3: after an acknowledged Settle(Consumed) every Acquire with the same fingerprint says Duplicate, with the same bytes."

func every() []byte {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

var settleRules = []rule{
	{"settle-results", duplicateSays, func(e *env) {
		for id, result := range map[string][]byte{
			"none": nil, "empty": {}, "text": []byte("done"), "binary": every(), "zero": {0}, "newline": []byte("\n1 a 2\n"),
			"spaces": []byte("  - "), "number": []byte("1e400"), "invalid-utf8": {0xff, 0xfe, 0xc0}, "100KB": bytes.Repeat(every(), 400),
		} {
			r := e.acquire(e.claim(id, "a"), dedup.Granted)
			given := bytes.Clone(result)
			e.settle(r, e.consumed(given))
			for i := range given {
				given[i] = '!' // the caller's memory is the caller's
			}
			for _, n := range []dedup.Nonce{"b", "c", "a"} {
				got := e.acquire(e.claim(id, n), dedup.Duplicate)
				e.is(got, dedup.Consumed, 1)
				e.check(bytes.Equal(got.Result, result), "%s: the result is %.40q, not %.40q", id, got.Result, result)
				e.check(got.Fence == r.Fence && got.Cause == dedup.Cause{}, "%s: %+v", id, got)
				for i := range got.Result {
					got.Result[i] = '?' // and the answer's is a copy
				}
			}
		}
	}},
	{"settle-consumed-repeated", "Settle repeated in its own end state succeeds again; the first result stays. I3.", func(e *env) {
		r := e.acquire(e.claim("1", "a"), dedup.Granted)
		e.settle(r, e.consumed([]byte("first")))
		e.unchanged(r.Key, "a repeated Settle", func() {
			e.settle(r, e.consumed([]byte("first")))
			e.settle(r, e.consumed([]byte("second")))
		})
		got := e.acquire(e.claim("1", "b"), dedup.Duplicate)
		e.check(string(got.Result) == "first", "the result is %q", got.Result)
	}},
	{"settle-forgets-the-cause", "A consumed key has no cause, though earlier tries failed; its attempts are kept.", func(e *env) {
		r := e.acquire(e.claim("1", "a"), dedup.Granted)
		e.release(r, dedup.Release{Cause: retryCause})
		r = e.acquire(e.claim("1", "b"), dedup.Granted)
		s := e.consumed([]byte("x"))
		s.Cause = letterCause
		e.settle(r, s)
		got := e.acquire(e.claim("1", "c"), dedup.Duplicate)
		e.is(got, dedup.Consumed, 2)
		e.check(got.Cause == dedup.Cause{} && string(got.Result) == "x", "%+v", got)
	}},
}

var deathRules = []rule{
	{"dead-owed-then-sent", "Settle(Dead): dead, owed. Acquire: LetterOwed, this delivery finishes the publication. LetterSent by whoever " +
		"published it: dead, sent; repeatable. Then Acquire: Dead. I4, I5.", func(e *env) {
		r := e.acquire(e.claim("1", "a"), dedup.Granted)
		s := e.dead(dedup.DeadOwed)
		s.Cause.Message = retryCause.Message
		s.Result = []byte("not kept")
		e.settle(r, s)
		e.unchanged(r.Key, "a repeated Settle", func() { e.settle(r, e.dead(dedup.DeadOwed)) })
		got := e.acquire(e.claim("1", "b"), dedup.LetterOwed)
		e.is(got, dedup.DeadOwed, 1)
		e.check(got.Cause == s.Cause, "the cause is %+q, not %+q", got.Cause, s.Cause)
		e.check(got.Fence == r.Fence && got.Generation == 1 && len(got.Result) == 0 && !got.FailedAt.IsZero(), "%+v", got)
		e.letterSent(got)
		e.unchanged(r.Key, "a repeated LetterSent or Settle", func() {
			e.letterSent(r)
			e.settle(r, e.dead(dedup.DeadOwed))
			got = e.acquire(e.claim("1", "c"), dedup.Dead)
			e.is(got, dedup.DeadSent, 1)
			e.check(got.Cause == s.Cause, "the cause is %+q, not %+q", got.Cause, s.Cause)
		})
	}},
	{"dead-without-letters", "Where no letters are configured, Settle(Dead) goes straight to sent.", func(e *env) {
		r := e.acquire(e.claim("1", "a"), dedup.Granted)
		e.settle(r, e.dead(dedup.DeadSent))
		e.unchanged(r.Key, "a repeated Settle", func() { e.settle(r, e.dead(dedup.DeadSent)) })
		got := e.acquire(e.claim("1", "b"), dedup.Dead)
		e.is(got, dedup.DeadSent, 1)
		e.check(got.Cause == letterCause, "the cause is %+q", got.Cause)
	}},
	{"dead-longest-cause", "A record keeps the error's text of up to 512 bytes, whatever bytes these are. I12.", func(e *env) {
		for id, msg := range map[string]string{
			"long": strings.Repeat("€", dedup.MaxCauseLength/3), "binary": string(every()) + string(every()), "empty": "",
		} {
			r := e.acquire(e.claim(id, "a"), dedup.Granted)
			s := e.dead(dedup.DeadSent)
			s.Cause.Message = msg
			e.settle(r, s)
			got := e.acquire(e.claim(id, "b"), dedup.Dead)
			e.check(got.Cause == s.Cause, "%s: the cause is %+q", id, got.Cause)
		}
	}},
	{"letter-sent-refused", "LetterSent(key, fence) changes a key that is dead by this fence and nothing else: ErrLeaseLost. I2.", func(e *env) {
		for s, r := range e.states() {
			e.unchanged(r.Key, "LetterSent in state "+s.String(), func() {
				for _, f := range []dedup.Fence{0, 1, r.Fence - 1, r.Fence + 1} {
					e.lost(e.store.LetterSent(e.ctx, r.Key, f), "LetterSent of another fence in state "+s.String())
				}
				if s == dedup.Acquired || s == dedup.Failed || s == dedup.Consumed {
					e.lost(e.store.LetterSent(e.ctx, r.Key, r.Fence), "LetterSent in state "+s.String())
				}
			})
		}
	}},
}
