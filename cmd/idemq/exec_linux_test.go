package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCommandDiesWithAKilledIdemq(t *testing.T) {
	t.Parallel()
	w := newWork(t, "ORPHAN", "kv")
	w.publish("--key", "k", "--data", "x")
	exec, pids := sleeper(t)
	p := command(t, w.args("--exec", exec)...).start()
	ids := running(t, pids)
	require.NoError(t, p.cmd.Process.Kill())
	p.wait()
	assert.Eventually(t, func() bool { return !alive(ids[0]) }, patience, tick)
}
