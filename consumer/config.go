package consumer

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/idemq/idemq/dedup"
)

// StoreDownPolicy says what becomes of a message while the store cannot be asked.
type StoreDownPolicy uint8

const (
	// StoreClosed gives the message back and stops pulling until the store answers again. Nothing runs twice.
	StoreClosed StoreDownPolicy = iota
	// StoreOpen runs the handler untracked: no record, no protection from duplicates, counted and marked
	// (dedup.Untracked). For handlers to which a late effect is worse than a repeated one.
	StoreOpen
)

// Backoff is the delay before the next try: Initial · Multiplier^(attempt−1), at most Max, times 1 ± Jitter.
type Backoff struct {
	Initial    time.Duration // Defaults to 1 s.
	Max        time.Duration // Defaults to 5 min.
	Multiplier float64       // Defaults to 2; at least 1.
	Jitter     float64       // Defaults to 0.2; between 0 and 1, negative for none.
}

// Config has the settings of a [Pipeline]. Its zero value is safe, but for Letters, which the transport provides.
type Config struct {
	// Letters takes dead letters. Required; transports set it to their own queue if it is nil.
	Letters LetterSink
	// DeriveKey gives a key to a message that carries none. It must give the same key for every copy of an operation.
	// Defaults to nil: such a message becomes a dead letter of class missing_key.
	DeriveKey func(m *Message) (string, error)
	// Fingerprint tells payloads apart under one key. Defaults to a digest of Data. Return the zero Fingerprint to take
	// every payload for the same.
	Fingerprint func(m *Message) dedup.Fingerprint
	// StoreDown says what becomes of messages while the store cannot be asked. Defaults to StoreClosed.
	StoreDown StoreDownPolicy
	// StoreDownDelay is the delay with which they are given back. Defaults to 5 s.
	StoreDownDelay time.Duration
	// Backoff is the delay before the next try of a failed message.
	Backoff Backoff
	// MaxBusyDelay is the longest delay for a message whose key is held elsewhere. Defaults to 30 s.
	MaxBusyDelay time.Duration
	// ScheduleAfter is the delay from which a retry is published anew for its time, where the transport can do that (see
	// [Scheduler]), instead of being held by the broker, which keeps a slot taken. Defaults to 1 min; negative means never.
	ScheduleAfter time.Duration
	// LetterDelay is the delay for a message whose dead letter could not be published, or whose record is unreadable.
	// Defaults to 5 s.
	LetterDelay time.Duration
	// MaxParked is how many duplicates of keys at work in this process are kept aside; more are given back. Defaults to
	// 256; negative means none.
	MaxParked int
	// MaxAhead is how many messages a [Flow] claims, at most, before a worker is free for them; it takes fewer where handlers
	// are slow. Defaults to 512; negative means none.
	MaxAhead int
	// MaxUnsettled is how many messages of a [Flow] may have been handled without the store knowing yet; then workers wait.
	// A crash repeats the effects of that many, beside those of the handlers that run. Defaults to 512.
	MaxUnsettled int
	// Remember is how many keys that this process has settled as consumed it remembers itself, for a minute at most: their
	// duplicates are acknowledged without asking the store, at the price that a key which an operator forgets may count as
	// consumed here for that minute. Replays are always asked for. Defaults to 8192, about 1 MB; negative means none.
	Remember int
	// Observer is the hook for metrics. Defaults to none.
	Observer Observer
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

const (
	defaultStoreDownDelay = 5 * time.Second
	defaultMaxBusyDelay   = 30 * time.Second
	defaultLetterDelay    = 5 * time.Second
	defaultMaxParked      = 256
	defaultScheduleAfter  = time.Minute
	defaultMaxAhead       = 512
	defaultMaxUnsettled   = 512
	defaultRemember       = 8192
	shutdownDelay         = time.Second // for messages given back because of a shutdown
	parkedDelay           = time.Second // for parked ones whose first did not end well
	answerTimeout         = 5 * time.Second
	letterTimeout         = 15 * time.Second
	delayJitter           = 0.1 // of every other delay, so that many waiting deliveries do not come at once
)

func (c Config) withDefaults() (Config, error) {
	if c.Letters == nil {
		return c, fmt.Errorf("%w: Letters is nil; a message that cannot succeed would have nowhere to go", ErrConfig)
	}
	if c.Fingerprint == nil {
		c.Fingerprint = func(m *Message) dedup.Fingerprint { return dedup.FingerprintOf(m.Data) }
	}
	orDuration(&c.StoreDownDelay, defaultStoreDownDelay)
	orDuration(&c.MaxBusyDelay, defaultMaxBusyDelay)
	orDuration(&c.LetterDelay, defaultLetterDelay)
	orDuration(&c.ScheduleAfter, defaultScheduleAfter)
	orDuration(&c.Backoff.Initial, time.Second)
	orDuration(&c.Backoff.Max, max(c.Backoff.Initial, 5*time.Minute))
	if c.Backoff.Multiplier == 0 {
		c.Backoff.Multiplier = 2
	}
	switch j := &c.Backoff.Jitter; {
	case *j == 0:
		*j = 0.2
	case *j < 0:
		*j = 0
	}
	if c.MaxParked == 0 {
		c.MaxParked = defaultMaxParked
	}
	if c.MaxAhead == 0 {
		c.MaxAhead = defaultMaxAhead
	}
	c.MaxAhead = max(0, c.MaxAhead)
	if c.Remember == 0 {
		c.Remember = defaultRemember
	}
	if c.MaxUnsettled == 0 {
		c.MaxUnsettled = defaultMaxUnsettled
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	switch {
	case c.StoreDown > StoreOpen:
		return c, fmt.Errorf("%w: StoreDown is %d; use StoreClosed or StoreOpen", ErrConfig, c.StoreDown)
	case c.Backoff.Initial < 0 || c.Backoff.Max < c.Backoff.Initial || c.Backoff.Multiplier < 1 || c.Backoff.Jitter > 1:
		return c, fmt.Errorf("%w: Backoff %+v; Initial must be positive, Max at least Initial, Multiplier at least 1, Jitter at most 1", ErrConfig, c.Backoff)
	case c.MaxUnsettled < 0:
		return c, fmt.Errorf("%w: MaxUnsettled is %d; it must be positive", ErrConfig, c.MaxUnsettled)
	case c.StoreDownDelay < 0 || c.MaxBusyDelay < 0 || c.LetterDelay < 0:
		return c, fmt.Errorf("%w: delays must not be negative", ErrConfig)
	}
	return c, nil
}

func orDuration(d *time.Duration, otherwise time.Duration) {
	if *d == 0 {
		*d = otherwise
	}
}

// delay returns the delay after the given attempt, counted from 1.
func (b Backoff) delay(attempt int) time.Duration {
	e := backoff.ExponentialBackOff{
		InitialInterval: b.Initial, MaxInterval: b.Max, Multiplier: b.Multiplier, RandomizationFactor: b.Jitter,
	}
	d := e.NextBackOff()
	for i := 1; i < attempt && i < maxBackoffSteps; i++ {
		d = e.NextBackOff()
	}
	return d
}

const maxBackoffSteps = 64

// spread adds a jitter to a delay, never shortening it: a delivery that comes too early burns a round trip.
func spread(d time.Duration) time.Duration {
	return d + time.Duration(rand.Float64()*delayJitter*float64(d)) + 10*time.Millisecond //nolint:gosec // not a secret
}
