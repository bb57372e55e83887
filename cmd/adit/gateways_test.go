package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/adit-mesh/adit/agent"
	"github.com/adit-mesh/adit/ingress"
)

// edgePod is a pod of the edge that has these answers, nil for none.
func edgePod(t *testing.T, status *agent.EdgeStatus, route func(*http.Request) *ingress.Answer) string {
	t.Helper()
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, v any, has bool) {
		if !has {
			http.Error(w, "this agent has no ingress", http.StatusNotImplemented)
			return
		}
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("GET /gateways", func(w http.ResponseWriter, _ *http.Request) { answer(w, status, status != nil) })
	mux.HandleFunc("GET /route", func(w http.ResponseWriter, r *http.Request) {
		if route == nil {
			answer(w, nil, false)
			return
		}
		answer(w, route(r), true)
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

func TestStatusGateways(t *testing.T) {
	edge := edgePod(t, &agent.EdgeStatus{Node: "a", Now: time.Now(), Served: ingress.Dump{Ports: []ingress.DumpPort{{
		Gateway: "shop/edge", Port: 443, Bind: "[::]:10443", State: "open", HTTP3: "serving",
		Listeners: []ingress.DumpListener{{ListenerAnswer: ingress.ListenerAnswer{Name: "https"}, Protocol: "HTTPS"}},
	}}}}, nil)
	none := edgePod(t, nil, nil)
	gone := httptest.NewServer(nil)
	gone.Close()
	for why, tt := range map[string]struct {
		args []string
		code int
		says string
	}{
		"one that serves":                  {[]string{"--admin", edge}, 0, "shop/edge"},
		"an agent that is no edge beside":  {[]string{"--admin", none, "--admin", edge}, 0, "443/HTTPS"},
		"one of two does not answer":       {[]string{"--admin", gone.URL, "--admin", edge}, 0, "shop/edge"},
		"agents without an ingress":        {[]string{"--admin", none}, 1, "no ingress"},
		"nobody":                           {[]string{"--admin", gone.URL}, 1, "connection refused"},
		"an argument that nobody asks for": {[]string{"x", "--admin", edge}, 2, "x"},
	} {
		out, code := adit(t, append([]string{"status", "gateways"}, tt.args...)...)
		if code != tt.code || !strings.Contains(out, tt.says) {
			t.Errorf("%s: exit code %d, want %d and a word of %q\n%s", why, code, tt.code, tt.says, out)
		}
	}
	out, code := adit(t, "status", "gateways", "-o", "json", "--admin", edge)
	var all struct {
		Agents []struct{ Status agent.EdgeStatus }
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil || code != 0 || len(all.Agents) != 1 || all.Agents[0].Status.Served.Ports[0].Gateway != "shop/edge" {
		t.Errorf("as JSON: exit code %d, %v\n%s", code, err, out)
	}
}

func TestWhyARequest(t *testing.T) {
	stream := &ingress.StreamAnswer{Route: "TCPRoute/shop/raw"}
	for why, tt := range map[string]struct {
		answer ingress.Answer
		code   int
		says   string
	}{
		"a rule is for it":            {ingress.Answer{Ports: []ingress.PortAnswer{{Rule: &ingress.RuleAnswer{Route: "HTTPRoute/shop/www"}}}}, 0, "HTTPRoute/shop/www"},
		"a TLSRoute is for it":        {ingress.Answer{Ports: []ingress.PortAnswer{{TLS: &ingress.TLSAnswer{Stream: stream}}}}, 0, "TCPRoute/shop/raw"},
		"a TCPRoute is for it":        {ingress.Answer{Ports: []ingress.PortAnswer{{Stream: stream}}}, 0, "TCPRoute/shop/raw"},
		"one of two Gateways has one": {ingress.Answer{Ports: []ingress.PortAnswer{{Status: 404, Reason: "no"}, {Stream: stream}}}, 0, "404"},
		"no rule is for it":           {ingress.Answer{Ports: []ingress.PortAnswer{{Status: 404, Reason: "no rule matches"}}}, 3, "no rule matches"},
		"no Gateway has the port":     {ingress.Answer{Problem: "no Gateway has port 8443"}, 3, "8443"},
	} {
		var asked *http.Request
		edge := edgePod(t, nil, func(r *http.Request) *ingress.Answer { asked = r; return &tt.answer })
		out, code := adit(t, "why", "https://www.example.com/cart?x=1", "-X", "POST", "-H", "env: canary", "-H", "a: b", "--sni", "s.example.com",
			"--host", "h.example.com", "--gateway", "shop/edge", "--admin", edge)
		if code != tt.code || !strings.Contains(out, tt.says) {
			t.Errorf("%s: exit code %d, want %d and a word of %q\n%s", why, code, tt.code, tt.says, out)
		}
		q := asked.URL.Query()
		if q.Get("url") != "https://www.example.com/cart?x=1" || q.Get("method") != "POST" || len(q["header"]) != 2 || q.Get("sni") != "s.example.com" ||
			q.Get("host") != "h.example.com" || q.Get("gateway") != "shop/edge" {
			t.Errorf("the edge is asked for %v", q)
		}
	}
	if out, code := adit(t, "why", "https://www.example.com/", "--admin", edgePod(t, nil, nil)); code != 1 || !strings.Contains(out, "no ingress") {
		t.Errorf("an agent without an ingress: exit code %d\n%s", code, out)
	}
	for _, args := range [][]string{{"https://a/", "b"}, {"a", "b", "-X", "GET"}, {"a", "--host", "b"}, {"ftp://a/"}, {"https://a/", "-H", "env"}} {
		if out, code := adit(t, append([]string{"why"}, args...)...); code != 2 {
			t.Errorf("adit why %v: exit code %d, want 2\n%s", args, code, out)
		}
	}
}
