package meshtest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
	"github.com/adit-mesh/adit/e2e/testbed"
)

type tunnel struct{ Pod, ExpectedIdentities, Remote string }

// tunnelsTo are those that the agent of a node has to an address.
func tunnelsTo(t *testing.T, at string, a netip.Addr) (found []tunnel, err error) {
	t.Helper()
	agent := testbed.Agent{Node: &testbed.Node{Name: at, NS: node(at).Netns()}}
	body, err := agent.Get(t.Context(), "GET", testbed.AdminURL+"/config_dump")
	if err != nil {
		return nil, err
	}
	var dump struct{ Tunnels []tunnel }
	if err := json.Unmarshal(body, &dump); err != nil {
		return nil, err
	}
	for _, tunnel := range dump.Tunnels {
		if ap, err := netip.ParseAddrPort(tunnel.Remote); err == nil && ap.Addr().Unmap() == a {
			found = append(found, tunnel)
		}
	}
	return found, nil
}

// nextAddresses makes the node's address manager give out these next, as it would
// some time after they were given back.
func nextAddresses(t *testing.T, at string, addrs []netip.Addr) {
	t.Helper()
	for i, a := range addrs {
		name := node(at).Path("/var/lib/cni/networks/podnet/last_reserved_ip." + strconv.Itoa(i))
		if err := os.WriteFile(name, []byte(a.Prev().String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// The node remembers which hardware had the addresses, for half a minute.
	if _, err := node(at).Exec(t.Context(), "ip", "neigh", "flush", "dev", "cni0"); err != nil {
		t.Fatal(err)
	}
}

// A pod that ends takes its peers' tunnels with it, and one that comes by its
// addresses is met as itself: in a tunnel of its own, by its own identity.
func TestAddressesAreUsedAgain(t *testing.T) {
	ns := meshlab.Namespace(t, true)
	old := meshlab.Start(t, ns, meshlab.PodSpec{Name: "old", Node: far, ServiceAccount: "old"})
	load := meshlab.Load(t, ns, meshlab.PodSpec{Name: "load", Node: near, ServiceAccount: "client"}, "stream", old.At(9000))
	client := meshlab.Start(t, ns, meshlab.PodSpec{Name: "client", Node: near, ServiceAccount: "client"})
	client.Reach(t, old.At6(9000))
	wantMutual(t, load.Pod, old, "client", "old")
	if found, err := tunnelsTo(t, near, old.IP4()); err != nil || len(found) == 0 {
		t.Fatalf("tunnels to %s: %v, %v; want one at least", old.IP4(), found, err)
	}
	wire := meshlab.Wire(t)

	meshlab.Delete(t, ns, "old")
	// An agent that was not told finds out when its tunnel is silent for too long, half a minute.
	meshlab.Within(t, 15*time.Second, "the client's agent has no tunnel to the pod that has gone", func() error {
		for _, a := range old.IPs {
			if found, err := tunnelsTo(t, near, a); err != nil || len(found) > 0 {
				return fmt.Errorf("%+v, %v", found, err)
			}
		}
		return nil
	})
	meshlab.Within(t, 15*time.Second, "the stream learns of its end at once", func() error {
		if now := load.Now(t); now.Failed == 0 {
			return fmt.Errorf("%s", now)
		}
		return nil
	})
	if total := load.Stop(t); total.Servers["old"] == 0 || len(total.Servers) != 1 {
		t.Errorf("the stream to the old pod: %s", total)
	}

	nextAddresses(t, far, old.IPs)
	other := meshlab.Start(t, ns, meshlab.PodSpec{Name: "other", Node: far, ServiceAccount: "other"})
	if fmt.Sprint(other.IPs) != fmt.Sprint(old.IPs) {
		t.Fatalf("the new pod has %s, want those of the old one, %s", other.IPs, old.IPs)
	}
	for _, target := range []string{other.At(9000), other.At6(9000)} {
		total := client.Reach(t, target)
		if total.Servers["other"] != 1 {
			t.Errorf("%s is answered by %v, want other", target, total.Servers)
		}
	}
	again := meshlab.Load(t, ns, meshlab.PodSpec{Name: "again", Node: near, ServiceAccount: "client"}, "stream", other.At(9000))
	wantMutual(t, again.Pod, other, "client", "other")
	for _, a := range other.IPs {
		found, err := tunnelsTo(t, near, a)
		if err != nil || len(found) == 0 {
			t.Errorf("tunnels to %s: %v, %v", a, found, err)
		}
		for _, tunnel := range found {
			if want := "spiffe://cluster.local/ns/" + ns + "/sa/other"; tunnel.ExpectedIdentities != want {
				t.Errorf("a tunnel to %s expects %s, want %s", a, tunnel.ExpectedIdentities, want)
			}
		}
	}
	// Not the first stream: where an address is nobody's, it asks in vain, outside of any tunnel.
	wire.Clean(t, client, again.Pod)
}
