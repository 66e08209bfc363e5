package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Finding is a setting of a server with which it can lose records, or that it does not tell.
type Finding struct {
	Server  string // where it is, without credentials
	Setting string // as in the server's configuration: "maxmemory-policy"
	Value   string // what the server has; empty if it does not tell
}

// Unknown says that the server does not tell: its INFO lacks the setting, and CONFIG is not permitted or not there.
func (f Finding) Unknown() bool { return f.Value == "" }

// String is one line for a person.
func (f Finding) String() string {
	danger, value := dangers[f.Setting], f.Value
	if f.Unknown() {
		value = "unknown, for the server does not tell"
	}
	return fmt.Sprintf("%s: %s is %s; it must be %s: %s", f.Server, f.Setting, value, danger.want, danger.why)
}

// dangers are the settings that matter, with what they must be and what happens otherwise.
var dangers = map[string]struct{ want, why string }{
	settingPolicy:  {"noeviction", "a server that is full evicts records, and what is evicted is run again"},
	settingAOF:     {"yes", "without an append-only file a restart forgets records, and what is forgotten is run again"},
	settingEntries: {"at least 512", "with Config.Layout Compact a bucket of more keys takes four times the memory"},
	settingValue:   {"at least 16", "with Config.Layout Compact every bucket takes four times the memory"},
}

const (
	settingPolicy = "maxmemory-policy"
	settingAOF    = "appendonly"
	// Of the hashes of Compact.
	settingEntries = "hash-max-listpack-entries"
	settingValue   = "hash-max-listpack-value"
)

// Check looks for settings of the server with which it can lose records, on a Cluster of each master: an eviction policy
// other than noeviction, and no append-only file; with [Compact] also limits at which buckets take more memory. What a
// server does not tell is a finding too, never taken for good. No findings means that these are right, and nothing about
// replication; see the package comment. The error is for a server that does not answer.
func (s *Store) Check(ctx context.Context) ([]Finding, error) {
	nodes, err := s.nodes(ctx)
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, node := range nodes {
		server := s.Describe()
		if c, ok := node.(*redis.Client); ok && !s.single {
			server = c.Options().Addr
		}
		// INFO has both, and a user without CONFIG often has INFO.
		info, err := node.Info(ctx).Result()
		if err := noAnswer(server, err); err != nil {
			return nil, err
		}
		facts := infoFacts(info)
		for _, setting := range []string{settingPolicy, settingAOF} {
			value, told := facts[setting]
			if !told {
				values, err := node.ConfigGet(ctx, setting).Result()
				if err := noAnswer(server, err); err != nil {
					return nil, err
				}
				value = values[setting]
			}
			if value != dangers[setting].want {
				found = append(found, Finding{Server: server, Setting: setting, Value: value})
			}
		}
		if s.cfg.Layout == Compact {
			some, err := s.checkBuckets(ctx, node, server)
			if err != nil {
				return nil, err
			}
			found = append(found, some...)
		}
	}
	return found, nil
}

// checkBuckets looks for limits at which a bucket loses its compact encoding. Servers before 7.0 know them by older names only.
func (s *Store) checkBuckets(ctx context.Context, node redis.Cmdable, server string) (found []Finding, err error) {
	for _, limit := range []struct {
		setting, old string
		least        int
	}{{settingEntries, "hash-max-ziplist-entries", leastEntries}, {settingValue, "hash-max-ziplist-value", digestSize}} {
		var value string
		for _, name := range []string{limit.setting, limit.old} {
			values, err := node.ConfigGet(ctx, name).Result()
			if err := noAnswer(server, err); err != nil {
				return nil, err
			}
			if value = values[name]; value != "" {
				break
			}
		}
		if n, err := strconv.Atoi(value); err != nil || n < limit.least {
			found = append(found, Finding{Server: server, Setting: limit.setting, Value: value})
		}
	}
	return found, nil
}

// leastEntries is the default of Redis and Valkey, which [Config].Buckets counts on.
const leastEntries = 512

// noAnswer is the error if the server did not answer; a refusal is an answer.
func noAnswer(server string, err error) error {
	if refusal := redis.Error(nil); err == nil || errors.As(err, &refusal) {
		return nil
	}
	return fmt.Errorf("redisstore: check %s: %w", server, err)
}

// infoFacts are the settings that a reply of INFO tells.
func infoFacts(info string) map[string]string {
	facts := map[string]string{}
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch {
		case name == "maxmemory_policy" && value != "":
			facts[settingPolicy] = value
		case name == "aof_enabled" && value == "1":
			facts[settingAOF] = "yes"
		case name == "aof_enabled" && value == "0":
			facts[settingAOF] = "no"
		}
	}
	return facts
}
