package deadletter_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/internal/testserver"
)

func TestMain(m *testing.M) { testserver.Main(m, testserver.VerifyLeaks()) }

func newJS(t *testing.T, opts ...func(*server.Options)) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(testserver.NATS(t, opts...).Conn(t))
	require.NoError(t, err)
	return js
}

func newQueue(t *testing.T, opts ...func(*server.Options)) (*deadletter.Queue, jetstream.JetStream) {
	t.Helper()
	js := newJS(t, opts...)
	q := deadletter.New(js, deadletter.Config{})
	require.NoError(t, q.Ensure(t.Context()))
	return q, js
}

func maxPayload(n int32) func(*server.Options) {
	return func(o *server.Options) { o.MaxPayload = n }
}

func letter() *consumer.Letter {
	at := time.Date(2026, 7, 1, 12, 0, 0, 5, time.UTC)
	return &consumer.Letter{
		Class: dedup.Exhausted, Error: "card\r\ndeclined", Stack: "goroutine 1\n", Attempts: 5, Generation: 1,
		FirstFailure: at, LastFailure: at.Add(time.Minute), Scope: "ORDERS/billing", Key: "order-{4711}", Fence: 77,
		Subject: "orders.created", Stream: "ORDERS", Durable: "billing", Sequence: 9, Time: at,
		Header: map[string][]string{
			"Idempotency-Key": {"order-{4711}"}, "Nats-Msg-Id": {"orig"}, "Nats-TTL": {"1s"}, "Nats-Rollup": {"all"},
			"Nats-Expected-Last-Sequence": {"999"}, "X": {"1", "2"},
		},
		Data: []byte(`{"id":4711}`), Size: 11, Fingerprint: dedup.FingerprintOf([]byte("4711")),
	}
}

func messages(t *testing.T, js jetstream.JetStream) uint64 {
	t.Helper()
	s, err := js.Stream(t.Context(), deadletter.DefaultStream)
	require.NoError(t, err)
	return s.CachedInfo().State.Msgs
}

func raw(t *testing.T, js jetstream.JetStream, seq uint64) *jetstream.RawStreamMsg {
	t.Helper()
	s, err := js.Stream(t.Context(), deadletter.DefaultStream)
	require.NoError(t, err)
	m, err := s.GetMsg(t.Context(), seq)
	require.NoError(t, err)
	return m
}

func TestLetterIsStoredAsItIs(t *testing.T) {
	q, js := newQueue(t)
	l := letter()
	require.NoError(t, q.Publish(t.Context(), l))
	m := raw(t, js, 1)
	assert.Equal(t, "idemq.dead.ORDERS.billing.exhausted", m.Subject)
	assert.Equal(t, []string{l.ID()}, m.Header.Values("Nats-Msg-Id"))
	assert.Equal(t, "1s", m.Header.Get("Orig-Nats-TTL"))
	assert.Empty(t, m.Header.Get("Nats-TTL"))
	back, err := q.Read(t.Context(), 1)
	require.NoError(t, err)
	assert.Equal(t, l, back)
}

func TestDuplicateIsConfirmed(t *testing.T) {
	q, js := newQueue(t)
	require.NoError(t, q.Publish(t.Context(), letter()))
	require.NoError(t, q.Publish(t.Context(), letter()))
	assert.EqualValues(t, 1, messages(t, js))
	next := letter()
	next.Fence++
	require.NoError(t, q.Publish(t.Context(), next))
	assert.EqualValues(t, 2, messages(t, js), "the second death is not swallowed by the window")
}

func TestNamesThatAreNoTokens(t *testing.T) {
	q, js := newQueue(t)
	l := letter()
	l.Stream, l.Durable, l.Class = "", "a.*.>b ж", "x.part"
	require.NoError(t, q.Publish(t.Context(), l))
	assert.Equal(t, "idemq.dead._.a____b___.x_part", raw(t, js, 1).Subject)
	back, err := q.Read(t.Context(), 1)
	require.NoError(t, err)
	assert.Equal(t, l, back)
}

