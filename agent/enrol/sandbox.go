package enrol

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/adit-mesh/adit/agent/kube"
	"github.com/adit-mesh/adit/capture"
)

// sandbox is a pod with the network namespace that it runs in. Enrol.mu guards
// what of it changes.
type sandbox struct {
	netns *os.File // keeps the namespace, and its inode number, until close
	name  string   // what netns was opened by
	inode uint64
	born  ticks // of its oldest process, or when the runtime told of it
	since time.Time

	pod       kube.LocalPod // as Kubernetes last had it
	listed    bool          // Kubernetes has had it
	container string        // the runtime's name for it, "" = not known
	witness   int           // a process inside, 0 = none known
	release   bool          // not to be captured, and somebody has

	verdict *verdict
}

// verdict is for those who wait until a sandbox is captured: that they need not
// wait any longer, and why.
type verdict struct {
	done chan struct{}
	err  error // set before done is closed
}

func newVerdict() *verdict { return &verdict{done: make(chan struct{})} }

func (v *verdict) given() bool {
	select {
	case <-v.done:
		return true
	default:
		return false
	}
}

// give is called with Enrol.mu held. The first verdict counts.
func (v *verdict) give(err error) {
	if !v.given() {
		v.err = err
		close(v.done)
	}
}

// Why a pod that waits to be captured need not wait any longer.
var (
	errDeleted  = errors.New("the pod has been deleted meanwhile")
	errReplaced = errors.New("the pod has got another sandbox meanwhile")
	errEnded    = errors.New("the pod's sandbox has ended meanwhile")
	// errUnwanted lets the pod start.
	errUnwanted = errors.New("the pod is not to be captured any more")
)

// newSandbox takes netns over.
func newSandbox(pod kube.LocalPod, netns *os.File, name string, inode uint64, born ticks) *sandbox {
	return &sandbox{
		pod: pod, netns: netns, name: name, inode: inode, born: born,
		since: time.Now(), verdict: newVerdict(),
	}
}

// close lets go of the namespace. Enrol.mu is held.
func (s *sandbox) close(verdict error) {
	s.verdict.give(verdict)
	_ = s.netns.Close()
}

// open returns a handle of its own on the namespace. It needs no lock.
func (s *sandbox) open() (*capture.Netns, error) {
	n, err := openNetns(s.name, s.netns)
	if errors.Is(err, os.ErrClosed) {
		return nil, fmt.Errorf("network namespace %s is not the pod's any more", s.name)
	}
	return n, err
}

// openNetns returns a handle on a namespace file, which stays the caller's.
func openNetns(name string, file *os.File) (*capture.Netns, error) {
	own, err := duplicate(file, name)
	if err != nil {
		return nil, err
	}
	n, err := capture.NewNetns(name, own)
	if err != nil {
		_ = own.Close()
	}
	return n, err
}

func duplicate(file *os.File, name string) (*os.File, error) {
	rc, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	var dupErr error
	if err := rc.Control(func(old uintptr) { fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if dupErr != nil {
		return nil, os.NewSyscallError("fcntl", dupErr)
	}
	return os.NewFile(uintptr(fd), name), nil
}
