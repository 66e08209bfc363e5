package natsidem

import (
	"errors"
	"fmt"
	"time"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/dedup"
)

// Config has the settings of a [Worker]. Its zero value is safe. The embedded settings are those of the pipeline; its
// Letters defaults to the dead-letter stream.
type Config struct {
	consumer.Config

	// Workers is how many handlers run at once. No more messages are pulled than there are free workers, and those that
	// they handle in a moment (see MaxAhead), since the broker's deadline runs on a message that waits. Defaults to 16.
	Workers int
	// Scope says whose memory the records are: two workers with one scope share each other's duplicates. Defaults to
	// "stream/durable".
	Scope string
	// ConfirmAcks asks the broker to confirm every ack, at a round trip each. Without it a lost ack becomes a duplicate,
	// which is acknowledged without running. During a shutdown acks are confirmed in any case. Defaults to false.
	ConfirmAcks bool
	// FilterSubject is the one subject of the stream that the durable gets, if [EnsureConsumer] creates it. Defaults to
	// all of the stream.
	FilterSubject string
	// Grace is how long running handlers may go on after a shutdown began. Then their contexts are cancelled with cause
	// consumer.ErrShutdown, and half of Grace (at least 1 s) is left to them to return. Defaults to 10 s.
	Grace time.Duration
	// DeadStream is the stream for dead letters. Not used if Letters is set. Defaults to "IDEMQ_DEAD".
	DeadStream string
	// DeadPrefix is what their subjects begin with. Not used if Letters is set. Defaults to "idemq.dead".
	DeadPrefix string
	// ReplayStream is the stream through which replayed dead letters and long delays come back. Run creates it, and
	// consumes its part of it beside the durable. Defaults to "IDEMQ_REPLAY".
	ReplayStream string
	// ReplayPrefix is what its subjects begin with. Defaults to "idemq.replay".
	ReplayPrefix string
	// NoReplays does without that stream: replayed dead letters wait there in vain, and the broker holds long delays.
	// Defaults to false.
	NoReplays bool
	// IdleExit makes Run return once nothing is left for that long: nothing pending, nothing unacknowledged, nothing at
	// work, nothing on its way back through the replay stream. Defaults to 0, which means never.
	IdleExit time.Duration
}

// Sentinel errors, for errors.Is.
var (
	// ErrConfig: a setting of the worker, the stream or the durable consumer that cannot work. The message names it, its
	// value, what goes wrong with it and the command that mends it.
	ErrConfig = errors.New("natsidem: invalid configuration")
	// ErrConsumerGone: the durable consumer, or its stream, was deleted while the worker ran.
	ErrConsumerGone = errors.New("natsidem: the durable consumer was deleted")
	// ErrHandlerIgnoresCancellation: handlers were still running when a shutdown's grace period was long over. The
	// message names what they work on. Their leases go on until the process ends.
	ErrHandlerIgnoresCancellation = errors.New("natsidem: handlers ignore the cancelled context")
	// ErrRunning: Run was called while the worker runs.
	ErrRunning = errors.New("natsidem: this worker is running already")
	// ErrNotConnected: an answer was not sent, because the connection is down.
	ErrNotConnected = errors.New("natsidem: not connected; nothing was sent")
)

// Defaults; the table in the package comment lists them.
const (
	DefaultWorkers    = 16
	DefaultGrace      = 10 * time.Second
	DefaultDeadStream = "IDEMQ_DEAD"
	DefaultDeadPrefix = "idemq.dead"

	retryBacklog  = 1000 // messages that may wait for a retry beside those at work
	minAckWait    = 30 * time.Second
	minAfterGrace = time.Second
)

func (c Config) withDefaults(stream, durable string) (Config, error) {
	if stream == "" || durable == "" {
		return c, fmt.Errorf("%w: stream %q, durable %q; both need a name", ErrConfig, stream, durable)
	}
	if c.Workers == 0 {
		c.Workers = DefaultWorkers
	}
	if c.Scope == "" {
		c.Scope = stream + "/" + durable
	}
	if c.Grace == 0 {
		c.Grace = DefaultGrace
	}
	if c.DeadStream == "" {
		c.DeadStream = DefaultDeadStream
	}
	if c.DeadPrefix == "" {
		c.DeadPrefix = DefaultDeadPrefix
	}
	if c.ReplayStream == "" {
		c.ReplayStream = deadletter.DefaultReplayStream
	}
	if c.ReplayPrefix == "" {
		c.ReplayPrefix = deadletter.DefaultReplayPrefix
	}
	switch {
	case c.Workers < 0:
		return c, fmt.Errorf("%w: Workers is %d; at least one handler must run", ErrConfig, c.Workers)
	case c.Grace < 0:
		return c, fmt.Errorf("%w: Grace is %v; it must not be negative", ErrConfig, c.Grace)
	case c.IdleExit < 0:
		return c, fmt.Errorf("%w: IdleExit is %v; it must not be negative", ErrConfig, c.IdleExit)
	}
	return c, dedup.ValidateScope(c.Scope)
}
