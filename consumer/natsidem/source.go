package natsidem

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/consumer"
)

const (
	pullWait    = time.Second            // how long a pull waits for a message when there was none
	minPullWait = 100 * time.Millisecond // the same with a short IdleExit
	maxPull     = 256                    // messages of one pull
	goneLooks   = 3                      // a consumer that is not found so often in a row is gone
	headerRetry = 5 * time.Second        // delay of a message whose headers could not be looked up
	infoTimeout = 5 * time.Second
)

// source pulls messages into the flow of one Run, no more than that has seats for.
type source struct {
	w        *Worker
	consumer jetstream.Consumer
	puller   *puller
	flow     *consumer.Flow
	handlers context.Context //nolint:containedctx // the parent of all handlers of one Run
	asking   sync.WaitGroup  // goroutines that ask the stream for headers
	idle     time.Time       // since when nothing was left; zero if there is something
}

// pull runs until ctx ends, which is no error. Each pull is for the seats that are free; the next one is sent before it is
// used up.
func (s *source) pull(ctx context.Context) error {
	out := outage{log: s.w.log, nc: s.w.js.Conn()}
	gone := 0
	look := time.NewTicker(answerLook)
	defer look.Stop()
	open := false
	for s.w.mayPull(ctx) == nil {
		seats := s.flow.Ask(s.batch(), open)
		select {
		case <-ctx.Done():
		case <-seats.Granted():
		case <-s.puller.ended:
		case <-look.C:
		}
		var asking error
		if n := seats.Take(); n > 0 {
			if asking = s.puller.ask(n, s.wait()); asking != nil {
				s.flow.GiveBack(n)
			}
		}
		var news pulled
		news, open = s.puller.look()
		s.flow.GiveBack(news.short)
		if news.got > 0 {
			s.idle = time.Time{}
		}
		err := cmp.Or(asking, news.err)
		switch {
		case ctx.Err() != nil:
			return s.drop(nil)
		case err != nil:
			if gone, err = s.failed(ctx, &out, gone, err); err != nil || ctx.Err() != nil {
				return s.drop(err)
			}
			open = false
			_ = s.drop(nil)
		case news.ended > 0:
			gone = 0
			out.over()
			if s.w.cfg.IdleExit > 0 && s.done(ctx, news.got) {
				return s.drop(nil)
			}
		}
	}
	return s.drop(nil)
}

// drop gives up what is pulled, and returns err.
func (s *source) drop(err error) error {
	s.flow.GiveBack(s.puller.giveUp())
	return err
}

// batch is how many messages one pull may ask for.
func (s *source) batch() int {
	if b := s.consumer.CachedInfo().Config.MaxRequestBatch; b > 0 {
		return min(maxPull, b)
	}
	return maxPull
}

// failed decides whether an error ends the worker, and waits if not.
func (s *source) failed(ctx context.Context, out *outage, gone int, cause error) (int, error) {
	s.idle = time.Time{}
	if err := s.exists(ctx); err == nil {
		gone = 0
	} else if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		if gone++; gone == goneLooks {
			return gone, fmt.Errorf("%w: %s of stream %s: %w", ErrConsumerGone, s.w.durable, s.w.stream, err)
		}
	}
	err := out.wait(ctx, cause)
	if ctx.Err() != nil {
		err = nil // told to stop
	}
	return gone, err
}

// exists asks whether the consumer is still there.
func (s *source) exists(ctx context.Context) error {
	if s.w.js.Conn().Status() != nats.CONNECTED {
		return ErrNotConnected
	}
	ctx, cancel := context.WithTimeout(ctx, infoTimeout)
	defer cancel()
	_, err := s.consumer.Info(ctx)
	return err
}

func (s *source) wait() time.Duration {
	wait := pullWait
	if idle := s.w.cfg.IdleExit; idle > 0 {
		wait = min(wait, max(idle/2, minPullWait))
	}
	if limit := s.consumer.CachedInfo().Config.MaxRequestExpires; limit > 0 {
		wait = min(wait, limit)
	}
	return wait
}

// take hands a message to the flow. It does not wait: the next message is behind it.
func (s *source) take(msg *nats.Msg, asked bool) {
	d, err := newDelivery(s.w.js.Conn(), msg, s.w.confirm)
	if err != nil {
		s.w.log.Error("unexpected message", "error", err)
		s.unused(asked)
		return
	}
	if !headerLost(msg) {
		s.offer(d, asked)
		return
	}
	s.asking.Go(func() {
		if s.readHeader(d) {
			s.offer(d, asked)
		} else {
			s.unused(asked)
		}
	})
}

func (s *source) offer(d *delivery, asked bool) {
	s.w.original(d)
	s.flow.Offer(s.answerable(d), asked)
}

func (s *source) unused(asked bool) {
	if asked {
		s.flow.GiveBack(1)
	}
}

// answerable returns the delivery with all that the server can do for it.
func (s *source) answerable(d *delivery) consumer.Delivery {
	if r := s.w.replays; r != nil && r.SchedulesAllowed() {
		return schedulable{delivery: d, replays: r}
	}
	return d
}

// feed hands a delivery to the worker's feed, if it has one for it.
func (s *source) feed(ctx context.Context, del consumer.Delivery) {
	if del.Message().HeaderErr == nil {
		s.w.feed(ctx, del)
		return
	}
	s.w.pipeline.Process(ctx, del)
}

// readHeader gets the headers from the stream. If it cannot, it gives the message back and returns false.
func (s *source) readHeader(d *delivery) bool {
	err := d.readHeader(s.handlers, s.w.apiPrefix)
	if err == nil {
		return true
	}
	s.w.log.Warn("a message is given back: its headers could not be read, and the stream could not be asked for them", "error", err)
	if err := d.Nak(s.handlers, headerRetry); err != nil {
		s.w.log.Warn("could not give a message back; it comes again after AckWait", "error", err)
	}
	return false
}

// done says whether nothing has been left for IdleExit.
func (s *source) done(ctx context.Context, got int) bool {
	if got > 0 || !s.nothingLeft(ctx) {
		s.idle = time.Time{}
		return false
	}
	if s.idle.IsZero() {
		s.idle = time.Now()
	}
	return time.Since(s.idle) >= s.w.cfg.IdleExit
}

func (s *source) nothingLeft(ctx context.Context) bool {
	if !s.flow.Idle() || s.w.pipeline.Busy() > 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, infoTimeout)
	defer cancel()
	info, err := s.consumer.Info(ctx)
	if err != nil || info.NumPending > 0 || info.NumAckPending > 0 {
		return false
	}
	if s.w.replays == nil {
		return true
	}
	waiting, err := s.w.replays.Waiting(ctx, s.w.stream, s.w.durable)
	return err == nil && waiting == 0
}
