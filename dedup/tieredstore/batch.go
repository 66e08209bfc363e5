package tieredstore

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/transition"
)

var _ dedup.Batcher = (*Store)(nil)

// AcquireMany claims the keys in the fast tier in one call, reads those that were granted, or are dead, in the durable tier
// in one more, and looks at the marker once. A tier that cannot take many keys in one call is called for each.
func (s *Store) AcquireMany(ctx context.Context, claims []dedup.Claim) []dedup.Acquisition {
	b, ok := s.fast.(dedup.Batcher)
	if !ok {
		out := make([]dedup.Acquisition, len(claims))
		for i, c := range claims {
			out[i].Verdict, out[i].Record, out[i].Err = s.Acquire(ctx, c)
		}
		return out
	}
	sent := time.Now()
	out := b.AcquireMany(ctx, claims)
	var open []int // those that only the durable tier can answer
	var keys []dedup.Key
	var lease time.Duration
	for i := range out {
		if out[i].Err != nil && !failed(ctx, out[i].Err) || out[i].Err == nil && decided(out[i].Verdict) {
			continue
		}
		open, keys, lease = append(open, i), append(keys, claims[i].Key), max(lease, claims[i].Lease)
	}
	// It must come after the claims: what is lost after a look takes them along.
	marker := sync.OnceValues(func() (m marker, err error) {
		m.epoch, m.wait, err = s.loss.look(ctx, lease)
		return m, err
	})
	for n, d := range lookMany(ctx, s.durable, keys) {
		i := open[n]
		if out[i].Err != nil { // the fast tier is down
			out[i] = settledOnly(claims[i], d, out[i].Err)
			continue
		}
		v, r, done, err := s.decide(ctx, claims[i], granted{out[i].Verdict, out[i].Record, sent}, d, marker)
		if !done && err == nil {
			v, r, err = s.Acquire(ctx, claims[i])
		}
		out[i] = dedup.Acquisition{Verdict: v, Record: r, Err: err}
	}
	return out
}

// SettleMany settles the claims: all in the durable tier in one call, and then in the fast one. What is not as simple (a claim
// to be put back, a key that was replayed, somebody who is ending the same claim just now) takes calls of its own.
func (s *Store) SettleMany(ctx context.Context, settlements []dedup.HeldSettlement) []error {
	out := make([]error, len(settlements))
	for _, i := range s.settleMany(ctx, settlements, out) {
		out[i] = s.Settle(ctx, settlements[i].Hold, settlements[i].Settlement)
	}
	return out
}

// settleMany settles what is simple, and returns what is left.
func (s *Store) settleMany(ctx context.Context, settlements []dedup.HeldSettlement, out []error) (rest []int) {
	var mine []int
	var keys []dedup.Key
	for i := range settlements {
		k := settlements[i].Hold.Key
		over, free := s.endings.try(k) // to wait for one while others are held could wait for ever
		if !free {
			rest = append(rest, i)
			continue
		}
		defer over()
		mine, keys = append(mine, i), append(keys, k)
	}
	var ends []dedup.Adoption
	var of []int
	for n, f := range lookMany(ctx, s.fast, keys) {
		i := mine[n]
		h := settlements[i].Hold
		if f.Err != nil {
			f.Record, f.Err = s.remembered(ctx, h, f.Err)
		}
		if f.Err != nil || !owned(&f.Record, h) {
			rest = append(rest, i)
			continue
		}
		changed, err := transition.Settle(&f.Record, h, settlements[i].Settlement, f.Record.ReadAt)
		if out[i] = err; err == nil && !changed {
			s.lost(h)
		}
		if changed {
			ends, of = append(ends, dedup.Adoption{Record: f.Record}), append(of, i)
		}
	}
	warm := ends[:0:0]
	for n, err := range adoptMany(ctx, s.durable, ends) {
		i := of[n]
		switch {
		case errors.Is(err, dedup.ErrLeaseLost):
			rest = append(rest, i)
		case err != nil:
			out[i] = err
		default:
			warm = append(warm, dedup.Adoption{Record: ends[n].Record, Over: ends[n].Record.Fence})
			s.lost(settlements[i].Hold)
		}
	}
	adoptMany(ctx, s.fast, warm) // it reads the durable tier before it grants anything
	return rest
}

// lookMany is look for many keys.
func lookMany(ctx context.Context, t tier, keys []dedup.Key) []dedup.Found {
	if len(keys) == 0 {
		return nil
	}
	var out []dedup.Found
	if b, ok := t.(dedup.BatchAdopter); ok {
		out = b.GetMany(ctx, keys)
	} else {
		for _, k := range keys {
			r, err := t.Get(ctx, k)
			out = append(out, dedup.Found{Record: r, Err: err})
		}
	}
	for i := range out {
		if errors.Is(out[i].Err, dedup.ErrNotFound) {
			out[i] = dedup.Found{}
		}
	}
	return out
}

func adoptMany(ctx context.Context, t tier, adoptions []dedup.Adoption) []error {
	if len(adoptions) == 0 {
		return nil
	}
	if b, ok := t.(dedup.BatchAdopter); ok {
		return b.AdoptMany(ctx, adoptions)
	}
	out := make([]error, len(adoptions))
	for i, a := range adoptions {
		out[i] = t.Adopt(ctx, a.Record, a.Over)
	}
	return out
}
