package mesh

import "fmt"

// Names instead of numbers where the model is dumped as JSON. Keys of maps
// must be text there.

func (n NamespacedHostname) MarshalText() ([]byte, error) { return []byte(n.String()), nil }
func (a NetworkAddress) MarshalText() ([]byte, error)     { return []byte(a.String()), nil }
func (v VIP) MarshalText() ([]byte, error)                { return []byte(v.String()), nil }
func (p Protocol) MarshalText() ([]byte, error)           { return []byte(p.String()), nil }
func (m NetworkMode) MarshalText() ([]byte, error)        { return []byte(m.String()), nil }
func (t WorkloadType) MarshalText() ([]byte, error)       { return []byte(t.String()), nil }
func (h Health) MarshalText() ([]byte, error)             { return []byte(h.String()), nil }
func (p TunnelProtocol) MarshalText() ([]byte, error)     { return []byte(p.String()), nil }
func (s LocalityScope) MarshalText() ([]byte, error)      { return []byte(s.String()), nil }
func (m LoadBalancingMode) MarshalText() ([]byte, error)  { return []byte(m.String()), nil }
func (p HealthPolicy) MarshalText() ([]byte, error)       { return []byte(p.String()), nil }
func (f IPFamilies) MarshalText() ([]byte, error)         { return []byte(f.String()), nil }
func (v Visibility) MarshalText() ([]byte, error)         { return []byte(v.String()), nil }
func (k RouteKind) MarshalText() ([]byte, error)          { return []byte(k.String()), nil }

// MarshalText adds the port, which is the same for nearly all gateways and so
// is left out of String.
func (g GatewayAddress) MarshalText() ([]byte, error) {
	return fmt.Appendf(nil, "%s:%d", g, g.HBONEPort), nil
}
