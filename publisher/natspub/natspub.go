package natspub

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/textproto"
	"slices"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/publisher"
)

// defaultMaxPending bounds memory and the burst after a reconnect.
const defaultMaxPending = 256

// ErrInvalidMessage says that a message cannot be published as it is. Nothing was sent.
var ErrInvalidMessage = errors.New("natspub: the message cannot be published")

// Config has the settings of a [Publisher]. Its zero value is safe.
type Config struct {
	// KeyFunc derives the key of a message that has none in its header and got none by publisher.Key. Defaults to a new
	// random key, which makes nothing but this publisher's own retries recognisable.
	KeyFunc publisher.KeyFunc
	// Retry says how often to try when the outcome is unknown or the server not ready. Defaults to 5 tries of 5 s. Keep
	// the whole below the stream's duplicate window (2 minutes by default): a later try is stored a second time, and
	// then only the consumers recognise it.
	Retry publisher.Retry
	// MaxPending limits the messages of PublishAsync without a confirmation; the next call waits. Defaults to 256.
	MaxPending int
}

// Ack is the stream's confirmation.
type Ack struct {
	Stream   string
	Sequence uint64 // of the stored message; with Duplicate, of the first one
	// Duplicate says that the stream has the message already, within its duplicate window: a success. After a retry it
	// usually means that the first try had arrived.
	Duplicate bool
	Key       string // the key that the message bears
}

// Publisher publishes messages with idempotency keys. It is safe for concurrent use and holds no resources but those of
// messages on their way; see [Publisher.Flush].
type Publisher struct {
	js  jetstream.JetStream
	cfg Config

	slots chan struct{}

	asyncOnce sync.Once
	async     jetstream.JetStream
	asyncErr  error

	mu       sync.Mutex
	pending  map[*Future]struct{}
	failed   int   // since the last Flush
	firstErr error // of those
}

// New returns a publisher over js.
func New(js jetstream.JetStream, cfg Config) *Publisher {
	cfg.Retry = cfg.Retry.WithDefaults()
	if cfg.MaxPending <= 0 {
		cfg.MaxPending = defaultMaxPending
	}
	return &Publisher{js: js, cfg: cfg, slots: make(chan struct{}, cfg.MaxPending), pending: map[*Future]struct{}{}}
}

// Publish stores body under subject and returns when the stream has confirmed. Timeouts, a missing leader and no
// responders (which is also what a subject without a stream looks like) are tried again with the same key.
//
// Errors: publisher.ErrMalformedKey, ErrMissingKey and ErrKeyConflict for keys, [ErrInvalidMessage], and
// nats.ErrMaxPayload for a message that is too large, all before anything is sent; the server's refusal
// (*jetstream.APIError); publisher.ErrUnconfirmed if nobody knows whether the message is stored.
func (p *Publisher) Publish(ctx context.Context, subject string, body []byte, opts ...publisher.Option) (Ack, error) {
	return p.PublishMsg(ctx, &nats.Msg{Subject: subject, Data: body}, opts...)
}

// PublishMsg is [Publisher.Publish] for a message with headers. m is not changed, and its Data is not kept.
func (p *Publisher) PublishMsg(ctx context.Context, m *nats.Msg, opts ...publisher.Option) (Ack, error) {
	out, key, err := p.prepare(m, opts)
	if err != nil {
		return Ack{}, err
	}
	return p.send(ctx, out, key)
}

// prepare returns a copy of m that bears key and message id.
func (p *Publisher) prepare(m *nats.Msg, opts []publisher.Option) (*nats.Msg, string, error) {
	switch {
	case m == nil:
		return nil, "", fmt.Errorf("%w: it is nil", ErrInvalidMessage)
	case m.Subject == "":
		return nil, "", fmt.Errorf("%w: it has no subject", ErrInvalidMessage)
	case m.Reply != "":
		return nil, "", fmt.Errorf("%w: it has a reply subject, and JetStream needs that for its confirmation", ErrInvalidMessage)
	}
	key, err := publisher.ResolveKey(m.Subject, m.Header, m.Data, p.cfg.KeyFunc, opts...)
	if err != nil {
		return nil, "", err
	}
	h := make(nats.Header, len(m.Header)+2)
	for name, values := range m.Header {
		h[name] = slices.Clone(values)
	}
	if err := publisher.SetKey(h, key); err != nil {
		return nil, "", err
	}
	if h.Get(nats.MsgIdHdr) == "" {
		h.Set(nats.MsgIdHdr, m.Subject+" "+key)
	}
	if limit, size := p.js.Conn().MaxPayload(), headerSize(h)+len(m.Data); limit > 0 && int64(size) > limit {
		return nil, "", fmt.Errorf("natspub: the message has %d bytes with its headers, the server takes %d; publish a reference to the data instead: %w", size, limit, nats.ErrMaxPayload)
	}
	return &nats.Msg{Subject: m.Subject, Header: h, Data: m.Data}, key, nil
}

func (p *Publisher) send(ctx context.Context, m *nats.Msg, key string) (Ack, error) {
	var stored *jetstream.PubAck
	err := p.cfg.Retry.Do(ctx, transient, func(ctx context.Context) (err error) {
		// The client puts its own headers into the map that it is given.
		try := &nats.Msg{Subject: m.Subject, Header: maps.Clone(m.Header), Data: m.Data}
		stored, err = p.js.PublishMsg(ctx, try, jetstream.WithRetryAttempts(0))
		return err
	})
	if err != nil {
		return Ack{}, fmt.Errorf("natspub: publish to %q with key %q: %w", m.Subject, key, err)
	}
	return ackOf(stored, key), nil
}

func ackOf(a *jetstream.PubAck, key string) Ack {
	return Ack{Stream: a.Stream, Sequence: a.Sequence, Duplicate: a.Duplicate, Key: key}
}

// headerSize is what the headers take on the wire; it counts towards the server's maximum payload.
func headerSize(h nats.Header) int {
	const firstLine, perValue = len("NATS/1.0\r\n") + len("\r\n"), len(": ") + len("\r\n")
	size := firstLine
	for name, values := range h {
		for _, v := range values {
			size += len(name) + len(textproto.TrimString(v)) + perValue
		}
	}
	return size
}

// transient says whether the same message may be stored if it is sent again.
func transient(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.Code == http.StatusServiceUnavailable // no leader, or no resources just now
	}
	for _, e := range [...]error{
		context.DeadlineExceeded, context.Canceled, nats.ErrTimeout, nats.ErrNoResponders, nats.ErrDisconnected,
		nats.ErrReconnectBufExceeded, nats.ErrConnectionReconnecting, nats.ErrStaleConnection,
		jetstream.ErrNoStreamResponse, jetstream.ErrAsyncPublishTimeout, jetstream.ErrTooManyStalledMsgs,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
