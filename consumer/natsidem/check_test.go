package natsidem_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/natsidem"
)

func (b *bench) runOn(stream, durable string) error {
	w, err := natsidem.New(b.js, stream, durable, b.deduper(), consumer.HandlerFunc(succeed), b.cfg)
	require.NoError(b.t, err)
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	return w.Run(ctx)
}

func TestSettingsThatCannotWorkAreRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for name, c := range map[string]struct {
		cfg  jetstream.ConsumerConfig
		says []string
	}{
		"acknone": {jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy, MaxDeliver: -1},
			[]string{"AckPolicy", "none", "nats consumer rm ORDERS acknone", "nats consumer add ORDERS acknone", "idemq consume --create"}},
		"ackall": {jetstream.ConsumerConfig{AckPolicy: jetstream.AckAllPolicy, MaxDeliver: -1}, []string{"AckPolicy", "all"}},
		"maxdeliver": {jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: 5},
			[]string{"MaxDeliver", "is 5", "nats consumer edit ORDERS maxdeliver --max-deliver=-1"}},
		"backoff": {jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1, BackOff: []time.Duration{time.Second}},
			[]string{"BackOff", "[1s]", "nats consumer edit ORDERS backoff --backoff none"}},
		"ackwait": {jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1, AckWait: time.Second},
			[]string{"AckWait", "is 1s", "nats consumer edit ORDERS ackwait --wait 30s"}},
		"pending": {jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1, MaxAckPending: 3},
			[]string{"MaxAckPending", "is 3", "nats consumer edit ORDERS pending --max-pending 1016"}},
		"headers": {jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1, HeadersOnly: true},
			[]string{"HeadersOnly", "nats consumer edit ORDERS headers --no-headers-only"}},
		"push": {jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1, DeliverSubject: "push.here"},
			[]string{"push consumer", "nats consumer rm ORDERS push"}},
	} {
		c.cfg.Durable = name
		if c.cfg.DeliverSubject != "" {
			_, err := b.js.CreatePushConsumer(t.Context(), "ORDERS", c.cfg)
			require.NoError(t, err)
		} else {
			_, err := b.js.CreateConsumer(t.Context(), "ORDERS", c.cfg)
			require.NoError(t, err)
		}
		err := b.runOn("ORDERS", name)
		require.ErrorIs(t, err, natsidem.ErrConfig, name)
		for _, s := range c.says {
			assert.Contains(t, err.Error(), s, name)
		}
	}
	err := b.runOn("NONE", "billing")
	require.ErrorIs(t, err, natsidem.ErrConfig)
	assert.Contains(t, err.Error(), `there is no stream "NONE"`)
	err = b.runOn("ORDERS", "nobody")
	require.ErrorIs(t, err, natsidem.ErrConfig)
	assert.Contains(t, err.Error(), `no durable consumer "nobody"`)
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, change := range []func(*natsidem.Config){
		func(c *natsidem.Config) { c.Workers = -1 },
		func(c *natsidem.Config) { c.Grace = -1 },
		func(c *natsidem.Config) { c.IdleExit = -1 },
		func(c *natsidem.Config) { c.Scope = "with space" },
	} {
		cfg := b.cfg
		change(&cfg)
		_, err := natsidem.New(b.js, "ORDERS", "billing", b.deduper(), consumer.HandlerFunc(succeed), cfg)
		require.Error(t, err)
	}
	_, err := natsidem.New(b.js, "", "billing", b.deduper(), consumer.HandlerFunc(succeed), b.cfg)
	require.ErrorIs(t, err, natsidem.ErrConfig)
	_, err = natsidem.New(nil, "ORDERS", "billing", b.deduper(), consumer.HandlerFunc(succeed), b.cfg)
	require.ErrorIs(t, err, natsidem.ErrConfig)
}

func TestEnsureConsumerIsRepeatableAndChangesNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	before := b.info()
	assert.Equal(t, 30*time.Second, before.Config.AckWait)
	assert.Equal(t, -1, before.Config.MaxDeliver)
	assert.Equal(t, 1016, before.Config.MaxAckPending)
	_, err := natsidem.EnsureConsumer(t.Context(), b.js, "ORDERS", []string{"orders.>", "orders.a.*"}, "billing", b.deduper(), b.cfg)
	require.NoError(t, err)
	assert.Equal(t, before.Config, b.info().Config)
	for _, other := range []string{"other.>", ">", "orders"} {
		_, err = natsidem.EnsureConsumer(t.Context(), b.js, "ORDERS", []string{other}, "billing", b.deduper(), b.cfg)
		require.ErrorIs(t, err, natsidem.ErrConfig, other)
		assert.Contains(t, err.Error(), "nats stream edit ORDERS --subjects orders.>,"+other)
	}
	_, err = natsidem.EnsureConsumer(t.Context(), b.js, "NONE", nil, "billing", b.deduper(), b.cfg)
	require.ErrorIs(t, err, jetstream.ErrStreamNotFound)
}

func TestStoreAndScopeAreNotedAtTheConsumer(t *testing.T) {
	t.Parallel()
	var log logBuffer
	b := newBench(t, func(b *bench) {
		b.cfg.IdleExit = 50 * time.Millisecond
		b.cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	cfg := b.info().Config
	cfg.Metadata = map[string]string{"owner": "team-a"}
	_, err := b.js.UpdateConsumer(t.Context(), "ORDERS", cfg)
	require.NoError(t, err)
	require.NoError(t, b.runOn("ORDERS", "billing"))
	require.NoError(t, b.runOn("ORDERS", "billing"))
	meta := b.info().Config.Metadata
	assert.Equal(t, "mem://test", meta[natsidem.MetadataStore])
	assert.Equal(t, scope, meta[natsidem.MetadataScope])
	assert.Equal(t, "team-a", meta["owner"], "other metadata is kept")
	assert.NotContains(t, log.String(), "ANOTHER")
	b.cfg.Scope = "another"
	require.NoError(t, b.runOn("ORDERS", "billing"))
	assert.Contains(t, log.String(), "ANOTHER idemq.scope")
}

func TestRunTwiceAtOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.publish("k", "1")
	stop := b.run(succeed)
	b.stats(func(s consumer.Stats) bool { return s.Executed == 1 })
	require.ErrorIs(t, b.w.Run(t.Context()), natsidem.ErrRunning)
	require.NoError(t, stop())
}
