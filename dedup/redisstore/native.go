package redisstore

import (
	"context"
	"errors"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/idemq/idemq/dedup"
)

// Where the server compares and sets by itself (SET … IFEQ: Valkey 8.1, Redis 8.4), a claim whose record is known is settled
// by that one command instead of a script: it changes exactly the bytes that the claim has left, so it is as strict as the
// script, and it needs no slot in common with others, so on a Cluster a batch is no script for each key any more. Whatever
// differs is settled by the script afterwards.
//
// Which server can do that is found out by asking for it, beside the first settlement: one that cannot calls it a syntax error
// and does nothing. That holds for servers that hide their version, and after a failover to an older one.
//
// A claim stays a script in either case; see acquireCall. So does a store with digests, which lie elsewhere than the record.

// What a store knows of its server.
const (
	notAsked int32 = iota
	compares
	comparesNot
)

// native says whether settlements may go this way.
func (s *Store) native() bool { return s.cfg.Layout == Readable && s.compareAndSet.Load() == compares }

// probe queues the question beside a settlement, nil if it is answered. No record is as short as the text that would have to
// be there.
func (b *batch) probe(ctx context.Context, p redis.Pipeliner, todo []int) *redis.Cmd {
	if b.store.cfg.Layout != Readable || b.store.compareAndSet.Load() != notAsked {
		return nil
	}
	for _, i := range todo {
		if b.calls[i].script == settleScript {
			return p.Do(ctx, "SET", b.calls[i].keys[0], "-", "IFEQ", "-")
		}
	}
	return nil
}

// probed reads the answer. An error that tells nothing leaves the question open.
func (s *Store) probed(probe *redis.Cmd) {
	switch err := probe.Err(); {
	case err == nil, err == redis.Nil: //nolint:errorlint // it is never wrapped
		s.compareAndSet.Store(compares)
	case redis.HasErrorPrefix(err, syntaxError):
		s.compareAndSet.Store(comparesNot)
	}
}

const syntaxError = "syntax error" // go-redis compares what follows on ERR

// comparison is a settlement in this form.
type comparison struct {
	settling  *dedup.HeldSettlement
	old, new  []byte
	retention int64
}

// compareCall returns the settlement as a comparison, if the record of its claim is known.
//
// The client does not know the time at which the server will do it. So the record has none as its last change: decode takes
// it from the time to live, which is the retention from then on.
func (s *Store) compareCall(st *dedup.HeldSettlement) (call, bool) {
	if !s.native() {
		return call{}, false
	}
	// What a script settles first is not known any more to whoever comes later in the same round trip.
	c, known := s.granted.take(&st.Hold)
	retention := millis(st.Settlement.Retention)
	if !known || st.Settlement.State != dedup.Consumed || retention <= 0 {
		return call{}, false
	}
	n := st.Hold.Nonce
	created := strconv.AppendUint(nil, uint64(c.fence), 10)
	text := c.appendText(make([]byte, 0, settleSize), n)
	b := make([]byte, 0, 2*(settleSize+settleTail)+len(st.Settlement.Result))
	b = append(append(append(b, "1 a "...), text...), ' ')
	b = strconv.AppendInt(b, int64(c.fence)+c.lease*microsInMilli, 10)
	b = strconv.AppendInt(append(b, " 0 "...), c.retention, 10)
	b = append(append(append(b, ' '), created...), " 0 "...)
	b = append(append(b, created...), " - 0\n"...)
	to := len(b)
	b = append(append(append(b, "1 c "...), text...), " 0 0 "...)
	b = append(strconv.AppendInt(b, retention, 10), ' ')
	b = append(append(b, created...), " 0 0 - 0\n"...)
	b = append(b, st.Settlement.Result...)
	return call{
		keys:    []string{s.name(st.Hold.Key)},
		compare: &comparison{settling: st, old: b[:to:to], new: b[to:], retention: retention},
	}, true
}

const (
	microsInMilli = 1000
	settleTail    = 96 // bytes of a record behind its fingerprint
)

// send queues the command.
func (c *comparison) send(ctx context.Context, p redis.Pipeliner, key string) *redis.Cmd {
	return p.Do(ctx, "SET", key, c.new, "PX", c.retention, "IFEQ", c.old)
}

// compared makes the answer of such a call that of a script. It returns false if nothing was done, and then the call has
// become one of the script.
func (b *batch) compared(i int) bool {
	r := &b.replies[i]
	switch {
	case r.err == nil:
		r.value = "ok"
		return true
	case redis.HasErrorPrefix(r.err, syntaxError):
		b.store.compareAndSet.Store(comparesNot)
	case r.err != redis.Nil: //nolint:errorlint // it is never wrapped
		return true
	}
	b.calls[i] = b.store.settleCall([]*dedup.HeldSettlement{b.calls[i].compare.settling})
	return false
}

// listeners queues the question who watches the keys that are settled without a script, nil if there are none.
func (b *batch) listeners(ctx context.Context, p redis.Pipeliner, todo []int) *redis.Cmd {
	var args []any
	for _, i := range todo {
		if b.calls[i].compare == nil {
			continue
		}
		if args == nil {
			args = append(make([]any, 0, 3+len(todo)), "PUBSUB", "SHARDNUMSUB")
		}
		args = append(args, b.calls[i].keys[0])
	}
	if args == nil {
		return nil
	}
	return p.Do(ctx, args...)
}

// tell tells them, as tell in record.lua does: on classic channels where sharded ones are refused. A user who may not do this
// tells nobody, and his change holds all the same.
func tell(ctx context.Context, rdb redis.Cmdable, listeners *redis.Cmd) {
	if listeners == nil {
		return
	}
	p := rdb.Pipeline()
	publish := p.SPublish
	list, err := listeners.Slice()
	if refusal := redis.Error(nil); errors.As(err, &refusal) {
		args := append([]any{"PUBSUB", "NUMSUB"}, listeners.Args()[2:]...)
		asked := p.Do(ctx, args...)
		_, _ = p.Exec(ctx)
		list, _ = asked.Slice()
		publish = p.Publish
	}
	for i := 0; i+1 < len(list); i += 2 {
		if name, ok := list[i].(string); ok && list[i+1] != int64(0) {
			publish(ctx, name, "")
		}
	}
	if p.Len() > 0 {
		_, _ = p.Exec(ctx)
	}
}
