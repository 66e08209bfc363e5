package sqlstore

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/internal/testserver"
)

var soak = flag.Duration("soak", 0, "for how long TestSoak goes on, at least a day by its clock, which is 48 s; 0 leaves it out")

const (
	soakWorkers = 4
	soakHour    = 2 * time.Second // what the store takes for an hour, so that records expire and are swept while one looks
	soakMemory  = 3 * time.Hour   // by the store's clock
	soakWarm    = 8 * time.Hour   // until as many records are swept as come
	soakLast    = 24 * time.Hour  // the end, unless -soak says more
	soakGrowth  = 1.5             // how large the table may become for each row of the most that lived, beside what it was when warm
	soakDead    = 2.0             // dead rows at any look, beside the most that lived: a slow machine has fewer
	soakLease   = 30 * time.Second
)

// fastClock is a dialect of Postgres by whose clock an hour is over in soakHour.
func fastClock() *dialect {
	d := *dialects[Postgres]
	now := time.Now().UnixMicro()
	d.tokens = strings.NewReplacer("{now}", fmt.Sprintf(
		"((extract(epoch FROM clock_timestamp()) * 1000000)::bigint - %[1]d) * %[2]d + %[1]d", now, int64(time.Hour/soakHour)),
		"{greatest}", "greatest", "{blob}", "bytea")
	return &d
}

// soakLook is what Postgres says of the table.
type soakLook struct {
	live, dead, vacuums, updated, hot int64
	bytes                             int64 // with its indexes
}

func lookAtTable(ctx context.Context, db *sql.DB) (l soakLook, err error) {
	err = db.QueryRowContext(ctx, `SELECT n_live_tup, n_dead_tup, autovacuum_count, n_tup_upd, n_tup_hot_upd, pg_total_relation_size(relid)
		FROM pg_stat_user_tables WHERE relname = 'idemq_records'`).Scan(&l.live, &l.dead, &l.vacuums, &l.updated, &l.hot, &l.bytes)
	return l, err
}

// What migration 3 sets; see there.
const (
	vacuumThreshold = 1000
	vacuumShare     = 0.02
)

func TestTheServerIsToldToVacuumEarly(t *testing.T) {
	t.Parallel()
	db := testDB(t, Postgres)
	for _, table := range []string{"idemq_records", "idemq_steps"} {
		var options string
		require.NoError(t, db.QueryRowContext(testContext(t), "SELECT array_to_string(reloptions, ',') FROM pg_class WHERE relname = $1", table).Scan(&options))
		assert.Contains(t, options, fmt.Sprintf("autovacuum_vacuum_scale_factor=%v,", vacuumShare), table)
		assert.Contains(t, options, fmt.Sprintf("autovacuum_vacuum_threshold=%v,", vacuumThreshold), table)
	}
}

// Claims, heartbeats, settlements, retries and sweeps without an end: the table, its indexes and its dead rows stay bounded
// although each key is written three times and deleted.
//
//	go test ./dedup/sqlstore -run TestSoak -v -args -soak 5m
func TestSoak(t *testing.T) {
	if *soak == 0 {
		t.Skip("-soak says for how long")
	}
	t.Parallel()
	db := testserver.PrivatePostgres(t).DB(t)
	ctx, cancel := context.WithTimeout(t.Context(), *soak+10*time.Minute)
	defer cancel()
	require.NoError(t, Migrate(ctx, db, Postgres))
	// A vacuum a minute is the default; here an hour is over in seconds.
	for _, text := range []string{"ALTER SYSTEM SET autovacuum_naptime = '1s'", "SELECT pg_reload_conf()"} {
		_, err := db.ExecContext(ctx, text)
		require.NoError(t, err)
	}
	s := open(t, db, Postgres, Config{})
	s.dialect = fastClock()
	s.st = s.dialect.statements()

	var keys atomic.Int64
	work, stop := context.WithCancel(ctx)
	var workers sync.WaitGroup
	for range soakWorkers {
		workers.Go(func() {
			for work.Err() == nil {
				assert.NoError(t, soakOne(ctx, s, keys.Add(1)))
			}
		})
	}
	defer workers.Wait()
	defer stop()

	clock := func() time.Duration {
		now, err := s.clock(ctx)
		require.NoError(t, err)
		return time.Duration(now) * time.Microsecond
	}
	begun, first := clock(), time.Now()
	var most, dead int64
	var warm float64
	size := func(l soakLook) float64 { return float64(l.bytes) / float64(most) }
	for hours := time.Duration(0); hours < soakLast || time.Since(first) < *soak; {
		if !waited(ctx, soakHour) {
			break
		}
		hours = clock() - begun
		l, err := lookAtTable(ctx, db)
		require.NoError(t, err)
		t.Logf("hour %3.0f: %7d keys, %6d live, %6d dead, %3d vacuums, %5.1f MB", hours.Hours(), keys.Load(), l.live, l.dead, l.vacuums, float64(l.bytes)/1e6)
		most, dead = max(most, l.live), max(dead, l.dead)
		if hours < soakWarm {
			warm = size(l)
		}
	}
	stop()
	workers.Wait()
	end, err := lookAtTable(ctx, db)
	require.NoError(t, err)
	t.Logf("%d keys, at most %d live and %d dead; %.0f bytes for each row of the most that lived, %.0f when warm; %.1f %% of updates on their page",
		keys.Load(), most, dead, size(end), warm, 100*float64(end.hot)/float64(end.updated))
	require.Eventually(t, func() bool {
		l, err := lookAtTable(ctx, db)
		return err == nil && float64(l.dead) <= vacuumThreshold+vacuumShare*float64(l.live)
	}, 2*patience, tick, "the server cleans up behind the last sweep")
	assert.Less(t, end.live, keys.Load()/2, "nothing was swept")
	assert.LessOrEqual(t, size(end), soakGrowth*warm)
	assert.LessOrEqual(t, float64(dead), soakDead*float64(most))
}

func waited(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// soakOne is the life of a key: every tenth fails once, every fourth is asked for again.
func soakOne(ctx context.Context, s *Store, n int64) error {
	c := dedup.Claim{
		Key: dedup.Key{Scope: "soak", ID: growthID(n, n%2 == 0)}, Nonce: dedup.Nonce("abcdefghijklmnopqrstuvwxyz" + strconv.FormatInt(n, 10)),
		Lease: soakLease, Retention: soakMemory,
	}
	_, r, err := s.Acquire(ctx, c)
	if err == nil {
		err = s.Extend(ctx, hold(r), soakLease)
	}
	if err == nil && n%10 == 0 {
		if err = s.Release(ctx, hold(r), dedup.Release{}); err == nil {
			c.Nonce += "again"
			_, r, err = s.Acquire(ctx, c)
		}
	}
	if err == nil {
		err = s.Settle(ctx, hold(r), dedup.Settlement{State: dedup.Consumed, Retention: soakMemory})
	}
	if err == nil && n%4 == 0 {
		c.Nonce += "duplicate"
		var v dedup.Verdict
		if v, _, err = s.Acquire(ctx, c); err == nil && v != dedup.Duplicate {
			err = fmt.Errorf("key %d: %v", n, v)
		}
	}
	return err
}
