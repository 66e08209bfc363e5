package deadletter_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer/deadletter"
)

func TestDiscardRemovesEntryPartsAndMark(t *testing.T) {
	t.Parallel()
	q, js := newQueue(t, maxPayload(4096))
	other := letter()
	other.Fence, other.Data = 5, make([]byte, 9000)
	require.NoError(t, q.Publish(t.Context(), other))
	l := letter()
	l.Data = make([]byte, 10_000)
	require.NoError(t, q.Publish(t.Context(), l))
	entries, _ := list(t, q, deadletter.Filter{})
	require.Len(t, entries, 2)
	require.NoError(t, deadletter.MarkEntry(t.Context(), q, &entries[0], deadletter.Mark{Key: "k"}))
	require.NoError(t, deadletter.MarkEntry(t.Context(), q, &entries[1], deadletter.Mark{Key: "k"}))

	wrong := entries[1]
	wrong.ID = entries[0].ID
	assert.ErrorIs(t, q.Discard(t.Context(), wrong), deadletter.ErrChanged)
	for range 2 {
		require.NoError(t, q.Discard(t.Context(), entries[1]), "repeatable")
	}
	assert.EqualValues(t, 3+1+1, messages(t, js), "three parts, a letter and a mark are the other's")
	left, _ := list(t, q, deadletter.Filter{})
	assert.Equal(t, []uint64{entries[0].Sequence}, sequences(left))
	assert.NotNil(t, left[0].Mark)
	back, err := q.Read(t.Context(), left[0].Sequence)
	require.NoError(t, err)
	assert.Equal(t, other.Data, back.Data)
	require.NoError(t, q.Discard(t.Context(), deadletter.Entry{Sequence: left[0].Sequence}), "a sequence will do")
	assert.Zero(t, messages(t, js))
}

// It stopped when the entry had gone and its parts had not.
func TestDiscardGoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	q, js := newQueue(t, maxPayload(4096))
	l := letter()
	l.Data = make([]byte, 10_000)
	require.NoError(t, q.Publish(t.Context(), l))
	entries, _ := list(t, q, deadletter.Filter{})
	require.Len(t, entries, 1)
	s, err := js.Stream(t.Context(), deadletter.DefaultStream)
	require.NoError(t, err)
	require.NoError(t, s.DeleteMsg(t.Context(), entries[0].Sequence))
	require.NotZero(t, messages(t, js))
	require.NoError(t, q.Discard(t.Context(), entries[0]))
	assert.Zero(t, messages(t, js))
}

// A copy whose parts the publish window took for those of the first needs these.
func TestDiscardLeavesThePartsOfACopy(t *testing.T) {
	t.Parallel()
	js := newJS(t, maxPayload(4096))
	createDead(t, js, func(c *jetstream.StreamConfig) { c.Duplicates = 100 * time.Millisecond })
	q := deadletter.New(js, deadletter.Config{})
	l := letter()
	l.Data = make([]byte, 10_000)
	require.NoError(t, q.Publish(t.Context(), l))
	n := messages(t, js)
	m := raw(t, js, n)
	entries, _ := list(t, q, deadletter.Filter{})
	require.Eventually(t, func() bool {
		_, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: m.Subject, Header: m.Header})
		require.NoError(t, err)
		return messages(t, js) == n+1
	}, time.Minute, 50*time.Millisecond)
	require.NoError(t, q.Discard(t.Context(), entries[0]))
	entries, _ = list(t, q, deadletter.Filter{})
	require.Len(t, entries, 1)
	back, err := q.Read(t.Context(), entries[0].Sequence)
	require.NoError(t, err)
	assert.Equal(t, l.Data, back.Data)
	require.NoError(t, q.Discard(t.Context(), entries[0]))
	assert.Zero(t, messages(t, js), "the last one takes the parts along")
}

func TestDiscardThatIsRefusedSaysSo(t *testing.T) {
	t.Parallel()
	js := newJS(t)
	createDead(t, js, func(c *jetstream.StreamConfig) { c.DenyDelete = true })
	q := deadletter.New(js, deadletter.Config{})
	require.NoError(t, q.Publish(t.Context(), letter()))
	entries, _ := list(t, q, deadletter.Filter{})
	assert.ErrorIs(t, q.Discard(t.Context(), entries[0]), jetstream.ErrMsgDeleteUnsuccessful)
	assert.EqualValues(t, 1, messages(t, js))
}
