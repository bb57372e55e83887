package main

import (
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
)

const suffix = ".svc.cluster.local."

// zone is cluster.local as far as tests look: SERVICE.NAMESPACE.svc and, of
// headless Services, HOST.SERVICE.NAMESPACE.svc.
type zone struct {
	services  corelisters.ServiceLister
	endpoints discoverylisters.EndpointSliceLister
}

// lookup returns the addresses of a name. A name without addresses of the type
// asked for exists all the same. A name outside the zone does not: there is nobody
// else to ask, and a resolver goes on with its search list.
func (z *zone) lookup(name string, kind dnsmessage.Type) ([]netip.Addr, dnsmessage.RCode) {
	name = strings.ToLower(name)
	inside, ok := strings.CutSuffix(name, suffix)
	parts := strings.Split(inside, ".")
	var host string
	if len(parts) == 3 {
		host, parts = parts[0], parts[1:]
	}
	if !ok || len(parts) != 2 {
		return nil, dnsmessage.RCodeNameError
	}
	svc, err := z.services.Services(parts[1]).Get(parts[0])
	if err != nil {
		return nil, dnsmessage.RCodeNameError
	}
	var all []netip.Addr
	switch headless := svc.Spec.ClusterIP == corev1.ClusterIPNone; {
	case headless:
		all = z.ready(svc, host)
		if host != "" && len(all) == 0 {
			return nil, dnsmessage.RCodeNameError
		}
	case host != "":
		return nil, dnsmessage.RCodeNameError
	default:
		for _, ip := range svc.Spec.ClusterIPs {
			if a, err := netip.ParseAddr(ip); err == nil {
				all = append(all, a)
			}
		}
	}
	var of []netip.Addr
	for _, a := range all {
		if kind == dnsmessage.TypeA && a.Is4() || kind == dnsmessage.TypeAAAA && a.Is6() {
			of = append(of, a)
		}
	}
	return of, dnsmessage.RCodeSuccess
}

// ready lists the addresses behind a headless Service, of one host if it is named.
func (z *zone) ready(svc *corev1.Service, host string) []netip.Addr {
	slices, err := z.endpoints.EndpointSlices(svc.Namespace).List(labels.Set{discoveryv1.LabelServiceName: svc.Name}.AsSelector())
	if err != nil {
		return nil
	}
	var all []netip.Addr
	for _, slice := range slices {
		for _, ep := range slice.Endpoints {
			if ep.Conditions.Ready != nil && !*ep.Conditions.Ready {
				continue
			}
			if host != "" && (ep.Hostname == nil || *ep.Hostname != host) {
				continue
			}
			for _, ip := range ep.Addresses {
				if a, err := netip.ParseAddr(ip); err == nil {
					all = append(all, a)
				}
			}
		}
	}
	return all
}
