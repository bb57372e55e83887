package telemetry

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/adit-mesh/adit/hbone"
)

func TestTextLine(t *testing.T) {
	at := time.Date(2026, 11, 21, 2, 3, 4, 567891000, time.FixedZone("", 3600))
	hostile := inbound()
	hostile.Authority = "a b=\"c\""
	plain := Info{
		Reporter: Source, Source: client, SourceID: clientID, Mode: "passthrough",
		SourceAddr: netip.MustParseAddrPort("10.0.0.1:4000"), DestinationAddr: netip.MustParseAddrPort("[2001:db8::1]:443"),
	}
	out, in, local := outbound(), inbound(), inbound()
	local.MutualTLS, local.Mode, local.HBONEAddr = false, "local", netip.AddrPort{}
	peer := inbound()
	peer.Source, peer.SourceBaggage = nil, &hbone.Baggage{WorkloadName: "far", Namespace: "away", Cluster: "c2"}

	tests := []struct {
		why  string
		line line
		want string
	}{
		{"outbound", line{info: &out, sent: 84, received: 358, duration: 15 * time.Millisecond, flag: FlagNone},
			"2026-11-21T01:03:04.567891Z\tinfo\taccess\tconnection complete\t" +
				`src.addr=10.0.0.1:4000 src.workload="curl-1" src.namespace="default" src.identity="spiffe://cluster.local/ns/default/sa/curl" src.cluster="c1" ` +
				`dst.addr=10.0.0.2:15008 dst.hbone_addr=10.0.0.2:8080 dst.service="web.shop.svc.cluster.local" dst.workload="web-1" dst.namespace="shop" ` +
				`dst.identity="spiffe://cluster.local/ns/shop/sa/web" dst.cluster="Kubernetes" direction="outbound" bytes_sent=84 bytes_recv=358 duration="15ms"` + "\n"},
		{"inbound, cut by policy", line{info: &in, sent: 84, received: 358, duration: time.Hour, err: errors.New("closed due to\npolicy \"x\""), flag: FlagDeny},
			"2026-11-21T01:03:04.567891Z\terror\taccess\tconnection complete\t" +
				`src.addr=10.0.0.1:4000 src.workload="curl-1" src.namespace="default" src.identity="spiffe://cluster.local/ns/default/sa/curl" src.cluster="c1" ` +
				`dst.addr=10.0.0.2:15008 dst.hbone_addr=10.0.0.2:8080 dst.service="web.shop.svc.cluster.local" dst.workload="web-1" dst.namespace="shop" ` +
				`dst.identity="spiffe://cluster.local/ns/shop/sa/web" dst.cluster="Kubernetes" direction="inbound" bytes_sent=358 bytes_recv=84 duration="3600000ms" ` +
				`error="closed due to\npolicy \"x\"" response_flags="DENY"` + "\n"},
		{"to nobody we know, so no identity is claimed", line{info: &plain},
			"2026-11-21T01:03:04.567891Z\tinfo\taccess\tconnection complete\t" +
				`src.addr=10.0.0.1:4000 src.workload="curl-1" src.namespace="default" src.cluster="c1" dst.addr=[2001:db8::1]:443 ` +
				`direction="outbound" bytes_sent=0 bytes_recv=0 duration="0ms"` + "\n"},
		{"nothing is known", line{info: &Info{Reporter: Destination, SourceAddr: plain.SourceAddr}, err: errBroke, flag: FlagTLSFailure},
			"2026-11-21T01:03:04.567891Z\twarn\taccess\tconnection failed\t" +
				`src.addr=10.0.0.1:4000 direction="inbound" bytes_sent=0 bytes_recv=0 duration="0ms" error="connection reset by peer" response_flags="TLS_FAILURE"` + "\n"},
		{"on one node both identities are certain", line{info: &local},
			"2026-11-21T01:03:04.567891Z\tinfo\taccess\tconnection complete\t" +
				`src.addr=10.0.0.1:4000 src.workload="curl-1" src.namespace="default" src.identity="spiffe://cluster.local/ns/default/sa/curl" src.cluster="c1" ` +
				`dst.addr=10.0.0.2:8080 dst.service="web.shop.svc.cluster.local" dst.workload="web-1" dst.namespace="shop" ` +
				`dst.identity="spiffe://cluster.local/ns/shop/sa/web" dst.cluster="Kubernetes" direction="inbound" bytes_sent=0 bytes_recv=0 duration="0ms"` + "\n"},
		{"source known by its word", line{info: &peer},
			"2026-11-21T01:03:04.567891Z\tinfo\taccess\tconnection complete\t" +
				`src.addr=10.0.0.1:4000 src.workload="far" src.namespace="away" src.identity="spiffe://cluster.local/ns/default/sa/curl" src.cluster="c2" ` +
				`dst.addr=10.0.0.2:15008 dst.hbone_addr=10.0.0.2:8080 dst.service="web.shop.svc.cluster.local" dst.workload="web-1" dst.namespace="shop" ` +
				`dst.identity="spiffe://cluster.local/ns/shop/sa/web" dst.cluster="Kubernetes" direction="inbound" bytes_sent=0 bytes_recv=0 duration="0ms"` + "\n"},
	}
	for _, tt := range tests {
		tt.line.time = at
		if diff := cmp.Diff(tt.want, string(tt.line.append(nil, false))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.why, diff)
		}
	}

	l := line{info: &hostile, time: at}
	if got := string(l.append(nil, false)); !strings.Contains(got, `dst.hbone_addr="a b=\"c\""`) {
		t.Errorf("an authority that looks like fields is not quoted: %s", got)
	}
}

