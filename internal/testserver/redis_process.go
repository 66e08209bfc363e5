package testserver

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"testing"
)

const redisReadyLine = "Ready to accept connections"

// redisFlags make a server keep everything in memory and nothing on disk, and
// refuse writes rather than forget records.
var redisFlags = []string{"--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"}

// errNoBinary means that there is no program to start.
var errNoBinary = errors.New("no server on PATH")

func redisBinary() (string, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return "", fmt.Errorf("%w: no redis-server", errNoBinary)
	}
	return path, nil
}

// RedisBinary returns the redis-server on PATH, for tests of programs that start
// one themselves. Without it the test is skipped, or fails if Redis is required.
func RedisBinary(t testing.TB) string {
	t.Helper()
	path, err := redisBinary()
	if err != nil {
		skip(t, "redis binary", "redis", err.Error())
	}
	return path
}

// startSharedRedisBinary starts a server on a free port and returns its URL and
// what stops it and removes its directory.
func startSharedRedisBinary() (string, func() error, error) {
	dir, err := os.MkdirTemp("", "idemq-redis-")
	if err != nil {
		return "", nil, err
	}
	p, port, err := startRedisOnFreePort(dir, nil)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	stop := func() error {
		p.stop()
		return os.RemoveAll(dir)
	}
	return redisURL(port), stop, nil
}

func redisURL(port int) string { return "redis://" + redisAddr(port) + "/0" }

func redisAddr(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func startRedisOnFreePort(dir string, flags []string) (*child, int, error) {
	return onFreePort(func(port int) (*child, error) { return startRedis(dir, port, flags) })
}

// startRedis starts a server on port and returns when it accepts connections.
func startRedis(dir string, port int, flags []string) (*child, error) {
	args := []string{"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", dir}
	args = append(append(args, redisFlags...), flags...)
	return startRedisProcess(redisReadyLine, args)
}

// startRedisProcess starts redis-server and returns when it has printed
// readyLine. Where the system can, it dies with the test process.
func startRedisProcess(readyLine string, args []string) (*child, error) {
	binary, err := redisBinary()
	if err != nil {
		return nil, err
	}
	return startChild("redis-server", readyLine, exec.Command(binary, args...))
}
