//go:build unix

package main

import (
	"context"
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/internal/testserver"
)

var (
	entryFields = []string{
		"id", "class", "error", "key", "scope", "stream", "seq", "durable", "subject", "attempts", "generation",
		"first_failure", "last_failure", "size", "resolved", "replayed_at",
	}
	showFields    = append([]string{"headers", "payload", "payload_encoding", "stack", "history"}, entryFields...)
	replayTotals  = []string{"selected", "published", "already_there", "resolved", "already_replayed", "needs_key", "failed", "unmarked", "interrupted"}
	discardFields = []string{"selected", "discarded"}
)

// shift is a server with a stream ORDERS, a durable and a store, and an operator on duty.
type shift struct {
	t     *testing.T
	s     *testserver.NATSServer
	store string
}

func newShift(t *testing.T, store string) *shift {
	t.Helper()
	sh := &shift{t: t, s: testserver.NATS(t), store: store}
	sh.consume("D", "true")
	return sh
}

// consume runs CMD on all that there is.
func (sh *shift) consume(durable, command string, more ...string) *process {
	sh.t.Helper()
	return fine(sh.t, append([]string{
		"consume", "--nats", sh.s.URL(), "--store", sh.store, "--stream", "ORDERS", "--durable", durable, "--subjects", "orders.>",
		"--create", "--idle-exit", "1ms", "--max-attempts", "1", "--json", "--exec", command,
	}, more...)...)
}

func (sh *shift) publish(args ...string) {
	sh.t.Helper()
	fine(sh.t, append([]string{"publish", "orders.created", "--nats", sh.s.URL()}, args...)...)
}

// dlq is an operator's command, which is not told where the records are.
func (sh *shift) dlq(args ...string) (*process, int) {
	sh.t.Helper()
	return idemq(sh.t, append([]string{"dlq", "--nats", sh.s.URL()}, args...)...)
}

func (sh *shift) list(more ...string) []map[string]any {
	sh.t.Helper()
	p, code := sh.dlq(append([]string{"ls", "--json"}, more...)...)
	require.Equal(sh.t, exitFine, code, p.err.String())
	return p.objects(entryFields...)
}

func (sh *shift) id(key string) string {
	sh.t.Helper()
	found := sh.list("--key", key)
	require.Len(sh.t, found, 1)
	return found[0]["id"].(string)
}

// last reads the last line of standard output, which must have exactly these fields.
func (p *process) last(fields ...string) map[string]any {
	p.t.Helper()
	lines := strings.Split(strings.TrimSpace(p.out.String()), "\n")
	var o map[string]any
	require.NoError(p.t, json.Unmarshal([]byte(lines[len(lines)-1]), &o), p.err.String())
	var have []string
	for f := range o {
		have = append(have, f)
	}
	assert.ElementsMatch(p.t, fields, have)
	return o
}

func eachStore(t *testing.T, run func(t *testing.T, store string)) {
	t.Helper()
	for name, store := range map[string]func(t *testing.T) string{
		"kv":    func(*testing.T) string { return "kv" },
		"redis": func(t *testing.T) string { return testserver.PrivateRedis(t).URL() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, store(t))
		})
	}
}

