package mesh

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Validate says why a Store would refuse w, so that a source can reject one
// resource and apply the others.
func (w *Workload) Validate() error {
	_, err := w.prepare()
	return err
}

// Validate says why a Store would refuse s.
func (s *Service) Validate() error {
	_, err := s.prepare()
	return err
}

// prepare returns a copy with the defaults filled in and addresses in one
// form. The Store keeps that, so the caller's value may be reused.
func (w *Workload) prepare() (*Workload, error) {
	if w == nil {
		return nil, errors.New("workload is nil")
	}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	c := *w
	c.TrustDomain = or(c.TrustDomain, "cluster.local")
	c.ServiceAccount = or(c.ServiceAccount, "default")
	c.ClusterID = or(c.ClusterID, "Kubernetes")
	if c.UID == "" {
		bad("uid is empty")
	}
	c.Addresses = slices.Clone(c.Addresses)
	for i, a := range c.Addresses {
		if !a.IsValid() || a.IsUnspecified() {
			bad("address %d: %v is not the address of a workload", i, a)
		}
		c.Addresses[i] = plain(a)
	}
	id, err := c.identity()
	if err != nil {
		bad("identity spiffe://%s/ns/%s/sa/%s: %w", c.TrustDomain, c.Namespace, c.ServiceAccount, err)
	}
	c.id, c.expect = id, []spiffeid.ID{id}
	for key := range c.Services {
		if key.Hostname == "" {
			bad("services: %q has no hostname", key)
		}
	}
	for _, key := range c.AuthorizationPolicies {
		if !strings.Contains(key, "/") {
			bad("authorizationPolicies: %q is not namespace/name", key)
		}
	}
	for name, g := range map[string]**GatewayAddress{"waypoint": &c.Waypoint, "networkGateway": &c.NetworkGateway} {
		g2, err := (*g).prepare()
		if err != nil {
			bad("%s: %w", name, err)
		}
		*g = g2
	}
	if c.Protocol > HBONE {
		bad("unknown tunnel protocol %d", c.Protocol)
	}
	if c.NetworkMode > HostNetwork {
		bad("unknown network mode %d", c.NetworkMode)
	}
	if c.Status > Unhealthy {
		bad("unknown status %d", c.Status)
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("workload %s: %w", w, errors.Join(errs...))
	}
	return &c, nil
}

func (s *Service) prepare() (*Service, error) {
	if s == nil {
		return nil, errors.New("service is nil")
	}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	c := *s
	if c.Hostname == "" {
		bad("hostname is empty")
	}
	c.VIPs = nil
	for _, v := range s.VIPs {
		v, err := v.prepare()
		if err != nil {
			bad("%w", err)
		} else if !slices.Contains(c.VIPs, v) {
			c.VIPs = append(c.VIPs, v)
		}
	}
	for port := range c.Ports {
		if port == 0 {
			bad("port 0 is not a port")
		}
	}
	// Names that are not SPIFFE IDs are for gateways that verify otherwise.
	c.sans = nil
	for _, san := range c.SubjectAltNames {
		if id, err := spiffeid.FromString(san); err == nil && !slices.Contains(c.sans, id) {
			c.sans = append(c.sans, id)
		}
	}
	var err error
	if c.Waypoint, err = c.Waypoint.prepare(); err != nil {
		bad("waypoint: %w", err)
	}
	c.WeightedWaypoints = slices.Clone(c.WeightedWaypoints)
	for i := range c.WeightedWaypoints {
		g, err := c.WeightedWaypoints[i].Destination.prepare()
		if err != nil {
			bad("weighted waypoint %d: %w", i, err)
			continue
		}
		c.WeightedWaypoints[i].Destination = *g
	}
	for _, scope := range c.LoadBalancing.RoutingPreference {
		if scope < ScopeRegion || scope > ScopeNetwork {
			bad("unknown routing preference %d", scope)
		}
	}
	if c.LoadBalancing.Mode > ModePassthrough {
		bad("unknown load balancing mode %d", c.LoadBalancing.Mode)
	}
	if c.LoadBalancing.HealthPolicy > AllowAll {
		bad("unknown health policy %d", c.LoadBalancing.HealthPolicy)
	}
	if c.IPFamilies > DualStack {
		bad("unknown IP families %d", c.IPFamilies)
	}
	// A visibility that this version does not know hides more than Public, so
	// it must not be read as Public.
	if c.Visibility > NamespaceOnly {
		bad("unknown visibility %d", c.Visibility)
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("service %s: %w", s.Key(), errors.Join(errs...))
	}
	return &c, nil
}

func (v VIP) prepare() (VIP, error) {
	if !v.Prefix.IsValid() {
		return v, fmt.Errorf("VIP %s is not an address or a CIDR", v)
	}
	p := v.Prefix
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return VIP{v.Network, p.Masked()}, nil
}

func (g *GatewayAddress) prepare() (*GatewayAddress, error) {
	if g == nil {
		return nil, nil
	}
	c := *g
	c.Address.Addr = plain(c.Address.Addr)
	if c.HBONEPort == 0 {
		c.HBONEPort = hbonePort
	}
	if (c.Hostname.Hostname == "") == !c.Address.Addr.IsValid() {
		return nil, errors.New("a gateway has either a hostname or an address")
	}
	return &c, nil
}
