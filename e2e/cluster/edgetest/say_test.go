package edgetest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

// TestWhatAditSays asks the pods of the edge, through the API server, what they
// serve and what would become of requests.
func TestWhatAditSays(t *testing.T) {
	s := openShop(t, true, 1)
	meshlab.Apply(t, s.ns, `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: canary}
spec:
  parentRefs: [{name: shop}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /pay}, headers: [{name: env, value: canary}]}]
    backendRefs: [{name: nothing, port: 80}]`)
	route(t, s.ns, "canary", "ResolvedRefs", "False", "BackendNotFound")
	c := s.client(h3)
	defer c.close()
	c.reach(t, "shop-", s.url("/pay"))

	meshlab.Eventually(t, "adit status gateways shows both pods and what is wrong", func() error {
		out, err := meshlab.Adit("status", "gateways")
		if err != nil {
			return err
		}
		for _, want := range []string{s.ns + "/shop", "serving", "HTTPRoute/" + s.ns + "/canary", "BackendNotFound"} {
			if !strings.Contains(out, want) {
				return fmt.Errorf("there is no %q in\n%s", want, out)
			}
		}
		return nil
	})
	var status struct {
		Agents []struct {
			Error  string
			Status struct {
				Pod     string
				Leading bool
				Served  struct {
					Ports []struct{ Gateway, State, HTTP3 string }
				}
			}
		}
	}
	if err := meshlab.AditJSON(&status, "status", "gateways"); err != nil {
		t.Fatal(err)
	}
	leading := 0
	for _, a := range status.Agents {
		if a.Error != "" || len(a.Status.Served.Ports) == 0 {
			t.Errorf("of a pod of the edge: %+v", a)
		}
		if a.Status.Leading {
			leading++
		}
	}
	if len(status.Agents) != 2 || leading != 1 {
		t.Errorf("%d pods of the edge, %d of them lead; want 2 and 1: %+v", len(status.Agents), leading, status.Agents)
	}

	for _, ask := range []struct {
		args []string
		want []string
	}{
		{[]string{"why", s.url("/pay"), "--gateway", s.ns + "/shop"}, []string{"HTTPRoute/" + s.ns + "/shop", "/shop:80", "terminated"}},
		{[]string{"why", s.url("/pay"), "--gateway", s.ns + "/shop", "-H", "env: canary"}, []string{"HTTPRoute/" + s.ns + "/canary", "500"}},
	} {
		out, err := meshlab.Adit(ask.args...)
		if err != nil {
			t.Errorf("adit %v: %v", ask.args, err)
		}
		for _, want := range ask.want {
			if !strings.Contains(out, want) {
				t.Errorf("adit %v says nothing of %q:\n%s", ask.args, want, out)
			}
		}
		t.Logf("adit %v\n%s", ask.args, out)
	}

	meshlab.Eventually(t, "a pod of the edge counts the request", func() error {
		series := fmt.Sprintf(`gateway="%s/shop"`, s.ns)
		for _, at := range edgeAddrs(t) {
			page, err := metrics(t.Context(), at.String())
			if err != nil {
				return err
			}
			for line := range strings.Lines(page) {
				if strings.HasPrefix(line, "adit_ingress_requests_total{") && strings.Contains(line, series) {
					return nil
				}
			}
		}
		return fmt.Errorf("no adit_ingress_requests_total with %s", series)
	})
}

// metrics is the page of a pod.
func metrics(ctx context.Context, ip string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(ip, "15020")+"/metrics", nil)
	if err != nil {
		return "", err
	}
	res, err := checker.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	page, err := io.ReadAll(res.Body)
	return string(page), err
}
