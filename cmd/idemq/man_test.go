package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestManPagesAndCompletions(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "man1")
	var out, errOut bytes.Buffer
	require.Equal(t, exitFine, run(t.Context(), []string{"man", dir}, nil, &out, &errOut), errOut.String())
	page, err := os.ReadFile(filepath.Join(dir, "idemq-dlq-replay.1"))
	require.NoError(t, err)
	assert.Contains(t, string(page), "--dry-run")
	assert.NoFileExists(t, filepath.Join(dir, "idemq-demo-worker.1"))
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		out.Reset()
		require.Equal(t, exitFine, run(t.Context(), []string{"completion", shell}, nil, &out, &errOut), errOut.String())
		assert.Contains(t, out.String(), "idemq")
	}
}
