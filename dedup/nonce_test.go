package dedup

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// I8: no nonce comes twice, whatever the clock does.
func TestNoncesNeverComeTwice(t *testing.T) {
	t.Parallel()
	const callers, calls = 8, 2000
	n := &nonces{prefix: func() string { return "AAAAAAAAAAAAAAAA" }}
	now := time.Date(2026, 8, 15, 12, 0, 0, 0, time.UTC)
	all := make([][]Nonce, callers)
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() {
			for j := range calls {
				// Some callers' clocks stand still, some go, and some go back.
				all[i] = append(all[i], n.next(now.Add(time.Duration((i%3-1)*j)*time.Microsecond)))
			}
		})
	}
	wg.Wait()
	seen := map[Nonce]bool{}
	for _, some := range all {
		for _, nonce := range some {
			require.False(t, seen[nonce], nonce)
			seen[nonce] = true
			require.Regexp(t, "^[A-Z2-7]{26}$", nonce)
		}
	}
}

// A copy of the process that was made with its memory has the same random bits and the same counter, and another time.
func TestNoncesOfACopiedProcessDiffer(t *testing.T) {
	t.Parallel()
	prefix := func() string { return "AAAAAAAAAAAAAAAA" }
	now := time.Date(2026, 8, 15, 12, 0, 0, 0, time.UTC)
	a, b := &nonces{prefix: prefix}, &nonces{prefix: prefix}
	require.NotEqual(t, a.next(now), b.next(now.Add(time.Microsecond)))
}

func TestNoncesOfProcessesDiffer(t *testing.T) {
	t.Parallel()
	prefix := processNonces.prefix()
	require.Len(t, prefix, prefixLength)
	require.Equal(t, prefix, string(processNonces.next(time.Now())[:prefixLength]))
	require.NotEqual(t, "AAAAAAAAAAAAAAAA", prefix, "it is random")
}
