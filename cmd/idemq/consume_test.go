//go:build unix

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/internal/testserver"
)

var summaryFields = []string{
	"delivered", "executed", "duplicate_acks", "parked", "retried", "dead_lettered", "lease_lost", "unconfirmed",
}

// work is a stream of a test's own, and the command line that consumes it.
type work struct {
	t            *testing.T
	nats, stream string
	consume      []string
}

func newWork(t *testing.T, stream, store string) *work {
	t.Helper()
	w := &work{t: t, nats: testserver.SharedNATS(t).URL(), stream: stream}
	w.consume = []string{"consume", "--nats", w.nats, "--store", store, "--stream", stream, "--durable", "D"}
	fine(t, w.args("--subjects", stream+".>", "--create", "--exec", "true", "--idle-exit", "1ms")...)
	return w
}

func (w *work) args(more ...string) []string {
	return append(append([]string{}, w.consume...), more...)
}

func (w *work) publish(args ...string) {
	w.t.Helper()
	fine(w.t, append([]string{"publish", w.stream + ".a", "--nats", w.nats}, args...)...)
}

func (w *work) state(key string) any {
	w.t.Helper()
	p, code := idemq(w.t, "key", "show", key, "--scope", w.stream+"/D", "--nats", w.nats, "--store", "kv")
	require.Equal(w.t, exitFine, code, p.err.String())
	return p.object(keyFields...)["state"]
}

func TestConsumeGivesTheCommandItsMessage(t *testing.T) {
	t.Parallel()
	w := newWork(t, "ENV", "kv")
	key := strings.Repeat("{}", 127) + "$"
	w.publish("--key", key, "--data", "body")
	p := fine(t, w.args("--idle-exit", "1ms", "--json", "--exec",
		`printf '%s|' "$IDEMQ_KEY" "$IDEMQ_ATTEMPT" "$IDEMQ_SUBJECT" "$IDEMQ_STREAM" "$IDEMQ_SEQ" "$(test "$IDEMQ_FENCE" -gt 0 && echo fenced)" "$(cat)"`)...)
	assert.Contains(t, p.err.String(), key+"|1|ENV.a|ENV|1|fenced|body|", "with --json standard output is for JSON alone")
	assert.Equal(t, map[string]any{
		"delivered": 1.0, "executed": 1.0, "duplicate_acks": 0.0, "parked": 0.0, "retried": 0.0, "dead_lettered": 0.0,
		"lease_lost": 0.0, "unconfirmed": 0.0,
	}, p.object(summaryFields...))

	w.publish("--key", "again", "--data", "plain")
	p = fine(t, w.args("--idle-exit", "1ms", "--create", "--subjects", "ENV.>", "--exec", "cat")...)
	assert.Contains(t, p.out.String(), "plain")
	assert.Contains(t, p.out.String(), "executed 1")
}

// Every kind of end that a message can have, in one run that ends by itself.
func TestConsumeSettlesEveryMessageAndEndsWhenIdle(t *testing.T) {
	t.Parallel()
	w := newWork(t, "MIX", "kv")
	for _, key := range []string{"good", "poison", "flaky", "hopeless"} {
		w.publish("--key", key, "--data", key)
	}
	w.publish("--key", "good", "--data", "good", "--header", "Nats-Msg-Id:again")
	w.publish("--key", "good", "--data", "other", "--header", "Nats-Msg-Id:conflict")
	w.publish("--no-key", "--data", "keyless")
	w.publish("--no-key", "--data", "two", "--header", "Idempotency-Key:a", "--header", "Idempotency-Key:b")
	w.publish("--no-key", "--data", "empty", "--header", "Idempotency-Key:")
	log := filepath.Join(t.TempDir(), "log")
	p := fine(t, w.args("--idle-exit", "1ms", "--json", "--max-attempts", "2", "--workers", "1", "--exec", `
		echo "$IDEMQ_KEY $IDEMQ_ATTEMPT" >> `+log+`
		case "$IDEMQ_KEY $IDEMQ_ATTEMPT" in
		poison*) exit 65;;
		"flaky 1") exit 75;;
		hopeless*) exit 1;;
		esac`)...)
	ran, err := os.ReadFile(log)
	require.NoError(t, err)
	assert.ElementsMatch(t, []string{"good 1", "poison 1", "flaky 1", "flaky 2", "hopeless 1", "hopeless 2"},
		strings.Split(strings.TrimSpace(string(ran)), "\n"))
	o := p.object(summaryFields...)
	assert.Equal(t, 2, number(o, "executed"))
	assert.Equal(t, 2, number(o, "retried"))
	assert.Equal(t, 1, number(o, "duplicate_acks"))
	assert.Equal(t, 6, number(o, "dead_lettered"), "poison, hopeless, conflict, no key, two keys, empty key")
	assert.Equal(t, "consumed", w.state("flaky"))
}

// sleeper is a command that says that it runs, with the process ids of itself and of a child, and then stays.
func sleeper(t *testing.T) (command, pids string) {
	pids = filepath.Join(t.TempDir(), "pids")
	return fmt.Sprintf(`sleep 300 & echo $$ $! > %[1]s.new; mv %[1]s.new %[1]s; wait`, pids), pids
}

// running waits until the sleeper runs, and returns the process ids.
func running(t *testing.T, pids string) []int {
	t.Helper()
	var ids []int
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(pids)
		if err != nil {
			return false
		}
		for _, f := range strings.Fields(string(b)) {
			id, err := strconv.Atoi(f)
			require.NoError(t, err)
			ids = append(ids, id)
		}
		return true
	}, patience, tick)
	require.Len(t, ids, 2)
	return ids
}

