package consumer_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

var errDown = errors.New("down")

// batches is a store whose batches a test can hold up, and of which single records fail.
type batches struct {
	*memstore.Store

	mu      sync.Mutex
	acquire func(c dedup.Claim) error
	settle  func(h dedup.Hold) error
	gate    chan struct{} // settlements wait for it to be closed; nil if they do not
	calls   map[string][]int
}

func (b *batches) set(change func(b *batches)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(b)
}

func (b *batches) AcquireMany(ctx context.Context, claims []dedup.Claim) []dedup.Acquisition {
	b.mu.Lock()
	acquire := b.acquire
	b.calls["acquire"] = append(b.calls["acquire"], len(claims))
	b.mu.Unlock()
	out := make([]dedup.Acquisition, len(claims))
	for i, c := range claims {
		if acquire != nil {
			if err := acquire(c); err != nil {
				out[i].Err = &dedup.StoreError{Op: "acquire", Key: c.Key, Err: err}
				continue
			}
		}
		out[i].Verdict, out[i].Record, out[i].Err = b.Acquire(ctx, c)
	}
	return out
}

func (b *batches) SettleMany(ctx context.Context, settlements []dedup.HeldSettlement) []error {
	b.mu.Lock()
	b.calls["settle"] = append(b.calls["settle"], len(settlements))
	b.mu.Unlock()
	errs := make([]error, len(settlements))
	for i, s := range settlements {
		errs[i] = b.Settle(ctx, s.Hold, s.Settlement)
	}
	return errs
}

func (b *batches) Settle(ctx context.Context, h dedup.Hold, s dedup.Settlement) error {
	b.mu.Lock()
	gate, settle := b.gate, b.settle
	b.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return &dedup.StoreError{Op: "settle", Key: h.Key, Err: ctx.Err()}
		}
	}
	if settle != nil {
		if err := settle(h); err != nil {
			return &dedup.StoreError{Op: "settle", Key: h.Key, Err: err}
		}
	}
	return b.Store.Settle(ctx, h, s)
}

func (b *batches) sizes(op string) []int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]int{}, b.calls[op]...)
}

// flowBench is a bench whose pipeline has a flow.
type flowBench struct {
	*bench

	store  *batches
	flow   *consumer.Flow
	cancel context.CancelCauseFunc
}

func newFlow(t *testing.T, workers int, h consumer.HandlerFunc, change ...func(*consumer.Config, *dedup.Config)) *flowBench {
	t.Helper()
	mem := memstore.New(memstore.Config{})
	b := &flowBench{bench: &bench{t: t, store: mem, letters: &letterbox{}}, store: &batches{Store: mem, calls: map[string][]int{}}}
	cfg, dcfg := consumer.Config{Letters: b.letters, Logger: slog.New(slog.DiscardHandler)}, dedup.Config{}
	for _, f := range change {
		f(&cfg, &dcfg)
	}
	d, err := dedup.New(b.store, dcfg)
	require.NoError(t, err)
	b.p, err = consumer.New(d, scope, h, cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancelCause(t.Context())
	b.cancel = cancel
	b.flow = b.p.Flow(ctx, workers, nil)
	t.Cleanup(func() { b.flow.Stop(); <-b.flow.Done() })
	return b
}

// offer hands in new messages with these keys.
func (b *flowBench) offer(keys ...string) []*delivery {
	ds := make([]*delivery, len(keys))
	for i, k := range keys {
		ds[i] = b.message(k, "x")
		b.flow.Offer(ds[i], false)
	}
	return ds
}

// warm lets the flow measure that its handlers are fast.
func (b *flowBench) warm(key string) {
	b.t.Helper()
	b.until(b.offer(key)[0], "ack")
}

// until waits for an answer.
func (b *flowBench) until(d *delivery, answer string) {
	b.t.Helper()
	require.Eventually(b.t, func() bool { s := d.said(); return len(s) == 1 && s[0] == answer }, 10*time.Minute, time.Millisecond, answer)
}

func (b *flowBench) stop() { b.flow.Stop(); <-b.flow.Done() }

// gate returns a channel that is closed by open, which may be called repeatedly: a test that fails must not leave its
// handlers behind.
func gate() (shut chan struct{}, open func()) {
	shut = make(chan struct{})
	return shut, sync.OnceFunc(func() { close(shut) })
}
