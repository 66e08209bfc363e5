package tieredstore_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/dedup/tieredstore"
)

func TestADuplicateInTheFastTierCostsTheFastTierOnly(t *testing.T) {
	t.Parallel()
	b := newBoth(t)
	require.NoError(t, b.consume(b.acquire("1", "a", dedup.Granted), "done"))
	held := b.acquire("2", "a", dedup.Granted)
	count := func(what string, fast, durable int) {
		t.Helper()
		assert.Equal(t, fast, b.fast.reset(), what+": calls of the fast tier")
		assert.Equal(t, durable, b.durable.reset(), what+": calls of the durable tier")
	}
	b.fast.reset()
	b.durable.reset()
	b.acquire("1", "b", dedup.Duplicate)
	count("a duplicate", 1, 0)
	b.acquire("2", "b", dedup.Busy)
	count("busy", 1, 0)
	require.NoError(t, b.Extend(t.Context(), holdOf(held), lease))
	count("a heartbeat", 1, 0)
	b.acquire("3", "a", dedup.Granted)
	count("a claim", 2, 1)
	require.NoError(t, b.consume(held, "done"))
	count("a settlement", 2, 1)
	b.fast.flush()
	r := b.acquire("1", "c", dedup.Duplicate)
	assert.Equal(t, "done", string(r.Result))
	count("a duplicate that the fast tier has forgotten", 2, 1)
	b.acquire("1", "d", dedup.Duplicate)
	count("and again: it is warm", 1, 0)
}

func TestTheDurableTierDecides(t *testing.T) {
	t.Parallel()
	t.Run("settled there, and the fast tier was not told", func(t *testing.T) {
		t.Parallel()
		b := newBoth(t)
		r := b.acquire("1", "a", dedup.Granted)
		b.fast.set(true, "adopt")
		require.NoError(t, b.consume(r, "done"), "the store knows, whatever the fast tier does")
		b.fast.set(false, "adopt")
		fast, durable := b.states(r.Key)
		require.Equal(t, []dedup.State{dedup.Acquired, dedup.Consumed}, []dedup.State{fast, durable})
		b.acquire("1", "b", dedup.Busy)
		b.advance(2 * lease)
		got := b.acquire("1", "b", dedup.Duplicate) // and not a takeover
		assert.Equal(t, "done", string(got.Result))
		fast, _ = b.states(r.Key)
		assert.Equal(t, dedup.Consumed, fast)
		require.NoError(t, b.consume(r, "again"), "repeated")
		got = b.acquire("1", "c", dedup.Duplicate)
		assert.Equal(t, "done", string(got.Result))
	})
	t.Run("a limit in the fast tier buries nothing that was consumed", func(t *testing.T) {
		t.Parallel()
		b := newBoth(t)
		r := b.acquire("1", "a", dedup.Granted)
		b.fast.set(true, "adopt")
		require.NoError(t, b.consume(r, "done"))
		b.advance(2 * lease)
		c := claimOf("1", "b")
		c.MaxAttempts = 1
		v, got, err := b.Acquire(t.Context(), c)
		require.NoError(t, err)
		assert.Equal(t, dedup.Duplicate, v, "consumed, and no letter: the fast tier thinks that it is dead, and cannot be mended now")
		assert.Equal(t, "done", string(got.Result))
		b.fast.set(false, "adopt")
		b.acquire("1", "c", dedup.Duplicate)
	})
	t.Run("a death at a limit is told when the durable tier has it", func(t *testing.T) {
		t.Parallel()
		b := newBoth(t)
		r := b.acquire("1", "a", dedup.Granted)
		b.advance(2 * lease)
		c := claimOf("1", "b")
		c.MaxAttempts = 1
		b.durable.set(true, "adopt")
		_, _, err := b.Acquire(t.Context(), c)
		unanswered(t, err)
		b.durable.set(false, "adopt")
		got := b.acquire("1", "c", dedup.LetterOwed)
		_, durable := b.states(r.Key)
		assert.Equal(t, dedup.DeadOwed, durable)
		require.NoError(t, b.LetterSent(t.Context(), r.Key, got.Fence))
		b.fast.flush()
		b.acquire("1", "d", dedup.Dead)
	})
	t.Run("a letter that the fast tier does not know to be sent", func(t *testing.T) {
		t.Parallel()
		b := newBoth(t)
		r := b.acquire("1", "a", dedup.Granted)
		require.NoError(t, b.kill(r))
		b.fast.set(true, "letter-sent")
		require.NoError(t, b.LetterSent(t.Context(), r.Key, r.Fence))
		b.acquire("1", "b", dedup.Dead)
		fast, _ := b.states(r.Key)
		assert.Equal(t, dedup.DeadSent, fast)
	})
	t.Run("a replay is open when the durable tier has it", func(t *testing.T) {
		t.Parallel()
		b := newBoth(t)
		r := b.acquire("1", "a", dedup.Granted)
		require.NoError(t, b.kill(r))
		require.NoError(t, b.LetterSent(t.Context(), r.Key, r.Fence))
		q := dedup.ReopenRequest{Key: r.Key, Fence: r.Fence, Generation: 1, Retention: long}
		b.durable.set(true, "adopt")
		_, err := b.Reopen(t.Context(), q)
		unanswered(t, err)
		b.durable.set(false, "adopt")
		b.acquire("1", "b", dedup.Dead)
		o, err := b.Reopen(t.Context(), q)
		require.NoError(t, err)
		assert.Equal(t, dedup.Reopened, o)
		b.fast.flush()
		o, err = b.Reopen(t.Context(), q)
		require.NoError(t, err)
		assert.Equal(t, dedup.AlreadyOpen, o, "also when the fast tier has forgotten it")
		run := b.acquire("1", "c", dedup.Busy)
		require.Positive(t, run.Wait(), "a quarantine runs")
		b.advance(2 * lease)
		run = b.acquire("1", "d", dedup.Granted)
		assert.Equal(t, 2, run.Generation)
		require.NoError(t, b.consume(run, "replayed"))
		b.fast.flush()
		o, err = b.Reopen(t.Context(), q)
		require.NoError(t, err)
		assert.Equal(t, dedup.Resolved, o)
	})
	t.Run("a replay and a duplicate at once", func(t *testing.T) {
		t.Parallel()
		b := newBoth(t)
		r := b.acquire("1", "a", dedup.Granted)
		require.NoError(t, b.kill(r))
		require.NoError(t, b.LetterSent(t.Context(), r.Key, r.Fence))
		b.fast.after = map[string]func(){"reopen": func() { b.again().acquire("1", "b", dedup.Dead) }} // the durable tier does not know yet
		o, err := b.Reopen(t.Context(), dedup.ReopenRequest{Key: r.Key, Fence: r.Fence, Generation: 1, Retention: long})
		require.NoError(t, err)
		require.Equal(t, dedup.Reopened, o)
		_, durable := b.states(r.Key)
		assert.Equal(t, dedup.Failed, durable, "what was told is so")
		b.acquire("1", "c", dedup.Granted)
	})
	t.Run("forgotten there, and the fast tier was not told", func(t *testing.T) {
		t.Parallel()
		b := newBoth(t)
		r := b.acquire("1", "a", dedup.Granted)
		require.NoError(t, b.consume(r, "done"))
		b.fast.set(true, "forget")
		unanswered(t, b.Forget(t.Context(), r.Key, false))
		b.fast.set(false, "forget")
		require.NoError(t, b.Forget(t.Context(), r.Key, false), "repeated")
		require.ErrorIs(t, b.Forget(t.Context(), r.Key, false), dedup.ErrNotFound)
		b.acquire("1", "b", dedup.Granted)
	})
}