func TestJSONLine(t *testing.T) {
	info := outbound()
	l := line{info: &info, time: time.Unix(0, 0), sent: 84, received: 358, duration: 15 * time.Millisecond, err: errBroke, flag: FlagConnect}
	b := l.append(nil, true)
	var got map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	wantFields := map[string]any{
		"level": "error", "time": "1970-01-01T00:00:00.000000Z", "scope": "access", "message": "connection complete",
		"src.addr": "10.0.0.1:4000", "src.workload": "curl-1", "src.namespace": "default", "src.identity": clientID.String(), "src.cluster": "c1",
		"dst.addr": "10.0.0.2:15008", "dst.hbone_addr": "10.0.0.2:8080", "dst.service": "web.shop.svc.cluster.local",
		"dst.workload": "web-1", "dst.namespace": "shop", "dst.identity": serverID.String(), "dst.cluster": "Kubernetes",
		"direction": "outbound", "bytes_sent": 84.0, "bytes_recv": 358.0, "duration": "15ms",
		"error": "connection reset by peer", "response_flags": "CONNECT",
	}
	if diff := cmp.Diff(wantFields, got); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
}

// FuzzLine: whatever a peer calls itself, a line is one line, JSON is JSON,
// and the value comes back.
func FuzzLine(f *testing.F) {
	f.Add("web\n", "10.0.0.1:80", "e\"rr\\or")
	f.Add("\xff\u2028\x00", "a b=c", "\t")
	f.Fuzz(func(t *testing.T, name, authority, message string) {
		info := inbound()
		info.Source, info.Authority = nil, authority
		info.SourceBaggage = &hbone.Baggage{WorkloadName: name, Namespace: name}
		l := line{info: &info, err: errors.New(message), flag: Flag(name)}
		if text := string(l.append(nil, false)); strings.Count(text, "\n") != 1 || strings.Count(text, "\t") != 4 {
			t.Errorf("text is not one line of five columns: %q", text)
		}
		b := l.append(nil, true)
		var got map[string]any
		if err := json.Unmarshal(b, &got); err != nil || bytes.Count(b, []byte("\n")) != 1 {
			t.Fatalf("%v: %q", err, b)
		}
		if name != "" && got["src.workload"] != strings.ToValidUTF8(name, "\uFFFD") && !strings.Contains(got["src.workload"].(string), "\uFFFD") {
			t.Errorf("src.workload = %q, want %q", got["src.workload"], name)
		}
	})
}
