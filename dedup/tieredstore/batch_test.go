package tieredstore_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/dedup/tieredstore"
)

// newBatches is newBoth with tiers that take many keys in one call.
func newBatches(t *testing.T) *both {
	t.Helper()
	b := newBoth(t)
	b.Store = tiered(t, batching{b.fast}, batching{b.durable})
	return b
}

func (b *both) acquireMany(n dedup.Nonce, ids ...string) []dedup.Acquisition {
	b.t.Helper()
	claims := make([]dedup.Claim, len(ids))
	for i, id := range ids {
		claims[i] = claimOf(id, n)
	}
	return b.AcquireMany(b.t.Context(), claims)
}

func (b *both) verdicts(n dedup.Nonce, want dedup.Verdict, ids ...string) []dedup.Record {
	b.t.Helper()
	var out []dedup.Record
	for i, a := range b.acquireMany(n, ids...) {
		require.NoError(b.t, a.Err)
		require.Equal(b.t, want.String(), a.Verdict.String(), ids[i])
		out = append(out, a.Record)
	}
	return out
}

func (b *both) consumeMany(records []dedup.Record) []error {
	var all []dedup.HeldSettlement
	for _, r := range records {
		all = append(all, dedup.HeldSettlement{
			Hold: holdOf(r), Settlement: dedup.Settlement{State: dedup.Consumed, Result: []byte(r.Key.ID), Retention: long},
		})
	}
	return b.SettleMany(b.t.Context(), all)
}

func many(prefix string, n int) (ids []string) {
	for i := range n {
		ids = append(ids, fmt.Sprint(prefix, i))
	}
	return ids
}

func noErrors(t *testing.T, errs []error) {
	t.Helper()
	for _, err := range errs {
		require.NoError(t, err)
	}
}

func TestABatchCostsAsMuchAsOneKey(t *testing.T) {
	t.Parallel()
	b := newBatches(t)
	b.acquire("first", "a", dedup.Granted) // the marker is there
	count := func(what string, fast, durable int) {
		t.Helper()
		assert.Equal(t, fast, b.fast.reset(), what+": calls of the fast tier")
		assert.Equal(t, durable, b.durable.reset(), what+": calls of the durable tier")
	}
	b.fast.reset()
	b.durable.reset()
	ids := many("k", 64)
	records := b.verdicts("a", dedup.Granted, ids...)
	count("64 claims", 2, 1)
	b.verdicts("b", dedup.Busy, ids...)
	count("64 that are busy", 1, 0)
	noErrors(t, b.consumeMany(records))
	count("64 settlements", 2, 1)
	b.verdicts("b", dedup.Duplicate, ids...)
	count("64 duplicates", 1, 0)
	noErrors(t, b.consumeMany(records))
	count("64 settlements, repeated", 1, 0)
	for _, id := range ids {
		fast, durable := b.states(dedup.Key{Scope: key.Scope, ID: id})
		require.Equal(t, []dedup.State{dedup.Consumed, dedup.Consumed}, []dedup.State{fast, durable})
	}
	b.fast.flush()
	for i, r := range b.verdicts("c", dedup.Duplicate, ids...) {
		assert.Equal(t, ids[i], string(r.Result), "the durable tier remembers")
	}
	b.verdicts("d", dedup.Duplicate, ids...)
}

// The tiers' rules for one key hold for each key of a batch, whatever its neighbours.
func TestEachKeyOfABatchHasItsOwnFate(t *testing.T) {
	t.Parallel()
	b := newBatches(t)
	r := b.verdicts("a", dedup.Granted, "held", "consumed", "untold", "dead", "replayed", "taken", "forgotten")
	noErrors(t, b.consumeMany(r[1:2]))
	b.fast.set(true, "adopt", "adopt-many")
	noErrors(t, b.consumeMany(r[2:3])) // the fast tier is not told
	b.fast.set(false, "adopt", "adopt-many")
	for _, dead := range r[3:5] {
		require.NoError(t, b.kill(dead))
		require.NoError(t, b.LetterSent(t.Context(), dead.Key, dead.Fence))
	}
	_, err := b.Reopen(t.Context(), dedup.ReopenRequest{Key: r[4].Key, Fence: r[4].Fence, Generation: 1, Retention: long})
	require.NoError(t, err)
	require.NoError(t, b.fast.mem.Forget(t.Context(), r[5].Key, true)) // an eviction
	taken := b.again()
	taken.Store = tiered(t, batching{b.fast}, batching{b.durable})
	second := taken.acquire("taken", "b", dedup.Granted)
	require.NoError(t, b.Forget(t.Context(), r[6].Key, true))

	b.fast.mem = memoryOf(b.fast, "untold") // its claim is lost, so that the fast tier would grant it
	got := b.acquireMany("b", "held", "consumed", "untold", "dead", "replayed", "new")
	for i, want := range []dedup.Verdict{dedup.Busy, dedup.Duplicate, dedup.Duplicate, dedup.Dead, dedup.Granted, dedup.Granted} {
		require.NoError(t, got[i].Err)
		assert.Equal(t, want.String(), got[i].Verdict.String(), got[i].Record.Key)
	}
	assert.Equal(t, 2, got[4].Record.Generation)
	errs := b.consumeMany([]dedup.Record{r[0], r[0], r[5], got[4].Record, got[5].Record, r[6], r[3]})
	for i, lost := range []bool{false, false, true, false, false, true, true} {
		if lost {
			require.ErrorIs(t, errs[i], dedup.ErrLeaseLost, i)
		} else {
			require.NoError(t, errs[i], i)
		}
	}
	noErrors(t, taken.consumeMany([]dedup.Record{second}))
	b.verdicts("c", dedup.Duplicate, "held", "consumed", "untold", "replayed", "taken", "new")
}