// Whatever the sizes, nothing of the message is lost.
func TestNothingIsLostForSize(t *testing.T) {
	const limit = 4096
	q, js := newQueue(t, maxPayload(limit))
	for i, c := range []struct {
		name                 string
		data, header, err    int
		parts                bool
		errorKept, stackKept bool
	}{
		{name: "small", data: 100, parts: false, errorKept: true, stackKept: true},
		{name: "diagnostics too large", data: 1000, err: 3500},
		{name: "body of exactly the maximum", data: limit, parts: true},
		{name: "body one below the maximum", data: limit - 1, parts: true},
		{name: "headers fill the maximum", data: 0, header: limit - 40, parts: true},
		{name: "headers far above", data: limit, header: 3 * limit, parts: true},
		{name: "many parts", data: 50 * limit, parts: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := letter()
			l.Fence = dedup.Fence(1000 + i)
			l.Data, l.Size = []byte(strings.Repeat("0123456789", c.data/10+1))[:c.data], c.data
			if c.header > 0 {
				l.Header["X-Large"] = []string{strings.Repeat("h", c.header)}
			}
			l.Error += strings.Repeat("e", c.err)
			require.NoError(t, q.Publish(t.Context(), l))
			last := messages(t, js)
			assert.Equal(t, c.parts, raw(t, js, last).Header.Get("Idemq-Parts") != "")
			back, err := q.Read(t.Context(), last)
			require.NoError(t, err)
			if !c.stackKept {
				back.Stack, l.Stack = "", ""
			}
			if !c.errorKept {
				back.Error, l.Error = "", ""
			}
			if len(l.Data) == 0 {
				assert.Empty(t, back.Data)
				back.Data = l.Data
			}
			assert.Equal(t, l, back)
			if c.parts {
				require.NoError(t, q.Publish(t.Context(), l), "repeated")
				_, err := q.Read(t.Context(), last-1)
				assert.ErrorIs(t, err, consumer.ErrNotLetter, "a part is not a letter")
			}
		})
	}
}

// JetStream takes 64 KiB of headers, whatever the maximum payload is.
func TestEveryBodyAndHeaderSizeNearTheLimits(t *testing.T) {
	q, js := newQueue(t)
	fence := dedup.Fence(1)
	check := func(data, header int) {
		fence++
		l := letter()
		l.Fence, l.Data = fence, make([]byte, data)
		l.Header["X-Large"] = []string{strings.Repeat("h", header)}
		require.NoError(t, q.Publish(t.Context(), l), "%d bytes, header of %d", data, header)
		back, err := q.Read(t.Context(), messages(t, js))
		require.NoError(t, err)
		require.True(t, len(back.Data) == data && len(back.Header["X-Large"][0]) == header)
		require.Equal(t, l.Header, back.Header)
	}
	for _, header := range []int{1<<16 - 1200, 1<<16 - 1000, 1<<16 - 900, 1<<16 - 800, 1<<16 - 700, 1<<16 - 500, 1<<16 - 100, 1 << 16, 1 << 18} {
		check(10, header)
		check(1<<20, header)
	}
	for data := 1<<20 - 1500; data <= 1<<20; data += 37 {
		check(data, 10)
	}
}

func TestMalformedHeadersAndGarbageKeys(t *testing.T) {
	q, js := newQueue(t, maxPayload(8192))
	l := letter()
	l.Class, l.Header, l.Key = dedup.Malformed, nil, strings.Repeat("\xff\r\n", 5000)
	l.RawHeader = []byte(strings.Repeat("NATS/1.0 broken\x00", 2000))
	require.NoError(t, q.Publish(t.Context(), l))
	back, err := q.Read(t.Context(), messages(t, js))
	require.NoError(t, err)
	assert.Equal(t, l, back)
	assert.Equal(t, "malformed", raw(t, js, messages(t, js)).Header.Get("Idemq-Class"), "a listing needs no parts")
}

