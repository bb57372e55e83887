package cluster

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/adit-mesh/adit/e2e/lab"
)

// machine is a computer as far as Kubernetes can tell: namespaces for network,
// processes, mounts and host name, around one process 1. When that is killed the
// kernel ends the rest and takes the mounts away.
type machine struct {
	name string
	dir  string // its logs, files and the records of its daemons
	ns   *lab.Namespace
	init process
}

// machineSpec is what process 1 is told; see Spec of command machine.
type machineSpec struct {
	Hostname string
	Overlays []overlay
	Binds    []bind
	Run      []string
}

type overlay struct{ Target, Upper, Work string }

type bind struct{ Source, Target string }

func (m *machine) record() string { return filepath.Join(m.dir, "init.json") }

// boot starts process 1. The machine must not be running.
func (m *machine) boot(binary string, spec machineSpec) error {
	in, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	log, err := m.openLog("init")
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(binary, "init")
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Setsid:     true,
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := m.ns.Do(cmd.Start); err != nil {
		return fmt.Errorf("start machine %s: %w", m.name, err)
	}
	m.init, err = processOf(cmd.Process.Pid)
	if err == nil {
		err = writeJSON(m.record(), m.init)
	}
	line, readErr := bufio.NewReader(out).ReadString('\n')
	go reap(cmd)
	if err != nil {
		return err
	}
	if readErr != nil || line != "ready\n" {
		return fmt.Errorf("machine %s did not come up: see %s", m.name, log.Name())
	}
	return nil
}

// reap waits for a child that is meant to outlive this process.
func reap(cmd *exec.Cmd) { _ = cmd.Wait() }

func (m *machine) attach() error {
	if err := readJSON(m.record(), &m.init); err != nil {
		return err
	}
	if !m.init.alive() {
		return fmt.Errorf("machine %s is not running", m.name)
	}
	return nil
}

// halt ends everything on the machine as a power cut does.
func (m *machine) halt() error {
	if err := m.init.end(unix.SIGKILL, 10*time.Second); err != nil {
		return fmt.Errorf("halt machine %s: %w", m.name, err)
	}
	return nil
}

func (m *machine) openLog(name string) (*os.File, error) {
	return os.OpenFile(filepath.Join(m.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

func (m *machine) daemonRecord(name string) string {
	return filepath.Join(m.dir, name+".daemon.json")
}

// start runs a daemon on the machine. It writes to NAME.log and outlives us.
func (m *machine) start(name string, argv ...string) error {
	return m.startWith(name, nil, argv...)
}

// startWith hands the daemon a file as its number 3.
func (m *machine) startWith(name string, file *os.File, argv ...string) error {
	if m.running(name) {
		return nil
	}
	log, err := m.openLog(name)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	cmd.Stdout, cmd.Stderr = log, log
	if file != nil {
		cmd.ExtraFiles = []*os.File{file}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := enter(m.init.PID, cmd.Start); err != nil {
		return fmt.Errorf("start %s on %s: %w", name, m.name, err)
	}
	p, err := processOf(cmd.Process.Pid)
	if err == nil {
		err = writeJSON(m.daemonRecord(name), p)
	}
	go reap(cmd)
	return err
}

func (m *machine) running(name string) bool {
	var p process
	return readJSON(m.daemonRecord(name), &p) == nil && p.alive()
}

// since is when a daemon was started last.
func (m *machine) since(name string) time.Time {
	info, err := os.Stat(m.daemonRecord(name))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// stop ends a daemon; one that does not run is no error.
func (m *machine) stop(name string, s unix.Signal, grace time.Duration) error {
	var p process
	if err := readJSON(m.daemonRecord(name), &p); err != nil {
		return fmt.Errorf("%s was never started on %s: %w", name, m.name, err)
	}
	if err := p.end(s, grace); err != nil {
		return fmt.Errorf("stop %s on %s: %w", name, m.name, err)
	}
	return nil
}

// exec runs a program of the host on the machine to its end. The error carries
// what it wrote to its standard error.
func (m *machine) exec(ctx context.Context, stdin io.Reader, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Stdin = stdin
	var out, bad bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &bad
	if err := enter(m.init.PID, cmd.Start); err != nil {
		return "", fmt.Errorf("%s on %s: %w", argv[0], m.name, err)
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("%s on %s: %w: %s", strings.Join(argv, " "), m.name, err, strings.TrimSpace(bad.String()))
	}
	return out.String(), nil
}

// path is where this process finds a file of the machine. Absolute symbolic
// links in it would lead back to the host.
func (m *machine) path(name string) string {
	name = filepath.Clean("/" + name)
	if rest, ok := strings.CutPrefix(name, "/var/run"); ok && (rest == "" || rest[0] == '/') {
		name = "/run" + rest
	}
	return fmt.Sprintf("/proc/%d/root%s", m.init.PID, name)
}

// logTail is the end of a daemon's log, for messages.
func (m *machine) logTail(name string) string {
	b, err := os.ReadFile(filepath.Join(m.dir, name+".log"))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

// forwardTo starts the daemon that makes an address of this machine's network
// reachable from ours, and returns the port on 127.0.0.1.
func (m *machine) forwardTo(binary, address string) (port int, err error) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return 0, err
	}
	defer l.Close()
	f, err := l.File()
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return l.Addr().(*net.TCPAddr).Port, m.startWith("forward", f, binary, "forward", address)
}
