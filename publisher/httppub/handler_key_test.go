package httppub_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/publisher/httppub"
)

// A handler that runs again sends the same keys again, one for each operation.
func TestTheKeyOfAHandlerIsPassedOn(t *testing.T) {
	t.Parallel()
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusCreated) })
	d, err := dedup.New(memstore.New(memstore.Config{}), dedup.Config{})
	require.NoError(t, err)
	call := func(ctx context.Context, name string) error {
		tr := httppub.New(s.srv.Client().Transport, httppub.Config{KeyFunc: httppub.HandlerKey(name), Retry: quick})
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.srv.URL, strings.NewReader(name))
		require.NoError(t, err)
		resp, err := tr.RoundTrip(r)
		if err == nil {
			_ = resp.Body.Close()
		}
		return err
	}
	for range 2 {
		_, err := d.Do(t.Context(), dedup.Key{Scope: "s", ID: "order-1"}, func(ctx context.Context) ([]byte, error) {
			require.NoError(t, call(ctx, ""))
			require.NoError(t, call(ctx, "refund"))
			return nil, assert.AnError
		})
		require.ErrorIs(t, err, assert.AnError)
	}
	want := []got{{"order-1", ""}, {"order-1/refund", "refund"}}
	assert.Equal(t, append(want, want...), s.seen())
	require.ErrorContains(t, call(t.Context(), ""), "HandlerKey")
	assert.Len(t, s.seen(), 4, "nothing was sent")
}
