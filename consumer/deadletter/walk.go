package deadletter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	walkBatch   = 256 // messages per round trip
	walkWait    = time.Second
	walkIdle    = time.Minute // after which the server removes what a crashed walk left behind
	walkCleanup = 2 * time.Second
	walkRetries = 3 // tries without progress
	walkPause   = 100 * time.Millisecond
)

var errWalk = errors.New("messages were lost on the way")

// walk goes over the messages of a subject from a sequence to another, oldest first, headers only. It begins again where
// it was if messages are lost on the way.
type walk struct {
	stream   jetstream.Stream
	subject  string
	from, to uint64
	take     func([]message) (more bool, err error)
}

type message struct {
	jetstream.Msg
	*jetstream.MsgMetadata
}

func (w *walk) run(ctx context.Context) error {
	tries := 0
	for w.from <= w.to {
		before := w.from
		done, err := w.round(ctx)
		var stop *stopError
		switch {
		case errors.As(err, &stop):
			return stop.err
		case done || ctx.Err() != nil:
			return ctx.Err()
		}
		if w.from > before {
			tries = 0
		}
		if tries++; tries > walkRetries {
			return err
		}
		select {
		case <-time.After(time.Duration(tries) * walkPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// stopError is what take said; trying again does not help.
type stopError struct{ err error }

func (e *stopError) Error() string { return e.err.Error() }

// round walks with one consumer of the server's.
func (w *walk) round(ctx context.Context) (done bool, err error) {
	c, err := w.stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		Description:       "idemq: listing of dead letters",
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       max(1, w.from),
		AckPolicy:         jetstream.AckNonePolicy,
		FilterSubject:     w.subject,
		HeadersOnly:       true,
		InactiveThreshold: walkIdle,
		MemoryStorage:     true,
		Replicas:          1,
	})
	if err != nil {
		return false, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), walkCleanup)
		defer cancel()
		_ = w.stream.DeleteConsumer(ctx, c.CachedInfo().Name) // the server removes it anyhow, only later
	}()
	pending, delivered := c.CachedInfo().NumPending, uint64(0)
	for pending > 0 && w.from <= w.to {
		asked := int(min(pending, walkBatch))
		batch, err := fetch(ctx, c, asked, delivered)
		if n := len(batch); n > 0 {
			pending, delivered = batch[n-1].NumPending, delivered+uint64(n)
			if more, err := w.hand(batch); err != nil || !more {
				return true, err
			}
		}
		if err != nil {
			return false, err
		}
		if len(batch) < asked { // letters have gone meanwhile, or the server is slow: only it knows
			info, err := c.Info(ctx)
			if err != nil {
				return false, err
			}
			if pending = info.NumPending; info.Delivered.Consumer != delivered {
				return false, errWalk
			}
		}
	}
	return true, nil
}

// hand gives on what is not behind the end.
func (w *walk) hand(batch []message) (more bool, err error) {
	for i, m := range batch {
		if m.Sequence.Stream > w.to {
			batch = batch[:i]
			break
		}
	}
	if len(batch) == 0 {
		return false, nil
	}
	more, err = w.take(batch)
	w.from = batch[len(batch)-1].Sequence.Stream + 1
	if err != nil {
		err = &stopError{err}
	}
	return more, err
}

// fetch returns the messages up to the first gap; delivered is how many the consumer has given before.
func fetch(ctx context.Context, c jetstream.Consumer, n int, delivered uint64) ([]message, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	batch, err := c.Fetch(n, jetstream.FetchMaxWait(walkWait))
	if err != nil {
		return nil, err
	}
	out := make([]message, 0, n)
	for m := range batch.Messages() {
		meta, merr := m.Metadata()
		switch delivered++; {
		case err != nil: // the rest is only emptied
		case merr != nil:
			err = merr
		case meta.Sequence.Consumer != delivered:
			err = errWalk
		default:
			out = append(out, message{m, meta})
		}
	}
	return out, errors.Join(err, batch.Error())
}

// open returns the stream; its cached info is of now.
func (q *Queue) open(ctx context.Context) (jetstream.Stream, error) {
	s, err := q.js.Stream(ctx, q.cfg.Stream)
	if err != nil {
		return nil, fmt.Errorf("deadletter: stream %q: %w", q.cfg.Stream, err)
	}
	return s, nil
}
