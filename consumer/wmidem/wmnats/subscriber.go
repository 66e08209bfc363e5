package wmnats

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/dedup"
)

// Subscriber is a message.Subscriber over a durable consumer of each topic's stream. It is safe for concurrent use.
type Subscriber struct {
	js  jetstream.JetStream
	d   *dedup.Deduper
	cfg SubscriberConfig
	log *slog.Logger

	mu     sync.Mutex
	closed bool
	stops  map[int]context.CancelFunc
	next   int
	atWork sync.WaitGroup
	failed error // the last Run that ended with an error
}

// NewSubscriber returns a subscriber. d says how long a lease is: give the one of wmidem. The error wraps [ErrConfig].
func NewSubscriber(js jetstream.JetStream, d *dedup.Deduper, cfg SubscriberConfig) (*Subscriber, error) {
	if js == nil || d == nil {
		return nil, fmt.Errorf("%w: the JetStream context or the deduper is nil", ErrConfig)
	}
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	log := cfg.Logger
	if log == nil {
		log = slog.Default()
	}
	return &Subscriber{js: js, d: d, cfg: cfg, log: log, stops: map[int]context.CancelFunc{}}, nil
}

// SubscribeInitialize makes the stream and the durable of a topic, if Create is set, and checks them.
func (s *Subscriber) SubscribeInitialize(topic string) error {
	_, err := s.worker(context.Background(), topic, func(context.Context, consumer.Delivery) {})
	return err
}

// worker returns a checked worker of the topic.
func (s *Subscriber) worker(ctx context.Context, topic string, fn func(context.Context, consumer.Delivery)) (*natsidem.Worker, error) {
	if err := checkTopic(topic); err != nil {
		return nil, err
	}
	stream, cfg := s.cfg.Stream(topic), s.cfg.Config
	if s.cfg.Create {
		cfg.FilterSubject = topic
		if _, err := natsidem.EnsureConsumer(ctx, s.js, stream, []string{topic}, s.cfg.Group, s.d, cfg); err != nil {
			return nil, err
		}
	}
	w, err := natsidem.NewFeed(s.js, stream, s.cfg.Group, s.d, fn, cfg)
	if err != nil {
		return nil, err
	}
	if err := w.Check(ctx); err != nil {
		return nil, err
	}
	return w, s.checkFilter(ctx, stream, topic)
}

// checkFilter refuses a durable that would deliver other topics as this one.
func (s *Subscriber) checkFilter(ctx context.Context, stream, topic string) error {
	c, err := s.js.Consumer(ctx, stream, s.cfg.Group)
	if err != nil {
		return fmt.Errorf("wmnats: look up consumer %s of stream %s: %w", s.cfg.Group, stream, err)
	}
	filters := c.CachedInfo().Config.FilterSubjects
	if f := c.CachedInfo().Config.FilterSubject; f != "" {
		filters = []string{f}
	}
	if len(filters) == 0 {
		st, err := s.js.Stream(ctx, stream)
		if err != nil {
			return fmt.Errorf("wmnats: look up stream %s: %w", stream, err)
		}
		filters = st.CachedInfo().Config.Subjects
	}
	if len(filters) != 1 || filters[0] != topic {
		return fmt.Errorf("%w: consumer %s of stream %s delivers %q, and the topic is %q; give it that as its filter subject, or set Group to another one",
			ErrConfig, s.cfg.Group, stream, filters, topic)
	}
	return nil
}

// Subscribe implements message.Subscriber. Stream and durable are checked here; an outage later on is outlasted. The
// channel is closed when ctx ends, after Close, and if the durable is deleted.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	ctx, stop := context.WithCancel(ctx)
	f := &feed{s: s, stopping: ctx, out: make(chan *message.Message)}
	w, err := s.worker(ctx, topic, f.deliver)
	if err != nil {
		stop()
		return nil, err
	}
	f.w = w
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		stop()
		return nil, ErrClosed
	}
	n := s.next
	s.next++
	s.stops[n] = stop
	s.atWork.Go(func() {
		err := w.Run(ctx)
		stop()
		close(f.out)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.stops, n)
		if err != nil {
			s.failed = err
			s.log.Error("a subscription has ended", "topic", topic, "error", err)
		}
	})
	return f.out, nil
}

// Close ends all subscriptions and waits for their handlers, within Grace and half of it. The error is that of a
// subscription that has ended with one.
func (s *Subscriber) Close() error {
	s.mu.Lock()
	s.closed = true
	for _, stop := range s.stops {
		stop()
	}
	s.mu.Unlock()
	s.atWork.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

const (
	answerTimeout = 5 * time.Second
	giveBack      = 100 * time.Millisecond // delay of messages that nobody took before the end
	beatsPerLease = 3
)