func TestATierThatIsDown(t *testing.T) {
	t.Parallel()
	t.Run("durable", func(t *testing.T) {
		t.Parallel()
		b := newBoth(t)
		require.NoError(t, b.consume(b.acquire("done", "a", dedup.Granted), "done"))
		held := b.acquire("held", "a", dedup.Granted)
		b.durable.set(true, "all")
		b.acquire("done", "b", dedup.Duplicate)
		for _, n := range []dedup.Nonce{"a", "b", "c"} {
			_, _, err := b.Acquire(t.Context(), claimOf("new", n))
			unanswered(t, err)
		}
		unanswered(t, b.consume(held, "x"))
		fast, _ := b.states(held.Key)
		assert.Equal(t, dedup.Acquired, fast, "nothing is written behind")
		require.NoError(t, b.Extend(t.Context(), holdOf(held), lease))
		b.durable.set(false, "all")
		require.NoError(t, b.consume(held, "x"))
		r := b.acquire("new", "d", dedup.Granted) // at once: the claims were given back
		assert.Equal(t, 1, r.Attempt, "and do not count")
	})
	t.Run("fast", func(t *testing.T) {
		t.Parallel()
		b := newBoth(t)
		require.NoError(t, b.consume(b.acquire("done", "a", dedup.Granted), "done"))
		held := b.acquire("held", "a", dedup.Granted)
		b.fast.set(true, "all")
		r := b.acquire("done", "b", dedup.Duplicate)
		assert.Equal(t, "done", string(r.Result))
		_, _, err := b.Acquire(t.Context(), claimOf("new", "a"))
		unanswered(t, err)
		unanswered(t, b.Extend(t.Context(), holdOf(held), lease))
		require.NoError(t, b.consume(held, "x"), "its lease runs, so nobody can have taken over")
		unanswered(t, b.again().consume(held, "x")) // another process cannot know that
		b.fast.set(false, "all")
		b.advance(2 * lease)
		b.acquire("held", "b", dedup.Duplicate)
		b.acquire("new", "b", dedup.Granted)
	})
}

