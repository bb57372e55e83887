package report

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/adit-mesh/adit/agent"
	"github.com/adit-mesh/adit/ingress"
)

func edgePod(node string, left time.Duration) From[agent.EdgeStatus] {
	rule := ingress.RuleAnswer{Route: "HTTPRoute/shop/www"}
	return From[agent.EdgeStatus]{Agent: "127.0.0.1:15000", Node: node, Value: agent.EdgeStatus{
		Version: "v0.3.1", Node: node, Now: noon, Source: "/etc/gateway",
		Served: ingress.Dump{Ports: []ingress.DumpPort{
			{
				Bind: "[::]:10443", Gateway: "shop/edge", Port: 443, State: "open", HTTP3: "serving",
				Listeners: []ingress.DumpListener{
					{
						ListenerAnswer: ingress.ListenerAnswer{Owner: "Gateway/shop/edge", Name: "https", Hostname: "*.shop.example.com"},
						Protocol:       "HTTPS", Certificates: []*ingress.CertificateAnswer{{Names: []string{"*.shop.example.com"}, NotAfter: noon.Add(left)}},
						Routes: []ingress.RuleAnswer{rule, rule, rule},
					},
					{
						ListenerAnswer: ingress.ListenerAnswer{Owner: "ListenerSet/team/own", Name: "own"}, Protocol: "TLS",
						Streams: []ingress.StreamAnswer{{Route: "TLSRoute/team/pass"}},
					},
				},
			},
			{
				Bind: "[::]:10080", Gateway: "shop/edge", Port: 80, State: "listen tcp [::]:10080: bind: address already in use", HTTP3: "none",
				Listeners: []ingress.DumpListener{{ListenerAnswer: ingress.ListenerAnswer{Owner: "Gateway/shop/edge", Name: "http"}, Protocol: "HTTP"}},
			},
		}},
	}}
}

func TestGateways(t *testing.T) {
	good, bad := edgePod("node-a", 40*24*time.Hour), edgePod("node-b", -time.Hour)
	bad.Value.Problems = []string{"shop.yaml:12 (document 2): HTTPRoute shop/www: spec.rules[0].matches: unknown field \"mtches\"; did you mean matches?"}
	condition := agent.EdgeCondition{
		Object: "HTTPRoute/shop/www", Of: "Gateway/shop/edge", Type: "ResolvedRefs", Status: "False", Reason: "BackendNotFound",
		Message: "Service shop/cart does not exist; requests of rule 1 are answered with 500",
	}
	good.Value.Conditions = []agent.EdgeCondition{condition}
	bad.Value.Conditions = []agent.EdgeCondition{condition}
	silent := From[agent.EdgeStatus]{Agent: "adit-system/adit-ingress-x2zvk", Err: errors.New("connection refused")}
	golden(t, "gateways", func(w io.Writer, width int) { Gateways(w, width, []From[agent.EdgeStatus]{good, bad, silent}) })
}

func TestGatewaysOfAnEmptyEdge(t *testing.T) {
	golden(t, "gateways-none", func(w io.Writer, width int) {
		Gateways(w, width, []From[agent.EdgeStatus]{{Node: "node-a", Value: agent.EdgeStatus{Node: "node-a", Now: noon}}})
	})
}

func TestRoute(t *testing.T) {
	listener := &ingress.ListenerAnswer{Owner: "Gateway/shop/edge", Name: "https", Hostname: "*.shop.example.com"}
	certificate := &ingress.CertificateAnswer{Subject: "CN=shop", Names: []string{"*.shop.example.com"}, NotAfter: noon}
	for name, a := range map[string]*ingress.Answer{
		"route": {Ports: []ingress.PortAnswer{{
			Gateway: "shop/edge", Port: 443, Bind: "[::]:10443", AltSvc: `h3=":443"; ma=86400`, Listener: listener,
			TLS: &ingress.TLSAnswer{Listener: listener, Outcome: "terminated", Certificate: certificate, Clients: "have to show a certificate of ConfigMap shop/clients"},
			Rule: &ingress.RuleAnswer{
				Route: "HTTPRoute/shop/cart", Rule: 1, Name: "canary", Host: "www.shop.example.com", Match: "path under /cart, header Env = canary",
				Filters:  []string{"replace the prefix /cart of the path by /", "set request header X-Canary to yes"},
				Timeouts: "request 10s, each attempt 2s", Retry: "2 more attempts for 503, after 100ms",
				Backends: []ingress.BackendAnswer{
					{Cluster: "shop/cart:80", Weight: 2, Endpoints: []string{"10.244.1.7:8080", "10.244.2.9:8080"}},
					{Cluster: "shop/cart-next:80", Weight: 1, Endpoints: []string{"10.244.2.11:8443"}, TLS: true, Filters: []string{"set request header X-Next to yes"}},
				},
			},
			Others: []ingress.CandidateAnswer{
				{Route: "HTTPRoute/shop/cart", Rule: 0, Host: "www.shop.example.com", Match: "path under /cart", Matches: true},
				{Route: "HTTPRoute/shop/old", Rule: 0, Host: "*.shop.example.com", Match: "path under /cart", Never: "HTTPRoute/shop/cart, rule 0"},
				{Route: "HTTPRoute/shop/post", Rule: 0, Host: "www.shop.example.com", Match: "POST, path under /cart", Failed: []string{"the method is GET"}},
			},
		}}},
		"route-refused": {Ports: []ingress.PortAnswer{{
			Gateway: "shop/edge", Port: 443, Bind: "[::]:10443", Socket: "listen tcp [::]:10443: bind: address already in use", Listener: listener,
			TLS:    &ingress.TLSAnswer{Listener: listener, Outcome: "terminated", Certificate: &ingress.CertificateAnswer{Names: []string{"a.example.com"}, NotAfter: noon, Problem: "it is not for www.shop.example.com"}},
			Status: 404, Reason: "no rule is for this host and path",
		}}},
		"route-streams": {Ports: []ingress.PortAnswer{
			{
				Gateway: "shop/edge", Port: 8443, Bind: "[::]:18443",
				TLS: &ingress.TLSAnswer{Outcome: "passed through", Stream: &ingress.StreamAnswer{Route: "TLSRoute/shop/pass", Backends: []ingress.BackendAnswer{{Cluster: "shop/pass:443", Weight: 1, Endpoints: []string{"10.244.1.7:8443"}}}}},
			},
			{
				Gateway: "team/edge", Port: 8443, Bind: "[::]:28443",
				Stream: &ingress.StreamAnswer{Route: "TCPRoute/team/raw", Backends: []ingress.BackendAnswer{{Cluster: "team/raw:8443", Weight: 1, Problem: "no endpoint is ready"}}},
			},
		}},
		"route-none": {Problem: "no Gateway has a listener for port 8443; there are ports 80 and 443 of shop/edge"},
	} {
		golden(t, name, func(w io.Writer, width int) { Route(w, width, a) })
	}
}