func TestFromALetterToItsReplay(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, store string) {
		sh := newShift(t, store)
		sh.publish("--key", "k1", "--data", "one", "--header", "Trace:abc")
		sh.publish("--key", "k2", "--data", "two")
		sh.publish("--no-key", "--data", "three")
		sh.consume("D", "exit 65")

		all := sh.list()
		require.Len(t, all, 3)
		assert.Len(t, sh.list("--class", "missing_key"), 1)
		assert.Len(t, sh.list("--stream", "ORDERS", "--durable", "D", "--since", "1h", "--text", "65", "--generation", "1"), 2)
		assert.Empty(t, sh.list("--durable", "X"))
		assert.Len(t, sh.list("--limit", "2"), 2)
		id := sh.id("k1")
		p, code := sh.dlq("show", id[:8], "--json")
		require.Equal(t, exitFine, code, p.err.String())
		assert.Contains(t, p.err.String(), "as noted at the durable consumer ORDERS/D")
		o := p.object(showFields...)
		assert.Equal(t, "one", o["payload"])
		assert.Equal(t, []any{"abc"}, o["headers"].(map[string]any)["Trace"])
		assert.Equal(t, "orders.created", o["subject"])
		assert.Equal(t, 1, number(o, "seq"))
		assert.Equal(t, 3, number(o, "size"))
		assert.Equal(t, false, o["resolved"])

		p, code = sh.dlq("replay", "--all", "--dry-run", "--json")
		require.Equal(t, exitFine, code, p.err.String())
		assert.Len(t, p.objects("class", "count"), 2)
		p, code = sh.dlq("replay", id, id, "--json") // named twice it is one
		require.Equal(t, exitFine, code, p.err.String())
		assert.Equal(t, 1, number(p.last(replayTotals...), "published"))
		p, code = sh.dlq("replay", id)
		assert.Equal(t, exitFailed, code)
		assert.Contains(t, p.err.String(), "--again", "it remembers that it was replayed")
		p, code = sh.dlq("replay", "--all", "--json")
		require.Equal(t, exitFine, code, p.err.String())
		total := p.last(replayTotals...)
		assert.Equal(t, []int{1, 1, 1}, []int{number(total, "published"), number(total, "already_replayed"), number(total, "needs_key")})
		p, code = sh.dlq("replay", "--all", "--class", "missing_key", "--new-key", "--json")
		require.Equal(t, exitFine, code, p.err.String())
		assert.Equal(t, 1, number(p.last(replayTotals...), "published"))

		done := sh.consume("D", "true")
		assert.Equal(t, 3, number(done.object(summaryFields...), "executed"))
		for _, e := range sh.list() {
			assert.Equal(t, true, e["resolved"])
			assert.NotEmpty(t, e["replayed_at"])
		}
		p, code = sh.dlq("replay", "--all", "--again", "--new-key", "--json")
		require.Equal(t, exitFine, code, p.err.String())
		assert.Equal(t, 3, number(p.last(replayTotals...), "resolved"), "who insists does not run it twice")
		assert.Zero(t, number(sh.consume("D", "true").object(summaryFields...), "delivered"))

		p, code = sh.dlq("discard", "--all")
		assert.Equal(t, exitUsage, code, p.err.String())
		assert.Len(t, sh.list(), 3)
		p, code = sh.dlq("discard", id, "--force", "--json")
		require.Equal(t, exitFine, code, p.err.String())
		assert.Equal(t, 1, number(p.object(discardFields...), "discarded"))
		p, code = sh.dlq("discard", "--all", "--force", "--json")
		require.Equal(t, exitFine, code, p.err.String())
		assert.Equal(t, 2, number(p.object(discardFields...), "discarded"))
		assert.Empty(t, sh.list())
	})
}

func TestAReplayThatFailsTellsItsHistory(t *testing.T) {
	t.Parallel()
	sh := newShift(t, "kv")
	sh.publish("--key", "k1", "--data", "one")
	sh.consume("D", "exit 65")
	p, code := sh.dlq("replay", sh.id("k1"))
	require.Equal(t, exitFine, code, p.err.String())
	sh.consume("D", "exit 1")
	found := sh.list("--key", "k1", "--generation", "2")
	require.Len(t, found, 1)
	assert.Equal(t, "exhausted", found[0]["class"])
	p, code = sh.dlq("show", found[0]["id"].(string))
	require.Equal(t, exitFine, code, p.err.String())
	assert.Contains(t, p.out.String(), "died before")
	assert.Equal(t, true, sh.list("--generation", "1")[0]["resolved"], "the later letter is the one to look at")
}

