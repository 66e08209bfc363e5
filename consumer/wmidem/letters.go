package wmidem

import (
	"context"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/idemq/idemq/consumer"
)

// letterSink publishes dead letters to a topic.
type letterSink struct {
	pub   message.Publisher
	topic string
}

// msgID is JetStream's. Without one of its own, the next death of the key might be taken for this one there.
const msgID = "Nats-Msg-Id"

// Publish implements consumer.LetterSink. The letter is a message of its own and has its id for a UUID, which some
// publishers send as Nats-Msg-Id, too. The original's UUID stands beside it. No name has a number in brackets, as SetHeader
// would write it: clients of NATS leave such a header out.
func (s letterSink) Publish(ctx context.Context, l *consumer.Letter) error {
	id := l.ID()
	msg := message.NewMessageWithContext(ctx, id, l.Data)
	msg.Metadata = l.EncodeFlat()
	msg.Metadata[consumer.OrigPrefix+UUIDHeader] = msg.Metadata[UUIDHeader]
	delete(msg.Metadata, UUIDHeader)
	msg.Metadata[msgID] = id
	return s.pub.Publish(s.topic, msg)
}

// DecodeLetter reads a message of the dead-letter topic. The letter shares the payload with it. The error wraps
// consumer.ErrNotLetter. Any input is safe.
func DecodeLetter(msg *message.Message) (*consumer.Letter, error) {
	return consumer.DecodeLetter(Header(msg), msg.Payload)
}
