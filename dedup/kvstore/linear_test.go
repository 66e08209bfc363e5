package kvstore

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/internal/linear"
)

func TestHistoriesAreLinearizable(t *testing.T) {
	t.Parallel()
	linear.Check(t, open(t, connect(t)), linear.Config{Calls: 120})
}

// forgetful is JetStream that loses the answer to every so many writes, applied or not.
type forgetful struct {
	jetstream.JetStream

	writes, lost atomic.Int64
}

func (f *forgetful) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	ack, err := f.JetStream.PublishMsg(ctx, m, opts...)
	if f.writes.Add(1)%17 == 0 {
		f.lost.Add(1)
		return nil, context.DeadlineExceeded
	}
	return ack, err
}

func TestHistoriesWithLostAnswersAreLinearizable(t *testing.T) {
	t.Parallel()
	f := &forgetful{JetStream: connect(t)}
	s := open(t, f)
	for range 5 {
		linear.Check(t, s, linear.Config{Calls: 40, Faults: true})
	}
	require.Positive(t, f.lost.Load())
}
