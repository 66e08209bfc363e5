package consumer

import (
	"context"
	"log/slog"
	"time"

	"github.com/idemq/idemq/dedup"
)

// Answers go on when the handler's context is cancelled: what was decided has to be said.

func (p *Pipeline) ackDuplicate(ctx context.Context, del Delivery, dead bool) {
	p.emit(Event{Kind: DuplicateAck, Message: del.Message()})
	if dead {
		p.emit(Event{Kind: DeadAck, Message: del.Message()})
	}
	p.ack(ctx, del)
}

func (p *Pipeline) ack(ctx context.Context, del Delivery) {
	l := newLimit(ctx, answerTimeout)
	defer l.stop()
	p.answered(del, "ack", del.Ack(l))
}

func (p *Pipeline) giveBack(ctx context.Context, del Delivery, kind EventKind, delay time.Duration, cause error) {
	p.emit(Event{Kind: kind, Message: del.Message(), Err: cause})
	p.nak(ctx, del, delay)
}

func (p *Pipeline) nak(ctx context.Context, del Delivery, delay time.Duration) {
	l := newLimit(ctx, answerTimeout)
	defer l.stop()
	p.answered(del, "nak", del.Nak(l, spread(delay)))
}

func (p *Pipeline) answered(del Delivery, what string, err error) {
	if err != nil {
		p.emit(Event{Kind: AnswerFailed, Message: del.Message(), Err: err})
		p.log(slog.LevelWarn, del.Message(), "could not send the "+what+"; the broker will deliver again", err)
	}
}

// terminate publishes a letter that has no record, and ends the message only when it is confirmed.
func (p *Pipeline) terminate(ctx context.Context, del Delivery, l *Letter) {
	if !p.publish(ctx, del, l) {
		p.nak(ctx, del, p.cfg.LetterDelay)
		return
	}
	p.term(ctx, del, l)
}

// bury publishes the letter that a dead record owes, tells the store, and only then ends the message.
func (p *Pipeline) bury(ctx context.Context, del Delivery, l *Letter) fate {
	back := fate{delay: p.cfg.LetterDelay}
	if !p.publish(ctx, del, l) {
		p.nak(ctx, del, p.cfg.LetterDelay)
		return back
	}
	if err := p.d.LetterSent(ctx, dedup.Key{Scope: p.scope, ID: l.Key}, l.Fence); err != nil {
		p.emit(Event{Kind: LetterFailed, Message: del.Message(), Err: err})
		p.log(slog.LevelWarn, del.Message(), "the dead letter is published, but the store does not know yet", err)
		p.nak(ctx, del, p.cfg.LetterDelay)
		return back
	}
	p.term(ctx, del, l)
	return fate{ack: true, dead: true}
}

func (p *Pipeline) publish(ctx context.Context, del Delivery, l *Letter) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), letterTimeout)
	defer cancel()
	err := call(ctx, func(ctx context.Context) error { return p.cfg.Letters.Publish(ctx, l) })
	if err != nil {
		p.emit(Event{Kind: LetterFailed, Message: del.Message(), Err: err})
		p.log(slog.LevelError, del.Message(), "could not publish the dead letter; the message is kept", err)
	}
	return err == nil
}

func (p *Pipeline) term(ctx context.Context, del Delivery, l *Letter) {
	p.emit(Event{Kind: DeadLettered, Message: del.Message()})
	p.log(slog.LevelWarn, del.Message(), "dead letter", nil, "class", l.Class, "cause", l.Error)
	until := newLimit(ctx, answerTimeout)
	defer until.stop()
	p.answered(del, "term", del.Term(until, "idemq: dead letter, class "+string(l.Class)))
}

func (p *Pipeline) log(level slog.Level, m *Message, text string, err error, more ...any) {
	args := append([]any{"scope", p.scope, "key", m.Key, "subject", m.Subject, "stream", m.Stream, "seq", m.Sequence}, more...)
	if err != nil {
		args = append(args, "error", err)
	}
	p.cfg.Logger.Log(context.Background(), level, text, args...)
}

// letter returns a letter for a message without a record of its own.
func (p *Pipeline) letter(m *Message, class dedup.Class, err error) *Letter {
	now, generation := time.Now(), 1
	if n := len(m.History); n > 0 {
		generation = m.History[n-1].Generation + 1
	}
	return &Letter{
		Class: class, Error: err.Error(), Attempts: 0, Generation: generation, FirstFailure: now, LastFailure: now,
		Scope: p.scope, Key: m.Key, Subject: m.Subject, Stream: m.Stream, Durable: m.Durable, Sequence: m.Sequence,
		Time: m.Time, Header: m.Header, RawHeader: m.RawHeader, Data: m.Data,
		Fingerprint: m.fingerprint, History: m.History,
	}
}

// letterOf returns the letter of a dead record. The message is any delivery of the key: the fingerprint matched. The
// error is the handler's own if it failed in this process, else what the record kept of it.
func (p *Pipeline) letterOf(m *Message, r *dedup.Record, err error) *Letter {
	l := p.letter(m, r.Cause.Class, recordedError(r.Cause.Message))
	// The first death of a replayed message may have had no record, so its history can count more than the record does.
	l.Attempts, l.Generation, l.Fence = r.Attempt, max(l.Generation, r.Generation), r.Fence
	if !r.FailedAt.IsZero() {
		l.FirstFailure = r.FailedAt
	}
	if r.State != dedup.Acquired {
		l.LastFailure = r.UpdatedAt
	}
	if err != nil {
		l.Error, l.Stack = err.Error(), stackOf(err)
	}
	return l
}

// successor returns a message as a letter that is not dead: what has to travel to come back as the same message.
func (p *Pipeline) successor(m *Message) *Letter {
	return &Letter{
		Scope: p.scope, Key: m.Key, Subject: m.Subject, Stream: m.Stream, Durable: m.Durable, Sequence: m.Sequence,
		Time: m.Time, Header: m.Header, Data: m.Data, Fingerprint: m.fingerprint, History: m.History,
	}
}

type recordedError string

func (e recordedError) Error() string { return string(e) }
