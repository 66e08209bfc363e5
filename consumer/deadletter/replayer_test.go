package deadletter_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/dedup"
)

func TestReplayRunsOnce(t *testing.T) {
	everyStore(t, func(w *world) {
		e := w.die("order-1")
		assert.False(w, w.resolved(e))
		got := w.replay(e, deadletter.ReplayOptions{}, deadletter.Published)
		assert.Equal(w, "order-1", got.Key)
		r := w.record("order-1")
		assert.Equal(w, dedup.Failed, r.State)
		assert.Equal(w, 2, r.Generation)
		marked := w.entry(e.ID)
		require.NotNil(w, marked.Mark)
		assert.Equal(w, "order-1", marked.Mark.Key)

		// A second time, by somebody who insists, before and after it ran.
		_, err := w.replayer.Replay(w.Context(), e, deadletter.ReplayOptions{})
		assert.ErrorIs(w, err, deadletter.ErrReplayed)
		w.replay(e, deadletter.ReplayOptions{Again: true}, deadletter.Published)
		assert.Equal(w, 2, w.work())
		assert.Equal(w, 1, w.effects["order-1"], "I11")
		assert.True(w, w.resolved(e))
		w.replay(e, deadletter.ReplayOptions{Again: true}, deadletter.Resolved)
		assert.Zero(w, w.work())
		_, err = w.replayer.Replay(w.Context(), e, deadletter.ReplayOptions{})
		assert.ErrorIs(w, err, deadletter.ErrReplayed)
	})
}

// The publish window of either stream does not swallow a replay, nor the replay of the next death.
func TestReplayIsDeliveredWithinThePublishWindow(t *testing.T) {
	everyStore(t, func(w *world) {
		w.fail = errHandler
		e := w.die("order-1")
		const rounds = 4
		for n := 1; n <= rounds; n++ {
			w.replay(e, deadletter.ReplayOptions{}, deadletter.Published)
			require.Equal(w, 1, w.work(), "I11: delivered")
			assert.Equal(w, n, w.effects["order-1"])
			later := w.record("order-1")
			require.Equal(w, dedup.DeadSent, later.State)
			require.Equal(w, n+1, later.Generation)
			assert.True(w, w.resolved(e), "dead again with a later letter")
			w.replay(e, deadletter.ReplayOptions{Again: true}, deadletter.Resolved)

			entries, _ := list(w.T, w.queue, deadletter.Filter{Generation: n + 1})
			require.Len(w, entries, 1)
			e = entries[0]
			require.Len(w, e.Letter.History, n)
			last := e.Letter.History[n-1]
			assert.Equal(w, n, last.Generation)
			assert.Len(w, last.ID, 40)
			assert.Nil(w, e.Mark)
		}
		w.fail = nil
		w.replay(e, deadletter.ReplayOptions{}, deadletter.Published)
		w.work()
		assert.Equal(w, dedup.Consumed, w.record("order-1").State)
		all, _ := list(w.T, w.queue, deadletter.Filter{})
		require.Len(w, all, rounds+1)
		for _, e := range all {
			assert.True(w, w.resolved(e))
		}
	})
}

