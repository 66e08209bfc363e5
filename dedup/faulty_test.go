package dedup_test

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/idemq/idemq/dedup"
)

// faulty is a store that can fail: before the operation, or after it was applied.
type faulty struct {
	dedup.Store

	mu     sync.Mutex
	before func(op string) error
	after  func(op string) error
	calls  map[string]int
}

var errFault = errors.New("injected fault")

func newFaulty(s dedup.Store) *faulty { return &faulty{Store: s, calls: map[string]int{}} }

func (f *faulty) set(before, after func(op string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before, f.after = before, after
}

func (f *faulty) count(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

func (f *faulty) do(op string, k dedup.Key, run func() error) error {
	f.mu.Lock()
	f.calls[op]++
	before, after := f.before, f.after
	f.mu.Unlock()
	if before != nil {
		if err := before(op); err != nil {
			return &dedup.StoreError{Op: op, Key: k, Err: err}
		}
	}
	if err := run(); err != nil {
		return err
	}
	if after != nil {
		if err := after(op); err != nil {
			return &dedup.StoreError{Op: op, Key: k, Indeterminate: true, Err: err}
		}
	}
	return nil
}

func (f *faulty) Acquire(ctx context.Context, c dedup.Claim) (v dedup.Verdict, r dedup.Record, err error) {
	err = f.do("acquire", c.Key, func() error { v, r, err = f.Store.Acquire(ctx, c); return err })
	return v, r, err
}

func (f *faulty) Extend(ctx context.Context, h dedup.Hold, lease time.Duration) error {
	return f.do("extend", h.Key, func() error { return f.Store.Extend(ctx, h, lease) })
}

func (f *faulty) Settle(ctx context.Context, h dedup.Hold, s dedup.Settlement) error {
	return f.do("settle", h.Key, func() error { return f.Store.Settle(ctx, h, s) })
}

func (f *faulty) Release(ctx context.Context, h dedup.Hold, r dedup.Release) error {
	return f.do("release", h.Key, func() error { return f.Store.Release(ctx, h, r) })
}

func failing(ops ...string) func(string) error {
	return func(op string) error {
		for _, o := range ops {
			if o == op {
				return errFault
			}
		}
		return nil
	}
}

// pass lets virtual time pass: in a synctest bubble nobody waits for it.
func pass(d time.Duration) { <-time.After(d) }
