// Package child starts the programs that our own programs need beside them.
package child

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"time"
)

// Process is a program that was started here. It is safe for concurrent use.
type Process struct {
	// Cmd is what was started. It is waited for already.
	Cmd *exec.Cmd
	// Ended is closed when the process is gone.
	Ended chan struct{}
}

// Start starts a command in a process group of its own, so that Ctrl-C on the terminal reaches us alone: the servers
// must outlive what still uses them. If it diesWithUs, the system kills it with us where it can.
func Start(cmd *exec.Cmd, diesWithUs bool) (*Process, error) {
	cmd.SysProcAttr = ownGroup(diesWithUs)
	p := &Process{Cmd: cmd, Ended: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer close(p.Ended)
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

// Kill ends the process at once, and returns when it is gone.
func (p *Process) Kill() {
	_ = p.Cmd.Process.Kill()
	<-p.Ended
}

const stopLimit = 20 * time.Second

// Stop asks the process to end, by the function that is given, and kills it after 20 s if it does not.
func (p *Process) Stop(ask func()) error {
	ask()
	limit := time.NewTimer(stopLimit)
	defer limit.Stop()
	select {
	case <-p.Ended:
		return nil
	case <-limit.C:
		err := p.Cmd.Process.Kill()
		<-p.Ended
		return errors.Join(fmt.Errorf("%s did not end within %v and was killed", p.Cmd.Path, stopLimit), err)
	}
}
