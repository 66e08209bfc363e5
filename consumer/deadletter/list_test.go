package deadletter_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/dedup"
)

// list returns the entries that can be read, and the errors of the others.
func list(t *testing.T, q *deadletter.Queue, f deadletter.Filter) (entries []deadletter.Entry, damaged []error) {
	t.Helper()
	for e, err := range q.List(t.Context(), f) {
		if errors.Is(err, consumer.ErrNotLetter) {
			assert.NotZero(t, e.Sequence)
			assert.Nil(t, e.Letter)
			damaged = append(damaged, err)
			continue
		}
		require.NoError(t, err)
		entries = append(entries, e)
	}
	return entries, damaged
}

func sequences(entries []deadletter.Entry) []uint64 {
	var out []uint64
	for _, e := range entries {
		out = append(out, e.Sequence)
	}
	return out
}

func TestListShowsHeadersAlone(t *testing.T) {
	t.Parallel()
	q, _ := newQueue(t)
	l := letter()
	require.NoError(t, q.Publish(t.Context(), l))
	entries, damaged := list(t, q, deadletter.Filter{})
	require.Empty(t, damaged)
	require.Len(t, entries, 1)
	e := entries[0]
	assert.EqualValues(t, 1, e.Sequence)
	assert.Equal(t, l.ID(), e.ID)
	assert.WithinDuration(t, time.Now(), e.Stored, time.Minute)
	assert.Nil(t, e.Mark)
	want := *l
	want.Data, want.Stack = nil, ""
	assert.Equal(t, &want, e.Letter)

	whole, err := q.Get(t.Context(), 1)
	require.NoError(t, err)
	assert.Equal(t, l, whole.Letter)
	assert.Equal(t, e.ID, whole.ID)
}

func TestListOfNothing(t *testing.T) {
	t.Parallel()
	q, js := newQueue(t)
	entries, damaged := list(t, q, deadletter.Filter{})
	assert.Empty(t, append(damaged, make([]error, len(entries))...))
	require.NoError(t, js.DeleteStream(t.Context(), deadletter.DefaultStream))
	for _, err := range q.List(t.Context(), deadletter.Filter{}) {
		assert.ErrorIs(t, err, jetstream.ErrStreamNotFound)
	}
	_, _, err := q.Find(t.Context(), []string{"0123456789"})
	assert.ErrorIs(t, err, jetstream.ErrStreamNotFound)
}

