package deadletter_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/publisher"
)

func newReplayStream(t *testing.T, js jetstream.JetStream) *deadletter.ReplayStream {
	t.Helper()
	rs := deadletter.NewReplayStream(js, deadletter.ReplayStreamConfig{})
	require.NoError(t, rs.Ensure(t.Context()))
	return rs
}

// runConsumer takes what comes for the consumer of letter().
func runConsumer(t *testing.T, js jetstream.JetStream) jetstream.Consumer {
	t.Helper()
	c, err := js.CreateOrUpdateConsumer(t.Context(), deadletter.DefaultReplayStream, jetstream.ConsumerConfig{
		Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "idemq.replay.run.ORDERS.billing",
	})
	require.NoError(t, err)
	return c
}

func next(t *testing.T, c jetstream.Consumer) jetstream.Msg {
	t.Helper()
	m, err := c.Next(jetstream.FetchMaxWait(10 * time.Second))
	require.NoError(t, err)
	return m
}

func TestReplayStreamSettings(t *testing.T) {
	t.Parallel()
	js := newJS(t)
	rs := deadletter.NewReplayStream(js, deadletter.ReplayStreamConfig{})
	assert.False(t, rs.SchedulesAllowed(), "nobody has looked")
	require.NoError(t, rs.Ensure(t.Context()))
	require.NoError(t, rs.Ensure(t.Context()), "again")
	assert.True(t, rs.SchedulesAllowed())
	s, err := js.Stream(t.Context(), deadletter.DefaultReplayStream)
	require.NoError(t, err)
	good := s.CachedInfo().Config
	assert.Equal(t, jetstream.WorkQueuePolicy, good.Retention)
	assert.Equal(t, jetstream.FileStorage, good.Storage)
	assert.Equal(t, []string{"idemq.replay.run.>", "idemq.replay.later.>"}, good.Subjects)
	assert.EqualValues(t, -1, good.MaxMsgs, "with discard old no limit may drop a replay")
	assert.EqualValues(t, -1, good.MaxBytes)
	assert.Zero(t, good.MaxAge)

	for want, spoil := range map[string]func(*jetstream.StreamConfig){
		"MaxAge":              func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour },
		"MaxMsgs":             func(c *jetstream.StreamConfig) { c.MaxMsgs = 10 },
		"MaxBytes":            func(c *jetstream.StreamConfig) { c.MaxBytes = 1 << 20 },
		"Limits":              func(c *jetstream.StreamConfig) { c.Retention = jetstream.LimitsPolicy },
		"MaxMsgsPerSubject":   func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1 },
		"MaxMsgSize":          func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1000 },
		"in memory":           func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage },
		"NoAck":               func(c *jetstream.StreamConfig) { c.NoAck = true },
		"idemq.replay.run.>":  func(c *jetstream.StreamConfig) { c.Subjects = []string{"idemq.replay.later.>"} },
		"idemq.replay.later.": func(c *jetstream.StreamConfig) { c.Subjects = []string{"idemq.replay.run.>"} },
	} {
		t.Run(want, func(t *testing.T) {
			js := newJS(t)
			c := good
			c.AllowMsgSchedules = false
			spoil(&c)
			_, err := js.CreateStream(t.Context(), c)
			require.NoError(t, err)
			err = deadletter.NewReplayStream(js, deadletter.ReplayStreamConfig{}).Ensure(t.Context())
			assert.ErrorIs(t, err, deadletter.ErrUnsafeReplayStream)
			assert.ErrorContains(t, err, want)
		})
	}
	t.Run("every wrong one is named", func(t *testing.T) {
		js := newJS(t)
		c := good
		c.AllowMsgSchedules, c.MaxAge, c.NoAck, c.MaxMsgSize = false, time.Hour, true, 7
		_, err := js.CreateStream(t.Context(), c)
		require.NoError(t, err)
		err = deadletter.NewReplayStream(js, deadletter.ReplayStreamConfig{}).Ensure(t.Context())
		for _, want := range []string{"MaxAge", "NoAck", "MaxMsgSize"} {
			assert.ErrorContains(t, err, want)
		}
	})
}

// A fact of the server that the settings have to live with.
func TestSchedulesAndDiscardNewExcludeEachOther(t *testing.T) {
	t.Parallel()
	_, err := newJS(t).CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "X", Subjects: []string{"x.>"}, Discard: jetstream.DiscardNew, AllowMsgSchedules: true, AllowRollup: true,
	})
	assert.ErrorContains(t, err, "cannot use discard new")
}

// withoutSchedules is a server before 2.12, which passes over what it does not know.
type withoutSchedules struct{ jetstream.JetStream }

func (s withoutSchedules) CreateStream(ctx context.Context, c jetstream.StreamConfig) (jetstream.Stream, error) {
	c.AllowMsgSchedules = false
	return s.JetStream.CreateStream(ctx, c)
}

