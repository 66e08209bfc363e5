package dedup

import (
	"fmt"
	"time"
)

// AbandonedPolicy says what becomes of a key whose owner vanished (its lease ran out unsettled).
type AbandonedPolicy uint8

const (
	// Rerun lets the next delivery take the key over. The effect of the vanished run may then come twice.
	Rerun AbandonedPolicy = iota
	// DeadLetter makes the key dead with class Abandoned, for a person to decide.
	DeadLetter
)

// Config has the settings of a [Deduper]. Its zero value is safe.
type Config struct {
	// Lease is how long a claim holds without a heartbeat. A shorter one lets others take over sooner after a crash; a
	// pause of the process (garbage collection, a stopped machine) longer than this loses the claim.
	// Defaults to 30 s; at least 100 ms.
	Lease time.Duration
	// Margin is how long before the lease's end the holder stops trusting it. It covers the drift between this machine's
	// and the store's clock rates over one lease. Defaults to a tenth of Lease; at most a third of it.
	Margin time.Duration
	// Retention is how long a consumed key is remembered. A duplicate that comes later runs again, so it must be longer
	// than anything is redelivered or retried by a producer. Defaults to 24 h; at least Lease.
	Retention time.Duration
	// DeadRetention is how long a dead or reopened key is remembered, and so how old a dead letter can be replayed with
	// protection. Defaults to 90 days.
	DeadRetention time.Duration
	// MaxAttempts is after how many tries a key is dead. Defaults to 5; negative means no limit.
	MaxAttempts int
	// Abandoned says what becomes of a key whose owner vanished. Defaults to Rerun.
	Abandoned AbandonedPolicy
	// MaxAbandoned is after how many vanished owners a key is dead, with class Abandoned. Defaults to no limit of its own
	// (an abandoned try counts as an attempt all the same); the policy DeadLetter sets it to 1.
	MaxAbandoned int
	// MaxInterrupted is how many tries of a key may be given back uncounted because of a shutdown. Defaults to 100.
	MaxInterrupted int
	// StoreTimeout is how long one call of the store may take. Defaults to 2 s; at most a third of Lease.
	StoreTimeout time.Duration
	// SettleInTx says that every handler settles in the transaction of its effect, with [SettleTx]. One that returns
	// without an error and has not done so is an error the first time it happens ([ErrNotSettledInTx]): pipelines make a
	// dead letter, class permanent, since its effect may be committed. Defaults to false: a handler may call SettleTx or not.
	SettleInTx bool
	// StepCodec turns the results of steps into bytes and back; see [Step]. Defaults to JSON.
	StepCodec StepCodec
	// MaxStepBytes is how much the steps of one key may take together: names, results, and what is noted about their
	// order. A store may have a smaller limit of its own (kvstore: the server's max_payload). Defaults to 512 KiB.
	MaxStepBytes int
	// OnLeaseLost is called when a claim is lost, from a goroutine of the guard; it must return soon. It must be safe for
	// concurrent use. Defaults to nothing.
	OnLeaseLost func(k Key, f Fence, reason error)
}

// Defaults; the table in the package comment lists them.
const (
	DefaultLease          = 30 * time.Second
	DefaultRetention      = 24 * time.Hour
	DefaultDeadRetention  = 90 * 24 * time.Hour
	DefaultMaxAttempts    = 5
	DefaultMaxInterrupted = 100
	DefaultStoreTimeout   = 2 * time.Second
	DefaultMaxStepBytes   = 512 << 10

	minLease   = 100 * time.Millisecond
	leaseParts = 3 // a heartbeat comes every third of the lease, so that one may fail
)

func (c Config) withDefaults() (Config, error) {
	c.Lease = or(c.Lease, DefaultLease)
	c.Margin = or(c.Margin, c.Lease/10)
	c.Retention = or(c.Retention, max(DefaultRetention, c.Lease))
	c.DeadRetention = or(c.DeadRetention, DefaultDeadRetention)
	c.MaxAttempts = or(c.MaxAttempts, DefaultMaxAttempts)
	c.MaxInterrupted = or(c.MaxInterrupted, DefaultMaxInterrupted)
	c.StoreTimeout = or(c.StoreTimeout, min(DefaultStoreTimeout, c.Lease/leaseParts))
	c.MaxStepBytes = or(c.MaxStepBytes, DefaultMaxStepBytes)
	if c.StepCodec == nil {
		c.StepCodec = jsonSteps{}
	}
	if c.Abandoned == DeadLetter {
		c.MaxAbandoned = 1
	}
	switch {
	case c.Lease < minLease:
		return c, fmt.Errorf("%w: Lease is %v; it must be at least %v", ErrConfig, c.Lease, minLease)
	case c.Margin < 0 || c.Margin > c.Lease/leaseParts:
		return c, fmt.Errorf("%w: Margin is %v; it must be between 0 and a third of Lease (%v)", ErrConfig, c.Margin, c.Lease/leaseParts)
	case c.Retention < c.Lease:
		return c, fmt.Errorf("%w: Retention is %v, shorter than Lease (%v)", ErrConfig, c.Retention, c.Lease)
	case c.DeadRetention < c.Lease:
		return c, fmt.Errorf("%w: DeadRetention is %v, shorter than Lease (%v)", ErrConfig, c.DeadRetention, c.Lease)
	case c.StoreTimeout < 0 || c.StoreTimeout > c.Lease/leaseParts:
		return c, fmt.Errorf("%w: StoreTimeout is %v; it must be at most a third of Lease (%v)", ErrConfig, c.StoreTimeout, c.Lease/leaseParts)
	case c.MaxAbandoned < 0 || c.MaxInterrupted < 0:
		return c, fmt.Errorf("%w: MaxAbandoned and MaxInterrupted must not be negative", ErrConfig)
	case c.MaxStepBytes < 0:
		return c, fmt.Errorf("%w: MaxStepBytes is %d; it must not be negative", ErrConfig, c.MaxStepBytes)
	case c.Abandoned > DeadLetter:
		return c, fmt.Errorf("%w: Abandoned is %d; use Rerun or DeadLetter", ErrConfig, c.Abandoned)
	}
	return c, nil
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}
