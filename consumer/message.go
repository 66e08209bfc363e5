package consumer

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/idemq/idemq/dedup"
)

// Message is what a handler gets. Its Header and Data belong to the transport: read them, do not change them. Everything
// in it comes from the outside and is untrusted; escape it before printing.
type Message struct {
	Subject    string
	Stream     string
	Durable    string
	Sequence   uint64    // in the stream; 0, with an empty Stream, where the transport has none
	Time       time.Time // when the stream stored it
	Deliveries int       // the broker's count, which includes contention and outages; Attempt is the one that counts
	Header     map[string][]string
	Data       []byte

	// ReplaySequence is where in the replay stream the message was, if it came back through that: a replayed dead letter,
	// or a retry that was put off. All other fields are those of the original message then. 0 if it came straight from its
	// stream.
	ReplaySequence uint64
	// History has the earlier deaths of a replayed message, oldest first.
	History []Death

	// HeaderErr says that the headers could not be read; RawHeader has their bytes if the transport could get them.
	HeaderErr error
	RawHeader []byte

	// Key, Attempt (counted from 1) and Fence are set by the pipeline before the handler runs.
	Key     string
	Attempt int
	Fence   dedup.Fence

	fingerprint dedup.Fingerprint
	local       uint64
}

// Handler handles a message. A nil error means that the effect is done: the key is then consumed. An error made with
// [Permanent] makes a dead letter, one made with [RetryAfter] sets the time of the next try, any other is retried after
// the configured backoff. The context is cancelled when the lease is lost and when a shutdown's grace period is over;
// stop then, since somebody else may already be at it. A panic counts as a retryable error. Handle is called from
// several goroutines, never twice at once for one key while leases are honoured.
type Handler interface {
	Handle(ctx context.Context, m *Message) error
}

// HandlerFunc is a function that is a [Handler].
type HandlerFunc func(ctx context.Context, m *Message) error

// Handle calls f.
func (f HandlerFunc) Handle(ctx context.Context, m *Message) error { return f(ctx, m) }

// JSON returns a handler that decodes the payload as JSON into a T. A payload that is not a T is a permanent error: a
// retry cannot help, so it becomes a dead letter at once. The key, fence and attempt are in the context (dedup.KeyFrom).
func JSON[T any](fn func(ctx context.Context, v T) error) Handler {
	return HandlerFunc(func(ctx context.Context, m *Message) error {
		var v T
		if err := json.Unmarshal(m.Data, &v); err != nil {
			return Permanent(fmt.Errorf("consumer: the payload is not the JSON of a %T: %w", v, err))
		}
		return fn(ctx, v)
	})
}

// Delivery is one delivery of a message by a transport. The pipeline calls at most one of Ack, Nak and Term, once. None
// may send anything while the connection is down: what a client buffers would be sent after the lease was lost.
type Delivery interface {
	// Message returns the message; always the same one.
	Message() *Message
	// Ack says that the message is done with.
	Ack(ctx context.Context) error
	// Nak asks for another delivery after a delay.
	Nak(ctx context.Context, delay time.Duration) error
	// Term says that the message must not be delivered again, and why.
	Term(ctx context.Context, reason string) error
	// InProgress renews the broker's deadline and returns nil only if the broker has answered.
	InProgress(ctx context.Context) error
}

// Scheduler is a [Delivery] of a transport that can put a message off without holding up anything until then.
type Scheduler interface {
	// Schedule publishes a successor of the delivery's message that is delivered after the delay, never sooner. It
	// returns nil only when that is durably stored, since the message is acknowledged after that. It must not change or
	// keep l, which is the message as a letter.
	Schedule(ctx context.Context, l *Letter, delay time.Duration) error
}

// Abandoner is a [Delivery] of a transport that delivers a message again only after an answer, however long that takes.
type Abandoner interface {
	// Abandon is called once in place of Ack, Nak and Term when the claim was lost, or when the store never said that it
	// has ended: whatever is delivered now must be taken for a further delivery of a message that may still be at work.
	Abandon()
}

// Confirmer is a [Delivery] whose acks may wait for the broker's answer. A [Flow] sends such acks beside each other.
type Confirmer interface {
	// Confirms says whether Ack would wait at present.
	Confirms() bool
}
