// Package publisher holds what every publisher needs to make a message idempotent, whatever the transport: the header
// that carries the key, its codec (which the consumers use too), where a key comes from, and how often to try again. The
// transports are below it, natspub for NATS JetStream.
//
// A key belongs to an operation, not to a message: whoever repeats the operation must send the same key. So the best key
// is one that the operation has already, such as an order number; pass it with [Key], or derive it with a [KeyFunc]. A
// random key, the default, protects against the publisher's own retries only.
//
// # Defaults
//
//	KeyHeader              Idempotency-Key
//	MaxKeyLength           255 bytes, visible ASCII
//	Retry.Attempts         5           negative: no limit but the context
//	Retry.AttemptTimeout   5 s
//	Retry.Initial          100 ms      doubled each time, ± 50 %
//	Retry.Max              5 s
//
// The package imports no transport.
package publisher
