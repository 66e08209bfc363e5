package main

import (
	"database/sql"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/internal/testserver"
)

func TestStoreMigrate(t *testing.T) {
	t.Parallel()
	for name, address := range map[string]func(t *testing.T) string{
		"sqlite":   func(t *testing.T) string { return "sqlite://" + filepath.Join(t.TempDir(), "new.db") },
		"postgres": func(t *testing.T) string { return testserver.Postgres(t).Database(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := address(t)
			show := []string{"key", "show", "k", "--scope", "S/D", "--store", url, "--nats", testserver.SharedNATS(t).URL()}
			p, code := idemq(t, show...)
			assert.Equal(t, exitFailed, code)
			assert.Contains(t, p.err.String(), "idemq store migrate "+name, "it says what to do")
			if _, password, _ := strings.Cut(url, "password="); password != "" {
				assert.NotContains(t, p.err.String(), password)
			}

			for range 2 {
				assert.Contains(t, fine(t, "store", "migrate", url).out.String(), "up to date")
			}
			p, code = idemq(t, show...)
			assert.Equal(t, exitNothingFound, code, p.err.String())
		})
	}
}

func TestStoreMigrateSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		says string
		code int
	}{
		{[]string{}, "name the database", exitUsage},
		{[]string{"redis://127.0.0.1:6379"}, "no tables to make", exitUsage},
		{[]string{"sqlite://"}, "write sqlite://FILE", exitUsage},
		{[]string{"sqlite://a.db?mode=ro"}, "without parameters", exitUsage},
		{[]string{"postgres://u:p%zz@h/db"}, "percent-encoded", exitUsage},
		{[]string{"postgres://u:geheim@127.0.0.1:1/db"}, "cannot use the store postgres://127.0.0.1:1/db", exitFailed},
		{[]string{"sqlite:///no/such/folder/a.db"}, "cannot use the store", exitFailed},
		{[]string{"a", "b"}, "one URL", exitUsage},
	} {
		p, code := idemq(t, append([]string{"store", "migrate"}, c.args...)...)
		assert.Equal(t, c.code, code, c.args)
		assert.Contains(t, p.err.String(), c.says)
		assert.NotContains(t, p.err.String(), "geheim")
	}
}

func TestProcessesThatMigrateAtOnce(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]string{
		"sqlite": "sqlite://" + filepath.Join(t.TempDir(), "at once.db"), "postgres": testserver.Postgres(t).Database(t),
	} {
		var all []*process
		for range 4 {
			all = append(all, command(t, "store", "migrate", url).start())
		}
		for _, p := range all {
			assert.Equal(t, exitFine, p.wait(), "%s: %s", name, p.err.String())
		}
	}
}

// A schema from the future is left alone.
func TestStoreMigrateLeavesANewerSchemaAlone(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "newer.db")
	fine(t, "store", "migrate", "sqlite://"+file)
	db, err := sql.Open("sqlite", file)
	require.NoError(t, err)
	_, err = db.ExecContext(t.Context(), "INSERT INTO idemq_schema (version) VALUES (99)")
	require.NoError(t, err)
	require.NoError(t, db.Close())
	p, code := idemq(t, "store", "migrate", "sqlite://"+file)
	assert.Equal(t, exitFailed, code)
	assert.Contains(t, p.err.String(), "use a newer build")
}

func TestConsumeKeepsItsRecordsInADatabase(t *testing.T) {
	t.Parallel()
	url := "sqlite://" + filepath.Join(t.TempDir(), "consume.db")
	fine(t, "store", "migrate", url)
	s := testserver.NATS(t)
	at := []string{"--nats", s.URL()}
	consume := append([]string{
		"consume", "--store", url, "--stream", "ORDERS", "--durable", "D", "--subjects", "orders", "--create", "--exec", "cat >/dev/null",
		"--idle-exit", "1s",
	}, at...)
	fine(t, consume...)
	for range 2 {
		fine(t, append([]string{"publish", "orders", "--key", "k", "--data", "x"}, at...)...)
	}
	assert.Contains(t, fine(t, consume...).out.String(), "executed 1,")
	p := fine(t, append([]string{"key", "show", "k", "--scope", "ORDERS/D", "--json"}, at...)...)
	assert.Contains(t, p.out.String(), `"state":"consumed"`, "the store was found by the metadata of the durable")
	p, code := idemq(t, append([]string{"key", "show", "k", "--scope", "ORDERS/D", "--store", "sqlite://other.db"}, at...)...)
	assert.NotEqual(t, exitFine, code)
	assert.Contains(t, p.err.String(), "there is no such file: other.db", "and no empty one is made")
}

