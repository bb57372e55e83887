package hbone

import (
	"net/netip"
	"strings"
	"testing"
)

func TestBaggage(t *testing.T) {
	full := Baggage{"c", "n", "deployment", "d", "s", "v1", "r", "z"}
	const text = "k8s.cluster.name=c,k8s.namespace.name=n,k8s.deployment.name=d,service.name=s,service.version=v1,cloud.region=r,cloud.availability_zone=z"
	if got := full.String(); got != text {
		t.Errorf("formatted as %q", got)
	}
	for in, want := range map[string]Baggage{
		text:                             full,
		"":                               {},
		",,;=,=x,k8s.cluster.name":       {},
		"service.name = s ;p=1, other=o": {ServiceName: "s"},
		"service.name=a%2Cb%20%22":       {ServiceName: `a,b "`},
		"service.name=%zz":               {ServiceName: "%zz"}, // kept as it came
		"service.name=a,service.name=b":  {ServiceName: "b"},
		"k8s.job.name=j":                 {WorkloadType: "job", WorkloadName: "j"},
		"k8s.replicaset.name=j":          {},
		"cloud.region=" + strings.Repeat("x", 2*maxBaggage): {Region: strings.Repeat("x", maxBaggage-len("cloud.region="))},
	} {
		if got := ParseBaggage(in); got != want {
			t.Errorf("%.60q read as %+.200v", in, got)
		}
	}
	if got := (Baggage{Region: "a b,c%"}).String(); got != "cloud.region=a%20b%2Cc%25" {
		t.Errorf("escaped as %q", got)
	}
}

func TestForwarded(t *testing.T) {
	v4, v6 := netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("[2001:db8::1]:80")
	for in, want := range map[string]struct {
		src  netip.AddrPort
		host string
	}{
		FormatForwarded(v4, ""):                  {v4, ""},
		FormatForwarded(v6, "s.n.svc"):           {v6, "s.n.svc"},
		`for=10.0.0.1:80`:                        {v4, ""},
		` FOR = "10.0.0.1:80" ; Host="a;b,c\"d"`: {v4, `a;b,c"d`},
		`for="[::ffff:10.0.0.1]:80"`:             {v4, ""},
		`for="10.0.0.1:80", for="1.1.1.1:1"`:     {v4, ""},
		`for=unknown;host=h`:                     {netip.AddrPort{}, "h"},
		`for="10.0.0.1:80`:                       {},
		`host=h,for="10.0.0.1:80"`:               {netip.AddrPort{}, "h"},
		"":                                       {},
	} {
		if src, host := ParseForwarded(in); src != want.src || host != want.host {
			t.Errorf("%q read as %v %q", in, src, host)
		}
	}
}

func TestTraceparent(t *testing.T) {
	a, b := NewTraceparent(), NewTraceparent()
	if TraceID(a) == "" || TraceID(a) == TraceID(b) {
		t.Errorf("%q and %q", a, b)
	}
	for _, bad := range []string{"", a[:54], a + "0", strings.ToUpper("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), "01" + a[2:], "00-" + strings.Repeat("0", 32) + a[35:]} {
		if id := TraceID(bad); id != "" {
			t.Errorf("%q has trace id %q", bad, id)
		}
	}
}
