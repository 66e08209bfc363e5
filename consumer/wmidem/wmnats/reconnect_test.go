package wmnats_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The suite restarts the broker by a command: this test binary, which asks the test that has the server.
const restartArgument = "-restart-nats"

func restart(url string) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url, http.NoBody)
	if err == nil {
		var resp *http.Response
		if resp, err = http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// restartCommand is a command that restarts the server and returns when it is there again.
func (s *server) restartCommand(t *testing.T) []string {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	h := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { s.srv.Restart(t) }))
	t.Cleanup(h.Close)
	return []string{self, restartArgument, h.URL}
}

// Watermill's own test sends 10,000 messages from 100 goroutines through two restarts, and has a time limit which a slow machine
// may not keep with the race detector: it runs with -watermill.stress. TestARestartLosesNothing is the same in small.
func TestUniversalSuiteReconnect(t *testing.T) {
	t.Parallel()
	if !*stress {
		t.Skip("runs with -watermill.stress")
	}
	for kind, decorate := range map[string]bool{"plain": false, "decorated": true} {
		t.Run(kind, func(t *testing.T) {
			s := newServer(t)
			f := features()
			f.RestartServiceCommand = s.restartCommand(t)
			tests.TestReconnect(t, tests.TestContext{TestID: tests.NewTestID(), Features: f}, func(t *testing.T) (message.Publisher, message.Subscriber) {
				return s.publisher(), s.decorated(t, decorate)
			})
		})
	}
}

func (s *server) decorated(t *testing.T, decorate bool) message.Subscriber {
	t.Helper()
	var sub message.Subscriber = s.subscriber(t, "test", 0)
	if decorate {
		var err error
		sub, err = s.idempotency(t).Decorator("test")(sub)
		require.NoError(t, err)
	}
	return sub
}

func TestARestartLosesNothing(t *testing.T) {
	t.Parallel()
	for kind, decorate := range map[string]bool{"plain": false, "decorated": true} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			const messages = 60
			s := newServer(t)
			pub, sub := s.publisher(), s.decorated(t, decorate)
			in, err := sub.Subscribe(t.Context(), "restart.orders")
			require.NoError(t, err)
			published := make(chan struct{})
			go func() {
				defer close(published)
				for i := range messages {
					if i == messages/3 || i == messages/2 {
						s.srv.Restart(t)
					}
					msg := message.NewMessage(fmt.Sprint(i), []byte("x"))
					msg.Metadata.Set("Idempotency-Key", msg.UUID)
					assert.Eventually(t, func() bool { return pub.Publish("restart.orders", msg) == nil }, patience, tick)
				}
			}()
			seen := map[string]bool{}
			limit := time.After(patience)
			for len(seen) < messages {
				select {
				case msg := <-in:
					seen[msg.UUID] = true
					msg.Ack()
				case <-limit:
					require.Fail(t, "messages are missing", "%d of %d have come", len(seen), messages)
				}
			}
			<-published
			assert.NoError(t, sub.Close())
		})
	}
}
