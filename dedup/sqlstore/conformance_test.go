package sqlstore

import (
	"encoding/hex"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/storetest"
)

func TestConformance(t *testing.T) {
	eachDialect(t, func(t *testing.T, d Dialect) {
		db := testDB(t, d)
		st := dialects[d].statement("UPDATE idemq_records SET state = $3 WHERE scope = $1 AND id = $2")
		storetest.Run(t, storetest.Harness{
			New: func(t *testing.T) dedup.Store { return open(t, db, d, Config{}) },
			// A row has no place for any bytes but its columns; the state stands for all.
			Corrupt: func(t *testing.T, k dedup.Key, raw []byte) {
				_, err := db.ExecContext(testContext(t), st.text, k.Scope, k.ID, "x"+hex.EncodeToString(raw))
				require.NoError(t, err)
			},
			Lease: 400 * time.Millisecond,
		})
	})
}
