package weathertest

import (
	"testing"

	"github.com/adit-mesh/adit/e2e/cluster"
	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

func TestMain(m *testing.M) { meshlab.Main(m, "adit-k8s") }

// The nodes: clients run on the front, servers on the back, so that all that
// they say to each other crosses a wire.
const (
	front = "n1"
	back  = "n2"
)

// scene is an enrolled server, and pods that talk to it from another node while
// something happens.
type scene struct {
	ns     string
	server *meshlab.Pod
	target string // the server's Service, by address: names would need the DNS of a node that may be down
	calls  *meshlab.LoadRun
	lines  *meshlab.LoadRun
	wire   *meshlab.WireWatch

	callsBefore, linesBefore meshlab.Total
}

// begin starts a scene, and returns once calls, a new connection every 50 ms,
// and lines, on connections that stay, both go well.
func begin(t *testing.T) *scene {
	t.Helper()
	s := &scene{ns: meshlab.Namespace(t, true), wire: meshlab.Wire(t)}
	s.server = meshlab.Start(t, s.ns, meshlab.PodSpec{Name: "server", Node: back, ServiceAccount: "server"})
	s.target = address(meshlab.Service(t, s.ns, "server", nil, nil), "9000")
	s.calls = s.load(t, "calls", "client", "-every", "50ms")
	s.lines = s.load(t, "lines", "stream", "-conns", "3")
	s.mark(t)
	return s
}

func (s *scene) load(t *testing.T, name, mode string, flags ...string) *meshlab.LoadRun {
	t.Helper()
	from := meshlab.PodSpec{Name: name, Node: front, ServiceAccount: "client", Args: flags}
	return meshlab.Load(t, s.ns, from, mode, s.target)
}

// hush ends the connections that stay: an agent that is stopped would wait for them.
func (s *scene) hush(t *testing.T) meshlab.Total {
	t.Helper()
	lines := s.lines.Stop(t)
	s.lines = nil
	return lines
}

// mark takes failures up to now for the beginning's.
func (s *scene) mark(t *testing.T) {
	t.Helper()
	s.flows(t)
	s.callsBefore, s.linesBefore = s.calls.Now(t), s.lines.Now(t)
}

// flows waits until calls and lines go well again.
func (s *scene) flows(t *testing.T) {
	t.Helper()
	s.calls.Progress(t, 20)
	if s.lines != nil {
		s.lines.Progress(t, 30)
	}
}

// end stops the traffic and returns what has gone by and what has failed since mark.
func (s *scene) end(t *testing.T) (calls, lines meshlab.Total) {
	t.Helper()
	s.flows(t)
	calls = s.calls.Stop(t)
	calls.OK, calls.Failed = calls.OK-s.callsBefore.OK, calls.Failed-s.callsBefore.Failed
	t.Logf("new connections: %s", calls)
	if s.lines != nil {
		lines = s.lines.Stop(t)
		lines.OK, lines.Failed = lines.OK-s.linesBefore.OK, lines.Failed-s.linesBefore.Failed
		t.Logf("connections that stay: %s", lines)
	}
	s.wire.Clean(t)
	return calls, lines
}

// unaffected ends the scene and wants nothing to have failed since mark.
func (s *scene) unaffected(t *testing.T, by string) {
	t.Helper()
	calls, lines := s.end(t)
	if calls.Failed > 0 {
		t.Errorf("%s: %d new connections failed: %v; last: %s", by, calls.Failed, calls.Errors, calls.Last)
	}
	if lines.Failed > 0 {
		t.Errorf("%s: %d connections broke: %v; last: %s", by, lines.Failed, lines.Errors, lines.Last)
	}
}

func node(name string) *cluster.Node { return meshlab.Cluster().Node(name) }
