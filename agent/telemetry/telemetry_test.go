package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
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

func TestSeriesAreEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewPedanticRegistry()
		var mu sync.Mutex
		exists := map[string]bool{client.UID: true, server.UID: true}
		tel := New(Config{Registerer: reg, LabelTTL: 10 * time.Minute, Exists: func(uid string) bool {
			mu.Lock()
			defer mu.Unlock()
			return exists[uid]
		}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- tel.Run(ctx) }()

		stranger := Info{Reporter: Source, DestinationAddr: netip.MustParseAddrPort("192.0.2.1:443")}
		tel.Open(outbound()).Close(1, 1, nil, FlagNone)
		tel.Open(stranger).Close(1, 1, nil, FlagNone)
		long := tel.Open(inbound())
		tel.CaptureRepair("default/curl-1", "rules")
		want(t, "in use", gather(t, reg), "adit_telemetry_series", 3)

		time.Sleep(time.Hour)
		samples := gather(t, reg, "destination_workload")
		want(t, "workloads that exist keep their series; an idle stranger does not", samples, "adit_telemetry_series", 2)
		want(t, "an old repair", samples, "adit_capture_repairs_total", 0)

		mu.Lock()
		delete(exists, server.UID)
		mu.Unlock()
		time.Sleep(9 * time.Minute)
		want(t, "gone, not for long enough", gather(t, reg), "adit_telemetry_series", 2)
		time.Sleep(4 * time.Minute)
		want(t, "gone, but one connection is still open", gather(t, reg), "adit_telemetry_series", 1)
		long.Progress(5, 5)
		long.Close(5, 5, nil, FlagNone)
		want(t, "closed just now, so still to be scraped", gather(t, reg, "reporter"), "istio_tcp_received_bytes_total{destination}", 5)
		time.Sleep(13 * time.Minute)
		want(t, "the last one is gone", gather(t, reg), "adit_telemetry_series", 0)

		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestSeriesAreBounded(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	tel := New(Config{Registerer: reg, MaxSeries: 10})
	for i := range 100 {
		info := inbound()
		info.Source = nil
		info.SourceBaggage = &hbone.Baggage{WorkloadName: fmt.Sprint("w", i)}
		tel.Open(info).Close(1, 0, nil, FlagNone)
	}
	samples := gather(t, reg)
	want(t, "beyond the bound", samples, "adit_telemetry_series", 11)
	want(t, "beyond the bound", samples, "adit_telemetry_overflow_total", 90)
	want(t, "nothing is lost from the sum", samples, "istio_tcp_connections_closed_total", 100)
}

func TestConcurrentRecords(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	var log bytes.Buffer
	tel := New(Config{Registerer: reg, AccessLog: &log, LabelTTL: time.Nanosecond})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- tel.Run(ctx) }()
	// Holds the series: the records that come and go beside it must not let
	// an eviction take it away under it.
	anchor := tel.Open(outbound())
	stop := make(chan struct{})
	evicted := make(chan struct{})
	go func() {
		defer close(evicted)
		for {
			select {
			case <-stop:
				return
			default:
				tel.table.evict(time.Now().Add(time.Hour), time.Nanosecond, nil)
				_, _ = reg.Gather()
			}
		}
	}()

	var wg sync.WaitGroup
	const each, workers = 200, 8
	for range workers {
		wg.Go(func() {
			for i := range each {
				r := tel.Open(outbound())
				r.Progress(int64(i), 1)
				r.Close(int64(i), 1, nil, FlagNone)
			}
		})
	}
	wg.Wait()
	close(stop)
	<-evicted
	cancel()
	<-done
	anchor.Close(0, 1, nil, FlagNone)
	samples := gather(t, reg)
	const n = each*workers + 1
	want(t, "all", samples, "istio_tcp_connections_opened_total", n)
	want(t, "all", samples, "istio_tcp_connections_closed_total", n)
	want(t, "all", samples, "istio_tcp_received_bytes_total", workers*each*(each-1)/2)
	want(t, "all", samples, "istio_tcp_sent_bytes_total", n)
	if got := strings.Count(log.String(), "\n"); got != n {
		t.Errorf("%d lines, want %d", got, n)
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
