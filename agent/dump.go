package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/policy"
	"github.com/adit-mesh/adit/agent/proxy"
	"github.com/adit-mesh/adit/identity"
)

// dump is GET /config_dump. It holds no keys.
type dump struct {
	Version      string             `json:"version"`
	Config       json.RawMessage    `json:"config"`
	Ready        bool               `json:"ready"`
	NotReady     []string           `json:"readiness,omitempty"`
	Certificates []certificateDump  `json:"certificates"`
	Pods         []PodStatus        `json:"pods"`
	Workloads    []workloadDump     `json:"workloads"`
	Services     []serviceDump      `json:"services"`
	Policies     []policyDump       `json:"policies"`
	Tunnels      []proxy.TunnelInfo `json:"tunnels"`
	Connections  []proxy.ConnInfo   `json:"connections"`
	Gateways     *EdgeStatus        `json:"gateways,omitempty"`
}

type certificateDump struct {
	ID          string     `json:"id"`
	Serial      string     `json:"serial"`
	NotBefore   *time.Time `json:"notBefore,omitempty"`
	NotAfter    *time.Time `json:"notAfter,omitempty"`
	NextAttempt *time.Time `json:"nextAttempt,omitempty"`
	LastError   string     `json:"lastError,omitempty"`
	Failures    int        `json:"failures"`
	References  int        `json:"references"`
}

type workloadDump struct {
	UID       string       `json:"uid"`
	Name      string       `json:"name"`
	Namespace string       `json:"namespace"`
	Identity  string       `json:"identity"`
	Node      string       `json:"node,omitempty"`
	Network   string       `json:"network,omitempty"`
	Addresses []netip.Addr `json:"addresses"`
	Protocol  string       `json:"protocol"`
	Status    string       `json:"status"`
	Waypoint  string       `json:"waypoint,omitempty"`
	Netns     string       `json:"netns,omitempty"`
	Services  []string     `json:"services,omitempty"`
	Policies  []string     `json:"authorizationPolicies,omitempty"`
}

type serviceDump struct {
	Name      string       `json:"name"`
	Namespace string       `json:"namespace"`
	Hostname  string       `json:"hostname"`
	VIPs      []string     `json:"vips,omitempty"`
	Ports     mesh.PortMap `json:"ports,omitempty"`
	Waypoint  string       `json:"waypoint,omitempty"`
	Mode      string       `json:"loadBalancing"`
}

type policyDump struct {
	Name      string        `json:"name"`
	Namespace string        `json:"namespace"`
	Scope     string        `json:"scope"`
	Action    string        `json:"action"`
	DryRun    bool          `json:"dryRun,omitempty"`
	Rules     []policy.Rule `json:"rules"`
}

func (a *Agent) dump() dump {
	world := a.store.World()
	d := dump{
		Version:      a.version(),
		Certificates: []certificateDump{},
		Pods:         a.pods.Status(),
		Workloads:    make([]workloadDump, 0, len(world.Workloads)),
		Services:     make([]serviceDump, 0, len(world.Services)),
		Policies:     make([]policyDump, 0, len(world.Policies)),
		Tunnels:      a.proxy.Tunnels(),
		Connections:  a.proxy.Connections(),
	}
	if a.edge != nil {
		s := a.edge.status(context.Background())
		d.Gateways = &s
	}
	d.Ready, d.NotReady = a.ready.state()
	if config, err := yaml.MarshalWithOptions(a.cfg, yaml.JSON()); err == nil {
		d.Config = config
	}
	for _, c := range a.ids.Certificates() {
		d.Certificates = append(d.Certificates, dumpCertificate(c))
	}
	for _, w := range world.Workloads {
		d.Workloads = append(d.Workloads, dumpWorkload(w))
	}
	for _, s := range world.Services {
		d.Services = append(d.Services, dumpService(s))
	}
	for _, p := range world.Policies {
		d.Policies = append(d.Policies, policyDump{
			Name: p.Name, Namespace: p.Namespace, Scope: p.Scope.String(), Action: p.Action.String(), DryRun: p.DryRun, Rules: p.Rules,
		})
	}
	slices.SortFunc(d.Workloads, func(a, b workloadDump) int { return cmp.Compare(a.UID, b.UID) })
	slices.SortFunc(d.Services, func(a, b serviceDump) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Hostname, b.Hostname))
	})
	return d
}

func dumpCertificate(c identity.CertificateInfo) certificateDump {
	return certificateDump{
		ID: c.ID.String(), Serial: c.Serial,
		NotBefore: known(c.NotBefore), NotAfter: known(c.NotAfter), NextAttempt: known(c.NextAttempt),
		LastError: c.LastError, Failures: c.Failures, References: c.References,
	}
}

// known leaves a time out that is not.
func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func dumpWorkload(w *mesh.Workload) workloadDump {
	d := workloadDump{
		UID: w.UID, Name: w.Name, Namespace: w.Namespace, Identity: w.Identity().String(), Node: w.Node, Network: w.Network,
		Addresses: w.Addresses, Protocol: w.Protocol.String(), Status: w.Status.String(), Netns: w.Netns,
		Policies: w.AuthorizationPolicies,
	}
	for key := range maps.Keys(w.Services) {
		d.Services = append(d.Services, key.String())
	}
	slices.Sort(d.Services)
	if w.Waypoint != nil {
		d.Waypoint = w.Waypoint.String()
	}
	return d
}

func dumpService(s *mesh.Service) serviceDump {
	d := serviceDump{
		Name: s.Name, Namespace: s.Namespace, Hostname: s.Hostname, Ports: s.Ports, Mode: s.LoadBalancing.Mode.String(),
	}
	for _, vip := range s.VIPs {
		d.VIPs = append(d.VIPs, vip.String())
	}
	if s.Waypoint != nil {
		d.Waypoint = s.Waypoint.String()
	}
	return d
}
