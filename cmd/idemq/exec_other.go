//go:build !unix

package main

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"syscall"
	"time"
)

// pipeDelay is how long a killed command's children may hold its output open.
const pipeDelay = 800 * time.Millisecond

func groupAttributes() *syscall.SysProcAttr { return nil }

// runGroup runs a command and kills it when the context ends. There are no process groups here: its children may go on.
func runGroup(ctx context.Context, cmd *exec.Cmd, input []byte) error {
	cmd.Stdin = bytes.NewReader(input)
	cmd.WaitDelay = pipeDelay
	err := cmd.Run()
	if state := cmd.ProcessState; state != nil && state.Success() {
		return nil // also if it was told to end: it has finished its work, and says so
	}
	if err != nil && ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	return err
}
