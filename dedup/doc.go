// Package dedup makes an operation idempotent: it claims the operation's key in a store, lets the caller run it, and
// remembers what came of it. It is the core under the message consumers and the HTTP middleware, and can be used by
// itself:
//
//	d, err := dedup.New(memstore.New(memstore.Config{}), dedup.Config{})
//	out, err := d.Do(ctx, dedup.Key{Scope: "invoices", ID: "2026-0815"}, sendInvoice)
//
// A key is absent, acquired under a lease, failed (to be tried again), consumed, or dead. Who holds the lease proves it
// with a fence, a number that grows with every claim of the key, and a nonce. Delivery stays at-least-once: a crash
// between the effect and the settlement repeats the effect, and only the sink can bar that, by the key or the fence
// that the handler's context carries.
//
// # Defaults
//
//	Config.Lease           30 s        how long a claim holds without a heartbeat
//	Config.Margin          Lease / 10  how long before its end the holder stops trusting it
//	heartbeat              Lease / 3   not configurable
//	Config.Retention       24 h        memory of consumed keys
//	Config.DeadRetention   90 days     memory of dead and reopened keys
//	Config.MaxAttempts     5           tries before a key is dead; negative: no limit
//	Config.Abandoned       Rerun       a vanished owner's key is taken over
//	Config.MaxAbandoned    no limit    1 with the policy DeadLetter
//	Config.MaxInterrupted  100         tries given back uncounted because of shutdowns
//	Config.SettleInTx      false       handlers settle in their own transaction (SettleTx), all of them
//	Config.StoreTimeout    2 s         one call of the store; at most Lease / 3
//	Config.StepCodec       JSON        of the results of steps
//	Config.MaxStepBytes    512 KiB     all steps of one key together
//	MaxSteps               100         steps of one key
//	MaxKeyLength           255 bytes   of a key and of a scope
//	MaxCauseLength         512 bytes   of an error's text kept in the record
//
// The package imports the standard library only.
package dedup
