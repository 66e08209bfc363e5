package sqlstore

import (
	"bufio"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/dedup/tieredstore"
	"github.com/idemq/idemq/internal/testserver"
)

// crashes is how often the random test kills a worker of each way; 500 takes minutes.
var crashes = flag.Int("crashes", 2, "how often to kill a worker at random, for each way")

// envWorker makes the test binary a worker: "dialect way dsn redis prefix first last boundary".
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

// way is how effects and records go together; see docs/guarantees.md.
type way struct {
	tx     bool // the record is settled in the effect's transaction
	once   bool // the key is inserted there under a unique constraint
	redis  bool // claims are in Redis, settled records behind it in the database
	steps  bool // the work is in three steps with an effect each
	alone  bool // claims and settled records are in Redis
	repeat bool // nothing keeps a death after the commit from repeating the effect: the controls
}

var ways = map[string]way{
	"tx": {tx: true}, "once": {once: true}, "redis-tx": {redis: true, tx: true}, "tiered-once": {redis: true, once: true},
	"steps-once": {steps: true, once: true},
	"control":    {repeat: true}, "tiered-control": {redis: true, repeat: true}, "steps-control": {steps: true, repeat: true},
	"redis-control": {redis: true, alone: true, repeat: true},
}

// boundaries are those that a worker comes by for each effect.
func (y way) boundaries() []string {
	if y.tx {
		return []string{acquired, effected, settled, committed}
	}
	return []string{acquired, effected, committed}
}

var crashSteps = []string{"reserve", "charge", "ship"}

// effects is how many a key has.
func (y way) effects() int {
	if y.steps {
		return len(crashSteps)
	}
	return 1
}

type job struct {
	kind             Dialect
	way, dsn         string
	redisURL, prefix string // of the claims; empty if they are in the database
	first, last      int
	die              string
}

func (j job) env() string {
	return fmt.Sprintf("%s=%d|%s|%s|%s|%s|%d|%d|%s", envWorker, j.kind, j.way, j.dsn, j.redisURL, j.prefix, j.first, j.last, j.die)
}

// claims is the store in Redis, nil if claims are in the database.
func (j job) claims() (*redisstore.Store, error) {
	if j.redisURL == "" {
		return nil, nil //nolint:nilnil // there is none
	}
	o, err := redis.ParseURL(j.redisURL)
	if err != nil {
		return nil, err
	}
	return redisstore.New(redis.NewClient(o), redisstore.Config{Prefix: j.prefix}), nil
}

// worker is the main function of a worker process.
func worker(spec string) error {
	f := strings.Split(spec, "|")
	kind, _ := strconv.Atoi(f[0])
	first, _ := strconv.Atoi(f[5])
	last, _ := strconv.Atoi(f[6])
	j := job{kind: Dialect(kind), way: f[1], dsn: f[2], redisURL: f[3], prefix: f[4], die: f[7]} //nolint:gosec // it is 1 or 2
	db, err := sql.Open(map[Dialect]string{SQLite: "sqlite", Postgres: "pgx"}[j.kind], j.dsn)
	if err != nil {
		return err
	}
	ctx := context.Background()
	s, err := New(ctx, db, j.kind, Config{})
	if err != nil {
		return err
	}
	store := dedup.Store(s)
	if fast, err := j.claims(); err != nil {
		return err
	} else if ways[j.way].alone {
		store = fast
	} else if fast != nil {
		if store, err = tieredstore.New(fast, s, tieredstore.Config{}); err != nil {
			return err
		}
	}
	d, err := dedup.New(store, dedup.Config{SettleInTx: ways[j.way].tx})
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
		_, _ = fmt.Scanln() // until it is killed, or told to go on
	}
}

func (j job) handle(ctx context.Context, db *sql.DB) error {
	j.at(acquired)
	if !ways[j.way].steps {
		return j.effect(ctx, db, "")
	}
	for _, name := range crashSteps {
		if _, err := dedup.Step(ctx, name, func(ctx context.Context) (bool, error) { return true, j.effect(ctx, db, name) }); err != nil {
			return err
		}
	}
	return nil
}

