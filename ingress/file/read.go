package file

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxFile bounds one file. It is room for a hundred thousand routes.
const maxFile = 128 << 20

// reader reads a directory again and again, and keeps what is good.
type reader struct {
	dir   string
	files map[string]*content // by name
	// busy says that somebody is in the middle of writing a file.
	busy func(name string) bool
}

// content is what is known of one file.
type content struct {
	stamp stamp
	link  bool // it is a symbolic link
	// docs are the documents of the last reading by their text: what did not
	// change is not decoded again.
	docs map[string]parsed
	// good are the objects of the last reading in which nothing was wrong; if
	// there was none such, those with which nothing is.
	good  []decoded
	whole bool // good are all that the file had
	bad   []Problem
}

type parsed struct {
	at      place
	objects []decoded
	bad     []Problem
}

// stamp tells versions of a file apart without reading them.
type stamp struct {
	dev, ino   uint64
	size       int64
	mtime, ctm unix.Timespec
	read       time.Time // when it was taken
}

// racy is how new a file may be for its times to be trusted: two writes within
// one tick of the kernel's clock have the same.
const racy = 2 * time.Second

func stampOf(path string) (stamp, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return stamp{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return stamp{st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim, time.Now()}, nil
}

// same says that the file is what it was when s was taken.
func (s stamp) same(now stamp) bool {
	if s.dev != now.dev || s.ino != now.ino || s.size != now.size || s.mtime != now.mtime || s.ctm != now.ctm {
		return false
	}
	changed := time.Unix(s.ctm.Unix())
	return s.read.Sub(changed) > racy || s.read.Before(changed.Add(-racy))
}

// read brings files up to date. waiting says that a file is being written, and
// is to be looked at again. The error is that the directory cannot be read;
// what was read before stays.
func (r *reader) read() (waiting bool, err error) {
	// Whoever swaps the whole directory at once, as kubelet does with ..data,
	// gets all of one version or all of the next.
	for range 3 {
		before, _ := os.Readlink(filepath.Join(r.dir, "..data"))
		if waiting, err = r.readOnce(); err != nil {
			return false, err
		}
		if after, _ := os.Readlink(filepath.Join(r.dir, "..data")); after == before {
			break
		}
	}
	return waiting, nil
}

func (r *reader) readOnce() (waiting bool, err error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return false, err
	}
	there := make(map[string]bool, len(entries))
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") || !slices.Contains(extensions, filepath.Ext(name)) {
			continue
		}
		there[name] = true
		if r.busy != nil && r.busy(name) {
			waiting = true
			continue
		}
		r.readFile(name)
		r.files[name].link = e.Type()&fs.ModeSymlink != 0
	}
	for name := range r.files {
		if !there[name] {
			delete(r.files, name)
		}
	}
	return waiting, nil
}

var extensions = []string{".yaml", ".yml", ".json"}

func (r *reader) readFile(name string) {
	path := filepath.Join(r.dir, name)
	now, err := stampOf(path)
	old := r.files[name]
	if old == nil {
		old = &content{}
		r.files[name] = old
	} else if err == nil && old.stamp.same(now) {
		return
	}
	var text []byte
	if err == nil {
		text, err = load(path)
	}
	if err != nil {
		// A link that is being swapped leads nowhere for a moment.
		old.stamp = stamp{}
		old.bad = []Problem{{File: name, Message: fmt.Sprintf("not readable: %v%s", errors.Unwrap(err), old.kept())}}
		return
	}
	old.stamp = now
	old.parse(name, string(text))
}

func load(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: path, Err: errors.New("it is no regular file")}
	}
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("it has more than %d bytes", maxFile)}
	}
	return text, err
}

// parse takes the text of a file for its new content.
func (c *content) parse(name, text string) {
	docs := split(text)
	next := make(map[string]parsed, len(docs))
	var all []decoded
	var bad []Problem
	broken := false
	for i, doc := range docs {
		at := place{file: name, document: i + 1, line: doc.line}
		p, known := c.docs[doc.text]
		switch {
		case known && p.at == at:
		case known && len(p.bad) == 0:
			p = p.moved(at)
		default:
			p = parsed{at: at}
			p.objects, p.bad = decode(doc, at)
		}
		next[doc.text] = p
		all, bad = append(all, p.objects...), append(bad, p.bad...)
		broken = broken || slices.ContainsFunc(p.bad, func(p Problem) bool { return !p.Harmless })
	}
	c.docs, c.bad = next, bad
	if broken && c.whole {
		for i := range bad {
			if !bad[i].Harmless {
				bad[i].Message += c.kept()
			}
		}
		return
	}
	c.good, c.whole = all, !broken
}

// moved is the same document at another place of its file.
func (p parsed) moved(at place) parsed {
	out := parsed{at: at, objects: slices.Clone(p.objects)}
	for i := range out.objects {
		out.objects[i].at = at
	}
	return out
}

func (c *content) kept() string {
	if len(c.good) == 0 {
		return ""
	}
	return "; what the file had before stays in force"
}

// objects are all objects of all files, in the order of names. Of two with one
// key the first counts, and the other is a problem.
func (r *reader) objects() (map[key]decoded, []Problem) {
	all := make(map[key]decoded)
	var bad []Problem
	for _, name := range slices.Sorted(maps.Keys(r.files)) {
		c := r.files[name]
		bad = append(bad, c.bad...)
		for _, d := range c.good {
			if first, twice := all[d.key]; twice {
				bad = append(bad, Problem{
					File: d.at.file, Document: d.at.document, Line: d.at.line, Object: d.key.String(),
					Message: fmt.Sprintf("is there already, in %s line %d, which counts", first.at.file, first.at.line),
				})
				continue
			}
			all[d.key] = d
		}
	}
	return all, bad
}
