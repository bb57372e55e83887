package backend

import (
	"strings"
	"testing"

	"github.com/adit-mesh/adit/ingress/upstream"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

const services = `
kind: Service
metadata: {name: web}
spec:
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: h2c, port: 81, appProtocol: kubernetes.io/h2c}
  - {name: ws, port: 82, appProtocol: kubernetes.io/ws}
  - {name: wss, port: 83, appProtocol: kubernetes.io/wss}
  - {name: https, port: 443, appProtocol: HTTPS}
  - {name: grpc, port: 84, appProtocol: grpc}
  - {name: tcp, port: 85, appProtocol: tcp}
  - {name: redis, port: 6379, appProtocol: redis}
  - {name: vendor, port: 86, appProtocol: example.com/own}
  - {name: dns, port: 53, protocol: UDP}
  - {name: dns-tcp, port: 53, protocol: TCP}
  - {name: only-udp, port: 54, protocol: UDP}
---
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: example.com, ports: [{port: 80}]}
---
kind: Service
metadata: {name: secure}
spec: {ports: [{name: https, port: 443, appProtocol: https}, {name: wss, port: 83, appProtocol: kubernetes.io/wss}, {name: h2, port: 84, appProtocol: h2}]}
---
kind: BackendTLSPolicy
metadata: {name: secure}
spec:
  targetRefs: [{group: "", kind: Service, name: secure}]
  validation: {hostname: secure.example.com, caCertificateRefs: [{group: "", kind: ConfigMap, name: ca}]}
---
kind: ConfigMap
metadata: {name: ca}
data: {ca.crt: CA}
---
kind: Service
metadata: {name: broken}
spec: {ports: [{port: 443}]}
---
kind: BackendTLSPolicy
metadata: {name: broken}
spec:
  targetRefs: [{group: "", kind: Service, name: broken}]
  validation: {hostname: broken.example.com, caCertificateRefs: [{group: "", kind: ConfigMap, name: absent}]}
---
kind: Service
metadata: {name: web, namespace: other}
spec: {ports: [{port: 80}]}
---
kind: Service
metadata: {name: private, namespace: other}
spec: {ports: [{port: 80}]}
---
kind: ReferenceGrant
metadata: {name: some, namespace: other}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]
  to: [{group: "", kind: Service, name: web}, {group: "", kind: Service, name: absent}]
`

func TestResolve(t *testing.T) {
	x := NewIndex(Options{})
	load(t, x, services)
	x.SetClientCertificate(edge, clientCert)

	for _, tt := range []struct {
		kind    gatewayv1.Kind
		ref     gatewayv1.BackendObjectReference
		gateway types.NamespacedName
		pass    bool
		want    Target
		reason  gatewayv1.RouteConditionReason
		says    string
	}{
		{kind: "HTTPRoute", ref: ref("", "web", 80), want: Target{Cluster: "default/web:80"}},
		{kind: "HTTPRoute", ref: ref("default", "web", 80), want: Target{Cluster: "default/web:80"}},
		{kind: "HTTPRoute", ref: ref("", "web", 81), want: Target{Cluster: "default/web:81"}},
		{kind: "HTTPRoute", ref: ref("", "web", 82), want: Target{Cluster: "default/web:82", UpgradeHTTP1: true}},
		{kind: "HTTPRoute", ref: ref("", "web", 84), want: Target{Cluster: "default/web:84"}},
		{kind: "HTTPRoute", ref: ref("", "web", 85), want: Target{Cluster: "default/web:85"}},
		{kind: "HTTPRoute", ref: ref("", "web", 53), want: Target{Cluster: "default/web:53"}},
		{kind: "HTTPRoute", ref: ref("", "web", 6379), reason: "UnsupportedProtocol", says: `"redis"`},
		{kind: "HTTPRoute", ref: ref("", "web", 86), reason: "UnsupportedProtocol", says: `"example.com/own"`},
		{kind: "HTTPRoute", ref: ref("", "web", 54), reason: "UnsupportedProtocol", says: "is UDP"},
		{kind: "HTTPRoute", ref: ref("", "web", 443), reason: "UnsupportedProtocol", says: "no BackendTLSPolicy"},
		{kind: "HTTPRoute", ref: ref("", "web", 83), reason: "UnsupportedProtocol", says: "no BackendTLSPolicy"},
		{kind: "HTTPRoute", ref: ref("", "web", 87), reason: "BackendNotFound", says: "no port 87"},
		{kind: "HTTPRoute", ref: ref("", "web", 0), reason: "BackendNotFound", says: "names no port"},
		{kind: "HTTPRoute", ref: ref("", "absent", 80), reason: "BackendNotFound", says: "default/absent"},
		{kind: "HTTPRoute", ref: ref("", "elsewhere", 80), reason: "BackendNotFound", says: "ExternalName"},

		{kind: "GRPCRoute", ref: ref("", "web", 80), want: Target{Cluster: "default/web:80/grpc"}},
		{kind: "GRPCRoute", ref: ref("", "web", 81), want: Target{Cluster: "default/web:81"}},
		{kind: "GRPCRoute", ref: ref("", "web", 84), want: Target{Cluster: "default/web:84"}},
		{kind: "GRPCRoute", ref: ref("", "web", 82), reason: "UnsupportedProtocol"},
		{kind: "GRPCRoute", ref: ref("", "web", 6379), reason: "UnsupportedProtocol"},

		{kind: "TCPRoute", ref: ref("", "web", 6379), want: Target{Cluster: "default/web:6379/tcp"}},
		{kind: "TCPRoute", ref: ref("", "web", 443), want: Target{Cluster: "default/web:443/tcp"}},
		{kind: "TCPRoute", ref: ref("", "web", 53), want: Target{Cluster: "default/web:53/tcp"}},
		{kind: "TCPRoute", ref: ref("", "secure", 443), gateway: edge, want: Target{Cluster: "default/secure:443/tcp"}},
		{kind: "TCPRoute", ref: ref("", "web", 54), reason: "UnsupportedProtocol", says: "need TCP"},
		{kind: "UDPRoute", ref: ref("", "web", 53), want: Target{Cluster: "default/web:53/udp"}},
		{kind: "UDPRoute", ref: ref("", "web", 80), reason: "UnsupportedProtocol", says: "need UDP"},
		{kind: "TLSRoute", ref: ref("", "secure", 443), want: Target{Cluster: "default/secure:443/tls"}},
		{kind: "TLSRoute", ref: ref("", "secure", 443), gateway: edge, want: Target{Cluster: "default/secure:443/tls@infra/edge"}},
		{kind: "TLSRoute", ref: ref("", "secure", 443), pass: true, gateway: edge, want: Target{Cluster: "default/secure:443/tcp"}},
		{kind: "TLSRoute", ref: ref("", "web", 443), want: Target{Cluster: "default/web:443/tcp"}},

		{kind: "HTTPRoute", ref: ref("", "secure", 443), want: Target{Cluster: "default/secure:443"}},
		{kind: "HTTPRoute", ref: ref("", "secure", 443), gateway: inner, want: Target{Cluster: "default/secure:443"}},
		{kind: "HTTPRoute", ref: ref("", "secure", 443), gateway: edge, want: Target{Cluster: "default/secure:443@infra/edge"}},
		{kind: "HTTPRoute", ref: ref("", "secure", 83), want: Target{Cluster: "default/secure:83", UpgradeHTTP1: true}},
		{kind: "HTTPRoute", ref: ref("", "secure", 84), want: Target{Cluster: "default/secure:84"}},
		{kind: "GRPCRoute", ref: ref("", "secure", 443), gateway: edge, want: Target{Cluster: "default/secure:443/grpc@infra/edge"}},
		{kind: "HTTPRoute", ref: ref("", "web", 80), gateway: edge, want: Target{Cluster: "default/web:80"}},
		{kind: "HTTPRoute", ref: ref("", "broken", 443), reason: ReasonInvalidTLSPolicy, says: "default/absent"},
		{kind: "TLSRoute", ref: ref("", "broken", 443), reason: ReasonInvalidTLSPolicy},
		{kind: "TLSRoute", ref: ref("", "broken", 443), pass: true, want: Target{Cluster: "default/broken:443/tcp"}},

		{kind: "HTTPRoute", ref: ref("other", "web", 80), want: Target{Cluster: "other/web:80"}},
		{kind: "GRPCRoute", ref: ref("other", "web", 80), reason: "RefNotPermitted", says: "GRPCRoutes of namespace default"},
		{kind: "HTTPRoute", ref: ref("other", "private", 80), reason: "RefNotPermitted"},
		{kind: "HTTPRoute", ref: ref("other", "nothing", 80), reason: "RefNotPermitted"},
		{kind: "HTTPRoute", ref: ref("other", "absent", 80), reason: "BackendNotFound"},
	} {
		got, p := x.Resolve(From{Kind: tt.kind, Namespace: "default", Gateway: tt.gateway, Passthrough: tt.pass}, tt.ref)
		where := string(tt.kind) + " to " + string(tt.ref.Name)
		if tt.reason != "" {
			if p == nil || p.Reason != tt.reason || !strings.Contains(p.Message, tt.says) {
				t.Errorf("%s: got %v, %+v; want %s that says %q", where, got, p, tt.reason, tt.says)
			}
			if got != (Target{}) {
				t.Errorf("%s: a wrong reference leads to %v", where, got)
			}
			continue
		}
		if p != nil || got != tt.want {
			t.Errorf("%s: got %v, %+v; want %v", where, got, p, tt.want)
			continue
		}
		if c := x.Cluster(got.Cluster); c == nil || c.Key != got.Cluster {
			t.Errorf("%s: cluster of %q is %v", where, got.Cluster, c)
		}
	}
}

func TestResolveOtherKinds(t *testing.T) {
	x := NewIndex(Options{})
	load(t, x, services)
	for _, tt := range []struct{ group, kind, says string }{
		{"", "Nonexistent", "kind Nonexistent of group core"},
		{"example.com", "Service", "group example.com"},
		{"multicluster.x-k8s.io", "ServiceImport", "ServiceImport"},
	} {
		r := ref("other", "web", 80)
		r.Group, r.Kind = (*gatewayv1.Group)(&tt.group), (*gatewayv1.Kind)(&tt.kind)
		if _, p := x.Resolve(From{Kind: "HTTPRoute", Namespace: "default"}, r); p == nil || p.Reason != "InvalidKind" || !strings.Contains(p.Message, tt.says) {
			t.Errorf("got %+v, want InvalidKind that says %q", p, tt.says)
		}
	}
}

func TestClusterProtocols(t *testing.T) {
	x := NewIndex(Options{})
	load(t, x, services)
	for _, tt := range []struct {
		kind gatewayv1.Kind
		ref  gatewayv1.BackendObjectReference
		want upstream.Protocol
		tls  bool
	}{
		{"HTTPRoute", ref("", "web", 80), upstream.HTTP1, false},
		{"HTTPRoute", ref("", "web", 81), upstream.H2, false},
		{"HTTPRoute", ref("", "web", 82), upstream.HTTP1, false},
		{"HTTPRoute", ref("", "web", 84), upstream.H2, false},
		{"HTTPRoute", ref("", "secure", 443), upstream.HTTP1, true},
		{"HTTPRoute", ref("", "secure", 84), upstream.H2, true},
		{"GRPCRoute", ref("", "web", 80), upstream.H2, false},
		{"GRPCRoute", ref("", "secure", 443), upstream.H2, true},
		{"TLSRoute", ref("", "secure", 443), upstream.HTTP1, true},
		{"TCPRoute", ref("", "web", 81), upstream.HTTP1, false},
		{"UDPRoute", ref("", "web", 53), upstream.HTTP1, false},
	} {
		got, p := x.Resolve(From{Kind: tt.kind, Namespace: "default"}, tt.ref)
		if p != nil {
			t.Fatal(p)
		}
		c := x.Cluster(got.Cluster)
		if c.Protocol != tt.want || (c.TLS != nil) != tt.tls {
			t.Errorf("%s to %s: protocol %v, TLS %v; want %v, %v", tt.kind, got.Cluster, c.Protocol, c.TLS, tt.want, tt.tls)
		}
	}
}

// A policy that can no longer be met must not leave the cluster that its routes
// still name to plaintext, nor to whom it trusted before.
func TestClusterOfAPolicyThatBreaksFailsClosed(t *testing.T) {
	x := NewIndex(Options{})
	load(t, x, services)
	got, p := x.Resolve(From{Kind: "HTTPRoute", Namespace: "default"}, ref("", "secure", 443))
	if p != nil {
		t.Fatal(p)
	}
	if c := x.Cluster(got.Cluster); c.TLS.Invalid != "" || c.TLS.Roots == nil || c.TLS.ServerName != "secure.example.com" {
		t.Fatalf("TLS of a valid policy is %+v", c.TLS)
	}
	x.DeleteConfigMap(in("ca"))
	if c := x.Cluster(got.Cluster); c.TLS == nil || c.TLS.Invalid == "" || c.TLS.Roots != nil {
		t.Errorf("TLS is %+v, want one that is invalid", c.TLS)
	}
	if ch := x.TakeChanges(); len(ch.Services) == 0 || !ch.Policies {
		t.Errorf("changes %+v do not tell", ch)
	}
}

func TestClientCertificate(t *testing.T) {
	x := NewIndex(Options{})
	load(t, x, services)
	from := From{Kind: "HTTPRoute", Namespace: "default", Gateway: edge}
	x.SetClientCertificate(edge, clientCert)
	own, _ := x.Resolve(from, ref("", "secure", 443))
	if c := x.Cluster(own.Cluster); c.TLS.Certificate != clientCert {
		t.Error("the Gateway's certificate is not presented")
	}
	shared, _ := x.Resolve(From{Kind: "HTTPRoute", Namespace: "default", Gateway: inner}, ref("", "secure", 443))
	if c := x.Cluster(shared.Cluster); c.TLS.Certificate != nil {
		t.Error("another Gateway presents a certificate that is not its own")
	}
	renewed := *clientCert
	x.TakeChanges()
	x.SetClientCertificate(edge, &renewed)
	if ch := x.TakeChanges(); len(ch.Clusters) != 1 || ch.Clusters[0] != in("secure") {
		t.Errorf("changes %+v", ch)
	}
	if c := x.Cluster(own.Cluster); c.TLS.Certificate != &renewed {
		t.Error("the renewed certificate is not presented")
	}
	x.SetClientCertificate(edge, nil)
	if c := x.Cluster(own.Cluster); c != nil {
		t.Errorf("the Gateway's own cluster outlives its certificate: %+v", c)
	}
	if again, _ := x.Resolve(from, ref("", "secure", 443)); again != shared {
		t.Errorf("without a certificate it resolves to %v, want %v", again, shared)
	}
}

func TestPermits(t *testing.T) {
	x := NewIndex(Options{})
	load(t, x, `
kind: ReferenceGrant
metadata: {name: a, namespace: certs}
spec:
  from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: infra}, {group: gateway.networking.k8s.io, kind: ListenerSet, namespace: apps}]
  to: [{group: "", kind: Secret}]
---
kind: ReferenceGrant
metadata: {name: b, namespace: certs}
spec:
  from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: infra}]
  to: [{group: "", kind: ConfigMap, name: one}]
`)
	for _, tt := range []struct {
		kind, namespace string
		to              Referent
		want            bool
	}{
		{"Gateway", "infra", Referent{Kind: "Secret", Namespace: "certs", Name: "any"}, true},
		{"ListenerSet", "apps", Referent{Kind: "Secret", Namespace: "certs", Name: "any"}, true},
		{"ListenerSet", "infra", Referent{Kind: "Secret", Namespace: "certs", Name: "any"}, false},
		{"Gateway", "apps", Referent{Kind: "Secret", Namespace: "certs", Name: "any"}, false},
		{"Gateway", "infra", Referent{Kind: "ConfigMap", Namespace: "certs", Name: "one"}, true},
		{"Gateway", "infra", Referent{Kind: "ConfigMap", Namespace: "certs", Name: "two"}, false},
		{"Gateway", "infra", Referent{Group: "example.com", Kind: "Secret", Namespace: "certs", Name: "any"}, false},
		{"Gateway", "infra", Referent{Kind: "Secret", Namespace: "apps", Name: "any"}, false},
		{"Gateway", "infra", Referent{Kind: "Secret", Namespace: "infra", Name: "any"}, true},
	} {
		if got := x.Permits(Referrer{Group: gatewayv1.GroupName, Kind: gatewayv1.Kind(tt.kind), Namespace: tt.namespace}, tt.to); got != tt.want {
			t.Errorf("%s of %s to %+v: %v", tt.kind, tt.namespace, tt.to, got)
		}
	}
	x.DeleteReferenceGrant(types.NamespacedName{Namespace: "certs", Name: "a"})
	if x.Permits(Referrer{Group: gatewayv1.GroupName, Kind: "Gateway", Namespace: "infra"}, Referent{Kind: "Secret", Namespace: "certs", Name: "any"}) {
		t.Error("a grant outlives its object")
	}
}

func TestClusterOfWhatIsGone(t *testing.T) {
	x := NewIndex(Options{})
	load(t, x, services)
	from := From{Kind: "HTTPRoute", Namespace: "default"}
	gone, _ := x.Resolve(from, ref("", "web", 82))
	stays, _ := x.Resolve(from, ref("", "web", 80))
	load(t, x, "kind: Service\nmetadata: {name: web}\nspec: {ports: [{name: http, port: 80}]}")
	if c := x.Cluster(gone.Cluster); c != nil {
		t.Errorf("the cluster of a port that is gone is %+v", c)
	}
	if x.Cluster(stays.Cluster) == nil || len(x.services[in("web")].clusters) != 1 {
		t.Error("the cluster of the port that stays is not all that is left")
	}
	x.DeleteService(in("web"))
	if c := x.Cluster(stays.Cluster); c != nil {
		t.Errorf("the cluster of a Service that is gone is %+v", c)
	}
	for _, key := range []string{"", "web", "web:80", "default/web", "default/web:80/grpc", "no/such:1"} {
		if c := x.Cluster(key); c != nil {
			t.Errorf("cluster of %q is %+v", key, c)
		}
	}
}
