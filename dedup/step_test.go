package dedup_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

type receipt struct {
	Number int `json:"number"`
}

// ledger counts what steps really did.
type ledger struct {
	mu   sync.Mutex
	runs map[string]int
}

func (l *ledger) run(ctx context.Context, name string) (receipt, error) {
	return dedup.Step(ctx, name, func(context.Context) (receipt, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.runs == nil {
			l.runs = map[string]int{}
		}
		l.runs[name]++
		return receipt{Number: 100*len(name) + l.runs[name]}, nil
	})
}

// steps is a handler that calls these steps one after another and then fails.
func (l *ledger) steps(ctx context.Context, names ...string) error {
	for _, n := range names {
		if _, err := l.run(ctx, n); err != nil {
			return err
		}
	}
	return errFault
}

// attempt runs fn under a claim, and releases it.
func attempt(t *testing.T, d *dedup.Deduper, fn func(ctx context.Context) error) error {
	t.Helper()
	g, out, err := d.Begin(t.Context(), key, dedup.Fingerprint{})
	require.NoError(t, err)
	require.Equal(t, dedup.Granted, out.Verdict)
	defer g.Abandon()
	err = fn(g.Context())
	if g.Err() == nil {
		require.NoError(t, g.Release(t.Context(), dedup.Release{Cause: dedup.Cause{Message: "again"}}))
	}
	return err
}

func unlimited() dedup.Config { return dedup.Config{MaxAttempts: -1} }

func memory(t *testing.T, cfg dedup.Config) (*dedup.Deduper, *memstore.Store) {
	t.Helper()
	mem := memstore.New(memstore.Config{})
	d, err := dedup.New(mem, cfg)
	require.NoError(t, err)
	return d, mem
}

func TestFinishedStepsAreNotRunAgain(t *testing.T) {
	t.Parallel()
	d, mem := memory(t, unlimited())
	l := &ledger{}
	fail := true
	handler := func(ctx context.Context) ([]byte, error) {
		a, err := l.run(ctx, "reserve")
		if err != nil {
			return nil, err
		}
		b, err := dedup.Step(ctx, "charge", func(ctx context.Context) (*receipt, error) {
			if fail {
				return nil, errFault
			}
			r, err := l.run(ctx, "inner") // steps may be nested
			return &r, err
		})
		if err != nil {
			return nil, err
		}
		return fmt.Appendf(nil, "%d %d", a.Number, b.Number), nil
	}
	for range 3 {
		_, err := d.Do(t.Context(), key, handler)
		require.ErrorIs(t, err, errFault, "the step's own error comes as it is")
	}
	fail = false
	out, err := d.Do(t.Context(), key, handler)
	require.NoError(t, err)
	assert.Equal(t, "701 501", string(out.Result()))
	assert.Equal(t, map[string]int{"reserve": 1, "inner": 1}, l.runs)

	saved, err := mem.Steps(t.Context(), key)
	require.NoError(t, err)
	require.Len(t, saved, 3, "they are kept with the consumed key")
	info, err := saved[2].Info()
	require.NoError(t, err)
	assert.Equal(t, "charge", saved[2].Name)
	assert.Equal(t, dedup.StepInfo{Codec: "json", After: []string{"reserve"}, Result: []byte(`{"number":501}`)}, info)

	require.NoError(t, mem.Forget(t.Context(), key, false))
	_, err = d.Do(t.Context(), key, handler)
	require.NoError(t, err)
	assert.Equal(t, 2, l.runs["reserve"], "forgotten with the record")
}

func TestStepsOutliveACrashAndAReplay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, mem := memory(t, unlimited())
		l := &ledger{}
		g := begin(t, d)
		require.ErrorIs(t, l.steps(g.Context(), "reserve", "charge"), errFault)
		g.Abandon() // the process dies
		pass(lease + time.Second)
		g = begin(t, d)
		require.ErrorIs(t, l.steps(g.Context(), "reserve", "charge", "ship"), errFault)
		require.NoError(t, g.Kill(t.Context(), dedup.Cause{Class: dedup.Permanent}))
		fence := g.Hold().Fence
		require.NoError(t, d.LetterSent(t.Context(), key, fence))
		opened, err := mem.Reopen(t.Context(), dedup.ReopenRequest{Key: key, Fence: fence, Generation: 1, Retention: time.Hour})
		require.NoError(t, err)
		require.Equal(t, dedup.Reopened, opened)
		require.ErrorIs(t, attempt(t, d, func(ctx context.Context) error { return l.steps(ctx, "reserve", "charge", "ship", "mail") }), errFault)
		assert.Equal(t, map[string]int{"reserve": 1, "charge": 1, "ship": 1, "mail": 1}, l.runs, "a replay does not charge twice")
	})
}

func TestChangedStepsAreRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		before, after []string
		says          string
		runs          map[string]int
	}{
		"renamed": {[]string{"charge"}, []string{"charge-card"}, "charge-card is new, and charge, finished in an earlier attempt, was not called before it",
			map[string]int{"charge": 1}},
		"renamed in the middle": {[]string{"a", "b"}, []string{"a", "b2"}, "b2 is new, and b, finished", map[string]int{"a": 1, "b": 1}},
		"swapped":               {[]string{"a", "b"}, []string{"b", "a"}, "b first ran after a, and is called before now", map[string]int{"a": 1, "b": 1}},
		"removed":               {[]string{"a", "b"}, []string{"b"}, "b first ran after a", map[string]int{"a": 1, "b": 1}},
		"put before":            {[]string{"a"}, []string{"new", "a"}, "new is new, and a, finished", map[string]int{"a": 1}},
		"put behind":            {[]string{"a"}, []string{"a", "new"}, "", map[string]int{"a": 1, "new": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d, _ := memory(t, unlimited())
				l := &ledger{}
				require.ErrorIs(t, attempt(t, d, func(ctx context.Context) error { return l.steps(ctx, c.before...) }), errFault)
				for range 2 { // it does not mend itself
					err := attempt(t, d, func(ctx context.Context) error { return l.steps(ctx, c.after...) })
					if c.says == "" {
						require.ErrorIs(t, err, errFault)
						continue
					}
					require.ErrorIs(t, err, dedup.ErrStepChanged)
					require.ErrorContains(t, err, c.says)
				}
				assert.Equal(t, c.runs, l.runs)
				before := errFault
				require.ErrorIs(t, attempt(t, d, func(ctx context.Context) error { return l.steps(ctx, c.before...) }), before, "the old code goes on")
			})
		})
	}
}

// Branches that run in parallel begin in any order; each is finished once all the same.
func TestParallelStepsMayComeInAnyOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, _ := memory(t, unlimited())
		l := &ledger{}
		// Branch one: x, then x2. Branch two: y, then y2. late makes a branch late before a step, fail ends it there.
		run := func(late map[string]time.Duration, fail string) error {
			return attempt(t, d, func(ctx context.Context) error {
				var wg sync.WaitGroup
				errs := make([]error, 2)
				for i, branch := range [][]string{{"x", "x2"}, {"y", "y2"}} {
					wg.Go(func() {
						for _, n := range branch {
							pass(late[n])
							if n == fail {
								errs[i] = errFault
								return
							}
							if _, err := l.run(ctx, n); err != nil {
								errs[i] = err
								return
							}
						}
					})
				}
				wg.Wait()
				return errors.Join(errs...)
			})
		}
		require.ErrorIs(t, run(map[string]time.Duration{"y": time.Second}, "y"), errFault)         // x and x2 are done before y ever began
		require.ErrorIs(t, run(map[string]time.Duration{"x": 2 * time.Second}, "y2"), errFault)    // y comes first now: it waits for x
		require.NoError(t, run(map[string]time.Duration{"x": time.Second, "x2": time.Second}, "")) // and y2 overtakes x2
		require.NoError(t, run(map[string]time.Duration{"y": time.Second, "y2": time.Second}, ""))
		assert.Equal(t, map[string]int{"x": 1, "x2": 1, "y": 1, "y2": 1}, l.runs)
	})
}

// A step that failed and was gone on without may be done on a later attempt, although steps behind it are finished.
func TestAStepThatFailedBeforeOthersMayBeMadeUpFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, _ := memory(t, unlimited())
		l := &ledger{}
		refuse := true
		handler := func(ctx context.Context) error {
			_, _ = dedup.Step(ctx, "coupon", func(context.Context) (bool, error) {
				if refuse {
					return false, errFault
				}
				return true, nil
			})
			return l.steps(ctx, "charge")
		}
		require.ErrorIs(t, attempt(t, d, handler), errFault)
		refuse = false
		started := time.Now()
		require.ErrorIs(t, attempt(t, d, handler), errFault)
		assert.Zero(t, time.Since(started), "nothing to wait for")
		assert.Equal(t, 1, l.runs["charge"])
	})
}

