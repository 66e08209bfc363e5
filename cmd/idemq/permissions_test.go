//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/kvstore"
	"github.com/idemq/idemq/dedup/redisstore"
)

// Each role does its work with the rights of docs/permissions, uses every one of them, and is refused the work of others.
func TestRolesWithLeastPrivilege(t *testing.T) {
	t.Parallel()
	for name, inRedis := range map[string]bool{"redis": true, "kv": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, inRedis, nil)
			s.publisherWorks()
			s.workerWorks()
			s.viewerWorks()
			s.operatorWorks()
		})
	}
}

// What a worker can do without costs it a warning that names the right, not its work.
func TestAWorkerGoesOnWithoutTheRightToNoteItsStore(t *testing.T) {
	t.Parallel()
	const right = "$JS.API.CONSUMER.CREATE.ORDERS.billing"
	s := newSite(t, false, func(users map[string]*server.User) {
		allow := &users["worker"].Permissions.Publish.Allow
		*allow = slices.DeleteFunc(*allow, func(subject string) bool { return subject == right })
	})
	s.publish("k", "x")
	p, code := s.run("worker", "consume", "--stream", "ORDERS", "--durable", "billing", "--idle-exit", "1ms", "--exec", "true")
	assert.Equal(t, exitFine, code, p.err.String())
	assert.Contains(t, p.out.String(), "executed 1")
	assert.Contains(t, p.err.String(), "WARN")
	assert.Contains(t, p.err.String(), right)
}

// What docs/permissions.md names beside the files is enough, and no more than that: for --create, and for --to-origin.
func TestRightsBesideTheFiles(t *testing.T) {
	t.Parallel()
	s := newSite(t, false, func(users map[string]*server.User) {
		worker, operator := users["worker"].Permissions.Publish, users["operator"].Permissions.Publish
		worker.Allow = append(worker.Allow, "$JS.API.STREAM.INFO.ORDERS", "$JS.API.STREAM.CREATE.ORDERS", "$JS.API.STREAM.CREATE.IDEMQ_DEAD",
			"$JS.API.STREAM.CREATE.IDEMQ_REPLAY", "$JS.API.STREAM.CREATE.KV_idemq", "$JS.API.INFO")
		operator.Allow = append(operator.Allow, "$JS.API.STREAM.NAMES", "orders.>")
	})
	for name := range s.snapshot() {
		require.NoError(t, s.js.DeleteStream(t.Context(), name))
	}
	s.usesAll("worker", func() {
		s.consume("exit 65", "--create", "--subjects", "orders.>")
		s.publish("dead", "x")
		s.publishRaw("orders.raw")
		s.publishRaw("idemq.replay.run.ORDERS.billing")
		s.consume("exit 65")
		s.publish("later", "x")
		s.workerPutsOff()
	})
	s.allowed("operator", "dlq", "replay", s.id("dead"), "--to-origin")
	s.consume("true")
	assert.Equal(t, "consumed", s.allowed("viewer", "key", "show", "dead", "--scope", scopeName).object(keyFields...)["state"])
}

// The documentation has a word on every right of the files.
func TestPermissionsAreExplained(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/permissions.md")
	require.NoError(t, err)
	for _, file := range []string{"nats.conf", "nats-kv.conf"} {
		parsed, err := server.ProcessConfigFile(permissionsDir + file)
		require.NoError(t, err)
		for _, u := range parsed.Users {
			if u.Permissions == nil {
				continue
			}
			for _, right := range u.Permissions.Publish.Allow {
				assert.Contains(t, string(text), "`"+strings.TrimPrefix(right, "$JS.API.")+"`", file)
			}
		}
	}
	for user, commands := range aclCommands(t) {
		for _, command := range commands {
			assert.Regexp(t, "(?m)^\\| `"+command+"` \\|", string(text), user)
		}
	}
}

func (s *site) publish(key, data string) {
	s.t.Helper()
	s.allowed("publisher", "publish", "orders.created", "--key", key, "--data", data)
}

