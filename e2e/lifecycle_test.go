package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/adit-mesh/adit/e2e/lab"
	"github.com/adit-mesh/adit/e2e/testbed"
)

// reach makes a new connection and says a word over it.
func reach(ctx context.Context, from *testbed.Pod, to netip.AddrPort) error {
	c, err := tryDial(ctx, from, to)
	if err != nil {
		return err
	}
	defer c.Close()
	return roundTrip(c, "anybody there?")
}

// A pod that leaves the mesh, and one that comes to it, keeps its connections.
func TestPodLeavesAndReturnsUnderLiveConnections(t *testing.T) {
	m := newMesh(t, "", testbed.Settings{DrainTimeout: 30 * time.Second})
	serve(t, m.ServerB, echo)
	whole := m.World("")
	netns := "  netns: " + m.Client.NS.Path() + "\n"
	without := strings.Replace(whole, netns, "", 1)
	if without == whole {
		t.Fatalf("no %q in the mesh file", netns)
	}
	inMesh := dial(t, m.Client, at(m.ServerB.V4))
	if err := roundTrip(inMesh, "in the mesh"); err != nil {
		t.Fatal(err)
	}

	m.write(t, without)
	var uncaptured *testbed.Entry
	err := testbed.Poll(t.Context(), patience, func() error {
		offset := m.B.LogOffset()
		if err := reach(t.Context(), m.Client, at(m.ServerB.V4)); err != nil {
			return err
		}
		line, err := m.B.Logged(t.Context(), offset, func(e testbed.Entry) bool { return e.Get("direction") == "inbound" })
		if err != nil {
			return err
		}
		if line.Get("src.identity") != "" {
			return errors.New("the pod's new connections still go through its agent")
		}
		uncaptured = &line
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if uncaptured.Get("dst.hbone_addr") != "" {
		t.Errorf("a pod that has left the mesh arrives by tunnel: %s", uncaptured.Brief("src.addr", "dst.hbone_addr"))
	}
	if err := roundTrip(inMesh, "still here"); err != nil {
		t.Errorf("leaving the mesh cut a live connection: %v", err)
	}
	plain := dial(t, m.Client, at(m.ServerB.V4))
	if err := roundTrip(plain, "in the clear"); err != nil {
		t.Fatal(err)
	}
	if err := inMesh.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := ends(inMesh); err != nil {
		t.Errorf("the drained connection ends with %v", err)
	}

	m.write(t, whole)
	err = testbed.Poll(t.Context(), patience, func() error {
		offset := m.B.LogOffset()
		if err := reach(t.Context(), m.Client, at(m.ServerB.V4)); err != nil {
			return err
		}
		line, err := m.B.Logged(t.Context(), offset, func(e testbed.Entry) bool { return e.Get("direction") == "inbound" })
		if err == nil && line.Get("src.identity") != m.Client.Identity() {
			err = errors.New("the pod's new connections are still in the clear")
		}
		return err
	})
	if err != nil {
		t.Errorf("the pod does not come back: %v", err)
	}
	if err := roundTrip(plain, "older than the capture"); err != nil {
		t.Errorf("coming to the mesh cut a live connection: %v", err)
	}
}

func TestBrokenMeshFileChangesNothing(t *testing.T) {
	m := newMesh(t, testbed.OnlyClient, testbed.Settings{})
	serve(t, m.ServerB, echo)
	live := dial(t, m.Client, at(m.ServerB.V4))
	if err := roundTrip(live, "before"); err != nil {
		t.Fatal(err)
	}
	m.write(t, strings.Replace(m.World(testbed.OnlyClient), "workloadIps", "workloadIPs", 1))
	err := testbed.Poll(t.Context(), patience, func() error {
		for _, line := range testbed.LastLines(m.files.Log(m.NodeB), 5) {
			if strings.Contains(line, "world.yaml:12:") && strings.Contains(line, "workloadIPs") {
				return nil
			}
		}
		return errors.New("no line in the log names the file, the line and the field")
	})
	if err != nil {
		t.Error(err)
	}
	if err := roundTrip(live, "after"); err != nil {
		t.Errorf("a broken mesh file disturbed a live connection: %v", err)
	}
	if err := reach(t.Context(), m.Client, at(m.ServerB.V4)); err != nil {
		t.Errorf("a broken mesh file disturbed new connections: %v", err)
	}
	if err := reach(t.Context(), m.Intruder, at(m.ServerB.V4)); err == nil {
		t.Error("a broken mesh file opened the door")
	}
}

// What is known keeps working without the CA; what is not fails with its own
// reason.
func TestCAGone(t *testing.T) {
	m := newMesh(t, testbed.OnlyClient, testbed.Settings{})
	serve(t, m.ServerB, echo)
	if err := os.Rename(m.files.CA(), m.files.CA()+".gone"); err != nil {
		t.Fatal(err)
	}
	for _, to := range []netip.Addr{m.ServerB.V4, m.ServerB.V6} {
		if err := reach(t.Context(), m.Client, at(to)); err != nil {
			t.Errorf("%s: %v", to, err)
		}
	}
}

// One pod whose namespace is missing must not hold up the others, nor the
// agent's readiness: newMesh waits for that.
func TestMissingNamespaceHoldsUpNobody(t *testing.T) {
	m := newMesh(t, testbed.OnlyClient, testbed.Settings{})
	serve(t, m.ServerB, echo)
	const ghost = "/run/netns/there-is-no-such-pod"
	m.write(t, strings.Replace(m.World(testbed.OnlyClient), m.Intruder.NS.Path(), ghost, 1))
	err := testbed.Poll(t.Context(), patience, func() error {
		body, err := m.A.Get(t.Context(), "GET", testbed.AdminURL+"/config_dump")
		if err != nil {
			return err
		}
		if !strings.Contains(string(body), ghost) {
			return errors.New("the pod is not in the dump yet")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := m.A.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.A.Start(t.Context(), testbed.Settings{}); err != nil {
		t.Fatalf("with one pod missing: %v", err)
	}
	if err := reach(t.Context(), m.Client, at(m.ServerB.V4)); err != nil {
		t.Error(err)
	}
	found := false
	for _, line := range testbed.LastLines(m.files.Log(m.NodeA), 50) {
		found = found || strings.Contains(line, ghost) && strings.Contains(line, m.Intruder.Name)
	}
	if !found {
		t.Error("the log does not say which pod has no namespace, and where it was looked for")
	}
}

// The agent's own ports are nobody's destination, from inside a pod or from
// outside; whoever tries gets an error and the agent goes on.
func TestOwnPortsAreNobodysDestination(t *testing.T) {
	m := newMesh(t, "", testbed.Settings{})
	serve(t, m.ServerB, echo)
	host := &testbed.Pod{Name: "node-a", NS: m.NodeA.NS}
	for _, port := range []uint16{15001, 15006, 15008} {
		for _, try := range []struct {
			from *testbed.Pod
			to   netip.Addr
		}{
			{host, m.ServerB.V4}, {host, m.ServerB.V6},
			{m.Client, m.ServerB.V4}, {m.Client, m.ServerB.V6},
			{m.Client, m.Client.V4}, {m.Client, m.Client.V6},
			{m.Client, netip.MustParseAddr("127.0.0.1")}, {m.Client, netip.MustParseAddr("::1")},
		} {
			err := reach(t.Context(), try.from, netip.AddrPortFrom(try.to, port))
			if err == nil || isTimeout(err) {
				t.Errorf("%s to %s port %d: %v; want a refusal at once", try.from.Name, try.to, port, err)
			}
		}
	}
	if err := reach(t.Context(), m.Client, at(m.ServerB.V4)); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// A pod talks to itself without its agent.
func TestPodReachesItself(t *testing.T) {
	m := newMesh(t, testbed.OnlyClient, testbed.Settings{})
	serve(t, m.ServerB, echo)
	for _, to := range []string{m.ServerB.V4.String(), m.ServerB.V6.String(), "127.0.0.1", "::1"} {
		if err := reach(t.Context(), m.ServerB, at(netip.MustParseAddr(to))); err != nil {
			t.Errorf("%s: %v", to, err)
		}
	}
}

// A second agent on a node has to say what stands in its way, and leave the
// first alone.
func TestSecondAgentOnANode(t *testing.T) {
	m := newMesh(t, testbed.OnlyClient, testbed.Settings{})
	serve(t, m.ServerB, echo)
	out, code := runAgent(t, m.NodeA.NS, m.A.Binary, m.files.Config(m.NodeA))
	if code == 0 || !strings.Contains(out, "15000") {
		t.Errorf("exit %d:\n%s\nwant an error that names the port in use", code, out)
	}
	if err := reach(t.Context(), m.Client, at(m.ServerB.V4)); err != nil {
		t.Errorf("the first agent was disturbed: %v", err)
	}
}

// runAgent runs an agent that is expected to end by itself.
func runAgent(t *testing.T, ns *lab.Namespace, binary, config string) (output string, code int) {
	t.Helper()
	var out strings.Builder
	cmd := exec.Command(binary, "agent", "--config", config)
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &out, []string{}
	p, err := ns.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-time.After(patience):
		p.Kill()
		return fmt.Sprintf("still running\n%s", &out), -1
	}
	return out.String(), cmd.ProcessState.ExitCode()
}
