package agent

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/capture"
	"github.com/adit-mesh/adit/e2e/lab"
)

// pushedPods is a source whose pods the test names.
type pushedPods chan []LocalPod

func (p pushedPods) Run(ctx context.Context, set func([]LocalPod)) error {
	for {
		select {
		case pods := <-p:
			set(pods)
		case <-ctx.Done():
			return nil
		}
	}
}

// sandbox is a pod as a container runtime hands it over: known by the inode of
// its namespace and opened by a function.
func sandbox(t *testing.T, name string, ns *lab.Namespace) LocalPod {
	t.Helper()
	open := func() (*capture.Netns, error) { return capture.OpenNetns(ns.Path()) }
	n, err := open()
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	return LocalPod{
		UID: "cluster//Pod/default/" + name, Netns: ns.Path(), Inode: n.Inode(), Open: open,
		Identity: spiffeid.RequireFromString("spiffe://cluster.local/ns/default/sa/" + name),
	}
}

// TestSandboxes: who waits for a pod waits for the namespace he means; a pod
// whose network goes is let go at once and not taken up again; a new sandbox of
// the same pod is captured; leftovers of an earlier agent are removed.
func TestSandboxes(t *testing.T) {
	l := newPodLab(t)
	client, server, server2 := l.pod("client", "10.9.0.2"), l.pod("server", "10.9.0.3"), l.pod("server2", "10.9.0.4")
	l.echo(server)
	l.world("client", "server") // their links lead nowhere: the source below names the namespaces
	pods := make(pushedPods)
	cfg := testConfig(t)
	cfg.NodeName, cfg.World.File, cfg.CA.Directory = "node-a", l.dir+"/world.yaml", l.dir+"/ca"
	cfg.DrainTimeout = 20 * time.Second
	start := func() *running { return startUnready(t, cfg, func(a *Agent) { a.source = pods }) }
	a := start()
	c, s := sandbox(t, "client", client), sandbox(t, "server", server)
	wait := func(p LocalPod, within time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		return a.agent.pods.Wait(ctx, p.UID, p.Inode)
	}

	pods <- []LocalPod{c, s}
	for _, p := range []LocalPod{c, s} {
		if err := wait(p, 10*time.Second); err != nil {
			t.Fatalf("%v\n%s", err, a.log)
		}
	}
	live := l.pass(client, "through the mesh")
	other := sandbox(t, "server", server2)
	if err := wait(other, 50*time.Millisecond); err == nil || !strings.Contains(err.Error(), "is not captured yet") {
		t.Errorf("waiting for a namespace that nobody asked to capture: %v", err)
	}

	// The server's network goes. Its connection is given a second.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	began := time.Now()
	a.agent.pods.Gone(ctx, s.UID, s.Inode)
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("letting a pod go took %s, so long the runtime should not wait", took)
	}
	if got := a.pod("server").State; got != "absent" {
		t.Errorf("a pod whose network goes is %s, want it gone", got)
	}
	_ = live.SetDeadline(time.Now().Add(5 * time.Second))
	if n, err := live.Read(make([]byte, 1)); err == nil {
		t.Errorf("a connection to a pod that is gone brought %d bytes", n)
	}
	pods <- []LocalPod{c, s} // a source that has not heard of it yet
	if err := wait(s, 300*time.Millisecond); err == nil {
		t.Error("a pod whose network goes was captured again")
	}

	// A new sandbox of the same pod.
	pods <- []LocalPod{c, other}
	if err := wait(other, 10*time.Second); err != nil {
		t.Errorf("the new sandbox: %v\n%s", err, a.log)
	}

	// While no agent runs, the client leaves the mesh.
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := call(client); err == nil {
		t.Error("a captured pod without an agent reached somebody")
	}
	a = start()
	c.Release = true
	pods <- []LocalPod{c}
	a.waitPod("client", "the client is freed", func(p PodStatus) bool { return p.State == PodReleased })
	pods <- nil
	a.waitPod("client", "the client is forgotten", func(p PodStatus) bool { return p.State == "absent" })
	if conn, err := client.Dial(t.Context(), nil, "tcp", "10.9.0.4:8080"); err == nil {
		conn.Close()
		t.Error("somebody answered where nobody listens")
	} else if !strings.Contains(err.Error(), "refused") {
		t.Errorf("a freed pod cannot reach the network: %v", err)
	}
}

// The number of a network namespace that is gone is the next one's. That the one
// is not to be captured again must not hold the other up, although the source
// was never seen without either.
func TestNumberOfNamespaceIsUsedAgain(t *testing.T) {
	l := newPodLab(t)
	first := sandbox(t, "first", l.pod("first", "10.9.0.2"))
	first.Release = true // what is served of a pod does not matter here
	first.Ref.UID = "uid-1"
	next := first
	next.Ref.UID = "uid-2" // of one name, as in a StatefulSet
	source, released := make(pushedPods), make(chan string, 1)
	set := newPodSet(podSetConfig{
		Source: source, Ready: newReadiness(), Logger: slog.New(slog.DiscardHandler),
		Released: func(p LocalPod) { released <- p.Ref.UID },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- set.Run(ctx) }()
	taken := func(want string) {
		t.Helper()
		select {
		case got := <-released:
			if got != want {
				t.Errorf("%s is taken up, want %s", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s is never taken up", want)
		}
	}
	source <- []LocalPod{first}
	taken("uid-1")
	set.Gone(t.Context(), first.UID, first.Inode)
	source <- []LocalPod{next}
	taken("uid-2")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
