package main

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"time"
)

// child is a server that was started here.
type child struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

// startChild starts a command in a process group of its own, so that Ctrl-C on the terminal reaches us alone: the servers
// must outlive what still uses them. If it diesWithUs, the system kills it with us where it can.
func startChild(cmd *exec.Cmd, diesWithUs bool) (*child, error) {
	cmd.SysProcAttr = ownGroup(diesWithUs)
	p := &child{cmd: cmd, ended: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer close(p.ended)
		// The system takes us for dead when the thread that started the child ends, so this one stays until the child is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

const stopLimit = 20 * time.Second

// stop asks the process to end, and kills it if it does not.
func (p *child) stop(ask func()) error {
	ask()
	limit := time.NewTimer(stopLimit)
	defer limit.Stop()
	select {
	case <-p.ended:
		return nil
	case <-limit.C:
		err := p.cmd.Process.Kill()
		<-p.ended
		return errors.Join(fmt.Errorf("%s did not end within %v and was killed", p.cmd.Path, stopLimit), err)
	}
}
