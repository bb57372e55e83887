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
