// Package wmnats is a Pub/Sub of Watermill on NATS JetStream for routers with wmidem: what the router's Pub/Subs cannot do
// in general, it can. A retry waits at the server for its time, the server's deadline is renewed together with the lease
// and only a confirmed renewal counts, nothing is pulled while the store is down, headers keep all their values and
// Nats-Msg-Id, and a message whose headers cannot be read becomes a dead letter and stops nobody. Replayed dead letters
// come back through it (see package deadletter).
//
// # Defaults
//
//	SubscriberConfig.Group     "watermill"   the durable consumer
//	SubscriberConfig.Stream    StreamName    "orders.created" is the one subject of the stream orders_created
//	SubscriberConfig.Create    false         stream and durable must be there
//	SubscriberConfig.NackDelay 1 s           of what is nacked without wmidem
//	SubscriberConfig.Scope     "stream/durable"
//	SubscriberConfig.Workers   16            handlers at once, for each Subscribe
//
// Two handlers that both want every message need two groups, and so two subscribers. A subscriber works without wmidem
// too, like any other of Watermill: at least once, the deadline renewed as long as nobody has answered.
package wmnats