func TestIDsThatAreNotThereChangeNothing(t *testing.T) {
	t.Parallel()
	sh := newShift(t, "kv")
	p, code := sh.dlq("show", "abcdefab")
	assert.Equal(t, exitNothingFound, code, p.err.String())
	sh.publish("--key", "k1", "--data", "one")
	sh.consume("D", "exit 65")
	id := sh.id("k1")
	for _, args := range [][]string{
		{"show", "abcdefab"}, {"show", "abc"}, {"replay", id, "abcdefab"}, {"discard", id, "abcdefab", "--force"},
		{"replay", id, "--durable", "X"}, {"discard", id, "--stream", "X", "--force"},
	} {
		p, code := sh.dlq(args...)
		assert.Equal(t, exitNothingFound, code, "%v: %s", args, &p.err)
	}
	for _, args := range [][]string{
		{"replay"}, {"replay", id, "--all"}, {"replay", id, "--class", "permanent"}, {"ls", "--class", "nonsense"}, {"ls", "--limit", "-1"},
		{"replay", "--all", "--rate", "0/s"}, {"replay", "--all", "--rate", "5/y"}, {"replay", id, "--key", "a", "--new-key"},
		{"replay", id, id, "--key", "a"}, {"replay", id, "--key", "two words"}, {"show", id, "--raw", "--json"}, {"show"}, {"nonsense"},
	} {
		p, code := sh.dlq(args...)
		assert.Equal(t, exitUsage, code, "%v: %s", args, &p.err)
	}
	left := sh.list()
	require.Len(t, left, 1)
	assert.Empty(t, left[0]["replayed_at"])
}

func TestWhatStrangersWroteIsEscapedForPeople(t *testing.T) {
	t.Parallel()
	const evil = "\x1b[2J\u009b1m"
	sh := newShift(t, "kv")
	nc := sh.s.Conn(t)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	_, err = js.PublishMsg(t.Context(), &nats.Msg{
		Subject: "orders.created", Data: []byte("pay" + evil + "\xff"),
		Header: nats.Header{"Idempotency-Key": {"key" + evil}, "Evil": {evil}},
	})
	require.NoError(t, err)
	sh.consume("D", "true")
	id := sh.list()[0]["id"].(string)
	for _, args := range [][]string{{"ls"}, {"show", id}} {
		p, code := sh.dlq(args...)
		require.Equal(t, exitFine, code, p.err.String())
		assert.NotContains(t, p.out.String(), "\x1b")
		assert.NotContains(t, p.out.String(), "\u009b")
		assert.Contains(t, p.out.String(), `\u001b[2J`)
	}
	p, _ := sh.dlq("show", id)
	assert.Contains(t, p.out.String(), `\xff`)
	p, code := sh.dlq("show", id, "--raw")
	require.Equal(t, exitFine, code)
	assert.Equal(t, "pay"+evil+"\xff", p.out.String(), "byte for byte")
	p, code = sh.dlq("show", id, "--json")
	require.Equal(t, exitFine, code)
	o := p.object(showFields...)
	assert.Equal(t, "base64", o["payload_encoding"])
	assert.Equal(t, "key"+evil, o["key"], "exact")
	assert.NotContains(t, p.out.String(), "\x1b")
}

func TestForeignMessagesAmongTheLetters(t *testing.T) {
	t.Parallel()
	sh := newShift(t, "kv")
	js, err := jetstream.New(sh.s.Conn(t))
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), "idemq.dead.ORDERS.D.permanent", []byte("\x1b[2J"))
	require.NoError(t, err)
	sh.publish("--key", "k1", "--data", "one")
	sh.consume("D", "exit 65")
	p, code := sh.dlq("ls", "--json")
	require.Equal(t, exitFine, code, p.err.String())
	assert.Len(t, p.objects(entryFields...), 1)
	assert.Contains(t, p.err.String(), "left out: ")
	p, code = sh.dlq("replay", "--all")
	assert.Equal(t, exitFine, code, p.err.String())
}

func TestAReplayIsRefusedWhereItCouldRunTwice(t *testing.T) {
	t.Parallel()
	sh := newShift(t, "kv")
	sh.publish("--key", "k1", "--data", "one")
	sh.consume("D", "exit 65")
	id := sh.id("k1")

	p, code := sh.dlq("replay", id, "--store", testserver.Redis(t).URL())
	assert.Equal(t, exitFailed, code)
	assert.Contains(t, p.err.String(), "kv://idemq", "the store contradicts the worker's")
	js, err := jetstream.New(sh.s.Conn(t))
	require.NoError(t, err)
	c, err := js.Consumer(t.Context(), "ORDERS", "D")
	require.NoError(t, err)
	cfg := c.CachedInfo().Config
	cfg.Metadata["idemq.scope"] = "ANOTHER"
	_, err = js.UpdateConsumer(t.Context(), "ORDERS", cfg)
	require.NoError(t, err)
	p, code = sh.dlq("replay", id)
	assert.Equal(t, exitFailed, code)
	assert.Contains(t, p.err.String(), "ANOTHER", "it was made again with another scope")

	require.NoError(t, js.DeleteConsumer(t.Context(), "ORDERS", "D"))
	p, code = sh.dlq("replay", id)
	assert.Equal(t, exitUsage, code)
	assert.Contains(t, p.err.String(), "choose where records are kept")
	assert.Nil(t, sh.list()[0]["resolved"], "nobody can tell")
	p, code = sh.dlq("replay", id, "--store", "kv")
	assert.Equal(t, exitFine, code, p.err.String())
	done := sh.consume("D", "true") // the durable is made again, and begins with the whole stream
	assert.Equal(t, 1, number(done.object(summaryFields...), "executed"))
}

