package deadletter_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/internal/testserver"
)

// A replay stream that takes nothing: a clear error, and repeating later works.
func TestReplayStreamThatTakesNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*jetstream.StreamConfig)
		says   string
	}{
		"full":   {func(c *jetstream.StreamConfig) { c.MaxMsgs = 1 }, "maximum messages exceeded"},
		"sealed": {func(c *jetstream.StreamConfig) { c.Sealed = true }, "sealed"},
		"none":   {nil, "missing, see Ensure"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q, js := newQueue(t)
			cfg := jetstream.StreamConfig{
				Name: deadletter.DefaultReplayStream, Subjects: []string{"idemq.replay.>"}, Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew,
			}
			_, err := js.CreateStream(t.Context(), cfg)
			require.NoError(t, err)
			w := worldOf(t, js, q, memstore.New(memstore.Config{}))
			_, err = w.rs.Publish(t.Context(), letter(), "k", "fills the stream")
			require.NoError(t, err)
			if c.change != nil {
				c.change(&cfg)
				_, err = js.UpdateStream(t.Context(), cfg)
				require.NoError(t, err)
			} else {
				require.NoError(t, js.DeleteStream(t.Context(), cfg.Name))
			}
			e := w.die("order-1")
			for range 2 {
				_, err = w.replayer.Replay(t.Context(), e, deadletter.ReplayOptions{})
				require.ErrorContains(t, err, "IDEMQ_REPLAY")
				require.ErrorContains(t, err, c.says)
				assert.Nil(t, w.entry(e.ID).Mark)
			}
			assert.Equal(t, dedup.Failed, w.record("order-1").State, "reopened; somebody may acquire it, and nothing is lost")

			if name != "none" {
				if name == "sealed" {
					assert.ErrorIs(t, w.rs.Ensure(t.Context()), deadletter.ErrUnsafeReplayStream)
				}
				require.NoError(t, js.DeleteStream(t.Context(), cfg.Name))
			}
			require.NoError(t, w.rs.Ensure(t.Context()))
			w.worker = runConsumer(t, js)
			w.replay(e, deadletter.ReplayOptions{}, deadletter.Published)
			w.work()
			assert.Equal(t, 1, w.effects["order-1"])
		})
	}
}

// A refusal does not put the id into the publish window, where the repetition would pass for a duplicate.
func TestReplayAfterRoomWasMade(t *testing.T) {
	t.Parallel()
	q, js := newQueue(t)
	s, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: deadletter.DefaultReplayStream, Subjects: []string{"idemq.replay.>"}, Retention: jetstream.WorkQueuePolicy,
		Discard: jetstream.DiscardNew, MaxMsgs: 1,
	})
	require.NoError(t, err)
	w := worldOf(t, js, q, memstore.New(memstore.Config{}))
	_, err = w.rs.Publish(t.Context(), letter(), "k", "fills the stream")
	require.NoError(t, err)
	e := w.die("order-1")
	_, err = w.replayer.Replay(t.Context(), e, deadletter.ReplayOptions{})
	require.ErrorContains(t, err, "maximum messages exceeded")
	require.NoError(t, s.Purge(t.Context()))
	w.replay(e, deadletter.ReplayOptions{}, deadletter.Published)
	w.work()
	assert.Equal(t, 1, w.effects["order-1"])
}

// stoppingStore stops the server when the key is reopened.
type stoppingStore struct {
	dedup.Inspector
	srv *testserver.NATSServer
}

func (s *stoppingStore) Reopen(ctx context.Context, r dedup.ReopenRequest) (dedup.Reopening, error) {
	o, err := s.Inspector.Reopen(ctx, r)
	s.srv.Stop()
	return o, err
}

func TestConnectionIsLostHalfWay(t *testing.T) {
	t.Parallel()
	srv := testserver.NATS(t)
	js, err := jetstream.New(srv.Conn(t))
	require.NoError(t, err)
	q := deadletter.New(js, deadletter.Config{Timeout: time.Second})
	require.NoError(t, q.Ensure(t.Context()))
	w := worldOf(t, js, q, memstore.New(memstore.Config{}))
	e := w.die("order-1")
	rs := deadletter.NewReplayStream(js, deadletter.ReplayStreamConfig{Timeout: 200 * time.Millisecond})
	_, err = deadletter.NewReplayer(q, rs, &stoppingStore{w.store, srv}, deadletter.ReplayConfig{}).Replay(t.Context(), e, deadletter.ReplayOptions{})
	require.ErrorContains(t, err, "IDEMQ_REPLAY")
	for _, err := range q.List(t.Context(), deadletter.Filter{}) {
		require.Error(t, err, "a listing says so, and does not seem empty")
	}
	srv.Start(t)
	require.Eventually(t, js.Conn().IsConnected, time.Minute, 10*time.Millisecond)
	// What the client kept while it was not connected may have been sent since.
	got, err := w.replayer.Replay(t.Context(), e, deadletter.ReplayOptions{})
	require.NoError(t, err)
	assert.Contains(t, []deadletter.Outcome{deadletter.Published, deadletter.AlreadyThere}, got.Outcome)
	assert.Equal(t, 1, w.work())
	assert.Equal(t, 1, w.effects["order-1"])
	assert.NotNil(t, w.entry(e.ID).Mark)
}

