package tieredstore_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

// What the durable tier keeps of a key that is not settled comes back when the fast tier has forgotten it.
func TestWhatAFlushDoesNotForgetOfAnOpenKey(t *testing.T) {
	t.Parallel()
	claim := func(n dedup.Nonce, payload string) dedup.Claim {
		c := claimOf("1", n)
		c.Fingerprint = dedup.FingerprintOf([]byte(payload))
		return c
	}
	acquire := func(t *testing.T, b *both, c dedup.Claim, want dedup.Verdict) dedup.Record {
		t.Helper()
		v, r, err := b.Acquire(t.Context(), c)
		require.NoError(t, err)
		require.Equal(t, want.String(), v.String())
		return r
	}
	flush := func(t *testing.T, b *both) {
		t.Helper()
		b.fast.flush()
		b.acquire("unrelated", "x", dedup.Busy)
		b.advance(lease)
	}
	t.Run("a replay", func(t *testing.T) {
		t.Parallel()
		b := newBoth(t)
		r := acquire(t, b, claim("a", "one"), dedup.Granted)
		require.NoError(t, b.kill(r))
		require.NoError(t, b.LetterSent(t.Context(), r.Key, r.Fence))
		_, err := b.Reopen(t.Context(), dedup.ReopenRequest{Key: r.Key, Fence: r.Fence, Generation: 1, Retention: long})
		require.NoError(t, err)
		flush(t, b)
		assert.Equal(t, 2, acquire(t, b, claim("b", "one"), dedup.Granted).Generation, "its next letter is another one")
	})
	t.Run("the payload", func(t *testing.T) {
		t.Parallel()
		b := newBoth(t)
		r := acquire(t, b, claim("a", "one"), dedup.Granted)
		require.NoError(t, b.SaveStep(t.Context(), holdOf(r), dedup.SavedStep{Name: "one"}))
		flush(t, b)
		acquire(t, b, claim("b", "two"), dedup.Conflict)
		acquire(t, b, claim("c", "one"), dedup.Granted)
	})
	t.Run("the fence", func(t *testing.T) {
		t.Parallel()
		b := newBoth(t)
		r := acquire(t, b, claim("a", "one"), dedup.Granted)
		require.NoError(t, b.SaveStep(t.Context(), holdOf(r), dedup.SavedStep{Name: "one"}))
		b.clock.advance(-time.Hour)
		flush(t, b)
		got := acquire(t, b, claim("b", "one"), dedup.Granted)
		assert.Greater(t, got.Fence, r.Fence, "I1")
		assert.Equal(t, 2, got.Attempt, "and a key with steps keeps its attempts")
		require.NoError(t, b.consume(got, "done"))
	})
}

// slow is a tier that takes its time for writing the marker, as a database may that has no connection yet.
type slow struct{ *spy }

func (s slow) Adopt(ctx context.Context, r dedup.Record, over dedup.Fence) error {
	if r.Key.Scope == key.Scope {
		return s.spy.Adopt(ctx, r, over)
	}
	<-time.After(2 * time.Second)
	err := s.spy.Adopt(ctx, r, over)
	<-time.After(time.Second)
	return err
}

// Who begins while the very first one still writes the marker must wait for it, and not take it for a loss.
func TestABeginningThatTakesLongIsNoLoss(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := tiered(t, newSpy(memstore.Config{}), slow{newSpy(memstore.Config{})})
		verdicts := make(chan dedup.Verdict, 2)
		for _, id := range []string{"1", "2"} {
			go func() {
				v, _, err := s.Acquire(t.Context(), claimOf(id, "a"))
				assert.NoError(t, err)
				verdicts <- v
			}()
		}
		assert.Equal(t, []dedup.Verdict{dedup.Granted, dedup.Granted}, []dedup.Verdict{<-verdicts, <-verdicts})
	})
}
