package tieredstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/idemq/idemq/dedup"
)

// Config has the settings of a [Store]. Its zero value is safe.
type Config struct {
	// Quarantine is for how long nothing is granted after the fast tier was found to have lost everything. It must not be
	// shorter than the longest lease of any worker. Defaults to the lease of the claim that finds it.
	Quarantine time.Duration
}

// tier is what both stores must be able to do.
type tier interface {
	dedup.Store
	dedup.Inspector
	dedup.Adopter
}

// Store is a [dedup.Store] in two tiers. It is also a [dedup.Batcher], a [dedup.Inspector], a [dedup.Describer], and as far
// as its tiers are a [dedup.StepStore] and a [dedup.Watcher]. It is safe for concurrent use and has no goroutine of its own.
type Store struct {
	fast, durable tier
	loss          *loss
	claims        claims
	endings       endings
}

var (
	_ dedup.Store     = (*Store)(nil)
	_ dedup.Inspector = (*Store)(nil)
	_ dedup.Describer = (*Store)(nil)
	_ dedup.StepStore = (*Store)(nil)
	_ dedup.Watcher   = (*Store)(nil)
)

// New returns a store with these tiers. Both must be a [dedup.Inspector] and a [dedup.Adopter], as the stores of this
// module are. The error wraps [dedup.ErrConfig] if one is not, or if the tiers are visibly swapped or the same. Nothing is
// sent.
func New(fast, durable dedup.Store, cfg Config) (*Store, error) {
	f, err := tierOf("fast", fast)
	if err != nil {
		return nil, err
	}
	d, err := tierOf("durable", durable)
	if err != nil {
		return nil, err
	}
	if cfg.Quarantine < 0 {
		return nil, fmt.Errorf("tieredstore: %w: Quarantine is %v; it must not be negative", dedup.ErrConfig, cfg.Quarantine)
	}
	where, other := describe(fast), describe(durable)
	switch {
	case fast == durable || where == other && where != "" && !strings.HasPrefix(where, "memory:"):
		return nil, fmt.Errorf("tieredstore: %w: both tiers are the same store; it would answer for itself", dedup.ErrConfig)
	case scheme(where, "kv", "postgres", "sqlite", "mysql"):
		return nil, fmt.Errorf("tieredstore: %w: the fast tier is %s, a durable store; are the tiers swapped?", dedup.ErrConfig, where)
	case scheme(other, "redis", "rediss", "valkey"):
		return nil, fmt.Errorf("tieredstore: %w: the durable tier is %s, which may forget; are the tiers swapped?", dedup.ErrConfig, other)
	}
	return &Store{fast: f, durable: d, loss: newLoss(f, d, cfg.Quarantine)}, nil
}

func tierOf(name string, s dedup.Store) (tier, error) {
	t, ok := s.(tier)
	if !ok {
		return nil, fmt.Errorf("tieredstore: %w: the %s tier must be a dedup.Inspector and a dedup.Adopter, and %T is not", dedup.ErrConfig, name, s)
	}
	return t, nil
}

func describe(s dedup.Store) string {
	if d, ok := s.(dedup.Describer); ok {
		return d.Describe()
	}
	return ""
}

// scheme says whether the description of a store begins with one of these words.
func scheme(where string, names ...string) bool {
	word, _, _ := strings.Cut(where, ":")
	word, _, _ = strings.Cut(word, "+") // redis+sentinel
	for _, n := range names {
		if strings.HasPrefix(word, n) {
			return true
		}
	}
	return false
}

// Describe names both tiers.
func (s *Store) Describe() string {
	return "tiered:" + describe(s.fast) + "," + describe(s.durable)
}

// look reads the record of a key; its zero value stands for none.
func look(ctx context.Context, t tier, k dedup.Key) (dedup.Record, error) {
	r, err := t.Get(ctx, k)
	if errors.Is(err, dedup.ErrNotFound) {
		return dedup.Record{}, nil
	}
	return r, err
}

func owned(r *dedup.Record, h dedup.Hold) bool {
	return r.State != dedup.Absent && h.Nonce != "" && r.Fence == h.Fence && r.Nonce == h.Nonce
}

func holdOf(r *dedup.Record) dedup.Hold {
	return dedup.Hold{Key: r.Key, Fence: r.Fence, Nonce: r.Nonce}
}

// failed says whether a store did not answer, and not that it answered with a refusal, or was not asked for long enough.
func failed(ctx context.Context, err error) bool {
	se := (*dedup.StoreError)(nil)
	return errors.As(err, &se) && ctx.Err() == nil
}

// durableError says which tier did not answer. Nothing is left behind in the fast one, so the call is not repeated under
// the same nonce, which is spent.
func durableError(op string, k dedup.Key, err error) error {
	se := (*dedup.StoreError)(nil)
	if !errors.As(err, &se) {
		return err
	}
	return &dedup.StoreError{Op: op, Key: k, Err: fmt.Errorf("tieredstore: the durable tier did not answer, and nothing goes on without it: %w", err)}
}
