package main

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestFree(t *testing.T) {
	b := &balancer{pools: []netip.Prefix{netip.MustParsePrefix("172.30.1.0/30"), netip.MustParsePrefix("fd00::/126")}}
	used := map[netip.Addr]bool{}
	for _, want := range []struct {
		family corev1.IPFamily
		addr   string
	}{
		{corev1.IPv4Protocol, "172.30.1.1"}, {corev1.IPv6Protocol, "fd00::1"}, {corev1.IPv4Protocol, "172.30.1.2"}, {corev1.IPv4Protocol, "172.30.1.3"},
	} {
		got, err := b.free(want.family, used)
		if err != nil || got.String() != want.addr {
			t.Errorf("free %s address is %s, %v; want %s", want.family, got, err, want.addr)
		}
		used[got] = true
	}
	if got, err := b.free(corev1.IPv4Protocol, used); err == nil {
		t.Errorf("a pool that is used up gave %s", got)
	}
}

func TestServed(t *testing.T) {
	b := &balancer{pools: []netip.Prefix{netip.MustParsePrefix("172.30.1.0/24")}}
	for _, c := range []struct {
		why, wish string
		has       []string
		want      bool
	}{
		{"nothing yet", "", nil, false},
		{"any address will do", "", []string{"172.30.1.4"}, true},
		{"the one that it asked for", "172.30.1.200", []string{"172.30.1.200"}, true},
		{"it asks for another now", "172.30.1.200", []string{"172.30.1.4"}, false},
		{"an address that is not ours to give", "203.0.113.7", nil, true},
		{"... and what it had before is taken back", "203.0.113.7", []string{"172.30.1.4"}, false},
	} {
		svc := &corev1.Service{Spec: corev1.ServiceSpec{LoadBalancerIP: c.wish}}
		for _, ip := range c.has {
			svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
		}
		if got := b.served(svc); got != c.want {
			t.Errorf("%s: served is %t", c.why, got)
		}
	}
}
