package transition_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/transition"
)

func TestFencesGrow(t *testing.T) {
	t.Parallel()
	at := time.UnixMicro(1_000_000)
	for previous, want := range map[dedup.Fence]dedup.Fence{
		0: 1_000_000, 999_998: 1_000_000, 999_999: 1_000_000, 1_000_000: 1_000_001, 5_000_000: 5_000_001,
	} {
		require.Equal(t, want, transition.NextFence(previous, at), "after %d", previous)
	}
}

// A clock before 1970, as a test's that begins with the zero time, made a fence far beyond the 2^53 of a Lua number, after
// which no larger one could come.
func TestAClockBefore1970MakesSmallFences(t *testing.T) {
	t.Parallel()
	for _, at := range []time.Time{{}, time.Unix(0, 0), time.Unix(-1, 0)} {
		require.Equal(t, dedup.Fence(1), transition.NextFence(0, at))
		require.Equal(t, dedup.Fence(8), transition.NextFence(7, at))
	}
}
