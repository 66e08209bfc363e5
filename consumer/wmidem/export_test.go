package wmidem

import "github.com/ThreeDotsLabs/watermill/message"

// Companion is the middleware of Install.
func (i *Idempotency) Companion(h message.HandlerFunc) message.HandlerFunc { return i.companion(h) }
