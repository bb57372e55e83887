package testbed

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/adit-mesh/adit/e2e/lab"
)

// Edge is an `adit ingress` that serves a directory: a process in a namespace.
type Edge struct {
	Binary string
	NS     *lab.Namespace
	Files  Files
	// World is its mesh file. "" = that of the agents, if there is one.
	World string
	// ConfigFile is a configuration file that says all of it. "" = the directory,
	// with flags.
	ConfigFile string

	process *lab.Process
}

// Dir is the directory of Gateway API's objects that it serves.
func (e *Edge) Dir() string { return filepath.Join(e.Files.Dir, "gateway") }

// Log is what it writes to its standard error.
func (e *Edge) Log() string { return filepath.Join(e.Files.Dir, "edge.log") }

// AccessLog is what it writes to its standard output: a line of JSON for each
// request.
func (e *Edge) AccessLog() string { return filepath.Join(e.Files.Dir, "edge.access.log") }

// Put makes content a file of the directory, whole, by rename.
func (e *Edge) Put(name, content string) error {
	if err := os.MkdirAll(e.Dir(), 0o755); err != nil {
		return err
	}
	return Replace(filepath.Join(e.Dir(), name), content)
}

// Replace makes content a file, whole, by rename. What is half written is in the
// folder above, so that nobody who follows the file's own takes notice.
func Replace(path, content string) error {
	next := filepath.Join(filepath.Dir(filepath.Dir(path)), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(next, []byte(content), 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// Args is the command line, behind the program's name. It knows of a mesh if the
// mesh file exists.
func (e *Edge) Args(more ...string) []string {
	if e.ConfigFile != "" {
		return append([]string{"ingress", "--config", e.ConfigFile}, more...)
	}
	args := []string{"ingress", "--config", e.Dir(), "--access-log", "json"}
	world := cmp.Or(e.World, e.Files.World())
	if _, err := os.Stat(world); err == nil {
		args = append(args, "--mesh", world, "--ca-dir", e.Files.CA())
	}
	return append(args, more...)
}

// Start runs it and returns, once it is ready, how long that took.
func (e *Edge) Start(ctx context.Context, more ...string) (time.Duration, error) {
	const flags = os.O_CREATE | os.O_APPEND | os.O_WRONLY
	log, err := os.OpenFile(e.Log(), flags, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close() // the child has its own descriptor
	access, err := os.OpenFile(e.AccessLog(), flags, 0o644)
	if err != nil {
		return 0, err
	}
	defer access.Close()
	cmd := exec.Command(e.Binary, e.Args(more...)...)
	cmd.Stdout, cmd.Stderr = access, log
	// Its own process group: Ctrl-C is for whoever started us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = []string{}
	began := time.Now()
	if e.process, err = e.NS.Start(cmd); err != nil {
		return 0, err
	}
	err = Poll(ctx, 15*time.Second, func() error {
		select {
		case <-e.process.Done():
			return Permanent{Err: fmt.Errorf("the edge ended while starting: %w", e.process.Wait())}
		default:
		}
		if _, err := fetch(ctx, e.NS, http.MethodGet, ReadyURL); err != nil {
			return fmt.Errorf("the edge is not ready: %w", err)
		}
		return nil
	})
	return time.Since(began), err
}

// PID is that of the running process.
func (e *Edge) PID() int { return e.process.Cmd.Process.Pid }

// Signal sends a signal to the process.
func (e *Edge) Signal(s os.Signal) error { return e.process.Signal(s) }

// Done is closed when the process has ended; Wait is how.
func (e *Edge) Done() <-chan struct{} { return e.process.Done() }

// Wait returns how the process has ended, after it has.
func (e *Edge) Wait() error { return e.process.Wait() }

// Get returns the body of a 200 of one of its own ports.
func (e *Edge) Get(ctx context.Context, url string) ([]byte, error) {
	return fetch(ctx, e.NS, http.MethodGet, url)
}

// Metric is the sum of the series of that name that have all the given labels.
// That there is none is an error.
func (e *Edge) Metric(ctx context.Context, name string, labels map[string]string) (float64, error) {
	body, err := e.Get(ctx, MetricsURL)
	if err != nil {
		return 0, err
	}
	sum, found := sumSeries(string(body), name, labels)
	if !found {
		return 0, fmt.Errorf("%s: no series %s with %v", MetricsURL, name, labels)
	}
	return sum, nil
}

// Explain asks what would become of a request, and decodes the answer into v.
func (e *Edge) Explain(ctx context.Context, query string, v any) error {
	body, err := e.Get(ctx, AdminURL+"/route?"+query)
	if err != nil {
		return err
	}
	return json.Unmarshal(body, v)
}

// LogOffset marks the present end of the access log, to look only at what
// follows.
func (e *Edge) LogOffset() int64 { return size(e.AccessLog()) }

// Logged waits for an access-log line after offset that match accepts.
func (e *Edge) Logged(ctx context.Context, offset int64, match func(Entry) bool) (Entry, error) {
	return awaitEntry(ctx, e.AccessLog(), offset, match)
}

// Stop asks it to drain, and waits for it.
func (e *Edge) Stop() error {
	if err := e.process.Stop(15 * time.Second); err != nil {
		return fmt.Errorf("the edge: %w", err)
	}
	return nil
}
