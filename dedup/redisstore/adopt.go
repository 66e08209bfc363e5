package redisstore

import (
	"context"

	"github.com/idemq/idemq/dedup"
)

var (
	_ dedup.Adopter      = (*Store)(nil)
	_ dedup.BatchAdopter = (*Store)(nil)
)

// Adopt takes over a record of another store, as the fast tier of a tiered store does.
func (s *Store) Adopt(ctx context.Context, r dedup.Record, over dedup.Fence) error {
	if err := invalidClass(r.Cause.Class); err != nil {
		return s.failure(ctx, "adopt", r.Key, err)
	}
	return s.one(ctx, "adopt", adoptScript, r.Key, adoptArgs(&r, over)...)
}

func adoptArgs(r *dedup.Record, over dedup.Fence) []any {
	memory := r.ExpiresIn()
	if r.ExpiresAt.IsZero() {
		memory = r.Retention
	}
	return []any{fence(over), dedup.EncodeRecord(r), millis(r.LeaseLeft()), millis(r.Wait()), millis(memory)}
}

// AdoptMany takes over the records in one round trip (on a Cluster, one for each server); records that are together larger
// than 1 MiB make it several.
func (s *Store) AdoptMany(ctx context.Context, adoptions []dedup.Adoption) []error {
	out := make([]error, len(adoptions))
	var calls []call
	var places []int
	bytes := 0
	send := func() {
		for n, rep := range s.run(ctx, adoptScript, calls...) {
			out[places[n]] = s.outcome(ctx, "adopt", adoptions[places[n]].Record.Key, rep)
		}
		calls, places, bytes = calls[:0], places[:0], 0
	}
	for i := range adoptions {
		r := &adoptions[i].Record
		if err := invalidClass(r.Cause.Class); err != nil {
			out[i] = s.failure(ctx, "adopt", r.Key, err)
			continue
		}
		size := len(r.Result) + len(r.Cause.Message)
		if len(calls) == maxKeys || len(calls) > 0 && bytes+size > maxBytes {
			send()
		}
		calls, places = append(calls, call{keys: []string{s.name(r.Key)}, args: adoptArgs(r, adoptions[i].Over)}), append(places, i)
		bytes += size
	}
	send()
	return out
}

// GetMany reads the records in one round trip (on a Cluster, one for each server).
func (s *Store) GetMany(ctx context.Context, keys []dedup.Key) []dedup.Found {
	out := make([]dedup.Found, len(keys))
	spans := s.chunks(len(keys))
	calls := make([]call, len(spans))
	for i, span := range spans {
		for _, k := range keys[span[0]:span[1]] {
			calls[i].keys = append(calls[i].keys, s.name(k))
		}
	}
	replies := s.run(ctx, getScript, calls...)
	for i, span := range spans {
		for j := span[0]; j < span[1]; j++ {
			if err := replies[i].err; err != nil {
				out[j].Err = s.failure(ctx, "get", keys[j], err)
				continue
			}
			out[j].Record, out[j].Err = found(keys[j], replies[i].value, j-span[0])
		}
	}
	return out
}
