package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/dedup"
)

func (a *app) dlqCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "dlq", Short: "Look at dead letters, replay or discard them",
		Long: `Dead letters are messages that will not be tried again by themselves. An id may be shortened to its first 8 digits.
` + storeNoteDLQ,
		Example: `  idemq dlq ls --stream ORDERS --durable billing --since 24h
  idemq dlq show 3f2a9c01
  idemq dlq replay --all --class exhausted --dry-run
  idemq dlq discard 3f2a9c01`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q; see idemq dlq --help", args[0])
			}
			return nil
		}, RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.dlqListCommand(), a.dlqShowCommand(), a.dlqReplayCommand(), a.dlqDiscardCommand())
	return c
}

const storeNoteDLQ = `Without --store the store is the one that a letter's worker has noted at its durable consumer, and a store that is given
must be that one.`

// dlqFilter is what the filter flags say.
type dlqFilter struct {
	stream, durable, class, key, text string
	since                             time.Duration
	generation                        int
}

func (f *dlqFilter) flags(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVar(&f.stream, "stream", "", "only letters of this stream")
	fl.StringVar(&f.durable, "durable", "", "only letters of this durable consumer")
	fl.StringVar(&f.class, "class", "", "only letters of this class: "+strings.Join(classNames(), ", "))
	fl.StringVar(&f.text, "text", "", "only letters whose error contains this")
	fl.DurationVar(&f.since, "since", 0, "only letters that failed last within this time, such as 1h")
	fl.IntVar(&f.generation, "generation", 0, "only letters of this death of their key, counted from 1")
}

func (f *dlqFilter) keyFlag(c *cobra.Command) {
	c.Flags().StringVar(&f.key, "key", "", "only letters of this idempotency key")
}

func classNames() []string {
	return []string{
		string(dedup.MissingKey), string(dedup.Malformed), string(dedup.ConflictingPayload),
		string(dedup.Permanent), string(dedup.Exhausted), string(dedup.Abandoned),
	}
}

func (f *dlqFilter) filter() (deadletter.Filter, error) {
	known := f.class == ""
	for _, name := range classNames() {
		known = known || name == f.class
	}
	switch {
	case !known:
		return deadletter.Filter{}, usagef("--class %q: use %s", f.class, strings.Join(classNames(), ", "))
	case f.since < 0 || f.generation < 0:
		return deadletter.Filter{}, usagef("--since and --generation must not be negative")
	}
	out := deadletter.Filter{
		Stream: f.stream, Durable: f.durable, Class: dedup.Class(f.class), Key: f.key, Text: f.text, Generation: f.generation,
	}
	if f.since > 0 {
		out.Since = time.Now().Add(-f.since)
	}
	return out, nil
}

// letters is what the commands on dead letters share.
type letters struct {
	*operator

	queue     *deadletter.Queue
	replay    *deadletter.ReplayStream
	replayers map[place]replayerOrError
}

type replayerOrError struct {
	r   *deadletter.Replayer
	err error
}

func (a *app) openLetters(ctx context.Context) (*letters, error) {
	o, err := a.operate(ctx, true)
	if err != nil {
		return nil, err
	}
	return &letters{
		operator: o, queue: deadletter.New(o.js, deadletter.Config{}), replay: deadletter.NewReplayStream(o.js, deadletter.ReplayStreamConfig{}),
		replayers: map[place]replayerOrError{},
	}, nil
}

// withLetters opens them for fn.
func (a *app) withLetters(ctx context.Context, fn func(*letters) error) error {
	l, err := a.openLetters(ctx)
	if err != nil {
		return err
	}
	defer func() { l.close() }() // it grows
	err = fn(l)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return &exitError{exitNothingFound, fmt.Errorf("%w; there are no dead letters on this server so far", err)}
	}
	return err
}

// replayer returns the replayer of a letter's scope. Looking at a scope that its worker has left is allowed, acting is not.
func (l *letters) replayer(ctx context.Context, of *consumer.Letter, act bool) (*deadletter.Replayer, error) {
	p := place{stream: of.Stream, durable: of.Durable, scope: of.Scope}
	r, ok := l.replayers[p]
	if !ok {
		r.r, r.err = l.makeReplayer(ctx, p, act)
		l.replayers[p] = r
	}
	return r.r, r.err
}

func (l *letters) makeReplayer(ctx context.Context, p place, act bool) (*deadletter.Replayer, error) {
	s, err := l.storeOfDurable(ctx, p.stream, p.durable, p.scope)
	if errors.Is(err, errOtherScope) && !act {
		s, err = l.storeOfScope(ctx, p.scope)
	}
	if err != nil {
		return nil, err
	}
	inspector, err := inspect(s)
	if err != nil {
		return nil, err
	}
	return deadletter.NewReplayer(l.queue, l.replay, inspector, deadletter.ReplayConfig{}), nil
}

// find returns the entries with these ids. It is all or nothing: an id that is not there must not be noticed half way.
func (l *letters) find(ctx context.Context, ids []string, f deadletter.Filter) ([]deadletter.Entry, error) {
	found, missing, err := l.queue.Find(ctx, ids)
	switch {
	case errors.Is(err, deadletter.ErrBadID):
		return nil, &exitError{exitNothingFound, err}
	case err != nil:
		return nil, err
	case len(missing) > 0:
		return nil, &exitError{exitNothingFound, fmt.Errorf("no dead letter has the id %s; see idemq dlq ls", strings.Join(missing, ", "))}
	}
	for i := range found {
		e := &found[i]
		if f.Stream != "" && f.Stream != e.Letter.Stream || f.Durable != "" && f.Durable != e.Letter.Durable {
			return nil, &exitError{exitNothingFound, fmt.Errorf("the dead letter %s belongs to %s/%s", e.ID, e.Letter.Stream, e.Letter.Durable)}
		}
	}
	return found, nil
}
