package file

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/adit-mesh/adit/ingress"
	"github.com/adit-mesh/adit/ingress/gateway"
)

// binds gives sockets to Gateways: the listener's port itself, on the address
// that the Gateway asks for, or on all. A socket has one Gateway; the next one
// that wants it waits until it is free.
type binds struct {
	gateways map[types.NamespacedName]*gatewayv1.Gateway
	owner    map[ingress.Bind]types.NamespacedName

	// asked is who wanted what since begin, and answered what each was told.
	asked map[ingress.Bind]map[types.NamespacedName]bool
}

func compareNames(a, b types.NamespacedName) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

func (b *binds) begin() { b.asked = make(map[ingress.Bind]map[types.NamespacedName]bool) }

// bind implements gateway.BindFunc.
func (b *binds) bind(gw types.NamespacedName, port uint16, udp bool) (ingress.Bind, bool) {
	g := b.gateways[gw]
	if g == nil {
		return ingress.Bind{}, false
	}
	addr, problem := wanted(g)
	if problem != nil {
		return ingress.Bind{}, false
	}
	bind := ingress.Bind{Addr: addr, Port: port, UDP: udp}
	owner, taken := b.owner[bind]
	answer := !taken || owner == gw
	if b.asked[bind] == nil {
		b.asked[bind] = make(map[types.NamespacedName]bool, 1)
	}
	b.asked[bind][gw] = answer
	return bind, answer
}

// settle decides who has what of all that was asked for, and says whether
// somebody has been told otherwise and must ask again.
func (b *binds) settle() (again bool) {
	owners := make(map[ingress.Bind]types.NamespacedName, len(b.asked))
	for bind, by := range b.asked {
		owner, taken := b.owner[bind]
		if _, still := by[owner]; !taken || !still {
			names := make([]types.NamespacedName, 0, len(by))
			for gw := range by {
				names = append(names, gw)
			}
			owner = slices.MinFunc(names, compareNames)
		}
		owners[bind] = owner
		for gw, answer := range by {
			again = again || answer != (gw == owner)
		}
	}
	b.owner = owners
	return again
}

// placements are where each Gateway is.
func (b *binds) placements(own func() []netip.Addr) map[types.NamespacedName]gateway.Placement {
	refused := make(map[types.NamespacedName][]string)
	for bind, by := range b.asked {
		for gw := range by {
			if owner := b.owner[bind]; owner != gw {
				protocol := "TCP"
				if bind.UDP {
					protocol = "UDP"
				}
				refused[gw] = append(refused[gw], fmt.Sprintf("%s port %d is served for Gateway %s", protocol, bind.Port, owner))
			}
		}
	}
	out := make(map[types.NamespacedName]gateway.Placement, len(b.gateways))
	for name, g := range b.gateways {
		addr, problem := wanted(g)
		if problem != nil {
			out[name] = gateway.Placement{Problem: problem}
			continue
		}
		var p gateway.Placement
		if addr.IsValid() {
			p.Addresses = []gatewayv1.GatewayStatusAddress{statusAddress(addr)}
		} else {
			for _, a := range own() {
				if len(p.Addresses) < maxAddresses {
					p.Addresses = append(p.Addresses, statusAddress(a))
				}
			}
		}
		if why := refused[name]; len(why) > 0 {
			slices.Sort(why)
			p.Problem = &gateway.PlacementProblem{
				Reason:  gatewayv1.GatewayReasonAddressNotUsable,
				Message: strings.Join(why, "; ") + "; give one of the two an address of its own in spec.addresses",
			}
		}
		out[name] = p
	}
	return out
}

// maxAddresses is how many a Gateway's status can have.
const maxAddresses = 16

func statusAddress(a netip.Addr) gatewayv1.GatewayStatusAddress {
	t := gatewayv1.IPAddressType
	return gatewayv1.GatewayStatusAddress{Type: &t, Value: a.String()}
}

// wanted is the address that a Gateway asks for. The zero value: any.
func wanted(g *gatewayv1.Gateway) (netip.Addr, *gateway.PlacementProblem) {
	problem := func(format string, args ...any) *gateway.PlacementProblem {
		return &gateway.PlacementProblem{Reason: gatewayv1.GatewayReasonAddressNotUsable, Message: fmt.Sprintf(format, args...)}
	}
	var addr netip.Addr
	for _, a := range g.Spec.Addresses {
		t := gatewayv1.IPAddressType
		if a.Type != nil {
			t = *a.Type
		}
		switch parsed, err := netip.ParseAddr(a.Value); {
		case t != gatewayv1.IPAddressType:
			return netip.Addr{}, problem("an address of type %s cannot be listened on; without Kubernetes use IPAddress", t)
		case a.Value == "":
			// Any will do.
		case err != nil:
			return netip.Addr{}, problem("%q is no IP address", a.Value)
		case addr.IsValid() && addr != parsed.Unmap():
			return netip.Addr{}, problem("a Gateway listens on one address or on all; make a Gateway for each of %s and %s", addr, parsed)
		default:
			addr = parsed.Unmap()
		}
	}
	if addr.IsUnspecified() {
		addr = netip.Addr{}
	}
	return addr, nil
}

// hostAddresses are those of this machine that others may reach it by; the
// loopback's if there are no others.
func hostAddresses() (out []netip.Addr) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var loopback []netip.Addr
	for _, a := range all {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		addr, ok := netip.AddrFromSlice(n.IP)
		addr = addr.Unmap()
		switch {
		case !ok || addr.IsLinkLocalUnicast():
		case addr.IsLoopback():
			loopback = append(loopback, addr)
		default:
			out = append(out, addr)
		}
	}
	if len(out) == 0 {
		out = loopback
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}
