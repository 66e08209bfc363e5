package natsidem

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/dedup"
)

// EnsureConsumer creates what a [Worker] needs and is not there yet: the stream, if subjects are given, and the durable
// consumer with settings that fit d and cfg, both named exactly as given. What exists is not changed, but checked, so
// that it may be called at every start. The error wraps [ErrConfig] if what exists cannot work, or is the server's.
func EnsureConsumer(
	ctx context.Context, js jetstream.JetStream, stream string, subjects []string, durable string,
	d *dedup.Deduper, cfg Config,
) (jetstream.Consumer, error) {
	cfg, err := cfg.withDefaults(stream, durable)
	if err != nil {
		return nil, err
	}
	if len(subjects) > 0 {
		if err := ensureStream(ctx, js, stream, subjects); err != nil {
			return nil, err
		}
	}
	lease := d.Config().Lease
	_, err = js.Consumer(ctx, stream, durable)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		_, err = js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{
			Durable:       durable,
			FilterSubject: cfg.FilterSubject,
			AckPolicy:     jetstream.AckExplicitPolicy,
			AckWait:       fitAckWait(lease),
			MaxDeliver:    -1,
			MaxAckPending: cfg.Workers + retryBacklog,
		})
		if errors.Is(err, jetstream.ErrConsumerExists) { // somebody was faster
			err = nil
		}
		if err != nil {
			return nil, fmt.Errorf("natsidem: create consumer %s of stream %s: %w", durable, stream, err)
		}
	}
	return lookUp(ctx, js, stream, durable, lease, cfg.Workers)
}

func ensureStream(ctx context.Context, js jetstream.JetStream, stream string, subjects []string) error {
	s, err := js.Stream(ctx, stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		s, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: stream, Subjects: subjects})
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			s, err = js.Stream(ctx, stream)
		}
	}
	if err != nil {
		return fmt.Errorf("natsidem: stream %s: %w", stream, err)
	}
	has := s.CachedInfo().Config.Subjects
	for _, subject := range subjects {
		if !slices.ContainsFunc(has, func(h string) bool { return covers(h, subject) }) {
			return fmt.Errorf("%w: stream %s exists and has no subject %s, so nothing published there would arrive; add it with:"+
				" nats stream edit %s --subjects %s", ErrConfig, stream, subject, stream, strings.Join(append(slices.Clone(has), subject), ","))
		}
	}
	return nil
}

// covers says whether every subject that b matches is matched by a, too.
func covers(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i, t := range as {
		switch {
		case t == ">":
			return i < len(bs)
		case i >= len(bs) || bs[i] == ">" || t != "*" && t != bs[i]:
			return false
		}
	}
	return len(as) == len(bs)
}

// lookUp returns the durable consumer, or why it cannot work.
func lookUp(
	ctx context.Context, js jetstream.JetStream, stream, durable string, lease time.Duration, workers int,
) (jetstream.Consumer, error) {
	c, err := js.Consumer(ctx, stream, durable)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, fmt.Errorf("%w: there is no stream %q: nats stream add %s --subjects SUBJECTS --defaults, or idemq consume --create --subjects SUBJECTS: %w",
			ErrConfig, stream, stream, err)
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		return nil, fmt.Errorf("%w: stream %q has no durable consumer %q: %s: %w",
			ErrConfig, stream, durable, addCommand(stream, durable, lease, workers), err)
	case errors.Is(err, jetstream.ErrNotPullConsumer):
		return nil, fmt.Errorf("%w: %q of stream %q is a push consumer; it would deliver more than the workers can take, with the"+
			" deadline running. It cannot be edited: %s: %w",
			ErrConfig, durable, stream, replaceCommand(stream, durable, lease, workers), err)
	case err != nil:
		return nil, fmt.Errorf("natsidem: look up consumer %s of stream %s: %w", durable, stream, err)
	}
	return c, checkSettings(c.CachedInfo(), lease, workers)
}

// checkSettings refuses, all at once, the settings that lose messages or run them twice.
func checkSettings(info *jetstream.ConsumerInfo, lease time.Duration, workers int) error {
	c := info.Config
	stream, durable := info.Stream, info.Name
	var errs []error
	refuse := func(setting string, value any, harm, mend string) {
		errs = append(errs, fmt.Errorf("%w: %s of consumer %s/%s is %v: %s; %s", ErrConfig, setting, stream, durable, value, harm, mend))
	}
	edit := func(flag string) string {
		return fmt.Sprintf("mend it with: nats consumer edit %s %s %s", stream, durable, flag)
	}
	if c.Durable == "" {
		refuse("Durable", `""`, "an ephemeral consumer vanishes with what it still had to deliver",
			"use a durable one: "+replaceCommand(stream, durable, lease, workers))
	}
	if c.AckPolicy != jetstream.AckExplicitPolicy {
		refuse("AckPolicy", c.AckPolicy, "messages would count as done before the store knows it",
			"it cannot be edited: "+replaceCommand(stream, durable, lease, workers))
	}
	if len(c.BackOff) > 0 {
		refuse("BackOff", c.BackOff, "it overrides AckWait and breaks delayed naks", edit("--backoff none"))
	}
	if c.HeadersOnly {
		refuse("HeadersOnly", c.HeadersOnly, "handlers, dead letters and the comparison of payloads would have nothing", edit("--no-headers-only"))
	}
	if c.MaxDeliver > 0 {
		refuse("MaxDeliver", c.MaxDeliver, "the broker would drop a message silently, since its count includes contention and outages",
			edit("--max-deliver=-1"))
	}
	if len(c.BackOff) == 0 && c.AckWait < lease {
		refuse("AckWait", c.AckWait, fmt.Sprintf("shorter than the lease (%v), it delivers again what is still at work", lease),
			edit("--wait "+fitAckWait(lease).String()))
	}
	if c.MaxAckPending > 0 && c.MaxAckPending < workers {
		refuse("MaxAckPending", c.MaxAckPending, fmt.Sprintf("fewer than the workers (%d), some would never get a message", workers),
			edit(fmt.Sprintf("--max-pending %d", workers+retryBacklog)))
	}
	return errors.Join(errs...)
}

func fitAckWait(lease time.Duration) time.Duration { return max(minAckWait, lease) }

func addCommand(stream, durable string, lease time.Duration, workers int) string {
	return fmt.Sprintf("nats consumer add %s %s --pull --ack explicit --wait %v --max-deliver=-1 --max-pending %d --defaults,"+
		" or idemq consume --create", stream, durable, fitAckWait(lease), workers+retryBacklog)
}

func replaceCommand(stream, durable string, lease time.Duration, workers int) string {
	return fmt.Sprintf("nats consumer rm %s %s --force, then %s", stream, durable, addCommand(stream, durable, lease, workers))
}
