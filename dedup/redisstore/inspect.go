package redisstore

import (
	"context"
	"errors"
	"iter"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/idemq/idemq/dedup"
)

// scanCount is how many keys one SCAN looks at.
const scanCount = 256

// Get returns the record, or dedup.ErrNotFound.
func (s *Store) Get(ctx context.Context, k dedup.Key) (dedup.Record, error) {
	r := s.run(ctx, getScript, call{keys: []string{s.name(k)}})[0]
	if r.err != nil {
		return dedup.Record{}, s.failure(ctx, "get", k, r.err)
	}
	return found(k, r.value, 0)
}

// found reads answer i of a reply of get.lua.
func found(k dedup.Key, value any, i int) (dedup.Record, error) {
	list, _ := value.([]any)
	if len(list) < 3+2*i {
		return dedup.Record{}, statusError("get", k, value)
	}
	if list[1+2*i] == nil {
		return dedup.Record{}, dedup.ErrNotFound
	}
	return decode(k, list[1+2*i], list[2+2*i], list[0])
}

// Forget removes the record. Repeated because its answer was lost, it is dedup.ErrNotFound.
func (s *Store) Forget(ctx context.Context, k dedup.Key, force bool) error {
	return s.one(ctx, "forget", forgetScript, k, flag(force))
}

// Reopen makes a dead key ready for a replay.
func (s *Store) Reopen(ctx context.Context, q dedup.ReopenRequest) (dedup.Reopening, error) {
	if err := invalidReopen(q); err != nil {
		return 0, s.failure(ctx, "reopen", q.Key, err)
	}
	r := s.run(ctx, reopenScript, call{keys: []string{s.name(q.Key)}, args: []any{
		fence(q.Fence), q.Generation, dash(q.Fingerprint.String()), flag(q.Rebind), millis(q.Retention),
	}})[0]
	if r.err != nil {
		return 0, s.failure(ctx, "reopen", q.Key, r.err)
	}
	for _, answer := range []dedup.Reopening{dedup.Reopened, dedup.AlreadyOpen, dedup.Resolved, dedup.NotSettled} {
		switch {
		case r.value != answer.String():
			continue
		case r.short != nil:
			return 0, s.failure(ctx, "reopen", q.Key, r.short)
		}
		return answer, nil
	}
	return 0, statusError("reopen", q.Key, r.value)
}

// errStop ends a listing whose reader has had enough.
var errStop = errors.New("stop")

// List scans the servers, every master of a Cluster. Names with our prefix that we did not make are passed over. A server
// that resizes its table meanwhile may show a record twice.
func (s *Store) List(ctx context.Context, f dedup.Filter) iter.Seq2[dedup.Record, error] {
	return func(yield func(dedup.Record, error) bool) {
		nodes, err := s.nodes(ctx)
		for _, node := range nodes {
			if err == nil {
				err = s.scan(ctx, node, f, yield)
			}
		}
		if err != nil && !errors.Is(err, errStop) {
			yield(dedup.Record{}, err)
		}
	}
}

// nodes returns the servers that hold records.
func (s *Store) nodes(ctx context.Context) ([]redis.Cmdable, error) {
	var mu sync.Mutex
	var all []redis.Cmdable
	collect := func(_ context.Context, node *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, node)
		return nil
	}
	var err error
	switch c := s.rdb.(type) {
	case *redis.ClusterClient:
		err = c.ForEachMaster(ctx, collect)
	case *redis.Ring:
		err = c.ForEachShard(ctx, collect)
	default:
		return []redis.Cmdable{s.rdb}, nil
	}
	if err != nil {
		return nil, s.failure(ctx, "list", dedup.Key{}, err)
	}
	return all, nil
}

func (s *Store) scan(ctx context.Context, node redis.Cmdable, f dedup.Filter, yield func(dedup.Record, error) bool) error {
	for cursor := uint64(0); ; {
		names, next, err := node.Scan(ctx, cursor, s.pattern(f.Scope), scanCount).Result()
		if err != nil {
			return s.failure(ctx, "list", dedup.Key{Scope: f.Scope}, err)
		}
		if err := s.page(ctx, names, f, yield); err != nil {
			return err
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// page shows the records of some names.
func (s *Store) page(ctx context.Context, names []string, f dedup.Filter, yield func(dedup.Record, error) bool) error {
	keys, ours := make([]dedup.Key, 0, len(names)), make([]string, 0, len(names))
	for _, name := range names {
		if k, ok := s.parseName(name); ok && (f.Scope == "" || f.Scope == k.Scope) {
			keys, ours = append(keys, k), append(ours, name)
		}
	}
	spans := s.chunks(len(keys))
	calls := make([]call, len(spans))
	for i, span := range spans {
		calls[i].keys = ours[span[0]:span[1]]
	}
	replies := s.run(ctx, getScript, calls...)
	for i, span := range spans {
		for j := span[0]; j < span[1]; j++ {
			if err := replies[i].err; err != nil {
				return s.failure(ctx, "list", keys[j], err)
			}
			r, err := found(keys[j], replies[i].value, j-span[0])
			switch {
			case errors.Is(err, dedup.ErrNotFound): // it expired meanwhile
				continue
			case errors.Is(err, dedup.ErrUnreadable):
				r = dedup.Record{Key: keys[j]}
			case err != nil:
				return err
			case !f.Selects(&r):
				continue
			}
			if !yield(r, err) {
				return errStop
			}
		}
	}
	return nil
}