// memoryOf is what the fast tier holds without one key.
func memoryOf(s *spy, id string) *memstore.Store {
	_ = s.mem.Forget(context.Background(), dedup.Key{Scope: key.Scope, ID: id}, true)
	return s.mem
}

func TestABatchWhileATierIsDown(t *testing.T) {
	t.Parallel()
	b := newBatches(t)
	noErrors(t, b.consumeMany(b.verdicts("a", dedup.Granted, "done")))
	held := b.verdicts("a", dedup.Granted, "held-1", "held-2")

	b.durable.set(true, "all")
	got := b.acquireMany("b", "done", "new-1", "new-2")
	require.NoError(t, got[0].Err)
	assert.Equal(t, dedup.Duplicate, got[0].Verdict)
	unanswered(t, got[1].Err)
	unanswered(t, got[2].Err)
	for _, err := range b.consumeMany(held) {
		unanswered(t, err)
	}
	fast, _ := b.states(held[0].Key)
	assert.Equal(t, dedup.Acquired, fast, "nothing is written behind")
	b.durable.set(false, "all")
	for _, r := range b.verdicts("c", dedup.Granted, "new-1", "new-2") {
		assert.Equal(t, 1, r.Attempt, "the claims were given back, and do not count")
	}

	b.fast.set(true, "all")
	got = b.acquireMany("d", "done", "new-3")
	require.NoError(t, got[0].Err)
	assert.Equal(t, dedup.Duplicate, got[0].Verdict)
	unanswered(t, got[1].Err)
	noErrors(t, b.consumeMany(held))
	b.fast.set(false, "all")
	b.advance(2 * lease)
	b.verdicts("e", dedup.Duplicate, "held-1", "held-2")
}

func TestABatchIsNotGrantedBesideClaimsThatTheFastTierHasLost(t *testing.T) {
	t.Parallel()
	b := newBatches(t)
	held := b.verdicts("a", dedup.Granted, "1", "2")
	b.fast.flush()
	other := b.again()
	other.Store = tiered(t, batching{b.fast}, batching{b.durable})
	for _, r := range other.verdicts("b", dedup.Busy, "1", "2", "new") {
		assert.Equal(t, lease, r.Wait(), "told when to come back")
	}
	noErrors(t, b.consumeMany(held))
	b.advance(lease)
	other.verdicts("c", dedup.Duplicate, "1", "2")
	other.verdicts("c", dedup.Granted, "new")
}

// A settlement and a release of the same claim, and two batches with the same keys in another order, end it once.
func TestBatchesThatMeetDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	b := newBatches(t)
	records := b.verdicts("a", dedup.Granted, many("k", 16)...)
	back := make([]dedup.Record, 0, len(records))
	for i := range records {
		back = append(back, records[len(records)-1-i])
	}
	ends := make(chan []error)
	for _, order := range [][]dedup.Record{records, back, records, back} {
		go func() { ends <- b.consumeMany(order) }()
	}
	for range 4 {
		select {
		case errs := <-ends:
			noErrors(t, errs)
		case <-time.After(time.Minute):
			t.Fatal("they wait for each other")
		}
	}
}

// The core's batches go through the tiers' own.
func TestADeduperBeginsAndSettlesBatchesInTwoTiers(t *testing.T) {
	t.Parallel()
	fast, durable := newSpy(memstore.Config{}), newSpy(memstore.Config{})
	s, err := tieredstore.New(batching{fast}, batching{durable}, tieredstore.Config{})
	require.NoError(t, err)
	d, err := dedup.New(s, dedup.Config{})
	require.NoError(t, err)
	var requests []dedup.Request
	for _, id := range many("k", 8) {
		requests = append(requests, dedup.Request{Key: dedup.Key{Scope: "s", ID: id}})
	}
	var endings []dedup.Ending
	for _, g := range d.BeginMany(t.Context(), requests) {
		require.NoError(t, g.Err)
		endings = append(endings, dedup.Ending{Guard: g.Guard, Settlement: dedup.Settlement{State: dedup.Consumed, Retention: long}})
	}
	noErrors(t, d.SettleMany(t.Context(), endings))
	assert.Less(t, durable.reset(), 8)
	for _, g := range d.BeginMany(t.Context(), requests) {
		require.NoError(t, g.Err)
		assert.Equal(t, dedup.Duplicate, g.Outcome.Verdict)
	}
}
