package examples_test

import (
	"bytes"
	"context"
	"database/sql"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/internal/testserver"
)

func TestMain(m *testing.M) { testserver.Main(m, testserver.VerifyLeaks()) }

const (
	maxLines = 150
	limit    = 2 * time.Minute // of one run
)

// examples returns the folders that say what their program prints.
func examples(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*/expected.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var names []string
	for _, f := range files {
		names = append(names, filepath.Dir(f))
	}
	return names
}

func read(t *testing.T, parts ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(parts...))
	require.NoError(t, err)
	return string(b)
}

func build(t *testing.T, name string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), name)
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./"+name).CombinedOutput()
	require.NoError(t, err, string(out))
	return program
}

// run runs a program to its end and returns its standard output.
func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Run(), stderr.String())
	return stdout.String()
}

// script is the name of what is run in the place of a program that does not end by itself.
const script = "run.sh"

// runScript runs a script of an example to its end and returns its standard output. It must leave nothing behind.
func runScript(t *testing.T, name, script, program string) string {
	t.Helper()
	for _, tool := range []string{"sh", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s of %s needs %s", script, name, tool)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", script)
	cmd.Dir = name
	temp := t.TempDir()
	cmd.Env = append(os.Environ(), strings.ToUpper(name)+"="+program, "TMPDIR="+temp)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it ends its servers
	cmd.WaitDelay = limit                                                    // until their outputs are closed, which is when they have ended
	require.NoError(t, cmd.Run(), stderr.String())
	left, err := os.ReadDir(temp)
	require.NoError(t, err)
	assert.Empty(t, left)
	return stdout.String()
}

func has(name, file string) bool {
	_, err := os.Stat(filepath.Join(name, file))
	return err == nil
}

// TestOutput runs every example with the server that it starts itself, and twice on one that is given: nothing that a run
// leaves there may change the next.
func TestOutput(t *testing.T) {
	t.Parallel()
	for _, name := range examples(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			program, want := build(t, name), read(t, name, "expected.txt")
			if has(name, script) {
				assert.Equal(t, want, runScript(t, name, script, program))
				return
			}
			assert.Equal(t, want, run(t, program))
			if !strings.Contains(read(t, name, "main.go"), `"nats"`) {
				return
			}
			given := testserver.NATS(t)
			for range 2 {
				assert.Equal(t, want, run(t, program, "--nats", given.URL()))
			}
		})
	}
}

// TestPaymentsInPostgres runs twice in one database: the first run must leave nothing there.
func TestPaymentsInPostgres(t *testing.T) {
	t.Parallel()
	program, url := build(t, "payments"), testserver.Postgres(t).Database(t)
	for range 2 {
		assert.Equal(t, read(t, "payments", "expected.txt"), run(t, program, "--db", url))
	}
	db, err := sql.Open("pgx", url)
	require.NoError(t, err)
	defer func() { assert.NoError(t, db.Close()) }()
	var left int
	require.NoError(t, db.QueryRowContext(t.Context(), "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'idemq%'").Scan(&left))
	assert.Zero(t, left, "schemas")
}

func TestTwoCartsWithOneRedis(t *testing.T) {
	t.Parallel()
	testserver.RedisBinary(t)
	got := runScript(t, "cart", "two-servers.sh", build(t, "cart"))
	assert.Equal(t, read(t, "cart", "two-servers.txt"), got)
	assert.Contains(t, read(t, "cart", "README.md"), "$ examples/cart/two-servers.sh\n"+got)
}

func TestHouseRules(t *testing.T) {
	t.Parallel()
	for _, name := range examples(t) {
		command := "$ go run ./examples/" + name
		if has(name, script) {
			command = "$ examples/" + name + "/" + script
		}
		assert.Contains(t, read(t, name, "README.md"), command+"\n"+read(t, name, "expected.txt"),
			"the README of %s shows another output", name)
		files, err := filepath.Glob(filepath.Join(name, "*.go"))
		require.NoError(t, err)
		lines := 0
		for _, f := range files {
			if !strings.HasSuffix(f, "_test.go") {
				lines += strings.Count(read(t, f), "\n")
			}
		}
		assert.Less(t, lines, maxLines, "%s is too long for an example", name)
	}
}

func TestAnUnreachableServerIsNamed(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"nats-worker", "payments", "request-reply", "watermill-router"} {
		out, err := exec.CommandContext(t.Context(), build(t, name), "--nats", "nats://me:secret@127.0.0.1:1").CombinedOutput()
		require.Error(t, err)
		assert.Contains(t, string(out), name+": cannot connect: ")
		assert.Contains(t, string(out), "give the URL of a NATS server, or none to start one")
		assert.NotContains(t, string(out), "secret")
	}
}
