package main

import (
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// settings are what the flags say.
type settings struct {
	workers                   []int
	messages, payload, rounds int
	duplicates                float64
	handlerTime               time.Duration
	modes                     []string
	latencyRate               int
	confirm                   bool
	nats, redis               string
	aof                       bool
	growth, memory            bool
	keys                      int
	keysGiven                 bool
	json                      bool
	plot                      string
}

// Limits of the flags.
const (
	maxWorkers     = 10000
	minMessages    = 10
	maxMessages    = 10_000_000
	maxPayload     = 512 << 10 // a NATS server takes 1 MiB by default, headers included
	maxRounds      = 1000
	maxDuplicates  = 0.99
	maxHandlerTime = time.Minute
	maxRate        = 1_000_000

	smallestGrowth = 10_000
	mostKeys       = 100_000_000
	defaultGrowth  = 10_000_000
	defaultMemory  = 1_000_000
	minMemoryKeys  = 1000
)

// check refuses what cannot work, before anything is started, and fills in defaults that depend on each other.
func (s *settings) check() error {
	for _, check := range []func() error{s.checkAmounts, s.checkModes, s.checkServers, s.checkKeys, s.checkPlot} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (s *settings) checkAmounts() error {
	if len(s.workers) == 0 {
		return usagef("--workers is empty; give a list such as 1,16,64")
	}
	for i, w := range s.workers {
		if w < 1 || w > maxWorkers {
			return usagef("--workers %d: use 1 to %d", w, maxWorkers)
		}
		if slices.Contains(s.workers[:i], w) {
			return usagef("--workers: %d is there twice", w)
		}
	}
	switch {
	case s.messages < minMessages || s.messages > maxMessages:
		return usagef("--messages %d: use %d to %d", s.messages, minMessages, maxMessages)
	case s.payload < 0 || s.payload > maxPayload:
		return usagef("--payload %d: use 0 to %d bytes", s.payload, maxPayload)
	case s.rounds < 1 || s.rounds > maxRounds:
		return usagef("--rounds %d: use 1 to %d", s.rounds, maxRounds)
	case !(s.duplicates >= 0 && s.duplicates <= maxDuplicates): // not a number is neither
		return usagef("--duplicates %v: use a part between 0 and %v", s.duplicates, maxDuplicates)
	case s.handlerTime < 0 || s.handlerTime > maxHandlerTime:
		return usagef("--handler-time %v: use 0 to %v", s.handlerTime, maxHandlerTime)
	case s.latencyRate < 0 || s.latencyRate > maxRate:
		return usagef("--latency-rate %d: use 0 (not at all) to %d messages a second", s.latencyRate, maxRate)
	}
	return nil
}

func (s *settings) checkModes() error {
	for i, name := range s.modes {
		if slices.Contains(s.modes[:i], name) {
			return usagef("--modes: %s is there twice", name)
		}
		if !slices.ContainsFunc(allModes(), func(m mode) bool { return m.name == name }) {
			return usagef("--modes: there is no mode %q; there are %s", name, strings.Join(names(allModes()), ", "))
		}
	}
	return nil
}

func (s *settings) checkServers() error {
	for flag, address := range map[string]string{"--nats": s.nats, "--redis": s.redis} {
		if address == "" {
			continue
		}
		u, err := url.Parse(address)
		if err != nil || u.Host == "" {
			return usagef("%s %q is not a URL such as %s", flag, redact(address), map[string]string{
				"--nats": "nats://127.0.0.1:4222", "--redis": "redis://127.0.0.1:6379",
			}[flag])
		}
		if flag == "--redis" && u.Scheme != "redis" && u.Scheme != "rediss" {
			return usagef("--redis %q: use redis:// or rediss://, one server", redact(address))
		}
	}
	if s.aof && s.redis != "" {
		return usagef("--aof is for the Redis that is started; leave --redis out")
	}
	return nil
}

func (s *settings) checkKeys() error {
	switch {
	case s.growth && s.memory:
		return usagef("--growth and --memory are two runs; give one of them")
	case !s.growth && !s.memory:
		if s.keysGiven {
			return usagef("--keys is for --growth and --memory; use --messages here")
		}
		return nil
	case s.redis != "" || s.nats != "":
		return usagef("--growth and --memory fill servers of their own; leave --nats and --redis out")
	}
	least, otherwise := minMemoryKeys, defaultMemory
	if s.growth {
		least, otherwise = smallestGrowth, defaultGrowth
	}
	if !s.keysGiven {
		s.keys = otherwise
	}
	if s.keys < least || s.keys > mostKeys {
		return usagef("--keys %d: use %d to %d", s.keys, least, mostKeys)
	}
	return nil
}

// checkPlot finds out at once what would be a pity to find out after an hour.
func (s *settings) checkPlot() error {
	if s.plot == "" {
		return nil
	}
	if !strings.EqualFold(filepath.Ext(s.plot), ".svg") {
		return usagef("--plot %q: the name must end in .svg", s.plot)
	}
	if info, err := os.Stat(filepath.Dir(s.plot)); err != nil || !info.IsDir() {
		return usagef("--plot %q: there is no folder %s", s.plot, filepath.Dir(s.plot))
	}
	if info, err := os.Stat(s.plot); err == nil && info.IsDir() {
		return usagef("--plot %q is a folder", s.plot)
	}
	return nil
}

// selected returns the modes to measure, in the order of the list of all.
func (s *settings) selected() []mode {
	all := allModes()
	if len(s.modes) == 0 {
		return all
	}
	return slices.DeleteFunc(all, func(m mode) bool { return !slices.Contains(s.modes, m.name) })
}

// fullWorkers is from how many workers on a mode gets all messages: one worker is so much slower that its rounds would take
// most of the time.
const fullWorkers = 4

// messagesFor returns how many messages a mode gets with so many workers.
func (s *settings) messagesFor(workers int) int {
	return max(minMessages, s.messages*min(workers, fullWorkers)/fullWorkers)
}

// published are the settings that a result depends on.
func (s *settings) published() publishedSettings {
	p := publishedSettings{
		Payload: s.payload, HandlerTime: s.handlerTime.String(), ConfirmAcks: s.confirm, AOF: s.aof, Rounds: s.rounds,
		Messages: s.messages, Duplicates: s.duplicates, LatencyRate: s.latencyRate, Keys: s.keys,
	}
	switch {
	case s.growth:
		p.Workers, p.Messages, p.LatencyRate = growthWorkers(*s), s.messagesFor(growthWorkers(*s)), 0
	case s.memory:
		p = publishedSettings{Keys: s.keys, AOF: s.aof, HandlerTime: p.HandlerTime}
	}
	return p
}

// redact hides a password.
func redact(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "(not a URL)"
	}
	return u.Redacted()
}