// effect has one in a transaction.
func (j job) effect(ctx context.Context, db *sql.DB, name string) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	first := true
	if ways[j.way].once {
		if first, err = Once(ctx, tx, j.kind, "effect "+name); err != nil {
			return err
		}
	}
	if first {
		if err := effect(ctx, tx, dedup.KeyFrom(ctx).ID+name); err != nil {
			return err
		}
	}
	j.at(effected)
	if ways[j.way].tx {
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
	if ways[way].redis {
		j.redisURL, j.prefix = testserver.Redis(t).URL(), "crash"+rand.Text()+":"
	}
	require.NoError(t, Migrate(testContext(t), db, kind))
	_, err := db.ExecContext(testContext(t), "CREATE TABLE effects (id text)")
	require.NoError(t, err)
	return crashWorld{world: world{db: db}, job: j}
}

func (j job) command(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(testContext(t), os.Args[0]) //nolint:gosec // this very test
	cmd.Env = append(os.Environ(), j.env())
	return cmd
}

// run starts a worker and kills it with SIGKILL when it has said so many lines (0: never), or at its boundary. It returns
// whether the worker was killed.
func (w crashWorld) run(t *testing.T, j job, lines int) (killed bool) {
	t.Helper()
	cmd := j.command(t)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	defer func() { _ = in.Close() }()
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
	fast, err := w.claims()
	require.NoError(t, err)
	if fast == nil {
		return
	}
	ctx := testContext(t)
	for r, err := range fast.List(ctx, dedup.Filter{States: []dedup.State{dedup.Acquired}}) {
		require.NoError(t, err)
		require.NoError(t, fast.Extend(ctx, hold(r), time.Millisecond))
		require.Eventually(t, func() bool {
			got, err := fast.Get(ctx, r.Key)
			return err == nil && got.LeaseLeft() == 0
		}, patience, tick)
	}
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

// A worker that is killed at each boundary, and one that goes on after it: exactly one effect for each key, whatever the way.
// The controls have a gap between effect and record, in which a death repeats the effect, so the test can fail.
func TestCrashAtEachBoundary(t *testing.T) {
	eachDialect(t, func(t *testing.T, kind Dialect) {
		for name, y := range ways {
			for _, die := range y.boundaries() {
				t.Run(name+"-"+die, func(t *testing.T) {
					t.Parallel()
					w := newCrashWorld(t, kind, name)
					j := w.job
					j.last, j.die = 1, die
					require.True(t, w.run(t, j, 0))
					w.outlast(t)
					j.die = "never"
					require.False(t, w.run(t, j, 0))
					want := map[int]int{1: y.effects()}
					if y.repeat && die == committed { // the first effect of the key comes again
						if want[2] = 1; y.effects() == 1 {
							delete(want, 1)
						} else {
							want[1]--
						}
					}
					assert.Equal(t, want, w.counts(t))
				})
			}
		}
	})
}

// mustRepeat is after how many random deaths the controls have had one between effect and record for certain.
const mustRepeat = 50

func TestCrashAtRandom(t *testing.T) {
	eachDialect(t, func(t *testing.T, kind Dialect) {
		for name, y := range ways {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				counts := crashAtRandom(t, newCrashWorld(t, kind, name), len(y.boundaries()))
				keys := *crashes * keysPerWorker * y.effects()
				if !y.repeat {
					assert.Equal(t, map[int]int{1: keys}, counts)
					return
				}
				t.Logf("effects for each key of the control, and for how many: %v", counts)
				if *crashes >= mustRepeat {
					assert.Less(t, counts[1], keys)
				}
			})
		}
	})
}

func crashAtRandom(t *testing.T, w crashWorld, linesPerKey int) map[int]int {
	t.Helper()
	seed := mathrand.Uint64()
	t.Logf("seed %d, %d crashes", seed, *crashes)
	random := mathrand.New(mathrand.NewPCG(seed, 0)) //nolint:gosec // not a secret
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
	return w.counts(t)
}
