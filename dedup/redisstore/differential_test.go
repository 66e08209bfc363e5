package redisstore_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/dedup/transition"
	"github.com/idemq/idemq/internal/testserver"
)

var histories atomic.Int64

// The scripts and package transition are the same rules twice. Random histories of one key hold them to each other: the
// rules are applied to the record that Redis had, at the time that Redis says.
func TestScriptsFollowTheRules(t *testing.T) {
	t.Parallel()
	s := redisstore.New(testserver.Redis(t).Client(t), redisstore.Config{})
	ctx := t.Context()
	rapid.Check(t, func(t *rapid.T) {
		k := dedup.Key{Scope: "rules", ID: fmt.Sprintf("k%d-%d", time.Now().UnixNano(), histories.Add(1))}
		get := func() dedup.Record {
			r, err := s.Get(ctx, k)
			if !errors.Is(err, dedup.ErrNotFound) {
				require.NoError(t, err)
			}
			return r
		}
		memories := rapid.SampledFrom([]time.Duration{time.Minute, time.Hour, 5 * time.Hour})
		nonces := rapid.SampledFrom([]dedup.Nonce{"n1", "n2", "n3"})
		fingerprints := rapid.SampledFrom([]dedup.Fingerprint{{}, {1}, {1}, {1}, {2}})
		fences := []dedup.Fence{7}
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			want := get()
			h := dedup.Hold{Key: k, Nonce: nonces.Draw(t, "nonce"), Fence: rapid.SampledFrom(append([]dedup.Fence{want.Fence, want.Fence, want.Fence}, fences...)).Draw(t, "fence")}
			if rapid.Bool().Draw(t, "owner") {
				h.Nonce = want.Nonce
			}
			var err, wantErr error
			now := func() time.Time { return get().UpdatedAt }
			switch op := rapid.SampledFrom([]string{"acquire", "acquire", "acquire", "extend", "settle", "release", "release", "sent", "reopen"}).Draw(t, "op"); op {
			case "acquire":
				c := dedup.Claim{
					Key: k, Nonce: h.Nonce, Fingerprint: fingerprints.Draw(t, "fp"), Lease: time.Millisecond * time.Duration(rapid.SampledFrom([]int{1, 60000}).Draw(t, "lease")),
					Retention: memories.Draw(t, "memory"), DeadRetention: memories.Draw(t, "dead memory"), MaxAttempts: rapid.IntRange(0, 3).Draw(t, "attempts"),
					MaxAbandoned: rapid.IntRange(0, 2).Draw(t, "abandoned"), Letters: rapid.Bool().Draw(t, "letters"),
				}
				if c.Nonce == "" {
					c.Nonce = "n1"
				}
				v, r, err := s.Acquire(ctx, c)
				require.NoError(t, err)
				wantV, _ := transition.Acquire(&want, c, r.ReadAt, transition.NextFence(want.Fence, r.ReadAt))
				require.Equal(t, wantV, v)
				same(t, want, r)
				fences = append(fences, r.Fence)
			case "extend":
				err = s.Extend(ctx, h, time.Minute)
				_, wantErr = transition.Extend(&want, h, time.Minute, now())
			case "settle":
				st := dedup.Settlement{
					State: rapid.SampledFrom([]dedup.State{dedup.Consumed, dedup.Consumed, dedup.DeadOwed, dedup.DeadOwed, dedup.DeadSent, dedup.Acquired, dedup.Failed, dedup.Absent, 77}).Draw(t, "state"),
					Cause: dedup.Cause{Class: dedup.Permanent, Message: "no\n\x00%"}, Result: rapid.SliceOf(rapid.Byte()).Draw(t, "result"), Retention: memories.Draw(t, "memory"),
				}
				err = s.Settle(ctx, h, st)
				_, wantErr = transition.Settle(&want, h, st, now())
			case "release":
				rel := dedup.Release{
					Cause: dedup.Cause{Message: "later"}, Delay: time.Duration(rapid.SampledFrom([]int{0, 60}).Draw(t, "delay")) * time.Second,
					Uncounted: rapid.Bool().Draw(t, "uncounted"), MaxInterrupted: rapid.IntRange(0, 2).Draw(t, "interrupted"),
				}
				err = s.Release(ctx, h, rel)
				_, wantErr = transition.Release(&want, h, rel, now())
			case "sent":
				err = s.LetterSent(ctx, k, h.Fence)
				_, wantErr = transition.LetterSent(&want, h.Fence, now())
			case "reopen":
				q := dedup.ReopenRequest{Key: k, Fence: h.Fence, Generation: max(1, want.Generation), Fingerprint: dedup.Fingerprint{1}, Rebind: rapid.Bool().Draw(t, "rebind"), Retention: memories.Draw(t, "memory")}
				got, err := s.Reopen(ctx, q)
				require.NoError(t, err)
				at := now()
				wantGot, _ := transition.Reopen(&want, q, at, transition.NextFence(want.Fence, at))
				require.Equal(t, wantGot, got)
			}
			require.Equal(t, wantErr, err) // the same sentinel, not a wrapped one
			same(t, want, get())
		}
	})
}

// same compares what the rules determine; the times of reading differ by a round trip.
func same(t require.TestingT, want, got dedup.Record) {
	if want.State == dedup.Absent && got.State == dedup.Absent {
		return
	}
	require.WithinDuration(t, want.ExpiresAt, got.ExpiresAt, time.Second)
	want.ExpiresAt, got.ExpiresAt, want.ReadAt, got.ReadAt = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	if len(want.Result) == 0 {
		want.Result, got.Result = nil, append([]byte(nil), got.Result...)
	}
	require.Equal(t, fmt.Sprintf("%+v", want), fmt.Sprintf("%+v", got))
}
