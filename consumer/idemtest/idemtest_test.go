package idemtest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/idemtest"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/publisher"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/idemq/idemq/consumer/idemtest_test.blockForEver"))
}

// recorder stands in for a *testing.T. It keeps failures by subtest.
type recorder struct {
	name string
	mu   *sync.Mutex
	said map[string]string
	ran  map[string]bool
}

func newRecorder() *recorder {
	return &recorder{mu: &sync.Mutex{}, said: map[string]string{}, ran: map[string]bool{}}
}

func (r *recorder) Helper() {}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said[r.name] += fmt.Sprintf(format, args...) + "\n"
}

func (r *recorder) Run(name string, f func(*recorder)) bool {
	r.ran[name] = true
	f(&recorder{name: name, mu: r.mu, said: r.said, ran: r.ran})
	return r.said[name] == ""
}

func (r *recorder) failed() []string { return slices.Sorted(maps.Keys(r.said)) }

// text returns what was said, without its line breaks.
func (r *recorder) text(name string) string { return strings.Join(strings.Fields(r.said[name]), " ") }

// try runs one message through a handler that is a function of the effects.
func try(fn func(ctx context.Context, e *idemtest.Effects, m *consumer.Message) error, with ...idemtest.Option) *recorder {
	r := newRecorder()
	idemtest.Run(r, func(e *idemtest.Effects) consumer.Handler {
		return consumer.HandlerFunc(func(ctx context.Context, m *consumer.Message) error { return fn(ctx, e, m) })
	}, append(with, idemtest.Message("order-4711", `{"id":4711}`))...)
	return r
}

// decode refuses what is not a payment.
func decode(m *consumer.Message) error {
	var p payment
	return consumer.Permanent(json.Unmarshal(m.Data, &p))
}

func TestARealTestMayRunIt(t *testing.T) {
	t.Parallel()
	runs := 0
	idemtest.Run(t, func(e *idemtest.Effects) consumer.Handler {
		g := &keyedGateway{effects: e, seen: map[string]bool{}}
		return consumer.JSON(func(ctx context.Context, p payment) error {
			runs++
			return g.charge(ctx, dedup.KeyFrom(ctx).ID, p)
		})
	}, idemtest.Message("a", `{"id":1}`), idemtest.Message("b", `{"id":2}`))
	assert.GreaterOrEqual(t, runs, 2*(1+1+2+2+1+1), "undisturbed once, crash and lost lease twice, the others once each")
}

func TestUnkeyedEffectsAreReported(t *testing.T) {
	t.Parallel()
	r := try(func(ctx context.Context, e *idemtest.Effects, m *consumer.Message) error {
		if err := decode(m); err != nil {
			return err
		}
		e.Record(ctx)
		return nil
	})
	assert.Equal(t, []string{"crash", "lost-lease"}, r.failed())
	assert.Contains(t, r.text("crash"), `the effect of key "order-4711" happened 2 times instead of once`)
	assert.Contains(t, r.text("crash"), "its process died before that was recorded")
	assert.Contains(t, r.text("crash"), "unique constraint")
	assert.Contains(t, r.text("lost-lease"), "dedup.ErrLeaseLost")
	assert.Len(t, r.ran, 6)
}

func TestAnErrorAfterTheEffectIsReported(t *testing.T) {
	t.Parallel()
	r := try(func(ctx context.Context, e *idemtest.Effects, m *consumer.Message) error {
		if err := decode(m); err != nil {
			return err
		}
		e.Record(ctx)
		return errors.New("the mail server is out")
	})
	for _, name := range []string{"redelivery", "parallel", "slow"} {
		assert.Contains(t, r.text(name), "happened 5 times instead of once", name)
		assert.Contains(t, r.text(name), "returned an error all the same", name)
		assert.Contains(t, r.text(name), `dead letter of "order-4711", class exhausted`, name)
	}
}

func TestACheckedContextStandsALostLease(t *testing.T) {
	t.Parallel()
	work := func(checked bool) func(context.Context, *idemtest.Effects, *consumer.Message) error {
		return func(ctx context.Context, e *idemtest.Effects, m *consumer.Message) error {
			if err := errors.Join(decode(m), ctx.Err()); err != nil {
				return err
			}
			<-time.After(time.Minute)
			if checked && ctx.Err() != nil {
				return context.Cause(ctx)
			}
			e.Record(ctx)
			return nil
		}
	}
	r := try(work(true))
	assert.Equal(t, []string{"crash"}, r.failed())
	r = try(work(false))
	assert.Equal(t, []string{"crash", "lost-lease"}, r.failed())
	assert.Contains(t, r.text("lost-lease"), "it lost its lease after 30s")
}

