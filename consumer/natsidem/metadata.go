package natsidem

import (
	"context"
	"log/slog"
	"maps"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/dedup"
)

// Keys of the consumer's metadata under which a worker says what it uses. Operator commands read them and refuse to work
// on another store or scope.
const (
	MetadataStore = "idemq.store"
	MetadataScope = "idemq.scope"
)

// writeMetadata notes store and scope at the durable consumer. A failure is logged only: a worker without the right to
// edit consumers works as well.
func writeMetadata(ctx context.Context, js jetstream.JetStream, info *jetstream.ConsumerInfo, s dedup.Store, scope string, log *slog.Logger) {
	cfg := info.Config
	meta := maps.Clone(cfg.Metadata)
	if meta == nil {
		meta = map[string]string{}
	}
	set := func(key, value string) {
		if was, ok := meta[key]; ok && was != value {
			log.Warn("ANOTHER "+key+" WAS USED WITH THIS CONSUMER BEFORE: what it remembers is not seen here, so that messages may run"+
				" twice; are all its workers configured alike?", "before", was, "now", value)
		}
		meta[key] = value
	}
	if d, ok := s.(dedup.Describer); ok {
		set(MetadataStore, d.Describe())
	}
	set(MetadataScope, scope)
	if maps.Equal(meta, cfg.Metadata) {
		return
	}
	cfg.Metadata = meta
	if _, err := js.UpdateConsumer(ctx, info.Stream, cfg); err != nil {
		log.Warn("could not note store and scope in the consumer's metadata", "error", err)
	}
}
