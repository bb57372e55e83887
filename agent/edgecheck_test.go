package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const checkedGateway = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: adit
  listeners: [{name: http, protocol: HTTP, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{name: edge}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
`

const checkedService = `
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
`

func TestCheckGateways(t *testing.T) {
	for _, c := range []struct{ why, text, want string }{
		{"all is well", checkedGateway + checkedService, ""},
		{"a reference to nothing", checkedGateway, "BackendNotFound"},
		{"a field that there is not", strings.Replace(checkedGateway, "parentRefs", "parentRef", 1), "spec.parentRef: there is no such field"},
		{"no YAML", "a: [", "gw.yaml"},
	} {
		t.Run(c.why, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "gw.yaml"), []byte(c.text), 0o644); err != nil {
				t.Fatal(err)
			}
			cfg := DefaultConfig()
			cfg.Capture, cfg.Ingress = false, &IngressConfig{Config: dir}
			err := Check(cfg, slog.New(slog.DiscardHandler))
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !IsConfigError(err)):
				t.Errorf("error is %v; want one that says %q", err, c.want)
			}
		})
	}
}
