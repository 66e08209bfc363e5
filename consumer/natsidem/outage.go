package natsidem

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	firstOutagePause = 50 * time.Millisecond
	lastOutagePause  = 2 * time.Second
)

// outage is the time while the server cannot be reached. It is logged once.
type outage struct {
	log   *slog.Logger
	nc    *nats.Conn
	quiet int // how many tries fail before it is logged
	tries int
	since time.Time
	pause time.Duration
}

// wait waits a little longer each time. It returns the context's error, or the one that no waiting can mend.
func (o *outage) wait(ctx context.Context, cause error) error {
	if o.nc.IsClosed() {
		return nats.ErrConnectionClosed
	}
	if o.since.IsZero() {
		o.since, o.tries = time.Now(), 0
		o.pause = firstOutagePause
	}
	if o.tries++; o.tries == o.quiet+1 {
		o.log.Warn("the NATS server does not answer; trying again until it does", "error", cause)
	}
	t := time.NewTimer(o.pause/2 + rand.N(o.pause)) //nolint:gosec // not a secret; workers should not come back all at once
	o.pause = min(2*o.pause, lastOutagePause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// over ends the outage, if there is one.
func (o *outage) over() {
	if o.since.IsZero() {
		return
	}
	if o.tries > o.quiet {
		o.log.Info("the NATS server answers again", "after", time.Since(o.since).Round(time.Millisecond))
	}
	o.since = time.Time{}
}

// temporary says whether an error can end by itself.
func temporary(err error) bool {
	for _, t := range []error{
		ErrNotConnected, nats.ErrTimeout, nats.ErrNoResponders, nats.ErrConnectionReconnecting, nats.ErrDisconnected,
		nats.ErrReconnectBufExceeded, nats.ErrStaleConnection, context.DeadlineExceeded,
		jetstream.ErrServerShutdown, jetstream.ErrConsumerLeadershipChanged, jetstream.ErrNoHeartbeat,
	} {
		if errors.Is(err, t) {
			return true
		}
	}
	if api := (jetstream.JetStreamError)(nil); errors.As(err, &api) && api.APIError() != nil {
		return api.APIError().Code == serverUnavailable && api.APIError().ErrorCode != jetstream.JSErrCodeJetStreamNotEnabledForAccount
	}
	return false
}

const serverUnavailable = 503 // JetStream's code while it has no leader or starts
