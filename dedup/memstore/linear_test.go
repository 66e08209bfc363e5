package memstore_test

import (
	"testing"

	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/internal/linear"
)

func TestHistoriesAreLinearizable(t *testing.T) {
	t.Parallel()
	for range 20 {
		linear.Check(t, memstore.New(memstore.Config{}), linear.Config{})
	}
}
