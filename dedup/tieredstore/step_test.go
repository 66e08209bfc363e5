package tieredstore_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

func TestStepsOutliveTheFastTier(t *testing.T) {
	t.Parallel()
	b := newBoth(t)
	runs := 0
	attempt := func(wantErr error, again func()) {
		t.Helper()
		d, err := dedup.New(b.Store, dedup.Config{Lease: lease})
		require.NoError(t, err)
		for n := 0; ; n++ {
			out, err := d.Do(t.Context(), key, func(ctx context.Context) ([]byte, error) {
				_, err := dedup.Step(ctx, "charge", func(context.Context) (int, error) { runs++; return 7, nil })
				if err != nil {
					return nil, err
				}
				return nil, wantErr
			})
			if out.Verdict == dedup.Busy && n == 0 {
				again()
				continue
			}
			require.ErrorIs(t, err, wantErr)
			require.Equal(t, dedup.Granted, out.Verdict)
			return
		}
	}
	attempt(errFault, nil)
	_, durable := b.states(key)
	assert.Equal(t, dedup.Failed, durable, "the copy follows its claim")
	b.fast.flush()
	attempt(errFault, func() { b.advance(lease) }) // after the quarantine
	b.fast.flush()
	attempt(nil, func() { b.advance(lease) })
	assert.Equal(t, 1, runs)
	steps, err := b.Steps(t.Context(), key)
	require.NoError(t, err)
	assert.Len(t, steps, 1, "kept with the consumed key")
	require.NoError(t, b.Forget(t.Context(), key, false))
	steps, err = b.Steps(t.Context(), key)
	require.NoError(t, err)
	assert.Empty(t, steps)
}

func TestAStaleOwnerSavesNoStep(t *testing.T) {
	t.Parallel()
	b := newBoth(t)
	old := b.acquire("1", "a", dedup.Granted)
	require.NoError(t, b.SaveStep(t.Context(), holdOf(old), dedup.SavedStep{Name: "one"}))
	b.advance(2 * lease)
	b.acquire("1", "b", dedup.Granted)
	require.ErrorIs(t, b.SaveStep(t.Context(), holdOf(old), dedup.SavedStep{Name: "two"}), dedup.ErrLeaseLost,
		"the copy in the durable tier is still the old one's, and does not count")
}

// A handler that only reads the steps of earlier attempts, and runs for long, must not lose them while it runs.
func TestStepsThatAreReadLiveAsLongAsTheClaim(t *testing.T) {
	t.Parallel()
	b := newBoth(t)
	claim := func(n dedup.Nonce) dedup.Record {
		c := claimOf("1", n)
		c.Retention = lease
		v, r, err := b.Acquire(t.Context(), c)
		require.NoError(t, err)
		require.Equal(t, dedup.Granted, v)
		return r
	}
	r := claim("a")
	require.NoError(t, b.SaveStep(t.Context(), holdOf(r), dedup.SavedStep{Name: "one"}))
	require.NoError(t, b.Release(t.Context(), holdOf(r), dedup.Release{}))
	r = claim("b")
	_, err := b.Steps(t.Context(), r.Key)
	require.NoError(t, err)
	for range 5 {
		b.advance(lease / 2)
		require.NoError(t, b.Extend(t.Context(), holdOf(r), lease))
	}
	steps, err := b.Steps(t.Context(), r.Key)
	require.NoError(t, err)
	assert.Len(t, steps, 1)
}

func TestWhereStepsAreKept(t *testing.T) {
	t.Parallel()
	mem := memstore.New(memstore.Config{})
	s := tiered(t, mem, newSpy(memstore.Config{})) // which keeps none
	_, r, err := s.Acquire(t.Context(), claimOf("1", "a"))
	require.NoError(t, err)
	require.NoError(t, s.SaveStep(t.Context(), holdOf(r), dedup.SavedStep{Name: "one"}))
	kept, err := mem.Steps(t.Context(), r.Key)
	require.NoError(t, err)
	assert.Len(t, kept, 1)
	kept, err = s.Steps(t.Context(), r.Key)
	require.NoError(t, err)
	assert.Len(t, kept, 1)

	s = tiered(t, newSpy(memstore.Config{}), newSpy(memstore.Config{}))
	_, r, err = s.Acquire(t.Context(), claimOf("1", "a"))
	require.NoError(t, err)
	require.ErrorIs(t, s.SaveStep(t.Context(), holdOf(r), dedup.SavedStep{Name: "one"}), dedup.ErrNoAbility)
	_, err = s.Steps(t.Context(), r.Key)
	require.ErrorIs(t, err, dedup.ErrNoAbility)
}

// watching is a tier that tells of changes.
type watching struct {
	*spy
	signals chan struct{}
}

func (w watching) Watch(context.Context, dedup.Key) (<-chan struct{}, error) { return w.signals, nil }

func TestWatchIsTheFastTiersIfItCan(t *testing.T) {
	t.Parallel()
	plain := newSpy(memstore.Config{})
	a, b := watching{newSpy(memstore.Config{}), make(chan struct{})}, watching{newSpy(memstore.Config{}), make(chan struct{})}
	for _, c := range []struct {
		fast, durable dedup.Store
		want          <-chan struct{}
	}{{a, b, a.signals}, {plain, b, b.signals}} {
		got, err := tiered(t, c.fast, c.durable).Watch(t.Context(), key)
		require.NoError(t, err)
		assert.Equal(t, c.want, got)
	}
	_, err := tiered(t, plain, newSpy(memstore.Config{})).Watch(t.Context(), key)
	require.ErrorIs(t, err, dedup.ErrNoAbility)
}
