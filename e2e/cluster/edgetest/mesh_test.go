package edgetest

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"testing"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
	"github.com/adit-mesh/adit/e2e/lab"
)

const edgeIdentity = "spiffe://cluster.local/ns/adit-system/sa/adit-ingress"

// tunnels counts packets from the edge to pods, by whether they are HBONE's.
type tunnels struct {
	sniffers map[string]*lab.Sniffer
	edge     []netip.Addr
}

// watchTunnels records on the links of all nodes what the edge's pods send to a pod.
func watchTunnels(t *testing.T, to []*meshlab.Pod) *tunnels {
	t.Helper()
	w := &tunnels{sniffers: map[string]*lab.Sniffer{}, edge: edgeAddrs(t)}
	var backends []netip.Addr
	for _, p := range to {
		backends = append(backends, p.IPs...)
	}
	for _, n := range meshlab.Cluster().Nodes() {
		s, err := n.Netns().SniffIf("eth0", func(f lab.Frame) bool {
			seg, ok := f.Segment()
			return ok && slices.Contains(w.edge, seg.Src.Addr()) && slices.Contains(backends, seg.Dst.Addr())
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		w.sniffers[n.Name()] = s
	}
	return w
}

// only wants packets on a port, and on no other.
func (w *tunnels) only(t *testing.T, port uint16) {
	t.Helper()
	ports := map[uint16]int{}
	for _, s := range w.sniffers {
		for _, f := range s.Frames() {
			seg, _ := f.Segment()
			ports[seg.Dst.Port()]++
		}
	}
	if ports[port] == 0 || len(ports) != 1 {
		t.Errorf("packets from the edge to the backend, by port: %v; want some to %d and none to others", ports, port)
	}
}

// TestMeshedBackend has a backend that takes mutual TLS alone.
func TestMeshedBackend(t *testing.T) {
	s := openShop(t, true, 2)
	meshlab.Apply(t, s.ns, `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}`)
	pods := meshlab.Pods(t, s.ns, "shop")
	plain, wire := meshlab.Wire(t), watchTunnels(t, pods)

	xfcc := regexp.MustCompile(`^By=spiffe://cluster\.local/ns/` + s.ns + `/sa/shop;Hash=[0-9a-f]{64};Subject="";URI=` + regexp.QuoteMeta(edgeIdentity) + `$`)
	for _, v := range []version{h1, h2, h3} {
		c := s.client(v)
		a := c.reach(t, "shop-", s.url("/get"), "X-Forwarded-Client-Cert", "By=me", "X-Forwarded-For", "192.0.2.7")
		if got := a.Headers.Values("X-Forwarded-Client-Cert"); len(got) != 1 || !xfcc.MatchString(got[0]) {
			t.Errorf("%s: X-Forwarded-Client-Cert is %q", v, got)
		}
		if got := a.Headers.Values("X-Forwarded-For"); len(got) != 1 || got[0] != "172.30.0.10" {
			t.Errorf("%s: X-Forwarded-For is %q, want the client's address alone", v, got)
		}
		c.close()
	}
	run := s.load(t)
	run.progress(t, 10)
	for _, p := range pods {
		wantInbound(t, p)
	}
	wire.only(t, 15008)
	plain.Clean(t, pods...)

	t.Run("policy", func(t *testing.T) { edgeOnly(t, s, pods[0]) })

	t.Run("rollout", func(t *testing.T) {
		run.settle(t, 20) // no agent is left that goes by the policies of before
		meshlab.Kubectl(t, "-n", s.ns, "rollout", "restart", "deployment/shop")
		meshlab.Available(t, s.ns, "shop")
		run.progress(t, 10)
		for _, p := range pods {
			meshlab.Eventually(t, p.Ref()+" is gone", func() error {
				if slices.ContainsFunc(meshlab.Pods(t, s.ns, "shop"), func(now *meshlab.Pod) bool { return now.UID == p.UID }) {
					return fmt.Errorf("it is there still")
				}
				return nil
			})
		}
		run.unharmed(t, "backends replaced")
	})
	plain.Clean(t, append(pods, meshlab.Pods(t, s.ns, "shop")...)...)
}

// wantInbound wants the agent of a pod to show the edge as who is connected to it.
func wantInbound(t *testing.T, p *meshlab.Pod) {
	t.Helper()
	meshlab.Eventually(t, "adit connections shows the edge at "+p.Ref(), func() error {
		var answer struct {
			Connections []struct{ Direction, Node, Security, SourceIdentity, DestinationPod string }
		}
		if err := meshlab.AditJSON(&answer, "connections", p.Ref()); err != nil {
			return err
		}
		for _, c := range answer.Connections {
			if c.Direction == "inbound" && c.Node == p.Node && c.Security == "mTLS" && c.SourceIdentity == edgeIdentity && c.DestinationPod == p.Ref() {
				return nil
			}
		}
		return fmt.Errorf("not in %+v", answer.Connections)
	})
}

// edgeOnly has a policy that allows the edge and nobody else, and then one that
// does not allow it either.
func edgeOnly(t *testing.T, s *shop, backend *meshlab.Pod) {
	client := meshlab.Start(t, s.ns, meshlab.PodSpec{Name: "client", ServiceAccount: "client"})
	target := fmt.Sprintf("http://%s/readyz", backend.At(8080))
	reached := func() error {
		total, err := client.Exec(t.Context(), "client", target, "-count", "1")
		if err != nil {
			return err
		}
		// The page is not JSON, but it is one.
		if !regexp.MustCompile(`invalid character`).MatchString(total) {
			return fmt.Errorf("%s", total)
		}
		return nil
	}
	meshlab.Eventually(t, "a client in the mesh reaches the backend", reached)
	allow := func(who string) {
		meshlab.Apply(t, s.ns, `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: edge}
spec:
  selector: {matchLabels: {app: shop}}
  action: ALLOW
  rules:
  - from: [{source: {principals: ["cluster.local/`+who+`"]}}]`)
	}
	edge := s.client(h2)
	defer edge.close()
	allow("ns/adit-system/sa/adit-ingress")
	meshlab.Eventually(t, "a client in the mesh is refused", func() error {
		if reached() == nil {
			return fmt.Errorf("it gets through")
		}
		return nil
	})
	edge.reach(t, "shop-", s.url("/"))
	allow("ns/nobody/sa/nobody")
	edge.refused(t, 503, s.url("/"))
	meshlab.Kubectl(t, "-n", s.ns, "delete", "authorizationpolicy", "edge")
	edge.reach(t, "shop-", s.url("/"))
}
