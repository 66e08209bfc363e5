package dedup

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxKeyLength is the largest length of an idempotency key and of a scope, in bytes.
const MaxKeyLength = 255

// Key names one record: an idempotency key within a scope. The same ID in two scopes is two records. A Key is a value;
// it is safe to copy and to use as a map key.
type Key struct {
	// Scope says whose memory it is, usually the consumer group ("ORDERS/billing").
	Scope string
	// ID is the idempotency key that the producer chose.
	ID string
}

// String returns the key for people, as "scope key". Both halves are quoted where they hold anything but printable ASCII.
func (k Key) String() string { return printable(k.Scope) + " " + printable(k.ID) }

// Validate returns an error that wraps [ErrInvalidKey] if the scope or the ID cannot be stored.
func (k Key) Validate() error {
	if err := ValidateScope(k.Scope); err != nil {
		return err
	}
	return ValidateID(k.ID)
}

// ValidateID says whether id can be an idempotency key: 1 to 255 bytes, each of them visible ASCII (0x21 to 0x7E).
// The error wraps [ErrInvalidKey], names the first offending byte and never repeats the key itself unescaped.
func ValidateID(id string) error {
	switch {
	case id == "":
		return fmt.Errorf("%w: it is empty; send 1 to %d visible ASCII characters", ErrInvalidKey, MaxKeyLength)
	case len(id) > MaxKeyLength:
		return fmt.Errorf("%w: it has %d bytes, more than %d; send a shorter one, or a digest of it", ErrInvalidKey, len(id), MaxKeyLength)
	}
	for i := 0; i < len(id); i++ {
		if id[i] < 0x21 || id[i] > 0x7E {
			return fmt.Errorf("%w: byte %d is 0x%02X; only visible ASCII (0x21 to 0x7E) is allowed", ErrInvalidKey, i, id[i])
		}
	}
	return nil
}

// ValidateScope says whether scope can be a scope: 1 to 255 bytes of UTF-8 without spaces and control characters.
// The error wraps [ErrInvalidKey].
func ValidateScope(scope string) error {
	switch {
	case scope == "":
		return fmt.Errorf("%w: the scope is empty; use the name of the consumer group, such as ORDERS/billing", ErrInvalidKey)
	case len(scope) > MaxKeyLength:
		return fmt.Errorf("%w: the scope has %d bytes, more than %d", ErrInvalidKey, len(scope), MaxKeyLength)
	case !utf8.ValidString(scope):
		return fmt.Errorf("%w: the scope is not valid UTF-8", ErrInvalidKey)
	}
	if i := strings.IndexFunc(scope, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }); i >= 0 {
		return fmt.Errorf("%w: the scope has a space or a control character at byte %d", ErrInvalidKey, i)
	}
	return nil
}

func printable(s string) string {
	for i := 0; i < len(s); i++ {
		if s[i] < 0x21 || s[i] > 0x7E {
			return fmt.Sprintf("%+q", s)
		}
	}
	return s
}
