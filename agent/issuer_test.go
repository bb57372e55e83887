package agent

import (
	"net/netip"
	"testing"

	"github.com/adit-mesh/adit/agent/mesh"
)

// TestServiceAddress: the CA is found by its service without a resolver, and
// what is no service of the cluster is left to one.
func TestServiceAddress(t *testing.T) {
	store := mesh.NewStore()
	service := func(name, namespace string, vips ...mesh.VIP) *mesh.Service {
		return &mesh.Service{
			Name: name, Namespace: namespace, Hostname: name + "." + namespace + ".svc.example.org", VIPs: vips, Ports: mesh.PortMap{15012: 15012},
		}
	}
	err := store.Apply(mesh.Update{Services: []*mesh.Service{
		service("ca", "system", mesh.VIP{Prefix: netip.MustParsePrefix("10.96.0.7/32")}, mesh.VIP{Prefix: netip.MustParsePrefix("fd00::7/128")}),
		service("headless", "system"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{store: store, cfg: Config{World: WorldConfig{Kubernetes: &KubernetesConfig{ClusterDomain: "example.org"}}}}
	for address, want := range map[string]string{
		"ca.system.svc:15012":              "10.96.0.7:15012",
		"ca.system:15012":                  "10.96.0.7:15012",
		"ca.system.svc.example.org:15012":  "10.96.0.7:15012",
		"ca.system.svc.other.org:15012":    "",
		"ca.system.pod:15012":              "",
		"ca.other.svc:15012":               "",
		"headless.system.svc:15012":        "",
		"ca:15012":                         "",
		"192.0.2.1:15012":                  "",
		"ca.system.svc":                    "",
		"ca.system.svc:name":               "",
		"istiod.istio-system.svc:15012":    "",
		"ca.system.svc.example.org.:15012": "",
	} {
		got, ok := a.serviceAddress(address)
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("%s: %v %v, want %q", address, got, ok, want)
		}
	}
}
