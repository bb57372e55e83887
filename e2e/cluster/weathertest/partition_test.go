package weathertest

import (
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

// cutOff keeps the agent of a node from the API server, and nobody else: it goes
// by the Service, kubelet and kube-proxy by the server's own address.
func cutOff(t *testing.T, name string) (again func()) {
	t.Helper()
	const table = "weathertest"
	nft := func(args ...string) error {
		ctx, cancel := within(30 * time.Second)
		defer cancel()
		_, err := node(name).Exec(ctx, append([]string{"/usr/sbin/nft"}, args...)...)
		return err
	}
	must(t, nft("add table inet "+table+"; "+
		"add chain inet "+table+" out { type filter hook output priority -150; }; "+ // ahead of kube-proxy's rules
		"add rule inet "+table+" out ip daddr 10.96.0.1 tcp dport 443 drop; "+
		"add chain inet "+table+" in { type filter hook input priority 200; }; "+
		"add rule inet "+table+" in ip saddr 10.96.0.1 tcp sport 443 drop"))
	cut := true
	again = func() {
		if cut {
			cut = false
			must(t, nft("delete", "table", "inet", table))
		}
	}
	t.Cleanup(again)
	return again
}

// reserve makes a node give these addresses to the next pod. They must be free.
func reserve(t *testing.T, on string, addrs []netip.Addr) {
	t.Helper()
	for i, a := range addrs {
		dir := node(on).Path("/var/lib/cni/networks/podnet")
		meshlab.Eventually(t, a.String()+" is free", func() error {
			_, err := os.Stat(fmt.Sprintf("%s/%s", dir, a))
			if err == nil {
				return fmt.Errorf("it is a pod's still")
			}
			return nil
		})
		must(t, os.WriteFile(fmt.Sprintf("%s/last_reserved_ip.%d", dir, i), []byte(a.Prev().String()), 0o644))
		// The node goes on sending to the dead pod's hardware address for most of a minute otherwise.
		_, err := node(on).Exec(t.Context(), "/sbin/ip", "neigh", "flush", "to", a.String())
		must(t, err)
	}
}

// deleteNow deletes a pod without grace.
func deleteNow(t *testing.T, p *meshlab.Pod) {
	t.Helper()
	must(t, api().CoreV1().Pods(p.Namespace).Delete(t.Context(), p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
}

// heir starts a pod with the addresses of one that is being deleted.
func heir(t *testing.T, of *meshlab.Pod, spec meshlab.PodSpec) *meshlab.Pod {
	t.Helper()
	reserve(t, of.Node, of.IPs)
	spec.Node = of.Node
	p := meshlab.Start(t, of.Namespace, spec)
	if p.IP4() != of.IP4() || p.IP6() != of.IP6() {
		t.Fatalf("%s has %v and not the addresses of %s, %v", p.Ref(), p.IPs, of.Ref(), of.IPs)
	}
	captured(t, p)
	return p
}

// An agent that hears nothing of the API server knows a pod that is gone, and
// whose address another has by now. Nothing meant for the first may reach the
// second.
func TestAgentCutOffFromAPIServer(t *testing.T) {
	s := begin(t)
	first := meshlab.Start(t, s.ns, meshlab.PodSpec{Name: "first", Node: back, ServiceAccount: "first"})
	target := first.At(9000)
	caller := meshlab.Load(t, s.ns, meshlab.PodSpec{Name: "caller", Node: front, ServiceAccount: "caller", Args: []string{"-every", "50ms", "-timeout", "1s"}}, "client", target)
	talker := meshlab.Load(t, s.ns, meshlab.PodSpec{Name: "talker", Node: front, ServiceAccount: "caller", Args: []string{"-timeout", "1s"}}, "stream", target)
	s.mark(t)

	again := cutOff(t, front)
	deleteNow(t, first)
	second := heir(t, first, meshlab.PodSpec{Name: "second", ServiceAccount: "second"})
	second.Reach(t, s.target) // the agent of its own node knows it
	reached := func(run *meshlab.LoadRun) int { return run.Now(t).Servers["second"] }
	failed := caller.Now(t).Failed
	meshlab.Eventually(t, "the caller has tried the address that is another's now", func() error {
		if now := caller.Now(t); now.Failed < failed+40 {
			return fmt.Errorf("%s", now)
		}
		return nil
	})
	if n := reached(caller) + reached(talker); n > 0 {
		t.Errorf("%d connections meant for the first pod have reached the second, which has its address and another identity", n)
	}
	s.flows(t) // all that has not changed goes on

	again()
	meshlab.Eventually(t, "once the agent hears again, the second pod is reached as what it is", func() error {
		if reached(caller) == 0 || reached(talker) == 0 {
			return fmt.Errorf("caller: %s; talker: %s", caller.Now(t), talker.Now(t))
		}
		return nil
	})
	caller.Stop(t)
	talker.Stop(t)
	s.unaffected(t, "agent cut off from the API server")
}
