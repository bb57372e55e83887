package testbed

import (
	"net/netip"
	"os"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/policy"
	"github.com/adit-mesh/adit/e2e/lab/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// What the agents are told has to mean what is said of them.
func TestWorldMeansWhatItSays(t *testing.T) {
	n, err := Build(labtest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	world, err := mesh.ParseFile("world.yaml", []byte(n.World(OnlyClient)))
	if err != nil {
		t.Fatalf("%v in\n%s", err, n.World(OnlyClient))
	}
	store := mesh.NewStore()
	store.Node = n.NodeA.Name
	if err := store.Replace(world); err != nil {
		t.Fatal(err)
	}
	var local []string
	for _, w := range store.Local() {
		local = append(local, w.Name)
	}
	if len(local) != 3 {
		t.Errorf("node-a captures %v, want its own three pods", local)
	}
	client := store.Workload(n.Client.V4)
	if client == nil || client.Identity().String() != n.Client.Identity() {
		t.Fatalf("%s is %v, want %s", n.Client.V4, client, n.Client.Identity())
	}
	r := store.Outbound(client, netip.AddrPortFrom(ServiceVIP, ServicePort))
	if len(r.Hops) == 0 || r.Hops[0].Workload == nil || r.Hops[0].Workload.Name != n.ServerB.Name || r.Hops[0].Protocol != mesh.HBONE {
		t.Errorf("the service leads to %+v, want server-b by HBONE", r)
	}
	for _, p := range []*Pod{n.Client, n.Intruder} {
		to := netip.AddrPortFrom(n.ServerB.V4, AppPort)
		got := store.Policies(store.Workload(n.ServerB.V4)).Check(policy.Connection{
			Source: spiffeid.RequireFromString(p.Identity()), SourceAddr: p.V4, Destination: to,
		})
		if got.Allowed != (p == n.Client) {
			t.Errorf("%s: %+v; only the client may call the servers", p.Name, got)
		}
	}
}
