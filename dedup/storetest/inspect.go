package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/idemq/idemq/dedup"
)

const unreadableSays = "record unreadable (garbage, or a later format): unchanged, ErrUnreadable naming the key; never run, never dead-lettered; " +
	"Forget or a newer version mends it. I12: record bytes in the store do not panic, block or corrupt a neighbour."

var corruptRules = []rule{{"unreadable", unreadableSays, func(e *env) {
	if e.h.Corrupt == nil {
		e.t.Skip("the harness cannot corrupt records")
	}
	r := e.acquire(e.claim("template", "a"), dedup.Granted)
	r.Cause = dedup.Cause{Class: dedup.Permanent, Message: "a message that is cut"}
	whole := dedup.EncodeRecord(&r)
	header := bytes.IndexByte(whole, '\n')
	for id, raw := range map[string][]byte{
		"garbage": []byte("garbage"), "empty": {}, "binary": every(), "newline": []byte("\n"), "json": []byte(`{"state":"consumed"}`),
		"later":          []byte("2 a 1 n"),
		"later-whole":    append([]byte{'9'}, whole[1:]...),
		"cut-in-header":  whole[:header/2],
		"cut-at-header":  whole[:header],
		"cut-in-message": whole[:len(whole)-3],
		"many-spaces":    bytes.Repeat([]byte("1 "), 1000),
		"absent-state":   bytes.Replace(whole, []byte("1 a "), []byte("1 - "), 1),
	} {
		e.unreadable(id, raw)
	}
	e.settle(r, e.consumed(nil))
}}}

func (e *env) unreadable(id string, raw []byte) {
	e.t.Helper()
	old := e.acquire(e.claim(id, "a"), dedup.Granted)
	e.h.Corrupt(e.t, old.Key, raw)
	is := func(err error, what string) {
		e.t.Helper()
		e.check(errors.Is(err, dedup.ErrUnreadable), "%s of %s: %v, not ErrUnreadable", what, id, err)
		e.check(bytes.Contains([]byte(err.Error()), []byte(id)), "the error of %s does not name the key: %v", what, err)
	}
	i, inspects := e.store.(dedup.Inspector)
	for range 2 { // nothing mends or changes it by itself
		for _, n := range []dedup.Nonce{"a", "b"} {
			c := e.claim(id, n)
			c.MaxAttempts = 1
			_, _, err := e.store.Acquire(e.ctx, c)
			is(err, "Acquire")
		}
		for name, call := range e.calls(hold(old)) {
			is(call(), name)
		}
		is(e.store.LetterSent(e.ctx, old.Key, old.Fence), "LetterSent")
		if inspects {
			_, err := i.Get(e.ctx, old.Key)
			is(err, "Get")
			_, err = i.Reopen(e.ctx, e.request(old))
			is(err, "Reopen")
		}
	}
	if !inspects {
		return
	}
	listed := 0
	for r, err := range i.List(e.ctx, dedup.Filter{Scope: e.scope}) {
		switch r.Key.ID {
		case id:
			is(err, "List")
			listed++
		case "template":
			e.ok(err, "List of a neighbour")
			listed++
		}
	}
	e.check(listed == 2, "List has %d of the unreadable record and its neighbour", listed)
	e.ok(i.Forget(e.ctx, old.Key, false), "Forget of an unreadable record")
	_, err := i.Get(e.ctx, old.Key)
	e.check(errors.Is(err, dedup.ErrNotFound), "Get after Forget: %v", err)
	r := e.acquire(e.claim(id, "b"), dedup.Granted)
	e.is(r, dedup.Acquired, 1)
	e.newer(r, old)
}

const listSays = "List returns the records that the filter selects: one scope or all, some states or all; nothing twice, nothing that is forgotten."

var listRules = []rule{
	{"list-filters", listSays, func(e *env) {
		i := e.inspector()
		e.states()
		other := e.claim("elsewhere", "a")
		other.Key.Scope += "/x" // this scope's name begins with the other's
		e.acquire(other, dedup.Granted)
		forgotten := e.acquire(e.claim("forgotten", "a"), dedup.Granted)
		e.ok(i.Forget(e.ctx, forgotten.Key, true), "Forget")
		gone := e.acquire(e.claim("gone", "a"), dedup.Granted)
		s := e.consumed(nil)
		s.Retention = e.unit
		e.settle(gone, s)
		e.pass()

		all := []string{"state-acquired", "state-failed", "state-consumed", "state-dead-owed", "state-dead"}
		e.listed(i, dedup.Filter{Scope: e.scope}, all...)
		e.listed(i, dedup.Filter{}, append(all, "elsewhere")...)
		e.listed(i, dedup.Filter{Scope: other.Key.Scope}, "elsewhere")
		e.listed(i, dedup.Filter{Scope: e.scope + "/nothing"})
		e.listed(i, dedup.Filter{Scope: "*"})
		for _, st := range []dedup.State{dedup.Failed, dedup.Consumed, dedup.DeadOwed, dedup.DeadSent, dedup.Acquired} {
			e.listed(i, dedup.Filter{Scope: e.scope, States: []dedup.State{st}}, "state-"+st.String())
		}
		e.listed(i, dedup.Filter{Scope: e.scope, States: []dedup.State{dedup.DeadOwed, dedup.DeadSent}}, "state-dead-owed", "state-dead")
		e.listed(i, dedup.Filter{States: []dedup.State{dedup.Acquired}}, "state-acquired", "elsewhere")
	}},
	{"list-many", listSays + " A caller may stop early, and change records meanwhile.", func(e *env) {
		i := e.inspector()
		var ids []string
		for n := range 150 {
			c := e.claim(fmt.Sprint("k", n), "a")
			e.acquire(c, dedup.Granted)
			ids = append(ids, c.Key.ID)
		}
		e.listed(i, dedup.Filter{Scope: e.scope}, ids...)
		for r, err := range i.List(e.ctx, dedup.Filter{Scope: e.scope}) {
			e.ok(err, "List")
			e.settle(r, e.consumed(nil)) // a lock that is held here would block
			break
		}
		for r, err := range i.List(e.ctx, dedup.Filter{Scope: e.scope}) {
			e.ok(err, "List")
			e.ok(i.Forget(e.ctx, r.Key, true), "Forget while listing")
		}
		e.listed(i, dedup.Filter{Scope: e.scope})
	}},
}

// listed demands what is listed of the subtest's own scopes, each record being what Get answers.
func (e *env) listed(i dedup.Inspector, f dedup.Filter, want ...string) {
	e.t.Helper()
	got := map[string]bool{}
	for r, err := range i.List(e.ctx, f) {
		if r.Key.Scope != e.scope && r.Key.Scope != e.scope+"/x" { // another subtest's, in a store that is shared
			e.check(f.Scope == "", "a record of scope %q is listed under %q", r.Key.Scope, f.Scope)
			continue
		}
		e.ok(err, "List")
		e.check(!got[r.Key.ID], "%v is listed twice", r.Key)
		got[r.Key.ID] = true
		same, err := i.Get(e.ctx, r.Key)
		e.ok(err, "Get of what is listed")
		d := difference(r, same)
		e.check(d == "", "List and Get do not answer the same: %s", d)
	}
	names := slices.Sorted(maps.Keys(got))
	slices.Sort(want)
	e.check(slices.Equal(names, want), "listed under %+v: %v, not %v", f, names, want)
}