func TestMisusedStepsDoNotRun(t *testing.T) {
	t.Parallel()
	d, _ := memory(t, unlimited())
	l := &ledger{}
	none := func(err error, says string) {
		t.Helper()
		require.ErrorIs(t, err, dedup.ErrStepMisuse)
		require.ErrorContains(t, err, says)
	}
	_, err := l.run(t.Context(), "no-claim")
	none(err, "the context has no claim")
	require.ErrorIs(t, attempt(t, d, func(ctx context.Context) error {
		for _, n := range []string{"", "two words", "esc\x1b", strings.Repeat("x", 256)} {
			_, err = l.run(ctx, n)
			none(err, "name")
			assert.NotContains(t, err.Error(), "\x1b")
		}
		_, err = l.run(ctx, "once")
		require.NoError(t, err)
		_, err = l.run(ctx, "once")
		none(err, "once was called before in this attempt")
		for i := range dedup.MaxSteps - 1 {
			_, err = l.run(ctx, fmt.Sprint("item-", i))
			require.NoError(t, err)
		}
		_, err = l.run(ctx, "one-more")
		none(err, "would be number 101")
		return errFault
	}), errFault)
	assert.Equal(t, 1, l.runs["once"])
	assert.Len(t, l.runs, dedup.MaxSteps)

	mem := memstore.New(memstore.Config{})
	d, err = dedup.New(newFaulty(mem), dedup.Config{}) // hides that the store can keep steps
	require.NoError(t, err)
	err = attempt(t, d, func(ctx context.Context) error { return l.steps(ctx, "hidden") })
	require.ErrorIs(t, err, dedup.ErrNoAbility)
	require.ErrorContains(t, err, "hidden was not run")
	assert.Zero(t, l.runs["hidden"])

	_, err = l.run(dedup.WithUntracked(t.Context(), key), "untracked")
	require.NoError(t, err, "the policy open runs without memory")
	assert.Equal(t, 1, l.runs["untracked"])
}

func TestAStepThatPanicsKeepsNothing(t *testing.T) {
	t.Parallel()
	d, mem := memory(t, unlimited())
	boom := true
	handler := func(ctx context.Context) ([]byte, error) {
		return dedup.Step(ctx, "charge", func(context.Context) ([]byte, error) {
			if boom {
				panic("boom")
			}
			return []byte("fine"), nil
		})
	}
	assert.PanicsWithValue(t, "boom", func() { _, _ = d.Do(t.Context(), key, handler) })
	saved, err := mem.Steps(t.Context(), key)
	require.NoError(t, err)
	assert.Empty(t, saved)
	boom = false
	out, err := d.Do(t.Context(), key, handler)
	require.NoError(t, err)
	assert.Equal(t, "fine", string(out.Result()))
}

func TestResultsThatCannotBeKept(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		result any
		says   string
	}{
		"10 MB":       {strings.Repeat("x", 10<<20), "Config.MaxStepBytes is 524288"},
		"a channel":   {make(chan int), "it does not encode as json"},
		"no decoding": {interface{ Foo() }(foo{}), "its result does not decode"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, mem := memory(t, unlimited())
			runs := 0
			for range 3 {
				err := attempt(t, d, func(ctx context.Context) error {
					var err error
					switch v := c.result.(type) {
					case interface{ Foo() }:
						_, err = dedup.Step(ctx, "odd", func(context.Context) (interface{ Foo() }, error) { runs++; return v, nil })
					default:
						_, err = dedup.Step(ctx, "odd", func(context.Context) (any, error) { runs++; return v, nil })
					}
					return err
				})
				require.ErrorIs(t, err, dedup.ErrStepResult)
				require.ErrorContains(t, err, c.says)
				require.ErrorContains(t, err, "is not run again")
			}
			assert.Equal(t, 1, runs, "the effect is there, whatever becomes of its result")
			saved, err := mem.Steps(t.Context(), key)
			require.NoError(t, err)
			require.Len(t, saved, 1)
			assert.Less(t, len(saved[0].Data), 1<<10)
		})
	}
}

type foo struct{}

func (foo) Foo() {}

func TestTheLimitIsForAllStepsOfAKey(t *testing.T) {
	t.Parallel()
	d, _ := memory(t, dedup.Config{MaxStepBytes: 1000})
	big := func(ctx context.Context, name string) error {
		_, err := dedup.Step(ctx, name, func(context.Context) (string, error) { return strings.Repeat("x", 400), nil })
		return err
	}
	require.ErrorIs(t, attempt(t, d, func(ctx context.Context) error {
		require.NoError(t, big(ctx, "one"))
		require.NoError(t, big(ctx, "two"))
		return big(ctx, "three")
	}), dedup.ErrStepResult)
}