func TestAnEffectThatGotLostIsReported(t *testing.T) {
	t.Parallel()
	r := newRecorder()
	idemtest.Run(r, func(e *idemtest.Effects) consumer.Handler {
		seen := map[string]bool{}
		return consumer.HandlerFunc(func(ctx context.Context, m *consumer.Message) error {
			if seen[m.Key] {
				return nil
			}
			seen[m.Key] = true // too early
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(time.Second):
				e.Record(ctx)
				return nil
			}
		})
	}, idemtest.Message("k", "x"))
	assert.Equal(t, []string{"lost-lease", "slow"}, r.failed())
	for _, name := range r.failed() {
		assert.Contains(t, r.text(name), `the effect of key "k" happened not at all instead of once: it is lost`)
	}
}

func TestAShutdownAfterTheEffectIsReported(t *testing.T) {
	t.Parallel()
	r := try(func(ctx context.Context, e *idemtest.Effects, m *consumer.Message) error {
		if err := decode(m); err != nil {
			return err
		}
		e.Record(ctx)
		select { // an answer that nobody needs
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
			return nil
		}
	}, idemtest.Without(idemtest.Crash, idemtest.LostLease))
	assert.Equal(t, []string{"slow"}, r.failed())
	assert.Contains(t, r.text("slow"), "a shutdown cancelled its context after 500ms")
}

func TestPoison(t *testing.T) {
	t.Parallel()
	r := try(func(ctx context.Context, e *idemtest.Effects, m *consumer.Message) error {
		e.Record(ctx)
		var p payment
		return json.Unmarshal(m.Data, &p)
	}, idemtest.Without(idemtest.Crash, idemtest.LostLease))
	assert.Equal(t, []string{"poison"}, r.failed())
	for _, kind := range []string{"empty", "cut-off", "garbage"} {
		assert.Contains(t, r.text("poison"), `the effect of key "poison-1-`+kind+`" happened 5 times instead of once`)
	}
	r = try(func(ctx context.Context, e *idemtest.Effects, m *consumer.Message) error {
		if m.Data[0] == '{' { // panics if there is none
			e.Record(ctx)
		}
		return nil
	}, idemtest.Without(idemtest.Crash, idemtest.LostLease))
	assert.Equal(t, []string{"poison"}, r.failed())
	assert.Contains(t, r.text("poison"), "the handler panicked on a payload that it did not expect")
	assert.Contains(t, r.text("poison"), "index out of range")
}

func TestKindsOfEffectsAreCountedApart(t *testing.T) {
	t.Parallel()
	r := newRecorder()
	idemtest.Run(r, func(e *idemtest.Effects) consumer.Handler {
		g := &keyedGateway{effects: e, seen: map[string]bool{}}
		return consumer.JSON(func(ctx context.Context, p payment) error {
			e.Record(ctx, "mail")
			e.Record(ctx, "mail")                      // two at each run
			e.RecordKey(publisher.NewKey(), "invoice") // under a number of its own
			return g.charge(ctx, dedup.KeyFrom(ctx).ID, p)
		})
	}, idemtest.Message("k", `{}`), idemtest.Without(idemtest.LostLease))
	require.Equal(t, []string{"crash"}, r.failed())
	assert.Contains(t, r.text("crash"), `the effect "mail" of key "k" happened 4 times instead of 2 times`)
	assert.Contains(t, r.text("crash"),
		`the effect "invoice" (recorded under keys that no message has) happened 2 times instead of once`)
	assert.NotContains(t, r.text("crash"), `the effect of key`)
}

func TestAFlakyHandlerIsNoOffender(t *testing.T) {
	t.Parallel()
	r := newRecorder()
	idemtest.Run(r, func(e *idemtest.Effects) consumer.Handler {
		g, calls := &keyedGateway{effects: e, seen: map[string]bool{}}, 0
		return consumer.HandlerFunc(func(ctx context.Context, m *consumer.Message) error {
			if calls++; calls%2 == 1 {
				return consumer.RetryAfter(time.Hour, errors.New("not now"))
			}
			return g.charge(ctx, m.Key, payment{})
		})
	}, idemtest.Message("a", ""), idemtest.Message("b", ""))
	assert.Empty(t, r.said)
}

func TestWhatDoesNotEndIsReported(t *testing.T) {
	t.Parallel()
	r := try(func(ctx context.Context, _ *idemtest.Effects, _ *consumer.Message) error {
		<-ctx.Done()
		return ctx.Err()
	})
	assert.Contains(t, r.text(""), "a message was not done with after 48h0m0s")
	assert.Empty(t, r.ran, "nothing else is worth saying then")

	r = try(func(context.Context, *idemtest.Effects, *consumer.Message) error { return blockForEver() })
	assert.Contains(t, r.text(""), "the handler does not return when its context is cancelled")
	assert.Contains(t, r.text(""), "blocked for ever")
}

func blockForEver() error {
	<-make(chan struct{})
	return nil
}

func TestAFailedAssertionEndsTheRunOnly(t *testing.T) {
	t.Parallel()
	r := try(func(context.Context, *idemtest.Effects, *consumer.Message) error {
		assert.FailNow(failNow{}, "as require does")
		return nil
	})
	assert.Contains(t, r.text(""), "ended its goroutine (a failed assertion?)")
	assert.Contains(t, r.text(""), "no effect was recorded")
}
