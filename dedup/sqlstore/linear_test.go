package sqlstore

import (
	"testing"

	"github.com/idemq/idemq/internal/linear"
)

func TestHistoriesAreLinearizable(t *testing.T) {
	eachDialect(t, func(t *testing.T, d Dialect) {
		linear.Check(t, open(t, testDB(t, d), d, Config{}), linear.Config{Calls: 120})
	})
}
