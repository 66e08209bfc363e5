package natsidem_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
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
	"github.com/idemq/idemq/internal/testserver"
)

func TestNothingIsTerminatedBeforeTheStoreKnowsOfTheLetter(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.store.set(true, "lettersent")
	b.publish("k", "1")
	b.run(func(context.Context, *consumer.Message) error { return consumer.Permanent(errHandler) })
	assert.Contains(t, b.nextAnswer(), "-NAK {")
	assert.Equal(t, dedup.DeadOwed, b.store.record("k").State)
	b.store.set(false, "lettersent")
	for a := b.nextAnswer(); !strings.HasPrefix(a, "+TERM"); a = b.nextAnswer() {
		assert.Contains(t, a, "-NAK {")
	}
	assert.Equal(t, dedup.DeadSent, b.store.record("k").State)
	ids := map[string]bool{}
	for _, l := range b.letters.all() {
		ids[l.ID()] = true
	}
	assert.Len(t, ids, 1, "whoever publishes it again publishes the same one")
}

func TestTheLastAcksAreConfirmed(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(b *bench) { b.cfg.Grace = time.Millisecond })
	b.publish("k", "1")
	entered := make(chan struct{})
	stop := b.run(func(ctx context.Context, _ *consumer.Message) error {
		close(entered)
		<-ctx.Done() // the shutdown has begun
		return nil
	})
	<-entered
	require.NoError(t, stop())
	m := b.nextAnswerMsg()
	assert.Equal(t, "+ACK", string(m.Data))
	assert.NotEmpty(t, m.Reply, "nobody is left to answer for a lost one, so it is a request")
}

// A message whose headers cannot be parsed, and cannot be asked for, is given back.
func TestHeadersThatCannotBeLookedUp(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	srv := testserver.NATS(t, func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "all", Password: "x"},
			{Username: "some", Password: "x", Permissions: &server.Permissions{
				Publish: &server.SubjectPermission{Deny: []string{"$JS.API.STREAM.MSG.GET.>"}},
			}},
		}
	})
	b.srv, b.nc = srv, srv.Conn(t, nats.UserInfo("all", "x"))
	var err error
	b.js, err = jetstream.New(b.nc)
	require.NoError(t, err)
	_, err = natsidem.EnsureConsumer(t.Context(), b.js, "ORDERS", []string{"orders.>"}, "billing", b.deduper(), b.cfg)
	require.NoError(t, err)
	answers, err := b.nc.SubscribeSync("$JS.ACK.>")
	require.NoError(t, err)
	m := &nats.Msg{Subject: "orders.created", Header: nats.Header{"A": {"b"}}}
	_, err = b.js.PublishMsg(t.Context(), m)
	require.NoError(t, err)

	limited := srv.Conn(t, nats.UserInfo("some", "x"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	b.js, err = jetstream.New(limited)
	require.NoError(t, err)
	b.publishRawAs("all", "NATS/1.0\r\nno colon here\r\n\r\n", "body")
	b.run(succeed)
	for {
		a, err := answers.NextMsg(patience)
		require.NoError(t, err)
		if s := string(a.Data); s != "+WPI" && !strings.HasPrefix(s, "+TERM") {
			assert.Contains(t, s, "-NAK {", "not lost, not buried: tried again")
			assert.Contains(t, s, "delay")
			return
		}
	}
}

func TestStatusesOfAnEarlierPullEndNoLaterOne(t *testing.T) {
	t.Parallel()
	srv := testserver.NATS(t)
	nc, api := srv.Conn(t), srv.Conn(t)
	_, err := api.Subscribe("API.CONSUMER.MSG.NEXT.S.D", func(m *nats.Msg) {
		earlier := m.Reply[:strings.LastIndex(m.Reply, ".")] + ".0"
		_ = api.PublishMsg(&nats.Msg{Subject: earlier, Header: nats.Header{"Status": {"404"}}})
		_ = api.PublishMsg(&nats.Msg{Subject: m.Reply, Reply: "acks", Data: []byte("one")})
		_ = api.PublishMsg(&nats.Msg{Subject: m.Reply, Header: nats.Header{"Status": {"404"}}})
		_ = api.PublishMsg(&nats.Msg{Subject: m.Reply, Reply: "acks", Data: []byte("late")})
	})
	require.NoError(t, err)
	require.NoError(t, api.Flush())
	var mu sync.Mutex
	var got []string
	p, err := natsidem.NewPuller(nc, "API.", "S", "D", func(m *nats.Msg, asked bool) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, fmt.Sprint(string(m.Data), asked))
	})
	require.NoError(t, err)
	n, err := p.Pull(t.Context(), 5, time.Minute)
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	require.NoError(t, api.Flush())
	p.Close()
	mu.Lock()
	defer mu.Unlock()
	assert.Equal(t, []string{"onetrue", "latefalse"}, got, "what has arrived is handed out, for it to be given back")
}
