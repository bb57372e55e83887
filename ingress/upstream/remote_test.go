package upstream

import (
	"net/netip"
	"slices"
	"testing"
)

func TestRemoteOnly(t *testing.T) {
	var in []netip.Addr
	for _, a := range []string{"127.0.0.1", "::ffff:127.0.0.1", "::1", "169.254.169.254", "fe80::1%eth0", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"} {
		in = append(in, netip.MustParseAddr(a))
		r := RemoteOnly(&zone{addrs: in[len(in)-1:]})
		if got, err := r.LookupNetIP(t.Context(), "ip", "evil.example.com"); err == nil {
			t.Errorf("%s: got %v; it is this machine's, or of its link", a, got)
		}
	}
	out := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1"), netip.MustParseAddr("2001:db8::1")}
	z := &zone{addrs: append(in, out...)}
	got, err := RemoteOnly(z).LookupNetIP(t.Context(), "ip", "web.example.com")
	if err != nil || !slices.Equal(got, out) {
		t.Errorf("got %v, %v, want %v", got, err, out)
	}
	if len(z.addrs) != len(in)+len(out) {
		t.Error("the resolver's own slice was changed")
	}
}
