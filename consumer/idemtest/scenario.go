package idemtest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/publisher"
)

// story is a scenario, and what to say of a handler that does not stand it.
type story struct {
	name     Scenario
	happened string // why the handler ran again, or was disturbed
	advice   string // against a repeated effect
	act      func(c *config, m measure) []*world
}

const (
	keyedSink = "pass the key on (dedup.KeyFrom(ctx).ID) and let the sink refuse one that it has seen: a unique constraint " +
		"on scope and key in the effect's own transaction, or a far side that deduplicates on the key"
	parallelCopies = 8
	garbage        = 100 // bytes
)

var stories = []story{
	{
		name:     Redelivery,
		happened: "the message came again: its ack got lost, and an hour later its producer sent it a second time",
		advice:   keyedSink,
		act:      redelivery,
	},
	{
		name: Crash,
		happened: "the handler had its effect, and its process died before the key was recorded as consumed. Nobody can know " +
			"from outside that the effect is done: when the lease had run out, another worker got the message and ran the " +
			"handler again",
		advice: keyedSink,
		act:    crash,
	},
	{
		name: LostLease,
		happened: "a worker lost its lease, so that another one took the key over; the handler's context was cancelled with " +
			"dedup.ErrLeaseLost, and it had its effect all the same, beside the new owner's",
		advice: "look at the context right before the effect and pass it on to the sink (a fake must look at ctx.Err() as the " +
			"real one does); that narrows the gap. To close it, " + keyedSink,
		act: lostLease,
	},
	{
		name:     Parallel,
		happened: fmt.Sprintf("the message came %d times at once, to two workers", parallelCopies),
		advice:   keyedSink,
		act:      parallel,
	},
	{
		name: Poison,
		happened: "the payload was empty, cut off, or garbage, and the handler had an effect before it found out and failed, " +
			"at every attempt anew",
		advice: "check the whole payload before the first effect, and return consumer.Permanent for one that no retry can mend",
		act:    poison,
	},
	{
		name:     Slow,
		happened: "the run took longer than the lease and the broker's deadline, and a duplicate came meanwhile",
		advice:   keyedSink,
		act:      slow,
	},
}

// tell runs the scenario and returns what is wrong with the handler.
func (s story) tell(c *config, m measure) []string {
	var problems []string
	for _, w := range s.act(c, m) {
		want := m.once
		if s.name == Poison {
			want = w.onceEach() // nobody can say what a handler makes of garbage
		}
		problems = slices.Concat(problems, w.found(), w.judge(s, want))
	}
	return problems
}

// each does something for one message after another, and lets the world come to rest in between.
func (w *world) each(messages []consumer.Message, do func(consumer.Message)) {
	for _, m := range messages {
		do(m)
		w.drain()
		if len(w.found()) > 0 {
			return
		}
	}
}

func redelivery(c *config, _ measure) []*world {
	const later = time.Hour
	w := c.newWorld(c.messages)
	w.each(c.messages, func(m consumer.Message) { w.publish(m).loseAck = true })
	<-time.After(later)
	w.each(c.messages, func(m consumer.Message) { w.publish(m) })
	return []*world{w}
}

func crash(c *config, _ measure) []*world {
	w := c.newWorld(c.messages)
	w.hook = func(ctx context.Context, r *run, handle func(context.Context) error) error {
		err := handle(ctx)
		if r.first {
			r.worker.cut.Store(true)
			r.note = "its process died before that was recorded"
		}
		return err
	}
	w.each(c.messages, func(m consumer.Message) { w.publish(m) })
	return []*world{w}
}

func lostLease(c *config, m measure) []*world {
	worlds := []*world{stopped(c)}
	if len(m.times) > 0 {
		worlds = append(worlds, lostAtWork(c, m))
	}
	return worlds
}

// stopped stops a worker after its claim, before the handler's first step, until another one is done with the message.
func stopped(c *config) *world {
	w := c.newWorld(c.messages)
	var current *stored
	w.hook = func(ctx context.Context, r *run, handle func(context.Context) error) error {
		if !r.first {
			return handle(ctx)
		}
		r.worker.cut.Store(true)
		r.note = "it was stopped first, and lost its lease"
		<-ctx.Done()
		select {
		case <-current.settled:
		case <-w.ctx.Done(): // given up
		}
		return handle(ctx)
	}
	w.each(c.messages, func(m consumer.Message) { current = w.publish(m) })
	return w
}

