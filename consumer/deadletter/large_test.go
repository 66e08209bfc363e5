package deadletter_test

import (
	"flag"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/internal/testserver"
)

const (
	largeQueue  = 100_000
	mediumQueue = 10_000 // what a plain run of the tests takes
	firstPage   = 100
)

// go test ./consumer/deadletter -run ManyEntries -v -args -large
var large = flag.Bool("large", false, "list 100,000 letters instead of 10,000")

// fill stores n letters as a worker would, only not one by one.
func fill(t testing.TB, n int) (*deadletter.Queue, jetstream.JetStream) {
	t.Helper()
	js, err := jetstream.New(testserver.NATS(t).Conn(t), jetstream.WithPublishAsyncMaxPending(4096))
	require.NoError(t, err)
	q := deadletter.New(js, deadletter.Config{})
	require.NoError(t, q.Ensure(t.Context()))
	l := letter()
	l.Stack = strings.Repeat("goroutine 1\n", 20)
	body := make([]byte, 500)
	for i := range n {
		l.Fence = dedup.Fence(i + 1)
		h := nats.Header(l.EncodeHeader())
		h.Set(nats.MsgIdHdr, l.ID())
		_, err := js.PublishMsgAsync(&nats.Msg{Subject: "idemq.dead.ORDERS.billing.exhausted", Header: h, Data: body})
		require.NoError(t, err)
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(time.Minute):
		t.Fatal("the letters were not confirmed in time")
	}
	return q, js
}

// A listing of 100,000 entries shows its first page at once and keeps no entries.
func TestListOfManyEntries(t *testing.T) {
	size := mediumQueue
	if *large {
		size = largeQueue
	}
	q, _ := fill(t, size)
	start := time.Now()
	n := 0
	for _, err := range q.List(t.Context(), deadletter.Filter{}) {
		require.NoError(t, err)
		if n++; n == firstPage {
			break
		}
	}
	page := time.Since(start)
	assert.Less(t, page, time.Second)

	start, n = time.Now(), 0
	before, most := heap(), uint64(0)
	for _, err := range q.List(t.Context(), deadletter.Filter{}) {
		require.NoError(t, err)
		if n++; n%(size/4) == 0 {
			most = max(most, heap())
		}
	}
	assert.Equal(t, size, n)
	whole, grown := time.Since(start), int64(most)-int64(before)
	t.Logf("first %d of %d: %v; all: %v; memory of the listing and of the server in this process: %d KiB", firstPage, size, page, whole, grown>>10)
	// The set of ids takes about 4 MiB, the entries would take 200 and more.
	assert.Less(t, grown, int64(32<<20))
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func BenchmarkList(b *testing.B) {
	q, _ := fill(b, largeQueue)
	b.Run("first page", func(b *testing.B) { benchmarkList(b, q, firstPage) })
	b.Run("all", func(b *testing.B) { benchmarkList(b, q, largeQueue) })
}

func benchmarkList(b *testing.B, q *deadletter.Queue, n int) {
	b.ReportAllocs()
	for b.Loop() {
		left := n
		for _, err := range q.List(b.Context(), deadletter.Filter{}) {
			if err != nil {
				b.Fatal(err)
			}
			if left--; left == 0 {
				break
			}
		}
	}
}
