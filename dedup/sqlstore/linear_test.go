package sqlstore

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/internal/linear"
)

func TestHistoriesAreLinearizable(t *testing.T) {
	eachDialect(t, func(t *testing.T, d Dialect) {
		linear.Check(t, open(t, testDB(t, d), d, Config{}), linear.Config{Calls: 120})
	})
}

// A statement reads its clock, and may then wait for the change that it finds; by its own time that change would be ahead.
func TestAChangeThatIsFoundIsPast(t *testing.T) {
	eachDialect(t, func(t *testing.T, d Dialect) {
		w := newWorld(t, d, dedup.Config{})
		ctx := testContext(t)
		r := w.granted(t, "1", "a")
		require.NoError(t, w.Release(ctx, hold(r), dedup.Release{}))
		_, err := w.db.ExecContext(ctx, "UPDATE idemq_records SET updated_at = updated_at + 60000000, not_before = updated_at + 60000000")
		require.NoError(t, err)
		v, _, err := w.Acquire(ctx, claimOf("1", "b"))
		require.NoError(t, err)
		require.Equal(t, dedup.Granted, v)
	})
}
