package metrics

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/adit-mesh/adit/ingress/proxy"
	"github.com/adit-mesh/adit/ingress/route"
)

// gather returns what a scrape sees whose name has the prefix, histograms by
// their count and sum.
func gather(t testing.TB, m *Metrics, prefix string) map[string]float64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(m)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		name, ok := strings.CutPrefix(f.GetName(), "adit_ingress_")
		if !ok || !strings.HasPrefix(name, prefix) {
			continue
		}
		for _, s := range f.Metric {
			var labels []string
			for _, l := range s.Label {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			key := name + "{" + strings.Join(labels, ",") + "}"
			if h := s.Histogram; h != nil {
				got[key+"count"], got[key+"sum"] = float64(h.GetSampleCount()), h.GetSampleSum()
				for _, b := range h.Bucket {
					if b.GetCumulativeCount() > 0 {
						got[fmt.Sprintf("%sle=%g", key, b.GetUpperBound())] = float64(b.GetCumulativeCount())
					}
				}
				continue
			}
			got[key] = s.GetCounter().GetValue() + s.GetGauge().GetValue()
		}
	}
	return got
}

func rule(name string) *proxy.Rule {
	return &proxy.Rule{Owner: route.Owner{Kind: "HTTPRoute", Namespace: "ns", Name: name}}
}

func exchange(r *proxy.Rule, cluster string, status int) *proxy.Exchange {
	return &proxy.Exchange{
		Client: proxy.Client{Gateway: "ns/gw", Listener: "https"},
		Rule:   r, Cluster: cluster, Status: status, Proto: "HTTP/2",
		Duration: 7 * time.Millisecond, Received: 10, Sent: 1000,
	}
}

func want(t *testing.T, why string, got, want map[string]float64) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", why, d)
	}
}

func TestRequests(t *testing.T) {
	m := New(Config{})
	a := rule("a")
	m.Record(exchange(a, "ns/b:80", 200))
	m.Record(exchange(a, "ns/b:80", 200))
	m.Record(exchange(rule("a"), "ns/b:80", 503)) // the same route, compiled anew
	slow := exchange(a, "ns/b:80", 200)
	slow.Proto, slow.Duration = "HTTP/3", time.Hour
	m.Record(slow)
	refused := exchange(nil, "", 404)
	refused.Client.Listener, refused.Proto, refused.Duration, refused.Received, refused.Sent = "", "HTTP/1.1", 0, 0, 0
	m.Record(refused)
	gone := exchange(a, "", 0)
	gone.Proto = ""
	m.Record(gone)

	const (
		h2r     = "{cluster=ns/b:80,gateway=ns/gw,listener=https,protocol=h2,route=HTTPRoute/ns/a}"
		h3r     = "{cluster=ns/b:80,gateway=ns/gw,listener=https,protocol=h3,route=HTTPRoute/ns/a}"
		noRule  = "{cluster=none,gateway=ns/gw,listener=none,protocol=h1,route=none}"
		nothing = "{cluster=none,gateway=ns/gw,listener=https,protocol=other,route=HTTPRoute/ns/a}"
	)
	code := func(c, labels string) string {
		cluster, rest, _ := strings.Cut(labels, ",")
		return "requests_total" + cluster + ",code=" + c + "," + rest
	}
	want(t, "requests", gather(t, m, "requests_total"), map[string]float64{
		code("200", h2r): 2, code("503", h2r): 1, code("200", h3r): 1, code("404", noRule): 1, code("0", nothing): 1,
	})
	all := gather(t, m, "request_duration")
	if all["request_duration_seconds"+h2r+"count"] != 3 || all["request_duration_seconds"+h2r+"sum"] != 0.021 ||
		all["request_duration_seconds"+h2r+"le=0.01"] != 3 || all["request_duration_seconds"+h2r+"le=0.005"] != 0 {
		t.Errorf("three requests of 7 ms are told as %v", all)
	}
	if all["request_duration_seconds"+h3r+"count"] != 1 || all["request_duration_seconds"+h3r+"le=60"] != 0 {
		t.Errorf("an hour is told as %v", all)
	}
	if all["request_duration_seconds"+noRule+"le=0.001"] != 1 {
		t.Errorf("no time at all is told as %v", all)
	}
	want(t, "received", gather(t, m, "request_bytes"), map[string]float64{
		"request_bytes_total" + h2r: 30, "request_bytes_total" + h3r: 10, "request_bytes_total" + noRule: 0, "request_bytes_total" + nothing: 10,
	})
	want(t, "sent", gather(t, m, "response_bytes"), map[string]float64{
		"response_bytes_total" + h2r: 3000, "response_bytes_total" + h3r: 1000, "response_bytes_total" + noRule: 0, "response_bytes_total" + nothing: 1000,
	})
	want(t, "series", gather(t, m, "request_series"), map[string]float64{"request_series{}": 5, "request_series_overflow_total{}": 0})
}

