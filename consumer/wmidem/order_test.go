package wmidem_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/wmidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/publisher"
)

// Each middleware of Watermill, added after Install (so that it stands inside) and before (outside).
var orders = []string{"inside", "outside"}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// ordered returns a router with the middlewares on the given side of Install.
func ordered(t *testing.T, order string, attempts int, m ...message.HandlerMiddleware) (*bench, *lockedBuffer) {
	t.Helper()
	cfg, logs := quick(), &lockedBuffer{}
	cfg.Logger = slog.New(slog.NewTextHandler(logs, nil))
	b := newBench(t, cfg, dedup.Config{MaxAttempts: attempts})
	if order == "outside" {
		b.router.AddMiddleware(m...)
		b.install()
	} else {
		b.install()
		b.router.AddMiddleware(m...)
	}
	return b, logs
}

func inEachOrder(t *testing.T, test func(t *testing.T, order string)) {
	for _, order := range orders {
		t.Run(order, func(t *testing.T) { t.Parallel(); test(t, order) })
	}
}

// Retry: its tries are one attempt of ours, whichever side it stands on. Permanent errors are tried by it as well.
func TestOrderOfRetry(t *testing.T) {
	t.Parallel()
	inEachOrder(t, func(t *testing.T, order string) {
		b, _ := ordered(t, order, 2, middleware.Retry{MaxRetries: 2, InitialInterval: time.Millisecond}.Middleware)
		var runs calls
		b.router.AddConsumerHandler("billing", "orders", b.pubsub, func(msg *message.Message) error {
			n := runs.add(string(msg.Payload))
			switch string(msg.Payload) {
			case "flaky":
				if n <= 2 {
					return errFlaky
				}
				return nil
			case "permanent":
				return consumer.Permanent(errFlaky)
			default:
				return errFlaky
			}
		})
		b.run()
		b.publish("orders", keyed("k1", "flaky"))
		b.eventually(func(s consumer.Stats) bool { return s.Executed == 1 && s.Retried == 0 }, "billing")
		b.publish("orders", keyed("k2", "broken"))
		assert.Equal(t, 2, b.letter().Attempts)
		assert.Equal(t, 6, runs.of("broken"))
		b.publish("orders", keyed("k3", "permanent"))
		assert.Equal(t, dedup.Permanent, b.letter().Class)
		assert.Equal(t, 3, runs.of("permanent"))
	})
}

// PoisonQueue takes the first failure for itself: the key is consumed, our retries and dead letters never come to it.
// Outside, that is logged; inside, nobody else sees the error.
func TestOrderOfPoisonQueue(t *testing.T) {
	t.Parallel()
	inEachOrder(t, func(t *testing.T, order string) {
		poisoned := &collector{}
		poison, err := middleware.PoisonQueue(poisoned, "poison")
		require.NoError(t, err)
		b, logs := ordered(t, order, 3, poison)
		b.router.AddConsumerHandler("billing", "orders", b.pubsub, func(*message.Message) error { return errFlaky })
		b.run()
		b.publish("orders", keyed("k", "x"))
		b.eventually(func(s consumer.Stats) bool { return s.Executed == 1 && s.Retried == 0 }, "billing")
		assert.Equal(t, 1, poisoned.count())
		assert.Equal(t, dedup.Consumed, b.state("billing", "k"))
		assert.Equal(t, order == "outside", strings.Contains(logs.String(), "another middleware has taken the handler's error"))
		b.noLetter()
	})
}

type collector struct {
	mu   sync.Mutex
	msgs []*message.Message
}

func (c *collector) Publish(_ string, msgs ...*message.Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.msgs = append(c.msgs, msgs...)
	return nil
}

func (c *collector) Close() error { return nil }

func (c *collector) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.msgs)
}

// Recoverer: a panic is a retryable error either way. Outside, the letter has the stack in its place; inside, it is a part
// of the error's text.
func TestOrderOfRecoverer(t *testing.T) {
	t.Parallel()
	inEachOrder(t, func(t *testing.T, order string) {
		b, _ := ordered(t, order, 2, middleware.Recoverer)
		b.router.AddConsumerHandler("billing", "orders", b.pubsub, func(*message.Message) error { panic("boom") })
		b.run()
		b.publish("orders", keyed("k", "x"))
		l := b.letter()
		assert.Equal(t, 2, l.Attempts)
		assert.Contains(t, l.Error, "boom")
		assert.Equal(t, order == "outside", l.Stack != "")
		assert.Equal(t, order == "inside", strings.Contains(l.Error, "order_test.go"))
	})
}

