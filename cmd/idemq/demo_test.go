package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/internal/testserver"
)

var demoFields = []string{
	"published", "unique", "duplicates", "executed", "duplicate_acks", "parked", "dead_lettered", "replayed", "lost", "effects",
	"effects_repeated", "interrupted", "kills", "elapsed_ms", "store", "nats",
}

// demo prepares a demo that has a folder for temporary files of its own.
func demo(t *testing.T, args ...string) (p *process, tmp string) {
	p, tmp = command(t, append([]string{"demo", "--messages", "200"}, args...)...), t.TempDir()
	p.cmd.Env = environment("TMPDIR=" + tmp)
	return p, tmp
}

func leavesNothing(t *testing.T, tmp string) {
	t.Helper()
	left, err := os.ReadDir(tmp)
	require.NoError(t, err)
	assert.Empty(t, left)
}

func TestDemo(t *testing.T) {
	t.Parallel()
	for name, store := range map[string]func(t *testing.T) string{
		"kv":    func(*testing.T) string { return "kv" },
		"redis": func(t *testing.T) string { return testserver.Redis(t).URL() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := store(t)
			p, tmp := demo(t, "--json", "--store", url)
			require.Equal(t, exitFine, p.start().wait(), p.err.String())
			o := p.object(demoFields...)
			assert.Equal(t, 264, number(o, "published"), "200, 60 duplicates, 2 without a key, 2 conflicts")
			assert.Equal(t, 200, number(o, "unique"))
			assert.Equal(t, 60, number(o, "duplicates"))
			assert.Equal(t, 0, number(o, "lost"))
			assert.Equal(t, 8, number(o, "dead_lettered"), "4 poison, 2 without a key, 2 conflicts")
			assert.Equal(t, 1, number(o, "kills"))
			assert.Positive(t, number(o, "interrupted"), "the kill hit nobody at work")
			assert.LessOrEqual(t, number(o, "effects_repeated"), number(o, "interrupted"))
			assert.Equal(t, 4, number(o, "replayed"), "all but those without a key and the conflicts")
			assert.Equal(t, 200+number(o, "effects_repeated"), number(o, "effects"), "the replayed ones once each")
			assert.True(t, strings.HasPrefix(p.err.String(), "store: "+redact(url)), "the first line says which store")
			leavesNothing(t, tmp)
		})
	}
}

// A worker that is told to end while it still connects ends well.
func TestDemoWorkerThatIsStoppedBeforeItBegins(t *testing.T) {
	t.Parallel()
	mute, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = mute.Close() })
	how, err := link{urlField: setting{"nats://" + mute.Addr().String(), ""}}.encode()
	require.NoError(t, err)
	p := command(t, "demo-worker", "ID", filepath.Join(t.TempDir(), "journal")) // its standard input has ended
	p.cmd.Env = environment(demoConnection+"="+how, "IDEMQ_STORE=kv")
	assert.Equal(t, exitFine, p.start().wait(), p.err.String())
}

// With effect and record in one transaction nothing repeats, whatever the kill hits.
func TestDemoInADatabase(t *testing.T) {
	t.Parallel()
	sqlite := func(t *testing.T) string { return "sqlite://" + filepath.Join(t.TempDir(), "a demo%.db") }
	postgres := func(t *testing.T) string { return testserver.Postgres(t).Database(t) }
	for name, store := range map[string]func(t *testing.T) []string{
		"sqlite":   func(t *testing.T) []string { return []string{"--store", sqlite(t)} },
		"postgres": func(t *testing.T) []string { return []string{"--store", postgres(t)} },
		"redis before sqlite": func(t *testing.T) []string {
			return []string{"--store", testserver.Redis(t).URL(), "--durable-store", sqlite(t)}
		},
		"redis before postgres": func(t *testing.T) []string {
			return []string{"--store", testserver.Redis(t).URL(), "--durable-store", postgres(t)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, tmp := demo(t, append(store(t), "--json")...)
			require.Equal(t, exitFine, p.start().wait(), p.err.String())
			o := p.object(demoFields...)
			assert.Equal(t, 1, number(o, "kills"))
			assert.Equal(t, 0, number(o, "lost"))
			assert.Equal(t, 0, number(o, "effects_repeated"))
			assert.Equal(t, 200, number(o, "effects"), "the replayed ones once each")
			assert.Equal(t, 4, number(o, "replayed"))
			leavesNothing(t, tmp)
		})
	}
}

func TestDemoWithoutKill(t *testing.T) {
	t.Parallel()
	p, tmp := demo(t, "--no-kill", "--store", "kv")
	require.Equal(t, exitFine, p.start().wait(), p.err.String())
	assert.Contains(t, p.out.String(), "Nothing was lost, and no effect was repeated.")
	assert.Empty(t, p.err.String())
	leavesNothing(t, tmp)
}