func TestInFlight(t *testing.T) {
	m := New(Config{})
	x := exchange(rule("a"), "c", 200)
	m.Record(x)
	want(t, "nobody calls Begin", gather(t, m, "requests_in"), map[string]float64{})
	m = New(Config{})
	const key = "requests_in_flight{gateway=ns/gw,listener=https}"
	m.Begin(x)
	m.Begin(x)
	want(t, "two have begun", gather(t, m, "requests_in"), map[string]float64{key: 2})
	m.Record(x)
	want(t, "one is over", gather(t, m, "requests_in"), map[string]float64{key: 1})

	nothing := Live{Gateway: func(string) bool { return false }}
	m.Retain(nothing)
	m.Retain(nothing)
	want(t, "the listener is gone, the request is not", gather(t, m, "requests_in"), map[string]float64{key: 1})
	m.Record(x)
	want(t, "nor is the series", gather(t, m, "requests_in"), map[string]float64{key: 0})
	m.Retain(nothing)
	want(t, "nothing is left", gather(t, m, "requests_in"), map[string]float64{})
}

func TestSeriesOfWhatIsGoneAreDeleted(t *testing.T) {
	m := New(Config{})
	kept, gone := rule("kept"), rule("gone")
	x := exchange(kept, "c1", 200)
	m.Record(x)
	m.Record(exchange(kept, "c2", 200))
	m.Record(exchange(gone, "c1", 200))
	m.Record(exchange(nil, "", 404))
	elsewhere := exchange(kept, "c1", 200)
	elsewhere.Client.Listener = "old"
	m.Record(elsewhere)
	former := exchange(nil, "", 404)
	former.Client.Gateway = "ns/former"
	m.Record(former)

	m.Retain(Live{
		Gateway:  func(g string) bool { return g == "ns/gw" },
		Listener: func(_, l string) bool { return l == "https" },
		Route:    func(o route.Owner) bool { return o.Name == "kept" },
		Cluster:  func(c string) bool { return c == "c1" },
	})
	key := func(cluster, code, route string) string {
		return "requests_total{cluster=" + cluster + ",code=" + code + ",gateway=ns/gw,listener=https,protocol=h2,route=" + route + "}"
	}
	left := map[string]float64{key("c1", "200", "HTTPRoute/ns/kept"): 1, key("none", "404", "none"): 1}
	want(t, "what is left", gather(t, m, "requests_total"), left)
	want(t, "as many as there are", gather(t, m, "request_series"), map[string]float64{"request_series{}": 2, "request_series_overflow_total{}": 0})

	m.Record(x)
	m.Record(exchange(gone, "c1", 200)) // were under way
	m.Record(exchange(kept, "c2", 200))
	left[key("c1", "200", "HTTPRoute/ns/kept")] = 2
	left[key("c1", "200", "other")] = 1
	left[key("other", "200", "HTTPRoute/ns/kept")] = 1
	want(t, "what was gone does not come back", gather(t, m, "requests_total"), left)

	m.Retain(Live{})
	m.Record(exchange(gone, "c1", 200))
	left[key("c1", "200", "HTTPRoute/ns/gone")] = 1
	want(t, "unless it is configured again", gather(t, m, "requests_total"), left)

	no := func(string) bool { return false }
	m.Retain(Live{Gateway: no})
	m.Retain(Live{Gateway: no})
	if n := len(m.requests.groups) + m.requests.series + len(*m.requests.byListener.Load()); n != 0 {
		t.Errorf("%d things are left of nothing", n)
	}
	for i, v := range m.requests.values {
		if len(v) > 0 {
			t.Errorf("values of label %d that nothing has: %v", i, v)
		}
	}
}