// Timeout: the handler's error is an ordinary failure, and every attempt has its whole time.
func TestOrderOfTimeout(t *testing.T) {
	t.Parallel()
	inEachOrder(t, func(t *testing.T, order string) {
		b, _ := ordered(t, order, 2, middleware.Timeout(20*time.Millisecond))
		var fresh calls
		b.router.AddConsumerHandler("billing", "orders", b.pubsub, func(msg *message.Message) error {
			if msg.Context().Err() == nil {
				fresh.add("all")
			}
			<-msg.Context().Done()
			return msg.Context().Err()
		})
		b.run()
		b.publish("orders", keyed("k", "x"))
		l := b.letter()
		assert.Equal(t, dedup.Exhausted, l.Class)
		assert.Equal(t, context.DeadlineExceeded.Error(), l.Error)
		assert.Equal(t, 2, fresh.of("all"))
	})
}

// CorrelationID and derived keys do not touch each other.
func TestOrderOfCorrelationID(t *testing.T) {
	t.Parallel()
	inEachOrder(t, func(t *testing.T, order string) {
		b, _ := ordered(t, order, 2, middleware.CorrelationID)
		out := &collector{}
		b.router.AddHandler("billing", "orders", b.pubsub, "invoices", out,
			func(*message.Message) ([]*message.Message, error) {
				return message.Messages{message.NewMessage("u", nil)}, nil
			})
		b.run()
		in := keyed("k", "x")
		middleware.SetCorrelationID("c-1", in)
		b.publish("orders", in)
		b.eventually(func(s consumer.Stats) bool { return s.Executed == 1 }, "billing")
		require.Equal(t, 1, out.count())
		assert.Equal(t, "c-1", middleware.MessageCorrelationID(out.msgs[0]))
		assert.Equal(t, wmidem.OutputKey(dedup.Key{Scope: "billing", ID: "k"}, 0), out.msgs[0].Metadata.Get(publisher.KeyHeader))
	})
}

// InstantAck: inside, its ack is not taken for the handler's end. Outside, it is refused, since the handler would run
// without a claim.
func TestOrderOfInstantAck(t *testing.T) {
	t.Parallel()
	inEachOrder(t, func(t *testing.T, order string) {
		b, _ := ordered(t, order, 2, middleware.InstantAck)
		var runs calls
		b.router.AddConsumerHandler("billing", "orders", b.pubsub, func(msg *message.Message) error {
			<-msg.Acked()
			if runs.add("all") == 1 {
				return errFlaky
			}
			return nil
		})
		b.run()
		b.publish("orders", keyed("k", "x"))
		if order == "inside" {
			b.eventually(func(s consumer.Stats) bool { return s.Executed == 1 && s.Retried == 1 }, "billing")
			return
		}
		assert.Eventually(t, func() bool { // the handler may be faster than the refusal
			r, _ := b.store.Get(t.Context(), dedup.Key{Scope: "billing", ID: "k"})
			return r.State == dedup.Consumed && runs.of("all") == 2 || r.State == dedup.DeadSent
		}, soon, time.Millisecond)
	})
}

// A middleware that drops messages before Install would make them look handled: Watermill's own Deduplicator does.
func TestDroppedBeforeInstallIsRefused(t *testing.T) {
	t.Parallel()
	drop := func(message.HandlerFunc) message.HandlerFunc {
		return func(*message.Message) ([]*message.Message, error) { return nil, nil }
	}
	b, _ := ordered(t, "outside", 2, drop)
	b.router.AddConsumerHandler("billing", "orders", b.pubsub, func(*message.Message) error { return nil })
	b.run()
	b.publish("orders", keyed("k", "x"))
	assert.Equal(t, wmidem.ErrOrder.Error(), b.letter().Error)
}

// A middleware that replaces the context takes the claim away from the handler.
func TestAContextOfItsOwnIsRefused(t *testing.T) {
	t.Parallel()
	b, _ := ordered(t, "outside", 1, func(h message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) { return h(msg.Copy()) }
	})
	b.router.AddConsumerHandler("billing", "orders", b.pubsub, func(*message.Message) error {
		assert.Fail(t, "the handler runs without a claim")
		return nil
	})
	b.run()
	b.publish("orders", keyed("k", "x"))
	assert.Equal(t, wmidem.ErrNacked.Error(), b.letter().Error)
}
