package transition_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/transition"
)

// A Settle to a state that ends nothing was taken for a repeated one in that very state, and succeeded.
func TestSettleToAStateThatEndsNothingIsRefused(t *testing.T) {
	t.Parallel()
	h := dedup.Hold{Fence: 1, Nonce: "n"}
	for _, s := range []dedup.State{dedup.Acquired, dedup.Failed} {
		r := dedup.Record{State: s, Fence: h.Fence, Nonce: h.Nonce}
		before := r
		changed, err := transition.Settle(&r, h, dedup.Settlement{State: s}, time.Unix(1, 0))
		require.ErrorIs(t, err, dedup.ErrLeaseLost, s)
		assert.False(t, changed)
		assert.Equal(t, before, r)
	}
}