func TestLabelsAreBounded(t *testing.T) {
	m := New(Config{MaxValues: 3})
	for i := range 10 {
		m.Record(exchange(rule(fmt.Sprint("r", i)), fmt.Sprint("c", i%2), 200))
	}
	got := gather(t, m, "requests_total")
	var n, others float64
	for k, v := range got {
		n += v
		if strings.Contains(k, "route=other") {
			others += v
		}
	}
	if len(got) != 5 || n != 10 || others != 7 {
		t.Errorf("ten routes where three may be told apart: %v", got)
	}
	if gather(t, m, "request_series_overflow")["request_series_overflow_total{}"] != 7 {
		t.Error("that there are too many is not told")
	}
}

func TestSeriesAreBounded(t *testing.T) {
	m := New(Config{MaxSeries: 50})
	for i := range 1000 {
		x := exchange(rule(fmt.Sprint("r", i%100)), fmt.Sprint("c", i%7), 100+i%900)
		x.Client.Listener = fmt.Sprint("l", i%3)
		m.Record(x)
	}
	got := gather(t, m, "requests_total")
	var n float64
	for _, v := range got {
		n += v
	}
	// Fifty, and ten codes of each group of others and of those there were.
	if len(got) > 50+10*51 || n != 1000 {
		t.Errorf("%d series with %v requests, want few and 1000", len(got), n)
	}
	if m.requests.rules > 50 {
		t.Errorf("%d rules are remembered", m.requests.rules)
	}
}

func TestARuleIsRememberedWithFewRequests(t *testing.T) {
	m := New(Config{})
	r := rule("r")
	for i := range 5 * maxSeen {
		x := exchange(r, "c", 200)
		x.Client.Listener = fmt.Sprint(i)
		m.Record(x)
	}
	v, _ := m.requests.byRule.Load(r)
	if n := len(*v.(interface{ Load() *seen }).Load()); n > maxSeen+1 {
		t.Errorf("%d kinds of requests of one rule are remembered", n)
	}
	if got := gather(t, m, "request_series"); got["request_series{}"] != 5*maxSeen {
		t.Errorf("%v, want all of them counted", got)
	}
}

func TestConnections(t *testing.T) {
	m := New(Config{})
	m.ConnectionOpened("ns/gw", 443, "tcp")
	m.ConnectionOpened("ns/gw", 443, "tcp")
	m.ConnectionClosed("ns/gw", 443, "tcp")
	m.HandshakeFailed("ns/gw", 443, "quic", "no_certificate")
	m.ConnectionRefused("ns/gw", 443, "tcp", "connections")
	const tcp = "{gateway=ns/gw,port=443,transport=tcp}"
	want(t, "connections", gather(t, m, "connections_"), map[string]float64{
		"connections_open" + tcp: 1, "connections_total" + tcp: 2,
		"connections_open{gateway=ns/gw,port=443,transport=quic}":                            0,
		"connections_total{gateway=ns/gw,port=443,transport=quic}":                           0,
		"connections_refused_total{gateway=ns/gw,port=443,reason=connections,transport=tcp}": 1,
	})
	want(t, "handshakes", gather(t, m, "handshake"), map[string]float64{
		"handshake_errors_total{gateway=ns/gw,port=443,reason=no_certificate,transport=quic}": 1,
	})
	gone := Live{Gateway: func(string) bool { return false }}
	m.Retain(gone)
	if got := gather(t, m, "connections_open"); !maps.Equal(got, map[string]float64{"connections_open" + tcp: 1}) {
		t.Errorf("%v, want what is open to stay", got)
	}
	m.ConnectionClosed("ns/gw", 443, "tcp")
	m.Retain(gone)
	want(t, "nothing is open", gather(t, m, "connections"), map[string]float64{})
}

