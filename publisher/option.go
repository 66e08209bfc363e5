package publisher

import (
	"errors"
	"fmt"
)

// ErrKeyConflict says that a message was given two different keys.
var ErrKeyConflict = errors.New("publisher: two different idempotency keys for one message")

// KeyFunc derives the key of a message that was given none, for instance from a field of the body. It must return the
// same key for the same operation, and must not change its arguments. An error refuses the message. It may be called
// from several goroutines.
type KeyFunc func(subject string, header map[string][]string, body []byte) (string, error)

// Option is a setting of one call of Publish.
type Option func(*call)

type call struct {
	key    string
	hasKey bool
}

// Key gives the message this key. An empty key is refused, since it is nearly always a variable that nobody has set.
func Key(key string) Option {
	return func(c *call) { c.key, c.hasKey = key, true }
}

// ResolveKey says which key a message gets; transports call it once per message, before the first try. The key in the
// header and the one of the option [Key] are equal in rank: if both are there and differ, the error is [ErrKeyConflict].
// Without them derive is asked, and without derive (nil) the key is a new random one. A key that cannot be one is
// refused with [ErrMalformedKey], a derive that returns none with [ErrMissingKey].
func ResolveKey(subject string, header map[string][]string, body []byte, derive KeyFunc, opts ...Option) (string, error) {
	var c call
	for _, opt := range opts {
		opt(&c)
	}
	inHeader, err := KeyFromHeader(header)
	hasHeader := err == nil
	if err != nil && !errors.Is(err, ErrMissingKey) {
		return "", err
	}
	if c.hasKey {
		if err := validateKey(c.key); err != nil {
			return "", fmt.Errorf("%w (in the option Key)", err)
		}
		if hasHeader && inHeader != c.key {
			return "", fmt.Errorf("%w: header %s says %q, the option Key %q; give one", ErrKeyConflict, KeyHeader, inHeader, c.key)
		}
		return c.key, nil
	}
	switch {
	case hasHeader:
		return inHeader, nil
	case derive == nil:
		return NewKey(), nil
	}
	key, err := derive(subject, header, body)
	switch {
	case err != nil:
		return "", fmt.Errorf("publisher: the KeyFunc failed: %w", err)
	case key == "":
		return "", fmt.Errorf("%w: the KeyFunc returned an empty one; return NewKey() if a random key will do", ErrMissingKey)
	}
	if err := validateKey(key); err != nil {
		return "", fmt.Errorf("%w (in the answer of the KeyFunc)", err)
	}
	return key, nil
}
