package e2e

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/e2e/edgeclient"
	"github.com/adit-mesh/adit/e2e/testbed"
	"github.com/adit-mesh/adit/hbone"
	"github.com/adit-mesh/adit/identity"
	"github.com/adit-mesh/adit/identity/ca"
)

// openssl runs the program in dir.
func openssl(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("openssl", args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// httpbinConfig is what certificates for an HTTP/3 gateway are commonly made of
// in walk-throughs of Istio.
const httpbinConfig = `[req]
default_bits = 2048
prompt = no
distinguished_name = req_distinguished_name
req_extensions = san_reqext
[ req_distinguished_name ]
countryName = XX
stateOrProvinceName = YY
organizationName = QuicCorp
[ san_reqext ]
subjectAltName = @alt_names
[alt_names]
DNS.0 = httpbin.quic-corp.com
`

// httpbin is httpbin's /headers.
func httpbin(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Access-Control-Allow-Origin", "*")
	w.Header().Set("Access-Control-Allow-Credentials", "true")
	w.Header().Set("Content-Type", "application/json")
	headers := map[string]string{"Host": r.Host}
	for k := range r.Header {
		headers[k] = r.Header.Get(k)
	}
	if len(r.TransferEncoding) > 0 {
		headers["Transfer-Encoding"] = r.TransferEncoding[0]
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"headers": headers})
}

// farEnd is the other end of the edge's tunnels, written here so that a test can
// see the certificate that the edge shows. It returns the hashes of those.
func farEnd(t *testing.T, b *border, p *testbed.Pod) func() map[string]bool {
	t.Helper()
	td := spiffeid.RequireTrustDomainFromString(testbed.TrustDomain)
	issuer, err := ca.Open(ca.Config{Dir: b.files.CA(), TrustDomain: td, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	ids := identity.NewManager(identity.ManagerConfig{Source: issuer, TrustDomains: []spiffeid.TrustDomain{td}})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = ids.Run(ctx) })
	id := spiffeid.RequireFromString(p.Identity())
	release := ids.Acquire(id)
	var mu sync.Mutex
	hashes := make(map[string]bool)
	server := hbone.NewServer(hbone.ServerConfig{TLS: ids.ServerTLS(id), Handler: func(ctx context.Context, s *hbone.Stream) {
		defer s.Close()
		mu.Lock()
		hashes[fmt.Sprintf("%x", sha256.Sum256(s.ConnectionState().PeerCertificates[0].Raw))] = true
		mu.Unlock()
		app, err := p.NS.Dial(ctx, nil, "tcp", fmt.Sprintf("127.0.0.1:%d", testbed.AppPort))
		if err != nil || s.Accept() != nil {
			return
		}
		defer app.Close()
		go func() { _, _ = io.Copy(app, s); _ = app.(*net.TCPConn).CloseWrite() }()
		_, _ = io.Copy(s, app)
	}})
	l, err := p.NS.Listen("tcp", ":15008")
	if err != nil {
		t.Fatal(err)
	}
	running.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() { _ = server.Close(); release(); cancel(); running.Wait() })
	return func() map[string]bool {
		mu.Lock()
		defer mu.Unlock()
		out := make(map[string]bool)
		for h := range hashes {
			out[h] = true
		}
		return out
	}
}

