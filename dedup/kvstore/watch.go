package kvstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/dedup"
)

const (
	// watchLimit is how long the server may take to begin a watch.
	watchLimit = 2 * time.Second
	// refusedFor is how long a server is not asked again that has not begun one in time: it is silent about what a user may
	// not do.
	refusedFor = time.Minute
)

var errWatch = errors.New("the server does not let changes of the bucket be watched, or did not answer in time; who waits asks " +
	"again and again instead. The user needs CONSUMER.CREATE, CONSUMER.MSG.NEXT and CONSUMER.DELETE of the bucket's stream")

var _ dedup.Watcher = (*Store)(nil)

// watching is what a store has for its watchers: one consumer for each watched key, and none while nobody watches.
type watching struct {
	mu           sync.Mutex
	keys         map[dedup.Key]*watch
	refusedUntil time.Time
}

// watch is a watched key.
type watch struct {
	begun    chan struct{} // closed when it has begun, or failed to
	err      error         // why it failed; written before begun is closed
	watches  []chan struct{}
	ended    bool
	consumer jetstream.Consumer
	consume  jetstream.ConsumeContext
}

// Watch tells of every write under the key, extensions and grants included, and of its removal; see [dedup.Watcher]. It is
// an ordered consumer of the bucket's stream, of headers alone, one for each key whoever and how many watch it here. It
// survives reconnects: what was written meanwhile is told after. The channel is closed if the connection or the bucket is.
//
// The error is the context's, or a [*dedup.StoreError]; for a minute after the latter it is given at once.
func (s *Store) Watch(ctx context.Context, k dedup.Key) (<-chan struct{}, error) {
	const op = "watch"
	if err := k.Validate(); err != nil {
		return nil, &dedup.StoreError{Op: op, Key: k, Err: err}
	}
	for {
		if err := s.reachable(ctx, op, k); err != nil {
			return nil, err
		}
		w, first, refused := s.watching.join(k)
		switch {
		case refused:
			return nil, &dedup.StoreError{Op: op, Key: k, Err: errWatch}
		case first:
			s.begin(ctx, k, w)
		}
		select {
		case <-w.begun:
		case <-ctx.Done():
			return nil, readError(op, k, ctx.Err())
		}
		if w.err != nil {
			return nil, readError(op, k, w.err)
		}
		if c := s.add(ctx, k, w); c != nil {
			return c, nil
		} // its last watcher has just left
	}
}

// join returns the watch of a key, and whether it is the caller's to begin.
func (w *watching) join(k dedup.Key) (found *watch, first, refused bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if found := w.keys[k]; found != nil {
		return found, false, false
	}
	if time.Now().Before(w.refusedUntil) {
		return nil, false, true
	}
	if w.keys == nil {
		w.keys = map[dedup.Key]*watch{}
	}
	found = &watch{begun: make(chan struct{})}
	w.keys[k] = found
	return found, true, false
}

// begin makes the consumer. What the record is now comes as the first message, which shows that messages arrive at all.
func (s *Store) begin(ctx context.Context, k dedup.Key, w *watch) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), watchLimit)
	defer cancel()
	arrived := make(chan struct{}, 1)
	consumer, err := s.js.OrderedConsumer(ctx, s.streamName, jetstream.OrderedConsumerConfig{
		FilterSubjects:    []string{s.storedSubject(k)},
		DeliverPolicy:     jetstream.DeliverLastPerSubjectPolicy,
		HeadersOnly:       true,
		InactiveThreshold: listIdle,
	})
	if err == nil {
		w.consumer = consumer
		w.consume, err = consumer.Consume(func(jetstream.Msg) {
			select {
			case arrived <- struct{}{}:
			default:
			}
			s.watching.tell(w)
		})
	}
	if err == nil && consumer.CachedInfo().NumPending > 0 {
		select {
		case <-arrived:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		w.err = fmt.Errorf("%w: %w", errWatch, err)
		s.watching.mu.Lock()
		s.watching.refusedUntil = time.Now().Add(refusedFor)
		s.watching.mu.Unlock()
		s.endWatch(k, w, false)
	} else {
		go func() { // ends with the consumer
			<-w.consume.Closed()
			s.endWatch(k, w, false)
		}()
	}
	close(w.begun)
}

// add makes a channel for one who watches, or nil if the watch has ended.
func (s *Store) add(ctx context.Context, k dedup.Key, w *watch) <-chan struct{} {
	s.watching.mu.Lock()
	defer s.watching.mu.Unlock()
	if w.ended {
		return nil
	}
	c := make(chan struct{}, 1)
	w.watches = append(w.watches, c)
	context.AfterFunc(ctx, func() {
		s.watching.mu.Lock()
		i := slices.Index(w.watches, c)
		if i >= 0 { // otherwise the end of the watch was faster
			w.watches = slices.Delete(w.watches, i, i+1)
			close(c)
		}
		s.watching.mu.Unlock()
		s.endWatch(k, w, true)
	})
	return c
}

// endWatch closes the channels and removes the consumer. Whoever comes after gets a new one.
func (s *Store) endWatch(k dedup.Key, w *watch, ifIdle bool) {
	s.watching.mu.Lock()
	if w.ended || ifIdle && len(w.watches) > 0 {
		s.watching.mu.Unlock()
		return
	}
	w.ended = true
	if s.watching.keys[k] == w {
		delete(s.watching.keys, k)
	}
	for _, c := range w.watches {
		close(c)
	}
	w.watches = nil
	s.watching.mu.Unlock()
	if w.consume != nil {
		w.consume.Stop()
	}
	if w.consumer == nil || !s.js.Conn().IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), listCleanup)
	defer cancel()
	if info := w.consumer.CachedInfo(); info != nil {
		_ = s.stream.DeleteConsumer(ctx, info.Name) // the server removes it anyhow, only later
	}
}

// tell signals who watches. A signal that was not taken yet stands for this one too.
func (w *watching) tell(of *watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range of.watches {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}