func TestAReplayStreamThatTakesNothing(t *testing.T) {
	t.Parallel()
	sh := newShift(t, "kv")
	sh.publish("--key", "k1", "--data", "one")
	sh.consume("D", "exit 65")
	js, err := jetstream.New(sh.s.Conn(t))
	require.NoError(t, err)
	s, err := js.Stream(t.Context(), deadletter.DefaultReplayStream)
	require.NoError(t, err)
	cfg := s.CachedInfo().Config
	full := cfg
	full.MaxMsgs, full.Discard, full.AllowMsgSchedules = 1, jetstream.DiscardNew, false
	full.MaxBytes = 1
	require.NoError(t, js.DeleteStream(t.Context(), cfg.Name))
	_, err = js.CreateStream(t.Context(), full)
	require.NoError(t, err)
	p, code := sh.dlq("replay", sh.id("k1"))
	assert.Equal(t, exitFailed, code)
	assert.Contains(t, p.err.String(), "replay stream")
	assert.Empty(t, sh.list()[0]["replayed_at"])

	full.MaxBytes, full.MaxMsgs = -1, -1
	_, err = js.UpdateStream(t.Context(), full)
	require.NoError(t, err)
	p, code = sh.dlq("replay", sh.id("k1"))
	assert.Equal(t, exitFine, code, p.err.String())
	assert.Equal(t, 1, number(sh.consume("D", "true").object(summaryFields...), "executed"))
}

func TestABulkReplayStopsAndGoesOn(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, store string) {
		const letters = 30
		sh := newShift(t, store)
		sh.publish("--count", "30", "--data", "x")
		sh.consume("D", "exit 65")
		p := command(t, "dlq", "replay", "--all", "--rate", "10/s", "--json", "--nats", sh.s.URL()).start()
		p.says(&p.out, "published")
		require.NoError(t, p.cmd.Process.Signal(syscall.SIGINT))
		assert.Equal(t, exitFailed, p.wait())
		assert.Contains(t, p.err.String(), "to go on, give the same command again")
		first := p.last(replayTotals...)
		assert.Equal(t, true, first["interrupted"])
		assert.Equal(t, letters, number(first, "selected"))
		require.Less(t, number(first, "published"), letters)

		// Two operators go on at once.
		var going []*process
		for range 2 {
			going = append(going, command(t, "dlq", "replay", "--all", "--json", "--nats", sh.s.URL()).start())
		}
		published := number(first, "published")
		for _, p := range going {
			require.Equal(t, exitFine, p.wait(), p.err.String())
			published += number(p.last(replayTotals...), "published")
		}
		assert.Equal(t, letters, published, "each once")
		assert.Equal(t, letters, number(sh.consume("D", "true").object(summaryFields...), "executed"))
	})
}

func TestTheConnectionIsLostHalfWay(t *testing.T) {
	t.Parallel()
	sh := newShift(t, "kv")
	sh.publish("--count", "20", "--data", "x")
	sh.consume("D", "exit 65")
	p := command(t, "dlq", "replay", "--all", "--rate", "20/s", "--json", "--nats", sh.s.URL()).start()
	p.says(&p.out, "published")
	sh.s.Stop()
	assert.Equal(t, exitFailed, p.wait())
	sh.s.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.Eventually(t, func() bool {
		p, code := sh.dlq("replay", "--all", "--json")
		return code == exitFine && p.out.String() != "" && ctx.Err() == nil
	}, patience, time.Second)
	assert.Equal(t, 20, number(sh.consume("D", "true").object(summaryFields...), "executed"))
}
