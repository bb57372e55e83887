package edge

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// What the churn case has.
const (
	churnRoutes = 3000
	churnSites  = 60 // listeners with a certificate each, of 64 that a Gateway may have
	churnFiles  = 60 // that the routes are spread over
)

// churnWorld writes the objects: routes r0, r1, … of site (i mod churnSites), each with a Service and an endpoint of its own.
type churnWorld struct {
	proxy    *proxy
	backends []string
	version  int
}

func (w *churnWorld) dir() string { return filepath.Join(w.proxy.dir, "gateway") }

func (w *churnWorld) writeAll() error {
	if err := replace(filepath.Join(w.dir(), "edge.yaml"), w.gateway()); err != nil {
		return err
	}
	for i := range churnFiles {
		if err := w.writeRoutes(i); err != nil {
			return err
		}
	}
	for i := range churnSites {
		if err := w.writeCertificate(i); err != nil {
			return err
		}
	}
	return nil
}

func (w *churnWorld) gateway() string {
	var b strings.Builder
	host, httpPort := split(w.proxy.http)
	fmt.Fprintf(&b, `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: adit
  addresses: [{value: %s}]
  listeners:
  - {name: http, protocol: HTTP, port: %s}
`, host, httpPort)
	for i := range churnSites {
		fmt.Fprintf(&b, "  - {name: s%d, protocol: HTTPS, port: %s, hostname: '*.s%d.bench.test', tls: {certificateRefs: [{name: s%d}]}}\n",
			i, port(w.proxy.https), i, i)
	}
	return b.String()
}

// writeRoutes writes a file of routes with their Services and endpoints. Each version differs in a header of the
// request and in the port of the endpoint.
func (w *churnWorld) writeRoutes(file int) error {
	w.version++
	var b strings.Builder
	for i := file; i < churnRoutes; i += churnFiles {
		host, backendPort := split(w.backends[(i+w.version)%len(w.backends)])
		fmt.Fprintf(&b, `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r%d}
spec:
  parentRefs: [{name: edge, sectionName: s%d}]
  hostnames: [r%d.s%d.bench.test]
  rules:
  - filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-version, value: "%d"}]}}]
    backendRefs: [{name: r%d, port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: r%d}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: r%d, labels: {kubernetes.io/service-name: r%d}}
addressType: IPv4
ports: [{port: %s}]
endpoints: [{addresses: [%s]}]
---
`, i, i%churnSites, i, i%churnSites, w.version, i, i, i, i, backendPort, host)
	}
	return replace(filepath.Join(w.dir(), fmt.Sprintf("routes-%d.yaml", file)), b.String())
}

func (w *churnWorld) writeCertificate(site int) error {
	cert, key, err := certificate(fmt.Sprintf("*.s%d.bench.test", site))
	if err != nil {
		return err
	}
	indent := func(pem []byte) string { return strings.ReplaceAll(strings.TrimSpace(string(pem)), "\n", "\n    ") }
	return replace(filepath.Join(w.dir(), fmt.Sprintf("cert-%d.yaml", site)), fmt.Sprintf(`apiVersion: v1
kind: Secret
metadata: {name: s%d}
type: kubernetes.io/tls
stringData:
  tls.crt: |
    %s
  tls.key: |
    %s
`, site, indent(cert), indent(key)))
}

// churn has visitors of all protocols while every route, endpoint and certificate changes at least once.
func churn(t *trial) (results, error) {
	w := &churnWorld{proxy: t.proxy, backends: t.fleet.backends}
	if err := os.MkdirAll(w.dir(), 0o755); err != nil {
		return nil, err
	}
	if err := w.writeAll(); err != nil {
		return nil, err
	}
	visit := visitOrder{
		Addr: t.proxy.https, Sites: churnSites, Routes: churnRoutes, Visitors: map[string]int{protoH1S: 4, protoH2: 4, protoH3: 2},
	}
	if err := t.awaitChurn(visit); err != nil {
		return nil, err
	}
	rounds := max(churnFiles, int(t.duration/(50*time.Millisecond)))
	calm, err := t.visited(visit, func() error { return sleep(t.ctx, max(t.duration, 2*time.Second)) })
	if err != nil {
		return nil, err
	}
	changes := 0
	busy, err := t.visited(visit, func() error {
		for i := range rounds {
			if err := w.writeRoutes(i % churnFiles); err != nil {
				return err
			}
			if err := w.writeCertificate(i % churnSites); err != nil {
				return err
			}
			changes += 2*churnRoutes/churnFiles + 1
			if err := sleep(t.ctx, 50*time.Millisecond); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, text := range busy.Errors {
		t.note("churn: %s", text)
	}
	took, err := w.changeOne(t)
	if err != nil {
		return nil, err
	}
	return results{
		"": float64(busy.Failed), "requests": float64(busy.Requests), "changes": float64(changes), "p99": busy.P99, "calm-p99": calm.P99,
		"change": took, "rss": float64(t.proxy.rss()) / (1 << 20),
	}, nil
}

// visited has visitors while something is done.
func (t *trial) visited(o visitOrder, while func() error) (r visitResult, err error) {
	if err := t.fleet.client.Call(t.ctx, "visit", o, nil); err != nil {
		return r, err
	}
	doing := while()
	err = t.fleet.client.Call(context.WithoutCancel(t.ctx), "leave", nil, &r)
	if doing != nil {
		return r, doing
	}
	if err == nil && r.Requests == 0 {
		err = fmt.Errorf("no request was made")
	}
	return r, err
}

// awaitChurn waits until every host is served: visitors fail no more.
func (t *trial) awaitChurn(o visitOrder) error {
	var r visitResult
	for range 60 {
		var err error
		if r, err = t.visited(o, func() error { return sleep(t.ctx, 500*time.Millisecond) }); err != nil {
			return err
		}
		if r.Failed == 0 && r.Requests > churnRoutes/10 {
			return nil
		}
	}
	return fmt.Errorf("%d routes are not served after 30 s: %d of %d requests failed: %q", churnRoutes, r.Failed, r.Requests, r.Errors)
}

// changeOne is how long one new route takes among all the others, in ms.
func (w *churnWorld) changeOne(t *trial) (float64, error) {
	const path = "/one-more"
	var r changeResult
	err := t.fleet.client.Call(t.ctx, "change", changeOrder{
		File: filepath.Join(w.dir(), "one.yaml"), Addr: w.proxy.http, Path: path, Patience: 20 * time.Second,
		Content: fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: one-more}
spec:
  parentRefs: [{name: edge, sectionName: http}]
  rules:
  - {matches: [{path: {type: PathPrefix, value: %s}}], backendRefs: [{name: r0, port: 80}]}
`, path),
	}, &r)
	return float64(r.Took.Microseconds()) / 1e3, err
}
