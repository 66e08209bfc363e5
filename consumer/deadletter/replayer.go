package deadletter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/publisher"
)

const (
	defaultDeadRetention = 90 * 24 * time.Hour
	derivedKeyBytes      = 20 // of the digest
)

// The errors of [Replayer.Replay]. With all but ErrNotSettled nothing was changed.
var (
	// ErrReplayed says that the entry is marked as replayed.
	ErrReplayed = errors.New("deadletter: the entry was replayed already; insist (Again) to replay it once more")
	// ErrTooOld says that the store may have forgotten the entry's key, which then no longer protects from running twice.
	ErrTooOld = errors.New("deadletter: the entry is older than dead keys are remembered; insist (Again) to replay it all the same")
	// ErrKeyNeeded says that the letter can only be replayed under another key than it had.
	ErrKeyNeeded = errors.New("deadletter: the letter has no key of its own to be replayed under; give a Key that is new to the store, or NewKey")
	// ErrKeyGiven says that the letter is replayed under its own key and no other, since another would run it beside its record.
	ErrKeyGiven = errors.New("deadletter: the letter is replayed under its own key; leave Key and NewKey out")
	// ErrKeyTaken says that the key of the replay is known with another payload.
	ErrKeyTaken = errors.New("deadletter: the key belongs to another payload; give another")
	// ErrNotSettled says that the death that the letter tells of is not finished.
	ErrNotSettled = errors.New("deadletter: the death of the key is not settled yet; try again later")
	// ErrNoConsumer says that no consumer of JetStream would take the replay, as the letter did not come from one.
	ErrNoConsumer = errors.New("deadletter: the message came from no stream, so no consumer would take its replay; publish it again" +
		" where it came from, after forgetting its key if it has one")
	// ErrOrigin says that a letter cannot be sent to its original subject.
	ErrOrigin = errors.New("deadletter: cannot be sent to its original subject; replay it to its own consumer")
)

// Outcome is what came of a replay.
type Outcome uint8

// The outcomes.
const (
	Published    Outcome = iota + 1 // the message is stored and will be handled
	AlreadyThere                    // somebody published this replay before
	Resolved                        // the key is consumed, or died again with a later letter; nothing was published
	NotSettled                      // stop, and try again later; nothing was published
)

var outcomeNames = [...]string{"none", "published", "already-there", "resolved", "not-settled"}

// String returns the outcome's name.
func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return "unknown"
}

// Replayed tells what came of a replay.
type Replayed struct {
	Outcome Outcome
	Key     string // the idempotency key under which it runs
	// Unmarked is why the entry could not be marked; nil if it is, or need not be. The replay is published all the same and
	// may be repeated.
	Unmarked error
}

// ReplayConfig has the settings of a [Replayer]. Its zero value is safe.
type ReplayConfig struct {
	// DeadRetention is how long dead and reopened keys are remembered; give it the value of the workers' dedup.Config.
	// Defaults to 90 days.
	DeadRetention time.Duration
}

// ReplayOptions belong to one call of [Replayer.Replay].
type ReplayOptions struct {
	// Key is the idempotency key for a letter that cannot keep its own: of class missing_key, malformed or conflict. Give the
	// same one when you repeat a replay; under another the message runs beside the first.
	Key string
	// NewKey derives a key for such a letter from its scope, stream and sequence: the same one each time, so that replaying
	// twice runs once.
	NewKey bool
	// ToOrigin sends the message to its original subject, with its original headers. Every consumer of that stream gets it,
	// not only the one that failed, and its history is lost.
	ToOrigin bool
	// Again replays an entry that is marked, or older than ReplayConfig.DeadRetention. The record still protects: a key that is
	// consumed stays so.
	Again bool
}

// Replayer sends dead letters through their handlers again. Any number of them may be at the same entries at once. It is
// safe for concurrent use.
type Replayer struct {
	queue *Queue
	rs    *ReplayStream
	store dedup.Inspector
	cfg   ReplayConfig
}

// NewReplayer returns a replayer; store must be the one that the workers use.
func NewReplayer(q *Queue, rs *ReplayStream, store dedup.Inspector, cfg ReplayConfig) *Replayer {
	if cfg.DeadRetention <= 0 {
		cfg.DeadRetention = defaultDeadRetention
	}
	return &Replayer{queue: q, rs: rs, store: store, cfg: cfg}
}

// afterStep is called between the steps of a replay; tests stop there.
var afterStep = func(string) {}

// Replay sends an entry through its handler again. Its steps are: reopen the key, publish the message and wait for the
// confirmation, mark the entry. Each can be repeated, so a replay that was interrupted, or whose answer was lost, is
// simply done again: the handler runs once. e needs its Sequence, and its ID to be compared if it has one.
//
// Beside the errors above: [ErrNotFound], [ErrIncomplete], [ErrChanged], [ErrTooLarge], consumer.ErrNotLetter, those of the
// store and of the server. After an error of the server the key may be reopened and the message may be there; repeat.
func (r *Replayer) Replay(ctx context.Context, e Entry, o ReplayOptions) (Replayed, error) {
	now, err := r.current(ctx, &e, o)
	if err != nil {
		return Replayed{}, err
	}
	p, err := r.plan(ctx, now, o)
	if err != nil {
		return Replayed{}, fmt.Errorf("deadletter: sequence %d: %w", e.Sequence, err)
	}
	out := Replayed{Key: p.key.ID}
	out.Outcome, err = p.open(ctx)
	switch {
	case err != nil:
		return out, fmt.Errorf("deadletter: sequence %d: %w", e.Sequence, err)
	case out.Outcome == Published:
		afterStep("reopen")
		if out.Outcome, err = p.publish(ctx); err != nil {
			return Replayed{Key: p.key.ID}, fmt.Errorf("deadletter: sequence %d: %w", e.Sequence, err)
		}
		afterStep("publish")
	case now.Mark != nil || p.ownKey:
		return out, nil
	}
	out.Unmarked = r.queue.mark(ctx, now, Mark{Key: p.key.ID, Origin: o.ToOrigin})
	afterStep("mark")
	return out, nil
}

