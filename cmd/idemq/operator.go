package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/dedup"
)

// place is where the records of a durable are, as its worker has noted in the durable's metadata.
type place struct{ stream, durable, store, scope string }

func (p place) String() string { return p.stream + "/" + p.durable }

// operator finds the stores that workers use, and opens each once. An operator must never look into another one: its
// empty answer would be believed.
type operator struct {
	a      *app
	nc     *nats.Conn // nil if NATS cannot be reached and a store is given
	js     jetstream.JetStream
	opened map[string]dedup.Store // by what was asked for
	warned map[string]bool
	close  func()
}

var (
	// errNoStore: neither the command line nor a durable's metadata names the store.
	errNoStore = errors.New("no store is known")
	// errOtherScope: the worker of a durable uses another scope than the one asked for.
	errOtherScope = errors.New("another scope is in use")
)

// operate connects. With a store given, NATS is not needed but for the comparison, so that a failure only warns.
func (a *app) operate(ctx context.Context, natsNeeded bool) (*operator, error) {
	o := &operator{a: a, opened: map[string]dedup.Store{}, close: func() {}}
	if a.store != "" {
		switch kind, _, err := a.storeKind(); {
		case err != nil:
			return nil, err
		case kind == storeMemory:
			return nil, usagef("memory:// ends with its process, so there is nothing to look into; name the store that the worker uses")
		case kind == storeKV, kind == storeTiered && strings.Contains(a.store, ","+storeKV):
			natsNeeded = true
		}
	}
	nc, js, err := a.connect(ctx)
	switch {
	case err == nil:
		o.nc, o.js, o.close = nc, js, nc.Close
	case natsNeeded || a.store == "":
		return nil, err
	default:
		a.log.Warn("whether the workers use this store could not be checked", "store", redact(a.store), "error", err)
	}
	return o, nil
}

// storeOfScope opens the store that holds the records of a scope.
func (o *operator) storeOfScope(ctx context.Context, scope string) (dedup.Store, error) {
	places, err := o.find(ctx, scope)
	if err != nil {
		return nil, err
	}
	if len(places) == 0 {
		if o.a.store == "" {
			return nil, &exitError{exitUsage, fmt.Errorf(
				"%w: no durable consumer says where the records of the scope %q are; its worker notes that when it runs. Else %s", errNoStore, scope, storeChoices)}
		}
		return o.open(ctx, o.a.store)
	}
	for _, p := range places[1:] {
		if !sameStore(p.store, places[0].store) {
			return nil, fmt.Errorf("the scope %s is used by %s with the store %s and by %s with the store %s; mend that first",
				scope, places[0], redact(places[0].store), p, redact(p.store))
		}
	}
	return o.storeAt(ctx, places[0], scope)
}

// storeOfDurable opens the store that holds the records of a durable's scope.
func (o *operator) storeOfDurable(ctx context.Context, stream, durable, scope string) (dedup.Store, error) {
	p, err := o.metadata(ctx, stream, durable)
	if err != nil {
		return nil, err
	}
	if p.store == "" {
		if o.a.store == "" {
			return nil, &exitError{exitUsage, fmt.Errorf("%w: the durable consumer %s is gone, or its worker has not noted its store; %s", errNoStore, p, storeChoices)}
		}
		return o.open(ctx, o.a.store)
	}
	return o.storeAt(ctx, p, scope)
}

// storeAt opens the store that a durable's metadata names, unless the command line contradicts it.
func (o *operator) storeAt(ctx context.Context, p place, scope string) (dedup.Store, error) {
	if p.scope != "" && p.scope != scope {
		return nil, fmt.Errorf("%w: the worker of %s uses the scope %s now, not %s: what it remembers there does not protect what happened here",
			errOtherScope, p, p.scope, scope)
	}
	if o.a.store == "" {
		if _, ok := o.opened[p.store]; !ok {
			fmt.Fprintf(o.a.err, "store: %s, scope: %s (as noted at the durable consumer %s)\n", printable(p.store), printable(scope), printable(p.String()))
		}
		return o.open(ctx, p.store)
	}
	s, err := o.open(ctx, o.a.store)
	if err != nil {
		return nil, err
	}
	if d, ok := s.(dedup.Describer); ok && !sameStore(d.Describe(), p.store) {
		return nil, fmt.Errorf("the worker of %s uses the store %s, not %s; leave out --store and IDEMQ_STORE, or name that one",
			p, p.store, d.Describe())
	}
	return s, nil
}

func (o *operator) open(ctx context.Context, address string) (dedup.Store, error) {
	if s, ok := o.opened[address]; ok {
		return s, nil
	}
	as := *o.a
	as.store, as.mustExist = address, true
	if kind, _, err := as.storeKind(); err != nil {
		return nil, err
	} else if kind == storeMemory {
		return nil, errors.New("the worker keeps its records in its own memory (memory://): nobody else can look into them")
	}
	s, closeStore, err := as.openStore(ctx, o.js)
	if err != nil {
		if o.a.store == "" {
			err = fmt.Errorf("%w; if it needs a password, give the whole URL with --store or IDEMQ_STORE", err)
		}
		return nil, err
	}
	before := o.close
	o.close = func() { closeStore(); before() }
	o.opened[address] = s
	return s, nil
}

// metadata reads what a worker has noted at a durable; nothing if there is no such durable.
func (o *operator) metadata(ctx context.Context, stream, durable string) (place, error) {
	p := place{stream: stream, durable: durable}
	if o.js == nil {
		return p, nil
	}
	c, err := o.js.Consumer(ctx, stream, durable)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrConsumerNotFound),
		errors.Is(err, jetstream.ErrInvalidStreamName), errors.Is(err, jetstream.ErrInvalidConsumerName):
		return p, nil
	case errors.Is(err, jetstream.ErrNotPullConsumer):
		return p, nil // no worker of ours runs on it
	case err != nil:
		return p, fmt.Errorf("look up consumer %s: %w", p, err)
	}
	meta := c.CachedInfo().Config.Metadata
	p.store, p.scope = meta[natsidem.MetadataStore], meta[natsidem.MetadataScope]
	return p, nil
}

// find returns the durables whose workers use a scope. Usually the scope is the name of one.
func (o *operator) find(ctx context.Context, scope string) ([]place, error) {
	if o.js == nil {
		return nil, nil
	}
	if stream, durable, ok := strings.Cut(scope, "/"); ok {
		p, err := o.metadata(ctx, stream, durable)
		if err != nil || p.scope == scope && p.store != "" {
			return []place{p}, err
		}
	}
	var found []place
	streams := o.js.ListStreams(ctx)
	for s := range streams.Info() {
		stream, err := o.js.Stream(ctx, s.Config.Name)
		if err != nil {
			return nil, fmt.Errorf("look up stream %s: %w", s.Config.Name, err)
		}
		consumers := stream.ListConsumers(ctx)
		for c := range consumers.Info() {
			if meta := c.Config.Metadata; meta[natsidem.MetadataScope] == scope && meta[natsidem.MetadataStore] != "" {
				found = append(found, place{s.Config.Name, c.Name, meta[natsidem.MetadataStore], scope})
			}
		}
		if err := consumers.Err(); err != nil {
			return nil, fmt.Errorf("list the consumers of stream %s: %w", s.Config.Name, err)
		}
	}
	if err := streams.Err(); err != nil {
		return nil, fmt.Errorf("list the streams: %w", err)
	}
	return found, nil
}
