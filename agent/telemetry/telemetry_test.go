package telemetry

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/hbone"
	"github.com/adit-mesh/adit/identity"
)

var (
	client = &mesh.Workload{
		UID: "c//Pod/default/curl-1", Name: "curl-1", Namespace: "default", WorkloadName: "curl",
		CanonicalName: "curl", CanonicalRevision: "v1", ClusterID: "c1",
		Locality: mesh.Locality{Region: "eu", Zone: "eu-1"},
	}
	server = &mesh.Workload{
		UID: "c//Pod/shop/web-1", Name: "web-1", Namespace: "shop", WorkloadName: "web",
		CanonicalName: "web", CanonicalRevision: "v2",
	}
	web      = &mesh.Service{Name: "web", Namespace: "shop", Hostname: "web.shop.svc.cluster.local"}
	clientID = spiffeid.RequireFromString("spiffe://cluster.local/ns/default/sa/curl")
	serverID = spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/web")
	errBroke = errors.New("connection reset by peer")
)

func outbound() Info {
	return Info{
		Reporter: Source, Source: client, Destination: server, SourceID: clientID, DestinationID: serverID,
		Service: web, SourceAddr: netip.MustParseAddrPort("10.0.0.1:4000"),
		DestinationAddr: netip.MustParseAddrPort("10.96.0.1:80"), HBONEAddr: netip.MustParseAddrPort("10.0.0.2:15008"),
		Authority: "10.0.0.2:8080", MutualTLS: true, Mode: "hbone",
	}
}

func inbound() Info {
	i := outbound()
	i.Reporter = Destination
	i.DestinationAddr = netip.MustParseAddrPort("10.0.0.2:8080")
	i.Authority = ""
	return i
}

// gather returns every sample of the registry by "name{labels}", where labels
// are those asked for.
func gather(t testing.TB, g prometheus.Gatherer, labels ...string) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatalf("scrape: %v", err)
	}
	samples := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.Metric {
			var parts []string
			for _, want := range labels {
				for _, pair := range m.Label {
					if pair.GetName() == want {
						parts = append(parts, pair.GetValue())
					}
				}
			}
			key := f.GetName()
			if len(parts) > 0 {
				key += "{" + strings.Join(parts, ",") + "}"
			}
			samples[key] += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return samples
}

func want(t *testing.T, why string, samples map[string]float64, key string, value float64) {
	t.Helper()
	if got, ok := samples[key]; got != value || !ok && value != 0 {
		t.Errorf("%s: %s = %v (present: %v), want %v", why, key, got, ok, value)
	}
}

func TestLabels(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	tel := New(Config{Registerer: reg})
	tel.Open(outbound()).Close(1, 2, nil, FlagNone)

	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "istio_tcp_connections_closed_total" {
			continue
		}
		got := make(map[string]string)
		for _, pair := range f.Metric[0].Label {
			got[pair.GetName()] = pair.GetValue()
		}
		wantLabels := map[string]string{
			"reporter":        "source",
			"source_workload": "curl", "source_canonical_service": "curl", "source_canonical_revision": "v1",
			"source_workload_namespace": "default", "source_principal": clientID.String(), "source_app": "curl",
			"source_version": "v1", "source_cluster": "c1", "source_region": "eu", "source_zone": "eu-1",
			"destination_service": "web.shop.svc.cluster.local", "destination_service_namespace": "shop", "destination_service_name": "web",
			"destination_workload": "web", "destination_canonical_service": "web", "destination_canonical_revision": "v2",
			"destination_workload_namespace": "shop", "destination_principal": serverID.String(), "destination_app": "web",
			"destination_version": "v2", "destination_cluster": "Kubernetes", "destination_region": "unknown", "destination_zone": "unknown",
			"request_protocol": "tcp", "response_flags": "-", "connection_security_policy": "mutual_tls",
		}
		if diff := cmp.Diff(wantLabels, got); diff != "" {
			t.Errorf("labels (-want +got):\n%s", diff)
		}
		return
	}
	t.Error("istio_tcp_connections_closed_total is missing")
}