func TestDemoChoosesItsStore(t *testing.T) {
	t.Parallel()
	t.Run("a redis-server on PATH", func(t *testing.T) {
		t.Parallel()
		testserver.PrivateRedis(t) // skips without one
		p, tmp := demo(t, "--json", "--no-kill")
		require.Equal(t, exitFine, p.start().wait(), p.err.String())
		assert.Contains(t, p.object(demoFields...)["store"], "redis://127.0.0.1:")
		assert.True(t, strings.HasPrefix(p.err.String(), "store: redis://127.0.0.1:"))
		leavesNothing(t, tmp)
	})
	t.Run("JetStream KV without one", func(t *testing.T) {
		t.Parallel()
		p, tmp := demo(t, "--json", "--no-kill")
		p.cmd.Env = append(p.cmd.Env, "PATH="+tmp)
		require.Equal(t, exitFine, p.start().wait(), p.err.String())
		assert.Equal(t, "kv", p.object(demoFields...)["store"])
		assert.Contains(t, p.err.String(), "no redis-server on PATH")
	})
}

func TestDemoLeavesNothingOnGivenServers(t *testing.T) {
	t.Parallel()
	s := testserver.NATS(t)
	p, _ := demo(t, "--nats", s.URL(), "--store", "kv")
	require.Equal(t, exitFine, p.start().wait(), p.err.String())
	js, err := jetstream.New(s.Conn(t))
	require.NoError(t, err)
	for name := range js.StreamNames(context.Background()).Name() {
		assert.Equal(t, "KV_idemq", name)
	}
	bucket, err := js.KeyValue(context.Background(), "idemq")
	require.NoError(t, err)
	_, err = bucket.Keys(context.Background())
	assert.ErrorIs(t, err, jetstream.ErrNoKeysFound)
}

func TestInterruptedDemoCleansUp(t *testing.T) {
	t.Parallel()
	p, tmp := demo(t, "--messages", "3000", "--store", "kv")
	p.start().says(&p.err, "was killed with SIGKILL")
	require.NoError(t, p.cmd.Process.Signal(os.Interrupt))
	assert.Equal(t, exitFailed, p.wait())
	assert.Contains(t, p.err.String(), "interrupt")
	leavesNothing(t, tmp)
}

// Where nothing succeeds before the replays nobody is killed, and the workers must not hold in the replays instead.
func TestDemoInWhichNobodyIsKilled(t *testing.T) {
	t.Parallel()
	p, tmp := demo(t, "--messages", "5", "--failures", "1", "--store", "kv", "--json")
	require.Equal(t, exitFine, p.start().wait(), p.err.String())
	o := p.object(demoFields...)
	assert.Equal(t, 0, number(o, "lost"))
	assert.Equal(t, 0, number(o, "kills"))
	leavesNothing(t, tmp)
}

func TestDemoNoticesThatItsWorkersDie(t *testing.T) {
	t.Parallel()
	p, tmp := demo(t, "--store", "kv", "--workers", "1")
	p.cmd.Env = append(p.cmd.Env, demoWorkerFails+"=1")
	assert.Equal(t, exitFailed, p.start().wait())
	assert.Contains(t, p.err.String(), "ended by itself")
	leavesNothing(t, tmp)
}

// The server confirms a message before it counts it as pending.
func TestDemoWaitsForWhatTheServerHasNotCountedYet(t *testing.T) {
	t.Parallel()
	info := func(delivered uint64, pending uint64, unacked int) *jetstream.ConsumerInfo {
		return &jetstream.ConsumerInfo{Delivered: jetstream.SequenceInfo{Stream: delivered}, NumPending: pending, NumAckPending: unacked}
	}
	assert.Equal(t, 28, leftToDo(28, 28, info(0, 0, 0)), "all confirmed, none counted")
	assert.Equal(t, 8, leftToDo(28, 28, info(20, 0, 0)))
	assert.Equal(t, 28, leftToDo(28, 20, info(20, 0, 20)))
	assert.Equal(t, 3, leftToDo(28, 28, info(28, 0, 3)))
	assert.Zero(t, leftToDo(28, 28, info(28, 0, 0)))
}

func TestDemoVerdict(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		r    demoResult
		code int
		says string
	}{
		"fine":             {demoResult{}, exitFine, "no effect was repeated"},
		"kill explains it": {demoResult{EffectsRepeated: 2, Interrupted: 2, Kills: 1}, exitFine, "a worker had done"},
		"nothing explains": {demoResult{EffectsRepeated: 3, Interrupted: 2, Kills: 1}, exitInvariant, "BROKEN"},
		"lost":             {demoResult{Lost: 1}, exitInvariant, "BROKEN"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			d := &demoRun{app: &app{out: &out}, plan: newPlan(demoFlags{messages: 1})}
			err := d.report(c.r)
			if c.code == exitFine {
				assert.NoError(t, err)
			} else {
				var exit *exitError
				require.ErrorAs(t, err, &exit)
				assert.Equal(t, c.code, exit.code)
			}
			assert.Contains(t, out.String(), c.says)
		})
	}
}

// The count must notice what it is there to notice.
func TestJournalCountsRepeatedEffects(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/journal"
	require.NoError(t, os.WriteFile(path, []byte("effect a 5 100\nevent executed\nholding\neffect b 7 100\neffect a 9 101\n"), 0o600))
	j, err := readJournal(path)
	require.NoError(t, err)
	assert.Equal(t, []effect{{"a", dedup.Fence(5), 100}, {"b", dedup.Fence(7), 100}, {"a", dedup.Fence(9), 101}}, j.effects)
	assert.Equal(t, 1, j.events["executed"])
	assert.Equal(t, 1, j.holding)
}
