package memstore_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

// What a key costs in allocations, in the store and through the core. The ids are made before, since they are the caller's.
// These tests do not run in parallel: AllocsPerRun counts what everybody allocates.
func TestAllocationBudgets(t *testing.T) {
	const runs = 200
	s := memstore.New(memstore.Config{})
	d, err := dedup.New(s, dedup.Config{})
	require.NoError(t, err)
	ctx := t.Context()
	ids := make([]string, 10*runs)
	for i := range ids {
		ids[i] = fmt.Sprintf("k%d", i)
	}
	next := 0
	id := func() string { next++; return ids[next] }
	var holds []dedup.Hold
	settled := dedup.Settlement{State: dedup.Consumed, Retention: time.Hour}
	key := dedup.Key{Scope: "s", ID: "duplicate"}
	g, _, err := d.Begin(ctx, key, dedup.Fingerprint{})
	require.NoError(t, err)
	require.NoError(t, g.Consume(ctx, nil))
	var guards []*dedup.Guard
	for _, b := range []struct {
		what   string
		budget float64
		f      func()
	}{
		{"store, acquire of a fresh key", 2, func() {
			_, r, _ := s.Acquire(ctx, claim(id(), "n"))
			holds = append(holds, dedup.Hold{Key: r.Key, Fence: r.Fence, Nonce: r.Nonce})
		}},
		{"store, settle", 2, func() {
			if err := s.Settle(ctx, holds[0], settled); err != nil {
				panic(err)
			}
			holds = holds[1:]
		}},
		{"core, begin of a duplicate", 4, func() { _, _, _ = d.Begin(ctx, key, dedup.Fingerprint{}) }},
		{"core, begin of a fresh key", 6, func() {
			g, _, err := d.Begin(ctx, dedup.Key{Scope: "s", ID: id()}, dedup.Fingerprint{})
			if err != nil {
				panic(err)
			}
			guards = append(guards, g)
		}},
		{"core, consume", 4, func() {
			if err := guards[0].Consume(ctx, nil); err != nil {
				panic(err)
			}
			guards = guards[1:]
		}},
	} {
		got := testing.AllocsPerRun(runs, b.f)
		t.Logf("%s: %.1f allocations, of %.0f", b.what, got, b.budget)
		require.LessOrEqual(t, got, b.budget, b.what)
	}
}
