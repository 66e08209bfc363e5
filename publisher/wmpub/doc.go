// Package wmpub stamps idempotency keys on the messages of any Watermill publisher, so that consumers recognise a message
// that is published again.
//
// # Defaults
//
//	Config.KeyFunc   a new random key    kept in the message, so that publishing it again sends the same one
package wmpub
