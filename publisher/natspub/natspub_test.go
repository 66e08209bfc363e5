package natspub_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/internal/testserver"
	"github.com/idemq/idemq/publisher"
	"github.com/idemq/idemq/publisher/natspub"
)

func TestMain(m *testing.M) { testserver.Main(m, testserver.VerifyLeaks()) }

// stream makes a stream named after the test on the shared server; its subjects begin with the returned prefix.
func stream(t *testing.T, change ...func(*jetstream.StreamConfig)) (jetstream.JetStream, jetstream.Stream, string) {
	t.Helper()
	js, err := jetstream.New(testserver.SharedNATS(t).Conn(t))
	require.NoError(t, err)
	s, prefix := newStream(t, js, change...)
	return js, s, prefix
}

func newStream(t *testing.T, js jetstream.JetStream, change ...func(*jetstream.StreamConfig)) (jetstream.Stream, string) {
	t.Helper()
	name := strings.ReplaceAll(t.Name(), "/", "_")
	cfg := jetstream.StreamConfig{Name: name, Subjects: []string{name + ".>"}}
	for _, f := range change {
		f(&cfg)
	}
	s, err := js.CreateStream(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = js.DeleteStream(context.WithoutCancel(t.Context()), name) }) // for go test -count
	return s, name + "."
}

func count(t *testing.T, s jetstream.Stream) int {
	t.Helper()
	info, err := s.Info(t.Context())
	require.NoError(t, err)
	return int(info.State.Msgs)
}

func TestDuplicateWindow(t *testing.T) {
	js, s, subject := stream(t)
	pub := natspub.New(js, natspub.Config{})
	first, err := pub.Publish(t.Context(), subject+"a", []byte("1"), publisher.Key("order-4711"))
	require.NoError(t, err)
	assert.Equal(t, natspub.Ack{Stream: t.Name(), Sequence: 1, Key: "order-4711"}, first)

	again, err := pub.Publish(t.Context(), subject+"a", []byte("1"), publisher.Key("order-4711"))
	require.NoError(t, err)
	assert.Equal(t, natspub.Ack{Stream: t.Name(), Sequence: 1, Key: "order-4711", Duplicate: true}, again)

	// The window ignores the subject, the message id must not.
	other, err := pub.Publish(t.Context(), subject+"b", []byte("1"), publisher.Key("order-4711"))
	require.NoError(t, err)
	assert.False(t, other.Duplicate)
	assert.Equal(t, 2, count(t, s))
}

func TestKeysOnTheWire(t *testing.T) {
	js, s, subject := stream(t)
	pub := natspub.New(js, natspub.Config{KeyFunc: func(_ string, _ map[string][]string, body []byte) (string, error) {
		return "body-" + string(body), nil
	}})
	stored := func(ack natspub.Ack) nats.Header {
		m, err := s.GetMsg(t.Context(), ack.Sequence)
		require.NoError(t, err)
		return m.Header
	}
	for _, key := range []string{"{braces}{}", strings.Repeat("k", 255), `"quoted:%20\"`} {
		ack, err := pub.Publish(t.Context(), subject+"k", nil, publisher.Key(key))
		require.NoError(t, err)
		got, err := publisher.KeyFromHeader(stored(ack))
		require.NoError(t, err)
		assert.Equal(t, key, got)
	}
	ack, err := pub.Publish(t.Context(), subject+"k", []byte("7"))
	require.NoError(t, err)
	assert.Equal(t, "body-7", ack.Key)

	// A given header is kept, in the one spelling, and the caller's message is left alone.
	m := &nats.Msg{Subject: subject + "k", Header: nats.Header{"idempotency-key": {"given"}, "Nats-Msg-Id": {"mine"}, "X": {"1", "2"}}}
	before := maps.Clone(m.Header)
	ack, err = pub.PublishMsg(t.Context(), m)
	require.NoError(t, err)
	assert.Equal(t, "given", ack.Key)
	assert.Equal(t, before, m.Header)
	assert.Equal(t, nats.Header{"Idempotency-Key": {"given"}, "Nats-Msg-Id": {"mine"}, "X": {"1", "2"}}, stored(ack))

	ack, err = natspub.New(js, natspub.Config{}).Publish(t.Context(), subject+"k", nil)
	require.NoError(t, err)
	assert.NoError(t, uuid.Validate(ack.Key))
	assert.Equal(t, subject+"k "+ack.Key, stored(ack).Get("Nats-Msg-Id"))
}

