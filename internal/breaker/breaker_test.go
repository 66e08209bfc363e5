package breaker_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/internal/breaker"
)

var errDown = errors.New("down")

func call(t *testing.T, b *breaker.Breaker, failure error) {
	t.Helper()
	c, err := b.Allow()
	require.NoError(t, err)
	c.End(failure)
}

func TestOnlyFailuresInARowOpenIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var changes []string
		b := breaker.New("", func(from, to string) { changes = append(changes, from+"→"+to) })
		for range 3 {
			for range breaker.Failures - 1 {
				call(t, b, errDown)
			}
			require.False(t, b.Open())
			call(t, b, nil)
			call(t, b, nil) // on the short way
		}
		early, err := b.Allow()
		require.NoError(t, err)
		for range breaker.Failures {
			call(t, b, errDown)
		}
		early.End(nil) // begun before: it does not close the breaker
		require.True(t, b.Open())
		_, err = b.Allow()
		require.Error(t, err)

		<-time.After(breaker.Pause + time.Nanosecond)
		require.False(t, b.Open())
		call(t, b, errDown)
		require.True(t, b.Open(), "the store is down still")
		<-time.After(breaker.Pause + time.Nanosecond)
		call(t, b, nil)
		require.False(t, b.Open())
		call(t, b, nil)
		assert.Equal(t, []string{"closed→open", "open→half-open", "half-open→open", "open→half-open", "half-open→closed"}, changes)
	})
}

func TestAWellStoreCostsNoMemory(t *testing.T) {
	b := breaker.New("", func(string, string) {})
	call(t, b, nil)
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		c, _ := b.Allow()
		c.End(nil)
	}))
}
