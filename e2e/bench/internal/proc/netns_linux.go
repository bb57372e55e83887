package proc

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// A Nursery starts processes from one locked thread. Its thread may live in a network namespace of its own, which the
// processes inherit and which goes when the last of them does; and because Pdeathsig fires when the starting thread ends,
// that thread must outlive them.
type Nursery struct {
	orders chan func()
	done   chan struct{}
	own    bool // the thread has a namespace of its own
	cpus   []int
}

// On is the same nursery for processes that are to run on these processors alone.
func (n *Nursery) On(cpus ...int) *Nursery {
	return &Nursery{orders: n.orders, done: n.done, own: n.own, cpus: cpus}
}

// NewNursery makes the thread and, if isolate is set, its network namespace with the loopback up.
// The error says why there is no namespace; the Nursery then works in the caller's, and is never nil.
func NewNursery(isolate bool) (*Nursery, error) {
	n := &Nursery{orders: make(chan func()), done: make(chan struct{})}
	ready := make(chan error)
	go n.run(isolate, ready)
	return n, <-ready
}

func (n *Nursery) run(isolate bool, ready chan<- error) {
	defer close(n.done)
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, so no other ever runs in its namespace
	var err error
	if isolate {
		err = enterNamespace()
		n.own = err == nil
	}
	ready <- err
	for order := range n.orders {
		order()
	}
}

// Prefer lets all processes started from now on run before those of others, and the caller's session (sched(7), autogroup)
// before other sessions until the returned function is called. It takes CAP_SYS_NICE.
func (n *Nursery) Prefer() (undo func(), err error) {
	done := make(chan error)
	n.orders <- func() { done <- unix.Setpriority(unix.PRIO_PROCESS, 0, preferred) } // of the calling thread
	if err := <-done; err != nil {
		return nil, fmt.Errorf("setpriority: %w", err)
	}
	const session = "/proc/self/autogroup"
	if err := os.WriteFile(session, []byte(strconv.Itoa(preferred)), 0); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("%s: %w", session, err)
	}
	return func() { os.WriteFile(session, []byte("0"), 0) }, nil
}

// preferred is a nice value.
const preferred = -19

// Start starts cmd from the Nursery's thread.
func (n *Nursery) Start(cmd *exec.Cmd) error {
	started := make(chan error)
	n.orders <- func() { started <- n.startHere(cmd) }
	return <-started
}

// startHere starts cmd from the calling thread, whose processors it inherits.
func (n *Nursery) startHere(cmd *exec.Cmd) error {
	if len(n.cpus) == 0 {
		return cmd.Start()
	}
	var all, these unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return fmt.Errorf("sched_getaffinity: %w", err)
	}
	for _, cpu := range n.cpus {
		these.Set(cpu)
	}
	if err := unix.SchedSetaffinity(0, &these); err != nil {
		return fmt.Errorf("sched_setaffinity to processors %v: %w", n.cpus, err)
	}
	err := cmd.Start()
	if restored := unix.SchedSetaffinity(0, &all); err == nil {
		err = restored
	}
	return err
}

// Close ends the thread, and with it every process whose Pdeathsig names a signal.
func (n *Nursery) Close() {
	close(n.orders)
	<-n.done
}

// enterNamespace moves the calling thread to a new network namespace and prepares it.
func enterNamespace() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	// /proc/sys/net shows the namespace of the thread that opens it. Without this the new-connection cases run out of ports:
	// each connection leaves one in TIME_WAIT, and by default there are 28,000.
	for name, value := range map[string]string{
		"/proc/sys/net/ipv4/ip_local_port_range": "1024 65535",
		"/proc/sys/net/ipv4/tcp_tw_reuse":        "1",
	} {
		if err := os.WriteFile(name, []byte(value), 0); err != nil && !os.IsPermission(err) {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	return nil
}
