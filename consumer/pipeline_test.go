package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/publisher"
)

// These tests run the pipeline in virtual time, where leases and backoffs pass at once. The rows of "What happens to a
// message" are tested on a real server in natsidem.

const scope = "ORDERS/billing"

var errHandler = errors.New("the gateway is out")

// delivery records what it is told.
type delivery struct {
	m         *consumer.Message
	mu        sync.Mutex
	answers   []string
	delay     time.Duration
	progress  int
	unhealthy bool
}

func (d *delivery) Message() *consumer.Message { return d.m }
func (d *delivery) say(what string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answers = append(d.answers, what)
	return nil
}
func (d *delivery) Ack(context.Context) error          { return d.say("ack") }
func (d *delivery) Term(context.Context, string) error { return d.say("term") }
func (d *delivery) Nak(_ context.Context, delay time.Duration) error {
	d.delay = delay
	return d.say("nak")
}

func (d *delivery) InProgress(context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.progress++
	if d.unhealthy {
		return errors.New("no answer")
	}
	return nil
}

func (d *delivery) heard() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.progress
}

func (d *delivery) said() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string{}, d.answers...)
}

// letterbox records letters, or refuses them.
type letterbox struct {
	mu      sync.Mutex
	letters []*consumer.Letter
	full    bool
}

func (b *letterbox) Publish(_ context.Context, l *consumer.Letter) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.full {
		return errors.New("the stream is full")
	}
	b.letters = append(b.letters, l)
	return nil
}

type bench struct {
	t       *testing.T
	store   *memstore.Store
	letters *letterbox
	p       *consumer.Pipeline
	seq     uint64
}

func setup(t *testing.T, h consumer.Handler, change ...func(*consumer.Config, *dedup.Config)) *bench {
	t.Helper()
	b := &bench{t: t, store: memstore.New(memstore.Config{}), letters: &letterbox{}}
	cfg, dcfg := consumer.Config{Letters: b.letters, Logger: slog.New(slog.DiscardHandler)}, dedup.Config{}
	for _, f := range change {
		f(&cfg, &dcfg)
	}
	d, err := dedup.New(b.store, dcfg)
	require.NoError(t, err)
	b.p, err = consumer.New(d, scope, h, cfg)
	require.NoError(t, err)
	return b
}

func (b *bench) message(key, body string) *delivery {
	b.seq++
	m := &consumer.Message{Subject: "orders.created", Stream: "ORDERS", Durable: "billing", Sequence: b.seq, Data: []byte(body)}
	if key != "" {
		m.Header = map[string][]string{publisher.KeyHeader: {key}}
	}
	return &delivery{m: m}
}

func (b *bench) process(d *delivery) []string {
	b.p.Process(b.t.Context(), d)
	return d.said()
}

func (b *bench) state(key string) dedup.Record {
	r, err := b.store.Get(b.t.Context(), dedup.Key{Scope: scope, ID: key})
	require.NoError(b.t, err)
	return r
}

func ok(context.Context, *consumer.Message) error     { return nil }
func failed(context.Context, *consumer.Message) error { return errHandler }

func TestDuplicatesAreAcknowledgedAndNotRun(t *testing.T) {
	t.Parallel()
	runs := 0
	b := setup(t, consumer.HandlerFunc(func(ctx context.Context, m *consumer.Message) error {
		runs++
		assert.Equal(t, "k", m.Key)
		assert.Equal(t, 1, m.Attempt)
		assert.Equal(t, m.Fence, dedup.FenceFrom(ctx))
		return nil
	}))
	for range 3 {
		assert.Equal(t, []string{"ack"}, b.process(b.message("k", "x")))
	}
	assert.Equal(t, 1, runs)
	assert.Equal(t, uint64(2), b.p.Stats().DuplicateAcks)
	assert.Zero(t, b.p.Busy())
}

func TestRetriesUntilTheAttemptsAreUsedUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, consumer.HandlerFunc(failed), func(_ *consumer.Config, d *dedup.Config) { d.MaxAttempts = 3 })
		for attempt := 1; attempt < 3; attempt++ {
			d := b.message("k", "x")
			require.Equal(t, []string{"nak"}, b.process(d))
			assert.Greater(t, d.delay, time.Duration(attempt)*800*time.Millisecond, "backoff")

			early := b.message("k", "x")
			require.Equal(t, []string{"nak"}, b.process(early), "a duplicate before the next try is due burns no attempt")
			require.Equal(t, attempt, b.state("k").Attempt)
			pass(d.delay)
		}
		require.Equal(t, []string{"term"}, b.process(b.message("k", "x")))
		require.Len(t, b.letters.letters, 1)
		l := b.letters.letters[0]
		assert.Equal(t, dedup.Exhausted, l.Class)
		assert.Equal(t, 3, l.Attempts)
		assert.Equal(t, errHandler.Error(), l.Error)
		assert.True(t, l.FirstFailure.Before(l.LastFailure))
		assert.Equal(t, dedup.DeadSent, b.state("k").State)
		require.Equal(t, []string{"ack"}, b.process(b.message("k", "x")), "one key, one fate")
	})
}