// lostAtWork takes the lease away half way to the handler's first effect.
func lostAtWork(c *config, m measure) *world {
	w := c.newWorld(c.messages)
	w.hook = func(ctx context.Context, r *run, handle func(context.Context) error) error {
		moment := m.times[r.key].effect / 2
		if moment == 0 || !r.first {
			return handle(ctx)
		}
		r.note = fmt.Sprintf("it lost its lease after %v", moment)
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		cut := time.AfterFunc(moment, func() {
			r.worker.cut.Store(true)
			cancel(fmt.Errorf("%w: the worker was cut off", dedup.ErrLeaseLost))
		})
		defer cut.Stop()
		return handle(ctx)
	}
	w.each(c.messages, func(m consumer.Message) { w.publish(m) })
	return w
}

func parallel(c *config, _ measure) []*world {
	const overlap = time.Second // so that every copy finds the first one at work
	w := c.newWorld(c.messages)
	w.hook = func(ctx context.Context, _ *run, handle func(context.Context) error) error {
		<-time.After(overlap)
		return handle(ctx)
	}
	w.each(c.messages, func(m consumer.Message) {
		for range parallelCopies {
			w.publish(m)
		}
	})
	return []*world{w}
}

func poison(c *config, _ measure) []*world {
	var poisoned []consumer.Message
	for i, m := range c.messages {
		for _, payload := range []struct{ kind, data string }{
			{"empty", ""}, {"cut-off", string(m.Data[:len(m.Data)/2])}, {"garbage", "\x00\xff{" + strings.Repeat("]", garbage)},
		} {
			p := m
			p.Key, p.Data = fmt.Sprintf("poison-%d-%s", i+1, payload.kind), []byte(payload.data)
			p.Header = maps.Clone(m.Header)
			p.Header[publisher.KeyHeader] = []string{p.Key}
			poisoned = append(poisoned, p)
		}
	}
	w := c.newWorld(poisoned)
	w.each(poisoned, func(m consumer.Message) { w.publish(m) })
	for _, m := range poisoned {
		for _, r := range w.finished() {
			if r.key == m.Key && r.panicked() {
				advice := paragraph("what to do", "return consumer.Permanent(err) for it; it becomes a dead letter then, at once")
				w.problem(fmt.Sprintf("the handler panicked on a payload that it did not expect, %.40q%s%s", m.Data, advice,
					w.history(m.Key)))
				break
			}
		}
	}
	return []*world{w}
}

func slow(c *config, m measure) []*world {
	w := c.newWorld(c.messages)
	w.hook = func(ctx context.Context, _ *run, handle func(context.Context) error) error {
		<-time.After(2 * lease)
		err := handle(ctx)
		<-time.After(2 * lease)
		return err
	}
	w.each(c.messages, func(m consumer.Message) {
		w.publish(m)
		w.publish(m)
	})
	if len(m.times) == 0 {
		return []*world{w}
	}
	return []*world{
		w,
		interrupted(c, func(key string) time.Duration { return m.times[key].effect / 2 }),
		interrupted(c, func(key string) time.Duration {
			if t := m.times[key]; t.end > t.effect {
				return t.effect + (t.end-t.effect)/2
			}
			return 0
		}),
	}
}

// interrupted shuts a worker down while the handler works; 0 for not at all.
func interrupted(c *config, moment func(key string) time.Duration) *world {
	w := c.newWorld(c.messages)
	w.happened = "a shutdown cancelled the handler's context (consumer.ErrShutdown); it stopped half way and returned an " +
		"error, so that the message was handled again"
	w.hook = func(ctx context.Context, r *run, handle func(context.Context) error) error {
		after := moment(r.key)
		if after == 0 || !r.first {
			return handle(ctx)
		}
		r.note = fmt.Sprintf("a shutdown cancelled its context after %v", after)
		end := time.AfterFunc(after, func() { r.worker.shutDown(consumer.ErrShutdown) })
		defer end.Stop()
		return handle(ctx)
	}
	w.each(c.messages, func(m consumer.Message) { w.publish(m) })
	return w
}
