package deadletter

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/consumer"
)

// The defaults of [Config].
const (
	DefaultStream     = "IDEMQ_DEAD"
	DefaultPrefix     = "idemq.dead"
	DefaultMarkPrefix = "idemq.mark"

	defaultReplicas = 1
	defaultTimeout  = 5 * time.Second
)

// Config has the settings of a [Queue]. Its zero value is safe.
type Config struct {
	// Stream is the name of the stream. Defaults to IDEMQ_DEAD.
	Stream string
	// Prefix begins the subjects of letters. Defaults to "idemq.dead".
	Prefix string
	// MarkPrefix begins the subjects of marks. Defaults to "idemq.mark".
	MarkPrefix string
	// Replicas is how many servers keep the stream that Ensure makes. Defaults to 1; take 3 where letters matter.
	Replicas int
	// Timeout bounds each wait for a confirmation. Defaults to 5 s.
	Timeout time.Duration
}

// Queue stores dead letters. It implements consumer.LetterSink, is safe for concurrent use and has no goroutines.
type Queue struct {
	js  jetstream.JetStream
	cfg Config
}

var _ consumer.LetterSink = (*Queue)(nil)

// New returns a queue over js. It does not talk to the server; see [Queue.Ensure].
func New(js jetstream.JetStream, cfg Config) *Queue {
	for field, otherwise := range map[*string]string{
		&cfg.Stream: DefaultStream, &cfg.Prefix: DefaultPrefix, &cfg.MarkPrefix: DefaultMarkPrefix,
	} {
		if *field == "" {
			*field = otherwise
		}
	}
	if cfg.Replicas <= 0 {
		cfg.Replicas = defaultReplicas
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	return &Queue{js: js, cfg: cfg}
}

// Config returns the settings with the defaults filled in.
func (q *Queue) Config() Config { return q.cfg }

// Publish stores the letter and returns nil only when the stream has confirmed it, or says that it has it already. On an
// error the letter may or may not be stored; publish it again. If the stream is full the error is the server's
// (*jetstream.APIError): make room or raise its limits, letters are kept in their own streams until then.
func (q *Queue) Publish(ctx context.Context, l *consumer.Letter) error {
	limit := int(q.js.Conn().MaxPayload())
	if limit <= 0 {
		return fmt.Errorf("deadletter: letter %s: the server has not said yet how much it takes: %w", l.ID(), nats.ErrDisconnected)
	}
	subject, id := q.subject(l), l.ID()
	pack, err := packLetter(l, id, limit)
	if err != nil {
		return fmt.Errorf("deadletter: letter %s: %w", id, err)
	}
	var first uint64
	for _, part := range pack.parts {
		part.Subject = subject + partSuffix
		seq, err := q.confirm(ctx, part)
		if err != nil {
			return fmt.Errorf("deadletter: letter %s: part %s: %w", id, part.Header.Get(headerPart), err)
		}
		if first == 0 || seq < first {
			first = seq
		}
	}
	letter := pack.letter(first)
	letter.Subject = subject
	if _, err := q.confirm(ctx, letter); err != nil {
		return fmt.Errorf("deadletter: letter %s: %w", id, err)
	}
	return nil
}

var errNotOurs = errors.New("deadletter: the subject belongs to another stream; give Config.Prefix to the stream of Config.Stream")

// confirm publishes m and returns its sequence. A duplicate is confirmed: the stream has had it before.
func (q *Queue) confirm(ctx context.Context, m *nats.Msg) (uint64, error) {
	ack, err := confirm(ctx, q.js, m, q.cfg.Timeout)
	switch {
	case err != nil:
		return 0, err
	case ack.Stream != q.cfg.Stream:
		return 0, fmt.Errorf("%w (it is %q)", errNotOurs, ack.Stream)
	}
	return ack.Sequence, nil
}

func confirm(ctx context.Context, js jetstream.JetStream, m *nats.Msg, limit time.Duration) (*jetstream.PubAck, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return js.PublishMsg(ctx, m)
}

const partSuffix = ".part"

func (q *Queue) subject(l *consumer.Letter) string {
	return strings.Join([]string{q.cfg.Prefix, token(l.Stream), token(l.Durable), token(string(l.Class))}, ".")
}

// maxToken keeps a subject readable and far below the limits of the protocol.
const maxToken = 128

// token makes one subject token of a name that may be anything.
func token(s string) string {
	if len(s) > maxToken {
		s = s[:maxToken]
	}
	if s == "" {
		return "_"
	}
	b := []byte(s)
	for i, c := range b {
		if c <= ' ' || c >= 0x7F || strings.IndexByte(".*>", c) >= 0 {
			b[i] = '_'
		}
	}
	return string(b)
}
