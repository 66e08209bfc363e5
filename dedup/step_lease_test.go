package dedup_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

// faultySteps is a faulty store that keeps steps.
type faultySteps struct{ *faulty }

func (f faultySteps) SaveStep(ctx context.Context, h dedup.Hold, s dedup.SavedStep) error {
	return f.do("save-step", h.Key, func() error { return f.Store.(dedup.StepStore).SaveStep(ctx, h, s) })
}

func (f faultySteps) Steps(ctx context.Context, k dedup.Key) (out []dedup.SavedStep, err error) {
	err = f.do("steps", k, func() error { out, err = f.Store.(dedup.StepStore).Steps(ctx, k); return err })
	return out, err
}

func stepSetup(t *testing.T) (*dedup.Deduper, *faulty, *memstore.Store) {
	t.Helper()
	mem := memstore.New(memstore.Config{})
	f := newFaulty(mem)
	d, err := dedup.New(faultySteps{f}, dedup.Config{})
	require.NoError(t, err)
	return d, f, mem
}

func TestNoStepStartsWithoutTheLease(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(t *testing.T, g *dedup.Guard){
		"trust is over": func(*testing.T, *dedup.Guard) { pass(lease) },
		"settled":       func(t *testing.T, g *dedup.Guard) { require.NoError(t, g.Consume(t.Context(), nil)) },
		"released":      func(t *testing.T, g *dedup.Guard) { require.NoError(t, g.Release(t.Context(), dedup.Release{})) },
		"abandoned":     func(_ *testing.T, g *dedup.Guard) { g.Abandon() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d, f, _ := stepSetup(t)
				g := begin(t, d)
				end(t, g)
				for _, ctx := range []context.Context{g.Context(), context.WithoutCancel(g.Context())} {
					_, err := dedup.Step(ctx, "charge", func(context.Context) (int, error) { t.Error("ran"); return 0, nil })
					require.ErrorIs(t, err, dedup.ErrLeaseLost)
				}
				assert.Zero(t, f.count("save-step"))
			})
		})
	}
}

func TestALeaseThatEndsWhileStepsAreReadStartsNone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, f, _ := stepSetup(t)
		g := begin(t, d)
		f.set(nil, func(op string) error {
			if op == "steps" {
				pass(lease)
			}
			return nil
		})
		_, err := dedup.Step(g.Context(), "charge", func(context.Context) (int, error) { t.Error("ran"); return 0, nil })
		require.ErrorIs(t, err, dedup.ErrLeaseLost)
	})
}

func TestAClaimThatIsLostKeepsNoResult(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, f, mem := stepSetup(t)
		g := begin(t, d)
		_, err := dedup.Step(g.Context(), "slow", func(context.Context) (int, error) { pass(lease); return 1, nil })
		require.ErrorIs(t, err, dedup.ErrLeaseLost)
		require.ErrorContains(t, err, "step slow is done, but its result could not be kept")
		assert.Zero(t, f.count("save-step"), "trust ended, so nothing is sent")

		g = begin(t, d)
		_, err = dedup.Step(g.Context(), "slow", func(context.Context) (int, error) { // the store knows more than the guard
			require.NoError(t, mem.Forget(t.Context(), key, true))
			begin(t, d)
			return 1, nil
		})
		require.ErrorIs(t, err, dedup.ErrLeaseLost)
		require.ErrorIs(t, context.Cause(g.Context()), dedup.ErrLeaseLost, "the handler is told at once")
		saved, err := mem.Steps(t.Context(), key)
		require.NoError(t, err)
		assert.Empty(t, saved)
	})
}

func TestALostLeaseEndsTheWaitForOtherSteps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, _, _ := stepSetup(t)
		l := &ledger{}
		require.ErrorIs(t, attempt(t, d, func(ctx context.Context) error { return l.steps(ctx, "a") }), errFault)
		g := begin(t, d)
		pass(lease*9/10 - time.Second)
		_, err := l.run(context.WithoutCancel(g.Context()), "b") // would wait for a
		require.ErrorIs(t, err, dedup.ErrLeaseLost)
		pass(lease)
		g = begin(t, d)
		ctx, cancel := context.WithCancelCause(g.Context())
		cancel(errFault)
		_, err = l.run(ctx, "b")
		require.Error(t, err)
		assert.Equal(t, map[string]int{"a": 1}, l.runs)
	})
}

func TestSavingIsTriedAgainWhileTheLeaseIsKeptAlive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, f, _ := stepSetup(t)
		g := begin(t, d)
		g.Start(nil)
		f.set(failing("save-step"), nil)
		up := time.AfterFunc(lease/2, func() { f.set(nil, failing("save-step")) }) // then answers are lost
		defer up.Stop()
		reached := time.AfterFunc(lease*3/4, func() { f.set(nil, nil) })
		defer reached.Stop()
		ctx, cancel := context.WithCancel(g.Context())
		v, err := dedup.Step(ctx, "charge", func(context.Context) (int, error) {
			cancel() // the effect is done: this must not matter
			return 7, nil
		})
		require.NoError(t, err)
		assert.Equal(t, 7, v)
	})
	synctest.Test(t, func(t *testing.T) { // the store stays away: it does not go on for ever
		d, f, _ := stepSetup(t)
		g := begin(t, d)
		g.Start(nil)
		f.set(failing("save-step"), nil)
		_, err := dedup.Step(g.Context(), "charge", func(context.Context) (int, error) { return 7, nil })
		require.ErrorIs(t, err, errFault)
		require.ErrorContains(t, err, "it may run again")
	})
}

func TestAStoreThatCannotBeReadStartsNoStep(t *testing.T) {
	t.Parallel()
	d, f, _ := stepSetup(t)
	f.set(failing("steps"), nil)
	err := attempt(t, d, func(ctx context.Context) error {
		_, err := dedup.Step(ctx, "charge", func(context.Context) (int, error) { t.Error("ran"); return 0, nil })
		return err
	})
	require.ErrorIs(t, err, errFault)
}

// Many steps at once: the kept steps are read once, and all are kept.
func TestStepsInParallelShareOneRead(t *testing.T) {
	t.Parallel()
	d, f, mem := stepSetup(t)
	l := &ledger{}
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	for range 2 {
		require.NoError(t, attempt(t, d, func(ctx context.Context) error {
			var wg sync.WaitGroup
			errs := make([]error, len(names))
			for i, n := range names {
				wg.Go(func() { _, errs[i] = l.run(ctx, n) })
			}
			wg.Wait()
			return errors.Join(errs...)
		}))
	}
	assert.Equal(t, 2, f.count("steps"))
	assert.Equal(t, len(names), f.count("save-step"))
	saved, err := mem.Steps(t.Context(), key)
	require.NoError(t, err)
	assert.Len(t, saved, len(names))
	for _, n := range names {
		assert.Equal(t, 1, l.runs[n], n)
	}
}
