package redisstore_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/internal/testserver"
)

// What a key costs the server, in microseconds of its processor time: claimed, settled, and claimed once more as a
// duplicate, in batches of 256. Beside it, for the scale, the two native commands that check nothing.
func BenchmarkServerCost(b *testing.B) {
	const keys = redisstore.MaxKeys
	rdb := testserver.PrivateRedis(b).Client(b)
	ctx := b.Context()
	s := redisstore.New(rdb, redisstore.Config{Prefix: ownPrefix()})
	spent := map[string]float64{}
	claims, settlements := make([]dedup.Claim, keys), make([]dedup.HeldSettlement, keys)
	claim := func(want dedup.Verdict) {
		for i, a := range s.AcquireMany(ctx, claims) {
			if a.Err != nil || a.Verdict != want {
				b.Fatal(a.Verdict, a.Err)
			}
			settlements[i] = dedup.HeldSettlement{Hold: holdOf(a.Record), Settlement: dedup.Settlement{State: dedup.Consumed, Retention: consumed.Retention}}
		}
	}
	rounds := 0
	for ; b.Loop(); rounds++ {
		nonce := rand.Text() + "."
		for i := range claims {
			claims[i] = claimOf(fmt.Sprintf("018f4e5c-7b1a-7000-8000-%04d%08d", i, rounds), dedup.Nonce(nonce+strconv.Itoa(i)))
			claims[i].Fingerprint = dedup.Fingerprint{1, byte(i)}
		}
		for _, step := range []struct {
			name string
			do   func()
		}{
			{"acquire", func() { claim(dedup.Granted) }},
			{"settle", func() {
				for _, err := range s.SettleMany(ctx, settlements) {
					if err != nil {
						b.Fatal(err)
					}
				}
			}},
			{"duplicate", func() { claim(dedup.Duplicate) }},
			{"naive", func() {
				_, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
					for _, c := range claims {
						p.SetNX(ctx, "naive:"+c.Key.ID, "busy", c.Lease)
						p.Set(ctx, "naive:"+c.Key.ID, "done", c.Retention)
					}
					return nil
				})
				require.NoError(b, err)
			}},
		} {
			before := serverTime(ctx, b, rdb)
			step.do()
			spent[step.name] += serverTime(ctx, b, rdb) - before
		}
	}
	b.ReportMetric(0, "ns/op")
	for name, seconds := range spent {
		b.ReportMetric(seconds*1e6/float64(rounds*keys), name+"-µs/key")
	}
}

// serverTime is the processor time that the server's main thread has used, in seconds.
func serverTime(ctx context.Context, b *testing.B, rdb *redis.Client) (seconds float64) {
	b.Helper()
	info, err := rdb.Info(ctx, "cpu").Result()
	require.NoError(b, err)
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "used_cpu_user_main_thread" || name == "used_cpu_sys_main_thread" {
			v, err := strconv.ParseFloat(value, 64)
			require.NoError(b, err)
			seconds += v
		}
	}
	return seconds
}
