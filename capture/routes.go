package capture

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Packets with the app-leg mark are delivered locally whatever their destination:
//
//	ip rule add fwmark 0x111/0xfff pref 32764 lookup 100
//	ip route replace local default dev lo table 100
//
// so an app's reply to a client's address comes to the agent's socket instead of leaving the pod.
const (
	routeTable   = 100
	rulePriority = 32764
)

// family is one address family of a namespace.
type family struct {
	name string
	af   int
	all  *net.IPNet
}

var families = []family{
	{"IPv4", netlink.FAMILY_V4, &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}},
	{"IPv6", netlink.FAMILY_V6, &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}},
}

func (f family) rule() *netlink.Rule {
	r := netlink.NewRule()
	mask := uint32(MarkMask)
	r.Family, r.Priority, r.Table = f.af, rulePriority, routeTable
	r.Mark, r.Mask = MarkAppLeg, &mask
	return r
}

func (f family) route() *netlink.Route {
	return &netlink.Route{Family: f.af, Table: routeTable, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, LinkIndex: lo, Dst: f.all}
}

// routes is the routing side of capture in one namespace. It is not safe for concurrent use.
type routes struct {
	netns  *Netns
	handle *netlink.Handle
}

func openRoutes(n *Netns) (*routes, error) {
	r := &routes{netns: n}
	// The library would unlock its thread even if it could not come back; ours is fail-stop.
	err := n.Do(func() (err error) {
		r.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open routing netlink in network namespace %s: %w", n, err)
	}
	return r, nil
}

func (r *routes) close() { r.handle.Close() }

// usable returns the families that lo can carry, found by trying: what sysctls say and what the kernel was
// built or booted with do not always agree. IPv4 is always among them.
func (r *routes) usable() ([]family, error) {
	fd, err := r.netns.socket(unix.AF_INET6)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return families[:1], nil
	} else if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if unix.Bind(fd, sockaddr(netip.AddrPortFrom(netip.IPv6Loopback(), 0))) != nil {
		return families[:1], nil
	}
	return families, nil
}

// ensure adds what is missing and says what that was.
func (r *routes) ensure() (added []string, err error) {
	if err := r.checkLoopback(); err != nil {
		return nil, err
	}
	fams, err := r.usable()
	if err != nil {
		return nil, err
	}
	for _, f := range fams {
		did, err := r.ensureFamily(f)
		added = append(added, did...)
		if err != nil {
			return added, err
		}
	}
	return added, nil
}

func (r *routes) ensureFamily(f family) (added []string, err error) {
	switch ok, err := r.hasRule(f); {
	case err != nil:
		return nil, r.error("list rules", f, err)
	case !ok:
		// The kernel does not overwrite rules: one that came in between is as good as ours.
		if err := r.handle.RuleAdd(f.rule()); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, r.error("add the rule for marked packets", f, err)
		}
		added = append(added, f.name+" rule")
	}
	switch ok, err := r.hasRoute(f); {
	case err != nil:
		return added, r.error("list routes", f, err)
	case !ok:
		if err := r.handle.RouteReplace(f.route()); err != nil {
			return added, r.error("add the local route", f, err)
		}
		added = append(added, f.name+" route")
	}
	return added, nil
}

// errLoopbackDown is worth a sentinel because it is also how the end of a pod begins.
var errLoopbackDown = errors.New("lo is down")

// checkLoopback makes sure of what redirects and app legs presume. The kernel takes the route without it.
func (r *routes) checkLoopback() error {
	link, err := r.handle.LinkByIndex(lo)
	if err != nil {
		return fmt.Errorf("look at lo in network namespace %s: %w", r.netns, err)
	}
	if flags := link.Attrs().Flags; flags&net.FlagLoopback == 0 {
		return fmt.Errorf("interface 1 in network namespace %s is %s, not lo: the namespace cannot be captured", r.netns, link.Attrs().Name)
	} else if flags&net.FlagUp == 0 {
		return fmt.Errorf("%w in network namespace %s; bring it up with `nsenter --net=%s ip link set lo up`", errLoopbackDown, r.netns, r.netns.path())
	}
	return nil
}

// remove deletes rules and routes; those that are not there are no error.
func (r *routes) remove() error {
	var errs []error
	for _, f := range families {
		if err := r.handle.RuleDel(f.rule()); err != nil && !absent(err) {
			errs = append(errs, r.error("delete the rule for marked packets", f, err))
		}
		if err := r.handle.RouteDel(f.route()); err != nil && !absent(err) {
			errs = append(errs, r.error("delete the local route", f, err))
		}
	}
	return errors.Join(errs...)
}

// absent tells that what was to be deleted is not there, or that its address family is not.
func absent(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)
}

func (r *routes) hasRule(f family) (bool, error) {
	list, err := whole(func() ([]netlink.Rule, error) { return r.handle.RuleList(f.af) })
	return slices.ContainsFunc(list, func(x netlink.Rule) bool {
		return x.Priority == rulePriority && x.Table == routeTable && x.Mark == MarkAppLeg && x.Mask != nil && *x.Mask == MarkMask &&
			x.Src == nil && x.Dst == nil && !x.Invert && x.IifName == "" && x.OifName == ""
	}), err
}

func (r *routes) hasRoute(f family) (bool, error) {
	list, err := whole(func() ([]netlink.Route, error) {
		return r.handle.RouteListFiltered(f.af, &netlink.Route{Table: routeTable, LinkIndex: lo, Type: unix.RTN_LOCAL},
			netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF|netlink.RT_FILTER_TYPE)
	})
	return slices.ContainsFunc(list, func(x netlink.Route) bool {
		if x.Dst == nil {
			return true
		}
		ones, _ := x.Dst.Mask.Size()
		return ones == 0
	}), err
}

// whole repeats a dump that was interrupted by a change.
func whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range applyAttempts {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return all, err
}

func (r *routes) error(what string, f family, err error) error {
	return fmt.Errorf("%s (%s) in network namespace %s: %w", what, f.name, r.netns, err)
}
