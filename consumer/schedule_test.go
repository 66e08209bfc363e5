package consumer_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/dedup"
)

// scheduled is a delivery whose transport can put messages off.
type scheduled struct {
	*delivery

	full   bool
	letter *consumer.Letter
	after  time.Duration
}

func (s *scheduled) Schedule(_ context.Context, l *consumer.Letter, delay time.Duration) error {
	if s.full {
		return errors.New("the replay stream is full")
	}
	s.letter, s.after = l, delay
	return s.say("schedule")
}

func TestLongDelaysAreScheduled(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		delay time.Duration
		full  bool
		want  []string
	}{
		"long":             {time.Hour, false, []string{"schedule", "ack"}},
		"from a minute on": {time.Minute, false, []string{"schedule", "ack"}},
		"short":            {59 * time.Second, false, []string{"nak"}},
		"not possible":     {time.Hour, true, []string{"nak"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, consumer.HandlerFunc(func(context.Context, *consumer.Message) error {
				return consumer.RetryAfter(c.delay, errHandler)
			}))
			s := &scheduled{delivery: b.message("k", "body"), full: c.full}
			b.p.Process(t.Context(), s)
			assert.Equal(t, c.want, s.said(), "acknowledged only behind the confirmed successor")
			assert.Equal(t, dedup.Failed, b.state("k").State)
			if c.want[0] == "schedule" {
				assert.Equal(t, c.delay, s.after)
				assert.Equal(t, "k", s.letter.Key)
				assert.Equal(t, "body", string(s.letter.Data))
				assert.EqualValues(t, 1, b.p.Stats().Scheduled)
			} else {
				assert.GreaterOrEqual(t, s.delay, c.delay)
			}
		})
	}
}

func TestAReplayedMessageDiesWithItsHistory(t *testing.T) {
	t.Parallel()
	b := setup(t, consumer.HandlerFunc(func(context.Context, *consumer.Message) error { return consumer.Permanent(errHandler) }))
	d := b.message("k", "body")
	d.m.History = []consumer.Death{{Generation: 1, Class: dedup.MissingKey}}
	d.m.ReplaySequence = 7
	assert.Equal(t, []string{"term"}, b.process(d))
	require.Len(t, b.letters.letters, 1)
	l := b.letters.letters[0]
	assert.Equal(t, 2, l.Generation, "the first death had no record, so the record counts from 1")
	assert.Equal(t, d.m.History, l.History)
	assert.False(t, l.Fingerprint.IsZero(), "a replay has to name it")
}
