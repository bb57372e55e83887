package cluster

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// everything is what makes a machine: the namespaces of its process 1.
const everything = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC

// enter runs f on a thread that is in every namespace of a process. Processes
// that f starts are born there; goroutines that it starts are not.
func enter(pid int, f func() error) error {
	return onThreadToDiscard(func() error {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return fmt.Errorf("process %d: %w", pid, err)
		}
		defer unix.Close(fd)
		// A mount namespace cannot be changed while the working directory is shared with other threads.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare file system attributes: %w", err)
		}
		if err := unix.Setns(fd, everything); err != nil {
			return fmt.Errorf("enter the namespaces of process %d: %w", pid, err)
		}
		return f()
	})
}

// onThreadToDiscard runs f on a thread that ends with it. It is never the main
// thread, which would stay behind in foreign namespaces and speak for the whole
// process in /proc/self.
func onThreadToDiscard(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			result <- onThreadToDiscard(f)
			runtime.UnlockOSThread()
			return
		}
		result <- f() // the thread is locked still, so it ends here
	}()
	return <-result
}
