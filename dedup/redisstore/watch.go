package redisstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/idemq/idemq/dedup"
)

// The scripts that end a claim publish to a channel with the name of the record, if somebody listens (tell in record.lua).
//
// Channels are sharded ones (SSUBSCRIBE, SPUBLISH), also on a single server. On a Cluster a classic PUBLISH goes to every
// node, so each settlement that somebody waits for would cost all of them; a sharded one stays with the master of the record
// and its replicas. A script may publish to it, too, because its channel has the record's slot. And no other program's
// patterns are matched with it. Servers before Redis 7.0 have classic channels only, and get these.

const (
	// watchLimit is how long a server may take to confirm a subscription.
	watchLimit = 2 * time.Second
	// refusedFor is how long a server is not asked again that does not let us subscribe.
	refusedFor = time.Minute
)

// errWatchRefused is what the server's refusal is wrapped in.
var errWatchRefused = errors.New("the server does not let this user subscribe; who waits asks again and again instead. " +
	"Give the user +ssubscribe and +sunsubscribe and the channels, which have the names of the records, and whoever settles +pubsub and +spublish")

// watching is what a store has for its watchers: one subscription for each server, and none while nobody watches.
type watching struct {
	mu            sync.Mutex
	subscriptions map[*redis.Client]*subscription // by the server of the record; nil if the client is none that we know
	classic       bool                            // the server knows no sharded channels
	refused       error                           // why it let nobody watch
	refusedUntil  time.Time
}

var _ dedup.Watcher = (*Store)(nil)

// Watch tells when the key is settled, released, reopened or forgotten, or its letter is sent; see [dedup.Watcher]. All
// watches of a store share one connection to each server that has watched records; it stays open for some seconds after
// the last watch. After a reconnect everybody is told once.
//
// The channel is closed if the server cannot be reached for some seconds, and when the client is closed; on a Cluster as
// soon as the connection is lost, or the record moves to another master, since either may be somebody else's now. The error is the context's, or a [*dedup.StoreError]; a user who may not
// subscribe gets it at once, and is told what is missing.
func (s *Store) Watch(ctx context.Context, k dedup.Key) (<-chan struct{}, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	name := s.name(k)
	var node *redis.Client
	switch s.rdb.(type) {
	case *redis.ClusterClient, *redis.Ring:
		var err error
		if node, err = s.node(ctx, name); err != nil {
			return nil, s.failure(ctx, "watch", k, err)
		}
	}
	for {
		sub, err := s.subscription(node)
		if err != nil {
			return nil, s.failure(ctx, "watch", k, err)
		}
		c, err := sub.watch(ctx, name)
		switch {
		case err == nil:
			return c, nil
		case errors.Is(err, errIdle): // it was just being closed
			continue
		case errors.Is(err, errUnknownChannels) && sub.sharded: // as classic ones, then
			continue
		case ctx.Err() != nil:
			return nil, ctx.Err()
		}
		return nil, s.failure(ctx, "watch", k, err)
	}
}

// subscription returns the one for a server, which it opens if there is none.
func (s *Store) subscription(node *redis.Client) (*subscription, error) {
	w := &s.watching
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Now().Before(w.refusedUntil) {
		return nil, w.refused
	}
	if sub := w.subscriptions[node]; sub != nil {
		return sub, nil
	}
	var rdb interface {
		Subscribe(ctx context.Context, channels ...string) *redis.PubSub
		SSubscribe(ctx context.Context, channels ...string) *redis.PubSub
	} = s.rdb
	if node != nil {
		rdb = node
	}
	open := rdb.SSubscribe
	if w.classic {
		open = rdb.Subscribe
	}
	sub := newSubscription(open, !w.classic)
	if _, ok := s.rdb.(*redis.ClusterClient); ok {
		sub.tries = 0 // the server may come back as a replica, to which nobody publishes
	}
	if w.subscriptions == nil {
		w.subscriptions = map[*redis.Client]*subscription{}
	}
	w.subscriptions[node] = sub
	sub.start(func(why error) { s.subscriptionEnded(node, sub, why) })
	return sub, nil
}

// subscriptionEnded takes a subscription out of use, and remembers what the server said to it.
func (s *Store) subscriptionEnded(node *redis.Client, sub *subscription, why error) {
	w := &s.watching
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.subscriptions[node] == sub {
		delete(w.subscriptions, node)
	}
	switch {
	case errors.Is(why, errUnknownChannels) && sub.sharded:
		w.classic = true
	case errors.Is(why, errWatchRefused), errors.Is(why, errUnknownChannels):
		w.refused, w.refusedUntil = why, time.Now().Add(refusedFor)
	case redis.HasErrorPrefix(why, "MOVED"):
		if c, ok := s.rdb.(*redis.ClusterClient); ok {
			c.ReloadState(context.WithoutCancel(sub.ctx))
		}
	}
}

// errUnknownChannels: the server does not know the command.
var errUnknownChannels = errors.New("the server knows no such channels")

// refusal sorts an error by what it says about watching at all.
func refusal(err error) error {
	switch {
	case redis.HasErrorPrefix(err, "NOPERM"):
		return fmt.Errorf("%w: %w", errWatchRefused, err)
	case redis.HasErrorPrefix(err, "unknown command"):
		return fmt.Errorf("%w: %w", errUnknownChannels, err)
	}
	return err
}
