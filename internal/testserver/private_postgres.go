package testserver

import (
	"database/sql"
	"errors"
	"os"
	"sync"
	"testing"
)

// PrivatePostgresServer is a postgres process of one test's own, for tests of
// outages. Its methods may be called from several goroutines.
type PrivatePostgresServer struct {
	data postgresData
	port int

	mu      sync.Mutex
	process *child // nil while stopped
}

// PrivatePostgres starts Postgres from the local binaries on a free port of the
// loopback interface and stops it when the test ends. What it has committed
// survives Kill and Start. Without binaries the test is skipped, or fails if
// Postgres is required.
func PrivatePostgres(t testing.TB) *PrivatePostgresServer {
	t.Helper()
	dir, err := os.MkdirTemp("", "idemq-postgres-") //nolint:usetesting // a test's directories are closed to the user that Postgres runs as
	if err != nil {
		t.Fatalf("testserver: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &PrivatePostgresServer{}
	if s.data, err = makePostgresData(dir); err == nil {
		s.process, s.port, err = onFreePort(func(port int) (*child, error) { return s.data.start(port, nil) })
	}
	if errors.Is(err, errNoBinary) {
		skip(t, "private postgres", "postgres", err.Error())
	}
	if err != nil {
		t.Fatalf("testserver: %v", err)
	}
	t.Cleanup(s.Stop)
	return s
}

// URL is the postgres:// address. It stays the same over restarts.
func (s *PrivatePostgresServer) URL() string { return postgresURL(s.port) }

// DB returns a pool of connections that is closed when the test ends.
func (s *PrivatePostgresServer) DB(t testing.TB) *sql.DB {
	t.Helper()
	return openPostgresDB(t, s.URL())
}

// Stop shuts the server down, its clients' connections cut, and returns when it is
// gone. A stopped server stays as it is.
func (s *PrivatePostgresServer) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		s.process.stop()
		s.process = nil
	}
}

// Start starts a stopped server again on the same port with the same data.
func (s *PrivatePostgresServer) Start(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		t.Fatal("testserver: the private Postgres server is running already")
	}
	p, err := s.data.start(s.port, nil)
	if err != nil {
		t.Fatalf("testserver: %v", err)
	}
	s.process = p
}
