package dedup

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

type grantingStore struct{ Store }

func (grantingStore) Acquire(_ context.Context, c Claim) (Verdict, Record, error) {
	return Granted, Record{Key: c.Key, Fence: 1, Nonce: c.Nonce, Attempt: 1}, nil
}

func (grantingStore) Settle(context.Context, Hold, Settlement) error { return nil }

// Not parallel: it replaces the package's clock.
func TestASuspendedMachineLosesItsLease(t *testing.T) {
	d, err := New(grantingStore{}, Config{})
	require.NoError(t, err)
	g, _, err := d.Begin(t.Context(), Key{Scope: "s", ID: "k"}, Fingerprint{})
	require.NoError(t, err)
	defer g.Abandon()
	require.NoError(t, g.Err())

	before := elapsed
	defer func() { elapsed = before }()
	elapsed = func(_, _ time.Time) (monotonic, wall time.Duration) { return time.Second, time.Minute }
	require.ErrorIs(t, g.Err(), ErrLeaseLost)
	require.ErrorContains(t, g.Err(), "wall clock jumped")
	require.ErrorIs(t, context.Cause(g.Context()), ErrLeaseLost)
}
