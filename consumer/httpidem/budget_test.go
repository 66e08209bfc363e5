package httpidem_test

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer/httpidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

// What a guarded request of 256 bytes allocates beyond the bare handler, memstore included.
func TestAllocationBudget(t *testing.T) {
	payload := bytes.Repeat([]byte("x"), 256)
	bare := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(payload)
	})
	d, err := dedup.New(memstore.New(memstore.Config{}), dedup.Config{})
	require.NoError(t, err)
	idem, err := httpidem.New(d, httpidem.Config{Principal: httpidem.SingleTenant})
	require.NoError(t, err)
	guarded := idem(bare)
	const runs = 500
	keys := make([]string, 3*runs)
	for i := range keys {
		keys[i] = strconv.Itoa(i)
	}
	key, content := make([]string, 1), bytes.NewReader(payload)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/cart/items", content)
	require.NoError(t, err)
	r.Pattern, r.Header[httpidem.KeyHeader] = "POST /cart/items", key
	w := &discard{header: http.Header{}}
	measure := func(h http.Handler, next func() string) float64 {
		return testing.AllocsPerRun(runs, func() {
			key[0] = next()
			clear(w.header)
			content.Reset(payload)
			h.ServeHTTP(w, r)
		})
	}
	n := 0
	fresh := func() string { n++; return keys[n] }
	same := func() string { return "same" }
	const budgetNew, budgetDuplicate = 14, 11
	base := measure(bare, same)
	require.LessOrEqual(t, measure(guarded, fresh)-base, float64(budgetNew))
	require.LessOrEqual(t, measure(guarded, same)-base, float64(budgetDuplicate))
}
