package wmidem_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/wmidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/internal/testserver"
	"github.com/idemq/idemq/publisher"
)

// A router whose Run has failed leaves that one behind.
func TestMain(m *testing.M) {
	testserver.Main(m, testserver.VerifyLeaks(
		goleak.IgnoreAnyFunction("github.com/ThreeDotsLabs/watermill/message.(*Router).watchAllHandlersStopped.func1")))
}

var errFlaky = errors.New("flaky")

const soon = time.Minute // for what happens at once, on a slow machine

// bench is a router on gochannel, with everything that tests look at.
type bench struct {
	t       testing.TB
	store   *memstore.Store
	pubsub  *gochannel.GoChannel
	router  *message.Router
	idem    *wmidem.Idempotency
	letters <-chan *message.Message
	stop    func()
}

// quick are settings with which nothing takes long.
func quick() wmidem.Config {
	return wmidem.Config{
		Config: consumer.Config{
			Backoff: consumer.Backoff{Initial: time.Millisecond, Max: 5 * time.Millisecond}, Logger: slog.New(slog.DiscardHandler),
		},
		MaxHold: 50 * time.Millisecond, Grace: 5 * time.Second,
	}
}

func newBench(t testing.TB, cfg wmidem.Config, d dedup.Config) *bench {
	t.Helper()
	b := &bench{t: t, store: memstore.New(memstore.Config{})}
	b.pubsub = gochannel.NewGoChannel(gochannel.Config{OutputChannelBuffer: 100}, nil)
	t.Cleanup(func() { assert.NoError(t, b.pubsub.Close()) })
	var err error
	b.letters, err = b.pubsub.Subscribe(context.Background(), wmidem.DefaultDeadTopic)
	require.NoError(t, err)
	b.router, err = message.NewRouter(message.RouterConfig{CloseTimeout: 20 * time.Second}, watermill.NopLogger{})
	require.NoError(t, err)
	if cfg.DeadLetter == nil {
		cfg.DeadLetter = b.pubsub
	}
	dd, err := dedup.New(b.store, d)
	require.NoError(t, err)
	b.idem, err = wmidem.New(dd, cfg)
	require.NoError(t, err)
	return b
}

func (b *bench) install() *bench {
	require.NoError(b.t, b.idem.Install(b.router))
	return b
}

// run starts the router and closes it at the end of the test.
func (b *bench) run() {
	b.t.Helper()
	done := make(chan error, 1)
	go func() { done <- b.router.Run(context.Background()) }()
	select {
	case <-b.router.Running():
	case err := <-done:
		require.NoError(b.t, err)
	case <-time.After(soon):
		require.Fail(b.t, "the router does not run")
	}
	b.stop = sync.OnceFunc(func() {
		assert.NoError(b.t, b.router.Close())
		assert.NoError(b.t, <-done)
		assert.NoError(b.t, b.pubsub.Close())
	})
	b.t.Cleanup(b.stop)
}

func (b *bench) publish(topic string, msgs ...*message.Message) {
	b.t.Helper()
	require.NoError(b.t, b.pubsub.Publish(topic, msgs...))
}

func (b *bench) letter() *consumer.Letter {
	b.t.Helper()
	select {
	case msg := <-b.letters:
		msg.Ack()
		l, err := wmidem.DecodeLetter(msg)
		require.NoError(b.t, err)
		return l
	case <-time.After(soon):
		require.Fail(b.t, "there is no dead letter")
		return nil
	}
}

func (b *bench) noLetter() {
	b.t.Helper()
	select {
	case msg := <-b.letters:
		assert.Fail(b.t, "there is a dead letter", "%v", msg.Metadata)
	default:
	}
}

func (b *bench) eventually(what func(s consumer.Stats) bool, handler string) {
	b.t.Helper()
	assert.Eventually(b.t, func() bool { return what(b.idem.Stats(handler)) }, soon, time.Millisecond,
		"%+v", b.idem.Stats(handler))
}

func (b *bench) state(scope, key string) dedup.State {
	b.t.Helper()
	r, err := b.store.Get(context.Background(), dedup.Key{Scope: scope, ID: key})
	require.NoError(b.t, err)
	return r.State
}

func keyed(key, payload string) *message.Message {
	msg := message.NewMessage(watermill.NewUUID(), []byte(payload))
	msg.Metadata.Set(publisher.KeyHeader, key)
	return msg
}

// calls counts the runs of a handler, by payload.
type calls struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *calls) add(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[what]++
	return c.n[what]
}

func (c *calls) of(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[what]
}

// seen is the Deduplicator's repository without the goroutine that never ends.
type seen struct{ *sync.Map }

func (s seen) IsDuplicate(_ context.Context, key string) (bool, error) {
	_, loaded := s.LoadOrStore(key, true)
	return loaded, nil
}
