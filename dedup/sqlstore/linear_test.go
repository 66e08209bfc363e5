package sqlstore

import (
	"testing"

	"github.com/idemq/idemq/internal/linear"
)

func TestHistoriesAreLinearizable(t *testing.T) {
	t.Parallel()
	linear.Check(t, open(t, testDB(t, Postgres), Postgres, Config{}), linear.Config{Calls: 120})
}