func TestSocketsAreBounded(t *testing.T) {
	m := New(Config{})
	for i := range 3 * maxSockets {
		m.ConnectionOpened("g", uint16(i), "tcp")
	}
	got := gather(t, m, "connections_total")
	if len(got) > maxSockets+3 || got["connections_total{gateway=other,port=other,transport=tcp}"] != 2*maxSockets {
		t.Errorf("%d series", len(got))
	}
}

type lines struct{}

func (lines) Written() uint64 { return 7 }
func (lines) Dropped() uint64 { return 3 }

func TestTheRest(t *testing.T) {
	m := New(Config{AccessLog: lines{}})
	want(t, "nothing was applied", gather(t, m, "config"), map[string]float64{})
	m.Applied(4, time.Unix(1000, 500e6))
	m.Applied(5, time.Unix(2000, 500e6))
	want(t, "configuration", gather(t, m, "config"), map[string]float64{
		"config_generation{}": 5, "config_applied_timestamp_seconds{}": 2000.5,
	})
	m.SetCertificates(map[Certificate]time.Time{{"g", "l", "old"}: time.Unix(1, 0)})
	m.SetCertificates(map[Certificate]time.Time{
		{"g", "l", "a.test"}: time.Unix(3, 0), {"g", "l", "\xff"}: time.Unix(5, 0), {"g", "l", "\ufffd"}: time.Unix(4, 0),
	})
	want(t, "certificates", gather(t, m, "certificate"), map[string]float64{
		"certificate_not_after_timestamp_seconds{certificate=a.test,gateway=g,listener=l}": 3,
		"certificate_not_after_timestamp_seconds{certificate=\ufffd,gateway=g,listener=l}": 4,
	})
	want(t, "access log", gather(t, m, "access"), map[string]float64{"access_log_lines_total{}": 7, "access_log_dropped_total{}": 3})
}

func TestAllAtOnce(t *testing.T) {
	m := New(Config{MaxSeries: 200})
	var wg sync.WaitGroup
	const each = 2000
	for g := range 4 {
		wg.Go(func() {
			rules := []*proxy.Rule{rule("a"), rule("b"), nil}
			for i := range each {
				x := exchange(rules[i%3], fmt.Sprint("c", i%5), 200+i%7)
				m.Begin(x)
				m.Record(x)
				m.ConnectionOpened("g", uint16(g), "tcp")
				m.ConnectionClosed("g", uint16(g), "tcp")
			}
		})
	}
	wg.Go(func() {
		for range 50 {
			m.Retain(Live{Route: func(o route.Owner) bool { return o.Name == "a" }})
			m.Retain(Live{})
			gather(t, m, "")
		}
	})
	wg.Wait()
	const key = "requests_in_flight{gateway=ns/gw,listener=https}"
	want(t, "all are over", gather(t, m, "requests_in"), map[string]float64{key: 0})
}

func TestRecordAllocatesNothing(t *testing.T) {
	m := New(Config{})
	for _, x := range []*proxy.Exchange{exchange(rule("a"), "c", 200), exchange(nil, "", 404)} {
		if n := testing.AllocsPerRun(100, func() { m.Begin(x); m.Record(x) }); n != 0 {
			t.Errorf("%v allocations a request", n)
		}
	}
}

func BenchmarkRecord(b *testing.B) {
	for _, routes := range []int{1, 1000} {
		b.Run(fmt.Sprint(routes), func(b *testing.B) {
			m := New(Config{})
			var xs []*proxy.Exchange
			for i := range routes {
				xs = append(xs, exchange(rule(fmt.Sprint("r", i)), "c", 200))
				m.Record(xs[i])
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					x := xs[i%len(xs)]
					m.Begin(x)
					m.Record(x)
				}
			})
		})
	}
}

func BenchmarkCollect(b *testing.B) {
	m := New(Config{})
	for i := range 10_000 {
		m.Record(exchange(rule(fmt.Sprint("r", i)), "c", 200))
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(m)
	for b.Loop() {
		if _, err := reg.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}
