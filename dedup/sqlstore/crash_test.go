package sqlstore

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/internal/testserver"
)

// crashes is how often the random test kills a worker; 500 is for a night.
var crashes = flag.Int("crashes", 6, "how often to kill a worker at random")

// envWorker makes the test binary a worker: "dialect ways dsn first last boundary".
const envWorker = "IDEMQ_SQLSTORE_TEST_WORKER"

// The boundaries at which a worker can die. It says each aloud, and waits there for its death if it is the chosen one.
const (
	acquired  = "acquired"  // claimed, nothing done
	effected  = "effected"  // the effect is in the open transaction (committed, in the control)
	settled   = "settled"   // and the settlement
	committed = "committed" // the transaction is committed, nobody else knows
)

// keysPerWorker is how many keys come between two random deaths.
const keysPerWorker = 10

type job struct {
	kind        Dialect
	way, dsn    string
	first, last int
	die         string
}

func (j job) env() string {
	return fmt.Sprintf("%s=%d|%s|%s|%d|%d|%s", envWorker, j.kind, j.way, j.dsn, j.first, j.last, j.die)
}

// worker is the main function of a worker process.
func worker(spec string) error {
	f := strings.Split(spec, "|")
	kind, _ := strconv.Atoi(f[0])
	first, _ := strconv.Atoi(f[3])
	last, _ := strconv.Atoi(f[4])
	j := job{kind: Dialect(kind), way: f[1], dsn: f[2], die: f[5]} //nolint:gosec // it is 1 or 2
	db, err := sql.Open(map[Dialect]string{SQLite: "sqlite", Postgres: "pgx"}[j.kind], j.dsn)
	if err != nil {
		return err
	}
	ctx := context.Background()
	s, err := New(ctx, db, j.kind, Config{})
	if err != nil {
		return err
	}
	d, err := dedup.New(s, dedup.Config{SettleInTx: j.way == "tx"})
	if err != nil {
		return err
	}
	for i := first; i < last; i++ {
		key := dedup.Key{Scope: "crash", ID: fmt.Sprint("k", i)}
		if _, err := d.Do(ctx, key, func(ctx context.Context) ([]byte, error) { return nil, j.handle(ctx, db) }); err != nil {
			return err
		}
	}
	return nil
}

func (j job) at(boundary string) {
	fmt.Println(boundary)
	if j.die == boundary {
		select {} // until it is killed
	}
}

func (j job) handle(ctx context.Context, db *sql.DB) error {
	j.at(acquired)
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := effect(ctx, tx, dedup.KeyFrom(ctx).ID); err != nil {
		return err
	}
	if j.way == "tx" {
		j.at(effected)
		if err := dedup.SettleTx(ctx, tx); err != nil {
			return err
		}
		j.at(settled)
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	j.at(committed)
	return nil
}

// crashWorld is a database of workers and their effects.
type crashWorld struct {
	world
	job
}

func newCrashWorld(t *testing.T, kind Dialect, way string) crashWorld {
	t.Helper()
	j := job{kind: kind, way: way, die: "never"}
	var db *sql.DB
	if kind == SQLite {
		j.dsn = sqliteDSN(filepath.Join(t.TempDir(), "idemq.db"))
		db = openSQLite(t, j.dsn)
	} else {
		j.dsn = testserver.Postgres(t).Database(t)
		var err error
		db, err = sql.Open("pgx", j.dsn)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, db.Close()) })
	}
	require.NoError(t, Migrate(testContext(t), db, kind))
	_, err := db.ExecContext(testContext(t), "CREATE TABLE effects (id text)")
	require.NoError(t, err)
	return crashWorld{world: world{db: db}, job: j}
}

// run starts a worker and kills it with SIGKILL when it has said so many lines (0: never), or at its boundary. It returns
// whether the worker was killed.
func (w crashWorld) run(t *testing.T, j job, lines int) (killed bool) {
	t.Helper()
	cmd := exec.CommandContext(testContext(t), os.Args[0]) //nolint:gosec // this very test
	cmd.Env = append(os.Environ(), j.env())
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	n := 0
	for said := bufio.NewScanner(out); said.Scan(); {
		if n++; n == lines || said.Text() == j.die {
			require.NoError(t, cmd.Process.Kill())
			killed = true
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if killed && (err == nil || errors.As(err, &exit) && exit.ExitCode() == -1) {
		return true
	}
	require.NoError(t, err, stderr.String())
	return killed
}

// outlast is the time in which the leases of the dead run out.
func (w crashWorld) outlast(t *testing.T) {
	t.Helper()
	if w.kind == Postgres { // sessions of the dead may not be rolled back yet, and hold their rows
		require.Eventually(t, func() bool {
			var open int
			err := w.db.QueryRowContext(testContext(t),
				"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()").Scan(&open)
			return err == nil && open == 0
		}, patience, tick)
	}
	_, err := w.db.ExecContext(testContext(t), "UPDATE idemq_records SET lease_until = 1 WHERE state = 'a'")
	require.NoError(t, err)
}

// counts returns how many keys have had how many effects.
func (w crashWorld) counts(t *testing.T) map[int]int {
	t.Helper()
	rows, err := w.db.QueryContext(testContext(t), "SELECT count(*) FROM effects GROUP BY id")
	require.NoError(t, err)
	defer func() { require.NoError(t, rows.Close()) }()
	out := map[int]int{}
	for rows.Next() {
		var n int
		require.NoError(t, rows.Scan(&n))
		out[n]++
	}
	require.NoError(t, rows.Err())
	return out
}

// A worker that is killed at each boundary, and one that goes on after it: exactly one effect for each key. Without the
// transactional settlement a death between effect and mark repeats the effect, so the test can fail.
func TestCrashAtEachBoundary(t *testing.T) {
	eachDialect(t, func(t *testing.T, kind Dialect) {
		for _, c := range []struct {
			way, die string
			effects  int
		}{
			{"tx", acquired, 1}, {"tx", effected, 1}, {"tx", settled, 1}, {"tx", committed, 1},
			{"control", acquired, 1}, {"control", committed, 2},
		} {
			t.Run(c.way+"-"+c.die, func(t *testing.T) {
				t.Parallel()
				w := newCrashWorld(t, kind, c.way)
				j := w.job
				j.last, j.die = 1, c.die
				require.True(t, w.run(t, j, 0))
				w.outlast(t)
				j.die = "never"
				require.False(t, w.run(t, j, 0))
				assert.Equal(t, map[int]int{c.effects: 1}, w.counts(t))
			})
		}
	})
}

func TestCrashAtRandom(t *testing.T) {
	eachDialect(t, func(t *testing.T, kind Dialect) {
		w := newCrashWorld(t, kind, "tx")
		const linesPerKey = 4
		seed := rand.Uint64()
		t.Logf("seed %d, %d crashes", seed, *crashes)
		random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // not a secret
		killed := 0
		for round := range *crashes {
			j := w.job // what the one before left, and more
			j.first, j.last = max(0, round-1)*keysPerWorker, (round+1)*keysPerWorker
			if w.run(t, j, 1+random.IntN(linesPerKey*keysPerWorker)) {
				killed++
			}
			w.outlast(t)
			if j.first > 0 { // whatever the dead one left of the oldest keys
				j.last = j.first + keysPerWorker
				require.False(t, w.run(t, j, 0))
			}
		}
		j := w.job
		j.last = *crashes * keysPerWorker
		require.False(t, w.run(t, j, 0))
		assert.Positive(t, killed)
		assert.Equal(t, map[int]int{1: *crashes * keysPerWorker}, w.counts(t))
	})
}
