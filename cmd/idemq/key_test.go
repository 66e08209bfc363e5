//go:build unix

package main

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/kvstore"
	"github.com/idemq/idemq/internal/testserver"
)

var keyFields = []string{
	"key", "scope", "state", "attempt", "generation", "fence", "owner", "fingerprint", "lease_left_ms", "expires_in_ms", "cause",
}

func TestKeyShow(t *testing.T) {
	t.Parallel()
	s := testserver.SharedNATS(t)
	for name, store := range map[string]func(t *testing.T) string{
		"KV":    func(*testing.T) string { return "kv" },
		"REDIS": func(t *testing.T) string { return testserver.Redis(t).URL() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, stream := store(t), "KEY"+name
			at := []string{"--nats", s.URL(), "--store", url}
			worked(t, stream, s.URL(), url)
			show := func(key string) (*process, int) {
				return idemq(t, append([]string{"key", "show", key, "--scope", stream + "/D"}, at...)...)
			}

			p, code := show("done")
			require.Equal(t, exitFine, code, p.err.String())
			o := p.object(keyFields...)
			assert.Equal(t, "consumed", o["state"])
			assert.Equal(t, 1, number(o, "attempt"))
			assert.Equal(t, 1, number(o, "generation"))
			assert.Positive(t, o["fence"])
			assert.Positive(t, o["expires_in_ms"])
			assert.Empty(t, o["cause"])
			p, code = show("dead")
			require.Equal(t, exitFine, code, p.err.String())
			assert.Contains(t, p.object(keyFields...)["cause"], "65")

			p, code = show("never")
			assert.Equal(t, exitNothingFound, code)
			assert.Empty(t, p.out.String())
		})
	}
}

func TestKeyShowOfAnUnreadableRecordSaysWhatToDo(t *testing.T) {
	t.Parallel()
	s := testserver.SharedNATS(t)
	at := []string{"--nats", s.URL(), "--store", "kv://GARBAGE"}
	consume := append([]string{"consume", "--stream", "GARBLED", "--durable", "D", "--subjects", "garbled", "--create", "--idle-exit", "1ms", "--exec", "true"}, at...)
	fine(t, consume...)
	fine(t, append([]string{"publish", "garbled", "--data", "x", "--key", "k"}, at...)...)
	fine(t, consume...)
	js, err := jetstream.New(s.Conn(t))
	require.NoError(t, err)
	bucket, err := js.KeyValue(context.Background(), "GARBAGE")
	require.NoError(t, err)
	names, err := bucket.Keys(context.Background())
	require.NoError(t, err)
	require.Len(t, names, 1)
	_, err = bucket.Put(context.Background(), names[0], []byte("\x1b[2Jgarbage"))
	require.NoError(t, err)

	p, code := idemq(t, append([]string{"key", "show", "k", "--scope", "GARBLED/D"}, at...)...)
	assert.Equal(t, exitFailed, code)
	assert.Contains(t, p.err.String(), "GARBLED/D k")
	assert.Contains(t, p.err.String(), "forget the key")
	assert.NotContains(t, p.err.String(), "\x1b")
	assert.Empty(t, p.out.String())
}

func TestKeyShowListsSteps(t *testing.T) {
	t.Parallel()
	s := testserver.SharedNATS(t)
	worked(t, "KEYSTEPS", s.URL(), "kv://KEYSTEPS")
	js, err := jetstream.New(s.Conn(t))
	require.NoError(t, err)
	store, err := kvstore.New(t.Context(), js, kvstore.Config{Bucket: "KEYSTEPS"})
	require.NoError(t, err)
	d, err := dedup.New(store, dedup.Config{MaxStepBytes: 4 << 10})
	require.NoError(t, err)
	_, err = d.Do(t.Context(), dedup.Key{Scope: "KEYSTEPS/D", ID: "stepped"}, func(ctx context.Context) ([]byte, error) {
		for name, result := range map[string]string{"reserve": "\u009b2Jx", "too-large": strings.Repeat("x", 8<<10), "long": strings.Repeat("y", 3<<10)} {
			_, _ = dedup.Step(ctx, name, func(context.Context) (string, error) { return result, nil })
		}
		return nil, errors.New("later")
	})
	require.Error(t, err)

	p, code := idemq(t, "key", "show", "stepped", "--scope", "KEYSTEPS/D", "--nats", s.URL(), "--store", "kv://KEYSTEPS")
	require.Equal(t, exitFine, code, p.err.String())
	assert.NotContains(t, p.out.String(), "\u009b", "what others have written is escaped")
	steps, _ := p.object(append(keyFields, "steps")...)["steps"].([]any)
	require.Len(t, steps, 3)
	for _, one := range steps {
		st, _ := one.(map[string]any)
		switch st["name"] {
		case "reserve":
			assert.Equal(t, "json", st["codec"])
			assert.Equal(t, "\"\u009b2Jx\"", st["result"])
		case "long":
			assert.Equal(t, 3<<10+2, number(st, "bytes"))
			assert.Len(t, st["result"], maxShownResult)
		case "too-large":
			assert.Contains(t, st["refused"], "Config.MaxStepBytes is 4096")
		default:
			t.Errorf("step %v", st)
		}
	}
}
