package wmnats

import (
	"context"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/consumer/wmidem"
)

// feed makes messages of the deliveries of one subscription.
type feed struct {
	s        *Subscriber
	w        *natsidem.Worker
	stopping context.Context //nolint:containedctx // ends when the subscription does
	out      chan *message.Message

	admitOnce sync.Once
}

// native is the delivery behind a message.
type native struct {
	f        *feed
	delivery consumer.Delivery
	taken    chan struct{}
	done     chan struct{}
}

func (n *native) Take(admit func(context.Context) error) func() {
	n.f.admitOnce.Do(func() { n.f.w.PullWhen(admit) }) // the messages of a subscription have one pipeline
	close(n.taken)
	return sync.OnceFunc(func() { close(n.done) })
}

func (n *native) Delivery() consumer.Delivery { return n.delivery }

func (n *native) Scope() string { return n.f.w.Scope() }

// deliver hands a message out, and returns when it is answered.
func (f *feed) deliver(ctx context.Context, d consumer.Delivery) {
	m := d.Message()
	msg := message.NewMessage("", m.Data)
	wmidem.SetHeader(msg, m.Header)
	n := &native{f: f, delivery: d, taken: make(chan struct{}), done: make(chan struct{})}
	msgCtx, cancel := context.WithCancel(wmidem.WithNative(ctx, n))
	defer cancel()
	msg.SetContext(msgCtx)
	if f.stopping.Err() != nil { // before the select: the channel is closed at the end
		f.nak(ctx, d, giveBack)
		return
	}
	select {
	case f.out <- msg:
	case <-f.stopping.Done():
		f.nak(ctx, d, giveBack)
		return
	}
	f.wait(ctx, msg, n)
}

// wait answers by the message's ack or nack, unless somebody takes the delivery.
func (f *feed) wait(ctx context.Context, msg *message.Message, n *native) {
	beat := time.NewTicker(f.s.d.Config().Lease / beatsPerLease)
	defer beat.Stop()
	for {
		select {
		case <-n.taken:
			<-n.done
			return
		case <-msg.Acked():
			f.answer(ctx, "ack", n.delivery.Ack)
			return
		case <-msg.Nacked():
			f.nak(ctx, n.delivery, f.s.cfg.NackDelay)
			return
		case <-beat.C:
			if err := n.delivery.InProgress(ctx); err != nil {
				f.s.log.Warn("the server's deadline was not renewed; the message may be delivered again meanwhile", "error", err)
			}
		case <-ctx.Done(): // nobody answers any more
			select {
			case <-n.taken:
				<-n.done
			default:
				f.nak(ctx, n.delivery, giveBack)
			}
			return
		}
	}
}

func (f *feed) nak(ctx context.Context, d consumer.Delivery, delay time.Duration) {
	f.answer(ctx, "nak", func(ctx context.Context) error { return d.Nak(ctx, delay) })
}

// answer goes on when the subscription has ended: what was decided has to be said.
func (f *feed) answer(ctx context.Context, what string, send func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
	defer cancel()
	if err := send(ctx); err != nil {
		f.s.log.Warn("could not send the "+what+"; the server will deliver again", "error", err)
	}
}
