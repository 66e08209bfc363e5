package deadletter_test

import (
	"slices"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/dedup"
)

// A publisher of Watermill has one subject for letters of every kind; a filter finds them there, too, in the order in which all
// died.
func TestFiltersFindLettersThatLieUnsorted(t *testing.T) {
	t.Parallel()
	q, js := newQueue(t)
	const unsorted = "idemq.dead.watermill.any.any"
	var all, want []uint64
	for i := range 900 { // several pages of each
		l := letter()
		l.Fence, l.Class = dedup.Fence(i+1), dedup.Permanent
		subject := "idemq.dead." + l.Stream + "." + l.Durable + ".permanent"
		if i%7 < 3 || i > 700 {
			subject = unsorted
		}
		if i%5 == 0 {
			l.Durable = "other"
			if subject != unsorted {
				subject = "idemq.dead." + l.Stream + ".other.permanent"
			}
		} else {
			want = append(want, uint64(i)+1)
		}
		all = append(all, uint64(i)+1)
		_, err := js.PublishMsgAsync(&nats.Msg{Subject: subject, Header: l.EncodeHeader(), Data: l.Data})
		require.NoError(t, err)
	}
	<-js.PublishAsyncComplete()
	l := letter()
	for name, c := range map[string]struct {
		filter deadletter.Filter
		want   []uint64
	}{
		"all":      {deadletter.Filter{}, all},
		"durable":  {deadletter.Filter{Stream: l.Stream, Durable: l.Durable}, want},
		"class":    {deadletter.Filter{Class: dedup.Permanent}, all},
		"no class": {deadletter.Filter{Class: dedup.Exhausted}, nil},
		"other":    {deadletter.Filter{Durable: "other", Class: dedup.Permanent}, slices.DeleteFunc(slices.Clone(all), func(n uint64) bool { return n%5 != 1 })},
		// The filter's own subject is the unsorted one: nothing is listed twice, or left out.
		"same subject": {deadletter.Filter{Stream: "watermill", Durable: "any", Class: "any"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			entries, damaged := list(t, q, c.filter)
			assert.Empty(t, damaged)
			assert.Equal(t, c.want, sequences(entries))
		})
	}
	t.Run("stopped half way", func(t *testing.T) {
		t.Parallel()
		n := 0
		for e, err := range q.List(t.Context(), deadletter.Filter{Class: dedup.Permanent}) {
			require.NoError(t, err)
			assert.EqualValues(t, n+1, e.Sequence)
			if n++; n == 300 {
				break
			}
		}
	})
}

// Whoever can only give a header one value writes further ones beside it.
func TestLettersWithOneValueForEachHeader(t *testing.T) {
	t.Parallel()
	q, js := newQueue(t)
	l := letter()
	l.Header = map[string][]string{"Tag": {"a", "b=c", ""}, "odd": {" x", "y\n"}, "Orig-x": {"1", "2"}}
	l.History = []consumer.Death{{Generation: 1, Error: "first"}, {Generation: 2, Error: "second"}}
	m := &nats.Msg{Subject: "idemq.dead.watermill.any.any", Header: nats.Header{}, Data: l.Data}
	for name, value := range l.EncodeFlat() {
		m.Header[name] = []string{value}
	}
	_, err := js.PublishMsg(t.Context(), m)
	require.NoError(t, err)
	e, err := q.Get(t.Context(), 1)
	require.NoError(t, err)
	assert.Equal(t, l, e.Letter)
	assert.Equal(t, l.ID(), e.ID)
}

// The message of another Pub/Sub has no stream: its replay would wait for nobody, and its key would be open.
func TestReplayThatNobodyWouldTake(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stores["memstore"])
	l := w.message("order-1")
	l.Stream, l.Sequence, l.Fence = "", 0, 1
	require.NoError(t, w.queue.Publish(t.Context(), l))
	_, err := w.replayer.Replay(t.Context(), w.entry(l.ID()), deadletter.ReplayOptions{})
	assert.ErrorIs(t, err, deadletter.ErrNoConsumer)
	_, err = w.store.Get(t.Context(), dedup.Key{Scope: testScope, ID: "order-1"})
	assert.ErrorIs(t, err, dedup.ErrNotFound, "nothing was changed")
}
