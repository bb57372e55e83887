package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/adit-mesh/adit/agent/enrol"
	"github.com/adit-mesh/adit/agent/kube"
	"github.com/adit-mesh/adit/capture"
	"github.com/adit-mesh/adit/e2e/lab"
	"github.com/adit-mesh/adit/e2e/lab/labtest"
)

// quietCluster is a Kubernetes with no pods, once it is synced.
type quietCluster chan struct{}

func (c quietCluster) Synced() <-chan struct{}                 { return c }
func (quietCluster) Local() []kube.LocalPod                    { return nil }
func (quietCluster) SubscribeLocal() (<-chan struct{}, func()) { return nil, func() {} }
func (quietCluster) SetAddresses(kube.PodRef, []netip.Addr)    {}
func (quietCluster) Lookup(context.Context, kube.PodRef) (kube.LocalPod, error) {
	return kube.LocalPod{}, context.Canceled
}

// probed counts what kubelet's exemption holds in a node.
func probed(t *testing.T, ns *lab.Namespace) int {
	t.Helper()
	f, err := os.Open(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c, err := nftables.New(nftables.WithNetNSFd(int(f.Fd())))
	if err != nil {
		t.Fatal(err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: "adit_host"}
	set, err := c.GetSetByName(table, "probed4")
	if err != nil {
		t.Fatal(err)
	}
	elements, err := c.GetSetElements(set)
	if err != nil {
		t.Fatal(err)
	}
	return len(elements)
}

// An agent starts anew. The pods that it is told of first are not all there are:
// until they are, kubelet's probes of the others pass as before.
func TestProbesOfRunningPodsStayExempt(t *testing.T) {
	ns, err := labtest.New(t).Namespace("node")
	if err != nil {
		t.Fatal(err)
	}
	open := func() *capture.Host {
		n, err := capture.OpenNetns(ns.Path())
		if err != nil {
			t.Fatal(err)
		}
		h, err := capture.OpenHost(capture.HostConfig{Netns: n})
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	earlier := open()
	if err := earlier.SetPods(map[string]capture.Probed{"running": {Addrs: []netip.Addr{netip.MustParseAddr("10.9.0.2")}, Ports: []uint16{8080}}}); err != nil {
		t.Fatal(err)
	}
	if err := earlier.Detach(); err != nil {
		t.Fatal(err)
	}

	cluster := make(quietCluster)
	k := &kubernetes{
		host: open(), log: slog.New(slog.DiscardHandler), ready: newReadiness(), newProbed: make(chan struct{}, 1),
		set: func([]LocalPod) {},
	}
	defer k.host.Remove()
	k.enrol = enrol.New(enrol.Config{Kube: cluster, Enroller: k})
	k.ready.wait(waitRunningPods, "")
	ctx, cancel := context.WithCancel(t.Context())
	var parts group
	parts.stop = func(error) {}
	parts.run("enrolment", func() error { return k.enrol.Run(ctx) })
	parts.run("probes", func() error { return k.runProbes(ctx) })
	parts.run("sweep", func() error { return k.awaitSweep(ctx) })
	defer parts.wait()
	defer cancel()

	k.Set(nil) // by a pod that starts before the others are known
	time.Sleep(200 * time.Millisecond)
	if got := probed(t, ns); got != 1 {
		t.Errorf("kubelet's probes of %d pods pass while the pods are not known, want that of the one that runs", got)
	}
	if ready, _ := k.ready.state(); ready {
		t.Error("the agent calls itself ready before it knows the pods of its node")
	}
	close(cluster)
	for deadline := time.Now().Add(10 * time.Second); probed(t, ns) != 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("kubelet's probes of a pod that is gone pass for ever")
		}
	}
	if ready, why := k.ready.state(); !ready {
		t.Errorf("not ready: %v", why)
	}
}
