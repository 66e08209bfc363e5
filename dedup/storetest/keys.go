package storetest

import (
	"context"
	"errors"
	"strings"

	"github.com/idemq/idemq/dedup"
)

const keySays = "A key is 1 to 255 bytes of visible ASCII in a scope of up to 255 bytes of UTF-8; the same ID in two scopes is two records. " +
	"I12: no key panics, blocks or corrupts a neighbour."

var keyRules = []rule{
	{"key-bytes", keySays, func(e *env) {
		var keys []dedup.Key
		for b := byte(0x21); b <= 0x7E; b++ {
			keys = append(keys, e.key(string(b)))
		}
		for _, id := range []string{
			"..", "a.b", "a/b", "a:b", "a{b}", "*.>", "$JS.API", "%41", "A%20", `"\`, "__proto__", "-1", "0x0", "'--;", "a,b", "k[a-z]?",
			strings.Repeat("~", dedup.MaxKeyLength), strings.Repeat("a", dedup.MaxKeyLength-1) + "b", strings.Repeat("a", dedup.MaxKeyLength-1) + "c",
		} {
			keys = append(keys, e.key(id))
		}
		e.distinct(keys)
	}},
	{"key-scope-and-id", keySays, func(e *env) {
		k := func(scope, id string) dedup.Key { return dedup.Key{Scope: e.scope + scope, ID: id} }
		keys := []dedup.Key{
			k("/a", "b/c"), k("/a/b", "c"), k("/a/b/c", "c"), k("", "a/b/c"), k("/a/", "b/c"), k("/a", "/b/c"),
			k(".x", "y"), k("", ".x.y"), k(".x.y", "y"), k(":x", "y"), k("", ":x:y"), k("{x}", "y"), k("", "{x}y"), k("|x", "y"), k("", "|x|y"),
			k("*", "y"), k(">", "y"), k("%2F", "y"), k("/ü", "y"), k("/u\u0308", "y"), k("/日本", "y"),
			k("/A", "y"), k("/a", "y"), k("/a", "Y"),
			k(strings.Repeat("z", dedup.MaxKeyLength-len(e.scope)), strings.Repeat("z", dedup.MaxKeyLength)),
		}
		e.distinct(keys)
	}},
}

// distinct demands that no key is taken for another, each being told by its result.
func (e *env) distinct(keys []dedup.Key) {
	e.t.Helper()
	for i, k := range keys {
		c := e.claim("", "owner")
		c.Key = k
		e.ok(k.Validate(), "Validate")
		v, r, err := e.store.Acquire(e.ctx, c)
		e.ok(err, "Acquire of "+k.String())
		e.check(v == dedup.Granted, "%v is taken for one of the keys before: %v", k, v)
		e.check(r.Key == k, "the record of %v says %v", k, r.Key)
		e.ok(e.store.Settle(e.ctx, hold(r), e.consumed([]byte(keys[i].String()))), "Settle of "+k.String())
	}
	for _, k := range keys {
		c := e.claim("", "other")
		c.Key = k
		r := e.acquire(c, dedup.Duplicate)
		e.check(string(r.Result) == k.String(), "%v has the result of %s", k, r.Result)
		if got, ok := e.get(k); ok {
			e.check(got.Key == k && string(got.Result) == k.String(), "Get of %v answers with %v", k, got.Key)
		}
	}
}

var contextRules = []rule{
	{"context-cancelled", "Every error is ErrLeaseLost, ErrUnreadable, a context's error, or a StoreError; a call with a cancelled context " +
		"returns the context's error and does nothing. I9.", func(e *env) {
		r := e.acquire(e.claim("1", "a"), dedup.Granted)
		ctx, cancel := context.WithCancel(e.ctx)
		cancel()
		is := func(err error, what string) {
			e.t.Helper()
			e.check(errors.Is(err, context.Canceled), "%s with a cancelled context: %v", what, err)
		}
		e.unchanged(r.Key, "a call with a cancelled context", func() {
			_, _, err := e.store.Acquire(ctx, e.claim("1", "b"))
			is(err, "Acquire")
			is(e.store.Extend(ctx, hold(r), 2*e.long), "Extend")
			is(e.store.Settle(ctx, hold(r), e.consumed(nil)), "Settle")
			is(e.store.Release(ctx, hold(r), dedup.Release{}), "Release")
			is(e.store.LetterSent(ctx, r.Key, r.Fence), "LetterSent")
		})
		_, _, err := e.store.Acquire(ctx, e.claim("2", "a"))
		is(err, "Acquire of an absent key")
		e.is(e.acquire(e.claim("2", "b"), dedup.Granted), dedup.Acquired, 1)

		if b, ok := e.store.(dedup.Batcher); ok {
			for _, a := range b.AcquireMany(ctx, []dedup.Claim{e.claim("3", "a"), e.claim("4", "a")}) {
				is(a.Err, "AcquireMany")
			}
			for _, err := range b.SettleMany(ctx, []dedup.HeldSettlement{{Hold: hold(r), Settlement: e.consumed(nil)}}) {
				is(err, "SettleMany")
			}
			e.acquire(e.claim("3", "b"), dedup.Granted)
		}
		if i, ok := e.store.(dedup.Inspector); ok {
			_, err := i.Get(ctx, r.Key)
			is(err, "Get")
			is(i.Forget(ctx, r.Key, true), "Forget")
			_, err = i.Reopen(ctx, e.request(r))
			is(err, "Reopen")
			err = nil
			for _, lerr := range i.List(ctx, dedup.Filter{Scope: e.scope}) {
				err = lerr
			}
			is(err, "List")
		}
		e.settle(r, e.consumed(nil))
	}},
}
