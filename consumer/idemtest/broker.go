package idemtest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/idemq/idemq/consumer"
)

// broker keeps messages by the rules of a JetStream consumer with explicit acks and no limit of deliveries.
type broker struct {
	ackWait time.Duration
	changed chan struct{} // something may be due earlier, or done

	mu       sync.Mutex
	messages []*stored
}

// stored is a message in the broker's stream.
type stored struct {
	message consumer.Message
	stored  time.Time
	due     time.Time // of the next delivery
	count   int       // of deliveries
	loseAck bool      // the next ack gets lost on its way
	done    bool
	settled chan struct{} // closed when it is done
}

func newBroker(ackWait time.Duration) *broker {
	return &broker{ackWait: ackWait, changed: make(chan struct{}, 1)}
}

func (b *broker) publish(m consumer.Message) *stored {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &stored{message: m, stored: time.Now(), due: time.Now(), settled: make(chan struct{})}
	s.message.Stream, s.message.Durable = stream, durable
	s.message.Sequence, s.message.Time = uint64(len(b.messages)+1), s.stored
	b.messages = append(b.messages, s)
	return s
}

// take returns the messages that are due, as delivered to what worker returns, and when the next one is due. Nothing is
// left when open is false.
func (b *broker) take(worker func() *worker) (due []*delivery, next time.Time, open bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	for _, s := range b.messages {
		if s.done {
			continue
		}
		if !s.due.After(now) {
			s.count++
			s.due = now.Add(b.ackWait)
			m := s.message
			m.Header, m.Data, m.Deliveries = maps.Clone(m.Header), slices.Clone(m.Data), s.count
			due = append(due, &delivery{broker: b, stored: s, message: &m, worker: worker()})
		}
		if !open || s.due.Before(next) {
			next, open = s.due, true
		}
	}
	return due, next, open
}

// delivery is one delivery of a message to a worker. An answer counts whichever delivery it belongs to, as on JetStream,
// and does nothing once the message is done with.
type delivery struct {
	broker  *broker
	stored  *stored
	message *consumer.Message
	worker  *worker
}

var _ consumer.Delivery = (*delivery)(nil)

var errCut = errors.New("idemtest: the worker is cut off")

func (d *delivery) Message() *consumer.Message { return d.message }

func (d *delivery) Ack(context.Context) error {
	return d.answer(func(s *stored) {
		if s.loseAck {
			s.loseAck = false
			return
		}
		s.finish()
	})
}

func (d *delivery) Nak(_ context.Context, delay time.Duration) error {
	return d.answer(func(s *stored) { s.due = time.Now().Add(delay) })
}

func (d *delivery) Term(context.Context, string) error {
	return d.answer((*stored).finish)
}

func (d *delivery) InProgress(context.Context) error {
	return d.answer(func(s *stored) { s.due = time.Now().Add(d.broker.ackWait) })
}

func (s *stored) finish() {
	s.done = true
	close(s.settled)
}

func (d *delivery) answer(with func(*stored)) error {
	if d.worker.cut.Load() {
		return errCut
	}
	d.broker.mu.Lock()
	defer d.broker.mu.Unlock()
	if !d.stored.done {
		with(d.stored)
	}
	select {
	case d.broker.changed <- struct{}{}:
	default: // it is to look again already
	}
	return nil
}