func TestRefusedBeforeSending(t *testing.T) {
	js, s, subject := stream(t)
	pub := natspub.New(js, natspub.Config{})
	limit := int(js.Conn().MaxPayload())
	for name, c := range map[string]struct {
		msg *nats.Msg
		opt []publisher.Option
		err error
	}{
		"empty key":     {msg: nats.NewMsg(subject + "x"), opt: []publisher.Option{publisher.Key("")}, err: publisher.ErrMalformedKey},
		"long key":      {msg: nats.NewMsg(subject + "x"), opt: []publisher.Option{publisher.Key(strings.Repeat("k", 256))}, err: publisher.ErrMalformedKey},
		"line break":    {msg: nats.NewMsg(subject + "x"), opt: []publisher.Option{publisher.Key("a\r\nNats-TTL: 1s")}, err: publisher.ErrMalformedKey},
		"two spellings": {msg: &nats.Msg{Subject: subject + "x", Header: nats.Header{"Idempotency-Key": {"a"}, "idempotency-key": {"a"}}}, err: publisher.ErrMalformedKey},
		"two sources":   {msg: &nats.Msg{Subject: subject + "x", Header: nats.Header{"Idempotency-Key": {"a"}}}, opt: []publisher.Option{publisher.Key("b")}, err: publisher.ErrKeyConflict},
		"reply":         {msg: &nats.Msg{Subject: subject + "x", Reply: "r"}, err: natspub.ErrInvalidMessage},
		"no subject":    {msg: &nats.Msg{}, err: natspub.ErrInvalidMessage},
		"nil":           {err: natspub.ErrInvalidMessage},
		"too large":     {msg: &nats.Msg{Subject: subject + "x", Data: make([]byte, limit)}, err: nats.ErrMaxPayload},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := pub.PublishMsg(t.Context(), c.msg, c.opt...)
			assert.ErrorIs(t, err, c.err)
			assert.NotErrorIs(t, err, publisher.ErrUnconfirmed)
			_, err = pub.PublishAsyncMsg(t.Context(), c.msg, c.opt...)
			assert.ErrorIs(t, err, c.err)
		})
	}
	assert.Zero(t, count(t, s))
}

func TestLargestMessagePasses(t *testing.T) {
	js, _, subject := stream(t)
	pub := natspub.New(js, natspub.Config{})
	limit := int(js.Conn().MaxPayload())
	headers := len("NATS/1.0\r\n\r\n") + len("Idempotency-Key: k\r\n") + len("Nats-Msg-Id: ") + len(subject+"x k\r\n")
	_, err := pub.Publish(t.Context(), subject+"x", make([]byte, limit-headers), publisher.Key("k"))
	require.NoError(t, err)
	_, err = pub.Publish(t.Context(), subject+"x", make([]byte, limit-headers+1), publisher.Key("k"))
	require.ErrorIs(t, err, nats.ErrMaxPayload)
	assert.ErrorContains(t, err, fmt.Sprint(limit+1))
}

// lossy stores messages and loses the first confirmations.
type lossy struct {
	jetstream.JetStream
	lose atomic.Int32
}

func (l *lossy) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	ack, err := l.JetStream.PublishMsg(ctx, m, opts...)
	if err == nil && l.lose.Add(-1) >= 0 {
		return nil, context.DeadlineExceeded
	}
	return ack, err
}

