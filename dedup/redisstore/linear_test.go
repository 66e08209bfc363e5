package redisstore_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/internal/linear"
	"github.com/idemq/idemq/internal/testserver"
)

func TestHistoriesAreLinearizable(t *testing.T) {
	t.Parallel()
	for path, open := range paths {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			linear.Check(t, open(testserver.Redis(t).Client(t)), linear.Config{Calls: 120})
		})
	}
}

// The commands whose answers are lost were applied, and those of a connection that is closed meanwhile perhaps.
func TestHistoriesWithLostAnswersAreLinearizable(t *testing.T) {
	t.Parallel()
	for name, retries := range map[string]int{"the client repeats": 3, "nobody repeats": -1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCutter(t, testserver.Redis(t).URL())
			s := redisstore.New(c.client(t, retries), redisstore.Config{Prefix: ownPrefix()})
			for range 8 {
				c.cut.Store(4)
				linear.Check(t, s, linear.Config{Calls: 30, Faults: true})
			}
			require.GreaterOrEqual(t, c.lost.Load(), int64(16), "hardly an answer was lost")
		})
	}
}
