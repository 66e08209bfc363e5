// Package storetest is the conformance suite of a [dedup.Store]: whoever writes one runs it. It holds the store to the
// life cycle's rules and not to another implementation, and every failure quotes the rule that was broken and what it
// protects.
//
//	storetest.Run(t, storetest.Harness{New: func(t *testing.T) dedup.Store { return open(t) }, Lease: 300 * time.Millisecond})
//
// A store that is a [dedup.Inspector], a [dedup.Batcher], a [dedup.StepStore], a [dedup.Adopter], a [dedup.BatchAdopter] or
// a [dedup.Watcher] is tested as one.
package storetest

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/idemq/idemq/dedup"
)

// Harness is what the suite needs to know of a store.
type Harness struct {
	// New opens the store for one subtest. The stores of two subtests may share their records: each subtest has a scope
	// of its own, also when the suite is run again.
	New func(t *testing.T) dedup.Store
	// Advance moves the clock of the store that New returned for the same t. nil waits in real time.
	Advance func(t *testing.T, d time.Duration)
	// Corrupt puts raw in the place of the record of k in the store that New returned for the same t. nil leaves out the
	// tests of unreadable records.
	Corrupt func(t *testing.T, k dedup.Key, raw []byte)
	// Lease is the time that the suite waits for something to be over: short on a real clock, but longer than the clock's
	// steps. What must not be over meanwhile is given an hour. Defaults to 300 ms.
	Lease time.Duration
}

// rule is a sentence of the life cycle with the tests of what it says.
type rule struct {
	name string
	says string // the rule, and the invariant that it serves
	test func(*env)
}

const (
	testLimit = time.Minute      // of one subtest's calls
	hangLimit = 90 * time.Second // of a call that ignores its context
)

// Run tests the store in parallel subtests. Each has a time limit.
func Run(t *testing.T, h Harness) {
	t.Helper()
	if h.Lease <= 0 {
		h.Lease = 300 * time.Millisecond
	}
	rules := slices.Concat(acquireRules, limitRules, holdRules, releaseRules, settleRules, deathRules, memoryRules,
		fingerprintRules, reopenRules, forgetRules, keyRules, contextRules, concurrencyRules, batchRules, corruptRules, listRules, stepRules, adoptRules,
		watchRules)
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			hang := time.AfterFunc(hangLimit, func() {
				panic(fmt.Sprintf("storetest: %s: a call ignores its context and does not return (I12)", t.Name()))
			})
			defer hang.Stop()
			r.test(newEnv(t, h, r))
		})
	}
}

// env is one subtest.
type env struct {
	t     *testing.T
	ctx   context.Context //nolint:containedctx // it is the subtest's, and ends with it
	h     Harness
	rule  rule
	store dedup.Store
	scope string
	unit  time.Duration // after pass, this is over
	long  time.Duration // this is never over
}

func newEnv(t *testing.T, h Harness, r rule) *env {
	ctx, cancel := context.WithTimeout(context.Background(), testLimit)
	t.Cleanup(cancel)
	return &env{
		t: t, ctx: ctx, h: h, rule: r, store: h.New(t), scope: "storetest/" + r.name + "/" + rand.Text(),
		unit: h.Lease, long: time.Hour + 100*h.Lease,
	}
}

// failf ends the subtest. The rule stands beneath what was seen.
func (e *env) failf(format string, args ...any) {
	e.t.Helper()
	e.t.Fatalf("%s\n\trule: %s", fmt.Sprintf(format, args...), e.rule.says)
}

// check demands something.
func (e *env) check(ok bool, format string, args ...any) {
	e.t.Helper()
	if !ok {
		e.failf(format, args...)
	}
}

// ok demands success.
func (e *env) ok(err error, what string) {
	e.t.Helper()
	e.check(err == nil, "%s: %v", what, err)
}

// pass lets more than a unit of time go by.
func (e *env) pass() {
	e.t.Helper()
	d := e.unit + e.unit/4
	if e.h.Advance != nil {
		e.h.Advance(e.t, d)
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-e.ctx.Done():
		e.failf("out of time")
	}
}

// inspector returns the store as an Inspector, or leaves the test out.
func (e *env) inspector() dedup.Inspector {
	e.t.Helper()
	i, ok := e.store.(dedup.Inspector)
	if !ok {
		e.t.Skip("the store is no dedup.Inspector")
	}
	return i
}