func TestMissingIsUnknown(t *testing.T) {
	l := labelsOf(&Info{Reporter: Destination})
	for i, v := range l {
		if i != labelReporter && v != unknown {
			t.Errorf("%s = %q, want unknown", labelNames[i], v)
		}
	}
}

func TestBaggageIsThePeersWord(t *testing.T) {
	info := inbound()
	info.Source = nil
	info.SourceBaggage = &hbone.Baggage{
		Cluster: "c9", Namespace: "kube-system", WorkloadName: "curl", ServiceName: strings.Repeat("x", 10_000),
		ServiceVersion: "\xff\xfe", Region: "r", Zone: "z",
	}
	l := labelsOf(&info)
	if ns := l[4]; ns != "default" {
		t.Errorf("namespace %q; the verified identity says default", ns)
	}
	if len(l[2]) > maxLabel {
		t.Errorf("a label of %d bytes", len(l[2]))
	}
	reg := prometheus.NewPedanticRegistry()
	tel := New(Config{Registerer: reg})
	tel.Open(info).Close(0, 0, nil, FlagNone)
	gather(t, reg) // fails on a label that is not UTF-8

	info.SourceID = spiffeid.ID{}
	if l := labelsOf(&info); l[4] != "kube-system" || l[8] != "c9" || l[9] != "r" || l[10] != "z" || l[1] != "curl" {
		t.Errorf("baggage is not used: %q", l)
	}
	info.Source = client
	if l := labelsOf(&info); l[8] != "c1" {
		t.Error("baggage is believed though the workload is known")
	}
}

func TestDirectionOfBytes(t *testing.T) {
	for _, tt := range []struct {
		info       Info
		sent, recv string // of the log
	}{
		{outbound(), "bytes_sent=1000", "bytes_recv=7"},
		{inbound(), "bytes_sent=7", "bytes_recv=1000"},
	} {
		reg := prometheus.NewPedanticRegistry()
		var log bytes.Buffer
		tel := New(Config{Registerer: reg, AccessLog: &log})
		tel.Open(tt.info).Close(1000, 7, nil, FlagNone)
		reporter := tt.info.Reporter.String()
		samples := gather(t, reg, "reporter")
		want(t, "what the source sent", samples, "istio_tcp_received_bytes_total{"+reporter+"}", 1000)
		want(t, "what the destination sent", samples, "istio_tcp_sent_bytes_total{"+reporter+"}", 7)
		for _, field := range []string{tt.sent, tt.recv} {
			if !strings.Contains(log.String(), " "+field+" ") {
				t.Errorf("%s: log lacks %s: %s", reporter, field, &log)
			}
		}
	}
}

func TestRecord(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	var log bytes.Buffer
	tel := New(Config{Registerer: reg, AccessLog: &log})

	r := tel.Open(outbound())
	samples := gather(t, reg)
	want(t, "open", samples, "istio_tcp_connections_opened_total", 1)
	want(t, "open", samples, "istio_tcp_connections_closed_total", 0)
	want(t, "open", samples, "adit_connections_active", 1)

	r.Progress(100, 10)
	r.Progress(90, 10) // an old reading
	want(t, "counters move while the connection is open", gather(t, reg), "istio_tcp_received_bytes_total", 100)

	r.Close(300, 20, errBroke, FlagDeny)
	r.Close(900, 90, nil, FlagNone)
	r.Progress(900, 90)
	r.Update(inbound())
	samples = gather(t, reg, "response_flags")
	want(t, "closed once", samples, "istio_tcp_connections_closed_total{DENY}", 1)
	want(t, "closed once", samples, "istio_tcp_connections_closed_total{-}", 0)
	want(t, "bytes once", samples, "istio_tcp_received_bytes_total{-}", 300)
	want(t, "bytes once", samples, "istio_tcp_sent_bytes_total{-}", 20)
	want(t, "closed", gather(t, reg), "adit_connections_active", 0)
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("%d lines for one connection:\n%s", n, &log)
	}
}

