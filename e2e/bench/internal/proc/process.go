package proc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// answerTimeout bounds each order to a worker. A worker that is silent for longer is broken, not slow: orders start things and return.
const answerTimeout = 60 * time.Second

// A Worker is a running process that takes orders.
type Worker struct {
	name   string
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *os.File
	enc    *json.Encoder
	dec    *json.Decoder
	stderr *Tail
	exited chan struct{}
}

// StartWorker starts command with role as its last argument. stop must be called.
func StartWorker(n *Nursery, command []string, role, name string) (*Worker, error) {
	p := &Worker{name: name, stderr: new(Tail), exited: make(chan struct{})}
	p.cmd = exec.Command(command[0], append(command[1:len(command):len(command)], role)...)
	p.cmd.Stderr = p.stderr
	// A process group of its own: Ctrl-C reaches the bench alone, which then ends its workers in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, childOut, err := os.Pipe() // not StdoutPipe: this end takes deadlines and outlives Wait
	if err != nil {
		in.Close()
		return nil, err
	}
	p.cmd.Stdout = childOut
	p.in, p.out, p.enc, p.dec = in, out, json.NewEncoder(in), json.NewDecoder(out)
	err = n.Start(p.cmd)
	childOut.Close()
	if err != nil {
		in.Close()
		out.Close()
		return nil, fmt.Errorf("start worker %s: %w", name, err)
	}
	go p.wait()
	return p, nil
}

func (p *Worker) wait() {
	p.cmd.Wait() // how a worker ended shows in the answer that did not come
	close(p.exited)
}

// Call gives an order and waits for the answer. One at a time.
func (p *Worker) Call(ctx context.Context, do string, arg, result any) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := p.out.SetReadDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { p.out.SetReadDeadline(time.Unix(1, 0)) })()
	err := p.exchange(do, arg, result)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%s: %s: %w%s", p.name, do, err, p.stderr)
	}
	return nil
}

func (p *Worker) exchange(do string, arg, result any) error {
	req := request{Do: do}
	if arg != nil {
		var err error
		if req.Arg, err = json.Marshal(arg); err != nil {
			return err
		}
	}
	if err := p.enc.Encode(req); err != nil {
		return fmt.Errorf("worker is gone: %w", err)
	}
	var resp response
	if err := p.dec.Decode(&resp); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("no answer in %s", answerTimeout)
	} else if err != nil {
		return fmt.Errorf("worker is gone: %w", err)
	}
	if resp.Err != "" {
		return errors.New(resp.Err)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(resp.Result, result)
}

// Stop ends the worker and waits for it. A worker holds nothing that outlives its process, so there is nothing to ask it for.
func (p *Worker) Stop() {
	p.cmd.Process.Kill()
	<-p.exited
	p.in.Close()
	p.out.Close()
}

func (p *Worker) PID() int { return p.cmd.Process.Pid }

// A Tail keeps the last of what is written to it, for messages.
type Tail struct {
	mu   sync.Mutex
	data []byte
}

const tailSize = 4 << 10

func (t *Tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, b...)
	if extra := len(t.data) - tailSize; extra > 0 {
		t.data = append(t.data[:0], t.data[extra:]...)
	}
	return len(b), nil
}

// String is empty, or begins on a line of its own.
func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.data) == 0 {
		return ""
	}
	return "\n" + strings.TrimSpace(string(t.data))
}
