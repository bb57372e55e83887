package ingress

import (
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/adit-mesh/adit/ingress/proxy"
	"github.com/adit-mesh/adit/ingress/route"
	"github.com/adit-mesh/adit/ingress/upstream"
)

// explainedPort has a canary by header, a default, and a route that another one
// shadows.
func explainedPort(t *testing.T, ca *authority, bind Bind) *Config {
	b := route.NewBuilder[*proxy.Rule]()
	old := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	entry := func(name string, m route.Match, created time.Time, r *proxy.Rule) {
		r.Owner = route.Owner{Kind: "HTTPRoute", Namespace: "shop", Name: name}
		r.Name = name
		b.Set(name, []route.Entry[*proxy.Rule]{{Host: "shop.org", Match: m, Created: created, Owner: r.Owner, Value: r}})
	}
	login := route.PathMatch{Value: "/login"}
	entry("canary", route.Match{Path: login, Headers: []route.ValueMatch{{Name: "Env", Value: "canary"}}}, old, &proxy.Rule{
		Filters:  proxy.Filters{RequestHeaders: proxy.HeaderChange{Set: []proxy.HeaderValue{{Name: "X-Canary", Value: "1"}}}},
		Backends: []proxy.Backend{{Cluster: "shop/canary:80", Weight: 1}},
	})
	entry("login", route.Match{Path: login}, old, &proxy.Rule{Backends: []proxy.Backend{
		{Cluster: "shop/login:80", Weight: 9}, {Cluster: "shop/empty:80", Weight: 1}, {Status: 500, Reason: "BackendNotFound", Weight: 1}}})
	entry("shadowed", route.Match{Path: login}, old.AddDate(0, 1, 0), &proxy.Rule{})
	entry("regex", route.Match{Path: route.PathMatch{Kind: route.PathRegex, Value: "/x.*", Regex: regexp.MustCompile("^(?:/x.*)$")}}, old, &proxy.Rule{})
	l := httpsListener("https", "shop.org", []*tls.Certificate{ca.issue(t, "shop.org")})
	l.Routes = b.Table()
	return &Config{
		Ports: []*Port{httpsPort(bind, 443, l, httpsListener("bare", "bare.org", nil))},
		Clusters: map[string]*upstream.Config{
			"shop/canary:80": {Key: "shop/canary:80", Endpoints: []upstream.Endpoint{{Addr: netip.MustParseAddrPort("10.0.0.1:8080")}}},
			"shop/login:80":  {Key: "shop/login:80", Endpoints: []upstream.Endpoint{{Addr: netip.MustParseAddrPort("10.0.0.3:8080")}, {Addr: netip.MustParseAddrPort("10.0.0.2:8080")}}},
			"shop/empty:80":  {Key: "shop/empty:80"},
		},
	}
}

