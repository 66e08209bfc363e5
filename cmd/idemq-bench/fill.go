package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/idemq/idemq/dedup"
)

// fillBatch is how many keys are claimed and settled with one call.
const fillBatch = 256

// fillRetention is longer than any run takes.
const fillRetention = 7 * 24 * time.Hour

// fill makes a store remember the keys from one number to another as consumed: ids as long as a UUID, with fingerprints.
func fill(ctx context.Context, s dedup.Store, from, to int) error {
	d, err := dedup.New(s, dedup.Config{Retention: fillRetention, StoreTimeout: storeTimeout})
	if err != nil {
		return err
	}
	for from < to {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(fillBatch, to-from)
		if err := fillKeys(ctx, d, from, n); err != nil {
			return fmt.Errorf("fill the store: %w", err)
		}
		from += n
	}
	return checkFilled(ctx, d, to)
}

// checkFilled asks for some of the first n keys, evenly spread: what is not there has not been measured.
func checkFilled(ctx context.Context, d *dedup.Deduper, n int) error {
	var requests []dedup.Request
	for i := range min(n, fillBatch) {
		requests = append(requests, fillRequest(i*(n/min(n, fillBatch))))
	}
	for i, b := range d.BeginMany(ctx, requests) {
		if b.Err != nil || b.Outcome.Verdict != dedup.Duplicate {
			return errors.Join(fmt.Errorf("the store does not know the key %s: %v", requests[i].Key.ID, b.Outcome.Verdict), b.Err)
		}
	}
	return nil
}

func fillRequest(i int) dedup.Request {
	id := fillID(i)
	return dedup.Request{Key: dedup.Key{Scope: "orders", ID: id}, Fingerprint: dedup.FingerprintOf([]byte(id))}
}

func fillKeys(ctx context.Context, d *dedup.Deduper, from, n int) error {
	requests := make([]dedup.Request, n)
	for i := range requests {
		requests[i] = fillRequest(from + i)
	}
	settlement := dedup.Settlement{State: dedup.Consumed, Retention: d.Config().Retention}
	var endings []dedup.Ending
	var errs []error
	for _, b := range d.BeginMany(ctx, requests) {
		switch {
		case b.Err != nil:
			errs = append(errs, b.Err)
		case b.Guard == nil:
			errs = append(errs, fmt.Errorf("a new key is %v", b.Outcome.Verdict))
		default:
			endings = append(endings, dedup.Ending{Guard: b.Guard, Settlement: settlement})
		}
	}
	return errors.Join(append(errs, d.SettleMany(ctx, endings)...)...)
}

// fillID is as long as a UUID and as random in its end, so that no layout gains by what ids have in common.
func fillID(i int) string {
	x := uint64(i)*0x9E3779B97F4A7C15 + 1 //nolint:gosec // any bits
	return fmt.Sprintf("%08x-%04x-7%03x-8%03x-%012x", x>>32, x>>16&math.MaxUint16, i%4096, x%4096, i)
}

// usedMemory is what Redis has allocated.
func usedMemory(ctx context.Context, rdb *redis.Client) (int64, error) {
	info, err := rdb.InfoMap(ctx, "memory").Result()
	if err != nil {
		return 0, fmt.Errorf("redis: %w", err)
	}
	return strconv.ParseInt(info["Memory"]["used_memory"], 10, 64)
}
