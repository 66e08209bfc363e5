package main

import (
	"context"

	"github.com/redis/go-redis/v9"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/dedup/redisstore"
)

// group says what kind of thing a mode is; plots colour by it.
type group string

const (
	groupNone  group = "no deduplication"
	groupUsual group = "what is usual: SETNX, with or without Watermill"
	groupOurs  group = "idemq"
)

// mode is a way to take messages from a stream.
type mode struct {
	name, about string
	group       group
	// run takes the trial's messages until they are done or ctx ends, and leaves no goroutine behind.
	run func(ctx context.Context, t *trial) error
}

// The modes that others are compared with.
const (
	rawMode   = "raw"
	naiveMode = "naive"
)

// allModes returns the modes, what they are compared with first.
func allModes() []mode {
	def := redisLayouts[0].store
	modes := []mode{
		{rawMode, "workers that handle and ack; no deduplication", groupNone, runRaw},
		{"raw-callback", "the client's bare callback, one message after another; no deduplication", groupNone, runCallback},
		{naiveMode, "workers with SETNX before the handler and SET after it; no owner, loses messages", groupUsual, runNaive},
		{"watermill", "a Watermill router on watermill-nats, its Deduplicator on SETNX; loses messages", groupUsual, runWatermill},
		{"wmidem", "the same router with wmidem on wmnats", groupOurs, runWMIdem},
		{"do-plain", "workers that call Deduper.Do, every call of the store on its own", groupOurs, runDo(func(c *redisstore.Config) { c.NoCoalescing = true })},
		{"do", "workers that call Deduper.Do, calls of the store coalesced", groupOurs, runDo(func(*redisstore.Config) {})},
		{"idemq", "the natsidem worker as it is by default", groupOurs, runWorker(def, nil)},
		{"idemq-asks", "without the memory of settled keys (Remember: -1)", groupOurs, runWorker(def, func(c *consumer.Config) { c.Remember = -1 })},
		{"idemq-unsettled-1", "one message at most is handled and not settled (MaxUnsettled: 1)", groupOurs, runWorker(def, func(c *consumer.Config) { c.MaxUnsettled = 1 })},
		{"idemq-no-ahead", "no claims ahead of free workers (MaxAhead: -1)", groupOurs, runWorker(def, func(c *consumer.Config) { c.MaxAhead = -1 })},
	}
	for _, l := range redisLayouts[1:] {
		modes = append(modes, mode{"idemq-" + l.name, "the worker with another layout in Redis: " + l.about, groupOurs, runWorker(l.store, nil)})
	}
	return append(modes, mode{
		"idemq-memstore", "the worker with records in its own memory: what is left without Redis", groupOurs,
		runWorker(func(*redis.Client, string) dedup.Store { return memstore.New(memstore.Config{}) }, nil),
	})
}

func names(modes []mode) []string {
	out := make([]string, len(modes))
	for i, m := range modes {
		out[i] = m.name
	}
	return out
}

// redisLayout is a way in which redisstore keeps what it remembers.
type redisLayout struct {
	name, about string
	set         func(*redisstore.Config)
}

// redisLayouts are all of them, the default first. A new one needs a line here and nothing else: it is a mode, and has a row
// of its own with --growth and --memory.
var redisLayouts = []redisLayout{
	{"readable", "a readable record for each key", func(*redisstore.Config) {}},
}

func (l redisLayout) store(rdb *redis.Client, prefix string) dedup.Store {
	cfg := redisstore.Config{Prefix: prefix}
	l.set(&cfg)
	return redisstore.New(rdb, cfg)
}
