package memstore

import (
	"context"
	"slices"

	"github.com/idemq/idemq/dedup"
)

var _ dedup.Watcher = (*Store)(nil)

// Watch tells when the key is settled, released, reopened or forgotten, or its letter is sent; see [dedup.Watcher]. That
// a record expires is not told. The error is the context's.
func (s *Store) Watch(ctx context.Context, k dedup.Key) (<-chan struct{}, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	sh, c := s.shardOf(k), make(chan struct{}, 1)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.watchers == nil {
		sh.watchers = map[dedup.Key][]chan struct{}{}
	}
	sh.watchers[k] = append(sh.watchers[k], c)
	context.AfterFunc(ctx, func() { sh.unwatch(k, c) })
	return c, nil
}

func (sh *shard) unwatch(k dedup.Key, c chan struct{}) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	left := slices.DeleteFunc(sh.watchers[k], func(other chan struct{}) bool { return other == c })
	if sh.watchers[k] = left; len(left) == 0 {
		delete(sh.watchers, k)
	}
	close(c)
}

// tell signals who watches the key. A signal that was not taken yet stands for this one too. The caller holds mu.
func (sh *shard) tell(k dedup.Key) {
	for _, c := range sh.watchers[k] {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}
