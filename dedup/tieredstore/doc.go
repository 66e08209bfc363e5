// Package tieredstore puts a fast store in front of a durable one: client, server, cache, database. Claims and leases are in
// the fast tier (Redis), what is settled is in both, and the durable tier (SQL, JetStream KV) decides:
//
//	store, err := tieredstore.New(redisstore.New(rdb, redisstore.Config{}), durable, tieredstore.Config{})
//	d, err := dedup.New(store, dedup.Config{})
//
// A duplicate that the fast tier knows costs the fast tier only. Everything else that leads to a run or to a dead letter
// is read in the durable tier first: no claim is granted, fresh or taken over, before the durable tier has said that the
// key is not settled. So what was consumed does not run again, whatever the fast tier has forgotten: flushed, failed
// over, evicted; it is warm again with the first question for each key.
//
// # What is where
//
//	acquired, failed            fast tier; lost with it, see below
//	consumed, dead              durable tier first, then the fast one; nothing is settled before the durable one has it
//	reopened for a replay       both; Reopen succeeds when the durable one has it
//	steps (dedup.Step)          durable tier, if it is a dedup.StepStore, with a copy of the claim that they need; else fast
//	signals (Watch)             fast tier, if it is a dedup.Watcher, else durable
//
// # When the fast tier has lost everything
//
// A record in it, the marker, shows that it has not. When the marker is gone no claim is granted for as long as a lease
// lasts ([Config.Quarantine]): the verdict is Busy. Meanwhile those who held claims put them back with their next
// heartbeat, or settle. So nothing runs beside a handler that is at work, and what it has done is recorded. What is
// forgotten is how often a key was tried, and until when a retry was to wait; keys with steps keep their attempts.
//
// The marker shows the loss of everything, not of single records: a failover that forgets the last writes, or an eviction
// (use maxmemory-policy noeviction), may forget a claim while its handler runs, and then another worker may get the key.
// Only one of the two settles: who is first in the durable tier; the other gets [dedup.ErrLeaseLost]. The effect may have
// come twice then, as with a lost lease anywhere.
//
// # When a tier is down
//
// Fast tier: nothing new is granted, a key that is settled is answered from the durable tier, and a holder whose lease
// still runs settles in the durable tier alone. Claims are not made in the durable tier instead: two workers that
// disagree whether the fast tier is down would both get one. Durable tier: nothing is granted or settled, duplicates in
// the fast tier are answered. The error is a [*dedup.StoreError], so that a consumer gives the message back. Settlements
// are never written behind.
//
// # Limits
//
// App servers with durable tiers of their own that synchronise slowly are protected by the fast tier that they share while
// it remembers, and by nothing once it has forgotten. The durable tier must answer from its primary. New refuses tiers
// that are swapped where it can see it; two stores in memory look alike to it.
package tieredstore