func (s *site) consume(script string, more ...string) *process {
	s.t.Helper()
	return s.allowed("worker", append([]string{
		"consume", "--stream", "ORDERS", "--durable", "billing", "--workers", "4", "--lease", "1s", "--max-attempts", "1",
		"--idle-exit", "100ms", "--exec", script,
	}, more...)...)
}

func (s *site) id(key string) string {
	s.t.Helper()
	p := s.allowed("viewer", "dlq", "ls", "--json", "--key", key)
	return p.object(entryFields...)["id"].(string)
}

func (s *site) publisherWorks() {
	s.usesAll("publisher", func() {
		for _, key := range []string{"done", "dead", "dead-2", "slow"} {
			s.publish(key, "x")
		}
		s.publish("dead-large", strings.Repeat("x", sitePayload-500)) // its letter does not fit into one message
	})
	s.refused("publisher", `"refunds.created"`, "publish", "refunds.created", "--data", "x")
	s.refused("publisher", `"refunds.created"`, "publish", "refunds.created", "--data", "x", "--no-key")
	s.refused("publisher", "STREAM.INFO.IDEMQ_DEAD", "dlq", "ls")
	s.refused("publisher", "CONSUMER.INFO.ORDERS.billing", "key", "show", "done", "--scope", scopeName)
	s.refusedAll("publisher", "$JS.API.STREAM.INFO.ORDERS", "$JS.API.STREAM.MSG.GET.ORDERS", "$JS.API.CONSUMER.MSG.NEXT.ORDERS.billing",
		"idemq.dead.ORDERS.billing.permanent", "idemq.replay.run.ORDERS.billing", "$KV.idemq.a.b")
}

func (s *site) workerWorks() {
	s.publishRaw("orders.raw")
	s.publishRaw("idemq.replay.run.ORDERS.billing")
	s.usesAll("worker", func() {
		s.consume(`case "$IDEMQ_KEY" in dead*) exit 65;; slow) sleep 1;; esac`)
		s.publish("later", "x")
		s.workerPutsOff()
		s.workerSettlesTwoAtOnce()
	})
	c, err := s.js.Consumer(s.t.Context(), "ORDERS", "billing")
	require.NoError(s.t, err)
	info := c.CachedInfo()
	assert.Equal(s.t, scopeName, info.Config.Metadata[natsidem.MetadataScope])
	assert.Zero(s.t, info.NumPending)
	assert.Zero(s.t, info.NumAckPending)
	s.refused("worker", `"orders.created"`, "publish", "orders.created", "--data", "x")
	s.refused("worker", "CONSUMER.CREATE.IDEMQ_DEAD.", "dlq", "ls")
	s.refusedAll("worker", "$JS.API.STREAM.DELETE.ORDERS", "$JS.API.STREAM.PURGE.ORDERS", "$JS.API.STREAM.UPDATE.ORDERS",
		"$JS.API.CONSUMER.DELETE.ORDERS.billing", "$JS.API.CONSUMER.INFO.ORDERS.other", "$JS.API.CONSUMER.CREATE.ORDERS.other",
		"$JS.ACK.ORDERS.other.1.1.1.1.0", "idemq.dead.ORDERS.other.permanent", "idemq.replay.run.ORDERS.billing",
		"idemq.replay.later.ORDERS.other.1", "idemq.mark.1", "$JS.API.STREAM.MSG.DELETE.IDEMQ_DEAD", "$KV.idemq.T1RIRVI.b")
}

// workerSettlesTwoAtOnce does by itself what a worker that is busy does.
func (s *site) workerSettlesTwoAtOnce() {
	if s.redis == nil {
		return
	}
	store := redisstore.New(s.redisClient("worker"), redisstore.Config{})
	settlements := make([]dedup.HeldSettlement, 2)
	for i := range settlements {
		c := dedup.Claim{Key: dedup.Key{Scope: scopeName, ID: fmt.Sprint("both-", i)}, Nonce: "n", Lease: time.Minute, Retention: time.Minute}
		_, r, err := store.Acquire(s.t.Context(), c)
		require.NoError(s.t, err)
		settlements[i] = dedup.HeldSettlement{
			Hold:       dedup.Hold{Key: r.Key, Fence: r.Fence, Nonce: r.Nonce},
			Settlement: dedup.Settlement{State: dedup.Consumed, Retention: time.Minute},
		}
	}
	admin := redisstore.New(s.redisClient("admin"), redisstore.Config{})
	for i, err := range store.SettleMany(s.t.Context(), settlements) {
		require.NoError(s.t, err)
		require.NoError(s.t, admin.Forget(s.t.Context(), settlements[i].Hold.Key, true))
	}
}

