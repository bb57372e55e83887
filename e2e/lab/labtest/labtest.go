// Package labtest gives tests a lab of their own: a private network and mount namespace for the whole test
// binary, so that neither a passing nor a killed test leaves anything on the machine.
package labtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/adit-mesh/adit/e2e/lab"
)

// isolated marks, as argv[0], a test binary that already runs in its own namespaces.
const isolated = "adit-lab-isolated"

// errRefused is why no namespaces could be had, nil if they could.
var errRefused = errors.New("labtest.Main did not run; call it in TestMain")

// Main runs the tests of a package in fresh network and mount namespaces, as root or, by way of a user
// namespace, without. Use it as
//
//	func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }
//
// Where the kernel permits neither, the tests run in place and New skips them, or fails them when CI=true.
func Main(m *testing.M) int {
	if os.Args[0] == isolated {
		errRefused = settle()
		return m.Run()
	}
	// Pdeathsig below is tied to the thread that forks.
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = isolated
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	if err := cmd.Start(); err != nil {
		errRefused = fmt.Errorf("this kernel gives uid %d no network namespace (%w); run the tests as root", os.Geteuid(), err)
		runtime.UnlockOSThread()
		return m.Run()
	}
	forward := make(chan os.Signal, 4) // go test asks for a stack dump with SIGQUIT when it loses patience
	signal.Notify(forward, syscall.SIGQUIT, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		for s := range forward {
			_ = cmd.Process.Signal(s)
		}
	}()
	if err := cmd.Wait(); err != nil {
		if exit := new(exec.ExitError); errors.As(err, &exit) && exit.ExitCode() > 0 {
			return exit.ExitCode()
		}
		fmt.Fprintln(os.Stderr, "isolated tests:", err)
		return 1
	}
	return 0
}

// settle makes the fresh namespaces usable: mounts private, an empty /run, lo up.
func settle() error {
	switch err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); {
	case errors.Is(err, unix.EINVAL):
		return errors.New("/ is not a mount point, as in a plain chroot, so mounts of the tests would be seen outside; " +
			"bind the directory onto itself before chroot: mount --bind DIR DIR")
	case err != nil:
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount an empty /run: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

var labs atomic.Int64

// New returns a lab that is closed when the test ends. Where namespaces cannot be had it skips the test, or
// fails it when CI=true, so that a machine without them cannot pass by silence.
func New(t testing.TB) *lab.Lab {
	t.Helper()
	Require(t)
	l, err := lab.New(fmt.Sprintf("t%d-%d-", os.Getpid(), labs.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close the lab: %v", err)
		}
	})
	return l
}

// Require skips or, when CI=true, fails a test that needs namespaces where there are none.
func Require(t testing.TB) {
	t.Helper()
	if errRefused == nil {
		return
	}
	if strings.EqualFold(os.Getenv("CI"), "true") {
		t.Fatalf("namespaces are required when CI=true: %v", errRefused)
	}
	t.Skipf("no namespaces: %v", errRefused)
}
