package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a child process inside a namespace. The lab waits for it; do not call Wait on its Cmd.
type Process struct {
	Cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Start runs cmd with its network in the namespace; file system and processes are the caller's. Lab.Close
// kills it if it still runs. Do not set Pdeathsig: the kernel ties that signal to the thread that forked, and
// threads that enter namespaces do not live long.
func (n *Namespace) Start(cmd *exec.Cmd) (*Process, error) {
	if err := n.Do(cmd.Start); err != nil {
		return nil, fmt.Errorf("lab: start in %s: %w", n.name, err)
	}
	p := &Process{Cmd: cmd, done: make(chan struct{})}
	go p.wait()

	n.lab.mu.Lock()
	closed := n.lab.closed
	n.lab.procs = append(n.lab.procs, p)
	n.lab.mu.Unlock()
	if closed {
		p.Kill()
		return nil, errors.New("lab: closed")
	}
	return p, nil
}

func (p *Process) wait() {
	p.err = p.Cmd.Wait()
	close(p.done)
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait returns what exec.Cmd.Wait returned, after the process has ended.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Signal sends a signal; a process that has ended is not an error.
func (p *Process) Signal(s os.Signal) error {
	if err := p.Cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// Kill ends the process as kill -9 does and waits for it.
func (p *Process) Kill() {
	_ = p.Signal(unix.SIGKILL)
	<-p.done
}

// Stop asks the process to end with SIGTERM and kills it when it has not ended within grace.
func (p *Process) Stop(grace time.Duration) error {
	_ = p.Signal(unix.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(grace):
		p.Kill()
	}
	return p.err
}