// workerPutsOff runs a worker in this process, whose handler asks for a delay that goes through the replay stream.
func (s *site) workerPutsOff() {
	nc := s.conn("worker", nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { assert.NoError(s.t, err) }))
	js, err := jetstream.New(nc)
	require.NoError(s.t, err)
	var store dedup.Store
	if s.redis != nil {
		store = redisstore.New(s.redisClient("worker"), redisstore.Config{})
	} else {
		store, err = kvstore.New(s.t.Context(), js, kvstore.Config{MustExist: true})
		require.NoError(s.t, err)
	}
	d, err := dedup.New(store, dedup.Config{})
	require.NoError(s.t, err)
	w, err := natsidem.New(js, "ORDERS", "billing", d, consumer.HandlerFunc(func(_ context.Context, m *consumer.Message) error {
		if m.Attempt == 1 {
			return consumer.RetryAfter(time.Second, errors.New("not yet"))
		}
		return nil
	}), natsidem.Config{Workers: 1, IdleExit: time.Millisecond, Config: consumer.Config{ScheduleAfter: time.Second}})
	require.NoError(s.t, err)
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	require.NoError(s.t, w.Run(ctx))
	assert.EqualValues(s.t, 1, w.Stats().Scheduled)
	assert.EqualValues(s.t, 1, w.Stats().Executed)
}

func (s *site) viewerWorks() {
	var id string
	s.usesAll("viewer", func() {
		p := s.allowed("viewer", "dlq", "ls", "--json")
		assert.Len(s.t, p.objects(entryFields...), 5, "three that died, two whose headers cannot be read")
		id = s.id("dead")
		o := s.allowed("viewer", "dlq", "show", s.id("dead-large"), "--json").object(showFields...)
		assert.Len(s.t, o["payload"], sitePayload-500)
		assert.Equal(s.t, "consumed", s.allowed("viewer", "key", "show", "done", "--scope", scopeName).object(keyFields...)["state"])
		p = s.allowed("viewer", "key", "list", "--scope", scopeName, "--json")
		assert.Len(s.t, p.objects(keyFields...), 6)
	})
	forget := "$KV.idemq."
	if s.redis != nil {
		forget = "forget of " + scopeName
	}
	s.refused("viewer", "STREAM.INFO.IDEMQ_REPLAY", "dlq", "replay", id)
	s.refused("viewer", "STREAM.INFO.IDEMQ_REPLAY", "dlq", "replay", "--all")
	s.refused("viewer", "STREAM.MSG.DELETE.IDEMQ_DEAD", "dlq", "discard", id, "--force")
	s.refused("viewer", forget, "key", "forget", "done", "--scope", scopeName, "--force")
	s.refused("viewer", `"orders.created"`, "publish", "orders.created", "--data", "x")
	s.refused("viewer", "STREAM.INFO.IDEMQ_REPLAY", "consume", "--stream", "ORDERS", "--durable", "billing", "--exec", "true")
	s.refusedAll("viewer", "idemq.dead.ORDERS.billing.permanent", "idemq.mark.1", "idemq.replay.run.ORDERS.billing",
		"idemq.replay.later.ORDERS.billing.1", "$JS.API.STREAM.PURGE.IDEMQ_DEAD", "$JS.API.STREAM.DELETE.IDEMQ_DEAD",
		"$JS.API.CONSUMER.CREATE.ORDERS.billing", "$JS.ACK.ORDERS.billing.1.1.1.1.0", "$JS.API.STREAM.MSG.GET.ORDERS")
	if s.redis == nil {
		return
	}
	ctx, before := s.t.Context(), s.snapshot()
	name := "idemq:{" + scopeName + "|done}"
	viewer := s.redisClient("viewer")
	for _, err := range []error{
		viewer.Del(ctx, name).Err(), viewer.Set(ctx, name, "x", 0).Err(), viewer.FlushDB(ctx).Err(),
		viewer.Eval(ctx, `return redis.call('DEL', KEYS[1])`, []string{name}).Err(),
		viewer.Eval(ctx, `return redis.call('GET', KEYS[1])`, []string{"idemq:{ORDERS/other|done}"}).Err(),
		viewer.Eval(ctx, `return redis.call('GET', ARGV[1])`, nil, "idemq:{ORDERS/other|done}").Err(),
		viewer.ConfigGet(ctx, "*").Err(), viewer.Publish(ctx, "idemq:x", "x").Err(),
	} {
		require.Error(s.t, err)
		assert.Regexp(s.t, redisRefuses, err.Error())
	}
	assert.Equal(s.t, before, s.snapshot())
}

