package natsidem_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/kvstore"
	"github.com/idemq/idemq/internal/testserver"
	"github.com/idemq/idemq/publisher"
)

// A worker process dies by SIGKILL at each boundary of the lifecycle, and a second one takes over. The effect is a line
// in a file of its own, so that it outlives the process and counts what really happened.

const (
	crashURL    = "IDEMQ_CRASH_URL"
	crashAt     = "IDEMQ_CRASH_AT"
	crashEffect = "IDEMQ_CRASH_EFFECTS"
	crashBatch  = "IDEMQ_CRASH_BATCHES" // claims and settles in batches
	crashLease  = time.Second
)

func TestKillAtEachBoundary(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		at      string
		effects int
		why     string
	}{
		{"after acquire", 1, "I4: the abandoned key is granted again"},
		{"after effect", 2, "the honest at-least-once edge: without a keyed sink the effect is repeated"},
		{"after settle", 1, "I3: the store knows, so the redelivery is a duplicate"},
		{"before ack", 1, "I3, I5: an ack that was never sent is a harmless duplicate"},
		{"letter owed", 1, "I7: whoever comes by publishes the letter, and the handler does not run again"},
	} {
		for _, batches := range []string{"", "batches"} {
			t.Run(strings.TrimSpace(c.at+" "+batches), func(t *testing.T) {
				t.Parallel()
				killAt(t, c.at, batches, c.effects, c.why)
			})
		}
	}
}

func killAt(t *testing.T, at, batches string, wantEffects int, why string) {
	t.Helper()
	srv := testserver.NATS(t)
	js, err := jetstream.New(srv.Conn(t))
	require.NoError(t, err)
	ctx := t.Context()
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	require.NoError(t, err)
	_, err = js.CreateConsumer(ctx, "ORDERS", jetstream.ConsumerConfig{
		Durable: "billing", AckPolicy: jetstream.AckExplicitPolicy, AckWait: crashLease, MaxDeliver: -1,
	})
	require.NoError(t, err)
	msg := nats.NewMsg("orders.created")
	msg.Header.Set(publisher.KeyHeader, "order-4711")
	_, err = js.PublishMsg(ctx, msg)
	require.NoError(t, err)

	effects := filepath.Join(t.TempDir(), "effects")
	err = crashWorker(ctx, srv.URL(), at, batches, effects)
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, "the worker must die at the boundary, else this shows nothing")
	require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal())
	require.NoError(t, crashWorker(ctx, srv.URL(), "", batches, effects), "the second worker ends by itself")

	lines, err := os.ReadFile(effects)
	require.NoError(t, err)
	assert.Equal(t, wantEffects, strings.Count(string(lines), "\n"), why)
	store, err := kvstore.New(ctx, js, kvstore.Config{})
	require.NoError(t, err)
	r, err := store.Get(ctx, dedup.Key{Scope: "ORDERS/billing", ID: "order-4711"})
	require.NoError(t, err)
	want, letters := dedup.Consumed, uint64(0)
	if at == "letter owed" {
		want, letters = dedup.DeadSent, 1
	}
	assert.Equal(t, want, r.State)
	dead, err := js.Stream(ctx, "IDEMQ_DEAD")
	require.NoError(t, err)
	assert.Equal(t, letters, dead.CachedInfo().State.Msgs)
	cons, err := js.Consumer(ctx, "ORDERS", "billing")
	require.NoError(t, err)
	assert.Zero(t, cons.CachedInfo().NumPending)
	assert.Zero(t, cons.CachedInfo().NumAckPending)
}

// crashWorker runs this test binary as a worker process.
func crashWorker(ctx context.Context, url, at, batches, effects string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestCrashWorker$")
	cmd.Env = append(os.Environ(), crashURL+"="+url, crashAt+"="+at, crashBatch+"="+batches, crashEffect+"="+effects)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// TestCrashWorker is the worker process; as a test of its own it has nothing to do.
func TestCrashWorker(t *testing.T) {
	url, at := os.Getenv(crashURL), os.Getenv(crashAt)
	if url == "" {
		return
	}
	nc, err := nats.Connect(url)
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	kv, err := kvstore.New(t.Context(), js, kvstore.Config{})
	require.NoError(t, err)
	var store dedup.Store = &dyingStore{kv, at}
	if os.Getenv(crashBatch) != "" {
		store = &dyingBatches{dyingStore{kv, at}}
	}
	d, err := dedup.New(store, dedup.Config{Lease: crashLease})
	require.NoError(t, err)
	cfg := natsidem.Config{IdleExit: crashLease / 2}
	cfg.Observer = dyingObserver(at)
	handler := consumer.HandlerFunc(func(_ context.Context, m *consumer.Message) error {
		dieIf(at == "after acquire")
		f, err := os.OpenFile(os.Getenv(crashEffect), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		if _, err := fmt.Fprintln(f, m.Key, m.Fence); err != nil {
			return err
		}
		dieIf(at == "after effect")
		if at == "letter owed" {
			return consumer.Permanent(fmt.Errorf("no such account"))
		}
		return nil
	})
	w, err := natsidem.New(js, "ORDERS", "billing", d, handler, cfg)
	require.NoError(t, err)
	require.NoError(t, w.Run(t.Context()))
}

// dyingStore dies when a settlement was applied, before anybody heard of it.
type dyingStore struct {
	dedup.Store
	at string
}

func (s *dyingStore) Settle(ctx context.Context, h dedup.Hold, st dedup.Settlement) error {
	err := s.Store.Settle(ctx, h, st)
	dieIf(err == nil && (s.at == "after settle" || s.at == "letter owed"))
	return err
}

// dyingBatches is the same with batches.
type dyingBatches struct{ dyingStore }

func (s *dyingBatches) AcquireMany(ctx context.Context, claims []dedup.Claim) []dedup.Acquisition {
	out := make([]dedup.Acquisition, len(claims))
	for i, c := range claims {
		out[i].Verdict, out[i].Record, out[i].Err = s.Acquire(ctx, c)
	}
	return out
}

func (s *dyingBatches) SettleMany(ctx context.Context, settlements []dedup.HeldSettlement) []error {
	errs := make([]error, len(settlements))
	for i, st := range settlements {
		errs[i] = s.Settle(ctx, st.Hold, st.Settlement)
	}
	return errs
}

// dyingObserver dies between the store's answer and the ack.
type dyingObserver string

func (at dyingObserver) Observe(e consumer.Event) {
	dieIf(e.Kind == consumer.Executed && at == "before ack")
}

func dieIf(now bool) {
	if now {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal needs a moment
	}
}