// lossy loses the answers of the server, for subjects that begin so.
type lossy struct {
	jetstream.JetStream
	subject string
}

func (l *lossy) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	ack, err := l.JetStream.PublishMsg(ctx, m, opts...)
	if err == nil && strings.HasPrefix(m.Subject, l.subject) {
		return nil, nats.ErrTimeout
	}
	return ack, err
}

func TestAnswersAreLost(t *testing.T) {
	everyStore(t, func(w *world) {
		e := w.die("order-1")
		js := &lossy{w.js, "idemq.replay."}
		rs := deadletter.NewReplayStream(js, deadletter.ReplayStreamConfig{})
		_, err := deadletter.NewReplayer(w.queue, rs, w.store, deadletter.ReplayConfig{}).Replay(w.Context(), e, deadletter.ReplayOptions{})
		require.ErrorIs(w, err, nats.ErrTimeout)
		q := deadletter.New(&lossy{w.js, "idemq.mark."}, deadletter.Config{})
		got, err := deadletter.NewReplayer(q, w.rs, w.store, deadletter.ReplayConfig{}).Replay(w.Context(), e, deadletter.ReplayOptions{})
		require.NoError(w, err)
		assert.Equal(w, deadletter.AlreadyThere, got.Outcome)
		assert.ErrorIs(w, got.Unmarked, nats.ErrTimeout)
		_, err = w.replayer.Replay(w.Context(), e, deadletter.ReplayOptions{})
		assert.ErrorIs(w, err, deadletter.ErrReplayed, "the mark is there, only its confirmation was lost")
		assert.Equal(w, 1, w.work())
		assert.Equal(w, 1, w.effects["order-1"])
	})
}

func TestMarkIsRefused(t *testing.T) {
	everyStore(t, func(w *world) {
		e := w.die("order-1")
		s, err := w.js.Stream(w.Context(), deadletter.DefaultStream)
		require.NoError(w, err)
		c := s.CachedInfo().Config
		c.MaxMsgs = 1
		_, err = w.js.UpdateStream(w.Context(), c)
		require.NoError(w, err)
		for _, want := range []deadletter.Outcome{deadletter.Published, deadletter.AlreadyThere} {
			got, err := w.replayer.Replay(w.Context(), e, deadletter.ReplayOptions{})
			require.NoError(w, err)
			assert.Equal(w, want, got.Outcome)
			assert.ErrorContains(w, got.Unmarked, "maximum messages exceeded")
		}
		c.MaxMsgs = -1
		_, err = w.js.UpdateStream(w.Context(), c)
		require.NoError(w, err)
		w.replay(e, deadletter.ReplayOptions{}, deadletter.AlreadyThere)
		assert.NotNil(w, w.entry(e.ID).Mark)
		assert.Equal(w, 1, w.work())
		assert.Equal(w, 1, w.effects["order-1"])
	})
}

func TestReplayOfWhatIsNoLetter(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stores["memstore"], maxPayload(4096))
	put := func(h nats.Header) deadletter.Entry {
		ack, err := w.js.PublishMsg(t.Context(), &nats.Msg{Subject: "idemq.dead.ORDERS.billing.exhausted", Header: h})
		require.NoError(t, err)
		return deadletter.Entry{Sequence: ack.Sequence}
	}
	refused := func(e deadletter.Entry, want error) {
		t.Helper()
		_, err := w.replayer.Replay(t.Context(), e, deadletter.ReplayOptions{})
		require.ErrorIs(t, err, want)
	}
	refused(put(nil), consumer.ErrNotLetter)
	refused(put(nats.Header{"Idemq-Class": {"exhausted"}, "Idemq-Size": {"x"}}), consumer.ErrNotLetter)
	refused(put(nats.Header{"Idemq-Class": {"exhausted"}, "Idemq-Parts": {"3"}, "Idemq-Parts-Digest": {"0"}}), deadletter.ErrIncomplete)
	refused(put(nats.Header{"Idemq-Class": {"exhausted"}}), dedup.ErrInvalidKey)
	refused(put(nats.Header{"Idemq-Class": {"exhausted"}, "Idemq-Scope": {"s"}, "Idemq-Key": {"a b"}}), dedup.ErrInvalidKey)
	refused(deadletter.Entry{Sequence: 999}, deadletter.ErrNotFound)
	refused(deadletter.Entry{}, deadletter.ErrNotFound)
	e := w.die("order-1")
	e.ID = strings.Repeat("0", 40)
	refused(e, deadletter.ErrChanged)
	require.NoError(t, w.rs.Ensure(t.Context()))
	assert.Zero(t, w.work())
}

