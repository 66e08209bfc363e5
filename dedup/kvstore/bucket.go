package kvstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/dedup"
)

const (
	streamPrefix  = "KV_"
	subjectPrefix = "$KV."

	// ttlAPILevel is the level of the JetStream API from which messages have a time to live of their own.
	ttlAPILevel   = 1
	neededServer  = "nats-server 2.11 or later"
	unlimited     = -1
	bucketPurpose = "idemq: records of idempotency keys"
)

// openBucket returns the stream of the bucket, which it creates if there is none.
func openBucket(ctx context.Context, js jetstream.JetStream, c Config) (jetstream.Stream, error) {
	name := streamPrefix + c.Bucket
	st, err := js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) && !c.MustExist {
		st, err = createBucket(ctx, js, c)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // somebody was faster, perhaps with other settings
			st, err = js.Stream(ctx, name)
		}
	}
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("kvstore: there is no bucket %s: %w", c.Bucket, errors.Join(dedup.ErrNotFound, err))
	}
	if err != nil {
		return nil, fmt.Errorf("kvstore: open bucket %s: %w", c.Bucket, err)
	}
	if err := checkBucket(c, st.CachedInfo().Config); err != nil {
		return nil, err
	}
	return st, nil
}

// createBucket makes the stream that a bucket is. KeyValueManager cannot: it gives messages a time to live only together
// with limit markers, and the server writes those over newer records.
func createBucket(ctx context.Context, js jetstream.JetStream, c Config) (jetstream.Stream, error) {
	info, err := js.AccountInfo(ctx)
	if err != nil {
		return nil, err
	}
	if info.API.Level < ttlAPILevel {
		return nil, fmt.Errorf("%w: records need a time to live of their own: use %s (connected to %s)",
			dedup.ErrConfig, neededServer, js.Conn().ConnectedServerVersion())
	}
	maxBytes := c.MaxBytes
	if maxBytes == 0 {
		maxBytes = unlimited
	}
	return js.CreateStream(ctx, jetstream.StreamConfig{
		Name:              streamPrefix + c.Bucket,
		Description:       bucketPurpose,
		Subjects:          []string{subjectPrefix + c.Bucket + ".>"},
		MaxMsgsPerSubject: 1,
		MaxMsgs:           unlimited,
		MaxMsgSize:        unlimited,
		MaxConsumers:      unlimited,
		MaxBytes:          maxBytes,
		Discard:           jetstream.DiscardNew,
		Storage:           c.Storage,
		Replicas:          c.Replicas,
		AllowMsgTTL:       true,
		AllowRollup:       true, // so that "nats kv purge" works
		AllowDirect:       true, // so that "nats kv get" does not load the leader; the store does not use it
		DenyDelete:        true,
	})
}

// checkBucket refuses a bucket in which records would vanish, or come back, on their own.
func checkBucket(c Config, b jetstream.StreamConfig) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("kvstore: %w: bucket %s %s", dedup.ErrConfig, c.Bucket, fmt.Sprintf(format, args...))
	}
	switch {
	case !b.AllowMsgTTL:
		return refuse("does not allow a time to live per message; delete it and let New create it, on %s", neededServer)
	case b.SubjectDeleteMarkerTTL > 0:
		return refuse("has a limit marker TTL, whose markers can replace newer records; use a bucket that New creates")
	case b.MaxMsgsPerSubject != 1:
		return refuse("keeps a history of %d: an older record would come back when a newer one expires; use 1", b.MaxMsgsPerSubject)
	case b.MaxAge > 0:
		return refuse("forgets everything after %v; remove its TTL, records have their own", b.MaxAge)
	case b.Discard == jetstream.DiscardOld && (b.MaxBytes > 0 || b.MaxMsgs > 0):
		return refuse("drops its oldest records when it is full; make it refuse new ones (discard: new)")
	case b.Mirror != nil || len(b.Sources) > 0:
		return refuse("is a copy of another; use the original")
	case b.Replicas < c.Replicas:
		return refuse("has %d replicas, %d are asked for; raise them with: nats stream edit %s%s --replicas %d",
			b.Replicas, c.Replicas, streamPrefix, c.Bucket, c.Replicas)
	case b.Storage == jetstream.MemoryStorage && c.Storage == jetstream.FileStorage:
		return refuse("is in memory, files are asked for; delete it and let New create it")
	}
	return nil
}
