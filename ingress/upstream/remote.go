package upstream

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// RemoteOnly is r, or net.DefaultResolver if that is nil, without the addresses
// that the API server lets in no EndpointSlice: unspecified, loopback, link-local
// and multicast ones. Whoever may write a name there would otherwise have the
// gateway speak to itself, or to what it alone may speak to, such as a cloud's
// metadata (CVE-2021-25740 is of that kind).
func RemoteOnly(r Resolver) Resolver {
	if r == nil {
		r = defaultResolver{}
	}
	return remoteOnly{r}
}

type remoteOnly struct{ Resolver }

func (r remoteOnly) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	found, err := r.Resolver.LookupNetIP(ctx, network, host)
	if err != nil {
		return nil, err
	}
	remote := slices.DeleteFunc(slices.Clone(found), func(a netip.Addr) bool {
		a = a.Unmap()
		return !a.IsGlobalUnicast() || a == netip.IPv4Unspecified()
	})
	if len(found) > 0 && len(remote) == 0 {
		return nil, &net.DNSError{Err: fmt.Sprintf("its addresses (%s, …) are none that a backend may have", found[0]), Name: host}
	}
	return remote, nil
}
