package proc

import (
	"fmt"
	"net"
	"os/exec"
	"syscall"
	"time"
)

// A Program is a running program of somebody else's, with all that it has started.
type Program struct {
	Name   string
	Exited <-chan struct{}
	Output *Tail

	cmd *exec.Cmd
}

// StartProgram starts a program in a process group of its own. Stop must be called.
// What it writes to standard output goes to Output, unless cmd says otherwise.
func StartProgram(n *Nursery, name string, cmd *exec.Cmd) (*Program, error) {
	exited := make(chan struct{})
	p := &Program{Name: name, Exited: exited, Output: new(Tail), cmd: cmd}
	if cmd.Stdout == nil {
		cmd.Stdout = p.Output
	}
	cmd.Stderr = p.Output
	cmd.WaitDelay = time.Second // children may hold on to its output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := n.Start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go p.wait(exited)
	return p, nil
}

func (p *Program) wait(exited chan<- struct{}) {
	p.cmd.Wait()
	close(exited)
}

// PID is the process's that was started, and its process group's.
func (p *Program) PID() int { return p.cmd.Process.Pid }

// Stop ends the process group: politely, then not.
func (p *Program) Stop() {
	syscall.Kill(-p.PID(), syscall.SIGTERM)
	select {
	case <-p.Exited:
	case <-time.After(2 * time.Second):
	}
	// The group may outlive the process that led it.
	syscall.Kill(-p.PID(), syscall.SIGKILL)
	<-p.Exited
}

// FreePorts returns addrs with port 0 replaced by ports that are free now.
func FreePorts(addrs []string) ([]string, error) {
	free := make([]string, len(addrs))
	for i, addr := range addrs {
		l, err := net.Listen("tcp4", addr)
		if err != nil {
			return nil, err
		}
		defer l.Close()
		free[i] = l.Addr().String()
	}
	return free, nil
}
