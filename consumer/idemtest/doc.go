// Package idemtest tests a handler of yours for what no framework can prevent: effects that come twice because the handler
// runs twice. [Run] takes the handler through redelivery, a crash after its effect, a lost lease, parallel duplicates,
// poison and slow runs, in subtests of these names, and fails the test with what happened, why, and what to do, wherever
// an effect was repeated or got lost.
//
//	func TestCharge(t *testing.T) {
//		idemtest.Run(t, func(effects *idemtest.Effects) consumer.Handler {
//			return consumer.JSON(charge(&fakeGateway{effects: effects}))
//		}, idemtest.Message("order-4711", `{"id":4711}`))
//	}
//
// What an effect is, is yours to say: the fake of the handler's sink calls [Effects.Record] or [Effects.RecordKey] when it
// has one, and does not when it refuses a duplicate. The examples show a handler that fails and the same one mended.
//
// # How it runs
//
// The handler runs in the real pipeline (package consumer) on an in-memory store, between simulated workers and a
// simulated broker that keeps the rules of JetStream: what is not answered within the deadline is delivered again, a nak
// delays, answers of earlier deliveries count. All of it happens in virtual time, in a bubble of testing/synctest: leases
// and backoffs pass at once, and nothing sleeps. So the handler and its fakes must be made in the function given to Run,
// for every scenario anew, and must not wait for anything outside: no network, no channel or ticker made elsewhere. Wait
// in them as usual, with time.After or time.Sleep.
//
// # Defaults
//
//	lease                 30 s          as everywhere; the broker's deadline is 1 s longer
//	attempts              5             backoff 1 s · 2ⁿ, without jitter
//	parallel duplicates   8             of each message, over 2 workers
//	patience              2 days        of virtual time, after which a message that is not done with is reported
package idemtest
