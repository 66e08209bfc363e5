package dedup

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// slowGrants grants after a delay that the key's ID says.
type slowGrants struct{ grantingStore }

func (s slowGrants) Acquire(ctx context.Context, c Claim) (Verdict, Record, error) {
	if d, err := time.ParseDuration(c.Key.ID); err == nil {
		<-time.After(d)
	}
	return s.grantingStore.Acquire(ctx, c)
}

func (slowGrants) Extend(context.Context, Hold, time.Duration) error { return nil }

// Every claim gets its first heartbeat when a third of its lease has gone by, whatever ended before it, and those that have
// ended get none.
func TestEachClaimIsWokenOnTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const lease, claims = 30 * time.Second, 100
		d, err := New(slowGrants{}, Config{Lease: lease})
		require.NoError(t, err)
		var mu sync.Mutex
		ended, beats := map[int]bool{}, map[int]time.Duration{}
		guards := make([]*Guard, claims)
		woken := func(i int) bool {
			mu.Lock()
			defer mu.Unlock()
			_, ok := beats[i]
			return ok
		}
		for i := range guards {
			<-time.After(time.Second)
			begun := time.Now()
			guards[i], _, err = d.Begin(t.Context(), Key{Scope: "s", ID: "k" + strconv.Itoa(i)}, Fingerprint{})
			require.NoError(t, err)
			guards[i].Start(func(context.Context) error {
				mu.Lock()
				defer mu.Unlock()
				if _, ok := beats[i]; !ok {
					beats[i] = time.Since(begun)
				}
				return nil
			})
			if i%4 == 3 { // any two neighbours, of those that are there
				for n := i * 5 / 7; n < i*5/7+2; n++ {
					guards[n].Abandon()
					ended[n] = ended[n] || !woken(n)
				}
			}
		}
		<-time.After(lease)
		synctest.Wait()
		for i, g := range guards {
			assert.NotEqual(t, ended[i], woken(i), "claim %d", i)
			if !ended[i] {
				assert.InDelta(t, lease/leaseParts, beats[i], float64(lease/slackParts), "claim %d", i)
			}
			g.Abandon()
		}
		assert.Nil(t, d.alarms.first)
		assert.Nil(t, d.alarms.last)
	})
}

// A claim whose answer came late is not woken after others that were sent later.
func TestALateAnswerIsWokenOnTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const lease, late = 30 * time.Second, 9 * time.Second
		d, err := New(slowGrants{}, Config{Lease: lease})
		require.NoError(t, err)
		begun := time.Now()
		var wg sync.WaitGroup
		for _, started := range []bool{true, false} {
			wg.Go(func() {
				g, _, err := d.Begin(t.Context(), Key{Scope: "s", ID: late.String()}, Fingerprint{})
				if !assert.NoError(t, err) {
					return
				}
				defer g.Abandon()
				if !started {
					<-g.Lost()
					assert.Equal(t, lease-lease/10, time.Since(begun), "its trust counts from its send")
					return
				}
				beat := make(chan time.Duration, 2*leaseParts)
				g.Start(func(context.Context) error { beat <- time.Since(begun); return nil })
				assert.Equal(t, lease/leaseParts, <-beat)
			})
		}
		<-time.After(late - time.Second)
		g, _, err := d.Begin(t.Context(), Key{Scope: "s", ID: "k"}, Fingerprint{})
		require.NoError(t, err)
		defer g.Abandon()
		wg.Wait()
	})
}

// The clock of a test is not that of a deduper from outside of it.
func TestADeduperOfAnotherClockExtendsItsClaims(t *testing.T) {
	t.Parallel()
	const lease = 30 * time.Second
	d, err := New(slowGrants{}, Config{Lease: lease})
	require.NoError(t, err)
	for _, last := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			g, _, err := d.Begin(t.Context(), Key{Scope: "s", ID: "k"}, Fingerprint{})
			require.NoError(t, err)
			defer g.Abandon()
			g.Start(nil)
			if !last {
				return
			}
			<-time.After(2 * lease)
			require.NoError(t, g.Err(), "it is extended")
		})
	}
}
