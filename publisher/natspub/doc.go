// Package natspub publishes to NATS JetStream so that a message can be repeated without harm: it stamps the idempotency
// key, keeps it over retries, and returns only when the stream has confirmed.
//
//	pub := natspub.New(js, natspub.Config{})
//	ack, err := pub.Publish(ctx, "orders.created", body, publisher.Key("order-4711"))
//
// Two things carry the key. The header Idempotency-Key is for the consumers and holds for as long as they remember. The
// header Nats-Msg-Id is for the stream, which drops a second message with the same one within its duplicate window
// (2 minutes by default): it spares consumers the publisher's own retries and is not consumer deduplication. The id is
// the subject, a space and the key, because the window ignores the subject: with the key alone, one key on two subjects
// of a stream would lose the second message. A Nats-Msg-Id that the caller has set is kept.
//
// # Defaults
//
//	key                    the header, else the option publisher.Key, else Config.KeyFunc, else a new UUIDv7
//	Config.Retry           5 tries of 5 s each, 100 ms to 5 s between them
//	Config.MaxPending      256         asynchronous messages without a confirmation
package natspub
