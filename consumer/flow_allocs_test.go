package consumer_test

import (
	"log/slog"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/publisher"
)

// What a message may cost in a flow, the memory store's own allocations included.
func TestAllocationsOfAFlow(t *testing.T) {
	const messages, runs = 512, 10
	for name, c := range map[string]struct {
		remember int
		key      func(n int) string
		budget   float64
	}{
		"fresh":             {0, func(n int) string { return "order-" + strconv.Itoa(n) }, 14},
		"duplicate":         {-1, func(int) string { return "order" }, 6},
		"duplicate of ours": {0, func(int) string { return "order" }, 6},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := dedup.New(memstore.New(memstore.Config{}), dedup.Config{})
			require.NoError(t, err)
			p, err := consumer.New(d, scope, consumer.HandlerFunc(ok), consumer.Config{
				Letters: &letterbox{}, Logger: slog.New(slog.DiscardHandler), Remember: c.remember, MaxParked: messages,
			})
			require.NoError(t, err)
			flow := p.Flow(t.Context(), 4, nil)
			defer func() { flow.Stop(); <-flow.Done() }()

			var wg sync.WaitGroup
			all := make([]instant, messages*(runs+1)) // AllocsPerRun warms up with one more
			for i := range all {
				all[i] = instant{done: wg.Done, m: consumer.Message{
					Stream: "ORDERS", Sequence: uint64(i + 1), //nolint:gosec // not negative
					Header: map[string][]string{publisher.KeyHeader: {c.key(i)}},
				}}
			}
			next := 0
			perMessage := testing.AllocsPerRun(runs, func() {
				wg.Add(messages)
				for range messages {
					flow.Offer(&all[next], false)
					next++
				}
				wg.Wait()
			}) / messages
			assert.LessOrEqual(t, perMessage, c.budget)
			t.Logf("%.1f allocations for a message", perMessage)
		})
	}
}
