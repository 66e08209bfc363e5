package testserver

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPostgresAnswersAndIsShared(t *testing.T) {
	s := Postgres(t)
	assert.Same(t, s, Postgres(t))
	ctx := testContext(t)
	one, two := s.DB(t), s.DB(t)
	_, err := one.ExecContext(ctx, "CREATE TABLE t (x int)")
	require.NoError(t, err)
	_, err = two.ExecContext(ctx, "CREATE TABLE t (x int)")
	require.NoError(t, err, "each test has databases of its own")
}

// openTestPostgres opens Postgres and stops it with the test.
func openTestPostgres(t *testing.T, set postgresSettings) (*PostgresServer, error) {
	t.Helper()
	s, stop, err := openPostgres(set)
	if stop != nil {
		t.Cleanup(func() { assert.NoError(t, stop()) })
	}
	return s, err
}

func needPostgresBinary(t *testing.T) {
	t.Helper()
	if _, err := findPostgresBinaries(); err != nil {
		skip(t, "postgres binary", "postgres", err.Error())
	}
}

func TestPostgresFromAURL(t *testing.T) {
	server := PrivatePostgres(t)
	s, err := openTestPostgres(t, postgresSettings{url: server.URL()})
	require.NoError(t, err)
	assert.Equal(t, SourceURL, s.Source())
	server.Stop()
	_, err = openTestPostgres(t, postgresSettings{url: server.URL()})
	require.ErrorContains(t, err, envPostgresURL)
	assert.NotErrorIs(t, err, errNoPostgres, "what was asked for must not be skipped")
}

func TestPostgresFromABinaryWhereThereIsNoDocker(t *testing.T) {
	needPostgresBinary(t)
	withoutDocker(t)
	s, err := openTestPostgres(t, postgresSettings{image: DefaultPostgresImage})
	require.NoError(t, err)
	assert.Equal(t, SourceBinary, s.Source())
	require.NoError(t, s.DB(t).PingContext(testContext(t)))
}

func TestPostgresFromDocker(t *testing.T) {
	set := postgresSettingsFromEnv()
	if set.only == SourceBinary || set.only == SourceURL {
		t.Skipf("%s excludes Docker", envPostgresSource)
	}
	set.only = SourceDocker
	s, err := openTestPostgres(t, set)
	if err != nil {
		skip(t, "docker", "docker", err.Error())
	}
	assert.Equal(t, SourceDocker, s.Source())
	require.NoError(t, s.DB(t).PingContext(testContext(t)))
}

func TestPostgresFromNowhere(t *testing.T) {
	withoutDocker(t)
	t.Setenv("PATH", t.TempDir())
	saved := debianPostgres
	debianPostgres = filepath.Join(t.TempDir(), "*", "bin")
	t.Cleanup(func() { debianPostgres = saved })
	_, err := openTestPostgres(t, postgresSettings{image: DefaultPostgresImage})
	require.ErrorIs(t, err, errNoPostgres)
	for _, reason := range []string{envPostgresURL, "Docker", "initdb"} {
		assert.ErrorContains(t, err, reason)
	}
}

func TestPostgresIsFoundWhereDebianPutsIt(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", t.TempDir())
	saved := debianPostgres
	debianPostgres = filepath.Join(dir, "*", "bin")
	t.Cleanup(func() { debianPostgres = saved })
	for _, version := range []string{"9", "15"} {
		bin := filepath.Join(dir, version, "bin")
		require.NoError(t, os.MkdirAll(bin, 0o755)) //nolint:gosec // as Debian does
		for _, name := range []string{"initdb", "postgres"} {
			require.NoError(t, os.WriteFile(filepath.Join(bin, name), nil, 0o600))
		}
	}
	b, err := findPostgresBinaries()
	require.NoError(t, err)
	assert.Equal(t, filepath.Join(dir, "15", "bin", "postgres"), b.postgres, "the newest")
}

func TestPostgresSourcesThatAreDemandedAreNotSkipped(t *testing.T) {
	withoutDocker(t)
	for _, set := range []postgresSettings{{only: SourceURL}, {only: SourceDocker}, {only: "podman"}, {requireDocker: true}} {
		_, err := openTestPostgres(t, set)
		require.Error(t, err)
		assert.NotErrorIs(t, err, errNoPostgres, "%+v", set)
	}
}

func TestPrivatePostgresComesBackWithItsData(t *testing.T) {
	t.Parallel()
	s := PrivatePostgres(t)
	ctx := testContext(t)
	_, err := s.DB(t).ExecContext(ctx, "CREATE TABLE t AS SELECT 7 AS x")
	require.NoError(t, err)
	s.Stop()
	require.Error(t, s.DB(t).PingContext(ctx))
	s.Start(t)
	var x int
	require.NoError(t, s.DB(t).QueryRowContext(ctx, "SELECT x FROM t").Scan(&x))
	assert.Equal(t, 7, x)
}