func TestExplain(t *testing.T) {
	ca := newAuthority(t)
	bind := freeBind(t)
	s := start(t, ServerConfig{})
	cfg := explainedPort(t, ca, bind)
	if a := s.Apply(cfg); len(a.Failed)+len(a.NoQUIC) > 0 {
		t.Fatal(a)
	}
	a := s.Explain(Question{URL: "https://shop.org/login", Header: http.Header{"Env": {"canary"}}})
	if len(a.Ports) != 1 {
		t.Fatalf("got %+v", a)
	}
	p := a.Ports[0]
	wantRule := &RuleAnswer{
		Route: "HTTPRoute/shop/canary", Name: "canary", Host: "shop.org", Match: "path under /login, header Env = canary",
		Filters:  []string{"set request header X-Canary"},
		Backends: []BackendAnswer{{Cluster: "shop/canary:80", Weight: 1, Endpoints: []string{"10.0.0.1:8080"}}},
	}
	if d := cmp.Diff(wantRule, p.Rule); d != "" {
		t.Error("the rule (-want +got):", d)
	}
	if p.Listener == nil || p.Listener.Name != "https" || p.TLS.Outcome != "terminated" || p.TLS.Certificate.Problem != "" || p.AltSvc == "" {
		t.Errorf("listener and TLS: %+v %+v", p.Listener, p.TLS)
	}
	others := map[string]CandidateAnswer{}
	for _, o := range p.Others {
		others[o.Route] = o
	}
	if o := others["HTTPRoute/shop/login"]; !o.Matches || o.Never != "" {
		t.Errorf("the default comes after: %+v", o)
	}
	if o := others["HTTPRoute/shop/shadowed"]; o.Never != "HTTPRoute/shop/login rule 0" {
		t.Errorf("a route that never has its turn: %+v", o)
	}

	p = s.Explain(Question{URL: "https://shop.org/login"}).Ports[0]
	if p.Rule == nil || p.Rule.Name != "login" {
		t.Fatalf("without the header: %+v", p.Rule)
	}
	var problems []string
	for _, b := range p.Rule.Backends {
		problems = append(problems, b.Problem)
	}
	if d := cmp.Diff([]string{"", "503: no endpoints: does the Service select a ready pod?", "500: BackendNotFound"}, problems); d != "" {
		t.Error("backends (-want +got):", d)
	}
	for _, tc := range []struct {
		q      Question
		status int
		reason string
	}{
		{Question{URL: "https://shop.org/nothing"}, 404, "no rule matches"},
		{Question{URL: "https://shop.org/", Host: "bare.org"}, 421, "another listener"},
		{Question{URL: "https://shop.org/..%2fx"}, 400, "path"},
		{Question{URL: "http://shop.org:443/"}, 400, "no listener for http"},
	} {
		p := s.Explain(tc.q).Ports[0]
		if p.Status != tc.status || !strings.Contains(p.Reason, tc.reason) {
			t.Errorf("%+v: got %d %q, want %d … %s …", tc.q, p.Status, p.Reason, tc.status, tc.reason)
		}
	}
	if got := s.Explain(Question{URL: "https://bare.org/"}).Ports[0].TLS.Outcome; !strings.Contains(got, "no usable certificate") {
		t.Errorf("a listener without certificate: %q", got)
	}
	if got := s.Explain(Question{URL: "https://x.org/"}).Ports[0].TLS.Outcome; !strings.Contains(got, "no listener of the port") {
		t.Errorf("no listener: %q", got)
	}
	for _, q := range []Question{{URL: "shop.org"}, {URL: "https://shop.org:8443/"}, {URL: "https://shop.org/", Gateway: "infra/other"}} {
		if a := s.Explain(q); a.Problem == "" || len(a.Ports) != 0 {
			t.Errorf("%+v: got %+v, want a problem", q, a)
		}
	}
}

// TestExplainIsWhatHappens asks the same of Explain and of the gateway.
func TestExplainIsWhatHappens(t *testing.T) {
	ca := newAuthority(t)
	bind := freeBind(t)
	s := start(t, ServerConfig{})
	s.apply(t, misdirectedPort(t, ca, bind))
	hosts := []string{"example.org", "second-example.org", "third-example.wildcard.org", "fourth-example.wildcard.org", "unknown-example.org"}
	for _, sni := range hosts {
		c := dialHTTP(t, "h2", bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: sni})
		for _, host := range hosts {
			status, a, _ := c.get(t, host, "/x")
			p := s.Explain(Question{URL: "https://" + sni + "/x", Host: host}).Ports[0]
			said := 200
			if p.Status != 0 {
				said = p.Status
			}
			if said != status || status == 200 && p.Listener.Name != a.Listener {
				t.Errorf("SNI %s, host %s: Explain says %d by %+v, and it was %d by %q", sni, host, said, p.Listener, status, a.Listener)
			}
		}
	}
}

func TestDump(t *testing.T) {
	ca := newAuthority(t)
	bind := freeBind(t)
	s := start(t, ServerConfig{})
	cfg := explainedPort(t, ca, bind)
	s.Apply(cfg)
	text, err := json.Marshal(s.Dump())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"state":"open"`, `"http3":"serving"`, `"name":"https","hostname":"shop.org","protocol":"HTTPS"`,
		`"route":"HTTPRoute/shop/canary"`, `"shop/login:80":{`, `"names":["shop.org"]`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the dump does not hold %s:\n%s", want, text)
		}
	}
	key := cfg.Ports[0].Listeners[0].TLS.Certificates[0].PrivateKey
	if secret, _ := json.Marshal(key); len(secret) > 10 && strings.Contains(string(text), string(secret)) {
		t.Error("the dump holds a private key")
	}
	for _, word := range []string{"PrivateKey", `"D":`} {
		if strings.Contains(string(text), word) {
			t.Errorf("the dump holds %s", word)
		}
	}
}
