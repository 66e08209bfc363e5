package transition_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/transition"
)

func TestLetterSent(t *testing.T) {
	t.Parallel()
	for state := dedup.Absent; state <= dedup.DeadSent; state++ {
		for _, fence := range []dedup.Fence{0, 6, 7, 8} {
			before := record(state)
			r := before.Clone()
			changed, err := transition.LetterSent(&r, fence, now)
			own := fence == 7
			require.Equal(t, own && state == dedup.DeadOwed, changed, "%s, fence %d", state, fence)
			if own && (state == dedup.DeadOwed || state == dedup.DeadSent) {
				require.NoError(t, err, "%s, fence %d", state, fence)
			} else {
				require.ErrorIs(t, err, dedup.ErrLeaseLost, "%s, fence %d", state, fence)
			}
			if !changed {
				require.Equal(t, before, r, "%s, fence %d", state, fence)
				continue
			}
			require.Equal(t, []any{dedup.DeadSent, before.Fence, before.Nonce}, []any{r.State, r.Fence, r.Nonce})
		}
	}
}

// Of all changes only the settlement of a key that was never replayed makes the memory shorter.
func TestTheMemoryOfARecord(t *testing.T) {
	t.Parallel()
	const long = 100 * time.Hour
	for _, generation := range []int{1, 2} {
		for name, op := range holders {
			r := record(dedup.Acquired, func(r *dedup.Record) { r.Generation, r.ExpiresAt = generation, now.Add(long) })
			_, err := op.do(&r, own)
			require.NoError(t, err)
			want := now.Add(long)
			if generation == 1 && op.to.Settled() {
				want = now.Add(time.Minute)
			}
			require.Equal(t, want, r.ExpiresAt, "%s in generation %d", name, generation)
		}
	}
}
