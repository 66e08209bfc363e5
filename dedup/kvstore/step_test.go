package kvstore

import (
	"bytes"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
)

func TestStepsThatTheServerDoesNotTake(t *testing.T) {
	t.Parallel()
	s := open(t, connect(t))
	k := dedup.Key{Scope: "steps", ID: "large"}
	_, r, err := s.Acquire(testContext(t), dedup.Claim{Key: k, Nonce: "n", Lease: time.Hour, Retention: time.Hour})
	require.NoError(t, err)
	h := dedup.Hold{Key: k, Fence: r.Fence, Nonce: r.Nonce}
	small := dedup.SavedStep{Name: "small", Data: []byte("x")}
	require.NoError(t, s.SaveStep(testContext(t), h, small))
	err = s.SaveStep(testContext(t), h, dedup.SavedStep{Name: "large", Data: bytes.Repeat([]byte("x"), 2<<20)})
	require.ErrorIs(t, err, dedup.ErrStepResult, "repeating it cannot help, and the core must know")
	require.ErrorContains(t, err, "max_payload")
	got, err := s.Steps(testContext(t), k)
	require.NoError(t, err)
	assert.Equal(t, []dedup.SavedStep{small}, got)
	require.NoError(t, s.Settle(testContext(t), h, dedup.Settlement{State: dedup.Consumed, Result: []byte("done"), Retention: time.Hour}))
	r, err = s.Get(testContext(t), k)
	require.NoError(t, err)
	assert.Equal(t, "done", string(r.Result), "record and steps are kept apart")
}

func TestALengthOfStepsThatCannotBeIsNotBelieved(t *testing.T) {
	t.Parallel()
	for value, steps := range map[string]string{"": "", "2": "ef", "6": "abcdef", "7": "", "-1": "", "0": "", "x": "", "99999999999999999999": ""} {
		record, got := splitSteps(nats.Header{stepsHeader: {value}}, []byte("abcdef"))
		assert.Equal(t, steps, string(got), value)
		assert.Equal(t, "abcdef", string(record)+string(got), value)
	}
}
