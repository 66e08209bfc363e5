package redisstore_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/internal/testserver"
)

// waysToCall are how a key is claimed and settled by one caller who waits for each answer.
var waysToCall = []string{"naive", "plain", "coalesced"}

// wayToCall returns a function that claims and settles a key: with SETNX and SET and no owner at all, by a store that sends
// each call on its own, and by one that gathers them.
func wayToCall(rdb *redis.Client, how, prefix string) func(ctx context.Context, id string) error {
	if how == "naive" {
		return func(ctx context.Context, id string) error {
			if err := rdb.SetNX(ctx, nameOf(prefix, id), "busy", time.Minute).Err(); err != nil {
				return err
			}
			return rdb.Set(ctx, nameOf(prefix, id), "done", time.Hour).Err()
		}
	}
	s := redisstore.New(rdb, redisstore.Config{Prefix: prefix, NoCoalescing: how == "plain"})
	return func(ctx context.Context, id string) error {
		v, r, err := s.Acquire(ctx, claimOf(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
		if err != nil || v != dedup.Granted {
			return fmt.Errorf("%v: %w", v, err)
		}
		return s.Settle(ctx, holdOf(r), consumed)
	}
}

// byWorkers calls one for n new ids from so many goroutines.
func byWorkers(b *testing.B, workers, n int, one func(ctx context.Context, id string) error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				if err := one(b.Context(), fmt.Sprintf("order-%d", i)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	require.False(b, b.Failed())
}

// Allocations of each way.
func BenchmarkWaitingCallers(b *testing.B) {
	for _, workers := range []int{1, 16, 64, 256} {
		for _, how := range waysToCall {
			b.Run(fmt.Sprintf("workers=%d/%s", workers, how), func(b *testing.B) {
				one := wayToCall(testserver.Redis(b).Client(b), how, ownPrefix())
				b.ReportAllocs()
				byWorkers(b, workers, b.N, one)
			})
		}
	}
}

// The ways against each other: an operation is a round of each, one after the other, so that all see the same machine. The
// figures are medians over the rounds: microseconds for a claim with its settlement, and times the naive way's speed.
func BenchmarkWaitingCallersAgainstNaive(b *testing.B) {
	for _, workers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			rdb, prefix := testserver.PrivateRedis(b).Client(b), ownPrefix()
			const keys = 4000
			took, ratio := map[string][]float64{}, map[string][]float64{}
			for n := 0; b.Loop(); n++ {
				for i := range waysToCall {
					how := waysToCall[(i+n)%len(waysToCall)]
					one := wayToCall(rdb, how, fmt.Sprintf("%s%s-%d:", prefix, how, n))
					start := time.Now()
					byWorkers(b, workers, keys, one)
					took[how] = append(took[how], float64(time.Since(start).Microseconds())/keys)
				}
				require.NoError(b, rdb.FlushAll(b.Context()).Err())
				for _, how := range waysToCall[1:] {
					ratio[how] = append(ratio[how], took["naive"][n]/took[how][n])
				}
			}
			b.ReportMetric(0, "ns/op")
			for _, how := range waysToCall {
				b.ReportMetric(median(took[how]), how+"-µs")
			}
			for _, how := range waysToCall[1:] {
				b.ReportMetric(median(ratio[how]), how+"-x")
			}
		})
	}
}

func median(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}
