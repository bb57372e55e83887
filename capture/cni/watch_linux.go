package cni

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// watch reports changes in directories by inotify(7).
type watch struct {
	changed chan struct{} // one-slot edge

	fd   int // of file; File.Fd would make it blocking
	file *os.File
	done chan struct{} // closed when read has returned
}

const watchMask = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_CREATE | unix.IN_DELETE |
	unix.IN_ATTRIB | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

func newWatch() (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w; is fs.inotify.max_user_instances too low?", err)
	}
	w := &watch{
		changed: make(chan struct{}, 1),
		fd:      fd,
		file:    os.NewFile(uintptr(fd), "inotify"),
		done:    make(chan struct{}),
	}
	go w.read()
	return w, nil
}

// follow watches directories, those that are there. Doing it again costs nothing, and finds a directory that has been
// replaced; the watch of the old one ends with it.
func (w *watch) follow(dirs ...string) {
	for _, dir := range dirs {
		_, _ = unix.InotifyAddWatch(w.fd, dir, watchMask)
	}
}

// read turns events into the edge until close. That events were lost is an event too.
func (w *watch) read() {
	defer close(w.done)
	buf := make([]byte, 64*(unix.SizeofInotifyEvent+unix.NAME_MAX+1))
	for {
		if _, err := w.file.Read(buf); err != nil {
			return
		}
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

// close ends the watch and waits for its goroutine.
func (w *watch) close() {
	w.file.Close()
	<-w.done
}
