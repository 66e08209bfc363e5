package kvstore

import (
	"fmt"
	"regexp"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/dedup"
)

// DefaultBucket is the bucket's name if [Config] gives none.
const DefaultBucket = "idemq"

// Config has the settings of a [Store]. Its zero value works with a single server; name three replicas in production.
// All but Bucket matter only when the bucket is created, and are otherwise the least that an existing one must have.
type Config struct {
	// Bucket is the name of the bucket: letters, digits, "-" and "_". Stores on one bucket share their records.
	// Defaults to "idemq".
	Bucket string
	// Replicas is on how many servers of a cluster a record is kept. With 1 the loss of that server loses the memory.
	// Defaults to 1.
	Replicas int
	// Storage is where the server keeps the records. A restart forgets what was in memory. Defaults to
	// jetstream.FileStorage.
	Storage jetstream.StorageType
	// MaxBytes bounds the size of the bucket; writes beyond it fail, nothing is forgotten early. Accounts that limit their
	// storage may demand it. Defaults to no limit.
	MaxBytes int64
	// MustExist makes New fail with dedup.ErrNotFound if there is no such bucket, instead of creating it: for those who only
	// look, and must not take an empty bucket for the workers' one. Defaults to false.
	MustExist bool
}

var bucketName = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)

func (c Config) withDefaults() (Config, error) {
	if c.Bucket == "" {
		c.Bucket = DefaultBucket
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	switch {
	case !bucketName.MatchString(c.Bucket):
		return c, fmt.Errorf("kvstore: %w: Bucket is %q; use letters, digits, - and _", dedup.ErrConfig, c.Bucket)
	case c.Replicas < 0:
		return c, fmt.Errorf("kvstore: %w: Replicas is %d; use 1, 3 or 5", dedup.ErrConfig, c.Replicas)
	case c.MaxBytes < 0:
		return c, fmt.Errorf("kvstore: %w: MaxBytes is %d; use 0 for no limit", dedup.ErrConfig, c.MaxBytes)
	}
	return c, nil
}
