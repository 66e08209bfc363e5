package testserver

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func newStream(t testing.TB, nc *nats.Conn, name string) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	_, err = js.CreateStream(testContext(t), jetstream.StreamConfig{Name: name, Subjects: []string{name + ".>"}})
	require.NoError(t, err)
	return js
}

func TestNATSKeepsPortAndDataOverARestart(t *testing.T) {
	s := NATS(t)
	url := s.URL()
	nc := s.Conn(t)
	js := newStream(t, nc, "ORDERS")
	_, err := js.Publish(testContext(t), "ORDERS.created", []byte("one"))
	require.NoError(t, err)

	s.Restart(t)
	assert.Equal(t, url, s.URL())
	stream, err := mustJetStream(t, s.Conn(t)).Stream(testContext(t), "ORDERS")
	require.NoError(t, err)
	assert.EqualValues(t, 1, stream.CachedInfo().State.Msgs)
}

func mustJetStream(t testing.TB, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return js
}

func TestNATSConnectionsComeBack(t *testing.T) {
	s := NATS(t)
	reconnected := make(chan struct{}, 1)
	nc := s.Conn(t, nats.ReconnectHandler(func(*nats.Conn) { reconnected <- struct{}{} }))
	s.Stop()
	s.Stop() // a stopped server stays stopped
	s.Start(t)
	select {
	case <-reconnected:
	case <-testContext(t).Done():
		t.Fatal("the connection did not come back")
	}
	assert.True(t, nc.IsConnected())
	assert.True(t, runs(t, func(t testing.TB) { s.Start(t) }).Failed(), "a running server cannot be started")
}

func TestNATSTakesOptions(t *testing.T) {
	s := NATS(t, func(o *server.Options) { o.MaxPayload = 512 })
	assert.EqualValues(t, 512, s.Conn(t).MaxPayload())
	s.Restart(t)
	assert.EqualValues(t, 512, s.Conn(t).MaxPayload())
}

func TestSharedNATSIsOneServer(t *testing.T) {
	s := SharedNATS(t)
	assert.Same(t, s, SharedNATS(t))
	newStream(t, s.Conn(t), "TESTSERVER_SHARED")
	assert.PanicsWithValue(t, errShared, s.Stop)
	assert.Panics(t, func() { s.Restart(t) })
}

// The server removes an account's folder behind the deletion of its last stream: tests that follow each other, or run
// beside each other, must not meet that.
func TestStreamsComeAndGoOnTheSharedServer(t *testing.T) {
	js, err := jetstream.New(SharedNATS(t).Conn(t))
	require.NoError(t, err)
	var group sync.WaitGroup
	for _, name := range []string{"COMES", "GOES"} {
		group.Go(func() {
			for range 300 {
				_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{name}})
				if !assert.NoError(t, err) {
					return
				}
				assert.NoError(t, js.DeleteStream(t.Context(), name))
			}
		})
	}
	group.Wait()
}