func TestATypeThatNoLongerDecodes(t *testing.T) {
	t.Parallel()
	d, _ := memory(t, unlimited())
	type old struct{ Total string }
	type renamed struct{ Sum string }
	type retyped struct{ Total int }
	require.NoError(t, attempt(t, d, func(ctx context.Context) error { return stepOf(ctx, old{"12 EUR"}) }))
	for _, err := range []error{
		attempt(t, d, func(ctx context.Context) error { return stepOf(ctx, renamed{}) }),
		attempt(t, d, func(ctx context.Context) error { return stepOf(ctx, retyped{}) }),
	} {
		require.ErrorIs(t, err, dedup.ErrStepResult)
		require.ErrorContains(t, err, "step total is done and is not run again, but its result does not decode")
	}
	require.NoError(t, attempt(t, d, func(ctx context.Context) error { return stepOf(ctx, old{"not run"}) }), "the old type still reads it")
}

func stepOf[T any](ctx context.Context, v T) error {
	_, err := dedup.Step(ctx, "total", func(context.Context) (T, error) { return v, nil })
	return err
}

// upper is a codec of one's own.
type upper struct{}

func (upper) Name() string                  { return "upper" }
func (upper) Marshal(v any) ([]byte, error) { return []byte(strings.ToUpper(v.(string))), nil }
func (upper) Unmarshal(data []byte, v any) error {
	*v.(*string) = strings.ToLower(string(data))
	return nil
}

func TestAnotherCodec(t *testing.T) {
	t.Parallel()
	mem := memstore.New(memstore.Config{})
	d, err := dedup.New(mem, dedup.Config{StepCodec: upper{}})
	require.NoError(t, err)
	require.NoError(t, attempt(t, d, func(ctx context.Context) error {
		v, err := dedup.Step(ctx, "total", func(context.Context) (string, error) { return "MiXed", nil })
		assert.Equal(t, "mixed", v, "the first attempt sees what later ones will see")
		return err
	}))
	saved, err := mem.Steps(t.Context(), key)
	require.NoError(t, err)
	info, err := saved[0].Info()
	require.NoError(t, err)
	assert.Equal(t, "MIXED", string(info.Result))
	other, err := dedup.New(mem, dedup.Config{})
	require.NoError(t, err)
	err = attempt(t, other, func(ctx context.Context) error { return stepOf(ctx, "x") })
	require.ErrorIs(t, err, dedup.ErrStepResult)
	require.ErrorContains(t, err, "kept with the codec upper")
}

func TestSavedStepsThatAreNotOurs(t *testing.T) {
	t.Parallel()
	for _, data := range []string{"", "garbage", "{}\n", `{"v":2}` + "\n1", `{"v":1}`} {
		_, err := dedup.SavedStep{Name: "\x1b", Data: []byte(data)}.Info()
		require.ErrorIs(t, err, dedup.ErrStepResult, data)
		assert.NotContains(t, err.Error(), "\x1b")
	}
	d, mem := memory(t, unlimited())
	ran := false
	err := attempt(t, d, func(ctx context.Context) error {
		r, err := mem.Get(ctx, key)
		require.NoError(t, err)
		later, err := json.Marshal(map[string]any{"v": 2})
		require.NoError(t, err)
		h := dedup.Hold{Key: key, Fence: r.Fence, Nonce: r.Nonce}
		require.NoError(t, mem.SaveStep(ctx, h, dedup.SavedStep{Name: "total", Data: append(later, '\n')}))
		_, err = dedup.Step(ctx, "total", func(context.Context) (int, error) { ran = true; return 1, nil })
		return err
	})
	require.ErrorContains(t, err, "format version 2")
	assert.False(t, ran)
}

func FuzzDecodeSteps(f *testing.F) {
	f.Add(dedup.EncodeSteps([]dedup.SavedStep{{Name: "a", Data: []byte("b\n")}, {Name: "", Data: nil}}))
	f.Add([]byte("1 18446744073709551615\nab"))
	f.Add([]byte("01 1\nab"))
	f.Fuzz(func(t *testing.T, b []byte) {
		steps, err := dedup.DecodeSteps(key, b)
		if err != nil {
			require.ErrorIs(t, err, dedup.ErrUnreadable)
			return
		}
		require.Equal(t, string(b), string(dedup.EncodeSteps(steps)))
	})
}
