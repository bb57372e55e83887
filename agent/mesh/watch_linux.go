package mesh

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// watch reports changes near a file by inotify(7). It watches directories, not
// the file: a rename onto the file, as editors and ConfigMaps do it, leaves a
// watch on the file behind on what was there before.
type watch struct {
	changed chan struct{} // one-slot edge

	fd   int // of file; File.Fd would make it blocking
	file *os.File
	done chan struct{}    // closed when read has returned
	dirs map[int]struct{} // watch descriptors in use
}

const watchMask = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_CREATE | unix.IN_MOVED_FROM |
	unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

func newWatch() (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch world file: inotify: %w; is fs.inotify.max_user_instances too low?", err)
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

// follow watches every directory on the way to path, that of each symbolic
// link and that of the file at the end, and no others. What cannot be watched
// is left to the rescan.
func (w *watch) follow(path string) {
	dirs := map[int]struct{}{}
	add := func(dir string) {
		if wd, err := unix.InotifyAddWatch(w.fd, dir, watchMask); err == nil {
			dirs[wd] = struct{}{}
		}
	}
	const maxLinks = 8
	for range maxLinks {
		dir := filepath.Dir(path)
		add(dir)
		// The directory may be a link itself; it is replaced in the one above.
		if info, err := os.Lstat(dir); err == nil && info.Mode()&os.ModeSymlink != 0 {
			add(filepath.Dir(dir))
		}
		next, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(next) {
			next = filepath.Join(dir, next)
		}
		path = next
	}
	for wd := range w.dirs {
		if _, ok := dirs[wd]; !ok {
			unix.InotifyRmWatch(w.fd, uint32(wd)) // fails if the directory is gone, and its watch with it
		}
	}
	w.dirs = dirs
}

// read turns events into the edge until close. Lost events are an event of
// their own, so they count too.
func (w *watch) read() {
	defer close(w.done)
	buf := make([]byte, 64*(unix.SizeofInotifyEvent+unix.NAME_MAX+1))
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			return
		}
		if !relevant(buf[:n]) {
			continue
		}
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

// relevant reports whether a batch of events says more than that watches were
// removed, which is the echo of a directory's own event.
func relevant(buf []byte) bool {
	for len(buf) >= unix.SizeofInotifyEvent {
		mask := binary.NativeEndian.Uint32(buf[4:])
		nameLen := int(binary.NativeEndian.Uint32(buf[12:]))
		if mask&^unix.IN_IGNORED != 0 {
			return true
		}
		buf = buf[min(len(buf), unix.SizeofInotifyEvent+nameLen):]
	}
	return false
}

// close ends the watch and waits for its goroutine.
func (w *watch) close() {
	w.file.Close()
	<-w.done
}
