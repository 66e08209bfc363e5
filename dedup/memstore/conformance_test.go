package memstore_test

import (
	"sync"
	"testing"
	"time"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/dedup/storetest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	var clocks sync.Map // of each subtest
	storetest.Run(t, storetest.Harness{
		New: func(t *testing.T) dedup.Store {
			c := newClock()
			clocks.Store(t, c)
			return memstore.New(memstore.Config{Clock: c.now})
		},
		Advance: func(t *testing.T, d time.Duration) {
			c, _ := clocks.Load(t)
			c.(*clock).advance(d)
		},
		Lease: 30 * time.Second,
	})
}
