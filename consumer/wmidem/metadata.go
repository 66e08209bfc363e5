package wmidem

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/publisher"
)

// UUIDHeader is the header that carries a message's UUID. It is the one of watermill-nats.
const UUIDHeader = "_watermill_message_uuid"

// MessageUUID gives a message without a key its UUID as one, for Config.DeriveKey. That is safe only where a publisher
// that tries again keeps the UUID. The error wraps publisher.ErrMissingKey if the UUID is empty.
func MessageUUID(m *consumer.Message) (string, error) {
	if v := m.Header[UUIDHeader]; len(v) == 1 && v[0] != "" {
		return v[0], nil
	}
	return "", fmt.Errorf("%w: the message has no UUID either", publisher.ErrMissingKey)
}

// Metadata of Watermill has one value for each name, headers have several. The second value of Name goes into "Name[1]",
// the third into "Name[2]", and so on; a header cannot have such a name by itself.

// Header returns metadata and UUID of a message as headers, the reverse of [SetHeader]. It shares nothing with the message.
func Header(msg *message.Message) map[string][]string {
	h := make(map[string][]string, len(msg.Metadata)+1)
	values := make([]string, 0, len(msg.Metadata)+1) // one for all
	only := func(value string) []string {
		values = append(values, value)
		return values[len(values)-1 : len(values) : len(values)]
	}
	several := false
	for name, value := range msg.Metadata {
		h[name] = only(value)
		several = several || strings.HasSuffix(name, "]")
	}
	if several {
		join(h)
	}
	if msg.UUID != "" {
		h[UUIDHeader] = only(msg.UUID)
	}
	return h
}

// join moves the second and further values to the first. A number without those before it is a name of its own.
func join(h map[string][]string) {
	for name := range h {
		for n := 1; ; n++ {
			values, ok := h[further(name, n)]
			if !ok {
				break
			}
			h[name] = append(h[name], values...)
			delete(h, further(name, n))
		}
	}
}

func further(name string, n int) string { return name + "[" + strconv.Itoa(n) + "]" }

// SetHeader puts headers with several values, as brokers have them, into a message: the second value of Name goes into
// the metadata "Name[1]", the third into "Name[2]", and [UUIDHeader] into the UUID.
func SetHeader(msg *message.Message, h map[string][]string) {
	if msg.Metadata == nil {
		msg.Metadata = make(message.Metadata, len(h))
	}
	for name, values := range h {
		if name == UUIDHeader && len(values) == 1 {
			msg.UUID = values[0]
			continue
		}
		for n, v := range values {
			if n == 0 {
				msg.Metadata[name] = v
			} else {
				msg.Metadata[further(name, n)] = v
			}
		}
	}
}

// setKey writes the key into a message that may have none, or no metadata at all.
func setKey(msg *message.Message, key string) {
	if msg.Metadata == nil {
		msg.Metadata = message.Metadata{}
	}
	for name := range msg.Metadata {
		if strings.EqualFold(name, publisher.KeyHeader) {
			delete(msg.Metadata, name)
		}
	}
	msg.Metadata[publisher.KeyHeader] = key
}

func isMissing(err error) bool { return errors.Is(err, publisher.ErrMissingKey) }
