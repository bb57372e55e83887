package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/adit-mesh/adit/e2e/edgeclient"
	"github.com/adit-mesh/adit/e2e/edgedemo"
	"github.com/adit-mesh/adit/e2e/lab"
	"github.com/adit-mesh/adit/e2e/lab/labtest"
	"github.com/adit-mesh/adit/e2e/testbed"
)

// border is an edge with a client before it and a node behind it. Nothing runs
// yet.
type border struct {
	*testbed.EdgeNetwork
	edge  *testbed.Edge
	agent *testbed.Agent
	files testbed.Files
	root  *testbed.Root
}

func newBorder(t *testing.T) *border {
	t.Helper()
	n, err := testbed.BuildEdge(labtest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	b := &border{EdgeNetwork: n, files: testbed.Files{Dir: t.TempDir()}}
	if b.root, err = testbed.NewRoot(); err != nil {
		t.Fatal(err)
	}
	b.edge = &testbed.Edge{Binary: mustBinary(t), NS: n.Edge, Files: b.files}
	b.agent = &testbed.Agent{Binary: mustBinary(t), Files: b.files, Node: n.Node}
	if err := os.MkdirAll(b.edge.Dir(), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for _, path := range []string{b.edge.Log(), b.edge.AccessLog(), b.files.Log(n.Node), b.files.AccessLog(n.Node)} {
			for _, line := range testbed.LastLines(path, 20) {
				t.Logf("%s: %s", filepath.Base(path), line)
			}
		}
	})
	return b
}

// put writes a file of the edge's directory.
func (b *border) put(t *testing.T, name, content string) {
	t.Helper()
	if err := b.edge.Put(name, content); err != nil {
		t.Fatal(err)
	}
}

// certificate makes the Secret www, of a certificate for names.
func (b *border) certificate(t *testing.T, names ...string) {
	t.Helper()
	c, err := b.root.Issue(names...)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(b.files.Dir, "certificates")
	if err := testbed.WriteCertificate(dir, "www", c); err != nil {
		t.Fatal(err)
	}
	b.put(t, "secret.yaml", fmt.Sprintf(`apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata:
  name: www
  annotations: {adit-mesh.github.io/files: "tls.crt=%[1]s/www.crt,tls.key=%[1]s/www.key"}
`, dir))
}

// service is a Service with one endpoint, in YAML.
func service(name string, port uint16, p *testbed.Pod) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec: {ports: [{port: %[2]d, targetPort: %[3]d}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
ports: [{port: %[3]d}]
endpoints: [{addresses: [%[4]s]}]
`, name, port, testbed.AppPort, p.V4)
}

// simple is a Gateway with HTTP and HTTPS, and a route of everything to web.
func (b *border) simple(t *testing.T) {
	t.Helper()
	b.certificate(t, "www.example.com")
	b.put(t, "edge.yaml", `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: adit
  listeners:
  - {name: http, port: 80, protocol: HTTP}
  - {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: www}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: www}
spec:
  parentRefs: [{name: edge}]
  rules:
  - backendRefs: [{name: web, port: 80}]
    timeouts: {request: 30s}
`+service("web", 80, b.Web))
}

// world writes the mesh file, with pods in the mesh.
func (b *border) world(t *testing.T, policies string, pods ...*testbed.Pod) {
	t.Helper()
	if err := testbed.Replace(b.files.World(), b.World(policies, pods...)); err != nil {
		t.Fatal(err)
	}
}

// run starts the edge.
func (b *border) run(t *testing.T, more ...string) {
	t.Helper()
	if _, err := b.edge.Start(t.Context(), more...); err != nil {
		t.Fatal(err)
	}
}

// runAgent starts the node's agent.
func (b *border) runAgent(t *testing.T) {
	t.Helper()
	if _, err := b.agent.Start(t.Context(), testbed.Settings{}); err != nil {
		t.Fatal(err)
	}
}

// app runs an application in a pod.
func app(t *testing.T, p *testbed.Pod, h http.Handler) {
	t.Helper()
	stop, err := testbed.Serve(p.NS, fmt.Sprintf(":%d", testbed.AppPort), h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
}

// target is a port of the edge, as the client reaches it.
func (b *border) target(port uint16) edgeclient.Target {
	return edgeclient.Target{NS: b.Client, Addr: netip.AddrPortFrom(b.Outside, port), Roots: b.root.Pool()}
}

// client speaks one version to the edge's HTTPS port.
func (b *border) client(t *testing.T, v edgeclient.Version) *edgeclient.Client {
	t.Helper()
	return newClient(t, b.target(443), v)
}

func newClient(t *testing.T, to edgeclient.Target, v edgeclient.Version) *edgeclient.Client {
	c := edgeclient.New(to, v)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// seen is what the application saw of a request that has to be answered with 200.
func seen(ctx context.Context, c *edgeclient.Client, url string, headers ...string) (testbed.Seen, edgeclient.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var s testbed.Seen
	a, err := c.Get(ctx, url, headers...)
	if err == nil && a.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", a.Status, a.Content)
	}
	if err == nil {
		err = json.Unmarshal(a.Content, &s)
	}
	if err != nil {
		err = fmt.Errorf("%s by %s: %w", url, c.Version, err)
	}
	return s, a, err
}

// eventually waits for f to find nothing wrong.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	if err := testbed.Poll(t.Context(), patience, f); err != nil {
		t.Fatal(err)
	}
}

// The browser is for make demo-ingress: it takes longer than all tests of the edge.
func TestEdgeDemoHoldsAndLeavesNothing(t *testing.T) {
	labtest.Require(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out strings.Builder
	dir := filepath.Join(t.TempDir(), "demo")
	o := edgedemo.Options{Binary: mustBinary(t), Dir: dir, Pictures: t.TempDir(), Out: &out, NoBrowser: true}
	if err := edgedemo.Run(ctx, o); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	for line := range strings.Lines(out.String()) {
		if strings.Contains(line, "not shown") {
			t.Log(strings.TrimSpace(line))
		}
	}
	if left, _ := os.ReadDir(lab.Dir); len(left) > 0 {
		t.Errorf("namespaces are left: %v", left)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is left", dir)
	}
}

func contextOf(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}

func mustRequest(ctx context.Context, url string) *http.Request {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		panic(err)
	}
	return req
}
