package linear

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

// watched is a test that notes that it failed.
type watched struct {
	testing.TB

	mu     sync.Mutex
	errors []string
}

func (w *watched) Helper()             {}
func (w *watched) Logf(string, ...any) {}
func (w *watched) Errorf(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errors = append(w.errors, fmt.Sprintf(format, args...))
}

// broken is a store with one rule broken.
type broken struct {
	*memstore.Store

	calls   atomic.Int64
	acquire func(s *memstore.Store, c dedup.Claim) (dedup.Verdict, dedup.Record, error)
	settle  func(s *memstore.Store, h dedup.Hold, se dedup.Settlement) error
	get     func(s *memstore.Store, k dedup.Key) (dedup.Record, error)
}

func (b *broken) now() bool { return b.calls.Add(1)%5 == 0 }

func (b *broken) Acquire(ctx context.Context, c dedup.Claim) (dedup.Verdict, dedup.Record, error) {
	if b.acquire != nil && b.now() {
		return b.acquire(b.Store, c)
	}
	return b.Store.Acquire(ctx, c)
}

func (b *broken) Settle(ctx context.Context, h dedup.Hold, se dedup.Settlement) error {
	if b.settle != nil {
		return b.settle(b.Store, h, se)
	}
	return b.Store.Settle(ctx, h, se)
}

func (b *broken) Get(ctx context.Context, k dedup.Key) (dedup.Record, error) {
	if b.get != nil && b.now() {
		return b.get(b.Store, k)
	}
	return b.Store.Get(ctx, k)
}

var errCut = errors.New("cut")

// The check must see what it is there to see.
func TestBrokenStoresAreFound(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("IDEMQ_TEST_HISTORIES", dir)
	ctx := t.Context()
	for name, b := range map[string]*broken{
		"granted to two": {acquire: func(s *memstore.Store, c dedup.Claim) (dedup.Verdict, dedup.Record, error) {
			v, r, err := s.Acquire(ctx, c)
			if v == dedup.Busy {
				v = dedup.Granted
			}
			return v, r, err
		}},
		"a fence that was given before": {acquire: func(s *memstore.Store, c dedup.Claim) (dedup.Verdict, dedup.Record, error) {
			v, r, err := s.Acquire(ctx, c)
			if v == dedup.Granted {
				r.Fence -= 1_000_000
			}
			return v, r, err
		}},
		"an old owner settles": {settle: func(s *memstore.Store, h dedup.Hold, se dedup.Settlement) error {
			if r, err := s.Get(ctx, h.Key); err == nil {
				h.Fence, h.Nonce = r.Fence, r.Nonce
			}
			return s.Settle(ctx, h, se)
		}},
		"a settlement that is not kept": {settle: func(*memstore.Store, dedup.Hold, dedup.Settlement) error { return nil }},
		"forgotten too early": {get: func(_ *memstore.Store, _ dedup.Key) (dedup.Record, error) {
			return dedup.Record{}, dedup.ErrNotFound
		}},
		"applied, although it says no": {settle: func(s *memstore.Store, h dedup.Hold, se dedup.Settlement) error {
			_ = s.Settle(ctx, h, se)
			return &dedup.StoreError{Op: "settle", Key: h.Key, Err: errCut}
		}},
		"a result that was never given": {acquire: func(s *memstore.Store, c dedup.Claim) (dedup.Verdict, dedup.Record, error) {
			v, r, err := s.Acquire(ctx, c)
			if v == dedup.Duplicate {
				r.Result = []byte("another")
			}
			return v, r, err
		}},
	} {
		b.Store = memstore.New(memstore.Config{})
		w := &watched{TB: t}
		Check(w, b, Config{Calls: 150})
		assert.NotEmpty(t, w.errors, name)
	}
	saved, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.NotEmpty(t, saved, "what broke is saved")
	kinds := map[string]int{}
	for _, f := range saved {
		kinds[filepath.Ext(f.Name())]++
	}
	assert.Equal(t, kinds[".txt"], kinds[".html"])
	text, err := os.ReadFile(filepath.Join(dir, saved[0].Name()))
	require.NoError(t, err)
	assert.Contains(t, string(text), "acquire by")
}

// lossy loses answers, before and after the call.
type lossy struct {
	*memstore.Store

	calls atomic.Int64
	lies  bool // calls what may have been applied not applied
}

func (l *lossy) do(op string, k dedup.Key, run func() error) error {
	n := l.calls.Add(1)
	if n%7 == 0 {
		return &dedup.StoreError{Op: op, Key: k, Err: errCut}
	}
	err := run()
	if n%5 == 0 {
		return &dedup.StoreError{Op: op, Key: k, Indeterminate: !l.lies, Err: errCut}
	}
	return err
}

func (l *lossy) Acquire(ctx context.Context, c dedup.Claim) (v dedup.Verdict, r dedup.Record, err error) {
	err = l.do("acquire", c.Key, func() error { v, r, err = l.Store.Acquire(ctx, c); return err })
	return v, r, err
}

func (l *lossy) Settle(ctx context.Context, h dedup.Hold, s dedup.Settlement) error {
	return l.do("settle", h.Key, func() error { return l.Store.Settle(ctx, h, s) })
}

func (l *lossy) Release(ctx context.Context, h dedup.Hold, r dedup.Release) error {
	return l.do("release", h.Key, func() error { return l.Store.Release(ctx, h, r) })
}

func TestLostAnswersAreExplained(t *testing.T) {
	t.Parallel()
	for range 10 {
		Check(t, &lossy{Store: memstore.New(memstore.Config{})}, Config{Faults: true})
	}
}

// The picture and the text of a broken history go to a folder of their own: see TestBrokenStoresAreFound.
func TestAStoreThatLiesAboutLostAnswersIsFound(t *testing.T) {
	t.Setenv("IDEMQ_TEST_HISTORIES", t.TempDir())
	w := &watched{TB: t}
	Check(w, &lossy{Store: memstore.New(memstore.Config{}), lies: true}, Config{Faults: true, Calls: 150})
	require.NotEmpty(t, w.errors)
	assert.Contains(t, strings.Join(w.errors, "\n"), "no order")
}
