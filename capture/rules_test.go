package capture

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the golden rulesets in testdata")

func prefixes(t testing.TB, list ...string) []netip.Prefix {
	t.Helper()
	var out []netip.Prefix
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

// everything is a Rules value that makes every rule and fills every set.
func everything(t testing.TB) Rules {
	return Rules{
		DNS:               true,
		ProbePorts:        []PortRange{{8080, 8081}, Port(9090)},
		SkipOutbound:      prefixes(t, "169.254.169.254/32", "169.254.20.10/32", "10.96.0.0/16", "10.97.0.0/16", "fd00:aaaa::/64"),
		SkipOutboundPorts: []PortRange{Port(25), {6000, 6010}, {6005, 6020}},
		SkipInboundPorts:  []PortRange{{65000, 65535}, Port(22)},
		VirtualInterfaces: []string{"tap1", "tap0", "tap0"},
	}
}

func TestRulesetGolden(t *testing.T) {
	for name, table := range map[string]table{
		"default":            ruleset(Rules{}, capturing),
		"draining":           ruleset(Rules{}, draining),
		"dns":                ruleset(Rules{DNS: true}, capturing),
		"ingress":            ruleset(Rules{Ingress: true}, capturing),
		"virtual-interfaces": ruleset(Rules{VirtualInterfaces: []string{"tap0"}}, capturing),
		"everything":         ruleset(everything(t), capturing),
		"everything-drain":   ruleset(everything(t), draining),
		"host":               hostRuleset(0, probedPods()),
		"host-empty":         hostRuleset(999, nil),
		"host-bridge":        bridgeRuleset(),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("testdata", name+".nft")
			if *update {
				if err := os.WriteFile(path, []byte(table.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), table.String()); diff != "" {
				t.Errorf("ruleset differs from %s; if it should, run go test -update and read the diff:\n%s", path, diff)
			}
		})
	}
}

func probedPods() map[string]Probed {
	return map[string]Probed{
		"uid-1": {Addrs: []netip.Addr{netip.MustParseAddr("10.244.0.3"), netip.MustParseAddr("fd00:244::3")}, Ports: []uint16{9090, 8080}},
		"uid-2": {Addrs: []netip.Addr{netip.MustParseAddr("::ffff:10.244.0.3")}, Ports: []uint16{8080, 80}}, // has inherited an address
		"uid-3": {Addrs: []netip.Addr{netip.MustParseAddr("10.244.0.4")}},                                   // has no probes
	}
}

// What does not differ is not written.
func TestAmendments(t *testing.T) {
	was := hostRuleset(0, probedPods())
	now := probedPods()
	delete(now, "uid-1")
	now["uid-4"] = Probed{Addrs: []netip.Addr{netip.MustParseAddr("10.244.0.9")}, Ports: []uint16{80}}
	for _, tc := range []struct {
		why  string
		pods map[string]Probed
		want []int // the types of messages
	}{
		{"nothing changed", probedPods(), nil},
		{"one went in both families, one came", now, []int{unix.NFT_MSG_DELSETELEM, unix.NFT_MSG_DELSETELEM, unix.NFT_MSG_NEWSETELEM}},
		{"all went", nil, []int{unix.NFT_MSG_DELSETELEM, unix.NFT_MSG_DELSETELEM}},
	} {
		var got []int
		for _, m := range amendments(was, hostRuleset(0, tc.pods)) {
			got = append(got, int(m.Header.Type&0xff))
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: messages (-want +got):\n%s", tc.why, diff)
		}
	}
}

func TestRulesValidate(t *testing.T) {
	for _, tc := range []struct {
		why   string
		rules Rules
		ok    bool
	}{
		{"the zero value is the default", Rules{}, true},
		{"everything at once", everything(t), true},
		{"a range that ends before it begins", Rules{ProbePorts: []PortRange{{2, 1}}}, false},
		{"an empty prefix", Rules{SkipOutbound: []netip.Prefix{{}}}, false},
		{"an address with a zone", Rules{ProbeSources: []netip.Addr{netip.MustParseAddr("fe80::1%eth0")}}, false},
		{"a link name that the kernel could not hold", Rules{VirtualInterfaces: []string{"sixteen-byte-nam"}}, false},
	} {
		if err := tc.rules.Validate(); (err == nil) != tc.ok {
			t.Errorf("%s: error %v", tc.why, err)
		}
	}
}

// A set is checked against the obvious reading of its prefixes and ranges.
func TestIntervals(t *testing.T) {
	for _, tc := range []struct {
		why    string
		ranges []PortRange
		in     []uint16
		out    []uint16
	}{
		{"nothing", nil, nil, []uint16{0, 1, 65535}},
		{"one port", []PortRange{Port(80)}, []uint16{80}, []uint16{79, 81}},
		{"everything has no end element", []PortRange{{0, 65535}}, []uint16{0, 1, 65535}, nil},
		{"the last port alone", []PortRange{Port(65535)}, []uint16{65535}, []uint16{65534, 0}},
		{"overlap, touch and repeat", []PortRange{{10, 20}, {15, 30}, {31, 40}, {10, 20}}, []uint16{10, 25, 31, 40}, []uint16{9, 41}},
	} {
		s := portsSet("p", tc.ranges)
		contains := func(port uint16) bool {
			inside := false
			for _, e := range s.elements {
				if string(e.key) <= string(big16(port)) {
					inside = !e.end
				}
			}
			return inside
		}
		for _, p := range tc.in {
			if !contains(p) {
				t.Errorf("%s: port %d should be in %v", tc.why, p, s.texts)
			}
		}
		for _, p := range tc.out {
			if contains(p) {
				t.Errorf("%s: port %d should not be in %v", tc.why, p, s.texts)
			}
		}
	}
}