// current reads the whole entry as it is now and refuses what only an operator who insists may replay.
func (r *Replayer) current(ctx context.Context, e *Entry, o ReplayOptions) (*Entry, error) {
	now, err := r.queue.Get(ctx, e.Sequence)
	switch {
	case err != nil:
		return nil, err
	case e.ID != "" && e.ID != now.ID:
		return nil, fmt.Errorf("deadletter: sequence %d: %w", e.Sequence, ErrChanged)
	case o.Again:
	case now.Mark != nil:
		return nil, fmt.Errorf("%w (sequence %d, %s, key %q)", ErrReplayed, e.Sequence, now.Mark.At.Format(time.RFC3339), now.Mark.Key)
	case now.age(time.Now()) > r.cfg.DeadRetention:
		return nil, fmt.Errorf("%w (sequence %d, %s)", ErrTooOld, e.Sequence, now.When().Format(time.RFC3339))
	}
	return &now, nil
}

// replayPlan is a replay of which nothing was done yet.
type replayPlan struct {
	r      *Replayer
	letter *consumer.Letter
	key    dedup.Key
	ownKey bool // the letter's own, whose record it reopens
	msg    *nats.Msg
	origin bool
}

// plan finds everything that can be wrong before the store is changed.
func (r *Replayer) plan(ctx context.Context, e *Entry, o ReplayOptions) (*replayPlan, error) {
	l := e.Letter
	p := &replayPlan{r: r, letter: l, key: dedup.Key{Scope: l.Scope, ID: l.Key}, ownKey: l.Class.HasRecord(), origin: o.ToOrigin}
	switch given := o.Key != "" || o.NewKey; {
	case o.Key != "" && o.NewKey:
		return nil, fmt.Errorf("%w (either Key or NewKey)", ErrKeyNeeded)
	case p.ownKey && given:
		return nil, fmt.Errorf("%w (class %q)", ErrKeyGiven, l.Class)
	case !p.ownKey && (!given || o.Key == l.Key && l.Class == dedup.ConflictingPayload):
		return nil, fmt.Errorf("%w (class %q)", ErrKeyNeeded, l.Class)
	case o.NewKey:
		p.key.ID = derivedKey(e)
	case o.Key != "":
		p.key.ID = o.Key
	}
	if err := p.key.Validate(); err != nil {
		return nil, err
	}
	msgID := "replay-" + e.ID
	if o.Again {
		msgID += "-" + publisher.NewKey()
	}
	var err error
	switch {
	case o.ToOrigin:
		p.msg, err = r.originMessage(ctx, l, p.key.ID, msgID)
	case l.Stream == "":
		err = ErrNoConsumer
	default:
		p.msg, err = r.rs.replay(l, p.key.ID, msgID)
	}
	return p, err
}

// derivedKey is the same for every replay of a letter without a key of its own, and for its copies. It must not depend on
// what a listing has not read.
func derivedKey(e *Entry) string {
	l := e.Letter
	from := []string{l.Scope, l.Stream, strconv.FormatUint(l.Sequence, 10)}
	if l.Stream == "" || l.Sequence == 0 {
		from = []string{e.ID}
	}
	sum := sha256.Sum256([]byte(strings.Join(from, "\x00")))
	return "replay-" + hex.EncodeToString(sum[:derivedKeyBytes])
}

// open makes the key ready. Published means that the replay goes on.
func (p *replayPlan) open(ctx context.Context) (Outcome, error) {
	if !p.ownKey {
		return p.look(ctx)
	}
	l := p.letter
	o, err := p.r.store.Reopen(ctx, dedup.ReopenRequest{
		Key: p.key, Fence: l.Fence, Generation: max(1, l.Generation), Fingerprint: l.Fingerprint, Retention: p.r.cfg.DeadRetention,
	})
	switch {
	case err != nil:
		return 0, err
	case o == dedup.Reopened, o == dedup.AlreadyOpen:
		return Published, nil
	case o == dedup.Resolved:
		return Resolved, nil
	default:
		return NotSettled, ErrNotSettled
	}
}

// look asks whether the key of a letter without one has been settled by an earlier replay.
func (p *replayPlan) look(ctx context.Context) (Outcome, error) {
	rec, err := p.r.store.Get(ctx, p.key)
	switch {
	case errors.Is(err, dedup.ErrNotFound):
		return Published, nil
	case err != nil:
		return 0, err
	case !rec.Fingerprint.Matches(p.letter.Fingerprint):
		return 0, fmt.Errorf("%w (%q, which is %s)", ErrKeyTaken, p.key.ID, rec.State)
	case rec.State == dedup.Consumed, rec.State == dedup.DeadSent:
		return Resolved, nil
	default:
		return Published, nil
	}
}

func (p *replayPlan) publish(ctx context.Context) (Outcome, error) {
	send := p.r.rs.send
	if p.origin {
		send = p.r.sendToOrigin
	}
	switch duplicate, err := send(ctx, p.msg); {
	case err != nil:
		return 0, err
	case duplicate:
		return AlreadyThere, nil
	default:
		return Published, nil
	}
}
