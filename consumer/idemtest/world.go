package idemtest

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

const (
	stream, durable = "IDEMTEST", "handler"

	lease    = dedup.DefaultLease
	ackWait  = lease + time.Second
	patience = 2 * 24 * time.Hour // of virtual time, until something that does not end is given up

	maxDeliveries = 10_000 // of one message; likewise
)

// world is a broker, a store and workers with one handler, from the beginning of a scenario to its end.
type world struct {
	effects *Effects
	handler consumer.Handler
	broker  *broker
	store   dedup.Store
	letters *letterbox
	started time.Time
	hook    hook

	ctx    context.Context //nolint:containedctx // the parent of every handler; it ends with the world
	cancel context.CancelCauseFunc

	workers []*worker
	turn    int
	idle    chan struct{} // perhaps no delivery is at work any more

	happened string // in place of the story's, where a scenario has several worlds

	mu       sync.Mutex
	running  int // deliveries at work
	runs     []*run
	calls    int // of the user's handler
	problems []string
}

// hook is what a scenario does around a run of the handler.
type hook func(ctx context.Context, r *run, handle func(context.Context) error) error

func plainly(ctx context.Context, _ *run, handle func(context.Context) error) error {
	return handle(ctx)
}

// run is one run of the handler.
type run struct {
	key     string
	first   bool // of this message
	worker  *worker
	attempt int
	entered time.Time
	number  int           // among the calls of the user's handler; 0 if it was never called
	took    time.Duration // from its beginning to its return

	effects     map[effect]int
	firstEffect time.Duration // after the beginning
	err         error
	state       string // how it ended
	note        string // what the scenario did to it
}

// newWorld returns a world for messages with these keys, with two workers.
func (c *config) newWorld(messages []consumer.Message) *world {
	w := &world{
		effects: &Effects{keys: map[string]bool{}}, broker: newBroker(ackWait), store: memstore.New(memstore.Config{}),
		letters: &letterbox{letters: map[string]*consumer.Letter{}}, started: time.Now(), hook: plainly,
		idle: make(chan struct{}, 1),
	}
	for _, m := range messages {
		w.effects.keys[m.Key] = true
	}
	w.ctx, w.cancel = context.WithCancelCause(context.Background())
	if w.handler = c.build(w.effects); w.handler == nil {
		panic("the function that makes the handler returned nil")
	}
	w.hire()
	return w
}

// hire replaces the workers by two new ones.
func (w *world) hire() {
	n := len(w.workers)
	for i := range 2 {
		w.workers = append(w.workers, w.newWorker(n+i+1))
	}
	w.turn = n
}

// next returns the worker whose turn it is.
func (w *world) next() *worker {
	for range w.workers {
		wk := w.workers[w.turn%len(w.workers)]
		w.turn++
		if !wk.cut.Load() && wk.ctx.Err() == nil {
			return wk
		}
	}
	w.hire()
	return w.workers[w.turn]
}

func (w *world) publish(m consumer.Message) *stored { return w.broker.publish(m) }

// drain delivers until every message is done with and every handler has returned.
func (w *world) drain() {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		due, next, open := w.broker.take(w.next)
		for _, d := range due {
			if d.message.Deliveries > maxDeliveries {
				w.giveUp(fmt.Sprintf("a message was delivered more than %d times", maxDeliveries))
				return
			}
			w.start(d)
		}
		if !open {
			break
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-timer.C:
		case <-w.broker.changed:
		case <-limit.C:
			timer.Stop()
			w.giveUp(fmt.Sprintf("a message was not done with after %v", patience))
			return
		}
		timer.Stop()
	}
	w.await(patience)
}

// giveUp reports what does not end, and cancels what still runs.
func (w *world) giveUp(what string) {
	w.problem(what + "; a handler must return, and its retries must end" + w.history(""))
	w.await(0)
}

// start gives a delivery to its worker.
func (w *world) start(d *delivery) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running++
	go func() {
		defer func() { // also when the handler ends its goroutine
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.running--; w.running == 0 {
				select {
				case w.idle <- struct{}{}:
				default: // it is to look already
				}
			}
		}()
		d.worker.pipeline.Process(d.worker.ctx, d)
	}()
}

// rest waits until no delivery is at work, for a while at most.
func (w *world) rest(while time.Duration) bool {
	limit := time.NewTimer(while)
	defer limit.Stop()
	for {
		w.mu.Lock()
		running := w.running
		w.mu.Unlock()
		if running == 0 {
			return true
		}
		select {
		case <-w.idle:
		case <-limit.C:
			return false
		}
	}
}

// await waits for the handlers to return, cancels them after a while, and says so if that was necessary.
func (w *world) await(while time.Duration) {
	if w.rest(while) {
		return
	}
	w.cancel(consumer.ErrShutdown)
	if !w.rest(patience) {
		w.problem("the handler does not return when its context is cancelled; pass the context on to whatever it waits for" +
			w.history(""))
	}
}

func (w *world) problem(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, text)
}

// found returns the problems so far.
func (w *world) found() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.problems)
}

// finished returns the runs, none if something went wrong so that some may still go on.
func (w *world) finished() []*run {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.problems) > 0 {
		return nil
	}
	return slices.Clone(w.runs)
}

// handle is the handler of every worker: the user's, with what the scenario does around it.
func (w *world) handle(ctx context.Context, wk *worker, m *consumer.Message) error {
	r := &run{key: m.Key, worker: wk, attempt: m.Attempt, entered: time.Now(), first: true, state: "did not return"}
	w.mu.Lock()
	for _, earlier := range w.runs {
		r.first = r.first && earlier.key != m.Key
	}
	w.runs = append(w.runs, r)
	w.mu.Unlock()
	return w.hook(ctx, r, func(ctx context.Context) error { return w.call(ctx, r, m) })
}

// call runs the user's handler and notes what came of it.
func (w *world) call(ctx context.Context, r *run, m *consumer.Message) (err error) {
	before, _ := w.effects.snapshot()
	entered, state := time.Now(), "ended its goroutine (a failed assertion?)"
	w.mu.Lock()
	w.calls++
	r.number, r.entered = w.calls, entered
	w.mu.Unlock()
	defer func() {
		if v := recover(); v != nil {
			pe := &consumer.PanicError{Value: v, Stack: debug.Stack()}
			err, state = pe, fmt.Sprintf("panicked: %v", v)
		}
		now, first := w.effects.snapshot()
		w.mu.Lock()
		defer w.mu.Unlock()
		r.took, r.effects, r.err, r.state = time.Since(entered), since(before, now), err, state
		if !first.IsZero() {
			r.firstEffect = first.Sub(entered)
		}
	}()
	err = w.handler.Handle(ctx, m)
	state = "returned nil"
	if err != nil {
		state = fmt.Sprintf("returned the error %q", err)
	}
	return err
}
