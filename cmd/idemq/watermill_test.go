//go:build unix

package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	watermillnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/consumer/wmidem"
	"github.com/idemq/idemq/consumer/wmidem/wmnats"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/kvstore"
	"github.com/idemq/idemq/internal/testserver"
	"github.com/idemq/idemq/publisher"
	"github.com/idemq/idemq/publisher/natspub"
	"github.com/idemq/idemq/publisher/wmpub"
)

// route runs the handler "billing" of a Watermill router on JetStream, on orders.created, until the test ends. Its dead letters
// go through pub, on the default topic.
func (sh *shift) route(pub message.Publisher, h message.NoPublishHandlerFunc) *wmidem.Idempotency {
	t := sh.t
	js, err := jetstream.New(sh.s.Conn(t))
	require.NoError(t, err)
	store, err := kvstore.New(t.Context(), js, kvstore.Config{})
	require.NoError(t, err)
	d, err := dedup.New(store, dedup.Config{})
	require.NoError(t, err)
	quiet := slog.New(slog.DiscardHandler)
	idem, err := wmidem.New(d, wmidem.Config{Config: consumer.Config{Logger: quiet}, DeadLetter: pub})
	require.NoError(t, err)
	sub, err := wmnats.NewSubscriber(js, d, wmnats.SubscriberConfig{
		Config: natsidem.Config{Config: consumer.Config{Logger: quiet}}, Group: "billing", Create: true,
	})
	require.NoError(t, err)
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	require.NoError(t, err)
	require.NoError(t, idem.Install(router))
	router.AddConsumerHandler("billing", "orders.created", sub, h)
	done := make(chan error, 1)
	go func() { done <- router.Run(context.Background()) }()
	t.Cleanup(sync.OnceFunc(func() {
		assert.NoError(t, router.Close())
		assert.NoError(t, <-done)
	}))
	select {
	case <-router.Running():
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(patience):
		require.Fail(t, "the router does not run")
	}
	return idem
}

// Letters of a router lie on one topic of Watermill, whoever's publisher wrote them; an operator finds them by the same filters
// as those of a worker, and sends them back.
func TestFromALetterOfAWatermillRouterToItsReplay(t *testing.T) {
	t.Parallel()
	for name, publisherOf := range map[string]func(t *testing.T, nc *nats.Conn) message.Publisher{
		"wmnats": func(t *testing.T, nc *nats.Conn) message.Publisher {
			js, err := jetstream.New(nc)
			require.NoError(t, err)
			pub, err := wmpub.Decorate(wmnats.NewPublisher(js, natspub.Config{}), wmpub.Config{})
			require.NoError(t, err)
			return pub
		},
		"watermill-nats": func(t *testing.T, nc *nats.Conn) message.Publisher {
			pub, err := watermillnats.NewPublisherWithNatsConn(nc, watermillnats.PublisherPublishConfig{
				Marshaler: &watermillnats.NATSMarshaler{},
				JetStream: watermillnats.JetStreamConfig{TrackMsgId: true}, SubjectCalculator: watermillnats.DefaultSubjectCalculator,
			}, nil)
			require.NoError(t, err)
			return pub
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sh := &shift{t: t, s: testserver.NATS(t), store: "kv"}
			var mended atomic.Bool
			idem := sh.route(publisherOf(t, sh.s.Conn(t)), func(msg *message.Message) error {
				assert.Equal(t, "u-1", msg.UUID)
				assert.Equal(t, []string{"a", "b", ""}, wmidem.Header(msg)["Tag"])
				if !mended.Load() {
					return consumer.Permanent(errors.New("no such product"))
				}
				return nil
			})
			died := func(n uint64) {
				t.Helper()
				require.Eventually(t, func() bool { return idem.Stats("billing").DeadLettered == n }, patience, tick, "%+v", idem.Stats("billing"))
			}
			js, err := jetstream.New(sh.s.Conn(t))
			require.NoError(t, err)
			_, err = js.PublishMsg(t.Context(), &nats.Msg{Subject: "orders.created", Data: []byte("one"), Header: nats.Header{
				publisher.KeyHeader: {"order-1"}, wmidem.UUIDHeader: {"u-1"}, "Tag": {"a", "b", ""}, "Nats-Msg-Id": {"mine"},
			}})
			require.NoError(t, err)
			died(1)

			filters := []string{"--class", "permanent", "--durable", "billing", "--stream", "orders_created"}
			found := sh.list(filters...)
			require.Len(t, found, 1)
			first := found[0]["id"].(string)
			assert.Equal(t, false, found[0]["resolved"])
			for _, other := range [][]string{{"--class", "exhausted"}, {"--durable", "shipping"}, {"--stream", "ORDERS"}} {
				assert.Empty(t, sh.list(other...))
			}
			p, code := sh.dlq("show", first[:8], "--json")
			require.Equal(t, exitFine, code, p.err.String())
			shown := p.object(showFields...)
			assert.Equal(t, map[string]any{
				publisher.KeyHeader: []any{"order-1"}, wmidem.UUIDHeader: []any{"u-1"}, "Tag": []any{"a", "b", ""}, "Nats-Msg-Id": []any{"mine"},
			}, shown["headers"])
			assert.Equal(t, "one", shown["payload"])

			// It dies again, within the window in which the server takes a Nats-Msg-Id for a repetition.
			p, code = sh.dlq("replay", first, "--json")
			require.Equal(t, exitFine, code, p.err.String())
			assert.Equal(t, 1, number(p.last(replayTotals...), "published"))
			died(2)
			require.Len(t, sh.list(filters...), 2)
			mended.Store(true)
			p, code = sh.dlq(append([]string{"replay", "--all", "--json"}, filters...)...)
			require.Equal(t, exitFine, code, p.err.String())
			total := p.last(replayTotals...)
			assert.Equal(t, []int{2, 1, 1}, []int{number(total, "selected"), number(total, "published"), number(total, "already_replayed")})
			require.Eventually(t, func() bool { return idem.Stats("billing").Executed == 1 }, patience, tick)
			p, code = sh.dlq("replay", "--all", "--again", "--json")
			require.Equal(t, exitFine, code, p.err.String())
			assert.Equal(t, 2, number(p.last(replayTotals...), "resolved"), "who insists does not run it twice")
			for _, e := range sh.list(filters...) {
				assert.Equal(t, true, e["resolved"])
			}
			assert.EqualValues(t, 1, idem.Stats("billing").Executed)

			p, code = sh.dlq(append([]string{"discard", "--all", "--force", "--json"}, filters...)...)
			require.Equal(t, exitFine, code, p.err.String())
			assert.Equal(t, 2, number(p.object(discardFields...), "discarded"))
			assert.Empty(t, sh.list())
		})
	}
}