func TestALostLeaseSendsNothing(t *testing.T) {
	t.Parallel()
	for _, result := range []error{nil, errHandler, consumer.Permanent(errHandler)} {
		t.Run(fmt.Sprint(result), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := setup(t, consumer.HandlerFunc(func(ctx context.Context, _ *consumer.Message) error {
					<-ctx.Done()
					assert.ErrorIs(t, context.Cause(ctx), dedup.ErrLeaseLost)
					return result
				}))
				d := b.message("k", "x")
				d.unhealthy = true // the broker cannot be reached: losing either half loses the claim
				assert.Empty(t, b.process(d))
				assert.Empty(t, b.letters.letters)
				assert.Equal(t, dedup.Acquired, b.state("k").State)
				assert.Equal(t, uint64(1), b.p.Stats().LeaseLost)
				assert.Zero(t, b.p.Busy())
			})
		})
	}
}

func TestParallelDuplicatesShareTheFateOfTheFirst(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		result error
		full   bool
		want   string
	}{
		"consumed":  {nil, false, "ack"},
		"dead":      {consumer.Permanent(errHandler), false, "ack"},
		"owed":      {consumer.Permanent(errHandler), true, "nak"},
		"failed":    {errHandler, false, "nak"},
		"same fate": {consumer.RetryAfter(time.Minute, errHandler), false, "nak"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				b := setup(t, consumer.HandlerFunc(func(context.Context, *consumer.Message) error { <-release; return c.result }))
				b.letters.full = c.full
				one, two, other := b.message("k", "x"), b.message("k", "x"), b.message("k", "another payload")
				again := &delivery{m: one.m}
				done := make(chan struct{})
				go func() { b.process(one); close(done) }()
				synctest.Wait()
				assert.Empty(t, b.process(two), "parked: the worker is free")
				assert.Empty(t, b.process(again), "the same message again: nothing")
				b.letters.full = false
				assert.Equal(t, []string{"term"}, b.process(other), "the fingerprint is checked before it is parked")
				b.letters.full = c.full
				assert.Equal(t, 2, b.p.Busy())
				pass(time.Minute)
				synctest.Wait()
				assert.Positive(t, two.heard(), "parked deliveries are kept alive")
				close(release)
				<-done
				assert.Equal(t, []string{c.want}, two.said())
				assert.Empty(t, again.said())
				assert.Zero(t, b.p.Busy())
				if name == "same fate" {
					assert.GreaterOrEqual(t, two.delay, time.Minute)
				}
			})
		})
	}
}

func TestShutdownCostsNoAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, consumer.HandlerFunc(func(ctx context.Context, _ *consumer.Message) error { <-ctx.Done(); return ctx.Err() }))
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Minute, func() { cancel(consumer.ErrShutdown) })
		d := b.message("k", "x")
		b.p.Process(ctx, d)
		require.Equal(t, []string{"nak"}, d.said())
		assert.LessOrEqual(t, d.delay, 2*time.Second)
		r := b.state("k")
		assert.Equal(t, dedup.Failed, r.State)
		assert.Zero(t, r.Attempt)
		assert.Equal(t, 1, r.Interrupted)

		late := b.message("other", "x")
		b.p.Process(ctx, late)
		assert.Equal(t, []string{"nak"}, late.said(), "what arrives afterwards is given back unclaimed")
	})
}

func TestNothingIsClaimedOnceTheShutdownIsOver(t *testing.T) {
	t.Parallel()
	b := setup(t, consumer.HandlerFunc(ok))
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(consumer.ErrShutdown)
	d := b.message("k", "x")
	b.p.Process(ctx, d)
	assert.Equal(t, []string{"nak"}, d.said())
	_, err := b.store.Get(t.Context(), dedup.Key{Scope: scope, ID: "k"})
	require.ErrorIs(t, err, dedup.ErrNotFound, "no claim, and so no attempt and no interruption, was spent")
	assert.EqualValues(t, 1, b.p.Stats().Interrupted)
	assert.Zero(t, b.p.Stats().StoreDown)
}

func TestPanicIsRetriedWithItsStack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, consumer.HandlerFunc(func(context.Context, *consumer.Message) error { panic("boom") }),
			func(_ *consumer.Config, d *dedup.Config) { d.MaxAttempts = 2 })
		d := b.message("k", "x")
		require.Equal(t, []string{"nak"}, b.process(d))
		pass(d.delay)
		require.Equal(t, []string{"term"}, b.process(b.message("k", "x")))
		require.Len(t, b.letters.letters, 1)
		assert.Contains(t, b.letters.letters[0].Stack, "pipeline_test.go")
		assert.Contains(t, b.letters.letters[0].Error, "boom")
	})
}

