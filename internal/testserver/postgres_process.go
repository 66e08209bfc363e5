package testserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"
)

const (
	postgresReadyLine = "database system is ready to accept connections"

	// postgresMakeLimit bounds initdb.
	postgresMakeLimit = time.Minute
)

// postgresFlags make a server fast and forgetful of nothing but power failures.
var postgresFlags = []string{
	"-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off",
	"-c", "shared_buffers=32MB", "-c", "max_connections=200", "-c", "autovacuum_naptime=5s",
}

// debianPostgres is where Debian puts the programs of each version; they are not on
// PATH.
var debianPostgres = "/usr/lib/postgresql/*/bin"

// postgresBinaries are the programs of one installation.
type postgresBinaries struct{ initdb, postgres string }

// findPostgresBinaries looks on PATH and where Debian puts what it installs, the
// newest version first.
func findPostgresBinaries() (postgresBinaries, error) {
	initdb, err := exec.LookPath("initdb")
	postgres, err2 := exec.LookPath("postgres")
	if err == nil && err2 == nil {
		return postgresBinaries{initdb: initdb, postgres: postgres}, nil
	}
	dirs, _ := filepath.Glob(debianPostgres)
	slices.SortFunc(dirs, func(a, b string) int { return postgresVersion(b) - postgresVersion(a) })
	for _, dir := range dirs {
		b := postgresBinaries{initdb: filepath.Join(dir, "initdb"), postgres: filepath.Join(dir, "postgres")}
		_, err := os.Stat(b.initdb)
		_, err2 := os.Stat(b.postgres)
		if err == nil && err2 == nil {
			return b, nil
		}
	}
	return postgresBinaries{}, fmt.Errorf("%w: no initdb and postgres on PATH or in %s", errNoBinary, debianPostgres)
}

// postgresVersion reads the version out of /usr/lib/postgresql/15/bin.
func postgresVersion(dir string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
	return n
}

// postgresData is a directory with an empty database system, and the user it
// belongs to.
type postgresData struct {
	postgresBinaries
	dir   string
	owner *syscall.SysProcAttr
}

// makePostgresData makes one below dir. Postgres does not run as root, so it is
// made as another user then.
func makePostgresData(dir string) (postgresData, error) {
	b, err := findPostgresBinaries()
	if err != nil {
		return postgresData{}, err
	}
	d := postgresData{postgresBinaries: b, dir: filepath.Join(dir, "data")}
	if err := os.Mkdir(d.dir, 0o700); err != nil {
		return d, err
	}
	if d.owner, err = giveAway(dir, d.dir); err != nil {
		return d, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), postgresMakeLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, d.initdb,
		"--pgdata", d.dir, "--username", "postgres", "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync")
	cmd.Dir, cmd.SysProcAttr = d.dir, d.attributes()
	if out, err := cmd.CombinedOutput(); err != nil {
		return d, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return d, nil
}

func (d postgresData) attributes() *syscall.SysProcAttr {
	a := *d.owner
	return &a
}

// start starts the server on port and returns when it accepts connections.
func (d postgresData) start(port int, flags []string) (*child, error) {
	args := slices.Concat([]string{
		"-D", d.dir, "-p", strconv.Itoa(port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
	}, postgresFlags, flags)
	cmd := exec.Command(d.postgres, args...)
	cmd.Dir, cmd.SysProcAttr = d.dir, d.attributes()
	p, err := startChild("postgres", postgresReadyLine, cmd)
	if err == nil {
		p.term = syscall.SIGINT // SIGTERM would wait for the clients
	}
	return p, err
}

// startSharedPostgresBinary starts a server on a free port and returns its URL and
// what stops it and removes its directory.
func startSharedPostgresBinary() (string, func() error, error) {
	dir, err := os.MkdirTemp("", "idemq-postgres-")
	if err != nil {
		return "", nil, err
	}
	p, port, err := startPostgresOnFreePort(dir)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	stop := func() error {
		p.stop()
		return os.RemoveAll(dir)
	}
	return postgresURL(port), stop, nil
}

func startPostgresOnFreePort(dir string) (*child, int, error) {
	d, err := makePostgresData(dir)
	if err != nil {
		return nil, 0, err
	}
	return onFreePort(func(port int) (*child, error) { return d.start(port, nil) })
}

func postgresURL(port int) string {
	return "postgres://postgres@" + net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) + "/postgres?sslmode=disable"
}