// A try that stopped after some parts was cut elsewhere, because the server took more then.
func TestPartsOfAnEarlierTryAreNotMixedIn(t *testing.T) {
	srv := testserver.NATS(t, maxPayload(4096))
	nc := srv.Conn(t)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	q := deadletter.New(&failing{JetStream: js, after: 2}, deadletter.Config{})
	require.NoError(t, q.Ensure(t.Context()))
	l := letter()
	l.Data = []byte(strings.Repeat("abcdefg", 2000))
	require.ErrorIs(t, q.Publish(t.Context(), l), errBroken)
	require.EqualValues(t, 2, messages(t, js))

	good := deadletter.New(js, deadletter.Config{})
	other := *l
	other.Data = []byte(strings.Repeat("gfedcba", 2000)) // a copy of the key's message, say in another encoding
	require.NoError(t, good.Publish(t.Context(), &other))
	back, err := good.Read(t.Context(), messages(t, js))
	require.NoError(t, err)
	assert.Equal(t, other.Data, back.Data)

	// The same content goes on where the first try stopped.
	l.Fence++
	require.ErrorIs(t, deadletter.New(&failing{JetStream: js, after: 2}, deadletter.Config{}).Publish(t.Context(), l), errBroken)
	before := messages(t, js)
	require.NoError(t, good.Publish(t.Context(), l))
	assert.Equal(t, before+3, messages(t, js), "two parts were there: two more and the letter")
	back, err = good.Read(t.Context(), messages(t, js))
	require.NoError(t, err)
	assert.Equal(t, l.Data, back.Data)
}

// Two tries with different contents, neither finished, and then the first content again: its parts surround the others'.
func TestPartsOfTwoTriesLieMixed(t *testing.T) {
	q, js := newQueue(t, maxPayload(4096))
	broken := func(after int) *deadletter.Queue {
		return deadletter.New(&failing{JetStream: js, after: after}, deadletter.Config{})
	}
	a, b := letter(), letter()
	a.Data, b.Data = []byte(strings.Repeat("abcdefg", 2000)), []byte(strings.Repeat("gfedcba", 2000))
	require.ErrorIs(t, broken(2).Publish(t.Context(), a), errBroken)
	require.ErrorIs(t, broken(4).Publish(t.Context(), b), errBroken)
	require.NoError(t, q.Publish(t.Context(), a))
	require.EqualValues(t, 9, messages(t, js), "four parts each, and one letter")
	back, err := q.Read(t.Context(), 9)
	require.NoError(t, err)
	assert.Equal(t, a.Data, back.Data)
}

func TestUnconfirmedPartConfirmsNothing(t *testing.T) {
	q, js := newQueue(t, maxPayload(4096))
	l := letter()
	l.Data = make([]byte, 8192)
	err := deadletter.New(&failing{JetStream: js, after: 1, once: true}, deadletter.Config{}).Publish(t.Context(), l)
	require.ErrorIs(t, err, errBroken)
	assert.ErrorContains(t, err, "part 2/3")
	require.NoError(t, q.Publish(t.Context(), l))
	_, err = q.Read(t.Context(), messages(t, js))
	require.NoError(t, err)
}

var errBroken = errors.New("broken")

// failing publishes some messages, and then none, or all but one.
type failing struct {
	jetstream.JetStream
	after int
	once  bool
}

func (f *failing) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	if f.after--; f.after == -1 || f.after < 0 && !f.once {
		return nil, errBroken
	}
	return f.JetStream.PublishMsg(ctx, m, opts...)
}

func TestMissingPartIsNamed(t *testing.T) {
	q, js := newQueue(t, maxPayload(4096))
	l := letter()
	l.Data = make([]byte, 8192)
	require.NoError(t, q.Publish(t.Context(), l))
	s, err := js.Stream(t.Context(), deadletter.DefaultStream)
	require.NoError(t, err)
	last := messages(t, js)
	require.NoError(t, s.DeleteMsg(t.Context(), 2))
	_, err = q.Read(t.Context(), last)
	assert.ErrorIs(t, err, deadletter.ErrIncomplete)
	assert.ErrorContains(t, err, "2 of 3")
	_, err = q.Read(t.Context(), 2)
	assert.ErrorIs(t, err, deadletter.ErrNotFound)
}

