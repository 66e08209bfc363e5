package testserver

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	// processStartLimit includes the loading of what is on disk.
	processStartLimit = 20 * time.Second

	// processStopLimit is what a server gets to stop before it is killed.
	processStopLimit = 5 * time.Second

	// portAttempts is how many free ports are tried: between the choice of a port
	// and the start of a server somebody else can take it.
	portAttempts = 5
)

// child is a running server process.
type child struct {
	cmd    *exec.Cmd
	term   os.Signal     // ends it in good order
	exited chan struct{} // closed when the process is gone
}

// onFreePort starts a process on a port that is free, and on another if that one
// is taken meanwhile.
func onFreePort(start func(port int) (*child, error)) (*child, int, error) {
	var failed error
	for range portAttempts {
		port, err := freePort()
		if err != nil {
			return nil, 0, err
		}
		p, err := start(port)
		if err == nil || errors.Is(err, errNoBinary) {
			return p, port, err
		}
		failed = err
	}
	return nil, 0, failed
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// startChild starts a server and returns when it has printed readyLine. Where the
// system can, it dies with the test process.
func startChild(name, readyLine string, cmd *exec.Cmd) (*child, error) {
	p := &child{cmd: cmd, term: syscall.SIGTERM, exited: make(chan struct{})}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	diesWithParent(cmd.SysProcAttr)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = cmd.Stdout // complaints about the configuration

	started := make(chan error, 1)
	ready := make(chan struct{})
	var lastLines []string // read only once exited is closed
	go func() {
		defer close(p.exited)
		// The system takes the parent for dead when the thread that started the
		// child ends, so this one stays until the child is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		isReady := false
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			if !isReady && strings.Contains(lines.Text(), readyLine) {
				isReady = true
				close(ready)
			}
			if !isReady {
				lastLines = append(lastLines, lines.Text())
			}
		}
		_ = cmd.Wait() // tests end it as they like; how it ended says nothing
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	limit := time.NewTimer(processStartLimit)
	defer limit.Stop()
	select {
	case <-ready:
		return p, nil
	case <-limit.C:
		p.kill()
		return nil, fmt.Errorf("%s was not ready within %v", name, processStartLimit)
	case <-p.exited:
		return nil, fmt.Errorf("%s ended at its start:\n%s", name, strings.Join(lastLines, "\n"))
	}
}

// stop ends the process in good order and returns when it is gone.
func (p *child) stop() {
	// A suspended process would not see the request to end.
	_ = resume(p.cmd.Process)
	_ = p.cmd.Process.Signal(p.term)
	limit := time.NewTimer(processStopLimit)
	defer limit.Stop()
	select {
	case <-p.exited:
	case <-limit.C:
		p.kill()
	}
}

// kill ends the process as a crash would and returns when it is gone.
func (p *child) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}
