package wmpub

import (
	"errors"
	"fmt"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/idemq/idemq/publisher"
)

// Config has the settings of a decorator. Its zero value is safe.
type Config struct {
	// KeyFunc derives the key of a message that has none in its metadata. It must return the same key for the same
	// operation. Defaults to a new random key, which recognises nothing but the same *message.Message published again.
	KeyFunc publisher.KeyFunc
}

// ErrInvalid says that something is nil that must not be.
var ErrInvalid = errors.New("wmpub: nil publisher or message")

// Decorator returns a decorator for message.Router.AddPublisherDecorators, and for any other publisher; see [Decorate].
func Decorator(cfg Config) message.PublisherDecorator {
	return func(pub message.Publisher) (message.Publisher, error) { return Decorate(pub, cfg) }
}

// Decorate returns a publisher that stamps every message before pub gets it. A key in the metadata, in any spelling, is
// kept; so wmidem's keys of outputs are. The key is written into the message itself: publish the same message again when
// the outcome of Publish is unknown, and not a new one.
//
// If one message cannot have its key, none is published: the error wraps publisher.ErrMalformedKey, ErrMissingKey or
// [ErrInvalid]. Others are pub's own. The publisher is as safe for concurrent use as pub and cfg.KeyFunc are.
func Decorate(pub message.Publisher, cfg Config) (message.Publisher, error) {
	if pub == nil {
		return nil, fmt.Errorf("%w: there is no publisher to decorate", ErrInvalid)
	}
	return &decorated{Publisher: pub, cfg: cfg}, nil
}

type decorated struct {
	message.Publisher

	cfg Config
}

// Publish implements message.Publisher.
func (d *decorated) Publish(topic string, messages ...*message.Message) error {
	for n, msg := range messages {
		if err := d.stamp(topic, msg); err != nil {
			return fmt.Errorf("wmpub: message %d of %d for topic %q: %w", n+1, len(messages), topic, err)
		}
	}
	return d.Publisher.Publish(topic, messages...)
}

func (d *decorated) stamp(topic string, msg *message.Message) error {
	if msg == nil {
		return ErrInvalid
	}
	header := make(map[string][]string, len(msg.Metadata))
	for name, value := range msg.Metadata {
		header[name] = []string{value}
	}
	key, err := publisher.ResolveKey(topic, header, msg.Payload, d.cfg.KeyFunc)
	if err != nil {
		return err
	}
	if msg.Metadata[publisher.KeyHeader] == key {
		return nil
	}
	if msg.Metadata == nil {
		msg.Metadata = message.Metadata{}
	}
	for name := range msg.Metadata {
		if strings.EqualFold(name, publisher.KeyHeader) {
			delete(msg.Metadata, name)
		}
	}
	msg.Metadata[publisher.KeyHeader] = key
	return nil
}
