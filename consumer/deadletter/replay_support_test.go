package deadletter_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/kvstore"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/internal/testserver"
	"github.com/idemq/idemq/publisher"
)

const (
	testScope     = "ORDERS/billing"
	testRetention = time.Hour
)

// inspected is a store that a replayer can use.
type inspected interface {
	dedup.Store
	dedup.Inspector
}

var stores = map[string]func(*testing.T, jetstream.JetStream) inspected{
	"memstore": func(*testing.T, jetstream.JetStream) inspected { return memstore.New(memstore.Config{}) },
	"kvstore": func(t *testing.T, js jetstream.JetStream) inspected {
		s, err := kvstore.New(t.Context(), js, kvstore.Config{})
		require.NoError(t, err)
		return s
	},
	"redisstore": func(t *testing.T, _ jetstream.JetStream) inspected {
		rdb := testserver.Redis(t).Client(t)
		return redisstore.New(rdb, redisstore.Config{Prefix: fmt.Sprintf("test:deadletter:%d:", time.Now().UnixNano())})
	},
}

// everyStore runs a test over each store.
func everyStore(t *testing.T, test func(w *world)) { everyStoreWith(t, 1<<20, test) }

func everyStoreWith(t *testing.T, payload int32, test func(w *world)) {
	t.Parallel()
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(newWorld(t, open, maxPayload(payload)))
		})
	}
}

// world is a worker's surroundings with a worker that does what the contract says, step by step.
type world struct {
	*testing.T
	js       jetstream.JetStream
	queue    *deadletter.Queue
	rs       *deadletter.ReplayStream
	store    inspected
	replayer *deadletter.Replayer
	worker   jetstream.Consumer

	fail    error          // what the handler says
	effects map[string]int // how often it ran, by key
	seq     uint64
}

func newWorld(t *testing.T, open func(*testing.T, jetstream.JetStream) inspected, opts ...func(*server.Options)) *world {
	t.Helper()
	q, js := newQueue(t, opts...)
	return worldOf(t, js, q, open(t, js))
}

func worldOf(t *testing.T, js jetstream.JetStream, q *deadletter.Queue, store inspected) *world {
	t.Helper()
	rs := newReplayStream(t, js)
	return &world{
		T: t, js: js, queue: q, rs: rs, store: store, worker: runConsumer(t, js), effects: map[string]int{},
		replayer: deadletter.NewReplayer(q, rs, store, deadletter.ReplayConfig{}),
	}
}

// message returns a letter of a message that has just come.
func (w *world) message(key string) *consumer.Letter {
	w.seq++
	now := time.Now().UTC()
	l := letter()
	l.Class, l.Key, l.Fence, l.Sequence, l.FirstFailure, l.LastFailure = dedup.Permanent, key, 0, w.seq, now, now
	l.Fingerprint = dedup.FingerprintOf(l.Data)
	l.Header = map[string][]string{"X": {"1"}}
	if key != "" {
		l.Header[publisher.KeyHeader] = []string{key}
	}
	return l
}

// claim is what a worker asks the store for.
func claim(key string, fp dedup.Fingerprint) dedup.Claim {
	return dedup.Claim{
		Key: dedup.Key{Scope: testScope, ID: key}, Nonce: dedup.Nonce(publisher.NewKey()), Fingerprint: fp,
		Lease: time.Minute, Retention: testRetention, DeadRetention: testRetention, Letters: true,
	}
}

// die makes a key dead with its letter, and returns the entry.
func (w *world) die(key string) deadletter.Entry {
	w.Helper()
	l := w.message(key)
	v, r, err := w.store.Acquire(w.Context(), claim(key, l.Fingerprint))
	require.NoError(w, err)
	require.Equal(w, dedup.Granted, v)
	w.bury(l, r)
	return w.entry(l.ID())
}

