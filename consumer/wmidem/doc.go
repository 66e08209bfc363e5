// Package wmidem makes handlers of Watermill routers idempotent, on any Pub/Sub: a duplicate is acknowledged without
// running, a failure is tried again, and what cannot succeed becomes a dead letter.
//
//	idem, err := wmidem.New(d, wmidem.Config{DeadLetter: pub})
//	err = idem.Install(router) // before AddMiddleware
//
// A subscriber decorator claims the key of each message before the router sees it and hands the router a copy, whose
// context has key, fence and attempt (dedup.KeyFrom and so on) and ends if the lease is lost. When the router acks, which
// is after it has published the outputs, the key is settled and only then the original is acked. A nack releases the key.
// Outputs bear keys derived from the consumed one and their position; see [OutputKey].
//
// # Defaults
//
//	Config.DeadLetter   none                      required, unless Letters is set
//	Config.DeadTopic    idemq.dead.watermill.any.any
//	Config.Scope        the handler's name        whose memory the records are; an empty name is refused
//	Config.DeriveKey    none                      a message without Idempotency-Key becomes a dead letter; [MessageUUID]
//	Config.MaxHold      10 s                      of a message before it is nacked
//	Config.Grace        10 s                      for running handlers at shutdown, and half of it again after cancelling them
//
// # Other middlewares
//
// Call Install first, so that its middleware stands outside of all others and sees what they make of an error.
//
//	Retry          its tries are one attempt of ours, on either side, and it tries permanent errors again, too. Leave it
//	               out: retries are ours, with a delay that holds no handler
//	PoisonQueue    takes the first failure for itself: the key is consumed, never retried, and no dead letter of ours. Leave
//	               it out: DeadLetter is in its place. Outside of Install this is logged, inside it cannot be seen
//	Recoverer      not needed: a panic is a retryable error. Inside, the stack comes as a part of the error's text
//	Timeout        on either side; every attempt has its whole time. With Retry outside of it, set ResetContextOnRetry
//	CorrelationID  on either side
//	InstantAck     inside, it is of no effect: the end of the handler counts. Before Install, messages are refused with
//	Deduplicator   [ErrOrder], tried again and in the end dead letters; leave both out, and everything that drops messages
//
// A middleware that gives the handler a message or a context that is not derived from the one it got is refused with
// [ErrNotInstalled].
//
// # Dead letters on JetStream
//
// A letter is a message of the topic DeadTopic with the original payload and the headers of consumer.Letter as metadata;
// [DecodeLetter] reads it. With the default topic, and a publisher whose topics are subjects of JetStream and whose metadata
// are headers (wmnats.NewPublisher; that of watermill-nats with its NATSMarshaler, which is its default, and without
// AutoProvision), "idemq dlq" lists, filters, replays and discards letters as it does those of any worker. The stream must be
// there: deadletter.Queue.Ensure makes it. Limits:
//
//   - "--stream" and "--durable" are those of wmnats: the topic's stream and the subscriber's Group. Over another Pub/Sub
//     there is no stream, and the durable is the handler's name.
//   - A replay goes to the wmnats subscriber (or natsidem worker) of that stream and durable. A message of another Pub/Sub has
//     none, and its replay is refused.
//   - Marshalers that put metadata into the payload (GobMarshaler, JSONMarshaler) hide letters: they are shown as damaged.
//   - A letter that is too large for the server is not published, so its message is kept and the failure logged each time.
//   - A filtered list reads every letter of this topic. deadletter.Queue has a subject for each stream, durable and
//     class, and sends in parts what is too large: on NATS prefer it, as Config.Letters.
//
// # Limits over somebody else's Pub/Sub
//
// Watermill knows ack and nack, and nothing else:
//
//   - A nack has no delay. The message is held, at most for MaxHold, and nacked then; while it is held, a Pub/Sub that
//     delivers one message after another delivers nothing.
//   - The deadline for an ack cannot be extended. A handler that takes longer goes on under its lease; the message that the
//     Pub/Sub delivers meanwhile waits until the key is consumed, and is acknowledged then.
//   - A message whose claim was lost is nacked after MaxHold, since many Pub/Subs wait for an answer for ever.
//   - An ack is not confirmed. A lost one brings a duplicate, which does not run.
//   - Attempts are counted by the store; the Pub/Sub must not have a limit of its own that drops messages.
//   - While the store is down messages are held and nacked; the Pub/Sub is not told to stop.
//   - If a retry returns other outputs than the try before, one that was published already comes again with another payload
//     under its key: a dead letter of class conflict for whoever consumes it here.
//
// The Pub/Sub in package wmnats, on NATS JetStream, has only the last of them, and its acks are confirmed if
// ConfirmAcks says so.
package wmidem