func TestListFilters(t *testing.T) {
	t.Parallel()
	q, _ := newQueue(t)
	at := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	var ids []string
	for i, change := range []func(*consumer.Letter){
		func(*consumer.Letter) {},
		func(l *consumer.Letter) { l.Stream = "PAYMENTS" },
		func(l *consumer.Letter) { l.Durable = "mail.er" },
		func(l *consumer.Letter) { l.Class = dedup.Permanent },
		func(l *consumer.Letter) { l.Key = "other" },
		func(l *consumer.Letter) { l.Error = "no such customer" },
		func(l *consumer.Letter) { l.LastFailure = at.Add(time.Hour) },
		func(l *consumer.Letter) { l.Generation = 3 },
		func(l *consumer.Letter) { l.LastFailure = time.Time{} },
		func(l *consumer.Letter) { l.Durable = "mail_er" }, // the same subject as another durable
	} {
		l := letter()
		l.Fence, l.LastFailure = dedup.Fence(i+1), at
		change(l)
		require.NoError(t, q.Publish(t.Context(), l))
		ids = append(ids, l.ID())
	}
	for name, c := range map[string]struct {
		filter deadletter.Filter
		want   []uint64
	}{
		"all":          {deadletter.Filter{}, []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
		"stream":       {deadletter.Filter{Stream: "PAYMENTS"}, []uint64{2}},
		"durable":      {deadletter.Filter{Durable: "mail.er"}, []uint64{3}},
		"class":        {deadletter.Filter{Class: dedup.Permanent, Stream: "ORDERS"}, []uint64{4}},
		"key":          {deadletter.Filter{Key: "other"}, []uint64{5}},
		"text":         {deadletter.Filter{Text: "such cust"}, []uint64{6}},
		"since":        {deadletter.Filter{Since: at.Add(time.Hour), Until: at.Add(2 * time.Hour)}, []uint64{7}},
		"until":        {deadletter.Filter{Until: at.Add(time.Hour)}, []uint64{1, 2, 3, 4, 5, 6, 8, 10}},
		"when stored":  {deadletter.Filter{Since: time.Now().Add(-time.Hour)}, []uint64{9}},
		"generation":   {deadletter.Filter{Generation: 3}, []uint64{8}},
		"ids":          {deadletter.Filter{IDs: []string{ids[7], ids[1], "none"}}, []uint64{2, 8}},
		"all together": {deadletter.Filter{Stream: "ORDERS", Key: "other", Generation: 3}, nil},
		"odd names":    {deadletter.Filter{Stream: "*", Durable: ">"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			entries, damaged := list(t, q, c.filter)
			assert.Empty(t, damaged)
			assert.Equal(t, c.want, sequences(entries))
		})
	}
}

// What is no letter is shown with its sequence, and does not end the listing; parts and marks are not shown.
func TestListGoesOnAfterWhatIsNoLetter(t *testing.T) {
	t.Parallel()
	q, js := newQueue(t, maxPayload(4096))
	require.NoError(t, q.Publish(t.Context(), letter()))
	put := func(subject string, h nats.Header, data string) {
		_, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: subject, Header: h, Data: []byte(data)})
		require.NoError(t, err)
	}
	put("idemq.dead.ORDERS.billing.exhausted", nil, "foreign")
	put("idemq.dead.ORDERS.billing.exhausted", nats.Header{"Idemq-Class": {"exhausted"}, "Idemq-Fence": {"-1"}}, "damaged")
	put("idemq.dead.ORDERS.billing.exhausted", nats.Header{"Idemq-Class": {"exhausted"}, "Idemq-History": {"1;"}}, "damaged history")
	put("idemq.dead.elsewhere", nil, "no letter's subject")
	put("idemq.mark.1", nil, "a foreign mark")
	large := letter()
	large.Fence, large.Data = 99, make([]byte, 10_000)
	require.NoError(t, q.Publish(t.Context(), large))
	entries, damaged := list(t, q, deadletter.Filter{})
	assert.Equal(t, []uint64{1, 10}, sequences(entries))
	require.Len(t, damaged, 3)
	assert.ErrorContains(t, damaged[0], "sequence 2")
	assert.Equal(t, 10_000, entries[1].Letter.Size, "the size is told without the body")
	assert.Nil(t, entries[0].Mark, "a mark that names no letter marks none")
	_, err := q.Get(t.Context(), 3)
	assert.ErrorIs(t, err, consumer.ErrNotLetter)
	require.NoError(t, q.Discard(t.Context(), deadletter.Entry{Sequence: 3}))
	_, damaged = list(t, q, deadletter.Filter{})
	assert.Len(t, damaged, 2)
}

func TestCopiesAreListedOnce(t *testing.T) {
	t.Parallel()
	js := newJS(t)
	createDead(t, js, func(c *jetstream.StreamConfig) { c.Duplicates = 100 * time.Millisecond })
	q := deadletter.New(js, deadletter.Config{})
	l := letter()
	require.Eventually(t, func() bool {
		require.NoError(t, q.Publish(t.Context(), l))
		return messages(t, js) == 3
	}, time.Minute, 50*time.Millisecond)
	entries, _ := list(t, q, deadletter.Filter{})
	assert.Equal(t, []uint64{1}, sequences(entries))
	require.NoError(t, q.Discard(t.Context(), entries[0]))
	entries, _ = list(t, q, deadletter.Filter{})
	assert.Equal(t, []uint64{2}, sequences(entries), "the next copy takes its place")
}

func createDead(t *testing.T, js jetstream.JetStream, change func(*jetstream.StreamConfig)) {
	t.Helper()
	c := jetstream.StreamConfig{
		Name: deadletter.DefaultStream, Subjects: []string{"idemq.dead.>", "idemq.mark.>"}, Discard: jetstream.DiscardNew,
		AllowRollup: true, AllowDirect: true,
	}
	change(&c)
	_, err := js.CreateStream(t.Context(), c)
	require.NoError(t, err)
}

// A listing ends at what was there when it began, whatever comes or goes meanwhile.
func TestListWhileTheStreamChanges(t *testing.T) {
	t.Parallel()
	q, js := newQueue(t)
	const n = 600
	publish := func(from, to int) {
		for i := from; i < to; i++ {
			l := letter()
			l.Fence = dedup.Fence(i + 1)
			require.NoError(t, q.Publish(t.Context(), l))
		}
	}
	publish(0, n)
	s, err := js.Stream(t.Context(), deadletter.DefaultStream)
	require.NoError(t, err)
	var seen []uint64
	for e, err := range q.List(t.Context(), deadletter.Filter{}) {
		require.NoError(t, err)
		if seen = append(seen, e.Sequence); len(seen) == 1 {
			publish(n, n+10)
			for seq := uint64(400); seq <= n; seq++ {
				require.NoError(t, s.DeleteMsg(t.Context(), seq))
			}
		}
	}
	assert.EqualValues(t, 399, seen[len(seen)-1])
	assert.Len(t, seen, 399)
}

