package testserver

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// Names of the environment variables that the package comment explains.
const (
	envPostgresURL    = "IDEMQ_TEST_POSTGRES_URL"
	envPostgresImage  = "IDEMQ_TEST_POSTGRES_IMAGE"
	envPostgresSource = "IDEMQ_TEST_POSTGRES_SOURCE"
)

const (
	// adminConnections is how many databases are made or dropped at once.
	adminConnections = 2

	// poolConnections is how many connections a test's pool keeps; database/sql keeps
	// two, and every other one is a new process of the server.
	poolConnections = 16

	// adminLimit bounds the making and the dropping of a database.
	adminLimit = 30 * time.Second
)

// errNoPostgres means that no source has a server; its text says why for each.
var errNoPostgres = errors.New("no Postgres")

// PostgresServer is a Postgres server that all tests of the process share. Each
// test makes databases of its own on it.
type PostgresServer struct {
	url    string
	source Source
	admin  *sql.DB
}

// URL is the postgres:// address of the server's maintenance database.
func (s *PostgresServer) URL() string { return s.url }

// Source says where the server came from.
func (s *PostgresServer) Source() Source { return s.source }

// Database makes an empty database and returns its URL, for the driver "pgx". It
// is dropped when the test ends, with whoever is still connected to it.
func (s *PostgresServer) Database(t testing.TB) string {
	t.Helper()
	name := "idemq_test_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	run := func(statement string) error {
		ctx, cancel := context.WithTimeout(context.Background(), adminLimit)
		defer cancel()
		_, err := s.admin.ExecContext(ctx, statement)
		return err
	}
	if err := run("CREATE DATABASE " + name); err != nil {
		t.Fatalf("testserver: make a Postgres database: %v", err)
	}
	t.Cleanup(func() {
		if err := run("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			t.Errorf("testserver: drop the Postgres database: %v", err)
		}
	})
	return withDatabase(t, s.url, name)
}

// DB returns a pool of connections to a database of its own that is closed, and
// the database dropped, when the test ends.
func (s *PostgresServer) DB(t testing.TB) *sql.DB {
	t.Helper()
	return openPostgresDB(t, s.Database(t))
}

func openPostgresDB(t testing.TB, address string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", address)
	if err != nil {
		t.Fatalf("testserver: open the Postgres database: %v", err)
	}
	db.SetMaxOpenConns(poolConnections)
	db.SetMaxIdleConns(poolConnections)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func withDatabase(t testing.TB, address, name string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatalf("testserver: parse the Postgres URL: %v", err)
	}
	u.Path = "/" + name
	return u.String()
}

// Postgres returns the Postgres server that all tests of this process share, found
// or started by the first that asks and stopped by [Main]. The package comment says
// where it looks. Without one the test is skipped, or fails if Postgres is required.
func Postgres(t testing.TB) *PostgresServer {
	t.Helper()
	current.mustBeEntered(t)
	s, err := openSharedPostgres()
	if errors.Is(err, errNoPostgres) {
		skip(t, "postgres", "postgres", err.Error())
	}
	if err != nil {
		t.Fatalf("testserver: %v", err)
	}
	return s
}

var openSharedPostgres = sync.OnceValues(func() (*PostgresServer, error) {
	s, stop, err := openPostgres(postgresSettingsFromEnv())
	if stop != nil {
		current.atExit(stop)
	}
	return s, err
})

// postgresSettings is what the environment says about Postgres.
type postgresSettings struct {
	url           string
	image         string
	only          Source // empty for any
	requireDocker bool
	run           string
}

func postgresSettingsFromEnv() postgresSettings {
	s := postgresSettings{
		url:           os.Getenv(envPostgresURL),
		image:         os.Getenv(envPostgresImage),
		only:          Source(os.Getenv(envPostgresSource)),
		requireDocker: required("docker"),
		run:           os.Getenv(envRun),
	}
	if s.image == "" {
		s.image = DefaultPostgresImage
	}
	return s
}

// openPostgres tries the sources that set allows. The function it returns stops
// what was started and closes the server's own connections.
func openPostgres(set postgresSettings) (*PostgresServer, func() error, error) {
	address, source, stop, err := findPostgres(set)
	if err != nil {
		return nil, nil, err
	}
	admin, err := sql.Open("pgx", address)
	if err != nil {
		return nil, stop, err
	}
	admin.SetMaxOpenConns(adminConnections)
	return &PostgresServer{url: address, source: source, admin: admin}, func() error {
		err := admin.Close()
		if stop != nil {
			err = errors.Join(err, stop())
		}
		return err
	}, nil
}

func findPostgres(set postgresSettings) (string, Source, func() error, error) {
	switch set.only {
	case "", SourceURL, SourceDocker, SourceBinary:
	default:
		return "", "", nil, fmt.Errorf("%s=%q: want url, docker or binary", envPostgresSource, set.only)
	}
	allowed := func(s Source) bool { return set.only == "" || set.only == s }
	var missing []string

	if allowed(SourceURL) {
		if set.url != "" {
			if _, err := firstThat(context.Background(), urlAnswerLimit, pingPostgres, []string{set.url}); err != nil {
				return "", "", nil, fmt.Errorf("the server of %s does not answer: %w", envPostgresURL, err)
			}
			return set.url, SourceURL, nil, nil
		}
		missing = append(missing, "no "+envPostgresURL)
	}
	if allowed(SourceDocker) {
		address, stop, err := startPostgresContainer(set)
		if err == nil {
			return address, SourceDocker, stop, nil
		}
		if set.requireDocker {
			return "", "", nil, fmt.Errorf("docker is required by %s: %w", envRequire, err)
		}
		missing = append(missing, err.Error())
	}
	if allowed(SourceBinary) {
		address, stop, err := startSharedPostgresBinary()
		if err == nil {
			return address, SourceBinary, stop, nil
		}
		if !errors.Is(err, errNoBinary) {
			return "", "", nil, err
		}
		missing = append(missing, err.Error())
	}
	if set.only != "" {
		return "", "", nil, fmt.Errorf("%s allows only %q: %s", envPostgresSource, set.only, strings.Join(missing, "; "))
	}
	return "", "", nil, fmt.Errorf("%w: %s", errNoPostgres, strings.Join(missing, "; "))
}

// pingPostgres uses a connection of its own.
func pingPostgres(ctx context.Context, address string) error {
	db, err := sql.Open("pgx", address)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return db.PingContext(ctx)
}
