package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	paceEvery = time.Millisecond // what is due goes out together
	paceFor   = time.Second      // at most

	// A mode that is not done with everything after so much of the time that publishing took cannot keep up.
	keepsUpWithin = 0.1
	keepsUpLeast  = 100 * time.Millisecond
)

// latency publishes at a pace while a mode takes what comes, and notes how long each message took until it was done.
func (b *bench) latency(outer context.Context, m mode, workers int, into *measured) (err error) {
	ctx := outer
	n := min(b.set.messagesFor(workers), max(minMessages, int(float64(b.set.latencyRate)*paceFor.Seconds())))
	name := fmt.Sprintf("%s-pace-%d", b.run, b.trials+1)
	if err := b.createStream(ctx, name); err != nil {
		return err
	}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
		defer cancel()
		if derr := b.js.DeleteStream(clean, name); derr != nil && err == nil {
			err = derr
		}
	}()
	// The first message is not measured: it shows that the mode is ready.
	ms, distinct := b.newMessages(name, n+1)
	t, err := b.trial(workers, name, n+1, distinct)
	if err != nil {
		return err
	}
	t.latencies = make([]int64, n)
	nc, err := nats.Connect(b.srv.natsURL)
	if err != nil {
		t.nc.Close()
		return err
	}
	defer nc.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := pacer{t: t, ms: ms, rate: b.set.latencyRate}
	var publishing sync.WaitGroup
	publishing.Go(func() {
		if err := p.publish(ctx, nc); err != nil {
			cancel(fmt.Errorf("publish at a pace: %w", err))
		}
	})
	err = b.do(ctx, m, t)
	cancel(err)
	publishing.Wait()
	if ferr := b.forget(outer, t); err != nil {
		return errors.Join(fmt.Errorf("%s with %d workers, latency: %w", m.name, workers, err), ferr)
	} else if ferr != nil {
		return ferr
	}
	got := t.latencies[:min(t.latencyEntries.Load(), int64(n))]
	slices.Sort(got)
	into.latency = len(got) > 0
	into.p50, into.p99 = millis(got, 0.5), millis(got, 0.99)
	behind := time.Duration(t.last.Load() - p.ended.UnixNano())
	into.keptUp = behind < max(keepsUpLeast, time.Duration(keepsUpWithin*float64(p.ended.Sub(p.begun))))
	return nil
}

// millis is a quantile of sorted nanoseconds, in milliseconds.
func millis(sorted []int64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]) / float64(time.Millisecond)
}

// pacer publishes the messages of a trial.
type pacer struct {
	t            *trial
	ms           messages
	rate         int
	begun, ended time.Time
}

const readyPoll = 2 * time.Millisecond

func (p *pacer) publish(ctx context.Context, nc *nats.Conn) error {
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(publishedAhead))
	if err != nil {
		return err
	}
	if _, err := js.PublishMsg(ctx, p.ms.message(0)); err != nil {
		return err
	}
	ready := time.NewTicker(readyPoll)
	defer ready.Stop()
	for p.t.done.Load() == 0 {
		select {
		case <-ready.C:
		case <-ctx.Done():
			return nil // whoever ended it says why
		}
	}
	tick := time.NewTicker(paceEvery)
	defer tick.Stop()
	p.begun = time.Now()
	for sent := 0; sent < len(p.t.latencies); {
		due := min(len(p.t.latencies), int(time.Since(p.begun).Seconds()*float64(p.rate)))
		for ; sent < due; sent++ {
			m := p.ms.message(sent + 1)
			p.ended = time.Now()
			m.Header.Set(sentHeader, strconv.FormatInt(p.ended.UnixNano(), 10))
			if _, err := js.PublishMsgAsync(m, jetstream.WithStallWait(stallLimit)); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
	return confirmed(ctx, js)
}