// One record is gone and the marker is not, as after an eviction: nobody can know, and two holders run. One settles.
func TestOfTwoHoldersTheFirstInTheDurableTierWins(t *testing.T) {
	t.Parallel()
	b := newBoth(t)
	first := b.acquire("1", "a", dedup.Granted)
	require.NoError(t, b.fast.mem.Forget(t.Context(), first.Key, true))
	second := b.acquire("1", "b", dedup.Granted)
	assert.Greater(t, second.Fence, first.Fence)
	require.ErrorIs(t, b.consume(first, "first"), dedup.ErrLeaseLost, "the second holds the key")
	require.NoError(t, b.consume(second, "second"))
	require.ErrorIs(t, b.consume(first, "first"), dedup.ErrLeaseLost)
	assert.Equal(t, "second", string(b.acquire("1", "c", dedup.Duplicate).Result))

	// The first was written to the durable tier just when the second was granted its claim.
	first = b.acquire("2", "a", dedup.Granted)
	require.NoError(t, b.fast.mem.Forget(t.Context(), first.Key, true))
	second = b.acquire("2", "b", dedup.Granted)
	done := first
	done.State, done.Result, done.ExpiresAt = dedup.Consumed, []byte("first"), done.ReadAt.Add(long)
	require.NoError(t, b.durable.mem.Adopt(t.Context(), done, 0))
	require.ErrorIs(t, b.consume(second, "second"), dedup.ErrLeaseLost)
	require.ErrorIs(t, b.kill(second), dedup.ErrLeaseLost)
	assert.Equal(t, "first", string(b.acquire("2", "c", dedup.Duplicate).Result))
}

func TestFencesGrowAlthoughTheClockOfTheFastTierGoesBack(t *testing.T) {
	t.Parallel()
	b := newBoth(t)
	r := b.acquire("1", "a", dedup.Granted)
	require.NoError(t, b.kill(r))
	require.NoError(t, b.LetterSent(t.Context(), r.Key, r.Fence))
	_, err := b.Reopen(t.Context(), dedup.ReopenRequest{Key: r.Key, Fence: r.Fence, Generation: 1, Retention: long})
	require.NoError(t, err)
	reopened, err := b.Get(t.Context(), r.Key)
	require.NoError(t, err)
	b.fast.flush()
	b.clock.advance(-time.Hour)
	b.acquire("1", "b", dedup.Busy) // the quarantine
	b.advance(2 * lease)
	assert.Greater(t, b.acquire("1", "c", dedup.Granted).Fence, reopened.Fence, "I1, also towards another server")
}

// described is a tier of some other kind.
type described struct {
	*spy
	where string
}

func (d described) Describe() string { return d.where }

func TestTiersThatCannotWorkAreRefused(t *testing.T) {
	t.Parallel()
	mem := memstore.New(memstore.Config{})
	at := func(where string) dedup.Store { return described{newSpy(memstore.Config{}), where} }
	for name, c := range map[string]struct {
		fast, durable dedup.Store
		says          string
	}{
		"swapped":          {at("postgres://db/idemq"), at("redis://cache/0"), "swapped"},
		"durable in front": {at("kv://idemq"), mem, "swapped"},
		"fast behind":      {mem, at("redis+sentinel://cache/0"), "swapped"},
		"one twice":        {mem, mem, "the same store"},
		"one twice, named": {at("redis://cache/0"), at("redis://cache/0"), "the same store"},
		"no tier":          {mem, struct{ dedup.Store }{mem}, "the durable tier must be"},
		"nil":              {nil, mem, "the fast tier must be"},
	} {
		_, err := tieredstore.New(c.fast, c.durable, tieredstore.Config{})
		require.ErrorIs(t, err, dedup.ErrConfig, name)
		require.ErrorContains(t, err, c.says, name)
	}
	_, err := tieredstore.New(mem, memstore.New(memstore.Config{}), tieredstore.Config{Quarantine: -1})
	require.ErrorIs(t, err, dedup.ErrConfig)
	s, err := tieredstore.New(at("redis://cache/0"), at("sqlite://file"), tieredstore.Config{})
	require.NoError(t, err)
	assert.Equal(t, "tiered:redis://cache/0,sqlite://file", s.Describe())
}
