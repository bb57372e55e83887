package file

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// watcher tells that something happened in directories, and which of the files
// of one of them somebody is writing.
type watcher struct {
	file    *os.File // the inotify descriptor
	fd      int
	changed chan struct{} // one-slot edge
	done    chan struct{} // closed when the reader has ended

	mu      sync.Mutex // guards all below
	dirs    map[string]*watchedDir
	byID    map[int32]string
	main    string
	writing map[string]time.Time // files of main, and since when
}

// watchedDir is a directory, and the names in it that matter.
type watchedDir struct {
	id    int32
	names map[string]bool // nil = all
}

// stillWriting is how long a file that is written in place is waited for.
const stillWriting = 5 * time.Second

const events = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM |
	unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ATTRIB

func newWatcher(main string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w; see fs.inotify.max_user_instances", err)
	}
	w := &watcher{
		file: os.NewFile(uintptr(fd), "inotify"), fd: fd,
		changed: make(chan struct{}, 1), done: make(chan struct{}),
		dirs: make(map[string]*watchedDir), byID: make(map[int32]string),
		main: main, writing: make(map[string]time.Time),
	}
	go w.read()
	return w, nil
}

// close ends the watch, and waits for its goroutine.
func (w *watcher) close() {
	w.file.Close()
	<-w.done
}

// set makes want, directories and the names in each that matter (nil = all), the
// ones that are watched, and says whether there are new ones. One that is not
// there is tried again at the next set.
func (w *watcher) set(want map[string]map[string]bool) (more bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for dir, d := range w.dirs {
		if _, ok := want[dir]; !ok {
			_, _ = unix.InotifyRmWatch(w.fd, uint32(d.id))
			delete(w.dirs, dir)
			delete(w.byID, d.id)
		}
	}
	for dir, names := range want {
		if d := w.dirs[dir]; d != nil {
			d.names = names
			continue
		}
		id, err := unix.InotifyAddWatch(w.fd, dir, events|unix.IN_ONLYDIR)
		if err != nil {
			continue
		}
		// Two paths of one directory have one id: the wider interest counts.
		if other, ok := w.byID[int32(id)]; ok && other != dir {
			w.dirs[other].widen(names)
			continue
		}
		w.dirs[dir] = &watchedDir{int32(id), names}
		w.byID[int32(id)] = dir
		more = true
	}
	return more
}

func (d *watchedDir) widen(names map[string]bool) {
	if names == nil || d.names == nil {
		d.names = nil
		return
	}
	all := maps.Clone(d.names)
	maps.Copy(all, names)
	d.names = all
}

// busy says that a file of the main directory has been written to and not yet
// been closed.
func (w *watcher) busy(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	since, ok := w.writing[name]
	return ok && time.Since(since) < stillWriting
}

func (w *watcher) read() {
	defer close(w.done)
	buf := make([]byte, 64<<10)
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			return // closed
		}
		if w.take(buf[:n]) {
			select {
			case w.changed <- struct{}{}:
			default:
			}
		}
	}
}

// take reads events, and says whether one of them matters.
func (w *watcher) take(buf []byte) (matters bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(buf) >= unix.SizeofInotifyEvent {
		e := (*unix.InotifyEvent)(unsafe.Pointer(&buf[0]))
		end := unix.SizeofInotifyEvent + int(e.Len)
		if end > len(buf) {
			return true
		}
		name := string(bytes.TrimRight(buf[unix.SizeofInotifyEvent:end], "\x00"))
		matters = w.takeOne(e.Wd, e.Mask, name) || matters
		buf = buf[end:]
	}
	return matters
}

func (w *watcher) takeOne(id int32, mask uint32, name string) bool {
	if mask&unix.IN_Q_OVERFLOW != 0 {
		clear(w.writing)
		return true
	}
	dir, ok := w.byID[id]
	if !ok {
		return false
	}
	d := w.dirs[dir]
	if mask&unix.IN_IGNORED != 0 { // it is gone; the next set looks for another
		delete(w.dirs, dir)
		delete(w.byID, id)
		return true
	}
	if d.names != nil && name != "" && !d.names[name] {
		return false
	}
	if dir != w.main {
		return true
	}
	switch {
	case mask&unix.IN_MODIFY != 0:
		if _, known := w.writing[name]; !known {
			w.writing[name] = time.Now()
		}
		return false // its end counts
	case mask&(unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_MOVED_FROM|unix.IN_DELETE) != 0:
		delete(w.writing, name)
	}
	return true
}

// want adds to dirs what has to be watched to see that path comes to mean
// another file: the directory of each link on the way, and of what it ends at.
func want(dirs map[string]map[string]bool, path string) {
	add := func(path string) {
		dir, name := filepath.Split(path)
		dir = filepath.Clean(dir)
		names, ok := dirs[dir]
		if ok && names == nil {
			return // all
		}
		if names == nil {
			names = make(map[string]bool)
			dirs[dir] = names
		}
		names[name] = true
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return
	}
	rest, at := path[1:], "/"
	for hops := 0; rest != ""; {
		var name string
		name, rest, _ = cut(rest)
		at = filepath.Join(at, name)
		target, err := os.Readlink(at)
		if err != nil {
			continue // no link
		}
		add(at)
		if hops++; hops > 40 {
			return
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(at), target)
		}
		rest, at = filepath.Join(target, rest)[1:], "/"
	}
	add(at)
}

// cut takes the first name off a path.
func cut(path string) (name, rest string, more bool) {
	for i := range path {
		if path[i] == '/' {
			return path[:i], path[i+1:], true
		}
	}
	return path, "", false
}