func TestReplayStreamDoesWithoutSchedules(t *testing.T) {
	t.Parallel()
	js := withoutSchedules{newJS(t)}
	rs := newReplayStream(t, js)
	assert.False(t, rs.SchedulesAllowed())
	assert.ErrorIs(t, rs.Schedule(t.Context(), letter(), "k", "1", time.Now()), deadletter.ErrNoSchedules)
	_, err := rs.Publish(t.Context(), letter(), "k", "1")
	assert.NoError(t, err)
}

func TestReplaySubjects(t *testing.T) {
	t.Parallel()
	rs := deadletter.NewReplayStream(nil, deadletter.ReplayStreamConfig{Prefix: "prod.replay"})
	assert.Equal(t, "prod.replay.run.ORDERS.a_b", rs.RunSubject("ORDERS", "a.b"))
	assert.Equal(t, "prod.replay.later._.billing.7-9", rs.LaterSubject("", "billing", "7-9"))
	seen := map[string]bool{}
	for _, id := range []string{"a.b", "a_b", "a b", "", "_", strings.Repeat("x", 300), strings.Repeat("x", 301), "scope/7"} {
		s := rs.LaterSubject("S", "D", id)
		assert.False(t, seen[s], "two ids must not share a subject: the server delivers only the last of them")
		seen[s] = true
		assert.Len(t, strings.Split(s, "."), 6)
	}
	assert.Equal(t, "{IDEMQ_REPLAY idemq.replay 1 5s}", fmt.Sprint(deadletter.NewReplayStream(nil, deadletter.ReplayStreamConfig{}).Config()))
}

func TestReplayMessageComesBack(t *testing.T) {
	t.Parallel()
	js := newJS(t)
	rs := newReplayStream(t, js)
	l := letter()
	l.Header["idempotency-KEY"] = []string{"another spelling"}
	l.Header["odd\nname"] = []string{"x"}
	l.RawHeader = []byte("Idempotency-Key: raw\r\n")
	l.History = []consumer.Death{{Generation: 0, Error: "before"}}
	duplicate, err := rs.Publish(t.Context(), l, "the-key", "m1")
	require.NoError(t, err)
	assert.False(t, duplicate)
	duplicate, err = rs.Publish(t.Context(), l, "the-key", "m1")
	require.NoError(t, err)
	assert.True(t, duplicate)

	m := next(t, runConsumer(t, js))
	assert.Equal(t, []string{"the-key"}, m.Headers()["Idempotency-Key"])
	assert.Empty(t, m.Headers()["Idemq-Stack"])
	back, err := deadletter.DecodeReplay(m.Headers(), m.Data())
	require.NoError(t, err)
	want := *l
	want.Stack, want.History = "", l.Deaths()
	want.Header = maps.Clone(l.Header)
	delete(want.Header, "idempotency-KEY")
	want.Header["Idempotency-Key"] = []string{"the-key"}
	assert.Equal(t, &want, back)
	assert.Len(t, back.History, 2)
	assert.Equal(t, []string{"order-{4711}"}, l.Header["Idempotency-Key"], "the letter itself is as it was")

	for _, key := range []string{"", "with space", strings.Repeat("k", 256)} {
		_, err = rs.Publish(t.Context(), l, key, "m2")
		assert.ErrorIs(t, err, publisher.ErrMalformedKey)
	}
	for _, h := range []nats.Header{nil, letter().EncodeHeader(), {"Idemq-Class": {"x"}, "Idempotency-Key": {"a", "b"}}, {"Idemq-Class": {"x"}}} {
		h.Del("Idempotency-Key")
		_, err = deadletter.DecodeReplay(h, nil)
		assert.ErrorIs(t, err, consumer.ErrNotLetter)
	}
}

