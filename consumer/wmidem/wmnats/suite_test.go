package wmnats_test

import (
	"flag"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/stretchr/testify/require"
)

// stress runs the suite's stress variant: many copies of it at once.
var stress = flag.Bool("watermill.stress", false, "run the stress variant of Watermill's universal suite")

// features is what JetStream can give. Order is not among it with several workers; see TestUniversalSuiteInOrder.
func features() tests.Features {
	return tests.Features{ConsumerGroups: true, Persistent: true, ForceShort: !*stress}
}

func runSuite(t *testing.T, group func(t *testing.T, group string) (message.Publisher, message.Subscriber)) {
	t.Helper()
	f := tests.TestPubSub
	if *stress {
		f = tests.TestPubSubStressTest
	}
	f(t, features(), func(t *testing.T) (message.Publisher, message.Subscriber) { return group(t, "test") }, group)
}

// TestUniversalSuite is Watermill's own suite for every Pub/Sub.
func TestUniversalSuite(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	runSuite(t, func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
		return s.publisher(), s.subscriber(t, group, 0)
	})
}

// The same with each subscriber decorated by wmidem, each group with a scope of its own.
func TestUniversalSuiteDecorated(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	runSuite(t, func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
		sub, err := s.idempotency(t).Decorator(group)(s.subscriber(t, group, 0))
		require.NoError(t, err)
		return s.publisher(), sub
	})
}

// With one worker the order is that of the stream.
func TestUniversalSuiteInOrder(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	f := features()
	f.GuaranteedOrder, f.GuaranteedOrderWithSingleSubscriber = true, true
	for name, test := range map[string]func(*testing.T, tests.TestContext, tests.PubSubConstructor){
		"in order": tests.TestPublishSubscribeInOrder, "no ack": tests.TestNoAck,
	} {
		for kind, decorate := range map[string]bool{"plain": false, "decorated": true} {
			t.Run(name+" "+kind, func(t *testing.T) {
				t.Parallel()
				test(t, tests.TestContext{TestID: tests.NewTestID(), Features: f}, func(t *testing.T) (message.Publisher, message.Subscriber) {
					var sub message.Subscriber = s.subscriber(t, "test", 1)
					if decorate {
						var err error
						sub, err = s.idempotency(t).Decorator("test")(sub)
						require.NoError(t, err)
					}
					return s.publisher(), sub
				})
			})
		}
	}
}
