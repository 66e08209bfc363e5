package natsidem_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/transition"
	"github.com/idemq/idemq/internal/testserver"
	"github.com/idemq/idemq/publisher"
)

func TestMain(m *testing.M) { testserver.Main(m, testserver.VerifyLeaks()) }

const (
	patience = 25 * time.Second
	tick     = 5 * time.Millisecond
	scope    = "ORDERS/billing"
	lease    = 2 * time.Second
)

var errHandler = errors.New("the gateway is out")

// faulty is a store that can fail, be unreadable, and lose a lease.
type faulty struct {
	mu      sync.Mutex
	records map[dedup.Key]*dedup.Record
	fail    map[string]bool // operations that fail
	garbage map[dedup.Key]bool
}

func newFaulty() *faulty {
	return &faulty{records: map[dedup.Key]*dedup.Record{}, fail: map[string]bool{}, garbage: map[dedup.Key]bool{}}
}

func (f *faulty) set(fail bool, ops ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, op := range ops {
		f.fail[op] = fail
	}
}

func (f *faulty) record(id string) dedup.Record {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.records[dedup.Key{Scope: scope, ID: id}]; r != nil {
		return *r
	}
	return dedup.Record{}
}

// put plants a record; steal makes the claim of a running handler somebody else's.
func (f *faulty) put(id string, r dedup.Record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r.Key = dedup.Key{Scope: scope, ID: id}
	f.records[r.Key] = &r
}

func (f *faulty) steal(id string) {
	r := f.record(id)
	r.Fence, r.Nonce = r.Fence+1, "thief"
	r.LeaseUntil = time.Now().Add(time.Hour)
	f.put(id, r)
}

func (f *faulty) corrupt(id string, garbage bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.garbage[dedup.Key{Scope: scope, ID: id}] = garbage
}

func (f *faulty) do(op string, k dedup.Key, change func(r *dedup.Record, now time.Time) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.fail[op]:
		return &dedup.StoreError{Op: op, Key: k, Err: errors.New("injected fault")}
	case f.garbage[k]:
		return dedup.UnreadableError(k, "garbage")
	}
	if f.records[k] == nil {
		f.records[k] = &dedup.Record{}
	}
	return change(f.records[k], time.Now())
}

func (f *faulty) Acquire(_ context.Context, c dedup.Claim) (v dedup.Verdict, out dedup.Record, err error) {
	err = f.do("acquire", c.Key, func(r *dedup.Record, now time.Time) error {
		v, _ = transition.Acquire(r, c, now, transition.NextFence(r.Fence, now))
		r.ReadAt = now
		out = r.Clone()
		return nil
	})
	return v, out, err
}

func (f *faulty) Extend(_ context.Context, h dedup.Hold, d time.Duration) error {
	return f.do("extend", h.Key, func(r *dedup.Record, now time.Time) error {
		_, err := transition.Extend(r, h, d, now)
		return err
	})
}

func (f *faulty) Settle(_ context.Context, h dedup.Hold, s dedup.Settlement) error {
	return f.do("settle", h.Key, func(r *dedup.Record, now time.Time) error {
		_, err := transition.Settle(r, h, s, now)
		return err
	})
}

func (f *faulty) Release(_ context.Context, h dedup.Hold, rel dedup.Release) error {
	return f.do("release", h.Key, func(r *dedup.Record, now time.Time) error {
		_, err := transition.Release(r, h, rel, now)
		return err
	})
}

func (f *faulty) LetterSent(_ context.Context, k dedup.Key, fence dedup.Fence) error {
	return f.do("lettersent", k, func(r *dedup.Record, now time.Time) error {
		_, err := transition.LetterSent(r, fence, now)
		return err
	})
}

// AcquireMany and SettleMany make the worker claim and settle in batches.
func (f *faulty) AcquireMany(ctx context.Context, claims []dedup.Claim) []dedup.Acquisition {
	out := make([]dedup.Acquisition, len(claims))
	for i, c := range claims {
		out[i].Verdict, out[i].Record, out[i].Err = f.Acquire(ctx, c)
	}
	return out
}

func (f *faulty) SettleMany(ctx context.Context, settlements []dedup.HeldSettlement) []error {
	errs := make([]error, len(settlements))
	for i, s := range settlements {
		errs[i] = f.Settle(ctx, s.Hold, s.Settlement)
	}
	return errs
}

func (f *faulty) Describe() string { return "mem://test" }

// letterbox records letters, or refuses them.
type letterbox struct {
	mu      sync.Mutex
	letters []consumer.Letter
	full    bool
	refused int
}

func (b *letterbox) Publish(_ context.Context, l *consumer.Letter) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.full {
		b.refused++
		return errors.New("the stream is full")
	}
	b.letters = append(b.letters, *l)
	return nil
}

func (b *letterbox) setFull(full bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.full = full
}

func (b *letterbox) all() []consumer.Letter {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]consumer.Letter{}, b.letters...)
}

// bench is a server with a stream and a durable consumer, and what watches them.
type bench struct {
	t       *testing.T
	srv     *testserver.NATSServer
	nc      *nats.Conn
	js      jetstream.JetStream
	store   *faulty
	letters *letterbox
	cfg     natsidem.Config
	dcfg    dedup.Config
	answers *nats.Subscription // what is sent to the server for deliveries
	w       *natsidem.Worker
}

