package natsidem_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/internal/testserver"
	"github.com/idemq/idemq/publisher"
)

// By default letters go to a stream of their own, which Run creates; one larger than the server takes loses nothing.
func TestLettersGoToTheirStream(t *testing.T) {
	t.Parallel()
	const limit = 8 << 10
	srv := testserver.NATS(t, func(o *server.Options) { o.MaxPayload = limit })
	js, err := jetstream.New(srv.Conn(t))
	require.NoError(t, err)
	ctx := t.Context()
	d, err := dedup.New(newFaulty(), dedup.Config{})
	require.NoError(t, err)
	cfg := natsidem.Config{IdleExit: 50 * time.Millisecond, DeadStream: "PROD_DEAD", DeadPrefix: "prod.dead"}
	_, err = natsidem.EnsureConsumer(ctx, js, "ORDERS", []string{"orders.>"}, "billing", d, cfg)
	require.NoError(t, err)
	body := bytes.Repeat([]byte("x"), limit-200)
	for key, data := range map[string][]byte{"small": []byte("1"), "large": body} {
		_, err = js.PublishMsg(ctx, &nats.Msg{Subject: "orders.created", Header: nats.Header{publisher.KeyHeader: {key}}, Data: data})
		require.NoError(t, err)
	}
	w, err := natsidem.New(js, "ORDERS", "billing", d, consumer.HandlerFunc(func(context.Context, *consumer.Message) error {
		return consumer.Permanent(errHandler)
	}), cfg)
	require.NoError(t, err)
	require.NoError(t, w.Run(ctx))
	assert.EqualValues(t, 2, w.Stats().DeadLettered)

	q := deadletter.New(js, deadletter.Config{Stream: "PROD_DEAD", Prefix: "prod.dead"})
	dead, err := js.Stream(ctx, "PROD_DEAD")
	require.NoError(t, err)
	found := map[string]int{}
	for seq := uint64(1); seq <= dead.CachedInfo().State.LastSeq; seq++ {
		if l, err := q.Read(ctx, seq); err == nil {
			found[l.Key] = len(l.Data)
		}
	}
	assert.Equal(t, map[string]int{"small": 1, "large": len(body)}, found)
}