func TestTwoReplayersOfOneSelection(t *testing.T) {
	everyStore(t, func(w *world) {
		const n = 20
		var entries []deadletter.Entry
		for i := range n {
			entries = append(entries, w.die("order-"+string(rune('a'+i))))
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		outcomes := map[deadletter.Outcome]int{}
		for range 3 {
			wg.Go(func() {
				other := deadletter.NewReplayer(w.queue, w.rs, w.store, deadletter.ReplayConfig{})
				for _, e := range entries {
					got, err := other.Replay(w.Context(), e, deadletter.ReplayOptions{})
					mu.Lock()
					if outcomes[got.Outcome]++; err != nil {
						assert.ErrorIs(w, err, deadletter.ErrReplayed)
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		assert.Equal(w, n, outcomes[deadletter.Published])
		assert.Equal(w, 3*n, outcomes[deadletter.Published]+outcomes[deadletter.AlreadyThere]+outcomes[0])
		assert.Equal(w, n, w.work())
		for key, effects := range w.effects {
			assert.Equal(w, 1, effects, key)
		}
		assert.Len(w, w.effects, n)
		for _, e := range entries {
			assert.NotNil(w, w.entry(e.ID).Mark)
		}
	})
}

func TestReplayOfAConsumedKeyIsResolved(t *testing.T) {
	everyStore(t, func(w *world) {
		e := w.die("order-1")
		w.replay(e, deadletter.ReplayOptions{}, deadletter.Published)
		w.work()
		// Another replayer that has not seen the mark, because it was refused.
		s, err := w.js.Stream(w.Context(), deadletter.DefaultStream)
		require.NoError(w, err)
		require.NoError(w, s.Purge(w.Context(), jetstream.WithPurgeSubject("idemq.mark.>")))
		w.replay(e, deadletter.ReplayOptions{}, deadletter.Resolved)
		assert.Zero(w, w.work())
		assert.Equal(w, 1, w.effects["order-1"])
	})
}

func TestReplayOfAnUnsettledDeathStops(t *testing.T) {
	everyStore(t, func(w *world) {
		l := w.message("order-1")
		_, r, err := w.store.Acquire(w.Context(), claim("order-1", l.Fingerprint))
		require.NoError(w, err)
		h := dedup.Hold{Key: r.Key, Fence: r.Fence, Nonce: r.Nonce}
		require.NoError(w, w.store.Settle(w.Context(), h, dedup.Settlement{State: dedup.DeadOwed, Retention: testRetention}))
		l.Fence, l.Generation = r.Fence, r.Generation
		require.NoError(w, w.queue.Publish(w.Context(), l))
		e := w.entry(l.ID())
		got, err := w.replayer.Replay(w.Context(), e, deadletter.ReplayOptions{})
		assert.ErrorIs(w, err, deadletter.ErrNotSettled)
		assert.Equal(w, deadletter.NotSettled, got.Outcome)
		assert.False(w, w.resolved(e))
		assert.Nil(w, w.entry(e.ID).Mark)
		require.NoError(w, w.store.LetterSent(w.Context(), r.Key, r.Fence))
		w.replay(e, deadletter.ReplayOptions{}, deadletter.Published)
		assert.Equal(w, 1, w.work())
	})
}

func TestReplayOfAForgottenKey(t *testing.T) {
	everyStore(t, func(w *world) {
		e := w.die("order-1")
		require.NoError(w, w.store.Forget(w.Context(), dedup.Key{Scope: testScope, ID: "order-1"}, false))
		_, err := w.replayer.Resolved(w.Context(), e)
		assert.ErrorIs(w, err, deadletter.ErrUnknownFate, "never a silent no")
		w.replay(e, deadletter.ReplayOptions{}, deadletter.Published)
		r := w.record("order-1")
		assert.Equal(w, 2, r.Generation)
		assert.Equal(w, e.Letter.Fingerprint, r.Fingerprint)
		w.work()
		assert.Equal(w, 1, w.effects["order-1"])
	})
}

func TestKeylessLettersNeedAKey(t *testing.T) {
	everyStore(t, func(w *world) {
		for _, class := range []dedup.Class{dedup.MissingKey, dedup.Malformed} {
			e := w.keyless(class, strings.Repeat("\xff bad", map[bool]int{true: 1}[class == dedup.Malformed]))
			_, err := w.replayer.Replay(w.Context(), e, deadletter.ReplayOptions{})
			require.ErrorIs(w, err, deadletter.ErrKeyNeeded)
			_, err = w.replayer.Replay(w.Context(), e, deadletter.ReplayOptions{Key: "a b"})
			require.ErrorIs(w, err, dedup.ErrInvalidKey)
			assert.False(w, w.resolved(e))
			got := w.replay(e, deadletter.ReplayOptions{NewKey: true}, deadletter.Published)
			assert.Regexp(w, "^replay-[0-9a-f]{40}$", got.Key)
			marked := w.entry(e.ID)
			require.NotNil(w, marked.Mark)
			assert.Equal(w, got.Key, marked.Mark.Key)
			_, err = w.replayer.Resolved(w.Context(), marked)
			assert.ErrorIs(w, err, deadletter.ErrUnknownFate, "published, and nobody has acquired it yet")

			again := w.replay(e, deadletter.ReplayOptions{NewKey: true, Again: true}, deadletter.Published)
			assert.Equal(w, got.Key, again.Key, "the same key each time")
			assert.Equal(w, 2, w.work())
			assert.Equal(w, 1, w.effects[got.Key])
			assert.True(w, w.resolved(e))
			assert.True(w, w.resolved(marked))
			w.replay(e, deadletter.ReplayOptions{NewKey: true, Again: true}, deadletter.Resolved)
			assert.Equal(w, 0, w.work())
		}
		e := w.keyless(dedup.MissingKey, "")
		w.replay(e, deadletter.ReplayOptions{Key: "mine"}, deadletter.Published)
		w.work()
		assert.Equal(w, 1, w.effects["mine"])
		assert.True(w, w.resolved(w.entry(e.ID)))
	})
}

func TestConflictNeedsAnotherKey(t *testing.T) {
	everyStore(t, func(w *world) {
		original := w.die("order-1")
		before := w.record("order-1")
		e := w.keyless(dedup.ConflictingPayload, "order-1")
		for _, o := range []deadletter.ReplayOptions{{}, {Key: "order-1"}, {Key: "x", NewKey: true}} {
			_, err := w.replayer.Replay(w.Context(), e, o)
			require.ErrorIs(w, err, deadletter.ErrKeyNeeded)
		}
		// A key that belongs to another payload is no way out.
		other := claim("taken", dedup.FingerprintOf([]byte("another")))
		_, r, err := w.store.Acquire(w.Context(), other)
		require.NoError(w, err)
		h := dedup.Hold{Key: r.Key, Fence: r.Fence, Nonce: r.Nonce}
		require.NoError(w, w.store.Settle(w.Context(), h, dedup.Settlement{State: dedup.Consumed, Retention: testRetention}))
		_, err = w.replayer.Replay(w.Context(), e, deadletter.ReplayOptions{Key: "taken"})
		require.ErrorIs(w, err, deadletter.ErrKeyTaken)

		w.replay(e, deadletter.ReplayOptions{Key: "order-1-b"}, deadletter.Published)
		w.work()
		assert.Equal(w, map[string]int{"order-1-b": 1}, w.effects)
		after := w.record("order-1")
		before.ReadAt, after.ReadAt, before.ExpiresAt, after.ExpiresAt = time.Time{}, time.Time{}, time.Time{}, time.Time{}
		assert.Equal(w, before, after, "the original key is not touched")
		assert.True(w, w.resolved(w.entry(e.ID)))
		assert.False(w, w.resolved(original))
	})
}

func TestOtherClassesKeepTheirKey(t *testing.T) {
	everyStore(t, func(w *world) {
		e := w.die("order-1")
		for _, o := range []deadletter.ReplayOptions{{Key: "other"}, {NewKey: true}, {Key: "order-1"}} {
			_, err := w.replayer.Replay(w.Context(), e, o)
			assert.ErrorIs(w, err, deadletter.ErrKeyGiven)
		}
		assert.Equal(w, dedup.DeadSent, w.record("order-1").State)
	})
}

// A derived key died in its turn: its own letter is the one to replay.
func TestKeylessLetterThatDiesAgain(t *testing.T) {
	everyStore(t, func(w *world) {
		w.fail = errHandler
		e := w.keyless(dedup.MissingKey, "")
		got := w.replay(e, deadletter.ReplayOptions{NewKey: true}, deadletter.Published)
		w.work()
		w.replay(e, deadletter.ReplayOptions{NewKey: true, Again: true}, deadletter.Resolved)
		entries, _ := list(w.T, w.queue, deadletter.Filter{Key: got.Key})
		require.Len(w, entries, 1)
		require.Len(w, entries[0].Letter.History, 1)
		assert.Equal(w, dedup.MissingKey, entries[0].Letter.History[0].Class)
		w.fail = nil
		w.replay(entries[0], deadletter.ReplayOptions{}, deadletter.Published)
		w.work()
		assert.Equal(w, dedup.Consumed, w.record(got.Key).State)
		assert.True(w, w.resolved(e))
	})
}

// A transport without sequences, and headers that a listing does not read: the derived key is the same all the same.
func TestDerivedKeyOfALetterInParts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stores["memstore"], maxPayload(4096))
	l := w.message("")
	l.Class, l.Stream, l.Durable, l.Sequence = dedup.MissingKey, "", "", 0
	l.Header["X-Large"] = []string{strings.Repeat("h", 6000)}
	require.NoError(t, w.queue.Publish(t.Context(), l))
	e := w.entry(l.ID())
	require.Empty(t, e.Letter.Header, "a listing has not read them")
	_, err := w.replayer.Replay(t.Context(), e, deadletter.ReplayOptions{NewKey: true})
	require.ErrorIs(t, err, deadletter.ErrNoConsumer, "it came from no stream")
	assert.False(t, w.resolved(e))
	whole, err := w.queue.Get(t.Context(), e.Sequence)
	require.NoError(t, err)
	key := deadletter.DerivedKey(&e)
	assert.Equal(t, key, deadletter.DerivedKey(&whole))
	c := claim(key, dedup.Fingerprint{})
	_, r, err := w.store.Acquire(t.Context(), c)
	require.NoError(t, err)
	h := dedup.Hold{Key: r.Key, Fence: r.Fence, Nonce: r.Nonce}
	require.NoError(t, w.store.Settle(t.Context(), h, dedup.Settlement{State: dedup.Consumed, Retention: testRetention}))
	assert.True(t, w.resolved(e))
}

// A handler that ran while the store was down left a letter without a fence; its key has a record all the same.
func TestReplayOfAnUntrackedRun(t *testing.T) {
	everyStore(t, func(w *world) {
		e := w.keyless(dedup.Permanent, "order-1")
		w.replay(e, deadletter.ReplayOptions{}, deadletter.Published)
		w.work()
		assert.Equal(w, 1, w.effects["order-1"])
		assert.True(w, w.resolved(e))
		w.replay(e, deadletter.ReplayOptions{Again: true}, deadletter.Resolved)
	})
}

func TestOldEntriesAreReplayedIfOneInsists(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stores["memstore"])
	l := w.message("order-1")
	l.Fence, l.LastFailure = 7, time.Now().Add(-91*24*time.Hour)
	require.NoError(t, w.queue.Publish(t.Context(), l))
	_, err := w.replayer.Replay(t.Context(), w.entry(l.ID()), deadletter.ReplayOptions{})
	assert.ErrorIs(t, err, deadletter.ErrTooOld)
	_, err = w.store.Get(t.Context(), dedup.Key{Scope: testScope, ID: "order-1"})
	assert.ErrorIs(t, err, dedup.ErrNotFound, "nothing was changed")
	w.replay(w.entry(l.ID()), deadletter.ReplayOptions{Again: true}, deadletter.Published)
	w.work()
	assert.Equal(t, 1, w.effects["order-1"])

	young := deadletter.NewReplayer(w.queue, w.rs, w.store, deadletter.ReplayConfig{DeadRetention: time.Nanosecond})
	_, err = young.Replay(t.Context(), w.die("order-2"), deadletter.ReplayOptions{})
	assert.ErrorIs(t, err, deadletter.ErrTooOld)
}

func TestResolvedNeverSaysASilentNo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stores["memstore"])
	down := deadletter.NewReplayer(w.queue, w.rs, downStore{}, deadletter.ReplayConfig{})
	for _, e := range []deadletter.Entry{w.die("order-1"), w.keyless(dedup.MissingKey, "")} {
		_, err := down.Resolved(t.Context(), e)
		assert.ErrorIs(t, err, errDown)
	}
	_, err := w.replayer.Resolved(t.Context(), deadletter.Entry{Sequence: 1})
	assert.ErrorIs(t, err, consumer.ErrNotLetter)
}