func TestTheLetterIsOwedUntilItIsConfirmed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		runs := 0
		b := setup(t, consumer.HandlerFunc(func(context.Context, *consumer.Message) error { runs++; return consumer.Permanent(errHandler) }))
		b.letters.full = true
		require.Equal(t, []string{"nak"}, b.process(b.message("k", "x")), "never terminated without the confirmation")
		require.Equal(t, dedup.DeadOwed, b.state("k").State)
		b.letters.full = false
		require.Equal(t, []string{"term"}, b.process(b.message("k", "x")), "whoever comes by finishes the job")
		require.Equal(t, dedup.DeadSent, b.state("k").State)
		require.Len(t, b.letters.letters, 1)
		assert.Equal(t, dedup.Permanent, b.letters.letters[0].Class)
		assert.Equal(t, errHandler.Error(), b.letters.letters[0].Error)
		assert.Equal(t, 1, runs)
	})
}

func TestMissingAndMalformedKeys(t *testing.T) {
	t.Parallel()
	b := setup(t, consumer.HandlerFunc(ok))
	require.Equal(t, []string{"term"}, b.process(b.message("", "x")))
	two := b.message("k", "x")
	two.m.Header[publisher.KeyHeader] = []string{"a", "b"}
	require.Equal(t, []string{"term"}, b.process(two))
	broken := b.message("k", "x")
	broken.m.HeaderErr = errors.New("bad header")
	require.Equal(t, []string{"term"}, b.process(broken))
	require.Len(t, b.letters.letters, 3)
	assert.Equal(t, "a, b", b.letters.letters[1].Key, "raw")
	for i, class := range []dedup.Class{dedup.MissingKey, dedup.Malformed, dedup.Malformed} {
		assert.Equal(t, class, b.letters.letters[i].Class)
	}
	assert.Zero(t, b.p.Stats().Executed)
}

func TestADerivedKeyStandsInForAMissingOne(t *testing.T) {
	t.Parallel()
	derive := func(m *consumer.Message) (string, error) {
		if len(m.Data) == 0 {
			panic("nothing to derive from")
		}
		return "order-" + string(m.Data), nil
	}
	b := setup(t, consumer.HandlerFunc(ok), func(c *consumer.Config, _ *dedup.Config) { c.DeriveKey = derive })
	require.Equal(t, []string{"ack"}, b.process(b.message("", "1")))
	require.Equal(t, dedup.Consumed, b.state("order-1").State)
	require.Equal(t, []string{"term"}, b.process(b.message("", "not a key")), "a derived key is validated too")
	require.Equal(t, []string{"term"}, b.process(b.message("", "")), "a panic of the user's function harms nobody")
}

func TestManualHandlers(t *testing.T) {
	t.Parallel()
	var act func(context.Context, *consumer.Attempt)
	store, letters := memstore.New(memstore.Config{}), &letterbox{}
	d, err := dedup.New(store, dedup.Config{})
	require.NoError(t, err)
	p, err := consumer.NewManual(d, scope, func(ctx context.Context, a *consumer.Attempt) { act(ctx, a) },
		consumer.Config{Letters: letters, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	b := &bench{t: t, store: store, letters: letters, p: p}
	for i, c := range []struct {
		act  func(context.Context, *consumer.Attempt)
		want string
	}{
		{func(ctx context.Context, a *consumer.Attempt) { assert.NoError(t, a.Consume(ctx)) }, "ack"},
		{func(ctx context.Context, a *consumer.Attempt) { assert.NoError(t, a.Retry(ctx, 0, errHandler)) }, "nak"},
		{func(ctx context.Context, a *consumer.Attempt) { assert.NoError(t, a.Kill(ctx, errHandler)) }, "term"},
		{func(context.Context, *consumer.Attempt) {}, "nak"},
		{func(ctx context.Context, a *consumer.Attempt) {
			assert.NoError(t, a.Consume(ctx))
			assert.ErrorIs(t, a.Kill(ctx, errHandler), consumer.ErrAnswered)
			panic("after the answer")
		}, "ack"},
	} {
		act = c.act
		assert.Equal(t, []string{c.want}, b.process(b.message(fmt.Sprint("k", i), "x")))
	}
}

type Order struct{ ID int }

func TestJSON(t *testing.T) {
	t.Parallel()
	var got Order
	b := setup(t, consumer.JSON(func(_ context.Context, o Order) error { got = o; return nil }))
	require.Equal(t, []string{"ack"}, b.process(b.message("k", `{"ID":7}`)))
	assert.Equal(t, 7, got.ID)
	require.Equal(t, []string{"term"}, b.process(b.message("other", `{"ID":`)), "a retry cannot help")
}

func TestSettingsThatCannotWorkAreRefused(t *testing.T) {
	t.Parallel()
	d, err := dedup.New(memstore.New(memstore.Config{}), dedup.Config{})
	require.NoError(t, err)
	_, err = consumer.New(d, scope, consumer.HandlerFunc(ok), consumer.Config{})
	require.ErrorIs(t, err, consumer.ErrConfig)
	_, err = consumer.New(d, scope, nil, consumer.Config{Letters: &letterbox{}})
	require.ErrorIs(t, err, consumer.ErrConfig)
	_, err = consumer.New(d, "a b", consumer.HandlerFunc(ok), consumer.Config{Letters: &letterbox{}})
	require.ErrorIs(t, err, dedup.ErrInvalidKey)
}

// pass lets virtual time pass: in a synctest bubble nobody waits for it.
func pass(d time.Duration) { <-time.After(d) }
