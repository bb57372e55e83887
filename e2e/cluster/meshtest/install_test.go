package meshtest

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

// What the README promises: apply, label, and pods on two nodes talk in mTLS.
func TestInstalled(t *testing.T) {
	ns := meshlab.Namespace(t, false)
	meshlab.SetMode(t, ns, "ambient")
	wire := meshlab.Wire(t)
	client, server := pair(t, ns)
	wantCaptured(t, client, server)

	service := meshlab.Kubectl(t, "-n", ns, "get", "service", "server", "-o", "jsonpath={.spec.clusterIPs[*]}")
	vips := strings.Fields(service)
	if len(vips) != 2 {
		t.Fatalf("the service has the addresses %q, want two", service)
	}
	for _, target := range []string{
		"server:9000", "server." + ns + ".svc.cluster.local:9000", "http://server/",
		net.JoinHostPort(vips[0], "9000"), net.JoinHostPort(vips[1], "9000"), server.At(9000), server.At6(9000),
	} {
		total := client.Reach(t, target)
		for peer := range total.Peers {
			if peer != client.IP4().String() && peer != client.IP6().String() {
				t.Errorf("%s: the server takes the client for %s, want its own address, one of %s", target, peer, client.IPs)
			}
		}
	}

	began := time.Now()
	over4 := meshlab.Load(t, ns, meshlab.PodSpec{Name: "over4", Node: near, ServiceAccount: "client"}, "stream", net.JoinHostPort(vips[0], "9000"))
	over6 := meshlab.Load(t, ns, meshlab.PodSpec{Name: "over6", Node: near, ServiceAccount: "client"}, "stream", net.JoinHostPort(vips[1], "9000"))
	for _, load := range []*meshlab.LoadRun{over4, over6} {
		wantMutual(t, load.Pod, server, "client", "server")
	}
	for _, load := range []*meshlab.LoadRun{over4, over6} {
		if total := load.Stop(t); total.Failed > 0 {
			t.Errorf("%s: %s", load.Pod.Name, total)
		}
		wantLogged(t, server.Node, load.Pod, server, began)
	}
	wire.Clean(t, client, server, over4.Pod, over6.Pod)

	status, err := meshlab.Adit("status")
	if err != nil || !strings.Contains(status, near) || !strings.Contains(status, far) {
		t.Errorf("adit status: %v\n%s", err, status)
	}
}

// wantLogged wants the end of a connection in the access log of a node's agent.
func wantLogged(t *testing.T, at string, client, server *meshlab.Pod, since time.Time) {
	t.Helper()
	meshlab.Eventually(t, fmt.Sprintf("the agent of %s logs the connection of %s", at, client.Ref()), func() error {
		agent, err := meshlab.AgentOf(t.Context(), at)
		if err != nil {
			return err
		}
		seconds := int64(time.Since(since).Seconds()) + 2
		logs := meshlab.Logs(t.Context(), agent.Namespace, agent.Name, corev1.PodLogOptions{SinceSeconds: &seconds})
		for line := range strings.Lines(logs) {
			var entry map[string]any
			if json.Unmarshal([]byte(line), &entry) == nil && entry["message"] == "connection complete" &&
				entry["src.workload"] == client.Name && entry["src.namespace"] == client.Namespace && entry["dst.workload"] == server.Name &&
				entry["src.identity"] == "spiffe://cluster.local/ns/"+client.Namespace+"/sa/client" &&
				entry["dst.identity"] == "spiffe://cluster.local/ns/"+server.Namespace+"/sa/server" {
				return nil
			}
		}
		return fmt.Errorf("no such line in %q", logs[max(0, len(logs)-2000):])
	})
}
