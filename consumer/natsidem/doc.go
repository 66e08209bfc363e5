// Package natsidem is an idempotent consumer of NATS JetStream: a worker that pulls from a durable consumer and takes
// each message through the pipeline of package consumer, and [Wrap] for a message handler that exists already.
//
// # Defaults
//
//	Config.Workers      16                 handlers at once; few messages are pulled ahead of them
//	Config.Scope        "stream/durable"   whose memory the records are
//	Config.ConfirmAcks  false              a lost ack is a harmless duplicate
//	Config.Grace        10 s               for running handlers at shutdown, and half of it again after cancelling them
//	Config.DeadStream   IDEMQ_DEAD         with subjects below DeadPrefix, "idemq.dead"
//	Config.ReplayStream IDEMQ_REPLAY       with subjects below ReplayPrefix, "idemq.replay"
//	Config.NoReplays    false              replays are taken, and delays of a minute or more come back through that stream
//	Config.IdleExit     0                  never
//
// # The durable consumer
//
// Its settings are checked at start, because JetStream accepts some that lose messages or run them twice: it needs
// explicit acks, MaxDeliver −1 (attempts are counted in the store; the broker's count includes contention and outages),
// no BackOff (it breaks delayed naks), AckWait of at least the lease, and room for the workers in MaxAckPending. Each
// refusal names the command that mends it; [EnsureConsumer] creates one that fits.
//
// # Replays and long delays
//
// Replayed dead letters come back through a work queue of idemq's own, to the one consumer that they belong to, and so do
// retries that are due in a minute or later, where the server can schedule messages (2.12 and later): a delayed nak would
// hold one of MaxAckPending all the time. Run asks for them once a second. The handler sees the original message. A worker
// needs the right to create that stream and its consumer, unless both are there.
//
// # The connection
//
// Nothing is sent while the connection is down: what the client would buffer might arrive after the lease was lost, and
// the server accepts a stale ack. Connect with nats.MaxReconnects(-1), so that an outage of any length ends by itself,
// and with nats.ReconnectBufSize(-1), which closes the moment between looking at the connection and sending.
package natsidem