func TestFullStreamConfirmsNothing(t *testing.T) {
	js := newJS(t)
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: deadletter.DefaultStream, Subjects: []string{"idemq.dead.>", "idemq.mark.>"}, Discard: jetstream.DiscardNew,
		AllowRollup: true, MaxMsgs: 1,
	})
	require.NoError(t, err)
	q := deadletter.New(js, deadletter.Config{})
	require.NoError(t, q.Ensure(t.Context()), "a limit refuses letters and does not lose them")
	require.NoError(t, q.Publish(t.Context(), letter()))
	next := letter()
	next.Fence++
	var api *jetstream.APIError
	require.ErrorAs(t, q.Publish(t.Context(), next), &api)
	assert.EqualValues(t, 1, messages(t, js))
	require.NoError(t, q.Publish(t.Context(), letter()), "the one that is there is confirmed")
}

func TestNoConfirmationIsAnError(t *testing.T) {
	srv := testserver.NATS(t)
	js, err := jetstream.New(srv.Conn(t))
	require.NoError(t, err)
	q := deadletter.New(js, deadletter.Config{Timeout: 50 * time.Millisecond})
	assert.Error(t, q.Publish(t.Context(), letter()), "no stream")
	require.NoError(t, q.Ensure(t.Context()))
	srv.Stop()
	assert.Error(t, q.Publish(t.Context(), letter()), "no server")
}

func TestForeignStreamIsRefused(t *testing.T) {
	js := newJS(t)
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "OTHER", Subjects: []string{"idemq.dead.>"}})
	require.NoError(t, err)
	assert.ErrorContains(t, deadletter.New(js, deadletter.Config{}).Publish(t.Context(), letter()), `"OTHER"`)
}

func TestEnsure(t *testing.T) {
	q, js := newQueue(t)
	require.NoError(t, q.Ensure(t.Context()), "again")
	s, err := js.Stream(t.Context(), deadletter.DefaultStream)
	require.NoError(t, err)
	good := s.CachedInfo().Config
	assert.Equal(t, jetstream.DiscardNew, good.Discard)
	assert.Equal(t, jetstream.FileStorage, good.Storage)
	assert.Zero(t, good.MaxAge)
	assert.True(t, good.AllowRollup && good.AllowDirect)

	for want, spoil := range map[string]func(*jetstream.StreamConfig){
		"MaxAge":            func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour },
		"discards old":      func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld },
		"WorkQueue":         func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy },
		"MaxMsgsPerSubject": func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1 },
		"MaxMsgSize":        func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1000 },
		"in memory":         func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage },
		"NoAck":             func(c *jetstream.StreamConfig) { c.NoAck = true },
		"AllowRollup":       func(c *jetstream.StreamConfig) { c.AllowRollup = false },
		"idemq.mark.>":      func(c *jetstream.StreamConfig) { c.Subjects = []string{"idemq.dead.>"} },
	} {
		t.Run(want, func(t *testing.T) {
			// A server each: with one for all, making a stream right after a deletion now and then gave error 10049.
			js := newJS(t)
			c := good
			spoil(&c)
			_, err := js.CreateStream(t.Context(), c)
			require.NoError(t, err)
			q := deadletter.New(js, deadletter.Config{})
			err = q.Ensure(t.Context())
			assert.ErrorIs(t, err, deadletter.ErrUnsafeStream)
			assert.ErrorContains(t, err, want)
			s, err := js.Stream(t.Context(), deadletter.DefaultStream)
			require.NoError(t, err)
			assert.Equal(t, c.MaxAge, s.CachedInfo().Config.MaxAge, "not changed")
		})
	}
}

func TestEnsureTogether(t *testing.T) {
	js := newJS(t)
	results := make(chan error)
	const workers = 8
	for range workers {
		go func() { results <- deadletter.New(js, deadletter.Config{}).Ensure(t.Context()) }()
	}
	for range workers {
		assert.NoError(t, <-results)
	}
}

func TestServerTooSmall(t *testing.T) {
	js := newJS(t, maxPayload(256))
	q := deadletter.New(js, deadletter.Config{})
	assert.ErrorContains(t, q.Publish(t.Context(), letter()), "too small")
}

func TestConfigDefaults(t *testing.T) {
	assert.Equal(t, "{IDEMQ_DEAD idemq.dead idemq.mark 1 5s}", fmt.Sprint(deadletter.New(nil, deadletter.Config{}).Config()))
}
