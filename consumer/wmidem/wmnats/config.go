package wmnats

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/idemq/idemq/consumer/natsidem"
)

// SubscriberConfig has the settings of a [Subscriber]. Its zero value is safe. Of the embedded settings, those of the
// pipeline have no meaning but Letters and Logger: Letters takes what cannot be read, and defaults to the dead-letter
// stream. Grace should not be shorter than that of wmidem.
type SubscriberConfig struct {
	natsidem.Config

	// Group is the name of the durable consumer: subscribers of one group share the messages of a topic. Defaults to
	// "watermill".
	Group string
	// Stream gives the stream of a topic, which is a subject of it. Defaults to [StreamName].
	Stream func(topic string) string
	// Create makes the stream and the durable consumer if they are missing. Defaults to false.
	Create bool
	// NackDelay is the delay of a message that was nacked, where no wmidem decides. Defaults to 1 s.
	NackDelay time.Duration
}

// ErrConfig is for a setting or a topic that cannot work. The message says which.
var ErrConfig = errors.New("wmnats: invalid configuration")

// ErrClosed is for Subscribe or Publish after Close.
var ErrClosed = errors.New("wmnats: closed")

// Defaults; the table in the package comment lists them.
const (
	DefaultGroup     = "watermill"
	DefaultNackDelay = time.Second
)

func (c SubscriberConfig) withDefaults() (SubscriberConfig, error) {
	if c.Group == "" {
		c.Group = DefaultGroup
	}
	if c.Stream == nil {
		c.Stream = StreamName
	}
	if c.NackDelay == 0 {
		c.NackDelay = DefaultNackDelay
	}
	switch {
	case c.NackDelay < 0:
		return c, fmt.Errorf("%w: NackDelay is %v; it must not be negative", ErrConfig, c.NackDelay)
	case c.IdleExit != 0:
		return c, fmt.Errorf("%w: IdleExit is %v; a router closes its subscribers by itself", ErrConfig, c.IdleExit)
	case c.FilterSubject != "":
		return c, fmt.Errorf("%w: FilterSubject is %q; the topic is the subject", ErrConfig, c.FilterSubject)
	}
	return c, nil
}

// StreamName is the stream of a topic by default: the topic, with "_" for every character but letters, digits, "_" and
// "-". Where two topics come to one name, the second is refused, since the stream does not have its subject.
func StreamName(topic string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-':
			return r
		default:
			return '_'
		}
	}, topic)
}

// checkTopic refuses what cannot be published to.
func checkTopic(topic string) error {
	for _, token := range strings.Split(topic, ".") {
		if token == "" || strings.ContainsAny(token, " \t\r\n*>") {
			return fmt.Errorf("%w: the topic %q is no subject to publish to: it needs names between its dots, without spaces, * and >", ErrConfig, topic)
		}
	}
	return nil
}
