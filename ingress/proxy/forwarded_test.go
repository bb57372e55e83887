package proxy

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestForwardedFor(t *testing.T) {
	peer := "10.0.0.9"
	lb := netip.MustParsePrefix("10.0.0.0/24")
	cdn := netip.MustParsePrefix("192.0.2.0/24")
	for _, c := range []struct {
		name   string
		lines  []string
		trust  Trust
		client string
		header string
	}{
		{"nothing came", nil, Trust{}, peer, peer},
		{"nobody is trusted", []string{"1.1.1.1"}, Trust{}, peer, peer},
		{"one hop", []string{"1.1.1.1"}, Trust{Hops: 1}, "1.1.1.1", "1.1.1.1, " + peer},
		{"one hop, and a client that lies", []string{"6.6.6.6, 1.1.1.1"}, Trust{Hops: 1}, "1.1.1.1", "1.1.1.1, " + peer},
		{"two hops", []string{"6.6.6.6, 1.1.1.1, 192.0.2.7"}, Trust{Hops: 2}, "1.1.1.1", "1.1.1.1, 192.0.2.7, " + peer},
		{"two hops over two lines", []string{"6.6.6.6, 1.1.1.1", "192.0.2.7"}, Trust{Hops: 2}, "1.1.1.1", "1.1.1.1, 192.0.2.7, " + peer},
		{"fewer than the hops", []string{"1.1.1.1"}, Trust{Hops: 2}, peer, peer},
		{"networks", []string{"6.6.6.6, 1.1.1.1, 192.0.2.7"}, Trust{CIDRs: []netip.Prefix{lb, cdn}}, "1.1.1.1", "1.1.1.1, 192.0.2.7, " + peer},
		{"peer of no trusted network", []string{"1.1.1.1"}, Trust{CIDRs: []netip.Prefix{cdn}}, peer, peer},
		{"all of trusted networks", []string{"192.0.2.8, 192.0.2.7"}, Trust{CIDRs: []netip.Prefix{lb, cdn}}, "192.0.2.8", "192.0.2.8, 192.0.2.7, " + peer},
		{"an unknown hop ends it", []string{"1.1.1.1, unknown, 192.0.2.7"}, Trust{CIDRs: []netip.Prefix{lb, cdn}}, "192.0.2.7", "192.0.2.7, " + peer},
		{"an empty entry ends it", []string{"1.1.1.1,"}, Trust{CIDRs: []netip.Prefix{lb}}, peer, peer},
		{"an unknown hop where one must be", []string{"garbage"}, Trust{Hops: 1}, peer, peer},
		{"with port", []string{"1.1.1.1:4711"}, Trust{Hops: 1}, "1.1.1.1", "1.1.1.1, " + peer},
		{"IPv6 with port", []string{"[2001:db8::1]:4711"}, Trust{Hops: 1}, "2001:db8::1", "2001:db8::1, " + peer},
		{"IPv6 in brackets", []string{"[2001:db8::1]"}, Trust{Hops: 1}, "2001:db8::1", "2001:db8::1, " + peer},
		{"IPv4 in IPv6", []string{"::ffff:192.0.2.7"}, Trust{Hops: 1}, "192.0.2.7", "192.0.2.7, " + peer},
		{"zone", []string{"fe80::1%eth0"}, Trust{Hops: 1}, peer, peer},
		{"line feed", []string{"1.1.1.1\r\nX: y"}, Trust{Hops: 1}, peer, peer},
	} {
		client, header := forwardedFor(c.lines, netip.MustParseAddr("::ffff:"+peer), c.trust)
		if client.String() != c.client || header != c.header {
			t.Errorf("%s: client %s, header %q; want %s, %q", c.name, client, header, c.client, c.header)
		}
	}
}

func FuzzForwardedFor(f *testing.F) {
	f.Add("1.1.1.1, 10.0.0.1", "10.0.0.2", 1)
	f.Add("unknown,[::1]:80", "", 3)
	f.Fuzz(func(t *testing.T, first, second string, hops int) {
		lines := []string{first, second}
		before := append([]string(nil), lines...)
		peer := netip.MustParseAddr("10.0.0.9")
		trust := Trust{Hops: hops % 20, CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
		client, header := forwardedFor(lines, peer, trust)
		if !cmp.Equal(lines, before) {
			t.Fatal("the request's header was changed")
		}
		entries := strings.Split(header, ", ")
		if entries[len(entries)-1] != peer.String() {
			t.Fatalf("%q does not end with the peer", header)
		}
		if entries[0] != client.String() {
			t.Fatalf("%q does not begin with the client %s", header, client)
		}
		for i, e := range entries {
			a, err := netip.ParseAddr(e)
			if err != nil || a.String() != e {
				t.Fatalf("%q is no address", e)
			}
			// Everyone right of the client is one that somebody trusted named.
			if hop := len(entries) - 1 - i; i > 0 && hop >= trust.Hops && !inAny(trust.CIDRs, a) {
				t.Fatalf("%q: %s vouches for what is left of it, and nobody trusts it (hops %d)", header, e, trust.Hops)
			}
		}
	})
}

func TestRequestID(t *testing.T) {
	re := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	seen := map[string]bool{}
	for range 1000 {
		id := newRequestID()
		if !re.MatchString(id) || seen[id] {
			t.Fatalf("%s is no fresh UUID of version 4", id)
		}
		seen[id] = true
	}
}
