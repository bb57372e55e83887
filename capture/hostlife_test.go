package capture_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/adit-mesh/adit/capture"
)

// manyPods are n pods with made up addresses.
func manyPods(n int) map[string]capture.Probed {
	pods := make(map[string]capture.Probed)
	for i := range n {
		four := netip.AddrFrom4([4]byte{10, 245, byte(i >> 8), byte(i)})
		six := netip.MustParseAddr(fmt.Sprintf("fd00:245::%x", i+1))
		pods[fmt.Sprint("uid-", i)] = capture.Probed{Addrs: []netip.Addr{four, six}, Ports: []uint16{8080, 9090, uint16(10000 + i)}}
	}
	return pods
}

// Whatever changes led there, the kernel has what one full write would have made.
func TestSetPodsStepByStep(t *testing.T) {
	w := newWorld(t)
	h := w.openHost(capture.HostConfig{})
	w.must(h.SetPods(manyPods(500))) // more elements than one message takes
	if !h.AsWritten() {
		t.Fatal("500 pods at once differ from 500 pods written anew")
	}
	random := rand.New(rand.NewPCG(1, 2))
	all := manyPods(30)
	pods := make(map[string]capture.Probed)
	for step := range 60 {
		uid := fmt.Sprint("uid-", random.IntN(30))
		if _, there := pods[uid]; there {
			delete(pods, uid)
		} else {
			pods[uid] = all[uid]
		}
		w.must(h.SetPods(pods))
		if found := h.Verify(); len(found) != 0 {
			t.Fatalf("step %d: %v", step, found)
		}
	}
	if !h.AsWritten() {
		t.Error("60 steps led to another table than one")
	}
	w.must(h.SetPods(nil))
	if !h.AsWritten() {
		t.Error("no pods differ from none written")
	}
}

func TestSetPodsKeepsProbes(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		b, h := w.strict(fam)
		probe := w.mustCall("a probe", w.node, fam.port(w.b, probePort), fam.probeSource())
		for i := range 20 {
			pods := manyPods(i)
			pods["uid-b"] = w.probed(w.b, probePort)["uid-b"]
			w.must(h.SetPods(pods))
			w.mustCall("a probe among changes", w.node, fam.port(w.b, probePort), fam.probeSource())
		}
		w.alive("a probe from before the changes", probe)
		b.wantNone("probes")
		w.must(h.SetPods(nil))
		w.alive("a probe of a pod that is gone", probe)
		w.mustBeDenied("a pod that is not probed", b, w.node, fam.of(w.node), fam.port(w.b, probePort))
		w.must(h.SetPods(w.probed(w.b, probePort, appPort)))
		w.mustBeDenied("what the pod itself does not exempt", b, w.node, fam.probeSource(), fam.port(w.b, appPort))
	})
}

// An address is given to the next pod before the last one is known to be gone.
func TestAddressOfTheNextPod(t *testing.T) {
	w := newWorld(t)
	_, h := w.strict(v4)
	next := w.probed(w.b, probePort)["uid-b"]
	w.must(h.SetPods(map[string]capture.Probed{"uid-b": next, "uid-next": next}))
	w.must(h.SetPods(map[string]capture.Probed{"uid-next": next}))
	w.mustCall("after the late end of the last pod", w.node, v4.port(w.b, probePort), v4.probeSource())
}

func TestSetPodsRefuses(t *testing.T) {
	w := newWorld(t)
	_, h := w.strict(v4)
	for _, a := range []netip.Addr{{}, netip.MustParseAddr("fe80::1%eth0")} {
		if err := h.SetPods(map[string]capture.Probed{"uid-x": {Addrs: []netip.Addr{a}, Ports: []uint16{1}}}); err == nil {
			t.Errorf("%q was taken for an address", a)
		}
	}
	w.mustCall("the pods stay as they were", w.node, v4.port(w.b, probePort), v4.probeSource())
}

var hostTables = []*nftables.Table{
	{Name: "adit_host", Family: nftables.TableFamilyINet},
	{Name: "adit_host", Family: nftables.TableFamilyBridge},
}

func TestHostTablesResist(t *testing.T) {
	w := newWorld(t)
	h := w.openHost(capture.HostConfig{})
	if !h.Owned() {
		t.Skip("the kernel has no table ownership (6.9)")
	}
	_ = w.tamper(w.node, func(c *nftables.Conn) { c.FlushRuleset() })
	if got := w.tables(w.node); !slices.Equal(got, []string{"adit_host", "adit_host"}) {
		t.Errorf("after flush ruleset: tables %v", got)
	}
	n, err := capture.OpenNetns(w.node.Path())
	w.must(err)
	defer n.Close()
	if _, err := capture.OpenHost(capture.HostConfig{Netns: n}); err == nil || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("a second agent gets %v; want whom to look for", err)
	}
	if found := h.Verify(); len(found) != 0 {
		t.Errorf("nothing happened, but: %v", found)
	}
}

func TestHostTablesRepaired(t *testing.T) {
	w := newWorld(t)
	r := new(repairs)
	h := w.openHost(capture.HostConfig{OnRepair: r.add, Verify: time.Hour})
	w.must(h.SetPods(w.probed(w.b, probePort)))
	w.must(h.Unown())
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- h.Run(ctx) }()
	for _, table := range hostTables {
		for why, do := range map[string]func(*nftables.Conn){
			"deleted": func(c *nftables.Conn) { c.DelTable(table) },
			"emptied": func(c *nftables.Conn) { c.FlushTable(table) },
		} {
			r.forget()
			w.must(w.tamper(w.node, do))
			w.eventually(fmt.Sprintf("family %d: %s: reported", table.Family, why), func() bool {
				got, ok := r.find(capture.RepairTable)
				return ok && got.Err == nil
			})
			if !h.AsWritten() {
				t.Errorf("family %d: %s: not as before", table.Family, why)
			}
		}
	}
	cancel()
	w.must(<-ran)
}

func TestHostLeavesNothing(t *testing.T) {
	w := newWorld(t)
	h := w.openHost(capture.HostConfig{Verify: 10 * time.Millisecond})
	w.must(h.SetPods(manyPods(3)))
	ran := make(chan error, 1)
	go func() { ran <- h.Run(t.Context()) }()
	w.must(h.Remove())
	w.must(h.Remove())
	w.must(h.Detach())
	select {
	case err := <-ran:
		w.must(err)
	case <-time.After(patience):
		t.Error("Run goes on after Remove")
	}
	if got := w.tables(w.node); len(got) != 0 {
		t.Errorf("left behind: tables %v", got)
	}
	if err := h.SetPods(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("SetPods after Remove: %v", err)
	}
	if _, err := h.Spoofed(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Spoofed after Remove: %v", err)
	}
}

// Tables that an agent left which was ended before its first SetPods knew the pods are removed all the same.
func TestHostRemovesWhatIsLeft(t *testing.T) {
	w := newWorld(t)
	h := w.openHost(capture.HostConfig{})
	w.must(h.SetPods(manyPods(3)))
	w.must(h.Detach())
	if got := w.tables(w.node); len(got) != 2 {
		t.Errorf("after Detach: tables %v", got)
	}
	w.must(w.openHost(capture.HostConfig{}).Remove())
	if got := w.tables(w.node); len(got) != 0 {
		t.Errorf("left behind: tables %v", got)
	}
}