func newBench(t *testing.T, change ...func(*bench)) *bench {
	t.Helper()
	b := &bench{t: t, srv: testserver.NATS(t), store: newFaulty(), letters: &letterbox{}, dcfg: dedup.Config{Lease: lease}}
	b.nc = b.srv.Conn(t)
	var err error
	b.js, err = jetstream.New(b.nc)
	require.NoError(t, err)
	b.cfg.Letters, b.cfg.Logger = b.letters, slog.New(slog.DiscardHandler)
	b.cfg.Backoff = consumer.Backoff{Initial: 50 * time.Millisecond, Jitter: -1}
	b.cfg.StoreDownDelay, b.cfg.LetterDelay = 50*time.Millisecond, 50*time.Millisecond
	for _, f := range change {
		f(b)
	}
	_, err = natsidem.EnsureConsumer(t.Context(), b.js, "ORDERS", []string{"orders.>"}, "billing", b.deduper(), b.cfg)
	require.NoError(t, err)
	spy := b.srv.Conn(t)
	b.answers, err = spy.SubscribeSync("$JS.ACK.>")
	require.NoError(t, err)
	require.NoError(t, spy.Flush())
	return b
}

func (b *bench) deduper() *dedup.Deduper {
	d, err := dedup.New(b.store, b.dcfg)
	require.NoError(b.t, err)
	return d
}

// run starts a worker; the returned function stops it and gives Run's error. The test's end stops it, too.
func (b *bench) run(h consumer.HandlerFunc) (stop func() error) {
	b.t.Helper()
	w, err := natsidem.New(b.js, "ORDERS", "billing", b.deduper(), h, b.cfg)
	require.NoError(b.t, err)
	b.w = w
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.t.Context()))
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	b.t.Cleanup(func() { _ = stop() })
	return stop
}

func (b *bench) publish(key, body string) {
	b.publishHeader(nats.Header{publisher.KeyHeader: {key}}, body)
}

func (b *bench) publishHeader(h nats.Header, body string) {
	b.t.Helper()
	_, err := b.js.PublishMsg(b.t.Context(), &nats.Msg{Subject: "orders.created", Header: h, Data: []byte(body)})
	require.NoError(b.t, err)
}

// publishRaw sends a header block as it is.
func (b *bench) publishRaw(header, body string) { b.t.Helper(); b.publishRawAs("", header, body) }

func (b *bench) publishRawAs(user, header, body string) {
	b.t.Helper()
	c, err := (&net.Dialer{}).DialContext(b.t.Context(), "tcp", strings.TrimPrefix(b.srv.URL(), "nats://"))
	require.NoError(b.t, err)
	defer c.Close()
	_, err = fmt.Fprintf(c, "CONNECT {\"headers\":true,\"verbose\":false,\"protocol\":1,\"user\":%q,\"pass\":\"x\"}\r\nHPUB orders.created %d %d\r\n%s%s\r\nPING\r\n",
		user, len(header), len(header)+len(body), header, body)
	require.NoError(b.t, err)
	require.NoError(b.t, c.SetReadDeadline(time.Now().Add(patience)))
	buf, got := make([]byte, 4096), ""
	for !strings.Contains(got, "PONG") {
		n, err := c.Read(buf)
		require.NoError(b.t, err)
		got += string(buf[:n])
	}
}

func (b *bench) eventually(what func() bool, msg string) {
	b.t.Helper()
	require.Eventually(b.t, what, patience, tick, msg)
}

func (b *bench) stats(what func(s consumer.Stats) bool) {
	b.t.Helper()
	ok := assert.Eventually(b.t, func() bool { return what(b.w.Stats()) }, patience, tick)
	require.True(b.t, ok, "stats: %+v", b.w.Stats())
}

// settled waits until the broker has nothing left. A message that was published is not pending at once, so that the
// stream's last one must have been delivered.
func (b *bench) settled() {
	b.t.Helper()
	b.eventually(func() bool {
		s, err := b.js.Stream(b.t.Context(), "ORDERS")
		require.NoError(b.t, err)
		i := b.info()
		return i.Delivered.Stream >= s.CachedInfo().State.LastSeq && i.NumPending == 0 && i.NumAckPending == 0
	}, "the broker still has something")
}

func (b *bench) info() *jetstream.ConsumerInfo {
	c, err := b.js.Consumer(b.t.Context(), "ORDERS", "billing")
	require.NoError(b.t, err)
	return c.CachedInfo()
}

// nextAnswer returns the next answer that was sent for a delivery, heartbeats left out.
func (b *bench) nextAnswer() string {
	b.t.Helper()
	return string(b.nextAnswerMsg().Data)
}

func (b *bench) nextAnswerMsg() *nats.Msg {
	b.t.Helper()
	for {
		m, err := b.answers.NextMsg(patience)
		require.NoError(b.t, err)
		if string(m.Data) != "+WPI" {
			return m
		}
	}
}

// noAnswer says that none has been sent so far.
func (b *bench) noAnswer() {
	b.t.Helper()
	require.NoError(b.t, b.nc.Flush()) // what was sent has reached the server by then
	for {
		m, err := b.answers.NextMsg(50 * time.Millisecond)
		if errors.Is(err, nats.ErrTimeout) {
			return
		}
		require.NoError(b.t, err)
		require.Equal(b.t, "+WPI", string(m.Data))
	}
}

// logBuffer is where a test reads the log.
type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func succeed(context.Context, *consumer.Message) error { return nil }

// ackSubject returns the reply subject of a delivery: only a test of stale answers needs one of its own making.
func (b *bench) ackSubject(delivered, streamSeq, consumerSeq int) string {
	b.t.Helper()
	m, err := b.js.Stream(b.t.Context(), "ORDERS")
	require.NoError(b.t, err)
	raw, err := m.GetMsg(b.t.Context(), uint64(streamSeq)) //nolint:gosec // a small number
	require.NoError(b.t, err)
	return fmt.Sprintf("$JS.ACK.ORDERS.billing.%d.%d.%d.%d.0", delivered, streamSeq, consumerSeq, raw.Time.UnixNano())
}
