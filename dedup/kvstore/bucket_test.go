package kvstore

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/internal/testserver"
)

func TestUnfitSettingsAndBucketsAreRefused(t *testing.T) {
	js, ctx := connect(t), testContext(t)
	for _, c := range []Config{{Bucket: "a.b"}, {Bucket: "a b"}, {Replicas: -1}, {MaxBytes: -1}} {
		_, err := New(ctx, js, c)
		require.ErrorIs(t, err, dedup.ErrConfig)
	}
	for name, c := range map[string]jetstream.KeyValueConfig{
		"time to live":     {},
		"limit marker":     {LimitMarkerTTL: time.Second},
		"history":          {History: 5},
		"forgets everyth.": {TTL: time.Hour},
	} {
		c.Bucket = "unfit-" + strings.NewReplacer(" ", "-", ".", "").Replace(name)
		_, err := js.CreateKeyValue(ctx, c)
		require.NoError(t, err)
		_, err = New(ctx, js, Config{Bucket: c.Bucket})
		require.ErrorIs(t, err, dedup.ErrConfig, name)
	}
	_ = open(t, js)
	_, err := New(ctx, js, Config{Bucket: bucketOf(t), Replicas: 3})
	require.ErrorContains(t, err, "replicas")
	_, err = New(ctx, js, Config{Bucket: bucketOf(t)})
	require.ErrorContains(t, err, "in memory")
}

func TestWhoOnlyLooksCreatesNoBucket(t *testing.T) {
	js, ctx := connect(t), testContext(t)
	_, err := New(ctx, js, Config{Bucket: "not-there", MustExist: true})
	require.ErrorIs(t, err, dedup.ErrNotFound)
	_, err = js.Stream(ctx, "KV_not-there")
	require.ErrorIs(t, err, jetstream.ErrStreamNotFound)
}

func TestKeysAreReversibleAndDistinct(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		half := rapid.StringMatching(`[!-~]{1,255}`)
		a := dedup.Key{Scope: half.Draw(t, "scope"), ID: half.Draw(t, "id")}
		got, ok := parseKeyToken(keyToken(a))
		require.True(t, ok)
		require.Equal(t, a, got)
	})
	assert.NotEqual(t, keyToken(dedup.Key{Scope: "a.b", ID: "c"}), keyToken(dedup.Key{Scope: "a", ID: "b.c"}))
	for _, bad := range []string{"", ".", "YQ", "YQ.", ".YQ", "YQ.YQ.YQ", "YR.YQ", "YQ==.YQ", "IA.YQ"} {
		_, ok := parseKeyToken(bad)
		assert.False(t, ok, bad)
	}
}

func TestTheLongestKeysFit(t *testing.T) {
	s, ctx := open(t, connect(t)), testContext(t)
	c := claimOf(strings.Repeat("~", dedup.MaxKeyLength), "n1")
	c.Key.Scope = strings.Repeat("ü", dedup.MaxKeyLength/2)
	acquire(t, s, c, dedup.Granted)
	got, err := s.Get(ctx, c.Key)
	require.NoError(t, err)
	assert.Equal(t, c.Key, got.Key)
	c.Key.ID = ""
	_, _, err = s.Acquire(ctx, c)
	require.ErrorIs(t, err, dedup.ErrInvalidKey)
}

func TestAResultThatIsTooLargeIsRefusedAndTheClaimStays(t *testing.T) {
	srv := testserver.NATS(t, func(o *server.Options) { o.MaxPayload = 4096 })
	js, err := jetstream.New(srv.Conn(t))
	require.NoError(t, err)
	s, ctx := open(t, js), testContext(t)
	r := acquire(t, s, claimOf("1", "n1"), dedup.Granted)
	settle := func(n int) error {
		return s.Settle(ctx, holdOf(r), dedup.Settlement{State: dedup.Consumed, Result: bytes.Repeat([]byte("x"), n), Retention: time.Hour})
	}
	var se *dedup.StoreError
	require.ErrorAs(t, settle(4096), &se)
	assert.False(t, se.Indeterminate)
	require.ErrorIs(t, se, errTooLarge)
	require.NoError(t, settle(3400))
}

// KeyValue.Update clears the time to live that KeyValue.Create has set. The store's writes keep one.
func TestTheTimeToLiveSurvivesARenewal(t *testing.T) {
	js := connect(t)
	s, ctx := open(t, js), testContext(t)
	ttlOf := func(key string) string {
		m, err := s.stream.GetLastMsgForSubject(ctx, subjectPrefix+s.bucket+"."+key)
		require.NoError(t, err)
		return m.Header.Get(jetstream.MsgTTLHeader)
	}
	kv, err := js.KeyValue(ctx, s.bucket)
	require.NoError(t, err)
	rev, err := kv.Create(ctx, "trap", nil, jetstream.KeyTTL(time.Hour))
	require.NoError(t, err)
	require.Equal(t, "1h0m0s", ttlOf("trap"))
	_, err = kv.Update(ctx, "trap", nil, rev)
	require.NoError(t, err)
	require.Empty(t, ttlOf("trap"), "the trap")

	c := claimOf("1", "n1")
	r := acquire(t, s, c, dedup.Granted)
	assert.Equal(t, "1h1m0s", ttlOf(keyToken(c.Key)), "retention and lease")
	require.NoError(t, s.Extend(ctx, holdOf(r), 10*time.Minute))
	assert.Equal(t, "1h10m0s", ttlOf(keyToken(c.Key)))
	require.NoError(t, s.Settle(ctx, holdOf(r), dedup.Settlement{State: dedup.Consumed, Retention: 1500 * time.Millisecond}))
	assert.Equal(t, "2s", ttlOf(keyToken(c.Key)), "rounded up")
	got, err := s.Get(ctx, c.Key)
	require.NoError(t, err)
	assert.Equal(t, 1500*time.Millisecond, got.ExpiresAt.Sub(got.UpdatedAt), "the end itself is exact")
}
