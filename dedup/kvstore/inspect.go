package kvstore

import (
	"context"
	"errors"
	"iter"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/transition"
)

const (
	listBatch = 256 // messages per round trip of List
	// listWait bounds a round trip of List; it matters only when fewer messages come than were announced.
	listWait = time.Second
	// listIdle is after what time without a request the server removes what a crashed List left behind.
	listIdle = time.Minute
	// listCleanup bounds the removal at the end of a List, also of one whose context is over.
	listCleanup = 2 * time.Second
)

// Get returns the record. It is not confirmed with the replicas: a deposed leader may answer from the past. Errors:
// [dedup.ErrNotFound], [dedup.ErrUnreadable], a context's, or a [*dedup.StoreError].
func (s *Store) Get(ctx context.Context, k dedup.Key) (dedup.Record, error) {
	return s.change(ctx, "get", k, func(r *dedup.Record, _ time.Time) (action, error) {
		if r.State == dedup.Absent {
			return leave, dedup.ErrNotFound
		}
		return leave, nil
	})
}

// Forget removes a record, also an unreadable one. Errors: [dedup.ErrNotFound], [dedup.ErrLeaseRunning] unless forced,
// a context's, or a [*dedup.StoreError]. The next claim of the key has a larger fence all the same.
func (s *Store) Forget(ctx context.Context, k dedup.Key, force bool) error {
	const op = "forget"
	if err := k.Validate(); err != nil {
		return &dedup.StoreError{Op: op, Key: k, Err: err}
	}
	ctx, cancel := limit(ctx)
	defer cancel()
	for {
		e, at, err := s.load(ctx, op, k)
		if err != nil {
			return err
		}
		r, err := e.record(at.time)
		switch {
		case err != nil: // unreadable: nobody can hold it
		case r.State == dedup.Absent:
			return dedup.ErrNotFound
		case r.LeaseLeft() > 0 && !force:
			return dedup.ErrLeaseRunning
		}
		if err := s.writeMarker(ctx, op, k, e.revision); !errors.Is(err, errConflict) {
			return err
		}
		if err := pause(ctx); err != nil {
			return readError(op, k, err)
		}
	}
}

// Reopen makes a dead or forgotten key ready for a replay; see [dedup.ReopenRequest]. The new fence is the revision of the
// write. Errors: [dedup.ErrUnreadable], a context's, or a [*dedup.StoreError].
func (s *Store) Reopen(ctx context.Context, q dedup.ReopenRequest) (dedup.Reopening, error) {
	var o dedup.Reopening
	_, err := s.change(ctx, "reopen", q.Key, func(r *dedup.Record, now time.Time) (action, error) {
		var changed bool
		if o, changed = transition.Reopen(r, q, now, ownRevision); changed {
			return replace, nil
		}
		return confirm, nil
	})
	if err != nil {
		return 0, err
	}
	return o, nil
}

// List returns the records that pass the filter. A record that changes meanwhile may come twice, in its old and its new
// form. An entry whose name is not one of a key is passed over. Errors as of [dedup.Inspector]. The caller's context
// bounds it; there is no time limit of its own.
func (s *Store) List(ctx context.Context, f dedup.Filter) iter.Seq2[dedup.Record, error] {
	return func(yield func(dedup.Record, error) bool) {
		if err := s.list(ctx, f, yield); err != nil {
			yield(dedup.Record{}, err)
		}
	}
}

func (s *Store) list(ctx context.Context, f dedup.Filter, yield func(dedup.Record, error) bool) error {
	const op = "list"
	where := dedup.Key{Scope: f.Scope}
	if err := s.reachable(ctx, op, where); err != nil {
		return err
	}
	at, err := s.now(ctx)
	if err != nil {
		return readError(op, where, err)
	}
	filter := subjectPrefix + s.bucket + ".>"
	if f.Scope != "" {
		filter = subjectPrefix + s.bucket + "." + token.EncodeToString([]byte(f.Scope)) + ".*"
	}
	c, err := s.stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		Description:       "idemq: listing of records",
		DeliverPolicy:     jetstream.DeliverLastPerSubjectPolicy,
		AckPolicy:         jetstream.AckNonePolicy,
		FilterSubject:     filter,
		InactiveThreshold: listIdle,
		MemoryStorage:     true,
		Replicas:          1,
	})
	if err != nil {
		return readError(op, where, err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), listCleanup)
		defer cancel()
		_ = s.stream.DeleteConsumer(ctx, c.CachedInfo().Name) // the server removes it anyhow, only later
	}()
	l := lister{store: s, filter: f, at: at.time, yield: yield}
	pending := c.CachedInfo().NumPending
	for pending > 0 {
		if err := s.reachable(ctx, op, where); err != nil {
			return err
		}
		asked := int(min(pending, listBatch))
		got, err := l.fetch(c, asked)
		switch err = errors.Join(err, ctx.Err()); {
		case l.stopped:
			return nil
		case err != nil:
			return readError(op, where, err)
		}
		if pending = l.pending; got < asked { // records have gone meanwhile, or the server is slow: only it knows
			if pending, err = l.recount(ctx, c); err != nil {
				return readError(op, where, err)
			}
		}
	}
	return nil
}

// lister turns the messages of a listing into records.
type lister struct {
	store   *Store
	filter  dedup.Filter
	at      time.Time
	yield   func(dedup.Record, error) bool
	last    uint64 // number of the last message
	pending uint64 // messages still to come after it
	stopped bool   // the caller has seen enough
}

var errListing = errors.New("kvstore: messages of the listing were lost on the way; list again")

// fetch hands on one batch and returns how many messages it had.
func (l *lister) fetch(c jetstream.Consumer, n int) (got int, err error) {
	batch, err := c.Fetch(n, jetstream.FetchMaxWait(listWait))
	if err != nil {
		return 0, err
	}
	for m := range batch.Messages() {
		if got++; !l.stopped && err == nil { // otherwise the batch is only emptied
			err = l.take(m)
		}
	}
	return got, errors.Join(err, batch.Error())
}

// recount asks the server how many messages are still to come.
func (l *lister) recount(ctx context.Context, c jetstream.Consumer) (uint64, error) {
	info, err := c.Info(ctx)
	if err != nil {
		return 0, err
	}
	if info.Delivered.Consumer != l.last {
		return 0, errListing
	}
	return info.NumPending, nil
}

// take hands on one message.
func (l *lister) take(m jetstream.Msg) error {
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	l.pending = meta.NumPending
	if l.last++; meta.Sequence.Consumer != l.last {
		return errListing
	}
	k, ok := parseKeyToken(strings.TrimPrefix(m.Subject(), subjectPrefix+l.store.bucket+"."))
	if !ok {
		return nil
	}
	e := newEntry(k, meta.Sequence.Stream, meta.Timestamp, m.Headers(), m.Data())
	r, err := e.record(l.at)
	switch {
	case err != nil:
		l.stopped = !l.yield(dedup.Record{Key: k}, err)
	case r.State != dedup.Absent && l.filter.Selects(&r):
		l.stopped = !l.yield(r, nil)
	}
	return nil
}
