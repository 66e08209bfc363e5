package natsidem

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/idemq/idemq/consumer"
)

// The words that JetStream takes on a message's reply subject.
const (
	ackWord      = "+ACK"
	nakWord      = "-NAK"
	termWord     = "+TERM"
	progressWord = "+WPI"
)

const (
	maxReason       = 200 // bytes of a termination's reason: it goes into an advisory, on one line
	progressTimeout = 2 * time.Second
)

// delivery is one delivery of a JetStream message.
type delivery struct {
	nc      *nats.Conn
	reply   string // where the server takes answers
	message *consumer.Message
	own     consumer.Message // what message points to, unless it is a replay's
	confirm func() bool      // whether acks are to be confirmed now
	double  atomic.Bool      // whether this ack is to be confirmed in any case
	sent    atomic.Pointer[error]
}

func newDelivery(nc *nats.Conn, msg *nats.Msg, confirm func() bool) (*delivery, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return nil, fmt.Errorf("natsidem: a message on %q is not from JetStream: %w", msg.Subject, err)
	}
	d := &delivery{nc: nc, reply: msg.Reply, confirm: confirm, own: consumer.Message{
		Subject: msg.Subject, Stream: meta.Stream, Durable: meta.Consumer, Sequence: meta.Sequence.Stream,
		Time: meta.Timestamp, Deliveries: int(meta.NumDelivered), Header: msg.Header, Data: msg.Data, //nolint:gosec // a count
	}}
	d.message = &d.own
	return d, nil
}

func (d *delivery) Message() *consumer.Message { return d.message }

func (d *delivery) Ack(ctx context.Context) error {
	return d.send(func() error {
		if d.Confirms() {
			_, err := d.nc.RequestWithContext(ctx, d.reply, []byte(ackWord))
			return err
		}
		return d.nc.Publish(d.reply, []byte(ackWord))
	})
}

// Confirms implements consumer.Confirmer.
func (d *delivery) Confirms() bool { return d.double.Load() || d.confirm() }

func (d *delivery) Nak(_ context.Context, delay time.Duration) error {
	return d.send(func() error {
		return d.nc.Publish(d.reply, fmt.Appendf(nil, `%s {"delay": %d}`, nakWord, max(delay, 1).Nanoseconds()))
	})
}

func (d *delivery) Term(_ context.Context, reason string) error {
	return d.send(func() error { return d.nc.Publish(d.reply, []byte(termWord+" "+oneLine(reason))) })
}

// InProgress is a request, because the client's own is a mere publish: while reconnecting it is buffered and called a
// success.
func (d *delivery) InProgress(ctx context.Context) error {
	if err := d.connected(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, progressTimeout)
	defer cancel()
	_, err := d.nc.RequestWithContext(ctx, d.reply, []byte(progressWord))
	return err
}

// send keeps the outcome for whoever asks with outcome.
func (d *delivery) send(answer func() error) error {
	err := d.connected()
	if err == nil {
		err = answer()
	}
	if err != nil {
		d.sent.Store(&err)
	}
	return err
}

// outcome returns what became of the answer; nil if there was none.
func (d *delivery) outcome() error {
	if err := d.sent.Load(); err != nil {
		return *err
	}
	return nil
}

func (d *delivery) connected() error {
	if s := d.nc.Status(); s != nats.CONNECTED {
		return fmt.Errorf("%w (%v)", ErrNotConnected, s)
	}
	return nil
}

// oneLine makes a reason safe to send and to print.
func oneLine(reason string) string {
	reason = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, reason)
	return reason[:min(len(reason), maxReason)]
}

var errUnreadableHeader = errors.New("the headers cannot be read")