// What the server does with a schedule in a work queue, written down.
func TestScheduledMessageIsDelivered(t *testing.T) {
	t.Parallel()
	js := newJS(t)
	rs := newReplayStream(t, js)
	c := runConsumer(t, js)
	l := letter()
	l.History = []consumer.Death{{Generation: 1, Class: "permanent", Error: "before", ID: "0123"}}
	at := time.Now().Add(1500 * time.Millisecond)
	due := at.Truncate(time.Second).Add(time.Second)
	require.NoError(t, rs.Schedule(t.Context(), l, "the-key", "ORDERS/billing 9", at))

	s, err := js.Stream(t.Context(), deadletter.DefaultReplayStream)
	require.NoError(t, err)
	waiting, err := s.GetLastMsgForSubject(t.Context(), "idemq.replay.later.ORDERS.billing.*")
	require.NoError(t, err)
	assert.Equal(t, "@at "+due.UTC().Format(time.RFC3339), waiting.Header.Get("Nats-Schedule"), "rounded up")

	m := next(t, c)
	assert.False(t, time.Now().Before(at), "not early")
	added := slices.Sorted(maps.Keys(m.Headers()))
	added = slices.DeleteFunc(added, func(name string) bool { return !strings.HasPrefix(name, "Nats-") })
	assert.Equal(t, []string{"Nats-Schedule-Next", "Nats-Scheduler"}, added, "Nats-Schedule and Nats-Schedule-Target are stripped")
	assert.Equal(t, waiting.Subject, m.Headers().Get("Nats-Scheduler"))
	back, err := deadletter.DecodeReplay(m.Headers(), m.Data())
	require.NoError(t, err)
	assert.Equal(t, l.History, back.History, "it did not die")
	assert.Equal(t, l.Data, back.Data)
	assert.Equal(t, []string{"the-key"}, back.Header["Idempotency-Key"])
	assert.Equal(t, []string{"1s"}, back.Header["Nats-TTL"], "orders of the original stay data")
	require.NoError(t, m.DoubleAck(t.Context()))
	info, err := s.Info(t.Context())
	require.NoError(t, err)
	assert.Zero(t, info.State.Msgs, "the schedule itself has gone")
}

func TestScheduleOfThePastAndTwice(t *testing.T) {
	t.Parallel()
	js := newJS(t)
	rs := newReplayStream(t, js)
	c := runConsumer(t, js)
	require.NoError(t, rs.Schedule(t.Context(), letter(), "past", "0", time.Now().Add(-time.Hour)))
	assert.Equal(t, "past", next(t, c).Headers().Get("Idempotency-Key"))

	later := time.Now().Add(2 * time.Second)
	for _, key := range []string{"a", "b"} {
		require.NoError(t, rs.Schedule(t.Context(), letter(), key, "1", later))
		require.NoError(t, rs.Schedule(t.Context(), letter(), key, "2-"+key, later))
	}
	var keys []string
	for range 3 {
		keys = append(keys, next(t, c).Headers().Get("Idempotency-Key"))
	}
	slices.Sort(keys)
	assert.Equal(t, []string{"a", "b", "b"}, keys, "the same id takes the place of what waited, others do not")
}

// Near the limits a message is taken whole, texts of errors aside, or refused before anything is sent.
func TestReplayOfEverySizeIsWholeOrRefused(t *testing.T) {
	t.Parallel()
	const limit = 8192
	js := newJS(t, maxPayload(limit))
	rs := newReplayStream(t, js)
	c := runConsumer(t, js)
	l := letter()
	for range 15 {
		l.Error = strings.Repeat("e", 200)
		l.History = l.Deaths()
	}
	whole, trimmed, refused := 0, 0, 0
	for size := 0; size <= limit; size += 113 {
		l.Data = []byte(strings.Repeat("x", size))
		id := fmt.Sprint(size)
		_, err := rs.Publish(t.Context(), l, "k", id)
		serr := rs.Schedule(t.Context(), l, "k", id, time.Now().Add(time.Hour))
		if err != nil {
			require.ErrorIs(t, err, deadletter.ErrTooLarge)
			require.ErrorContains(t, err, "max_payload")
			refused++
			continue
		}
		if serr != nil {
			require.ErrorIs(t, serr, deadletter.ErrTooLarge)
		}
		require.Zero(t, refused, "a smaller one was refused")
		m := next(t, c)
		require.NoError(t, m.Ack())
		back, err := deadletter.DecodeReplay(m.Headers(), m.Data())
		require.NoError(t, err)
		require.Len(t, back.Data, size)
		require.Len(t, back.History, 16)
		if back.History[0].Error != "" {
			whole++
		} else {
			trimmed++
		}
	}
	assert.NotZero(t, whole)
	assert.NotZero(t, trimmed)
	assert.NotZero(t, refused)
}

func FuzzDecodeReplay(f *testing.F) {
	f.Add("Idempotency-Key", "k", "Idemq-History", "1;permanent;2026-07-01T12:00:00Z;0123;boom")
	f.Add("idempotency-key", "a b", "Idemq-Header", "Idempotency-Key=x")
	f.Add("Orig-Idempotency-Key", "k", "Idempotency-Key", "\r\n")
	f.Fuzz(func(t *testing.T, name, value, name2, value2 string) {
		l, err := deadletter.DecodeReplay(map[string][]string{"Idemq-Class": {"x"}, name: {value}, name2: {value2}}, []byte("data"))
		if err != nil {
			require.ErrorIs(t, err, consumer.ErrNotLetter)
			return
		}
		key, err := publisher.KeyFromHeader(l.Header)
		require.NoError(t, err)
		require.NotEmpty(t, key)
		require.Equal(t, 4, l.Size)
	})
}
