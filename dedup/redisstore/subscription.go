package redisstore

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// listenPause is after what time without a word from the server it is asked for one, and after what time without
	// watches the connection is closed.
	listenPause = 5 * time.Second
	// reconnectPause lies between two attempts to reach a server that is away, and reconnectTries is how many there are
	// before the watches are ended; their owners ask by themselves then.
	reconnectPause = 100 * time.Millisecond
	reconnectTries = 50
	// maxSilences is how many questions in a row may stay without an answer until the connection is taken for dead.
	maxSilences = 2
)

// subscription is a connection to one server, on which the channels of watched records arrive. It has two goroutines, one
// that listens and one that subscribes, from start until nobody has watched for a while, the server is lost, or the client
// is closed.
type subscription struct {
	pubsub  *redis.PubSub
	sharded bool
	tries   int             // to reach a server that is away
	ctx     context.Context //nolint:containedctx // its goroutines', which outlive each watch; ended by end alone
	cancel  context.CancelFunc
	work    chan struct{} // something is to be subscribed to, or no more
	ended   func(error)   // is told why it ends

	mu     sync.Mutex
	topics map[string]*topic // by the name of the record
	err    error             // why it has ended
}

// topic is a watched record.
type topic struct {
	watches []chan struct{}
	asked   bool          // the server was asked for it
	heard   chan struct{} // closed when it has confirmed
	ready   bool          // it has
}

func newSubscription(open func(context.Context, ...string) *redis.PubSub, sharded bool) *subscription {
	s := &subscription{sharded: sharded, tries: reconnectTries, work: make(chan struct{}, 1), topics: map[string]*topic{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.pubsub = open(s.ctx)
	return s
}

func (s *subscription) start(ended func(error)) {
	s.ended = ended
	go s.subscribe()
	go s.listen()
}

// watch returns when the server has confirmed the subscription, so that nothing is missed from then on.
func (s *subscription) watch(ctx context.Context, name string) (<-chan struct{}, error) {
	c := make(chan struct{}, 1)
	s.mu.Lock()
	if s.err != nil {
		defer s.mu.Unlock()
		return nil, s.err
	}
	t := s.topics[name]
	if t == nil {
		t = &topic{heard: make(chan struct{})}
		s.topics[name] = t
	}
	t.watches = append(t.watches, c)
	ready := t.ready
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { s.unwatch(t, c) })
	if ready {
		return c, nil
	}
	s.wake()
	limit := time.NewTimer(watchLimit)
	defer limit.Stop()
	var err error
	select {
	case <-t.heard:
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err() // unwatch runs already
	case <-s.ctx.Done():
		s.mu.Lock()
		err = s.err
		s.mu.Unlock()
	case <-limit.C:
		err = errNotConfirmed
	}
	if stop() {
		s.unwatch(t, c)
	}
	return nil, err
}

var errNotConfirmed = errors.New("the server did not confirm the subscription in time")

func (s *subscription) unwatch(t *topic, c chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(t.watches, c)
	if i < 0 { // the end of the subscription was faster
		return
	}
	t.watches = slices.Delete(t.watches, i, i+1)
	close(c)
	if len(t.watches) == 0 {
		s.wake()
	}
}

func (s *subscription) wake() {
	select {
	case s.work <- struct{}{}:
	default:
	}
}

// subscribe tells the server what is watched. Nobody else does, so that subscribing and unsubscribing stay in order.
func (s *subscription) subscribe() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.work:
		}
		more, less := s.changes()
		// One by one, since a Cluster wants the channels of a command in one slot. Errors are left to listen, which sees them
		// too; what was asked for is remembered by the client and asked for anew when it reconnects.
		on, off := s.pubsub.Subscribe, s.pubsub.Unsubscribe
		if s.sharded {
			on, off = s.pubsub.SSubscribe, s.pubsub.SUnsubscribe
		}
		for _, name := range more {
			_ = on(s.ctx, name)
		}
		for _, name := range less {
			_ = off(s.ctx, name)
		}
	}
}

// changes returns what is to be subscribed to, and what no more. A topic that the server has not confirmed yet stays, so
// that its confirmation is not taken for that of a later one.
func (s *subscription) changes() (more, less []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, t := range s.topics {
		switch {
		case len(t.watches) == 0 && !t.asked:
			delete(s.topics, name)
		case len(t.watches) == 0 && t.ready:
			delete(s.topics, name)
			less = append(less, name)
		case !t.asked:
			t.asked = true
			more = append(more, name)
		}
	}
	return more, less
}

// listen hands on what the server says, until there is nothing to hear any more.
func (s *subscription) listen() {
	failures, silences := 0, 0
	for {
		word, err := s.pubsub.ReceiveTimeout(s.ctx, listenPause)
		var answer redis.Error
		switch {
		case err == nil:
			failures, silences = 0, 0
			s.hear(word)
		case errors.As(err, &answer):
			s.end(refusal(err))
			return
		case errors.Is(err, redis.ErrClosed), silences == maxSilences, failures == s.tries && !isTimeout(err):
			s.end(err)
			return
		case isTimeout(err):
			if s.idle() {
				return
			}
			silences++
			_ = s.pubsub.Ping(s.ctx)
		default:
			failures++
			pause(reconnectPause)
		}
	}
}

func pause(d time.Duration) { <-time.After(d) }

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// hear takes one word of the server.
func (s *subscription) hear(word any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch w := word.(type) {
	case *redis.Message:
		if t := s.topics[w.Channel]; t != nil {
			t.tell()
		}
	case *redis.Subscription:
		t := s.topics[w.Channel]
		if t == nil {
			return
		}
		switch w.Kind {
		case "subscribe", "ssubscribe":
			if t.ready { // the connection was lost meanwhile, and signals with it
				t.tell()
				return
			}
			t.ready = true
			close(t.heard)
			if len(t.watches) == 0 {
				s.wake()
			}
		default: // not asked for: the slot has moved to another server
			delete(s.topics, w.Channel)
			t.end()
		}
	}
}

// idle ends the subscription if nobody watches.
func (s *subscription) idle() bool {
	s.mu.Lock()
	busy := len(s.topics) > 0
	s.mu.Unlock()
	if !busy {
		s.end(errIdle)
	}
	return !busy
}

var errIdle = errors.New("nobody has watched for a while")

// end closes the connection and every watch.
func (s *subscription) end(why error) {
	s.ended(why) // first, so that whoever is sent away opens another one
	s.mu.Lock()
	s.err = why
	for _, t := range s.topics {
		t.end()
	}
	clear(s.topics)
	s.mu.Unlock()
	s.cancel()
	_ = s.pubsub.Close()
}

// tell signals the watches. A signal that was not taken yet stands for this one too. The caller holds mu.
func (t *topic) tell() {
	for _, c := range t.watches {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// end closes the watches. The caller holds mu.
func (t *topic) end() {
	for _, c := range t.watches {
		close(c)
	}
	t.watches = nil
}
