package kube

import (
	"maps"
	"slices"

	"github.com/adit-mesh/adit/agent/mesh"
)

// sameWorkload compares what this package sets. Both are as a Store keeps them:
// defaults filled in.
func sameWorkload(a, b *mesh.Workload) bool {
	return a.UID == b.UID && a.Name == b.Name && a.Namespace == b.Namespace &&
		a.ServiceAccount == b.ServiceAccount && a.TrustDomain == b.TrustDomain &&
		a.Network == b.Network && a.Node == b.Node && a.ClusterID == b.ClusterID &&
		a.CanonicalName == b.CanonicalName && a.CanonicalRevision == b.CanonicalRevision &&
		a.WorkloadName == b.WorkloadName && a.WorkloadType == b.WorkloadType &&
		a.Protocol == b.Protocol && a.NetworkMode == b.NetworkMode && a.NativeTunnel == b.NativeTunnel &&
		a.Locality == b.Locality && a.Status == b.Status &&
		slices.Equal(a.Addresses, b.Addresses) &&
		slices.Equal(a.AuthorizationPolicies, b.AuthorizationPolicies) &&
		maps.EqualFunc(a.Services, b.Services, func(x, y mesh.PortMap) bool { return maps.Equal(x, y) })
}

func sameService(a, b *mesh.Service) bool {
	return a.Name == b.Name && a.Namespace == b.Namespace && a.Hostname == b.Hostname &&
		a.IPFamilies == b.IPFamilies && a.Canonical == b.Canonical &&
		a.LoadBalancing.Mode == b.LoadBalancing.Mode && a.LoadBalancing.HealthPolicy == b.LoadBalancing.HealthPolicy &&
		slices.Equal(a.LoadBalancing.RoutingPreference, b.LoadBalancing.RoutingPreference) &&
		slices.Equal(a.VIPs, b.VIPs) && maps.Equal(a.Ports, b.Ports)
}