// The walk-through of HTTP/3 at Istio's gateway, with Gateway API's objects: the
// certificates made in the same way, the same requests, the same headers.
func TestHTTPBinOverHTTP3(t *testing.T) {
	b := newBorder(t)
	certs := filepath.Join(b.files.Dir, "openssl")
	if err := os.MkdirAll(certs, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(certs, "httpbin.cnf"), []byte(httpbinConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	openssl(t, certs, "req", "-x509", "-sha256", "-nodes", "-days", "365", "-newkey", "rsa:4096", "-subj", "/C=XX/ST=YY/O=QuicCorp",
		"-keyout", "quiccorp-ca.key", "-out", "quiccorp-ca.crt")
	openssl(t, certs, "req", "-out", "httpbin.csr", "-newkey", "rsa:2048", "-nodes", "-keyout", "httpbin.key", "-config", "httpbin.cnf")
	openssl(t, certs, "x509", "-req", "-days", "365", "-CA", "quiccorp-ca.crt", "-CAkey", "quiccorp-ca.key", "-set_serial", "0",
		"-in", "httpbin.csr", "-out", "httpbin.crt", "-extfile", "httpbin.cnf", "-extensions", "san_reqext")
	b.put(t, "httpbin.yaml", fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: httpbin-gateway}
spec:
  gatewayClassName: adit
  listeners:
  - name: https
    port: 443
    protocol: HTTPS
    hostname: httpbin.quic-corp.com
    tls: {mode: Terminate, certificateRefs: [{name: httpbin-cred}]}
---
apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata:
  name: httpbin-cred
  annotations: {adit-mesh.github.io/files: "tls.crt=%[1]s/httpbin.crt,tls.key=%[1]s/httpbin.key"}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: httpbin-route}
spec:
  parentRefs: [{name: httpbin-gateway}]
  hostnames: [httpbin.quic-corp.com]
  rules:
  - name: httpbin-default-route
    backendRefs: [{name: httpbin, port: 8000}]
`, certs)+service("httpbin", 8000, b.Web))
	b.world(t, "", b.Web)
	hashes := farEnd(t, b, b.Web)
	app(t, b.Web, http.HandlerFunc(httpbin))
	b.run(t)

	raw, err := os.ReadFile(filepath.Join(certs, "quiccorp-ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	to := b.target(443)
	to.Roots = x509.NewCertPool()
	to.Roots.AppendCertsFromPEM(raw)
	hex := func(n int) *regexp.Regexp { return regexp.MustCompile(fmt.Sprintf("^[0-9a-f]{%d}$", n)) }
	exact := func(s string) *regexp.Regexp { return regexp.MustCompile("^" + regexp.QuoteMeta(s) + "$") }
	for _, v := range edgeclient.Versions {
		c := newClient(t, to, v)
		a, err := c.Get(t.Context(), "https://httpbin.quic-corp.com/headers", "User-Agent", "curl", "Accept", "*/*")
		if err != nil || a.StatusCode != http.StatusOK {
			t.Errorf("%s: %v, %v", v, a.Response, err)
			continue
		}
		for name, want := range map[string]*regexp.Regexp{
			"Server": exact("adit"), "Date": regexp.MustCompile(" GMT$"), "Content-Type": exact("application/json"),
			"Content-Length":              exact(fmt.Sprint(len(a.Content))),
			"Access-Control-Allow-Origin": exact("*"), "Access-Control-Allow-Credentials": exact("true"),
			"X-Envoy-Upstream-Service-Time": regexp.MustCompile(`^\d+$`), "Alt-Svc": exact(`h3=":443"; ma=86400`),
		} {
			if got := a.Header.Get(name); !want.MatchString(got) {
				t.Errorf("%s: the answer's %s is %q, want %s", v, name, got, want)
			}
		}
		var saw struct{ Headers map[string]string }
		if err := json.Unmarshal(a.Content, &saw); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]*regexp.Regexp{
			"Accept": exact("*/*"), "Host": exact("httpbin.quic-corp.com"), "User-Agent": exact("curl"),
			"X-B3-Traceid": hex(32), "X-B3-Spanid": hex(16), "X-B3-Parentspanid": hex(16), "X-B3-Sampled": exact("0"),
			"X-Envoy-Attempt-Count": exact("1"), "X-Envoy-Internal": exact("true"),
			"X-Forwarded-For": exact(b.ClientV4.String()), "X-Forwarded-Proto": exact("https"),
			// Unlike there: a request without a body is not made one with a body of
			// unknown length.
			"Transfer-Encoding": exact(""), "Content-Length": exact(""),
		} {
			if got := saw.Headers[name]; !want.MatchString(got) {
				t.Errorf("%s: the pod saw %s: %q, want %s", v, name, got, want)
			}
		}
		m := regexp.MustCompile(`^By=(.*);Hash=([0-9a-f]{64});Subject="";URI=(.*)$`).FindStringSubmatch(saw.Headers["X-Forwarded-Client-Cert"])
		if m == nil || m[1] != b.Web.Identity() || m[3] != testbed.EdgeIdentity {
			t.Errorf("%s: the pod saw X-Forwarded-Client-Cert: %s", v, saw.Headers["X-Forwarded-Client-Cert"])
		} else if !hashes()[m[2]] {
			t.Errorf("%s: the hash %s is not that of the certificate that the edge showed: %v", v, m[2], hashes())
		}
	}
	if out, err := exec.LookPath("curl"); err != nil {
		t.Log("curl is not installed, and was not asked")
	} else {
		cmd := exec.Command(out, "-svk", "--http2", "--resolve", "httpbin.quic-corp.com:443:"+b.Outside.String(), "https://httpbin.quic-corp.com/headers")
		var said strings.Builder
		cmd.Stderr = &said
		p, err := b.Client.Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(); err != nil || !strings.Contains(said.String(), "< HTTP/2 200") || !strings.Contains(said.String(), `< alt-svc: h3=":443"; ma=86400`) {
			t.Errorf("curl: %v\n%s", err, &said)
		}
	}
}

// The walk-through of HTTP/3 at Envoy Gateway, with its class, a certificate
// without a subjectAltName, a listener that is added while the Gateway runs, and
// its policy.
func TestEnvoyGatewaysHTTP3(t *testing.T) {
	b := newBorder(t)
	certs := filepath.Join(b.files.Dir, "openssl")
	if err := os.MkdirAll(certs, 0o700); err != nil {
		t.Fatal(err)
	}
	openssl(t, certs, "req", "-x509", "-sha256", "-nodes", "-days", "365", "-newkey", "rsa:2048", "-subj", "/O=example Inc./CN=example.com",
		"-keyout", "example.com.key", "-out", "example.com.crt")
	openssl(t, certs, "req", "-out", "www.example.com.csr", "-newkey", "rsa:2048", "-nodes", "-keyout", "www.example.com.key",
		"-subj", "/CN=www.example.com/O=example organization")
	openssl(t, certs, "x509", "-req", "-days", "365", "-CA", "example.com.crt", "-CAkey", "example.com.key", "-set_serial", "0",
		"-in", "www.example.com.csr", "-out", "www.example.com.crt")
	const gatewayHTTP = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: eg
spec:
  gatewayClassName: eg
  listeners:
    - name: http
      protocol: HTTP
      port: 80
`
	b.put(t, "gateway.yaml", gatewayHTTP)
	b.put(t, "class.yaml", `kind: GatewayClass
apiVersion: gateway.networking.k8s.io/v1
metadata:
  name: eg
spec:
  controllerName: gateway.envoyproxy.io/gatewayclass-controller
`)
	b.put(t, "route.yaml", `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: backend
spec:
  parentRefs:
    - name: eg
  hostnames:
    - "www.example.com"
  rules:
    - backendRefs:
        - group: ""
          kind: Service
          name: backend
          port: 3000
          weight: 1
      matches:
        - path:
            type: PathPrefix
            value: /
`)
	b.put(t, "backend.yaml", service("backend", 3000, b.Web))
	app(t, b.Web, testbed.Echo("backend-58d58f745-l878w"))
	b.runConfigured(t, "gateway.envoyproxy.io/gatewayclass-controller")

	plain := newClient(t, b.target(80), edgeclient.HTTP1)
	if _, a, err := seen(t.Context(), plain, "http://www.example.com/get"); err != nil {
		t.Fatal(err)
	} else if a.Header.Get("Alt-Svc") != "" {
		t.Errorf("an answer over plain HTTP says alt-svc: %s", a.Header.Get("Alt-Svc"))
	}
	b.put(t, "secret.yaml", fmt.Sprintf(`apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata:
  name: example-cert
  annotations: {adit-mesh.github.io/files: "tls.crt=%[1]s/www.example.com.crt,tls.key=%[1]s/www.example.com.key"}
`, certs))
	b.put(t, "gateway.yaml", gatewayHTTP+`    - name: https
      protocol: HTTPS
      port: 443
      tls:
        mode: Terminate
        certificateRefs:
        - kind: Secret
          group: ""
          name: example-cert
`)
	b.put(t, "policy.yaml", `apiVersion: gateway.envoyproxy.io/v1alpha1
kind: ClientTrafficPolicy
metadata:
  name: enable-http3
spec:
  http3: {}
  targetRef:
    group: gateway.networking.k8s.io
    kind: Gateway
    name: eg
    namespace: default
`)
	// As curl -k: the certificate has a common name alone.
	to := b.target(443)
	to.Verify = func(tls.ConnectionState) error { return nil }
	for _, v := range edgeclient.Versions {
		c := newClient(t, to, v)
		var s testbed.Seen
		var a edgeclient.Answer
		eventually(t, func() (err error) {
			s, a, err = seen(t.Context(), c, "https://www.example.com/get")
			return err
		})
		if cn := a.TLS.PeerCertificates[0].Subject.CommonName; cn != "www.example.com" {
			t.Errorf("%s: the certificate is of %s", v, cn)
		}
		// The Gateway's port, which is the one that a client can reach.
		if got := a.Header.Get("Alt-Svc"); got != `h3=":443"; ma=86400` {
			t.Errorf("%s: alt-svc: %s", v, got)
		}
		for name, want := range map[string]string{
			"X-Envoy-Expected-Rq-Timeout-Ms": "15000", "X-Envoy-Internal": "true", "X-Forwarded-For": b.ClientV4.String(), "X-Forwarded-Proto": "https",
		} {
			if got := s.Headers.Get(name); got != want {
				t.Errorf("%s: the backend saw %s: %q, want %q", v, name, got, want)
			}
		}
		if s.Proto != "HTTP/1.1" || s.Path != "/get" || s.Host != "www.example.com" || s.Pod != "backend-58d58f745-l878w" || s.Headers.Get("X-Request-Id") == "" {
			t.Errorf("%s: the backend saw %+v", v, s)
		}
		if s.Headers.Get("X-Forwarded-Client-Cert") != "" {
			t.Errorf("%s: a backend that is not in the mesh is told of a tunnel: %v", v, s.Headers)
		}
	}
	if _, _, err := seen(t.Context(), plain, "http://www.example.com/get"); err != nil {
		t.Errorf("the listener that was there before: %v", err)
	}
}

// runConfigured starts the edge with a configuration file instead of flags, to
// serve the GatewayClasses of a controller.
func (b *border) runConfigured(t *testing.T, controller string) {
	t.Helper()
	path := filepath.Join(b.files.Dir, "ingress.yaml")
	config := fmt.Sprintf("ingress:\n  config: %s\n  controllerNames: [%s]\n  accessLog: {format: json}\n", b.edge.Dir(), controller)
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	b.edge.ConfigFile = path
	b.run(t)
}

// routesByHostPathAndHeader are three routes as kubectl get -o yaml prints them, served by the
// API that was there before v1.
const routesByHostPathAndHeader = `apiVersion: v1
kind: List
metadata:
  resourceVersion: ""
items:
- apiVersion: gateway.networking.k8s.io/v1beta1
  kind: HTTPRoute
  metadata:
    creationTimestamp: "2023-10-15T07:42:05Z"
    generation: 1
    labels:
      example: http-routing
    name: bar-route
    namespace: default
    resourceVersion: "218855"
    uid: 942917bb-defd-4099-936f-6a14c5bd2a19
  spec:
    hostnames:
    - bar.example.com
    parentRefs:
    - group: gateway.networking.k8s.io
      kind: Gateway
      name: example-gateway
    rules:
    - backendRefs:
      - group: ""
        kind: Service
        name: bar-canary-svc
        port: 8080
        weight: 1
      matches:
      - headers:
        - name: env
          type: Exact
          value: canary
        path:
          type: PathPrefix
          value: /
    - backendRefs:
      - group: ""
        kind: Service
        name: bar-svc
        port: 8080
        weight: 1
      matches:
      - path:
          type: PathPrefix
          value: /
  status:
    parents:
    - conditions:
      - lastTransitionTime: "2023-10-15T07:42:05Z"
        message: Route is accepted
        observedGeneration: 1
        reason: Accepted
        status: "True"
        type: Accepted
      controllerName: gateway.envoyproxy.io/gatewayclass-controller
      parentRef:
        group: gateway.networking.k8s.io
        kind: Gateway
        name: example-gateway
- apiVersion: gateway.networking.k8s.io/v1beta1
  kind: HTTPRoute
  metadata:
    creationTimestamp: "2023-10-15T07:42:01Z"
    labels:
      example: http-routing
    name: example-route
    namespace: default
  spec:
    hostnames:
    - example.com
    parentRefs:
    - group: gateway.networking.k8s.io
      kind: Gateway
      name: example-gateway
    rules:
    - backendRefs:
      - group: ""
        kind: Service
        name: example-svc
        port: 8080
        weight: 1
      matches:
      - path:
          type: PathPrefix
          value: /
- apiVersion: gateway.networking.k8s.io/v1beta1
  kind: HTTPRoute
  metadata:
    creationTimestamp: "2023-10-15T07:42:02Z"
    labels:
      example: http-routing
    name: foo-route
    namespace: default
  spec:
    hostnames:
    - foo.example.com
    parentRefs:
    - group: gateway.networking.k8s.io
      kind: Gateway
      name: example-gateway
    rules:
    - backendRefs:
      - group: ""
        kind: Service
        name: foo-svc
        port: 8080
        weight: 1
      matches:
      - path:
          type: PathPrefix
          value: /login
`

// canaryRoute is a route to two backends. An empty weight is the default, 1.
func canaryRoute(weight, weight2 string) string {
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1beta1
kind: HTTPRoute
metadata:
  name: http-headers
spec:
  parentRefs:
  - name: example-gateway
  hostnames:
  - backends.example
  rules:
  - matches:
    - path:
        type: PathPrefix
        value: /
    backendRefs:
    - group: ""
      kind: Service
      name: backend
      port: 3000
%s    - group: ""
      kind: Service
      name: backend-2
      port: 3000
%s`, weight, weight2)
}

// The walk-through of routing at Envoy Gateway: by host, path and header, by
// weights that are edited, and with a rewrite.
func TestEnvoyGatewaysRouting(t *testing.T) {
	b := newBorder(t)
	b.put(t, "gateway.yaml", `apiVersion: gateway.networking.k8s.io/v1beta1
kind: GatewayClass
metadata: {name: example-gateway-class, labels: {example: http-routing}}
spec: {controllerName: gateway.envoyproxy.io/gatewayclass-controller}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: Gateway
metadata: {name: example-gateway, labels: {example: http-routing}}
spec:
  gatewayClassName: example-gateway-class
  listeners:
  - {name: http, protocol: HTTP, port: 80}
`)
	b.put(t, "routes.yaml", routesByHostPathAndHeader)
	services := ""
	for _, name := range []string{"example-svc", "foo-svc", "bar-svc"} {
		services += service(name, 8080, b.Web)
	}
	services += service("bar-canary-svc", 8080, b.Next) + service("backend", 3000, b.Web) + service("backend-2", 3000, b.Next) + service("httpbin", 8000, b.Web)
	b.put(t, "services.yaml", services)
	b.put(t, "canary.yaml", canaryRoute("", ""))
	b.put(t, "httpbin.yaml", `apiVersion: gateway.networking.k8s.io/v1beta1
kind: HTTPRoute
metadata:
  name: httpbin
spec:
  parentRefs:
    - group: gateway.networking.k8s.io
      kind: Gateway
      name: example-gateway
  hostnames:
    - "apps.example.com"
  rules:
    - matches:
        - path:
            type: PathPrefix
            value: /httpbin/
      filters:
        - type: URLRewrite
          urlRewrite:
            path:
              type: ReplacePrefixMatch
              replacePrefixMatch: /
      backendRefs:
        - group: ""
          kind: Service
          name: httpbin
          port: 8000
          weight: 1
`)
	app(t, b.Web, testbed.Echo("web"))
	app(t, b.Next, testbed.Echo("next"))
	b.runConfigured(t, "gateway.envoyproxy.io/gatewayclass-controller")
	c := newClient(t, b.target(80), edgeclient.HTTP1)
	at := "http://" + b.Outside.String()
	for _, tt := range []struct {
		why, host, path, env string
		status               int
		pod, saw             string
	}{
		{"by host", "example.com", "/", "", 200, "web", "/"},
		{"by path", "foo.example.com", "/login", "", 200, "web", "/login"},
		{"by path, and below it", "foo.example.com", "/login/now?x=1", "", 200, "web", "/login/now?x=1"},
		{"no route has this path", "foo.example.com", "/", "", 404, "", ""},
		{"a prefix is of whole segments", "foo.example.com", "/loginx", "", 404, "", ""},
		{"by header", "bar.example.com", "/", "canary", 200, "next", "/"},
		{"without the header", "bar.example.com", "/", "", 200, "web", "/"},
		{"with another value", "bar.example.com", "/", "canaryx", 200, "web", "/"},
		{"no route has this host", "other.example.com", "/", "", 404, "", ""},
		{"rewritten", "apps.example.com", "/httpbin/headers?x=1", "", 200, "web", "/headers?x=1"},
		{"rewritten to the root", "apps.example.com", "/httpbin/", "", 200, "web", "/"},
		{"rewritten to the root, without a slash", "apps.example.com", "/httpbin", "", 200, "web", "/"},
		{"not rewritten, and not served", "apps.example.com", "/headers", "", 404, "", ""},
	} {
		headers := []string{"Host", tt.host}
		if tt.env != "" {
			headers = append(headers, "env", tt.env)
		}
		a, err := c.Get(t.Context(), at+tt.path, headers...)
		if err != nil || a.StatusCode != tt.status {
			t.Errorf("%s: %s%s is answered with %v, %v; want %d", tt.why, tt.host, tt.path, a.Response, err, tt.status)
			continue
		}
		if tt.status != 200 {
			continue
		}
		var s testbed.Seen
		if err := json.Unmarshal(a.Content, &s); err != nil || s.Pod != tt.pod || s.Path != tt.saw || s.Host != tt.host {
			t.Errorf("%s: pod %s saw %s%s (%v), want %s and %s%s", tt.why, s.Pod, s.Host, s.Path, err, tt.pod, tt.host, tt.saw)
		}
	}

	// Shares of 300 requests: five standard deviations are 0.145.
	share := func() (float64, error) {
		next := 0
		for range 300 {
			s, _, err := seen(t.Context(), c, at+"/bar", "Host", "backends.example")
			if err != nil {
				return 0, err
			}
			if s.Pod == "next" {
				next++
			}
		}
		return float64(next) / 300, nil
	}
	if got, err := share(); err != nil || got < 0.355 || got > 0.645 {
		t.Errorf("with equal weights the second backend has a share of %v (%v)", got, err)
	}
	b.put(t, "canary.yaml", canaryRoute("      weight: 1\n", "      weight: 2\n"))
	eventually(t, func() error {
		out, err := b.edge.Get(t.Context(), testbed.AdminURL+"/route?url=http://backends.example/bar")
		if err == nil && !strings.Contains(string(out), `"weight": 2`) && !strings.Contains(string(out), `"weight":2`) {
			err = errors.New("the edge still has the old weights")
		}
		return err
	})
	if got, err := share(); err != nil || got < 0.52 || got > 0.81 {
		t.Errorf("with weights 1:2 the second backend has a share of %v (%v)", got, err)
	}
}
