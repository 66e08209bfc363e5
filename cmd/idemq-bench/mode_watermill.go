package main

import (
	"context"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	watermillnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/nats-io/nats.go"
	"github.com/redis/go-redis/v9"

	"github.com/idemq/idemq/consumer/wmidem"
	"github.com/idemq/idemq/consumer/wmidem/wmnats"
	"github.com/idemq/idemq/publisher"
)

// routerClose is how long a router waits for its handlers at the end.
const routerClose = time.Minute

// setNX is a repository of Watermill's Deduplicator.
type setNX struct {
	rdb    *redis.Client
	prefix string
}

func (s setNX) IsDuplicate(ctx context.Context, key string) (bool, error) {
	fresh, err := s.rdb.SetNX(ctx, s.prefix+key, 1, retention).Result()
	return !fresh, err
}

// runWatermill is watermill-nats with one durable queue of as many subscriptions as there may be handlers at once.
func runWatermill(ctx context.Context, t *trial) error {
	return byRouter(ctx, t, func(_ context.CancelCauseFunc, router *message.Router) (message.Subscriber, error) {
		nc, err := nats.Connect(t.url) // closing the subscriber closes it
		if err != nil {
			return nil, err
		}
		sub, err := watermillnats.NewSubscriberWithNatsConn(nc, watermillnats.SubscriberSubscriptionConfig{
			Unmarshaler: &watermillnats.NATSMarshaler{}, SubscribersCount: t.workers, QueueGroupPrefix: t.name,
			SubjectCalculator: watermillnats.DefaultSubjectCalculator, AckWaitTimeout: ackWait, CloseTimeout: routerClose,
			JetStream: watermillnats.JetStreamConfig{
				DurablePrefix: t.name, AckAsync: !t.confirm,
				SubscribeOptions: []nats.SubOpt{nats.DeliverAll(), nats.AckExplicit(), nats.AckWait(ackWait), nats.MaxAckPending(t.window())},
			},
		}, watermill.NopLogger{})
		if err != nil {
			nc.Close()
			return nil, err
		}
		router.AddMiddleware(
			func(h message.HandlerFunc) message.HandlerFunc { // outermost: all is done but the ack
				return func(m *message.Message) ([]*message.Message, error) {
					out, err := h(m)
					if err == nil {
						t.finish(m.Metadata.Get(sentHeader))
					}
					return out, err
				}
			},
			(&middleware.Deduplicator{
				KeyFactory: middleware.NewMessageHasherFromMetadataField(publisher.KeyHeader),
				Repository: setNX{t.rdb, t.prefix()}, Timeout: ackWait,
			}).Middleware)
		return sub, nil
	})
}

// runWMIdem is wmidem on wmnats.
func runWMIdem(ctx context.Context, t *trial) error {
	if _, err := t.createConsumer(ctx); err != nil {
		return err
	}
	return byRouter(ctx, t, func(fail context.CancelCauseFunc, router *message.Router) (message.Subscriber, error) {
		d, err := newDeduper(redisLayouts[0].store(t.rdb, t.prefix()))
		if err != nil {
			return nil, err
		}
		cfg := t.workerConfig()
		sub, err := wmnats.NewSubscriber(t.js, d, wmnats.SubscriberConfig{
			Config: cfg, Group: t.name, Stream: func(string) string { return t.stream },
		})
		if err != nil {
			return nil, err
		}
		own := wmidem.Config{}
		own.Letters, own.Logger, own.Observer = cfg.Letters, quiet, observer{t, fail}
		idem, err := wmidem.New(d, own)
		if err != nil {
			return nil, err
		}
		return sub, idem.Install(router)
	})
}

// byRouter runs a router until the trial is finished.
func byRouter(ctx context.Context, t *trial, set func(fail context.CancelCauseFunc, router *message.Router) (message.Subscriber, error)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: routerClose}, watermill.NopLogger{})
	if err != nil {
		return err
	}
	sub, err := set(cancel, router)
	if err != nil {
		return err
	}
	router.AddConsumerHandler(t.name, t.stream, sub, func(m *message.Message) error { return t.handle(m.Context()) })
	ended := make(chan error, 1)
	go func() { ended <- router.Run(context.WithoutCancel(ctx)) }()
	select {
	case <-t.finished:
	case <-ctx.Done():
	case err := <-ended:
		return fmt.Errorf("the router has ended: %w", err)
	}
	if err := router.Close(); err != nil {
		return err
	}
	if err := <-ended; err != nil {
		return err
	}
	return unlessFinished(ctx, t)
}
