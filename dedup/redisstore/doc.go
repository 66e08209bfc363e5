// Package redisstore keeps records in Redis, or in a server that speaks its protocol and runs its scripts. It is the
// store for production. Every change is one script, or one SET … IFEQ where the server has it, so it is atomic, and leases
// are measured by the server's clock.
//
// # What the server must be
//
// Redis 6.2 or later. maxmemory-policy must be noeviction: every key of ours has a time to live, so any volatile-* or
// allkeys-* policy evicts leases and memories, and an evicted record is forgotten. An append-only file keeps records
// over a restart (appendfsync everysec loses at most about a second of them). [Store.Check] looks for both, and says so
// where a server does not tell.
//
// The client should set ContextTimeoutEnabled, as [Open] does: without it go-redis sits out its ReadTimeout (3 s) at a
// server that hangs, past the deadline of the call. go-redis also repeats commands by itself. That is safe, because every
// script is repeatable under the same nonce, but an error tells of the last try only: a write that was sent, followed by a
// reconnect that was refused, looks like one that was never sent.
//
// # Addresses
//
// [Open] takes these; with rediss instead of redis the connections are TLS:
//
//	redis://[user:password@]host[:6379][/db]                               one server
//	unix://[user:password@]/path/to/socket[?db=0]                          one server on this machine
//	redis+sentinel://[user:password@]host[:26379][,host...]/MASTER[/db]    the master of a Sentinel group
//	redis+cluster://[user:password@]host[:6379][,host...]                  a Cluster
//
// The hosts of a Sentinel group are its sentinels, those of a Cluster any of its nodes; more are found by asking them. User
// and password are the servers'. Special characters in any part must be percent-encoded. Parameters behind a question mark:
//
//   - prefix: what [Config].Prefix is.
//   - sentinel_user, sentinel_password: what the sentinels themselves demand. Default to nothing.
//   - tls_ca: a file with the certificates, in PEM form, of the only authorities that are trusted. Defaults to the system's.
//   - tls_cert, tls_key: files with the client's own certificate and key. Default to none.
//   - tls_server_name: the name that the servers' certificates must bear. Defaults to the host of each connection, so on a
//     Cluster and with Sentinel to the addresses that the nodes announce.
//   - the options of go-redis for the kind of client, such as pool_size or read_timeout (see redis.ParseURL,
//     redis.ParseFailoverURL and redis.ParseClusterURL), except those that would read from replicas.
//
// Any other parameter is an error. [Store.Describe] returns such an address without credentials, and of the parameters only
// prefix and the socket's db: what opens the same place once credentials and files are added.
//
// # Many callers
//
// Calls of many goroutines travel together: those that come while a round trip is under way queue and make up the next, of
// at most 256 calls and 1 MiB unless one alone is larger. A call that comes alone is sent at once. Each caller gets its own
// answer and leaves with its own context: with the context's error if its call was not sent yet, else with an indeterminate
// *dedup.StoreError, after which the same nonce finds the claim. A round trip lasts until the last deadline of those in it.
// [Config].NoCoalescing sends each call on its own.
//
// # Sentinel and Cluster
//
// A client of a Sentinel group follows the master by itself; calls fail until a replica is promoted, as *dedup.StoreError,
// and go on afterwards. Three sentinels with down-after-milliseconds of 1 s took 2 to 3 s. On a Cluster keys spread over the
// masters, and a batch is one round trip to each of them. A slot may move to another master while claims run: nothing is
// granted twice or forgotten by that.
//
// # What a failover can lose
//
// Redis replicates asynchronously. A replica that is promoted may not have the last writes: a claim can be forgotten
// while its handler runs (then the handler's heartbeat fails, it is cancelled, and the message is delivered again), and
// so can a consumed key (then its next duplicate runs again). Fences keep growing over a failover as long as the new
// server's clock is not behind.
//
// [Config].WaitReplicas makes every write wait for replicas. Fewer than all of them narrow the window and do not close it,
// since a replica without the write may be promoted. All of them close it, but then no write succeeds while one is away. On
// a Cluster the writes then go to each master by itself, with one WAIT behind them; a key whose slot is just being moved to
// another master is refused until the move is over.
//
// Measured with one master, two replicas, three sentinels and four workers that claim and settle without a pause, all on
// one machine (2 cores, Redis 7.0.15), as consumed keys that the new master did not know, of all that were confirmed:
//
//	                                  WaitReplicas=0    WaitReplicas=1    WaitReplicas=2
//	master killed                     0 of 335          0 of 340
//	master suspended                                    0 of 327
//	SENTINEL FAILOVER, master alive   573 of 1339       404 of 935        0 of 156
//
// A killed process leaves what it had sent to the kernel, which still delivers it; a machine or a network that dies does
// not, so the zeros of the first line are no promise. The last line is the worst: the old master goes on confirming writes,
// one replica still confirming them too, until the sentinels have moved everybody. Stop the consumers before such a
// failover, or set WaitReplicas to the number of replicas. The figures differ from run to run; this prints them:
//
//	go test ./dedup/redisstore -run TestASentinelFailoverUnderTraffic -v
//
// # Layout
//
// One string per record, in the readable form of dedup.EncodeRecord, under
//
//	idemq:{ORDERS/billing|order-4711}
//
// The braces make the whole name one hash tag, so a record never spreads over slots; braces, bars and percent signs in
// scope and key are percent-encoded. The time to live is the record's memory, never its lease.
//
// # Compact memory
//
// Most of what is remembered is keys that are consumed and have no result. With [Config].Layout [Compact] each becomes, as
// it is settled, an entry of 24 bytes in a hash of many: the first half of a SHA-256 of its name, when it expires, and the
// beginning of its fingerprint; 35 to 44 bytes a key with everything around it (docs/performance.md), where a record takes
// 320. Claims, failed and dead keys stay readable records, and so does what is consumed with a result, with steps, after a
// replay, or for less than a lease and two seconds. The record of a consumed key itself stays for one lease more, so that a
// repeated Settle succeeds; after that it is [dedup.ErrLeaseLost]. What is different with a key of which only the digest is
// left:
//
//   - It is remembered for its retention, and up to one second longer.
//   - Acquire and Get know its state and its expiry, not its fence, nonce, fingerprint and times. List does not show it, since
//     a digest does not tell the key. Forget and Reopen work.
//   - Another payload under its key is taken for the same with odds of 1 to 2^32, or if nobody took a fingerprint. Of a
//     billion keys in a scope, two have the same digest with odds of 1 to 10^20; the later one would be taken for a duplicate.
//
// Buckets expire with their last entry, and each new entry looks at two others of its bucket and drops those that are over.
// A bucket lies in the slot of its records. [Config].Buckets says how many there are, [Store.Check] whether the server keeps
// hashes of that size in compact encoding. A key costs the server more time: it is looked up in two places.
//
// A store with [Readable] does not look for digests, so workers with [Readable] and with [Compact] must not share a scope.
// [Moving] is the step between them: it looks for digests and makes none. To compact, restart all workers with [Moving], one
// after another, and then with [Compact]. Back again, restart them with [Moving], wait until the retention is over, and then
// restart them with [Readable]. What operators run needs [Moving] or [Compact], too, to show and forget these keys. The fast
// tier of a tieredstore should be [Readable], for it compares fences. Users need the rights of docs/permissions.md.
//
// # Defaults
//
//	Config.Prefix        "idemq:"
//	Config.WaitReplicas  0        do not wait
//	Config.WaitTimeout   1 s      if WaitReplicas is set
//	Config.NoCoalescing  false    calls travel together
//	Config.Layout        Readable
//	Config.Buckets       4096     if Layout is Moving or Compact; 16384 on a Cluster
package redisstore
