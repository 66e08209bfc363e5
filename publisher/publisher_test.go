package publisher_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/publisher"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestKeyFromHeader(t *testing.T) {
	long := strings.Repeat("k", publisher.MaxKeyLength)
	for name, c := range map[string]struct {
		header map[string][]string
		key    string
		err    error
		reason string
	}{
		"plain":         {header: map[string][]string{"Idempotency-Key": {"order-4711"}}, key: "order-4711"},
		"any spelling":  {header: map[string][]string{"iDEMPOTENCY-kEY": {"{order}"}}, key: "{order}"},
		"255 bytes":     {header: map[string][]string{"Idempotency-Key": {long}}, key: long},
		"nil":           {err: publisher.ErrMissingKey, reason: "no header"},
		"no values":     {header: map[string][]string{"Idempotency-Key": {}}, err: publisher.ErrMissingKey},
		"empty":         {header: map[string][]string{"Idempotency-Key": {""}}, err: publisher.ErrMalformedKey, reason: "empty"},
		"two values":    {header: map[string][]string{"Idempotency-Key": {"a", "a"}}, err: publisher.ErrMalformedKey, reason: "2 values"},
		"two spellings": {header: map[string][]string{"Idempotency-Key": {"a"}, "idempotency-key": {"a"}}, err: publisher.ErrMalformedKey, reason: "2 spellings"},
		"256 bytes":     {header: map[string][]string{"Idempotency-Key": {long + "k"}}, err: publisher.ErrMalformedKey, reason: "256 bytes"},
		"space":         {header: map[string][]string{"Idempotency-Key": {"a b"}}, err: publisher.ErrMalformedKey, reason: "byte 1 is 0x20"},
		"not ASCII":     {header: map[string][]string{"Idempotency-Key": {"ключ"}}, err: publisher.ErrMalformedKey, reason: "byte 0 is 0xD0"},
	} {
		t.Run(name, func(t *testing.T) {
			key, err := publisher.KeyFromHeader(c.header)
			assert.Equal(t, c.key, key)
			assert.ErrorIs(t, err, c.err)
			if c.err != nil {
				assert.ErrorContains(t, err, c.reason)
			}
		})
	}
}

// The rules are written twice, because this package stands beside dedup and not on it.
func TestKeysAreThoseOfDedup(t *testing.T) {
	require.Equal(t, dedup.MaxKeyLength, publisher.MaxKeyLength)
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.OneOf(rapid.String(), rapid.StringMatching(`[!-~]{1,260}`)).Draw(t, "key")
		h := map[string][]string{"idempotency-KEY": {"old"}}
		err := publisher.SetKey(h, key)
		require.Equal(t, dedup.ValidateID(key) == nil, err == nil)
		if err != nil {
			require.Equal(t, map[string][]string{"idempotency-KEY": {"old"}}, h)
			return
		}
		got, err := publisher.KeyFromHeader(h)
		require.NoError(t, err)
		require.Equal(t, key, got)
	})
}

func TestNewKeyIsUUIDv7(t *testing.T) {
	a, b := publisher.NewKey(), publisher.NewKey()
	assert.Less(t, a, b)
	assert.Equal(t, uuid.Version(7), uuid.MustParse(a).Version())
}

func TestResolveKey(t *testing.T) {
	header := map[string][]string{"idempotency-key": {"h"}}
	derive := func(subject string, _ map[string][]string, body []byte) (string, error) {
		return subject + "/" + string(body), nil
	}
	resolve := func(h map[string][]string, f publisher.KeyFunc, opts ...publisher.Option) (string, error) {
		return publisher.ResolveKey("s", h, []byte("b"), f, opts...)
	}
	is := func(want string) func(string, error) {
		return func(got string, err error) { assert.NoError(t, err); assert.Equal(t, want, got) }
	}
	fails := func(want error) func(string, error) {
		return func(got string, err error) { assert.ErrorIs(t, err, want); assert.Empty(t, got) }
	}
	is("h")(resolve(header, derive))
	is("o")(resolve(nil, derive, publisher.Key("o")))
	is("h")(resolve(header, derive, publisher.Key("h")))
	is("s/b")(resolve(nil, derive))
	fails(publisher.ErrKeyConflict)(resolve(header, nil, publisher.Key("o")))
	fails(publisher.ErrMalformedKey)(resolve(nil, derive, publisher.Key("")))
	fails(publisher.ErrMalformedKey)(resolve(map[string][]string{"Idempotency-Key": {""}}, derive, publisher.Key("o")))
	broken := errors.New("broken")
	answer := func(key string, err error) publisher.KeyFunc {
		return func(string, map[string][]string, []byte) (string, error) { return key, err }
	}
	fails(broken)(resolve(nil, answer("k", broken)))
	fails(publisher.ErrMissingKey)(resolve(nil, answer("", nil)))
	fails(publisher.ErrMalformedKey)(resolve(nil, answer("a b", nil)))
	random, err := resolve(nil, nil)
	require.NoError(t, err)
	assert.NoError(t, uuid.Validate(random))
}

func TestRetry(t *testing.T) {
	lost := errors.New("lost")
	transient := func(err error) bool { return errors.Is(err, lost) || errors.Is(err, context.DeadlineExceeded) }
	run := func(ctx context.Context, r publisher.Retry, results ...error) (tries int, err error) {
		err = r.Do(ctx, transient, func(context.Context) error {
			tries++
			return results[min(tries, len(results))-1]
		})
		return tries, err
	}
	synctest.Test(t, func(t *testing.T) {
		tries, err := run(t.Context(), publisher.Retry{}, lost, lost, nil)
		assert.NoError(t, err)
		assert.Equal(t, 3, tries)

		tries, err = run(t.Context(), publisher.Retry{}, lost)
		assert.ErrorIs(t, err, publisher.ErrUnconfirmed)
		assert.ErrorIs(t, err, lost)
		assert.Equal(t, 5, tries)

		refused := errors.New("refused")
		tries, err = run(t.Context(), publisher.Retry{}, lost, refused)
		assert.Equal(t, refused, err)
		assert.Equal(t, 2, tries)

		tries, err = run(t.Context(), publisher.Retry{Attempts: 1}, refused)
		assert.Equal(t, refused, err)
		assert.Equal(t, 1, tries)

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		tries, err = run(ctx, publisher.Retry{Attempts: -1}, lost)
		assert.ErrorIs(t, err, publisher.ErrUnconfirmed)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorIs(t, err, lost)
		assert.Greater(t, tries, 5)

		tries, err = run(ctx, publisher.Retry{}, nil)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.NotErrorIs(t, err, publisher.ErrUnconfirmed)
		assert.Zero(t, tries)

		// A try that hangs ends by itself.
		began := time.Now()
		err = publisher.Retry{Attempts: 1}.Do(t.Context(), transient, func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		})
		assert.ErrorIs(t, err, publisher.ErrUnconfirmed)
		assert.Equal(t, 5*time.Second, time.Since(began))
	})
}
