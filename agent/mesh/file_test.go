package mesh

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// following runs a File over path until the test ends and returns what its
// OnReload is told.
func following(t *testing.T, s *Store, path string) (reloads <-chan error) {
	t.Helper()
	c := make(chan error, 64)
	f := &File{Path: path, Debounce: time.Millisecond, Rescan: time.Hour, OnReload: func(err error) { c <- err }}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx, s) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil when its context ends", err)
		}
	})
	if err := reloaded(t, c, "the first load"); err != nil {
		t.Fatal(err)
	}
	return c
}

func reloaded(t *testing.T, c <-chan error, why string) error {
	t.Helper()
	select {
	case err := <-c:
		return err
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: no reload", why)
		return nil
	}
}

// eventually waits for a workload at 10.0.0.1 with the name.
func eventually(t *testing.T, s *Store, name, why string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		if w := s.Workload(addr("10.0.0.1")); w != nil && w.Name == name {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: workload = %v, want %s", why, s.Workload(addr("10.0.0.1")), name)
		}
		time.Sleep(time.Millisecond)
	}
}

func worldWith(name string) string {
	return "workloads:\n- {uid: x, name: " + name + ", namespace: default, workloadIps: [10.0.0.1]}\n"
}

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFileInPlaceAndByRename(t *testing.T) {
	path := filepath.Join(t.TempDir(), "world.yaml")
	write(t, path, worldWith("one"))
	s := NewStore()
	reloads := following(t, s, path)
	eventually(t, s, "one", "first load")

	write(t, path, worldWith("two"))
	eventually(t, s, "two", "written in place")

	write(t, path+".tmp", worldWith("three"))
	must(t, os.Rename(path+".tmp", path))
	eventually(t, s, "three", "renamed into place")

	must(t, os.Rename(path, path+"~")) // as editors keep backups
	write(t, path, worldWith("four"))
	eventually(t, s, "four", "moved away and written anew")
	write(t, path, worldWith("five"))
	eventually(t, s, "five", "the new file is followed too")
	for len(reloads) > 0 {
		<-reloads
	}
}

// A ConfigMap volume: the file links to ..data/, which links to a directory
// that is replaced as a whole by renaming the link.
func TestFileInConfigMap(t *testing.T) {
	dir := t.TempDir()
	generation := func(name, content string) {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
		write(t, filepath.Join(dir, name, "world.yaml"), content)
		must(t, os.Symlink(name, filepath.Join(dir, "..data_tmp")))
		must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	generation("..1", worldWith("one"))
	path := filepath.Join(dir, "world.yaml")
	must(t, os.Symlink("..data/world.yaml", path))
	s := NewStore()
	following(t, s, path)
	eventually(t, s, "one", "first generation")
	generation("..2", worldWith("two"))
	must(t, os.RemoveAll(filepath.Join(dir, "..1")))
	eventually(t, s, "two", "second generation")
	generation("..3", worldWith("three"))
	must(t, os.RemoveAll(filepath.Join(dir, "..2")))
	eventually(t, s, "three", "third generation")
}

// The directory itself is a link that is replaced.
func TestFileInLinkedDirectory(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"one", "two"} {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
		write(t, filepath.Join(dir, name, "world.yaml"), worldWith(name))
	}
	link := filepath.Join(dir, "current")
	must(t, os.Symlink("one", link))
	s := NewStore()
	following(t, s, filepath.Join(link, "world.yaml"))
	must(t, os.Symlink("two", link+"_tmp"))
	must(t, os.Rename(link+"_tmp", link))
	eventually(t, s, "two", "the directory's link leads elsewhere")
	write(t, filepath.Join(dir, "two", "world.yaml"), worldWith("three"))
	eventually(t, s, "three", "changed in the directory that it leads to now")
}

// A link to a file elsewhere, changed there.
func TestFileBehindLink(t *testing.T) {
	target := filepath.Join(t.TempDir(), "target.yaml")
	path := filepath.Join(t.TempDir(), "world.yaml")
	write(t, target, worldWith("one"))
	must(t, os.Symlink(target, path))
	s := NewStore()
	following(t, s, path)
	write(t, target, worldWith("two"))
	eventually(t, s, "two", "changed where the link leads")
}

func TestFileWithAMistakeChangesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "world.yaml")
	write(t, path, worldWith("one"))
	s := NewStore()
	reloads := following(t, s, path)
	before := s.current.Load()

	refused := func(why, want string) {
		t.Helper()
		for {
			// A slow writer may be seen half-way; what counts is the end.
			err := reloaded(t, reloads, why)
			if err == nil {
				t.Fatalf("%s: accepted", why)
			}
			if strings.Contains(err.Error(), want) {
				break
			}
		}
		if s.current.Load() != before {
			t.Fatalf("%s: the world changed", why)
		}
	}
	write(t, path, worldWith("two")+"servics: []\n")
	refused("unknown key", path+":3:1: servics: unknown key; did you mean services?")
	write(t, path, "")
	refused("truncated", "the file is empty")
	must(t, os.Remove(path))
	refused("removed", "no such file")
	write(t, path, worldWith("three"))
	eventually(t, s, "three", "a good file after all of this")
}

func TestFileRescanSeesWhatInotifyDoesNot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "world.yaml")
	write(t, path, worldWith("one"))
	s := NewStore()
	f := &File{Path: path, Debounce: time.Hour, Rescan: 5 * time.Millisecond}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx, s) }()
	eventually(t, s, "one", "first load")
	write(t, path, worldWith("two"))
	eventually(t, s, "two", "rescan")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestFileFirstLoadMustSucceed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "world.yaml")
	f := &File{Path: path}
	if err := f.Run(context.Background(), NewStore()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Run without a file = %v, want fs.ErrNotExist", err)
	}
	if err := f.Load(NewStore()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Load without a file = %v, want fs.ErrNotExist", err)
	}
	write(t, path, "workloads: 7")
	for range 2 { // the second time the file has not changed, and is no better
		var mistake *FieldError
		if err := f.Load(NewStore()); !errors.As(err, &mistake) || mistake.Line != 1 || mistake.Field != "workloads" {
			t.Errorf("Load of a bad file = %v, want a *FieldError with its place", err)
		}
		if err := f.Run(context.Background(), NewStore()); !errors.As(err, &mistake) {
			t.Errorf("Run over a bad file = %v, want a *FieldError", err)
		}
	}
}

// After Load, Run follows without loading again, and a file that went bad in
// between does not end it.
func TestFileLoadThenRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "world.yaml")
	write(t, path, worldWith("one"))
	s := NewStore()
	reloads := make(chan error, 64)
	f := &File{Path: path, TrustDomain: "example.org", Debounce: time.Millisecond, OnReload: func(err error) { reloads <- err }}
	must(t, f.Load(s))
	if id := s.Workload(addr("10.0.0.1")).Identity().String(); id != "spiffe://example.org/ns/default/sa/default" {
		t.Errorf("identity = %s, want the file's trust domain", id)
	}
	write(t, path, "rubbish")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx, s) }()
	if err := reloaded(t, reloads, "gone bad before Run"); err == nil {
		t.Error("rubbish was accepted")
	}
	write(t, path, worldWith("two"))
	eventually(t, s, "two", "repaired")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestFileWarns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "world.yaml")
	write(t, path, `workloads: [{uid: x, name: x, namespace: a, workloadIps: [10.0.0.1], authorizationPolicies: [a/p], services: {a/web: {}}}]`)
	var log strings.Builder
	f := &File{Path: path, Logger: slog.New(slog.NewTextHandler(&log, nil))}
	must(t, f.Load(NewStore()))
	for _, want := range []string{"lists policy a/p, which is not in the file: it refuses all connections", "serves a/web, which is not in the file"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log = %s\nwant %q", log.String(), want)
		}
	}
}

func TestFileTooLarge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "world.yaml")
	file, err := os.Create(path)
	must(t, err)
	must(t, file.Truncate(maxFileSize+1)) // sparse
	must(t, file.Close())
	if err := (&File{Path: path}).Load(NewStore()); err == nil || !strings.Contains(err.Error(), "larger than 64 MiB") {
		t.Errorf("Load = %v, want a refusal by size", err)
	}
}
