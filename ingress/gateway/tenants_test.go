package gateway

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/adit-mesh/adit/ingress"
)

// TestTenantsDoNotConfigureThePort: a ListenerSet that shares a port with the
// Gateway does not change what holds for all of the port.
func TestTenantsDoNotConfigureThePort(t *testing.T) {
	for _, tc := range []struct {
		option, gateways string
		ok               bool
	}{
		{"zero-rtt: 'on'", "", false},
		{"http3: 'off'", "", false},
		{"http3-port: '8443'", "", false},
		{"http3: 'on'", "", true},
		{"zero-rtt: 'off'", "", true},
		{"zero-rtt: 'on'", "adit-mesh.github.io/zero-rtt: 'on'", true},
		{"min-tls-version: '1.3'", "", true},
	} {
		tr := newTestTranslator()
		for _, o := range objects(t, []byte(strings.NewReplacer("OPTION", "adit-mesh.github.io/"+tc.option, "GATEWAYS", tc.gateways).Replace(`
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: edge}
spec: {controllerName: adit-mesh.github.io/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: infra, generation: 1}
spec:
  gatewayClassName: edge
  allowedListeners: {namespaces: {from: All}}
  listeners:
  - {name: own, port: 443, protocol: HTTPS, hostname: a.test, tls: {certificateRefs: [{name: a}], options: {GATEWAYS}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: more, namespace: tenant, generation: 1}
spec:
  parentRef: {name: gw, namespace: infra}
  listeners:
  - {name: theirs, port: 443, protocol: HTTPS, hostname: b.test, tls: {certificateRefs: [{name: b}], options: {OPTION}}}
---
apiVersion: v1
kind: Secret
metadata: {name: a, namespace: infra, annotations: {test/certificate: "a.test"}}
type: kubernetes.io/tls
---
apiVersion: v1
kind: Secret
metadata: {name: b, namespace: tenant, annotations: {test/certificate: "b.test"}}
type: kubernetes.io/tls
`))) {
			tr.Set(o)
		}
		cfg, _ := tr.Build()
		if len(cfg.Ports) != 1 {
			t.Fatalf("%d ports", len(cfg.Ports))
		}
		want := ingress.QUIC{ZeroRTT: tc.gateways != ""}
		if p := cfg.Ports[0]; p.QUIC != want || (len(p.Listeners) == 2) != tc.ok {
			t.Errorf("%s: QUIC is %+v with %d listeners; want %+v, and the tenant's served: %v", tc.option, p.QUIC, len(p.Listeners), want, tc.ok)
		}
		if q := tr.Ports(types.NamespacedName{Namespace: "infra", Name: "gw"}); len(q) != 1 || !q[0].QUIC {
			t.Errorf("%s: ports are %+v", tc.option, q)
		}
	}
}
