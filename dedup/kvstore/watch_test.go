package kvstore

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/internal/testserver"
)

const (
	patience = 20 * time.Second
	tick     = 10 * time.Millisecond
)

// told waits for a signal of a channel that goes on.
func told(t testing.TB, c <-chan struct{}) {
	t.Helper()
	select {
	case _, open := <-c:
		require.True(t, open, "the watch has ended")
	case <-time.After(patience):
		require.FailNow(t, "nothing was told")
	}
}

// quiet takes the signals of what was before.
func quiet(c <-chan struct{}) {
	select {
	case <-c:
	default:
	}
}

func consumers(t testing.TB, s *Store) int {
	t.Helper()
	info, err := s.stream.Info(testContext(t))
	require.NoError(t, err)
	return info.State.Consumers
}

func TestWatchesOfAKeyShareAConsumer(t *testing.T) {
	s := open(t, connect(t))
	r := acquire(t, s, claimOf("1", "n"), dedup.Granted)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	var channels []<-chan struct{}
	for range 50 {
		c, err := s.Watch(ctx, r.Key)
		require.NoError(t, err)
		channels = append(channels, c)
	}
	assert.Equal(t, 1, consumers(t, s))
	cancel()
	for _, c := range channels {
		require.Eventually(t, func() bool {
			select {
			case _, open := <-c:
				return !open
			default:
				return false
			}
		}, patience, tick)
	}
	require.Eventually(t, func() bool { return consumers(t, s) == 0 }, patience, tick, "nothing is left behind")
}

// What is written while a watcher is cut off is told when it is back.
func TestWatchSurvivesARestart(t *testing.T) {
	srv := testserver.NATS(t)
	js, err := jetstream.New(srv.Conn(t))
	require.NoError(t, err)
	s, err := New(testContext(t), js, Config{Bucket: bucketOf(t)})
	require.NoError(t, err)
	r := acquire(t, s, claimOf("1", "n"), dedup.Granted)
	c, err := s.Watch(testContext(t), r.Key)
	require.NoError(t, err)
	absent, err := s.Watch(testContext(t), claimOf("2", "n").Key)
	require.NoError(t, err)
	quiet(c)
	srv.Restart(t)
	settle := func(r dedup.Record) {
		// A write that the restart has swallowed is never answered, and must not be waited for all the time.
		require.Eventually(t, func() bool {
			ctx, cancel := context.WithTimeout(testContext(t), 2*time.Second)
			defer cancel()
			return s.Settle(ctx, holdOf(r), dedup.Settlement{State: dedup.Consumed, Retention: time.Hour}) == nil
		}, time.Minute, tick)
	}
	settle(r)
	told(t, c)
	settle(acquire(t, s, claimOf("2", "n"), dedup.Granted))
	told(t, absent)
}

// A user who may not make consumers is told so, once, and asks again and again instead.
func TestWatchWithoutTheRight(t *testing.T) {
	srv := testserver.NATS(t, func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "all", Password: "x"},
			{Username: "some", Password: "x", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$JS.API.CONSUMER.>"}}}},
		}
	})
	all, err := jetstream.New(srv.Conn(t, nats.UserInfo("all", "x")))
	require.NoError(t, err)
	_, err = New(testContext(t), all, Config{Bucket: bucketOf(t)})
	require.NoError(t, err)
	js, err := jetstream.New(srv.Conn(t, nats.UserInfo("some", "x"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})))
	require.NoError(t, err)
	s, err := New(testContext(t), js, Config{Bucket: bucketOf(t)})
	require.NoError(t, err)
	d, err := dedup.New(s, dedup.Config{})
	require.NoError(t, err)
	k := claimOf("1", "n").Key
	g, _, err := d.Begin(t.Context(), k, dedup.Fingerprint{})
	require.NoError(t, err)
	for range 2 {
		_, err = s.Watch(testContext(t), k)
		var se *dedup.StoreError
		require.ErrorAs(t, err, &se)
		require.ErrorContains(t, err, "CONSUMER.CREATE")
	}
	time.AfterFunc(50*time.Millisecond, func() { assert.NoError(t, g.Consume(context.Background(), []byte("polled"))) })
	out, err := d.Await(testContext(t), k)
	require.NoError(t, err)
	require.Equal(t, "polled", string(out.Result()))
}
