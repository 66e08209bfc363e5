// Package deadletter keeps dead letters in a JetStream stream of idemq's own, so that no message that failed is lost, and
// sends them through their handlers again. A message is terminated only after [Queue.Publish] has the stream's
// confirmation.
//
//	queue := deadletter.New(js, deadletter.Config{})
//	err := queue.Ensure(ctx)
//
// # Letters
//
// A letter is one message on "<prefix>.<stream>.<durable>.<class>": the headers are those of consumer.Letter, the body
// is the original body, and the Nats-Msg-Id is the letter's id, so that a repeated publication is stored once within the
// stream's duplicate window; later copies share the id. Characters that a subject token cannot hold become "_"; the true
// names are in the headers.
//
// Headers count towards the server's maximum payload, so a message of that size does not fit beside its diagnostics.
// Then the stack goes and the error is cut short; if that is not enough, the body, and headers that are too large, go
// in parts to "<prefix>.<stream>.<durable>.<class>.part", all of them confirmed before the letter. [Queue.Get] puts them
// together and checks them against a digest. Parts whose letter was never published stay behind and do no harm.
//
// # Looking
//
// Publishers of Watermill put letters of every kind on "<prefix>.watermill.any.any" (see wmidem); filters look there, too.
//
// [Queue.List] walks over the headers, oldest first; [Queue.Find] finds letters by their ids; [Queue.Get] and [Queue.Read]
// return a whole one. An [Entry] is addressed by its sequence, never by its key. What is no letter is shown, not
// hidden. [Queue.Discard] is the only thing that removes an entry.
//
// # Replaying
//
// A [Replayer] takes an entry through three steps, each confirmed before the next and each repeatable, by any number of
// replayers at once:
//
//  1. Reopen the key in the store, by the fence of the letter. If the key has been consumed meanwhile, or died again with
//     a later letter, the entry is [Resolved] and nothing is published.
//  2. Publish the message under the same idempotency key into the [ReplayStream], with a Nats-Msg-Id that comes from the
//     letter's id: a duplicate there means that somebody has done it.
//  3. Mark exactly this entry: one message on "<mark prefix>.<sequence>", in place of an earlier one.
//
// A replay that was interrupted after any of them is simply done again; the handler runs once. If the mark is refused
// the replay says so ([Replayed].Unmarked). Whatever could be wrong with the message, its size included, is found before
// the first step.
//
// Letters of class missing_key and malformed have no key of their own, and the key of a conflict is another's. They are
// replayed under a given key, or under one derived from scope, stream and sequence, without the first step.
//
// The replay stream is a work queue, so that a replay reaches the one consumer whose message died and nobody else:
// "<prefix>.run.<stream>.<durable>". On "<prefix>.later.<stream>.<durable>.<id>" messages wait for their time, where the
// server has schedules (2.12). [DecodeReplay] reads a message of it: the headers of the letter without the stack, with the
// header Idempotency-Key set to the key of the replay and its death added to the history.
// The server adds Nats-Scheduler and Nats-Schedule-Next to a message whose time has come, and takes its Nats-Schedule,
// Nats-Schedule-Target, Nats-Msg-Id, Nats-TTL, Nats-Rollup and Nats-Expected headers away.
//
// # Defaults
//
//	Config.Stream                 IDEMQ_DEAD
//	Config.Prefix                 idemq.dead
//	Config.MarkPrefix             idemq.mark     one subject per handled entry, the last mark kept (rollup)
//	Config.Replicas               1              3 in production, and a server that syncs always
//	Config.Timeout                5 s            for one confirmation
//	stream                        limits retention, discard new, file storage, no limits of its own
//
//	ReplayStreamConfig.Stream     IDEMQ_REPLAY
//	ReplayStreamConfig.Prefix     idemq.replay
//	ReplayStreamConfig.Replicas   1              3 in production
//	ReplayStreamConfig.Timeout    5 s
//	replay stream                 work queue, file storage, schedules; no limits, since schedules exclude discard new
//
//	ReplayConfig.DeadRetention    90 days        older entries are replayed only if the operator insists
package deadletter