// A durable store behind Redis remembers what Redis has forgotten, and the operator's commands find both.
func TestConsumeWithADurableStoreBehindRedis(t *testing.T) {
	t.Parallel()
	fast := testserver.PrivateRedis(t)
	durable := "sqlite://" + filepath.Join(t.TempDir(), "durable.db")
	fine(t, "store", "migrate", durable)
	s := testserver.NATS(t)
	at := []string{"--nats", s.URL()}
	consume := append([]string{
		"consume", "--store", fast.URL(), "--durable-store", durable, "--stream", "ORDERS", "--durable", "D", "--subjects", "orders", "--create",
		"--exec", "cat >/dev/null", "--idle-exit", "1s", "--lease", "1s",
	}, at...)
	fine(t, consume...)
	publish := func() { // without the id by which the server itself would refuse the second one
		m := nats.NewMsg("orders")
		m.Data = []byte("x")
		m.Header.Set("Idempotency-Key", "k")
		_, err := s.Conn(t).RequestMsg(m, patience)
		require.NoError(t, err)
	}
	publish()
	assert.Contains(t, fine(t, consume...).out.String(), "executed 1,")
	require.NoError(t, fast.Client(t).FlushAll(t.Context()).Err())
	publish()
	assert.Contains(t, fine(t, consume...).out.String(), "executed 0, duplicates acknowledged 1,")
	p := fine(t, append([]string{"key", "show", "k", "--scope", "ORDERS/D", "--json"}, at...)...)
	assert.Contains(t, p.out.String(), `"state":"consumed"`)
	assert.Contains(t, p.err.String(), "store: tiered:redis://", "found by the metadata of the durable")
	p, code := idemq(t, append([]string{"key", "show", "k", "--scope", "ORDERS/D", "--store", fast.URL()}, at...)...)
	assert.Equal(t, exitFailed, code, "one tier alone is another store")
	assert.Contains(t, p.err.String(), "uses the store tiered:redis://")
}

func TestDurableStoresThatCannotBe(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ store, durable, says string }{
		{"", "sqlite://a.db", "--durable-store stands behind a store"},
		{"redis://127.0.0.1:6379", "redis://127.0.0.1:6380", "takes postgres://"},
		{"redis://127.0.0.1:6379", "memory://", "takes postgres://"},
		{"sqlite://a.db", "sqlite://b.db", "stands behind Redis, not behind sqlite://a.db"},
		{"kv", "sqlite://b.db", "stands behind Redis, not behind kv"},
		{"redis://127.0.0.1:6379", "sqlite://", "write sqlite://FILE"},
	} {
		args := []string{"key", "show", "k", "--scope", "S/D", "--durable-store", c.durable}
		if c.store != "" {
			args = append(args, "--store", c.store)
		}
		p, code := idemq(t, args...)
		assert.Equal(t, exitUsage, code, p.err.String())
		assert.Contains(t, p.err.String(), c.says)
	}
}

func TestTiersAreTheSameStoreIfBothAre(t *testing.T) {
	t.Parallel()
	a := joinTiers("redis+cluster://h1:6379,h2:6379", "postgres://127.0.0.1:5432/db")
	assert.True(t, sameStore(a, joinTiers("redis+cluster://h2:6379", "postgres://localhost:5432/db")))
	assert.False(t, sameStore(a, joinTiers("redis+cluster://h2:6379", "postgres://localhost:5432/other")))
	assert.False(t, sameStore(a, joinTiers("redis+cluster://h3:6379", "postgres://localhost:5432/db")))
	assert.False(t, sameStore(a, "redis+cluster://h1:6379,h2:6379"))
}
