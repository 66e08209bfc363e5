package sqlstore

import (
	"crypto/md5" //nolint:gosec // spreads keys, protects nothing
	"database/sql"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/internal/testserver"
)

var growthRows = flag.String("rows", "1000,10000", "how many records the tables of BenchmarkGrowth hold, the first to compare with")

const (
	growthKeys    = 384 // of one measurement
	growthWorkers = 4
	growthBatch   = 64
)

// BenchmarkGrowth claims and settles keys in tables of several sizes, in turn within each round, and prints what a key takes in
// each and how many keys a second there are beside the first size, as the median of the rounds:
//
//	go test ./dedup/sqlstore -run '^$' -bench Growth -benchtime 15x -args -rows 10000,100000,1000000,10000000
//
// fresh: a claim and a settlement of keys that begin with the time, as UUIDv7 do. random: the same with keys that fall anywhere
// in the index. duplicate: a claim of a key that is settled, any of the table. batch: random in batches of 64.
func BenchmarkGrowth(b *testing.B) {
	var tables []*growthTable
	for _, n := range strings.Split(*growthRows, ",") {
		rows, err := strconv.Atoi(n)
		require.NoError(b, err, "-rows")
		tables = append(tables, newGrowthTable(b, rows))
	}
	ways := []string{"fresh", "random", "duplicate", "batch"}
	took, ratio := map[string][][]float64{}, map[string][][]float64{}
	for _, how := range ways {
		took[how], ratio[how] = make([][]float64, len(tables)), make([][]float64, len(tables))
	}
	for n := 0; b.Loop(); n++ {
		for _, how := range ways {
			for i := range tables {
				i = (i + n) % len(tables)
				start := time.Now()
				require.NoError(b, tables[i].work(b, how))
				took[how][i] = append(took[how][i], float64(time.Since(start).Microseconds())/growthKeys)
			}
			for i := range tables {
				ratio[how][i] = append(ratio[how][i], took[how][0][n]/took[how][i][n])
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	for _, how := range ways {
		for i, t := range tables {
			b.ReportMetric(median(took[how][i]), fmt.Sprintf("%s-%d-µs", how, t.rows))
			if i > 0 {
				b.ReportMetric(median(ratio[how][i]), fmt.Sprintf("%s-%d-x", how, t.rows))
			}
		}
	}
}

func median(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

// growthTable is a database whose table of records is filled.
type growthTable struct {
	*Store
	db   *sql.DB
	rows int
	next atomic.Int64
}

// growthID is the key with this number, ordered or not.
func growthID(n int64, ordered bool) string {
	sum := md5.Sum([]byte(strconv.FormatInt(n, 10))) //nolint:gosec // see above
	tail := hex.EncodeToString(sum[:])
	if ordered {
		return fmt.Sprintf("%012x-%s", n, tail[:23])
	}
	return tail + "-rnd"
}

// fillText makes settled records as a claim and a settlement leave them: $1 how many, which expire over the next week.
const fillText = `INSERT INTO idemq_records (scope, id, state, fence, version, nonce, attempt, generation, fingerprint, result, retention,
		created_at, updated_at, expires_at, sweep_hour)
	SELECT 'growth', lpad(to_hex(n), 12, '0') || '-' || left(md5(n::text), 23), 'c', t.now + n, 2, left(md5(n::text), 26), 1, 1,
		decode(md5(n::text), 'hex'), '', 604800000000, t.now, t.now, t.now + 86400000000 + n * 518400000000 / $1::bigint,
		(t.now + 86400000000 + n * 518400000000 / $1::bigint + 3599999999) / 3600000000
	FROM generate_series(1, $1::bigint) n, (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now) t`

func newGrowthTable(b *testing.B, rows int) *growthTable {
	b.Helper()
	db := testserver.Postgres(b).DB(b)
	require.NoError(b, Migrate(b.Context(), db, Postgres))
	for _, text := range []string{fillText, "VACUUM (ANALYZE) idemq_records", "CHECKPOINT"} {
		var args []any
		if text == fillText {
			args = append(args, rows)
		}
		_, err := db.ExecContext(b.Context(), text, args...)
		require.NoError(b, err)
	}
	t := &growthTable{Store: open(b, db, Postgres, Config{}), db: db, rows: rows}
	t.next.Store(int64(rows))
	for _, how := range []string{"fresh", "duplicate", "batch"} { // connections, statements
		require.NoError(b, t.work(b, how))
	}
	return t
}

// work is one measurement.
func (t *growthTable) work(b *testing.B, how string) error {
	errs := make(chan error)
	for range growthWorkers {
		go func() {
			if how == "batch" {
				errs <- t.batches(b, growthKeys/growthWorkers)
				return
			}
			var err error
			for n := 0; n < growthKeys/growthWorkers && err == nil; n++ {
				err = t.one(b, how)
			}
			errs <- err
		}()
	}
	var all error
	for range growthWorkers {
		all = errors.Join(all, <-errs)
	}
	return all
}

func (t *growthTable) claim(id string) dedup.Claim {
	return dedup.Claim{
		Key: dedup.Key{Scope: "growth", ID: id}, Nonce: "abcdefghijklmnopqrstuvwxyz", Lease: 30 * time.Second, Retention: 7 * 24 * time.Hour,
		Fingerprint: dedup.FingerprintOf([]byte(id)),
	}
}

var growthEnd = dedup.Settlement{State: dedup.Consumed, Retention: 7 * 24 * time.Hour}

func (t *growthTable) one(b *testing.B, how string) error {
	want := dedup.Granted
	c := t.claim(growthID(t.next.Add(1), how == "fresh"))
	if how == "duplicate" {
		want = dedup.Duplicate
		c = t.claim(growthID(1+rand.Int64N(int64(t.rows)), true)) //nolint:gosec // not a secret
		c.Fingerprint = dedup.Fingerprint{}
	}
	v, r, err := t.Acquire(b.Context(), c)
	switch {
	case err != nil:
		return err
	case v != want:
		return fmt.Errorf("%s: %v", how, v)
	case v == dedup.Duplicate:
		return nil
	}
	return t.Settle(b.Context(), hold(r), growthEnd)
}

func (t *growthTable) batches(b *testing.B, keys int) error {
	for ; keys > 0; keys -= growthBatch {
		claims := make([]dedup.Claim, min(keys, growthBatch))
		settlements := make([]dedup.HeldSettlement, len(claims))
		for i := range claims {
			claims[i] = t.claim(growthID(t.next.Add(1), false))
		}
		for i, a := range t.AcquireMany(b.Context(), claims) {
			if a.Err != nil || a.Verdict != dedup.Granted {
				return fmt.Errorf("batch: %v, %w", a.Verdict, a.Err)
			}
			settlements[i] = dedup.HeldSettlement{Hold: hold(a.Record), Settlement: growthEnd}
		}
		for _, err := range t.SettleMany(b.Context(), settlements) {
			if err != nil {
				return err
			}
		}
	}
	return nil
}
