package redisstore

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/internal/testserver"
)

// BenchmarkTelling compares, in one run and in turns, settlements whose script tells those who watch with ones whose script
// does not. Nobody watches, as is usual. It reports the medians of both and their ratio:
//
//	go test ./dedup/redisstore -run '^$' -bench Telling
func BenchmarkTelling(b *testing.B) {
	const call = "\ntell(settled)\n"
	silent := strings.Replace(source("settle"), call, "\n", 1)
	require.NotEqual(b, source("settle"), silent)
	rdb := testserver.Redis(b).Client(b)
	s := New(rdb, Config{Prefix: fmt.Sprintf("bench:%d:", time.Now().UnixNano())})
	kinds := []*redis.Script{settleScript, redis.NewScript(source("record") + "\n" + silent)}
	for _, size := range []int{1, 256} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			ctx := b.Context()
			took := make([][]time.Duration, len(kinds))
			for n := 0; b.Loop(); n++ {
				for i, script := range kinds {
					claims := make([]dedup.Claim, size)
					for j := range claims {
						claims[j] = dedup.Claim{
							Key: dedup.Key{Scope: "s", ID: fmt.Sprintf("%d-%d-%d-%d", size, n, i, j)}, Nonce: dedup.Nonce(fmt.Sprint("n", j)),
							Lease: time.Minute, Retention: time.Minute, DeadRetention: time.Minute,
						}
					}
					var holds []*dedup.HeldSettlement
					for _, a := range s.AcquireMany(ctx, claims) {
						require.NoError(b, a.Err)
						holds = append(holds, &dedup.HeldSettlement{
							Hold:       dedup.Hold{Key: a.Record.Key, Fence: a.Record.Fence, Nonce: a.Record.Nonce},
							Settlement: dedup.Settlement{State: dedup.Consumed, Result: []byte("result"), Retention: time.Minute},
						})
					}
					c := s.settleCall(holds)
					begun := time.Now()
					err := script.Run(ctx, rdb, c.keys, c.args...).Err()
					took[i] = append(took[i], time.Since(begun))
					require.NoError(b, err)
				}
			}
			var medians [2]float64
			for i, d := range took {
				slices.Sort(d)
				medians[i] = float64(d[len(d)/2].Nanoseconds())
			}
			b.ReportMetric(medians[0]/1000, "µs-telling")
			b.ReportMetric(medians[1]/1000, "µs-silent")
			b.ReportMetric(medians[0]/medians[1], "ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}
