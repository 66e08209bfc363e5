package httpidem_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer/httpidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

// hanging is a store that does not answer within the time limit while it is down, as one behind a broken network.
type hanging struct {
	*memstore.Store
	down  atomic.Bool
	asked atomic.Int64
}

func (h *hanging) Acquire(ctx context.Context, c dedup.Claim) (dedup.Verdict, dedup.Record, error) {
	h.asked.Add(1)
	if h.down.Load() {
		<-ctx.Done()
		return 0, dedup.Record{}, &dedup.StoreError{Op: "acquire", Key: c.Key, Err: ctx.Err()}
	}
	return h.Store.Acquire(ctx, c)
}

// A store that is down costs the first few requests its time limit, and one every two seconds after that; all others are
// answered at once.
func TestBreaker(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		policy httpidem.StoreDownPolicy
		status int
	}{
		"closed": {httpidem.StoreClosed, http.StatusServiceUnavailable},
		"open":   {httpidem.StoreOpen, http.StatusCreated},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := &hanging{Store: memstore.New(memstore.Config{})}
				d, err := dedup.New(store, dedup.Config{})
				require.NoError(t, err)
				idem, err := httpidem.New(d, httpidem.Config{
					Principal: httpidem.SingleTenant, StoreDown: c.policy, Logger: slog.New(slog.DiscardHandler),
				})
				require.NoError(t, err)
				h := idem(http.HandlerFunc(created))
				send := func(key string) *httptest.ResponseRecorder {
					r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/items", strings.NewReader("x"))
					r.Header.Set(httpidem.KeyHeader, key)
					w := httptest.NewRecorder()
					h.ServeHTTP(w, r)
					return w
				}

				store.down.Store(true)
				begun := time.Now()
				for range 100 {
					w := send("k")
					require.Equal(t, c.status, w.Code)
					if c.policy == httpidem.StoreClosed {
						require.Equal(t, "5", w.Header().Get("Retry-After"))
					} else {
						require.Equal(t, "true", w.Header().Get(httpidem.UntrackedHeader))
					}
				}
				const failures = 5
				assert.EqualValues(t, failures, store.asked.Load())
				assert.Equal(t, failures*d.Config().StoreTimeout, time.Since(begun))

				<-time.After(3 * time.Second)
				for range 10 { // one tries, and finds it still down
					require.Equal(t, c.status, send("k").Code)
				}
				assert.EqualValues(t, failures+1, store.asked.Load())

				store.down.Store(false)
				<-time.After(3 * time.Second)
				w := send("k")
				assert.Equal(t, http.StatusCreated, w.Code)
				assert.Empty(t, w.Header().Get(httpidem.UntrackedHeader))
				assert.Equal(t, "true", send("k").Header().Get(httpidem.ReplayedHeader), "everything is asked again")
			})
		})
	}
}

// What is no failure of the store does not open the breaker.
func TestBreakerStaysClosedWhileTheStoreAnswers(t *testing.T) {
	t.Parallel()
	s := serve(t, nil, httpidem.Config{}, created)
	assert.Equal(t, http.StatusCreated, s.post("k", "x").status)
	for range 20 {
		assert.Equal(t, http.StatusUnprocessableEntity, s.post("k", "other").status)
	}
	assert.True(t, s.post("k", "x").replayed())
}
