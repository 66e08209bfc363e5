package kvstore

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
)

func TestGarbageIsUnreadableForItsKeyAlone(t *testing.T) {
	js := connect(t)
	s, ctx := open(t, js), testContext(t)
	bad, good := claimOf("bad", "n1"), claimOf("good", "n1")
	kv, err := js.KeyValue(ctx, s.bucket)
	require.NoError(t, err)
	for _, data := range []string{"", "garbage", "2 a 1 n", "1 a 0 n 1", strings.Repeat("1 ", 1000)} {
		_, err = kv.Put(ctx, keyToken(bad.Key), []byte(data))
		require.NoError(t, err)
		_, _, err = s.Acquire(ctx, bad)
		require.ErrorIs(t, err, dedup.ErrUnreadable, "%.20q", data)
		_, err = s.Get(ctx, bad.Key)
		require.ErrorIs(t, err, dedup.ErrUnreadable)
		require.ErrorIs(t, s.LetterSent(ctx, bad.Key, 1), dedup.ErrUnreadable)
	}
	_, err = kv.Put(ctx, "not.one.of.ours", []byte("x"))
	require.NoError(t, err)
	acquire(t, s, good, dedup.Granted)

	seen := map[string]bool{}
	for r, err := range s.List(ctx, dedup.Filter{}) {
		if err != nil {
			require.ErrorIs(t, err, dedup.ErrUnreadable)
		}
		seen[r.Key.ID] = err == nil
	}
	assert.Equal(t, map[string]bool{"bad": false, "good": true}, seen)

	require.NoError(t, s.Forget(ctx, bad.Key, false))
	acquire(t, s, bad, dedup.Granted)
}

func TestListSelects(t *testing.T) {
	const n = listBatch + 20
	s, ctx := open(t, connect(t)), testContext(t)
	for i := range n {
		c := claimOf(fmt.Sprint(i), "n1")
		if i%2 == 1 {
			c.Key.Scope = "other.>*"
		}
		r := acquire(t, s, c, dedup.Granted)
		switch {
		case i < 4:
			require.NoError(t, s.Settle(ctx, holdOf(r), dedup.Settlement{State: dedup.Consumed, Retention: time.Hour}))
		case i < 8:
			require.NoError(t, s.Forget(ctx, r.Key, true))
		}
	}
	count := func(f dedup.Filter) int {
		keys := map[dedup.Key]bool{}
		for r, err := range s.List(ctx, f) {
			require.NoError(t, err)
			require.True(t, f.Selects(&r))
			require.Positive(t, r.Fence)
			keys[r.Key] = true
		}
		return len(keys)
	}
	assert.Equal(t, n-4, count(dedup.Filter{}))
	assert.Equal(t, n/2-2, count(dedup.Filter{Scope: "other.>*"}))
	assert.Equal(t, 4, count(dedup.Filter{States: []dedup.State{dedup.Consumed}}))
	assert.Zero(t, count(dedup.Filter{Scope: "none"}))
	for range s.List(ctx, dedup.Filter{}) { //nolint:errcheck // only how often it is asked matters
		break
	}
	names := s.stream.ConsumerNames(ctx)
	for name := range names.Name() {
		t.Errorf("consumer %s is left behind", name)
	}
	require.NoError(t, names.Err())
}
