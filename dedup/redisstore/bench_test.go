package redisstore_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
)

// One operation is one fresh key, claimed and settled, in batches of different sizes; size 0 is one call a key.
func BenchmarkAcquireSettle(b *testing.B) {
	for _, size := range []int{0, 1, 16, 256} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			s, _, _ := open(b)
			ctx := b.Context()
			claims := make([]dedup.Claim, max(1, size))
			settlements := make([]dedup.HeldSettlement, len(claims))
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				at := n % len(claims)
				claims[at] = claimOf(fmt.Sprintf("%d", n), "n1")
				switch {
				case size == 0:
					_, r, err := s.Acquire(ctx, claims[0])
					require.NoError(b, err)
					require.NoError(b, s.Settle(ctx, holdOf(r), consumed))
				case at == len(claims)-1:
					for i, a := range s.AcquireMany(ctx, claims) {
						require.NoError(b, a.Err)
						settlements[i] = dedup.HeldSettlement{Hold: holdOf(a.Record), Settlement: consumed}
					}
					for _, err := range s.SettleMany(ctx, settlements) {
						require.NoError(b, err)
					}
				}
			}
		})
	}
}
