package consumer_test

import (
	"context"
	"log/slog"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/publisher"
)

// instant is a delivery of a broker that costs nothing.
type instant struct {
	m    consumer.Message
	done func()
}

func (d *instant) Message() *consumer.Message               { return &d.m }
func (d *instant) Ack(context.Context) error                { d.done(); return nil }
func (d *instant) Nak(context.Context, time.Duration) error { panic("nak") }
func (d *instant) Term(context.Context, string) error       { panic("term") }
func (d *instant) InProgress(context.Context) error         { return nil }

// BenchmarkFlow shows what the pipeline itself costs for each message, without a server:
//
//	go test ./consumer -run '^$' -bench Flow -benchmem
func BenchmarkFlow(b *testing.B) {
	for _, duplicates := range []bool{false, true} {
		b.Run("duplicates="+strconv.FormatBool(duplicates), func(b *testing.B) {
			d, err := dedup.New(memstore.New(memstore.Config{}), dedup.Config{})
			require.NoError(b, err)
			p, err := consumer.New(d, scope, consumer.HandlerFunc(ok), consumer.Config{
				Letters: &letterbox{}, Logger: slog.New(slog.DiscardHandler),
			})
			require.NoError(b, err)
			flow := p.Flow(b.Context(), 16, nil)
			var left atomic.Int64
			left.Store(int64(b.N))
			finished := make(chan struct{})
			done := func() {
				if left.Add(-1) == 0 {
					close(finished)
				}
			}
			deliveries, body := make([]instant, b.N), make([]byte, 256)
			for i := range deliveries {
				key := "order-" + strconv.Itoa(i)
				if duplicates {
					key = "order"
				}
				deliveries[i] = instant{done: done, m: consumer.Message{
					Stream: "ORDERS", Sequence: uint64(i + 1), Data: body, Header: map[string][]string{publisher.KeyHeader: {key}}, //nolint:gosec // not negative
				}}
			}
			b.ReportAllocs()
			begun := cpu(b)
			b.ResetTimer()
			for i := 0; i < b.N; {
				seats := flow.Ask(256, true)
				<-seats.Granted()
				for range seats.Take() {
					if i < b.N {
						flow.Offer(&deliveries[i], true)
					} else {
						flow.GiveBack(1)
					}
					i++
				}
			}
			<-finished
			b.StopTimer()
			b.ReportMetric(float64((cpu(b)-begun).Nanoseconds())/float64(b.N), "CPU-ns/op")
			flow.Stop()
			<-flow.Done()
		})
	}
}

// cpu returns the CPU time that the process has used: unlike the time it takes, that does not depend on what else runs.
func cpu(tb testing.TB) time.Duration {
	var u syscall.Rusage
	require.NoError(tb, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
