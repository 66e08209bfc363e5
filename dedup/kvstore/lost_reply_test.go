package kvstore

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
)

// lossy is JetStream that applies the next write and loses its answer, or the write itself.
type lossy struct {
	jetstream.JetStream
	loseReply, repeat atomic.Bool
	refuse            atomic.Pointer[jetstream.APIError]
}

func (l *lossy) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	if api := l.refuse.Swap(nil); api != nil {
		return nil, api
	}
	ack, err := l.JetStream.PublishMsg(ctx, m, opts...)
	switch {
	case l.loseReply.CompareAndSwap(true, false):
		return nil, context.DeadlineExceeded
	case l.repeat.CompareAndSwap(true, false):
		return l.JetStream.PublishMsg(ctx, m, opts...)
	}
	return ack, err
}

func TestALostReplyIsIndeterminateAndTheCallCanBeRepeated(t *testing.T) {
	l := &lossy{JetStream: connect(t)}
	s, ctx := open(t, l), testContext(t)
	c := claimOf("1", "n1")
	lost := func(call func() error) {
		t.Helper()
		l.loseReply.Store(true)
		var se *dedup.StoreError
		require.ErrorAs(t, call(), &se)
		assert.True(t, se.Indeterminate)
		require.NoError(t, call(), "repeated")
	}
	var fences []dedup.Fence
	lost(func() error {
		v, r, err := s.Acquire(ctx, c)
		if err == nil {
			assert.Equal(t, dedup.Granted, v)
			fences = append(fences, r.Fence)
		}
		return err
	})
	e, err := s.read(ctx, c.Key)
	require.NoError(t, err)
	assert.Equal(t, []dedup.Fence{dedup.Fence(e.revision)}, fences, "granted once, by the write whose answer was lost")
	h := dedup.Hold{Key: c.Key, Fence: fences[0], Nonce: c.Nonce}
	lost(func() error { return s.Extend(ctx, h, time.Minute) })
	lost(func() error {
		return s.Settle(ctx, h, dedup.Settlement{State: dedup.DeadOwed, Retention: time.Hour})
	})
	lost(func() error { return s.LetterSent(ctx, c.Key, h.Fence) })
	q := dedup.ReopenRequest{Key: c.Key, Fence: h.Fence, Generation: 1, Retention: time.Hour}
	lost(func() error { _, err := s.Reopen(ctx, q); return err })
	c.Nonce = "n2"
	r := acquire(t, s, c, dedup.Granted)
	lost(func() error { return s.Release(ctx, holdOf(r), dedup.Release{}) })
}

// A copy of a write that comes twice is refused with "wrong last sequence", not as a duplicate; one's own nonce read back
// proves the success.
func TestAWriteThatTheNetworkRepeatsSucceedsOnce(t *testing.T) {
	l := &lossy{JetStream: connect(t)}
	s, ctx := open(t, l), testContext(t)
	l.repeat.Store(true)
	r := acquire(t, s, claimOf("1", "n1"), dedup.Granted)
	assert.Equal(t, 1, r.Attempt)
	l.repeat.Store(true)
	require.NoError(t, s.Settle(ctx, holdOf(r), dedup.Settlement{State: dedup.Consumed, Retention: time.Hour}))
	acquire(t, s, claimOf("1", "n2"), dedup.Duplicate)
}

func TestBothConflictCodesAreRetried(t *testing.T) {
	l := &lossy{JetStream: connect(t)}
	s := open(t, l)
	for i, code := range []jetstream.ErrorCode{10071, 10164} {
		l.refuse.Store(&jetstream.APIError{Code: 400, ErrorCode: code})
		acquire(t, s, claimOf(string(rune('a'+i)), "n1"), dedup.Granted)
		assert.Nil(t, l.refuse.Load())
	}
	for code, indeterminate := range map[int]bool{400: false, 503: true} {
		l.refuse.Store(&jetstream.APIError{Code: code, ErrorCode: 1})
		_, _, err := s.Acquire(testContext(t), claimOf("c", "n1"))
		var se *dedup.StoreError
		require.ErrorAs(t, err, &se)
		assert.Equal(t, indeterminate, se.Indeterminate)
	}
}
