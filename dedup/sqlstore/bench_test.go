package sqlstore

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
)

var benchKeys atomic.Int64

// BenchmarkKey tells the cost of one key beside that of a bare insert of the effect in a transaction:
//
//	go test -run '^$' -bench Key -benchtime 2s -count 5 ./dedup/sqlstore
//
// insert: begin, insert, commit. claim+settle: a claim, that transaction, a settlement. transactional: a claim, that
// transaction with the settlement in it, the look whether it is committed. batch: a claim and a settlement for each of 64
// keys in two statements, without effects.
func BenchmarkKey(b *testing.B) {
	for _, kind := range []Dialect{Postgres, SQLite} {
		w := newWorld(b, kind, dedup.Config{})
		ctx := testContext(b)
		insert := func(ctx context.Context, settle bool) error {
			tx, err := w.db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer func() { _ = tx.Rollback() }()
			if err := effect(ctx, tx, "x"); err != nil {
				return err
			}
			if settle {
				if err := dedup.SettleTx(ctx, tx); err != nil {
					return err
				}
			}
			return tx.Commit()
		}
		claimed := func(settle bool) error {
			key := dedup.Key{Scope: "bench", ID: fmt.Sprint(benchKeys.Add(1))}
			_, err := w.d.Do(ctx, key, func(ctx context.Context) ([]byte, error) { return nil, insert(ctx, settle) })
			return err
		}
		run := func(name string, keys int, f func() error) {
			b.Run(kind.String()+"/"+name, func(b *testing.B) {
				for b.Loop() {
					require.NoError(b, f())
				}
				b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*keys), "µs/key")
			})
		}
		run("insert", 1, func() error { return insert(ctx, false) })
		run("claim+settle", 1, func() error { return claimed(false) })
		run("transactional", 1, func() error { return claimed(true) })
		const batch = 64
		run("batch", batch, func() error {
			claims := make([]dedup.Claim, batch)
			for i := range claims {
				claims[i] = claimOf(fmt.Sprint("batch-", benchKeys.Add(1)), "a")
			}
			settlements := make([]dedup.HeldSettlement, batch)
			for i, a := range w.AcquireMany(ctx, claims) {
				if a.Err != nil {
					return a.Err
				}
				settlements[i] = dedup.HeldSettlement{Hold: hold(a.Record), Settlement: dedup.Settlement{State: dedup.Consumed, Retention: time.Hour}}
			}
			for _, err := range w.SettleMany(ctx, settlements) {
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
}
