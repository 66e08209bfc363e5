package kvstore

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/transition"
)

// Store is a [dedup.Store] on a JetStream key-value bucket. It is also a [dedup.Inspector] and a [dedup.Describer]. It is
// safe for concurrent use, by any number of processes on the same bucket, and has goroutines only while keys are watched.
//
// A call whose context has no deadline is given 5 s.
type Store struct {
	js         jetstream.JetStream
	stream     jetstream.Stream
	bucket     string
	streamName string
	apiPrefix  string // of requests to JetStream
	putPrefix  string // of the subjects that records are published to

	watching watching
}

var (
	_ dedup.Store     = (*Store)(nil)
	_ dedup.Inspector = (*Store)(nil)
	_ dedup.Describer = (*Store)(nil)
)

// New opens the bucket, or creates it if there is none. The connection of js stays the caller's. The error wraps
// [dedup.ErrConfig] if a setting, the server's version or the existing bucket cannot work; it says what to change.
func New(ctx context.Context, js jetstream.JetStream, cfg Config) (*Store, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	st, err := openBucket(ctx, js, cfg)
	if err != nil {
		return nil, err
	}
	s := &Store{
		js: js, stream: st, bucket: cfg.Bucket, streamName: streamPrefix + cfg.Bucket,
		apiPrefix: apiPrefix(js.Options()),
	}
	if s.apiPrefix != jetstream.DefaultAPIPrefix { // another domain or account: its subjects are reached through the same prefix
		s.putPrefix = s.apiPrefix
	}
	return s, nil
}

// Describe returns "kv://" and the bucket's name.
func (s *Store) Describe() string { return "kv://" + s.bucket }

// Acquire claims a key. The record's fence is the revision of the write. Errors: [dedup.ErrUnreadable], a context's, or
// a [*dedup.StoreError].
func (s *Store) Acquire(ctx context.Context, c dedup.Claim) (dedup.Verdict, dedup.Record, error) {
	var v dedup.Verdict
	r, err := s.change(ctx, "acquire", c.Key, func(r *dedup.Record, now time.Time) (action, error) {
		var changed bool
		v, changed = transition.Acquire(r, c, now, ownRevision)
		switch {
		case changed:
			return replace, nil
		case v == dedup.Busy:
			return leave, nil
		default:
			return confirm, nil
		}
	})
	if err != nil {
		return 0, dedup.Record{}, err
	}
	return v, r, nil
}

// ownRevision is the fence of a record whose fence is the revision of the write that stores it.
const ownRevision dedup.Fence = 0

// Extend restarts the lease of a claim. Errors: [dedup.ErrLeaseLost], [dedup.ErrUnreadable], a context's, or a
// [*dedup.StoreError].
func (s *Store) Extend(ctx context.Context, h dedup.Hold, lease time.Duration) error {
	return s.held(ctx, "extend", h.Key, func(r *dedup.Record, now time.Time) (bool, error) {
		return transition.Extend(r, h, lease, now)
	})
}

// Settle ends a claim for good. Errors as of Extend; a result that is too large is a [*dedup.StoreError], and the claim
// is still held then.
func (s *Store) Settle(ctx context.Context, h dedup.Hold, se dedup.Settlement) error {
	return s.held(ctx, "settle", h.Key, func(r *dedup.Record, now time.Time) (bool, error) {
		return transition.Settle(r, h, se, now)
	})
}

// Release ends a claim so that it can be retried. Errors as of Extend.
func (s *Store) Release(ctx context.Context, h dedup.Hold, rel dedup.Release) error {
	return s.held(ctx, "release", h.Key, func(r *dedup.Record, now time.Time) (bool, error) {
		return transition.Release(r, h, rel, now)
	})
}

// LetterSent finishes a death. Errors as of Extend.
func (s *Store) LetterSent(ctx context.Context, k dedup.Key, f dedup.Fence) error {
	return s.held(ctx, "letter-sent", k, func(r *dedup.Record, now time.Time) (bool, error) {
		return transition.LetterSent(r, f, now)
	})
}

func (s *Store) held(ctx context.Context, op string, k dedup.Key, f func(*dedup.Record, time.Time) (bool, error)) error {
	_, err := s.change(ctx, op, k, func(r *dedup.Record, now time.Time) (action, error) {
		changed, err := f(r, now)
		if changed {
			return replace, nil
		}
		return confirm, err
	})
	return err
}

func apiPrefix(o jetstream.JetStreamOptions) string {
	switch {
	case o.Domain != "":
		return "$JS." + o.Domain + ".API."
	case o.APIPrefix == "":
		return jetstream.DefaultAPIPrefix
	case o.APIPrefix[len(o.APIPrefix)-1] != '.':
		return o.APIPrefix + "."
	default:
		return o.APIPrefix
	}
}

// subject is where a record is published to.
func (s *Store) subject(k dedup.Key) string { return s.putPrefix + s.storedSubject(k) }

// storedSubject is the subject of the stored record.
func (s *Store) storedSubject(k dedup.Key) string {
	return subjectPrefix + s.bucket + "." + keyToken(k)
}
