package tieredstore_test

import (
	"crypto/rand"
	"testing"

	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/internal/linear"
	"github.com/idemq/idemq/internal/testserver"
)

// Leases are endless here, and Reopen and Forget are left out: these take a step in each tier, and a settlement by an owner
// whose lease is over may win against one who took over meanwhile. The first who is in the durable tier has settled the key, and Get may know that before who asks for the key is told.
func TestHistoriesAreLinearizable(t *testing.T) {
	t.Parallel()
	t.Run("memory over memory", func(t *testing.T) {
		t.Parallel()
		for range 10 {
			linear.Check(t, tiered(t, memstore.New(memstore.Config{}), memstore.New(memstore.Config{})), linear.Config{Faults: true, ClaimsOnly: true})
		}
	})
	t.Run("Redis over a database", func(t *testing.T) {
		t.Parallel()
		fast := redisstore.New(testserver.Redis(t).Client(t), redisstore.Config{Prefix: "tiered" + rand.Text() + ":"})
		_, durable := sqlTier(t)
		linear.Check(t, tiered(t, fast, durable), linear.Config{Calls: 120, Faults: true, ClaimsOnly: true})
	})
}
