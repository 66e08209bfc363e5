// Package kvstore keeps records in a NATS JetStream key-value bucket, so that a consumer that already has NATS needs no
// second server.
//
//	store, err := kvstore.New(ctx, js, kvstore.Config{})
//	d, err := dedup.New(store, dedup.Config{})
//
// # How it works
//
// Every call reads the entry from the stream's leader, applies the rules of package transition, and writes with a
// compare-and-set on the entry's revision. The fence of a claim is the revision of the write that acquired it, which the
// server never gives twice while the bucket exists, not after an expiry or a Forget either. Times are the server's: they
// are asked for with every call, and no clock of the client is ever compared with them.
//
// A record's memory is the message's own time to live, in whole seconds, rounded up; the exact end is in a header, and
// a record past it counts as absent. KeyValue.Create can set such a time to live and KeyValue.Update clears it, so writes
// go to the bucket's subject directly.
//
// # Limits
//
//   - It needs nats-server 2.11 or later, for the time to live.
//   - It has no batches, and a change is two round trips (the entry and the server's time together, then the write). It
//     is slower than Redis, and many workers on one key retry against each other.
//   - The bucket must not have a limit marker TTL: when a record expires, such a bucket's server writes a marker over the
//     key without looking whether a newer record is there. [New] makes the bucket without one and refuses one that has it.
//   - A server acknowledges before it has synced to disk (sync_interval, two minutes by default): a power failure of a
//     single server forgets the last records, and their messages may run again. Set sync_interval to always, or use three
//     replicas on machines that do not fail together, or both.
//   - With replicas a deposed leader may answer a read from the past. So every answer that leads to an acknowledgement is
//     confirmed with a compare-and-set of the same bytes, which costs a round trip more. Get and List are not confirmed.
//   - With replicas a lease may be judged by another server after a change of leader: the servers' clocks must agree to
//     less than the margin of the lease (NTP).
//   - Deleting and creating the bucket anew, or restoring an old snapshot, forgets records and lets fences start over.
//   - A result larger than the server's max_payload, less about 600 bytes, cannot be stored; the settlement fails with
//     a [dedup.StoreError] that says so.
//   - The bucket's users can write anything into it. What is not a record is [dedup.ErrUnreadable] for its key alone.
package kvstore
