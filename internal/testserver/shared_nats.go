package testserver

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// anchorStream is a stream that stays.
const anchorStream = "TESTSERVER_ANCHOR"

// SharedNATS returns the NATS server that all tests of this process share,
// started by the first that asks and stopped by [Main]. Tests must use streams
// and subjects of their own. It cannot be stopped or restarted; a test of
// outages takes [NATS].
func SharedNATS(t testing.TB) *NATSServer {
	t.Helper()
	current.mustBeEntered(t)
	s, err := startSharedNATS()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var startSharedNATS = sync.OnceValues(func() (*NATSServer, error) {
	dir, err := os.MkdirTemp("", "idemq-nats-")
	if err != nil {
		return nil, err
	}
	current.atExit(func() error { return os.RemoveAll(dir) })
	s, err := startNATS(dir)
	if err != nil {
		return nil, err
	}
	if err := s.anchor(); err != nil {
		s.stop()
		return nil, err
	}
	s.shared = true
	current.atExit(func() error { s.stop(); return nil })
	return s, nil
})

// anchor makes a stream that nobody deletes. When the last stream of an account
// is deleted, the server removes the folder of its streams in the background,
// and a stream that is made meanwhile fails with "error creating store".
func (s *NATSServer) anchor() error {
	nc, err := nats.Connect(s.URL())
	if err != nil {
		return fmt.Errorf("testserver: connect to NATS: %w", err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("testserver: JetStream: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), natsStartLimit)
	defer cancel()
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: anchorStream, Subjects: []string{"testserver.anchor"}})
	if err != nil {
		return fmt.Errorf("testserver: create stream %s: %w", anchorStream, err)
	}
	return nil
}