// alive says whether a process runs; one that is dead and only waits for its parent to notice does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || !strings.Contains(string(stat), ") Z ")
}

func TestShutdownLetsTheCommandFinish(t *testing.T) {
	t.Parallel()
	w := newWork(t, "FINISH", "kv")
	w.publish("--key", "k", "--data", "x")
	dir := t.TempDir()
	fifo := filepath.Join(dir, "go")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	p := command(t, w.args("--json", "--grace", "1m", "--log-level", "info", "--exec", "echo at work >&2; cat "+fifo)...).start()
	p.says(&p.err, "at work")
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, os.WriteFile(fifo, nil, 0o600)) // blocks until the command reads it, and lets it end
	assert.Equal(t, exitFine, p.wait(), p.err.String())
	assert.Equal(t, 1, number(p.object(summaryFields...), "executed"))
	assert.Equal(t, "consumed", w.state("k"))
}

func TestShutdownGivesBackWhatTakesTooLong(t *testing.T) {
	t.Parallel()
	for name, sig := range map[string]syscall.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWork(t, "BACK"+name, "kv")
			w.publish("--key", "k", "--data", "x")
			exec, pids := sleeper(t)
			p := command(t, w.args("--json", "--grace", "10ms", "--exec", exec)...).start()
			ids := running(t, pids)
			require.NoError(t, p.cmd.Process.Signal(sig))
			assert.Equal(t, exitFine, p.wait(), p.err.String())
			for _, id := range ids {
				assert.False(t, alive(id), "the command or its child outlived idemq")
			}
			assert.Equal(t, 0, number(p.object(summaryFields...), "executed"))
			assert.Equal(t, "failed", w.state("k"), "given back, to be tried again")
		})
	}
}

// What has finished its work must not do it again, although it was told to end.
func TestCommandThatFinishesWhenToldToEndIsDone(t *testing.T) {
	t.Parallel()
	w := newWork(t, "TOLD", "kv")
	w.publish("--key", "k", "--data", "x")
	p := command(t, w.args("--json", "--grace", "10ms", "--exec", `trap 'exit 0' TERM; echo ready >&2; while :; do sleep 0.01; done`)...).start()
	p.says(&p.err, "ready")
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	assert.Equal(t, exitFine, p.wait(), p.err.String())
	assert.Equal(t, 1, number(p.object(summaryFields...), "executed"))
	assert.Equal(t, "consumed", w.state("k"))
}

func TestCommandThatIgnoresSIGTERMIsKilled(t *testing.T) {
	t.Parallel()
	w := newWork(t, "STUBBORN", "kv")
	w.publish("--key", "k", "--data", "x")
	exec, pids := sleeper(t)
	p := command(t, w.args("--json", "--grace", "10ms", "--exec", "trap '' TERM; "+exec)...).start()
	ids := running(t, pids)
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	assert.Equal(t, exitFine, p.wait(), p.err.String())
	for _, id := range ids {
		assert.False(t, alive(id))
	}
}

func TestCommandEndsWhenTheLeaseIsLost(t *testing.T) {
	t.Parallel()
	redis := testserver.PrivateRedis(t)
	w := newWork(t, "LEASE", redis.URL())
	w.publish("--key", "k", "--data", "x")
	exec, pids := sleeper(t)
	p := command(t, w.args("--json", "--lease", "1s", "--grace", "10ms", "--exec", exec)...).start()
	ids := running(t, pids)
	redis.Stop()
	for _, id := range ids {
		assert.Eventually(t, func() bool { return !alive(id) }, patience, tick, "the command or its child works on without a lease")
	}
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	assert.Equal(t, exitFine, p.wait(), p.err.String())
	o := p.object(summaryFields...)
	assert.Equal(t, 1, number(o, "lease_lost"))
	assert.Equal(t, 0, number(o, "executed"))
}

// While the store is away nothing runs and nothing is lost; when it is back, nobody has to do anything.
func TestConsumeResumesWhenTheStoreIsBack(t *testing.T) {
	t.Parallel()
	redis := testserver.PrivateRedis(t, "--appendonly", "yes")
	w := newWork(t, "RESUME", redis.URL())
	p := command(t, w.args("--json", "--log-level", "info", "--exec", `echo "ran $IDEMQ_KEY" >&2`)...).start()
	w.publish("--key", "before", "--data", "x")
	p.says(&p.err, "ran before")
	redis.Stop()
	w.publish("--key", "meanwhile", "--data", "x")
	p.says(&p.err, "store")
	assert.NotContains(t, p.err.String(), "ran meanwhile")
	redis.Start(t)
	p.says(&p.err, "ran meanwhile")
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	assert.Equal(t, exitFine, p.wait(), p.err.String())
	assert.Equal(t, 2, number(p.object(summaryFields...), "executed"))
}

func TestWhatACommandLeavesBehindEndsWithIt(t *testing.T) {
	t.Parallel()
	w := newWork(t, "BEHIND", "kv")
	w.publish("--key", "k", "--data", "x")
	pids := filepath.Join(t.TempDir(), "pids")
	fine(t, w.args("--idle-exit", "1ms", "--exec", "sleep 300 & echo $$ $! > "+pids)...)
	for _, id := range running(t, pids) {
		assert.Eventually(t, func() bool { return !alive(id) }, patience, tick)
	}
}
