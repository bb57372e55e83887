package edgetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

// echoDeployment is a Service and a Deployment of the echo server behind it.
func echoDeployment(service, name, port string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata:
  name: %[1]s
  labels: {example: http-routing}
spec:
  selector: {app: %[2]s}
  ports:
  - {name: http, port: %[3]s, targetPort: 3000}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: %[2]s
  labels: {example: http-routing}
spec:
  selector:
    matchLabels: {app: %[2]s}
  template:
    metadata:
      labels: {app: %[2]s}
    spec:
      containers:
      - name: %[2]s
        image: %[4]s
        env:
        - name: POD_NAME
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        - name: NAMESPACE
          valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
---
`, service, name, port, echoImage)
}

// TestRouting goes through the routing part of the tutorial "Envoy Gateway, an
// API gateway for Kubernetes", with routes as it shows them.
func TestRouting(t *testing.T) {
	var backends strings.Builder
	for service, name := range map[string]string{
		"example-svc": "example-backend", "foo-svc": "foo-backend", "bar-svc": "bar-backend", "bar-canary-svc": "bar-canary-backend",
	} {
		backends.WriteString(echoDeployment(service, name, "8080"))
	}
	meshlab.Apply(t, "default", backends.String())
	applyFile(t, "routing/gateway.yaml")
	applyFile(t, "routing/routes.yaml")
	t.Cleanup(func() {
		_, _ = meshlab.Cluster().Kubectl(context.Background(), "delete", "--wait=false", "--selector=example=http-routing",
			"httproutes,gateways,gatewayclasses,services,deployments")
	})

	at := addressOf(t, "default", "example-gateway")
	if got := columns(t, "gc", "--selector=example=http-routing"); got["NAME"] != "example-gateway-class" || got["CONTROLLER"] != envoyController || got["ACCEPTED"] != "True" {
		t.Errorf("kubectl get gc: %v", got)
	}
	if got := columns(t, "gateways", "--selector=example=http-routing"); got["NAME"] != "example-gateway" || got["CLASS"] != "example-gateway-class" ||
		got["ADDRESS"] != at.String() || got["PROGRAMMED"] != "True" {
		t.Errorf("kubectl get gateways: %v", got)
	}
	meshlab.Eventually(t, "the routes' status is the tutorial's", tutorialStatus)

	for _, v := range []version{h1, h2} {
		c := newClient(v, at, nil)
		if v == h2 { // without TLS, by prior knowledge
			c = newClientH2C(at)
		}
		defer c.close()
		c.reach(t, "example-backend-", "http://example.com/")
		c.reach(t, "foo-backend-", "http://foo.example.com/login")
		c.reach(t, "foo-backend-", "http://foo.example.com/login/any")
		c.refused(t, 404, "http://foo.example.com/logins")
		c.refused(t, 404, "http://foo.example.com/")
		c.refused(t, 404, "http://other.example.com/")
		c.reach(t, "bar-canary-backend-", "http://bar.example.com/", "env", "canary")
		c.reach(t, "bar-backend-", "http://bar.example.com/", "env", "canaries")
		c.reach(t, "bar-backend-", "http://bar.example.com/")
	}
}

func tutorialStatus() error {
	var list struct{ Items []routeObject }
	if err := getJSON(context.Background(), &list, "httproutes.v1beta1.gateway.networking.k8s.io", "--selector=example=http-routing"); err != nil {
		return err
	}
	var names []string
	for _, r := range list.Items {
		names = append(names, r.Metadata.Name)
		if r.APIVersion != "gateway.networking.k8s.io/v1beta1" || len(r.Status.Parents) != 1 {
			return fmt.Errorf("%s, %s: parents %+v", r.APIVersion, r.Metadata.Name, r.Status.Parents)
		}
		p := r.Status.Parents[0]
		if want := (reference{Group: "gateway.networking.k8s.io", Kind: "Gateway", Name: "example-gateway"}); p.ParentRef != want || p.ControllerName != envoyController {
			return fmt.Errorf("%s: parent %+v of %s", r.Metadata.Name, p.ParentRef, p.ControllerName)
		}
		var kinds []string
		for _, c := range p.Conditions {
			kinds = append(kinds, c.Type)
			if c.Status != "True" || c.Reason != c.Type || c.ObservedGeneration != 1 || c.LastTransitionTime == "" || c.Message == "" {
				return fmt.Errorf("%s: %+v", r.Metadata.Name, c)
			}
		}
		if !slices.Equal(kinds, []string{"Accepted", "ResolvedRefs"}) {
			return fmt.Errorf("%s: conditions %v", r.Metadata.Name, kinds)
		}
	}
	if want := []string{"bar-route", "example-route", "foo-route"}; !slices.Equal(names, want) {
		return fmt.Errorf("routes %v, want %v", names, want)
	}
	return nil
}

// TestCanary edits the weights of two backends while clients ask.
func TestCanary(t *testing.T) {
	quickstart(t)
	applyFile(t, "canary/backend-2.yaml")
	applyFile(t, "canary/http-headers.yaml")
	removeAfter(t, "canary/http-headers.yaml", "canary/backend-2.yaml")
	route(t, "default", "http-headers", "ResolvedRefs", "True", "ResolvedRefs")
	at := addressOf(t, "default", "eg")
	meshlab.Available(t, "default", "backend-2")

	run := traffic{at: at, url: "http://backends.example/bar", versions: []version{h1}, every: 4e6}.start(t)
	share := func(low, high float64) {
		t.Helper()
		run.sofar(t, "weights edited")
		run.progress(t, 300)
		var first, second int
		for pod, n := range run.pods() {
			if strings.HasPrefix(pod, "backend-2-") {
				second += n
			} else {
				first += n
			}
		}
		t.Logf("backend %d, backend-2 %d", first, second)
		if got := float64(second) / float64(first+second); got < low || got > high {
			t.Errorf("backend-2 has %.0f %% of %d requests, want %.0f to %.0f", 100*got, first+second, 100*low, 100*high)
		}
	}
	meshlab.Eventually(t, "both backends answer", func() error {
		if n := len(run.pods()); n < 2 {
			return fmt.Errorf("%d does", n)
		}
		return nil
	})
	share(0.40, 0.60)
	meshlab.Kubectl(t, "patch", "httproute", "http-headers", "--type=json", "--patch",
		`[{"op": "replace", "path": "/spec/rules/0/backendRefs/1/weight", "value": 2}]`)
	route(t, "default", "http-headers", "Accepted", "True", "Accepted")
	share(0.57, 0.76)
	run.unharmed(t, "weights edited")
}

// TestRewrite has a prefix taken off, by a route as the tutorial shows it.
func TestRewrite(t *testing.T) {
	quickstart(t)
	meshlab.Apply(t, "default", echoDeployment("httpbin", "httpbin", "8000")+`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: apps
  labels: {example: http-routing}
spec:
  gatewayClassName: eg
  listeners:
  - {name: http, protocol: HTTP, port: 80}`)
	applyFile(t, "routing/rewrite.yaml")
	removeAfter(t, "routing/rewrite.yaml")
	t.Cleanup(func() {
		_, _ = meshlab.Cluster().Kubectl(context.Background(), "delete", "--wait=false", "gateway/apps", "service/httpbin", "deployment/httpbin")
	})
	c := newClient(h1, addressOf(t, "default", "apps"), nil)
	defer c.close()
	for path, want := range map[string]string{
		"/httpbin/get": "/get", "/httpbin/": "/", "/httpbin": "/", "/httpbin/a%2Fb/c?d=e": "/a%2Fb/c?d=e",
	} {
		if a := c.reach(t, "httpbin-", "http://httpbin.example.com"+path); a.Path != want {
			t.Errorf("%s arrives as %s, want %s", path, a.Path, want)
		}
	}
	c.refused(t, 404, "http://httpbin.example.com/httpbinary")
}