// A letter as large as the server takes is replayed whole, or refused before anything is changed.
func TestReplayOfTheLargestLetters(t *testing.T) {
	const limit = 8192
	everyStoreWith(t, limit, func(w *world) {
		published, refused := 0, 0
		for _, size := range []int{100, limit - 3000, limit - 2000, limit - 1500, limit - 1000, limit} {
			l := w.message("order-" + string(rune('a'+published+refused)))
			l.Data = []byte(strings.Repeat("x", size))
			l.Fingerprint = dedup.FingerprintOf(l.Data)
			_, r, err := w.store.Acquire(w.Context(), claim(l.Key, l.Fingerprint))
			require.NoError(w, err)
			w.bury(l, r)
			e := w.entry(l.ID())
			require.Equal(w, size, e.Letter.Size)
			before := w.record(l.Key)
			if _, err = w.replayer.Replay(w.Context(), e, deadletter.ReplayOptions{}); err == nil {
				published++
				continue
			}
			require.ErrorIs(w, err, deadletter.ErrTooLarge)
			refused++
			assert.Equal(w, before.Fence, w.record(l.Key).Fence, "nothing was changed")
			assert.Equal(w, dedup.DeadSent, w.record(l.Key).State)
			assert.Nil(w, w.entry(e.ID).Mark)
		}
		assert.GreaterOrEqual(w, published, 2)
		assert.NotZero(w, refused)
		w.work() // the worker takes the fingerprint of the whole payload, so one cut short would be a conflict
		assert.Len(w, w.effects, published)
	})
}

func TestReplayToOrigin(t *testing.T) {
	everyStore(t, func(w *world) {
		s, err := w.js.CreateStream(w.Context(), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, AllowMsgTTL: true})
		require.NoError(w, err)
		l := w.message("order-1")
		l.Header["Nats-TTL"], l.Header["nats-rollup"] = []string{"1s"}, []string{"all"}
		_, r, err := w.store.Acquire(w.Context(), claim("order-1", l.Fingerprint))
		require.NoError(w, err)
		w.bury(l, r)
		e := w.entry(l.ID())
		w.replay(e, deadletter.ReplayOptions{ToOrigin: true}, deadletter.Published)
		m, err := s.GetLastMsgForSubject(w.Context(), "orders.created")
		require.NoError(w, err)
		assert.Equal(w, l.Data, m.Data)
		assert.Equal(w, "order-1", m.Header.Get("Idempotency-Key"))
		assert.Equal(w, "1", m.Header.Get("X"))
		assert.Empty(w, m.Header.Get("Nats-TTL")+m.Header.Get("nats-rollup")+m.Header.Get("Idemq-Class"))
		assert.Equal(w, "replay-"+e.ID, m.Header.Get("Nats-Msg-Id"))
		marked := w.entry(e.ID)
		require.NotNil(w, marked.Mark)
		assert.True(w, marked.Mark.Origin)
		assert.Zero(w, w.work(), "nothing in the replay stream")
		w.replay(e, deadletter.ReplayOptions{ToOrigin: true, Again: true}, deadletter.Published)
		assert.NotEqual(w, m.Sequence, func() uint64 {
			m, err := s.GetLastMsgForSubject(w.Context(), "orders.created")
			require.NoError(w, err)
			return m.Sequence
		}())
	})
}

// What a letter says is not trusted.
func TestReplayToAForgedOrigin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stores["memstore"])
	_, err := w.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	require.NoError(t, err)
	for i, change := range []func(*consumer.Letter){
		func(l *consumer.Letter) { l.Subject = "$JS.API.STREAM.DELETE.ORDERS" },
		func(l *consumer.Letter) { l.Subject = "idemq.dead.ORDERS.billing.exhausted" },
		func(l *consumer.Letter) { l.Subject = "nobody.listens" },
		func(l *consumer.Letter) { l.Subject = "orders.>" },
		func(l *consumer.Letter) { l.Subject = "orders.a b" },
		func(l *consumer.Letter) { l.Subject = "" },
		func(l *consumer.Letter) { l.Stream = "" },
		func(l *consumer.Letter) { l.Header["a:b"] = []string{"x"} },
		func(l *consumer.Letter) { l.Header["a"] = []string{"x\r\nNats-TTL: 1s"} },
		func(l *consumer.Letter) { l.RawHeader = []byte("x") },
	} {
		l := w.message("order-1")
		l.Fence = dedup.Fence(i + 1)
		change(l)
		require.NoError(t, w.queue.Publish(t.Context(), l))
		_, err := w.replayer.Replay(t.Context(), w.entry(l.ID()), deadletter.ReplayOptions{ToOrigin: true})
		assert.ErrorIs(t, err, deadletter.ErrOrigin, i)
	}
	_, err = w.store.Get(t.Context(), dedup.Key{Scope: testScope, ID: "order-1"})
	assert.ErrorIs(t, err, dedup.ErrNotFound, "nothing was changed")
}
