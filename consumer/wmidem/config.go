package wmidem

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/idemq/idemq/consumer"
)

// Config has the settings of an [Idempotency]. Its zero value is safe, but for the place of dead letters, which must be
// said. The embedded settings are those of the pipeline; its DeriveKey says what becomes of messages without a key: nil
// makes dead letters of them, [MessageUUID] takes the UUID, and it may be a function of your own.
type Config struct {
	consumer.Config

	// DeadLetter takes dead letters. Its Publish must return nil only when the message is durably stored, since the
	// original is acknowledged after that. It is not closed. Required, unless Letters is set.
	DeadLetter message.Publisher
	// DeadTopic is the topic of dead letters, of all handlers and classes. Not used if Letters is set. Defaults to
	// "idemq.dead.watermill.any.any": where the publisher's topics are subjects of JetStream, "idemq dlq" looks for
	// letters of every kind there; see the package comment.
	DeadTopic string
	// Scope gives the scope of a handler from its name: two handlers with one scope share each other's duplicates.
	// Defaults to the name itself. It is asked once for each handler. Messages of our own [Subscriber] bring their scope
	// with them.
	Scope func(handler string) string
	// MaxHold is how long a message is held before it is nacked, since a nack of Watermill has no delay; what is not due
	// by then is held again when it is delivered again. Keep it below the Pub/Sub's own deadline for an ack. Messages of
	// our own [Subscriber] are not held. Defaults to 10 s.
	MaxHold time.Duration
	// Grace is how long running handlers may go on after the subscriber was closed. Then their contexts are cancelled
	// with cause consumer.ErrShutdown, and half of Grace (at least 1 s) is left to them to return. The router's
	// CloseTimeout should be at least one and a half times as long. Defaults to 10 s.
	Grace time.Duration
}

// Sentinel errors, for errors.Is.
var (
	// ErrConfig: a setting, a handler's name or an order of calls that cannot work. The message says which.
	ErrConfig = errors.New("wmidem: invalid configuration")
	// ErrNacked: a message was nacked although its handler returned no error.
	ErrNacked = errors.New("wmidem: nacked after the handler had succeeded: its outputs could not be published, or another middleware refused")
	// ErrNotInstalled: a message did not come through Install's subscriber decorator, or another middleware put it into a
	// message or a context of its own.
	ErrNotInstalled = errors.New("wmidem: this message has no claim: it did not come through the decorator of Install, or a" +
		" middleware replaced its context; pass contexts on, derived from the message's own")
	// ErrOrder: a message was acked before any handler saw it, by a middleware that was added before Install, such as
	// InstantAck or Watermill's Deduplicator.
	ErrOrder = errors.New("wmidem: acked before a handler saw it: a middleware that acks or drops messages stands before Install;" +
		" call Install before any AddMiddleware")
	// ErrOutputs: a handler behind Middleware alone returned messages to publish. Use Install for such a handler.
	ErrOutputs = errors.New("wmidem: a handler behind Middleware alone must not return messages: they would be published after the" +
		" key is consumed, and lost by a crash in between; use Install")
	// ErrHandlerIgnoresCancellation: handlers were still running when the grace period was long over. The message names
	// what they work on. Their leases go on until the process ends.
	ErrHandlerIgnoresCancellation = errors.New("wmidem: handlers ignore the cancelled context")
)

// Defaults; the table in the package comment lists them.
const (
	DefaultDeadTopic = "idemq.dead.watermill.any.any"
	DefaultMaxHold   = 10 * time.Second
	DefaultGrace     = 10 * time.Second

	minAfterGrace = time.Second
)

func (c Config) withDefaults() (Config, error) {
	if c.DeadTopic == "" {
		c.DeadTopic = DefaultDeadTopic
	}
	if c.Scope == nil {
		c.Scope = func(handler string) string { return handler }
	}
	if c.MaxHold == 0 {
		c.MaxHold = DefaultMaxHold
	}
	if c.Grace == 0 {
		c.Grace = DefaultGrace
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	switch {
	case c.Letters == nil && c.DeadLetter == nil:
		return c, fmt.Errorf("%w: DeadLetter is nil; a message that cannot succeed would have nowhere to go", ErrConfig)
	case c.MaxHold < 0:
		return c, fmt.Errorf("%w: MaxHold is %v; it must not be negative", ErrConfig, c.MaxHold)
	case c.Grace < 0:
		return c, fmt.Errorf("%w: Grace is %v; it must not be negative", ErrConfig, c.Grace)
	}
	if c.Letters == nil {
		c.Letters = letterSink{pub: c.DeadLetter, topic: c.DeadTopic}
	}
	return c, nil
}
