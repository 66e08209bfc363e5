package wmnats_test

import (
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/consumer/wmidem"
	"github.com/idemq/idemq/consumer/wmidem/wmnats"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/internal/testserver"
	"github.com/idemq/idemq/publisher/natspub"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == restartArgument {
		restart(os.Args[2])
		return
	}
	testserver.Main(m, testserver.VerifyLeaks( // the suite's own, which never ends
		goleak.IgnoreAnyFunction("github.com/ThreeDotsLabs/watermill/pubsub/tests.TestReconnect.func2")))
}

const (
	soon     = time.Minute
	patience = 60 * time.Second // for what waits for a server to come back, on a loaded machine
	tick     = 5 * time.Millisecond
)

var quiet = slog.New(slog.DiscardHandler)

// server is a NATS server, and a store beside it.
type server struct {
	srv   *testserver.NATSServer
	js    jetstream.JetStream
	nc    *nats.Conn
	store *memstore.Store
	d     *dedup.Deduper
}

func newServer(t testing.TB) *server {
	t.Helper()
	s := &server{srv: testserver.NATS(t), store: memstore.New(memstore.Config{})}
	s.nc = s.srv.Conn(t)
	var err error
	s.js, err = jetstream.New(s.nc)
	require.NoError(t, err)
	// The suite nacks its messages more often than they would have attempts.
	s.d, err = dedup.New(s.store, dedup.Config{Lease: 10 * time.Second, MaxAttempts: -1})
	require.NoError(t, err)
	require.NoError(t, deadletter.New(s.js, deadletter.Config{}).Ensure(t.Context()))
	return s
}

func (s *server) publisher() message.Publisher {
	return wmnats.NewPublisher(s.js, natspub.Config{})
}

func (s *server) subscriber(t testing.TB, group string, workers int) *wmnats.Subscriber {
	t.Helper()
	sub, err := wmnats.NewSubscriber(s.js, s.d, wmnats.SubscriberConfig{
		Config: natsidem.Config{
			Config: consumer.Config{Logger: quiet}, Workers: workers, Grace: 500 * time.Millisecond, NoReplays: true,
		},
		Group: group, Create: true, NackDelay: 10 * time.Millisecond,
	})
	require.NoError(t, err)
	return sub
}

func (s *server) idempotency(t testing.TB) *wmidem.Idempotency {
	t.Helper()
	i, err := wmidem.New(s.d, wmidem.Config{
		Config: consumer.Config{
			Letters: deadletter.New(s.js, deadletter.Config{}), Logger: quiet,
			Backoff: consumer.Backoff{Initial: 10 * time.Millisecond, Max: 50 * time.Millisecond},
		},
		Grace: 300 * time.Millisecond,
	})
	require.NoError(t, err)
	return i
}
