// Package consumer is the idempotent consumer without a transport: a delivery comes in, the key is claimed, the handler
// runs, the claim is settled, and only then the delivery is answered. Transports (natsidem for NATS JetStream) feed it
// through [Delivery]; a message that cannot succeed leaves it as a [Letter].
//
// # Defaults
//
//	Config.DeriveKey       none        a message without key becomes a dead letter
//	Config.Fingerprint     of Data     another payload under a known key becomes a dead letter
//	Config.StoreDown       StoreClosed give back and stop pulling while the store is down
//	Config.StoreDownDelay  5 s
//	Config.Backoff         1 s · 2ⁿ    at most 5 min, ± 20 %
//	Config.MaxBusyDelay    30 s        for keys held elsewhere
//	Config.ScheduleAfter   1 min       delays that do not wait at the broker, where the transport can schedule
//	Config.LetterDelay     5 s         when a dead letter cannot be published, or a record cannot be read
//	Config.MaxParked       256         duplicates kept aside in this process
//	Config.MaxAhead        512         claims ahead of the workers of a Flow, fewer for slow handlers
//	Config.MaxUnsettled    512         handled messages of a Flow that the store does not know of yet
//	Config.Remember        8192        keys settled here within a minute, whose duplicates need no store
//
// Lease, retention and the cap on attempts are settings of the dedup.Deduper.
package consumer