func TestListEndsWithItsContext(t *testing.T) {
	t.Parallel()
	q, _ := newQueue(t)
	for i := range 300 {
		l := letter()
		l.Fence = dedup.Fence(i + 1)
		require.NoError(t, q.Publish(t.Context(), l))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	n := 0
	for _, err := range q.List(ctx, deadletter.Filter{}) {
		n++
		last = err
		cancel()
	}
	assert.ErrorIs(t, last, context.Canceled)
	assert.LessOrEqual(t, n, 257, "a page at most")
}

// A server without the request for many marks at once, or a stream without direct gets, is asked one by one.
func TestMarksOfAStreamWithoutDirectGets(t *testing.T) {
	t.Parallel()
	js := newJS(t)
	createDead(t, js, func(c *jetstream.StreamConfig) { c.AllowDirect = false })
	q := deadletter.New(js, deadletter.Config{})
	l := letter()
	require.NoError(t, q.Publish(t.Context(), l))
	entries, _ := list(t, q, deadletter.Filter{})
	require.Len(t, entries, 1)
	assert.Nil(t, entries[0].Mark)
	require.NoError(t, deadletter.MarkEntry(t.Context(), q, &entries[0], deadletter.Mark{Key: "k"}))
	entries, _ = list(t, q, deadletter.Filter{})
	require.NotNil(t, entries[0].Mark)
	assert.Equal(t, "k", entries[0].Mark.Key)
}

func TestMarksInManyPages(t *testing.T) {
	t.Parallel()
	q, js := newQueue(t)
	const n = 1000
	for i := range n {
		l := letter()
		l.Fence = dedup.Fence(i + 1)
		require.NoError(t, q.Publish(t.Context(), l))
	}
	entries, _ := list(t, q, deadletter.Filter{})
	require.Len(t, entries, n)
	for i := range entries {
		if i%3 == 0 {
			require.NoError(t, deadletter.MarkEntry(t.Context(), q, &entries[i], deadletter.Mark{Key: "first"}))
			require.NoError(t, deadletter.MarkEntry(t.Context(), q, &entries[i], deadletter.Mark{Key: fmt.Sprint(i), Origin: i%2 == 0}))
		}
	}
	assert.EqualValues(t, n+(n+2)/3, messages(t, js), "one mark for each")
	marked, _ := list(t, q, deadletter.Filter{})
	require.Len(t, marked, n)
	for i, e := range marked {
		require.Equal(t, i%3 == 0, e.Mark != nil, i)
		if e.Mark != nil {
			assert.Equal(t, fmt.Sprint(i), e.Mark.Key)
			assert.Equal(t, i%2 == 0, e.Mark.Origin)
			assert.WithinDuration(t, time.Now(), e.Mark.At, time.Minute)
		}
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	q, js := newQueue(t)
	put := func(id string) {
		h := nats.Header(letter().EncodeHeader())
		h.Set("Nats-Msg-Id", id)
		_, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "idemq.dead.ORDERS.billing.exhausted", Header: h})
		require.NoError(t, err)
	}
	a, b, c := "aaaaaaaa"+strings.Repeat("0", 32), "aaaaaaaa"+strings.Repeat("1", 32), "bbbbbbbb"+strings.Repeat("2", 32)
	for _, id := range []string{a, b, c} {
		put(id)
	}
	entries, _ := list(t, q, deadletter.Filter{})
	require.NoError(t, deadletter.MarkEntry(t.Context(), q, &entries[2], deadletter.Mark{Key: "k"}))

	found, missing, err := q.Find(t.Context(), []string{c, "AAAAAAAA1", "cccccccc", c[:8], "dddddddddd"})
	require.NoError(t, err)
	assert.Equal(t, []uint64{3, 2}, sequences(found), "in the order asked for, each once")
	assert.Equal(t, []string{"cccccccc", "dddddddddd"}, missing)
	assert.NotNil(t, found[0].Mark)
	assert.Nil(t, found[1].Mark)

	_, _, err = q.Find(t.Context(), []string{"aaaaaaaa"})
	assert.ErrorIs(t, err, deadletter.ErrAmbiguous)
	assert.ErrorContains(t, err, a)
	assert.ErrorContains(t, err, b)
	for _, bad := range []string{"", "aaaaaaa", "not-hexadecimal", "aaaaaaaa\x1b"} {
		_, _, err = q.Find(t.Context(), []string{bad})
		assert.ErrorIs(t, err, deadletter.ErrBadID, bad)
	}
	found, missing, err = q.Find(t.Context(), nil)
	require.NoError(t, err)
	assert.Empty(t, found)
	assert.Empty(t, missing)
}
