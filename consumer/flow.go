package consumer

import (
	"context"
	"sync"
	"time"

	"github.com/idemq/idemq/dedup"
)

// Flow takes the deliveries of one source through a pipeline with a fixed number of workers. Where the store is a
// dedup.Batcher it keeps them busy: all that has arrived is claimed in one call, duplicates are answered from that without
// a worker, a worker goes on to the next message while its settlement is under way, and settlements gather for one call
// while the previous one is under way. An ack still follows its settlement, never the other way round. Over other stores
// each worker takes one delivery after another through [Pipeline.Process].
//
//	source → waiting → claimed, ready → running → unsettled → acknowledged
//	         └──── at most workers + claims ahead ────┘   └ at most MaxUnsettled
//
// A source asks for seats before it pulls ([Flow.Ask]) and hands in what comes ([Flow.Offer]). Claims ahead of the workers
// are as many as those handle in a moment, by their measured speed. What has waited for too long for its lease, and what
// has not begun when the flow is stopped, is released uncounted and given back. A Flow is safe for concurrent use.
type Flow struct {
	p       *Pipeline
	ctx     context.Context //nolint:containedctx // the parent of all handlers
	answers context.Context //nolint:containedctx // the same, but for its end
	workers int
	process func(context.Context, Delivery) // of one delivery, if they are not claimed in batches
	maxWait time.Duration                   // for a worker, from the arrival on

	mu       sync.Mutex
	toClaim  sync.Cond // the claimer waits for it
	toRun    sync.Cond // workers wait for it
	waiting  fifo[arrival]
	ready    fifo[*Attempt]
	idle     int  // workers that wait
	waking   bool // one of them was woken, and has not looked yet
	running  int  // workers at a message
	held     int  // deliveries from Offer until they are answered, parked, or unsettled
	reserved int  // seats that are given away, and not taken by an Offer
	asks     []*Seats
	claiming bool // the claimer may still make something ready
	stopping bool
	cycle    time.Duration // how long a worker is at a message, on average; 0 if not known
	size     int           // of a payload, on average

	settles settles
	atWork  sync.WaitGroup // claimer, workers, and what they leave to goroutines of their own
	ending  chan struct{}  // closed by Stop
	done    chan struct{}
}

type arrival struct {
	delivery Delivery
	at       time.Time
}

const (
	maxBatch      = 256                    // keys of one call of the store
	aheadTime     = 100 * time.Millisecond // how long the workers have to do with what is claimed ahead of them
	aheadBytes    = 32 << 20               // of payloads that wait
	waitParts     = 2                      // what waits is given back after this part of a lease
	ageParts      = 16                     // how often it is looked at, in a lease
	beforeHandler = 100 * time.Millisecond // the delay of what is given back before its handler began
)

// Flow starts the workers. The context is the handlers' parent; cancel it with cause [ErrShutdown] when the grace period
// after [Flow.Stop] is over. If process is not nil it takes the deliveries in place of the pipeline, one for each worker
// at a time. The flow's goroutines end after Stop; see [Flow.Done].
func (p *Pipeline) Flow(ctx context.Context, workers int, process func(context.Context, Delivery)) *Flow {
	f := &Flow{
		p: p, ctx: ctx, answers: context.WithoutCancel(ctx), workers: max(1, workers), process: process, maxWait: p.d.Config().Lease / waitParts,
		ending: make(chan struct{}), done: make(chan struct{}),
	}
	f.toClaim.L, f.toRun.L = &f.mu, &f.mu
	f.settles.init(p.cfg.MaxUnsettled)
	if _, ok := p.d.Store().(dedup.Batcher); !ok && process == nil {
		f.process = p.Process
	}
	if f.process == nil {
		f.claiming = true
		f.atWork.Go(f.claim)
	}
	for range f.workers {
		f.atWork.Go(f.work)
	}
	f.atWork.Go(f.watchAges)
	settled := make(chan struct{})
	go func() {
		defer close(settled)
		f.settle()
	}()
	go func() { // ends with the last handler
		defer close(f.done)
		f.atWork.Wait()
		f.settles.close()
		<-settled
	}()
	return f
}

// Offer hands in a delivery and never blocks. It takes one of the seats that were asked for, if taken says so.
func (f *Flow) Offer(del Delivery, taken bool) {
	f.mu.Lock()
	if taken {
		f.reserved--
	}
	if f.stopping {
		f.mu.Unlock()
		f.p.giveBack(f.ctx, del, Interrupted, beforeHandler, ErrShutdown)
		return
	}
	f.held++
	f.size = average(f.size, len(del.Message().Data))
	f.waiting.push(arrival{delivery: del, at: time.Now()})
	if f.process == nil {
		f.toClaim.Signal()
	} else {
		f.wake(f.waiting.len())
	}
	f.mu.Unlock()
}

// Idle says whether nothing is waiting, running or unsettled.
func (f *Flow) Idle() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held == 0 && f.settles.size() == 0
}

// Stop makes the flow end: what has not begun is given back, handlers go on, their settlements too. It does not wait; see
// [Flow.Done]. It may be called repeatedly.
func (f *Flow) Stop() {
	f.mu.Lock()
	if f.stopping {
		f.mu.Unlock()
		return
	}
	f.stopping = true
	close(f.ending)
	waiting := f.waiting.take(f.waiting.len())
	f.held -= len(waiting)
	f.putBackAll(f.ready.take(f.ready.len()), Interrupted, ErrShutdown) // workers may be stuck
	f.toClaim.Broadcast()
	f.toRun.Broadcast()
	f.mu.Unlock()
	for _, w := range waiting {
		f.p.giveBack(f.ctx, w.delivery, Interrupted, beforeHandler, ErrShutdown)
	}
}

// Done is closed when, after Stop, the last handler has returned and the last settlement was answered for.
func (f *Flow) Done() <-chan struct{} { return f.done }
