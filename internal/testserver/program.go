package testserver

import (
	"bytes"
	"errors"
	"os/exec"
	"sync"
	"testing"
)

// Buffer is a bytes.Buffer that can be read while a process writes to it.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write appends to the buffer.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns what was written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// StartProgram starts a program that a test waits for, and kills it if it still runs when the test ends.
func StartProgram(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
}

// ExitCode waits for the program and returns its exit code, -1 for a signal. If it cannot be told, the test fails with what
// the program has complained of.
func ExitCode(t testing.TB, cmd *exec.Cmd, complaints *Buffer) int {
	t.Helper()
	err := cmd.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		t.Fatalf("%v\n%s", err, complaints)
	}
	return cmd.ProcessState.ExitCode()
}