// bury settles a claim as dead, and publishes the letter.
func (w *world) bury(l *consumer.Letter, r dedup.Record) {
	w.Helper()
	ctx := w.Context()
	h := dedup.Hold{Key: r.Key, Fence: r.Fence, Nonce: r.Nonce}
	require.NoError(w, w.store.Settle(ctx, h, dedup.Settlement{
		State: dedup.DeadOwed, Cause: dedup.Cause{Class: l.Class, Message: l.Error}, Retention: testRetention,
	}))
	l.Key, l.Fence, l.Generation, l.Attempts = r.Key.ID, r.Fence, r.Generation, r.Attempt
	require.NoError(w, w.queue.Publish(ctx, l))
	require.NoError(w, w.store.LetterSent(ctx, r.Key, r.Fence))
}

// keyless stores a letter without a record.
func (w *world) keyless(class dedup.Class, key string) deadletter.Entry {
	w.Helper()
	l := w.message(key)
	l.Class = class
	require.NoError(w, w.queue.Publish(w.Context(), l))
	return w.entry(l.ID())
}

func (w *world) entry(id string) deadletter.Entry {
	w.Helper()
	found, missing, err := w.queue.Find(w.Context(), []string{id})
	require.NoError(w, err)
	require.Empty(w, missing)
	return found[0]
}

func (w *world) record(key string) dedup.Record {
	w.Helper()
	r, err := w.store.Get(w.Context(), dedup.Key{Scope: testScope, ID: key})
	require.NoError(w, err)
	return r
}

func (w *world) replay(e deadletter.Entry, o deadletter.ReplayOptions, want deadletter.Outcome) deadletter.Replayed {
	w.Helper()
	got, err := w.replayer.Replay(w.Context(), e, o)
	require.NoError(w, err)
	require.Equal(w, want.String(), got.Outcome.String())
	require.NoError(w, got.Unmarked)
	return got
}

// work handles what waits in the replay stream and returns how many messages that were. The consumer may hear of a message a
// moment after its publisher has the confirmation, so the stream is asked whether there is one.
func (w *world) work() int {
	w.Helper()
	n := 0
	for {
		s, err := w.js.Stream(w.Context(), w.rs.Config().Stream)
		require.NoError(w, err)
		info, err := s.Info(w.Context(), jetstream.WithSubjectFilter(w.worker.CachedInfo().Config.FilterSubject))
		require.NoError(w, err)
		if len(info.State.Subjects) == 0 {
			return n
		}
		m, err := w.worker.Next(jetstream.FetchMaxWait(10 * time.Second))
		require.NoError(w, err)
		n++
		w.handle(m)
	}
}

func (w *world) handle(m jetstream.Msg) {
	w.Helper()
	ctx := w.Context()
	l, err := deadletter.DecodeReplay(m.Headers(), m.Data())
	require.NoError(w, err)
	key, err := publisher.KeyFromHeader(l.Header)
	require.NoError(w, err)
	v, r, err := w.store.Acquire(ctx, claim(key, dedup.FingerprintOf(l.Data)))
	require.NoError(w, err)
	switch v {
	case dedup.Granted:
		w.effects[key]++
		if w.fail != nil {
			l.Class, l.Error, l.LastFailure = dedup.Permanent, w.fail.Error(), time.Now().UTC()
			w.bury(l, r)
			break
		}
		h := dedup.Hold{Key: r.Key, Fence: r.Fence, Nonce: r.Nonce}
		require.NoError(w, w.store.Settle(ctx, h, dedup.Settlement{State: dedup.Consumed, Retention: testRetention}))
	case dedup.Duplicate, dedup.Dead:
	default:
		w.Fatalf("verdict %v", v)
	}
	require.NoError(w, m.DoubleAck(ctx))
}

var errHandler = errors.New("no such customer")

// resolved is what the replayer says, without an error.
func (w *world) resolved(e deadletter.Entry) bool {
	w.Helper()
	ok, err := w.replayer.Resolved(w.Context(), e)
	require.NoError(w, err)
	return ok
}

// downStore answers nothing.
type downStore struct{ dedup.Inspector }

var errDown = errors.New("store down")

func (downStore) Get(context.Context, dedup.Key) (dedup.Record, error) {
	return dedup.Record{}, errDown
}

func (downStore) Reopen(context.Context, dedup.ReopenRequest) (dedup.Reopening, error) {
	return 0, errDown
}
