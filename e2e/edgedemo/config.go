package edgedemo

import (
	"fmt"

	"github.com/adit-mesh/adit/e2e/testbed"
)

// name is what clients ask for.
const name = "www.example.com"

// site is the part of the edge's directory that does not change: where it
// listens, with which certificate, and where the backends are. The listener is
// for any name, as Debian 12's gtlsclient asks for none when it is given an address.
func site(n *testbed.EdgeNetwork, certificates string) string {
	s := fmt.Sprintf(`# The whole configuration of the edge is in this directory. Save a change, and it is in force.
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: adit
  listeners:
  - name: http
    port: 80
    protocol: HTTP
  - name: https        # HTTP/1.1 and HTTP/2 on TCP, HTTP/3 on UDP, port 443 all of them
    port: 443
    protocol: HTTPS
    tls: {certificateRefs: [{name: www}]}
---
apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata:
  name: www
  annotations: {adit-mesh.github.io/files: "tls.crt=%[1]s/www.crt,tls.key=%[1]s/www.key"}
`, certificates)
	for _, p := range []*testbed.Pod{n.Web, n.Next} {
		s += fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec: {ports: [{port: 80, targetPort: %[3]d}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
ports: [{port: %[3]d}]
endpoints: [{addresses: [%[2]s]}]
`, p.Name, p.V4, testbed.AppPort)
	}
	return s
}

// routes is the part that is edited while requests run.
func routes(web, next int, more string) string {
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: www}
spec:
  parentRefs: [{name: edge}]
  hostnames: [%s]
  rules:
  - backendRefs:
    - {name: web, port: 80, weight: %d}
    - {name: next, port: 80, weight: %d}
%s`, name, web, next, more)
}

// canary is a rule to be added: whoever carries a header gets the other pod.
const canary = `  - matches: [{headers: [{name: env, value: canary}]}]
    backendRefs: [{name: next, port: 80}]
`