func TestLostConfirmationStoresOnce(t *testing.T) {
	js, s, subject := stream(t)
	broken := &lossy{JetStream: js}
	broken.lose.Store(2)
	pub := natspub.New(broken, natspub.Config{Retry: publisher.Retry{Initial: time.Millisecond}})
	ack, err := pub.Publish(t.Context(), subject+"x", []byte("1")) // a random key must be kept, too
	require.NoError(t, err)
	assert.True(t, ack.Duplicate)
	assert.Equal(t, 1, count(t, s))

	broken.lose.Store(1 << 20)
	_, err = pub.Publish(t.Context(), subject+"x", []byte("2"), publisher.Key("k"))
	assert.ErrorIs(t, err, publisher.ErrUnconfirmed)
	assert.ErrorContains(t, err, `"k"`)
	assert.Equal(t, 2, count(t, s))
}

func TestServerRestart(t *testing.T) {
	srv := testserver.NATS(t)
	js, err := jetstream.New(srv.Conn(t))
	require.NoError(t, err)
	s, subject := newStream(t, js, func(c *jetstream.StreamConfig) { c.Storage = jetstream.FileStorage })
	pub := natspub.New(js, natspub.Config{Retry: publisher.Retry{Attempts: -1, AttemptTimeout: 300 * time.Millisecond, Initial: 10 * time.Millisecond, Max: 100 * time.Millisecond}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = pub.Publish(ctx, subject+"x", []byte("before"))
	require.NoError(t, err)

	srv.Stop()
	type result struct {
		ack natspub.Ack
		err error
	}
	sync := make(chan result)
	go func() {
		ack, err := pub.Publish(ctx, subject+"x", []byte("sync"))
		sync <- result{ack, err}
	}()
	future, err := pub.PublishAsync(ctx, subject+"x", []byte("async"))
	require.NoError(t, err)
	srv.Start(t)

	r := <-sync
	require.NoError(t, r.err)
	ack, err := future.Wait(ctx)
	require.NoError(t, err)
	assert.Equal(t, future.Key(), ack.Key)
	require.NoError(t, pub.Flush(ctx))
	for seq, key := range map[uint64]string{r.ack.Sequence: r.ack.Key, ack.Sequence: ack.Key} {
		m, err := s.GetMsg(ctx, seq)
		require.NoError(t, err)
		assert.Equal(t, key, m.Header.Get(publisher.KeyHeader))
	}
	assert.Equal(t, 3, count(t, s), "once each, although tried several times")
}

func TestRefusalIsNotTriedAgain(t *testing.T) {
	js, s, subject := stream(t, func(c *jetstream.StreamConfig) { c.MaxMsgSize = 200 })
	pub := natspub.New(js, natspub.Config{})
	_, err := pub.Publish(t.Context(), subject+"x", make([]byte, 500))
	var api *jetstream.APIError
	assert.ErrorAs(t, err, &api)
	assert.NotErrorIs(t, err, publisher.ErrUnconfirmed)
	assert.Zero(t, count(t, s))

	f, err := pub.PublishAsync(t.Context(), subject+"x", make([]byte, 500), publisher.Key("big"))
	require.NoError(t, err)
	_, err = f.Wait(t.Context())
	assert.ErrorAs(t, err, &api)
	err = pub.Flush(t.Context())
	assert.ErrorAs(t, err, &api)
	assert.ErrorContains(t, err, "1 messages failed")
	assert.NoError(t, pub.Flush(t.Context()), "reported once")
}

func TestNoStream(t *testing.T) {
	js, _, _ := stream(t)
	pub := natspub.New(js, natspub.Config{Retry: publisher.Retry{Attempts: 2, Initial: time.Millisecond}})
	_, err := pub.Publish(t.Context(), "nobody.home", nil)
	assert.ErrorIs(t, err, publisher.ErrUnconfirmed)
	assert.ErrorIs(t, err, jetstream.ErrNoStreamResponse)
	f, err := pub.PublishAsync(t.Context(), "nobody.home", nil)
	require.NoError(t, err)
	_, err = f.Wait(t.Context())
	assert.ErrorIs(t, err, publisher.ErrUnconfirmed)
}

func TestAsyncTriesAgain(t *testing.T) {
	js, err := jetstream.New(testserver.SharedNATS(t).Conn(t))
	require.NoError(t, err)
	pub := natspub.New(js, natspub.Config{Retry: publisher.Retry{Attempts: -1, Initial: time.Millisecond}})
	f, err := pub.PublishAsync(t.Context(), t.Name()+".x", nil) // refused: there is no stream yet
	require.NoError(t, err)
	s, _ := newStream(t, js)
	ack, err := f.Wait(t.Context())
	require.NoError(t, err)
	assert.Equal(t, f.Key(), ack.Key)
	assert.Equal(t, 1, count(t, s))
}

func TestCancelled(t *testing.T) {
	srv := testserver.NATS(t)
	js, err := jetstream.New(srv.Conn(t))
	require.NoError(t, err)
	pub := natspub.New(js, natspub.Config{MaxPending: 1})
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	_, err = pub.Publish(ctx, "x", nil)
	assert.ErrorIs(t, err, gone)
	assert.NotErrorIs(t, err, publisher.ErrUnconfirmed)
	_, err = pub.PublishAsync(ctx, "x", nil)
	assert.ErrorIs(t, err, gone)

	// On its way when the context ends: nobody knows.
	srv.Stop()
	ctx, cancel = context.WithCancelCause(t.Context())
	f, err := pub.PublishAsync(ctx, "x", nil)
	require.NoError(t, err)
	short, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	_, err = f.Wait(short)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorIs(t, pub.Flush(short), context.DeadlineExceeded)
	_, err = pub.PublishAsync(short, "x", nil)
	assert.ErrorIs(t, err, context.DeadlineExceeded, "the limit of outstanding messages is reached")
	cancel(gone)
	_, err = f.Wait(t.Context())
	assert.ErrorIs(t, err, gone)
	assert.ErrorIs(t, err, publisher.ErrUnconfirmed)
	assert.ErrorIs(t, pub.Flush(t.Context()), gone)
}

func TestAsyncKeepsOrder(t *testing.T) {
	const messages = 1000
	js, s, subject := stream(t)
	pub := natspub.New(js, natspub.Config{MaxPending: 64})
	futures := make([]*natspub.Future, messages)
	for i := range futures {
		f, err := pub.PublishAsync(t.Context(), subject+"x", fmt.Append(nil, i), publisher.Key(fmt.Sprint("k", i)))
		require.NoError(t, err)
		futures[i] = f
	}
	require.NoError(t, pub.Flush(t.Context()))
	for i, f := range futures {
		ack, err := f.Wait(t.Context())
		require.NoError(t, err)
		require.Equal(t, natspub.Ack{Stream: t.Name(), Sequence: uint64(i + 1), Key: fmt.Sprint("k", i)}, ack)
	}
	assert.Equal(t, messages, count(t, s))
	f, err := pub.PublishAsync(t.Context(), subject+"x", nil, publisher.Key("k0"))
	require.NoError(t, err)
	ack, err := f.Wait(t.Context())
	require.NoError(t, err)
	assert.True(t, ack.Duplicate)
}

func TestLimitOfTheServer(t *testing.T) {
	srv := testserver.NATS(t, func(o *server.Options) { o.MaxPayload = 1024 })
	js, err := jetstream.New(srv.Conn(t))
	require.NoError(t, err)
	_, err = natspub.New(js, natspub.Config{}).Publish(t.Context(), "x", make([]byte, 1024))
	assert.ErrorIs(t, err, nats.ErrMaxPayload)
	assert.ErrorContains(t, err, "the server takes 1024")
}
