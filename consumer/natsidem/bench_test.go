package natsidem_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/internal/testserver"
	"github.com/idemq/idemq/publisher"
)

// BenchmarkPipeline takes the same messages through a raw consumer, through the SETNX consumer that people write, and
// through idemq, interleaved in one run, with a handler that does nothing. The ratios are the claim; the absolute
// numbers are context. The CPU time is that of this process, with the NATS server in it, and of Redis: it tells more than
// the rate where something else is running on the machine. An iteration is one round of all three; medians of the rounds
// are reported:
//
//	go test ./consumer/natsidem -run '^$' -bench Pipeline -benchtime 5x
func BenchmarkPipeline(b *testing.B) {
	srv, rdb := testserver.NATS(b), testserver.Redis(b).Client(b)
	for _, workers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			bench := &pipelineBench{b: b, url: srv.URL(), rdb: rdb, workers: workers, messages: 1250 * min(workers, 16)}
			rates, costs := map[string][]float64{}, map[string][]float64{}
			for round := range b.N {
				for name, run := range map[string]func(context.Context, jetstream.JetStream, string){
					"raw": bench.raw, "naive": bench.naive, "idemq": bench.idemq,
				} {
					rate, cost := bench.round(fmt.Sprintf("%s%d-%d-%d", name, workers, round, b.N), run)
					rates[name], costs[name] = append(rates[name], rate), append(costs[name], cost)
				}
			}
			median := func(of []float64) float64 { slices.Sort(of); return of[len(of)/2] }
			b.ReportMetric(median(rates["idemq"]), "idemq-msg/s")
			b.ReportMetric(median(rates["idemq"])/median(rates["naive"]), "idemq/naive")
			b.ReportMetric(median(rates["idemq"])/median(rates["raw"]), "idemq/raw")
			for name, cost := range costs {
				b.ReportMetric(median(cost), name+"-CPU-µs/msg")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

type pipelineBench struct {
	b        *testing.B
	url      string
	rdb      *redis.Client
	workers  int
	messages int
}

// round fills a stream and returns how many messages a second come through, and what one costs in µs of CPU time.
func (p *pipelineBench) round(name string, run func(context.Context, jetstream.JetStream, string)) (rate, cost float64) {
	nc, err := nats.Connect(p.url)
	require.NoError(p.b, err)
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(p.messages)) // so that filling the stream never stalls
	require.NoError(p.b, err)
	ctx := p.b.Context()
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name}})
	require.NoError(p.b, err)
	defer func() { _ = js.DeleteStream(ctx, name) }()
	_, err = js.CreateConsumer(ctx, name, jetstream.ConsumerConfig{
		Durable: name, AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Minute, MaxDeliver: -1, MaxAckPending: 4096,
	})
	require.NoError(p.b, err)
	body := make([]byte, 256)
	for i := range p.messages {
		m := nats.NewMsg(name)
		m.Data = body
		m.Header.Set(publisher.KeyHeader, fmt.Sprintf("%s-%d", name, i))
		_, err = js.PublishMsgAsync(m)
		require.NoError(p.b, err)
	}
	<-js.PublishAsyncComplete()
	begun, cpu := time.Now(), p.cpu()
	run(ctx, js, name)
	n := float64(p.messages)
	return n / time.Since(begun).Seconds(), (p.cpu() - cpu).Seconds() * 1e6 / n
}

// cpu returns the CPU time that this process and Redis have used.
func (p *pipelineBench) cpu() time.Duration {
	var u syscall.Rusage
	require.NoError(p.b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	used := time.Duration(u.Utime.Nano() + u.Stime.Nano())
	info, err := p.rdb.InfoMap(p.b.Context(), "cpu").Result()
	require.NoError(p.b, err)
	for _, field := range []string{"used_cpu_user", "used_cpu_sys"} {
		s, err := strconv.ParseFloat(info["CPU"][field], 64)
		require.NoError(p.b, err)
		used += time.Duration(s * float64(time.Second))
	}
	return used
}

// workersOn runs handle in as many workers until every message was handled.
func (p *pipelineBench) workersOn(ctx context.Context, js jetstream.JetStream, name string, handle func(jetstream.Msg) error) {
	cons, err := js.Consumer(ctx, name, name)
	require.NoError(p.b, err)
	work := make(chan jetstream.Msg, p.workers)
	var wg sync.WaitGroup
	for range p.workers {
		wg.Go(func() {
			for m := range work {
				if err := handle(m); err != nil {
					p.b.Error(err)
				}
			}
		})
	}
	it, err := cons.Messages(jetstream.PullMaxMessages(500))
	require.NoError(p.b, err)
	for range p.messages {
		m, err := it.Next()
		require.NoError(p.b, err)
		work <- m
	}
	it.Stop()
	close(work)
	wg.Wait()
}

func (p *pipelineBench) raw(ctx context.Context, js jetstream.JetStream, name string) {
	p.workersOn(ctx, js, name, func(m jetstream.Msg) error { return m.Ack() })
}

func (p *pipelineBench) naive(ctx context.Context, js jetstream.JetStream, name string) {
	p.workersOn(ctx, js, name, func(m jetstream.Msg) error {
		key := "naive:" + m.Headers().Get(publisher.KeyHeader)
		fresh, err := p.rdb.SetNX(ctx, key, "acquired", time.Minute).Result()
		if err != nil || !fresh {
			return err
		}
		if err := p.rdb.Set(ctx, key, "consumed", time.Hour).Err(); err != nil {
			return err
		}
		return m.Ack()
	})
}

func (p *pipelineBench) idemq(ctx context.Context, js jetstream.JetStream, name string) {
	d, err := dedup.New(redisstore.New(p.rdb, redisstore.Config{}), dedup.Config{Retention: time.Hour})
	require.NoError(p.b, err)
	ctx, cancel := context.WithCancel(ctx)
	var left atomic.Int64
	left.Store(int64(p.messages))
	handler := consumer.HandlerFunc(func(context.Context, *consumer.Message) error { return nil })
	cfg := natsidem.Config{Workers: p.workers}
	cfg.Logger = slog.New(slog.DiscardHandler)
	cfg.Observer = observeFunc(func(e consumer.Event) {
		if e.Kind == consumer.Executed && left.Add(-1) == 0 {
			cancel()
		}
	})
	w, err := natsidem.New(js, name, name, d, handler, cfg)
	require.NoError(p.b, err)
	require.NoError(p.b, w.Run(ctx))
	require.Zero(p.b, left.Load())
}

type observeFunc func(consumer.Event)

func (f observeFunc) Observe(e consumer.Event) { f(e) }
