package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/adit-mesh/adit/e2e/lab/labtest"
	"github.com/adit-mesh/adit/e2e/testbed"
)

// binaryDir names, to the isolated test process, where the parent wants the
// binary built: the parent outlives it and removes it.
const binaryDir = "ADIT_E2E_BINARY_DIR"

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv(binaryDir) == "" {
		dir, err := os.MkdirTemp("", "adit-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		os.Setenv(binaryDir, dir)
	}
	return labtest.Main(m)
}

// binary builds adit, with the race detector if the test has it.
var binary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(os.Getenv(binaryDir), "adit")
	args := []string{"build", "-o", path}
	if raceEnabled {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "../cmd/adit")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

func mustBinary(t *testing.T) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// mesh is a testbed with both agents running.
type mesh struct {
	*testbed.Network
	A, B  *testbed.Agent
	files testbed.Files
}

// patience bounds everything that should take milliseconds.
const patience = 10 * time.Second

func newMesh(t *testing.T, policies string, s testbed.Settings) *mesh {
	t.Helper()
	l := labtest.New(t)
	n, err := testbed.Build(l)
	if err != nil {
		t.Fatal(err)
	}
	files := testbed.Files{Dir: t.TempDir()}
	m := &mesh{Network: n, files: files}
	m.A = &testbed.Agent{Binary: mustBinary(t), Files: files, Node: n.NodeA}
	m.B = &testbed.Agent{Binary: mustBinary(t), Files: files, Node: n.NodeB}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for _, node := range n.Nodes {
			for _, path := range []string{files.Log(node), files.AccessLog(node)} {
				for _, line := range testbed.LastLines(path, 30) {
					t.Logf("%s: %s", filepath.Base(path), line)
				}
			}
		}
	})
	m.setPolicies(t, policies)
	for _, a := range []*testbed.Agent{m.A, m.B} {
		if _, err := a.Start(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func (m *mesh) setPolicies(t *testing.T, policies string) {
	t.Helper()
	m.write(t, m.World(policies))
}

// write puts a mesh file in place whole, by rename.
func (m *mesh) write(t *testing.T, world string) {
	t.Helper()
	next := m.files.World() + ".new"
	if err := os.WriteFile(next, []byte(world), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, m.files.World()); err != nil {
		t.Fatal(err)
	}
}

// serve runs an application in a pod: handle is called for each connection, in
// its own goroutine, and the connection closed after it.
func serve(t *testing.T, p *testbed.Pod, handle func(*net.TCPConn)) {
	t.Helper()
	l, err := p.NS.Listen("tcp", fmt.Sprintf(":%d", testbed.AppPort))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := make(map[net.Conn]bool)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Go(func() {
				handle(c.(*net.TCPConn))
				_ = c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// dial connects from a pod, as its application would.
func dial(t *testing.T, from *testbed.Pod, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := tryDial(t.Context(), from, to)
	if err != nil {
		t.Fatalf("%s to %s: %v", from.Name, to, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func tryDial(ctx context.Context, from *testbed.Pod, to netip.AddrPort) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := from.NS.Dial(ctx, nil, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn), nil
}

func echo(c *net.TCPConn) {
	_, _ = io.Copy(c, c)
	_ = c.CloseWrite()
}

// roundTrip says a line and wants it back.
func roundTrip(c net.Conn, line string) error {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, line); err != nil {
		return err
	}
	got := make([]byte, len(line))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != line {
		return fmt.Errorf("sent %q, got back %q", line, got)
	}
	return nil
}

// ends waits for the connection to end and says how; nil is a clean end.
func ends(c net.Conn) error {
	_ = c.SetReadDeadline(time.Now().Add(patience))
	_, err := io.Copy(io.Discard, c)
	return err
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func at(addr netip.Addr) netip.AddrPort { return netip.AddrPortFrom(addr, testbed.AppPort) }