func (s *site) operatorWorks() {
	dead, other, large := s.id("dead"), s.id("dead-2"), s.id("dead-large")
	s.usesAll("operator", func() {
		for _, id := range []string{other, large} {
			p := s.allowed("operator", "dlq", "discard", id, "--force", "--json")
			assert.Equal(s.t, 1, number(p.object(discardFields...), "discarded"))
		}
		p := s.allowed("operator", "dlq", "replay", dead, "--json")
		assert.Equal(s.t, 1, number(p.last(replayTotals...), "published"))
		s.allowed("operator", "dlq", "ls")
		s.allowed("operator", "dlq", "show", dead)
		s.allowed("operator", "key", "list", "--scope", scopeName)
		s.allowed("operator", "key", "forget", "done", "--scope", scopeName, "--force")
	})
	p, code := s.run("operator", "key", "show", "done", "--scope", scopeName)
	assert.Equal(s.t, exitNothingFound, code, p.err.String())
	s.consume("true")
	assert.Equal(s.t, "consumed", s.allowed("viewer", "key", "show", "dead", "--scope", scopeName).object(keyFields...)["state"])
	assert.Equal(s.t, true, s.allowed("viewer", "dlq", "show", dead, "--json").object(showFields...)["resolved"])

	s.refused("operator", "STREAM.NAMES", "dlq", "replay", dead, "--again", "--to-origin")
	s.refused("operator", `"orders.created"`, "publish", "orders.created", "--data", "x")
	s.refused("operator", "CONSUMER.INFO.IDEMQ_REPLAY.", "consume", "--stream", "ORDERS", "--durable", "billing", "--exec", "true")
	s.refusedAll("operator", "$JS.API.STREAM.DELETE.IDEMQ_DEAD", "$JS.API.STREAM.PURGE.IDEMQ_REPLAY", "$JS.API.STREAM.MSG.DELETE.ORDERS",
		"idemq.dead.ORDERS.billing.permanent", "idemq.replay.run.ORDERS.other", "$JS.API.CONSUMER.CREATE.ORDERS.billing")
}

// refusedAll publishes by hand what a role may not, whatever its commands do.
func (s *site) refusedAll(user string, subjects ...string) {
	s.t.Helper()
	before := s.snapshot()
	violations := make(chan error, len(subjects))
	nc := s.conn(user, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { violations <- err }))
	for _, subject := range subjects {
		require.NoError(s.t, nc.Publish(subject, []byte("{}")))
		require.NoError(s.t, nc.Flush())
		select {
		case err := <-violations:
			require.ErrorIs(s.t, err, nats.ErrPermissionViolation)
			assert.Contains(s.t, err.Error(), subject)
		case <-time.After(refusalLimit):
			assert.Fail(s.t, "permitted", "%s may publish to %s", user, subject)
		}
	}
	_, err := nc.SubscribeSync("orders.>")
	require.NoError(s.t, err)
	require.NoError(s.t, nc.Flush())
	select {
	case err := <-violations:
		assert.Contains(s.t, err.Error(), "Subscription")
	case <-time.After(refusalLimit):
		assert.Fail(s.t, "permitted", "%s may subscribe to orders.>", user)
	}
	assert.Equal(s.t, before, s.snapshot())
}
