package wmidem_test

import (
	"context"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"

	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/publisher"
)

// BenchmarkRouter compares a router on gochannel with nothing, with Watermill's Deduplicator keyed by metadata, and with
// ours, on messages of 256 bytes of which each is new. Absolute numbers are context; the ratio of times is printed with the last:
//
//	go test -run - -bench Router -benchmem -benchtime 20000x ./consumer/wmidem
func BenchmarkRouter(b *testing.B) {
	perMessage := map[string]float64{}
	for _, c := range []struct {
		name  string
		setUp func(*bench)
	}{
		{"bare", func(*bench) {}},
		{"Deduplicator", func(x *bench) {
			x.router.AddMiddleware((&middleware.Deduplicator{
				KeyFactory: middleware.NewMessageHasherFromMetadataField(publisher.KeyHeader),
				Repository: seen{&sync.Map{}}, Timeout: time.Second,
			}).Middleware)
		}},
		{"wmidem", func(x *bench) { x.install() }},
	} {
		b.Run(c.name, func(b *testing.B) {
			x := newBench(b, quick(), dedup.Config{})
			c.setUp(x)
			handled := make(chan struct{}, 1024)
			x.router.AddConsumerHandler("billing", "orders", x.pubsub, func(*message.Message) error {
				handled <- struct{}{}
				return nil
			})
			x.run()
			body := string(make([]byte, 256))
			msgs := make([]*message.Message, b.N)
			for i := range msgs {
				msgs[i] = keyed("k"+strconv.Itoa(i), body)
			}
			const window = 64 // messages on their way
			free := make(chan struct{}, window)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			b.ReportAllocs()
			begun := cpu(b)
			b.ResetTimer()
			go func() {
				for _, m := range msgs {
					select {
					case free <- struct{}{}:
					case <-ctx.Done():
						return
					}
					_ = x.pubsub.Publish("orders", m)
				}
			}()
			for range msgs {
				<-handled
				<-free
			}
			b.StopTimer()
			b.ReportMetric(float64((cpu(b)-begun).Nanoseconds())/float64(b.N), "CPU-ns/op")
			perMessage[c.name] = float64(b.Elapsed()) / float64(b.N)
			if theirs := perMessage["Deduplicator"]; c.name == "wmidem" && theirs > 0 {
				b.ReportMetric(perMessage[c.name]/theirs, "wmidem/Deduplicator")
			}
			x.stop()
		})
	}
}

// cpu returns the CPU time that the process has used: unlike the time it takes, that does not depend on what else runs.
func cpu(tb testing.TB) time.Duration {
	var u syscall.Rusage
	require.NoError(tb, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
