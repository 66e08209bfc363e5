//go:build unix

package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestDevKeepsItsDataThroughSIGKILL(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	dev := func() (*process, string) {
		p := command(t, "dev", "--data", dir, "--port", "-1", "--json").start()
		p.says(&p.out, "\n")
		return p, p.object("nats", "data")["nats"].(string)
	}
	p, url := dev()
	fine(t, "consume", "--nats", url, "--store", "kv", "--stream", "S", "--durable", "D", "--subjects", "s", "--create", "--exec", "true", "--idle-exit", "1ms")
	fine(t, "publish", "s", "--key", "k", "--data", "x", "--nats", url)

	second, code := idemq(t, "dev", "--data", dir, "--port", "-1")
	assert.Equal(t, exitFailed, code, "two servers would destroy the data")
	assert.Contains(t, second.err.String(), dir)

	assert.NoError(t, p.cmd.Process.Kill())
	p.wait()
	p, url = dev()
	c := fine(t, "consume", "--nats", url, "--store", "kv", "--stream", "S", "--durable", "D", "--exec", "true", "--idle-exit", "1ms", "--json")
	assert.Equal(t, 1, number(c.object(summaryFields...), "executed"))

	assert.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	assert.Equal(t, exitFine, p.wait())
}

func TestDevSaysWhatToExport(t *testing.T) {
	t.Parallel()
	p := command(t, "dev", "--data", t.TempDir(), "--port", "-1").start()
	p.says(&p.out, "export IDEMQ_STORE=kv")
	assert.Contains(t, p.out.String(), "export NATS_URL=nats://127.0.0.1:")
	assert.NoError(t, p.cmd.Process.Signal(os.Interrupt))
	assert.Equal(t, exitFine, p.wait())
}

func TestDevSaysThatThePortIsTaken(t *testing.T) {
	t.Parallel()
	p := command(t, "dev", "--data", t.TempDir(), "--port", "-1", "--json").start()
	p.says(&p.out, "\n")
	url := p.object("nats", "data")["nats"].(string)
	second, code := idemq(t, "dev", "--data", t.TempDir(), "--port", url[len("nats://127.0.0.1:"):])
	assert.Equal(t, exitFailed, code)
	assert.Contains(t, second.err.String(), "--port")
}
