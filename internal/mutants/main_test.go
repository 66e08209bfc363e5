package main

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A change of the code must not leave a mutant behind that changes nothing.
func TestEveryMutantStillApplies(t *testing.T) {
	t.Parallel()
	root, err := moduleRoot(t.Context())
	require.NoError(t, err)
	names := map[string]bool{}
	for _, m := range mutants() {
		text, err := m.apply(root)
		require.NoError(t, err, m.name)
		assert.NotEmpty(t, text)
		assert.NotEqual(t, m.old, m.new, m.name)
		assert.False(t, names[m.name], "%s is there twice", m.name)
		assert.NotEmpty(t, m.tests, m.name)
		names[m.name] = true
	}
	assert.GreaterOrEqual(t, len(names), 25)
}

// A change that does not compile must not count as found.
func TestVerdict(t *testing.T) {
	t.Parallel()
	end := errors.New("exit status 1")
	for out, want := range map[string]string{
		"--- FAIL: TestA (0.00s)\n    --- FAIL: TestA/b (0.00s)\n        x.go:1: no\nFAIL\n": "TestA/b",
		"panic: test timed out after 10m0s\nFAIL\tgithub.com/x\t1s\n":                        "a panic, or the end of the time",
	} {
		got, err := verdict(out, end)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	got, err := verdict("ok", nil)
	require.NoError(t, err)
	assert.Empty(t, got)
	_, err = verdict("./x.go:1:2: undefined: y\nFAIL\tgithub.com/x [build failed]\n", end)
	assert.Error(t, err)
}
