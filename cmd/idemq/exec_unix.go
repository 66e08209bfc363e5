//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// When the grace period of a shutdown is over, the worker waits for its handlers another second at least. Within that
// second a command must be dead and its message given back, so these are short.
const (
	killDelay = 400 * time.Millisecond // between SIGTERM and SIGKILL
	killPoll  = 20 * time.Millisecond
	pipeDelay = 2 * killDelay // that a command's children may hold its standard input open
)

// runGroup runs a command as a process group of its own. When the context ends, the group is told to end, and killed if
// it does not. What the command leaves behind in its group when it has ended is killed too: the message is about to be
// settled, and nothing may work on it after that.
func runGroup(ctx context.Context, cmd *exec.Cmd, input []byte) error {
	cmd.Stdin = bytes.NewReader(input)
	cmd.SysProcAttr = groupAttributes()
	// The system takes us for dead when the thread that started the command ends, so it must not.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	group := func(sig syscall.Signal) error { return syscall.Kill(-cmd.Process.Pid, sig) }
	cmd.Cancel = func() error {
		err := group(syscall.SIGTERM)
		// The shell may be gone long before its children have cleaned up.
		for end := time.Now().Add(killDelay); time.Now().Before(end) && group(0) == nil; {
			<-time.After(killPoll)
		}
		_ = group(syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
	cmd.WaitDelay = pipeDelay
	err := cmd.Run()
	if cmd.Process != nil {
		_ = group(syscall.SIGKILL)
	}
	if state := cmd.ProcessState; state != nil && state.Success() {
		return nil // also if it was told to end: it has finished its work, and says so
	}
	if err != nil && ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	return err
}
