package edgetest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

// outage is how long the API server is away.
const outage = 30 * time.Second

// TestServerAway has no request fail while the API server is away, and what is
// changed afterwards come into effect.
func TestServerAway(t *testing.T) {
	s := openShop(t, true, 1)
	run := s.load(t)
	c := meshlab.Cluster()
	running := true
	again := func() {
		if running {
			return
		}
		running = true
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if err := c.StartAPIServer(); err != nil {
			t.Error(err)
		} else if err := c.WaitReady(ctx); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(again)
	if err := c.StopAPIServer(); err != nil {
		t.Fatal(err)
	}
	running = false
	began := time.Now()
	for time.Since(began) < outage {
		run.progress(t, 20)
	}
	t.Logf("the API server was away for %s", time.Since(began).Round(time.Second))
	again()

	second := s.ca.fresh(t, s.host)
	meshlab.Apply(t, s.ns, secret("shop", second)+`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: moved}
spec:
  parentRefs: [{name: shop}]
  rules:
  - matches: [{path: {type: Exact, value: /moved}}]
    filters:
    - type: URLRewrite
      urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /here}}
    backendRefs: [{name: shop, port: 80}]`)
	for _, v := range []version{h1, h3} {
		meshlab.Eventually(t, "changes made after the outage are served over "+string(v), func() error {
			c := s.client(v)
			defer c.close()
			a, err := c.get(t.Context(), s.url("/moved"))
			if err != nil {
				return err
			}
			if got := c.leaf.Load().SerialNumber.String(); a.Path != "/here" || got != second.serial {
				return fmt.Errorf("path %s, certificate %s", a.Path, got)
			}
			return nil
		})
	}
	// The leader may have given the Lease up meanwhile; somebody has it again.
	route(t, s.ns, "moved", "Accepted", "True", "Accepted")
	run.unharmed(t, "API server away")
}
