package publisher

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// KeyHeader is the header that carries the idempotency key. It is written in this spelling and read in any.
const KeyHeader = "Idempotency-Key"

// MaxKeyLength is the largest length of a key in bytes. It is the limit of package dedup.
const MaxKeyLength = 255

// The errors of the key header. Both are wrapped with the reason and what to do.
var (
	// ErrMissingKey says that there is no key.
	ErrMissingKey = errors.New("publisher: no idempotency key")
	// ErrMalformedKey says that there is something in the place of a key that cannot be one.
	ErrMalformedKey = errors.New("publisher: malformed idempotency key")
)

// KeyFromHeader returns the key in h. Without one the error is [ErrMissingKey]. It is [ErrMalformedKey] if the key is
// not 1 to 255 bytes of visible ASCII, or if there are two values, even equal ones, or two spellings of the name: header
// names are case-sensitive in NATS, and which of two is meant can only be guessed. Errors never repeat the key unescaped.
func KeyFromHeader(h map[string][]string) (string, error) {
	var key, spelling string
	found := 0
	for name, values := range h {
		if len(values) == 0 || !strings.EqualFold(name, KeyHeader) {
			continue
		}
		if len(values) > 1 {
			return "", fmt.Errorf("%w: header %s has %d values; send one", ErrMalformedKey, name, len(values))
		}
		key, spelling = values[0], name
		found++
	}
	switch {
	case found == 0:
		return "", fmt.Errorf("%w: there is no header %s", ErrMissingKey, KeyHeader)
	case found > 1:
		return "", fmt.Errorf("%w: header %s is there in %d spellings; send one", ErrMalformedKey, KeyHeader, found)
	}
	if err := validateKey(key); err != nil {
		return "", fmt.Errorf("%w (in header %s)", err, spelling)
	}
	return key, nil
}

// SetKey writes the key into h, in place of any other in whatever spelling. The error wraps [ErrMalformedKey] and h is
// unchanged if the key cannot be one. It panics if h is nil, like any write to a nil map.
func SetKey(h map[string][]string, key string) error {
	if err := validateKey(key); err != nil {
		return err
	}
	for name := range h {
		if strings.EqualFold(name, KeyHeader) {
			delete(h, name)
		}
	}
	h[KeyHeader] = []string{key}
	return nil
}

// NewKey returns a new random key, a UUID of version 7: keys made later sort later. Make it when the operation begins
// and keep it over retries; a new key for each try protects from nothing. It is safe for concurrent use.
func NewKey() string { return uuid.Must(uuid.NewV7()).String() }

func validateKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("%w: it is empty; send 1 to %d visible ASCII characters", ErrMalformedKey, MaxKeyLength)
	case len(key) > MaxKeyLength:
		return fmt.Errorf("%w: it has %d bytes, more than %d; send a shorter one, or a digest of it", ErrMalformedKey, len(key), MaxKeyLength)
	}
	for i := 0; i < len(key); i++ {
		if key[i] < 0x21 || key[i] > 0x7E {
			return fmt.Errorf("%w: byte %d is 0x%02X; only visible ASCII (0x21 to 0x7E) is allowed", ErrMalformedKey, i, key[i])
		}
	}
	return nil
}
