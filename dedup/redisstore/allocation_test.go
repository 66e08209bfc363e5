package redisstore_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
)

// What a key of a batch costs in allocations, those of go-redis included. It does not run in parallel: AllocsPerRun counts
// what everybody allocates.
func TestAllocationBudgetsOfABatch(t *testing.T) {
	const keys, runs = 256, 20
	s, _, _ := open(t)
	ctx := testContext(t)
	batches := make([][]dedup.Claim, runs+2)
	for n := range batches {
		batches[n] = make([]dedup.Claim, keys)
		for i := range batches[n] {
			batches[n][i] = claimOf(fmt.Sprintf("k%d-%d", n, i), "n1")
		}
	}
	settlements := make([][]dedup.HeldSettlement, 0, len(batches))
	next := 0
	claimBatch := func() {
		out := make([]dedup.HeldSettlement, keys)
		for i, a := range s.AcquireMany(ctx, batches[next]) {
			if a.Err != nil {
				panic(a.Err)
			}
			out[i] = dedup.HeldSettlement{Hold: holdOf(a.Record), Settlement: consumed}
		}
		settlements = append(settlements, out)
		next++
	}
	settleBatch := func() {
		for _, err := range s.SettleMany(ctx, settlements[0]) {
			if err != nil {
				panic(err)
			}
		}
		settlements = settlements[1:]
	}
	claimBatch() // the scripts are known, and a connection is open
	settleBatch()
	duplicates := batches[0]
	for _, b := range []struct {
		what   string
		budget float64
		f      func()
	}{
		{"acquire of a fresh key", 5, claimBatch},
		{"settle", 10, settleBatch},
		{"acquire of a duplicate", 21, func() {
			for _, a := range s.AcquireMany(ctx, duplicates) {
				if a.Verdict != dedup.Duplicate {
					panic(a.Err)
				}
			}
		}},
	} {
		got := testing.AllocsPerRun(runs, b.f) / keys
		t.Logf("%s: %.1f allocations a key, of %.0f", b.what, got, b.budget)
		require.LessOrEqual(t, got, b.budget, b.what)
	}
}
