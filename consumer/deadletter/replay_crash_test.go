package deadletter_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/kvstore"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/internal/testserver"
)

// A process that replays dies by SIGKILL after each step, and another one does the replay again.

const (
	crashURL = "IDEMQ_REPLAY_URL"
	crashAt  = "IDEMQ_REPLAY_DIES_AFTER"
	crashKey = "IDEMQ_REPLAY_NEW_KEY"
	crashDB  = "IDEMQ_REPLAY_REDIS" // address of the store, if it is not KV

	crashWindow = 100 * time.Millisecond // the shortest that the server takes
)

func TestKillAfterEachStep(t *testing.T) {
	t.Parallel()
	t.Run("kvstore", func(t *testing.T) {
		t.Parallel()
		killAfterEachStep(t, func(*testing.T) string { return "" })
	})
	t.Run("redisstore", func(t *testing.T) {
		t.Parallel()
		server := testserver.Redis(t)
		killAfterEachStep(t, func(t *testing.T) string {
			return fmt.Sprintf("%s?prefix=test:%d:%s:", server.URL(), time.Now().UnixNano(), url.QueryEscape(t.Name()))
		})
	})
}

// killAfterEachStep takes the store's address from its argument; none is KV.
func killAfterEachStep(t *testing.T, address func(t *testing.T) string) {
	t.Helper()
	for _, at := range []string{"reopen", "publish", "mark"} {
		for _, c := range []struct {
			name                         string
			keyless, workBetween, window bool // window: the publish window has passed in between
		}{
			{name: "at once"},
			{name: "after the worker ran", workBetween: true},
			{name: "after the publish window", window: true},
			{name: "after both", workBetween: true, window: true},
			{name: "without a key", keyless: true},
			{name: "without a key, after both", keyless: true, workBetween: true, window: true},
		} {
			t.Run(at+" "+c.name, func(t *testing.T) {
				t.Parallel()
				q, js := newQueue(t)
				if c.window {
					_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
						Name: deadletter.DefaultReplayStream, Subjects: []string{"idemq.replay.>"}, Retention: jetstream.WorkQueuePolicy,
						Duplicates: crashWindow,
					})
					require.NoError(t, err)
				}
				db := address(t)
				store := stores["kvstore"]
				if db != "" {
					store = func(t *testing.T, _ jetstream.JetStream) inspected {
						s, closeStore, err := redisstore.Open(db, redisstore.Config{})
						require.NoError(t, err)
						t.Cleanup(func() { _ = closeStore() })
						return s
					}
				}
				w := worldOf(t, js, q, store(t, js))
				var e deadletter.Entry
				if c.keyless {
					e = w.keyless(dedup.MissingKey, "")
				} else {
					e = w.die("order-1")
				}
				server := js.Conn().ConnectedUrl()
				err := replayProcess(t.Context(), server, db, at, c.keyless)
				var exit *exec.ExitError
				require.ErrorAs(t, err, &exit, "the process must die, else this shows nothing")
				require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal(), "%v", err)
				assert.Equal(t, at == "mark", w.entry(e.ID).Mark != nil)
				stored := 0
				windowPassed := func() bool { // once for the start, and again until the id is new again
					ack, err := js.Publish(t.Context(), "idemq.replay.probe", nil, jetstream.WithMsgID("probe"))
					if err == nil && !ack.Duplicate {
						stored++
					}
					return stored > 1
				}
				if c.workBetween {
					assert.Equal(t, at != "reopen", w.work() == 1)
				}
				if c.window {
					require.Eventually(t, windowPassed, 10*time.Second, crashWindow/2)
				}
				require.NoError(t, replayProcess(t.Context(), server, db, "", c.keyless), "the second one ends by itself")
				for w.work() > 0 {
				}
				require.Len(t, w.effects, 1, "nothing is lost")
				for key, n := range w.effects {
					assert.Equal(t, 1, n, "nothing runs twice")
					assert.Equal(t, dedup.Consumed, w.record(key).State)
				}
				assert.True(t, w.resolved(w.entry(e.ID)))
			})
		}
	}
}

// replayProcess runs this test binary as a process that replays everything.
func replayProcess(ctx context.Context, server, db, at string, newKey bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestReplayProcess$")
	cmd.Env = append(os.Environ(), crashURL+"="+server, crashDB+"="+db, crashAt+"="+at, fmt.Sprintf("%s=%t", crashKey, newKey))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// TestReplayProcess is that process; as a test of its own it has nothing to do.
func TestReplayProcess(t *testing.T) {
	server, at := os.Getenv(crashURL), os.Getenv(crashAt)
	if server == "" {
		return
	}
	deadletter.AfterStep(func(step string) {
		if step == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // the signal needs a moment
		}
	})
	nc, err := nats.Connect(server)
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	var store dedup.Inspector
	if db := os.Getenv(crashDB); db != "" {
		s, closeStore, err := redisstore.Open(db, redisstore.Config{})
		require.NoError(t, err)
		defer func() { _ = closeStore() }()
		store = s
	} else if store, err = kvstore.New(t.Context(), js, kvstore.Config{}); err != nil {
		require.NoError(t, err)
	}
	q := deadletter.New(js, deadletter.Config{})
	r := deadletter.NewReplayer(q, deadletter.NewReplayStream(js, deadletter.ReplayStreamConfig{}), store, deadletter.ReplayConfig{})
	for e, err := range q.List(t.Context(), deadletter.Filter{}) {
		require.NoError(t, err)
		got, err := r.Replay(t.Context(), e, deadletter.ReplayOptions{NewKey: os.Getenv(crashKey) == "true"})
		if e.Mark != nil {
			require.ErrorIs(t, err, deadletter.ErrReplayed)
			continue
		}
		require.NoError(t, err)
		require.NoError(t, got.Unmarked)
	}
}
