package edgetest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

// TestUninstall is the last one by the name of its file: what it needs is there
// already, as controllers are slow for a minute after an outage. It wants nothing of the edge to be
// left but what belongs to Gateways, and that to go with them.
func TestUninstall(t *testing.T) {
	quickstart(t)
	addressOf(t, "default", "eg")
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	if meshlab.Kept() {
		t.Cleanup(func() {
			if err := meshlab.InstallEdge(context.Background(), envoyController); err != nil {
				t.Error(err)
			}
		})
	}
	if err := meshlab.UninstallEdge(ctx); err != nil {
		t.Fatal(err)
	}
	wantNone := func(what, kinds, selector string) {
		t.Helper()
		meshlab.Eventually(t, what, func() error {
			if left := meshlab.Kubectl(t, "get", kinds, "-A", "-o", "name", "--selector="+selector); strings.TrimSpace(left) != "" {
				return fmt.Errorf("there is %s", strings.Join(strings.Fields(left), ", "))
			}
			return nil
		})
	}
	wantNone("nothing of adit is left", "namespaces,pods,services,secrets,configmaps,leases,networkpolicies,poddisruptionbudgets,serviceaccounts,roles,rolebindings,"+
		"clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings,gatewayclasses",
		"app.kubernetes.io/part-of=adit,adit-mesh.github.io/role!=alias")
	wantNone("its namespace is gone", "namespaces", "kubernetes.io/metadata.name="+meshlab.System)
	meshlab.Kubectl(t, "delete", "gateway", "eg")
	wantNone("what belonged to a Gateway went with it", "services", "gateway.networking.k8s.io/gateway-name=eg")
}
