package wmnats_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	watermillnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/consumer/wmidem"
	"github.com/idemq/idemq/consumer/wmidem/wmnats"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/internal/testserver"
	"github.com/idemq/idemq/publisher"
	"github.com/idemq/idemq/publisher/natspub"
)

// BenchmarkRouter takes the same messages through a router on JetStream with Redis: through watermill-nats with Watermill's
// Deduplicator on SETNX, and through wmnats with wmidem, interleaved in one run, with 16 handlers at once that do nothing,
// with plain acks and with confirmed ones. The ratio is the claim. An iteration is one round of both; medians of the rounds
// are reported:
//
//	go test ./consumer/wmidem/wmnats -run '^$' -bench Router -benchtime 5x
func BenchmarkRouter(b *testing.B) {
	srv, rdb := testserver.NATS(b), testserver.Redis(b).Client(b)
	for name, confirmed := range map[string]bool{"plain acks": false, "confirmed acks": true} {
		b.Run(name, func(b *testing.B) {
			r := &routerBench{b: b, url: srv.URL(), rdb: rdb, confirmed: confirmed}
			rates := map[string][]float64{}
			for round := range b.N {
				for side, set := range map[string]func(*benchRound){"theirs": (*benchRound).theirs, "ours": (*benchRound).ours} {
					rates[side] = append(rates[side], r.round(fmt.Sprintf("%s-%t-%d-%d", side, confirmed, b.N, round), set))
				}
			}
			median := func(side string) float64 { slices.Sort(rates[side]); return rates[side][len(rates[side])/2] }
			b.ReportMetric(median("ours"), "wmidem-msg/s")
			b.ReportMetric(median("theirs"), "watermill-nats-msg/s")
			b.ReportMetric(median("ours")/median("theirs"), "wmidem/watermill-nats")
			b.ReportMetric(0, "ns/op")
		})
	}
}

const (
	benchHandlers = 16
	benchMessages = 3000
	benchLimit    = 2 * time.Minute
)

type routerBench struct {
	b         *testing.B
	url       string
	rdb       *redis.Client
	confirmed bool
}

// benchRound is a stream full of messages, and a router that shall take them.
type benchRound struct {
	*routerBench

	name   string
	nc     *nats.Conn
	js     jetstream.JetStream
	router *message.Router
	handle message.NoPublishHandlerFunc
}

// round returns how many messages a second come through, from the first one's handler to the last one's.
func (p *routerBench) round(name string, set func(*benchRound)) float64 {
	nc, err := nats.Connect(p.url)
	require.NoError(p.b, err)
	defer nc.Close()
	r := &benchRound{routerBench: p, name: name, nc: nc}
	r.js, err = jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(benchMessages))
	require.NoError(p.b, err)
	_, err = r.js.CreateStream(p.b.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{name}})
	require.NoError(p.b, err)
	defer func() { _ = r.js.DeleteStream(context.Background(), name) }()
	body := make([]byte, 256)
	for i := range benchMessages {
		m := nats.NewMsg(name)
		m.Data = body
		m.Header.Set(publisher.KeyHeader, fmt.Sprintf("%s-%d", name, i))
		m.Header.Set(wmidem.UUIDHeader, fmt.Sprint(i))
		_, err := r.js.PublishMsgAsync(m)
		require.NoError(p.b, err)
	}
	<-r.js.PublishAsyncComplete()

	var handled atomic.Int64
	var first atomic.Int64
	last := make(chan time.Time, 1)
	r.handle = func(*message.Message) error {
		switch handled.Add(1) {
		case 1:
			first.Store(time.Now().UnixNano())
		case benchMessages:
			last <- time.Now()
		}
		return nil
	}
	r.router, err = message.NewRouter(message.RouterConfig{CloseTimeout: soon}, watermill.NopLogger{})
	require.NoError(p.b, err)
	set(r)
	done := make(chan error, 1)
	go func() { done <- r.router.Run(context.Background()) }()
	var end time.Time
	select {
	case end = <-last:
	case err := <-done:
		require.Fail(p.b, "the router has ended", "%v", err)
	case <-time.After(benchLimit):
		require.Fail(p.b, "the router hangs", "%d of %d handled", handled.Load(), benchMessages)
	}
	require.NoError(p.b, r.router.Close())
	require.NoError(p.b, <-done)
	return float64(benchMessages-1) / end.Sub(time.Unix(0, first.Load())).Seconds()
}

// setNX is a repository of the Deduplicator.
type setNX struct{ rdb *redis.Client }

func (s setNX) IsDuplicate(ctx context.Context, key string) (bool, error) {
	set, err := s.rdb.SetNX(ctx, "watermill:"+key, 1, time.Hour).Result()
	return !set, err
}

// theirs is watermill-nats with one durable queue of as many subscriptions as there may be handlers at once. Without the queue
// group the second subscription is refused ("already bound"), Run fails, and Close waits for its whole CloseTimeout; without the
// durable as well, each subscription gets every message. With AutoProvision a topic must not have a dot.
func (r *benchRound) theirs() {
	nc, err := nats.Connect(r.url) // closing the subscriber closes it
	require.NoError(r.b, err)
	sub, err := watermillnats.NewSubscriberWithNatsConn(nc, watermillnats.SubscriberSubscriptionConfig{
		Unmarshaler: &watermillnats.NATSMarshaler{}, SubscribersCount: benchHandlers, QueueGroupPrefix: "billing",
		SubjectCalculator: watermillnats.DefaultSubjectCalculator,
		JetStream: watermillnats.JetStreamConfig{
			DurablePrefix: "billing", AckAsync: !r.confirmed,
			SubscribeOptions: []nats.SubOpt{nats.DeliverAll(), nats.AckExplicit()},
		},
	}, watermill.NopLogger{})
	require.NoError(r.b, err)
	r.router.AddMiddleware((&middleware.Deduplicator{
		KeyFactory: middleware.NewMessageHasherFromMetadataField(publisher.KeyHeader), Repository: setNX{r.rdb}, Timeout: time.Minute,
	}).Middleware)
	r.router.AddConsumerHandler("billing", r.name, sub, r.handle)
}

// ours is wmnats with wmidem.
func (r *benchRound) ours() {
	d, err := dedup.New(redisstore.New(r.rdb, redisstore.Config{}), dedup.Config{})
	require.NoError(r.b, err)
	sub, err := wmnats.NewSubscriber(r.js, d, wmnats.SubscriberConfig{
		Config: natsidem.Config{Config: consumer.Config{Logger: quiet}, Workers: benchHandlers, ConfirmAcks: r.confirmed},
		Group:  "billing", Create: true, Stream: func(topic string) string { return topic },
	})
	require.NoError(r.b, err)
	idem, err := wmidem.New(d, wmidem.Config{
		Config: consumer.Config{Logger: quiet}, DeadLetter: wmnats.NewPublisher(r.js, natspub.Config{}),
	})
	require.NoError(r.b, err)
	require.NoError(r.b, idem.Install(r.router))
	r.router.AddConsumerHandler("billing", r.name, sub, r.handle)
}