func TestFail(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	var log bytes.Buffer
	tel := New(Config{Registerer: reg, AccessLog: &log})
	tel.Fail(inbound(), errors.New("denied by policy"), FlagDeny)
	tel.Fail(inbound(), errors.New("new flag"), Flag("SOMETHING"))
	samples := gather(t, reg, "response_flags")
	want(t, "refused", samples, "istio_tcp_connections_failed_total{DENY}", 1)
	want(t, "a flag we do not know makes no label", samples, "istio_tcp_connections_failed_total{-}", 1)
	want(t, "never opened", samples, "istio_tcp_connections_opened_total{-}", 0)
	if _, ok := samples["istio_tcp_connections_opened_total{-}"]; ok {
		t.Error("a connection that never opened has an opened_total")
	}
	if got := log.String(); !strings.Contains(got, "\terror\taccess\tconnection complete\t") ||
		!strings.Contains(got, `error="denied by policy" response_flags="DENY"`) {
		t.Errorf("line: %s", got)
	}
}

func TestUpdate(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	var log bytes.Buffer
	tel := New(Config{Registerer: reg, AccessLog: &log})
	r := tel.Open(outbound())
	r.Update(outbound()) // another pod of the same deployment
	want(t, "same labels", gather(t, reg), "istio_tcp_connections_opened_total", 1)

	other := outbound()
	second := *server
	second.WorkloadName, second.Name, second.UID = "web-b", "web-b-1", "other"
	other.Destination, other.Mode = &second, "tcp"
	r.Update(other)
	r.Close(5, 6, nil, FlagNone)
	samples := gather(t, reg, "destination_workload", "response_flags")
	want(t, "first endpoint", samples, "istio_tcp_connections_opened_total{web,-}", 1)
	want(t, "first endpoint", samples, "istio_tcp_connections_closed_total{web,CONNECT}", 1)
	want(t, "second endpoint", samples, "istio_tcp_connections_opened_total{web-b,-}", 1)
	want(t, "second endpoint", samples, "istio_tcp_connections_closed_total{web-b,-}", 1)
	want(t, "second endpoint", samples, "istio_tcp_received_bytes_total{web-b,-}", 5)
	for mode, n := range gather(t, reg, "mode") {
		if strings.HasPrefix(mode, "adit_connections_active") && n != 0 {
			t.Errorf("%s = %v after the last connection", mode, n)
		}
	}
	if !strings.Contains(log.String(), `dst.workload="web-b-1"`) || strings.Count(log.String(), "\n") != 1 {
		t.Errorf("want one line, of the endpoint that was used: %s", &log)
	}
}

func TestAditMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	tel := New(Config{Registerer: reg})
	tel.Handshake("server", "refused", time.Millisecond)
	tel.Handshake("server", "tls: "+strings.Repeat("x", 100), time.Millisecond)
	tel.ConnectLatency("hbone", time.Millisecond)
	tel.PolicyDecision("ALLOW", true)
	tel.PolicyDecision("deny", false)
	tel.CaptureRepair("default/curl-1", "rules")
	tel.RegisterPool(func() PoolStats { return PoolStats{Tunnels: 3, Draining: 1, Streams: 40} })
	expiry := time.Unix(1_800_000_000, 0)
	tel.RegisterCertificates(func() []identity.CertificateInfo {
		return []identity.CertificateInfo{{ID: clientID, NotAfter: expiry, Failures: 2}, {ID: serverID}}
	})
	samples := gather(t, reg, "direction", "result", "phase", "action", "dry_run", "pod", "kind", "identity")
	for key, value := range map[string]float64{
		"adit_handshake_duration_seconds{server,refused}":                      1,
		"adit_handshake_duration_seconds{server,other}":                        1,
		"adit_connect_duration_seconds{hbone}":                                 1,
		"adit_policy_decisions_total{allow,true}":                              1,
		"adit_policy_decisions_total{deny,false}":                              1,
		"adit_capture_repairs_total{default/curl-1,rules}":                     1,
		"adit_pool_tunnels":                                                    3,
		"adit_pool_tunnels_draining":                                           1,
		"adit_pool_streams":                                                    40,
		"adit_certificate_expiry_timestamp_seconds{" + clientID.String() + "}": 1_800_000_000,
		"adit_certificate_expiry_timestamp_seconds{" + serverID.String() + "}": 0,
		"adit_certificate_renewal_failures{" + clientID.String() + "}":         2,
	} {
		want(t, "adit metrics", samples, key, value)
	}
}
