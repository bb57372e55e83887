package edgetest

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

// TestUninstall is the last one by the name of its file. It wants nothing of the
// edge to be left but what is not its to delete: definitions, and the users' own objects.
func TestUninstall(t *testing.T) {
	s := openShop(t, false, 1)
	s.client(h2).reach(t, "shop-", s.url("/"))
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	t.Cleanup(func() { // for a cluster that is kept
		if err := meshlab.InstallEdge(context.Background(), envoyController); err != nil {
			t.Error(err)
		}
	})
	if err := meshlab.UninstallEdge(ctx); err != nil {
		t.Fatal(err)
	}
	meshlab.Eventually(t, "nothing of the edge is left", func() error {
		left := meshlab.Kubectl(t, "get", "services,leases,secrets,configmaps,clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings,gatewayclasses",
			"-A", "-o", "name", "--selector=app.kubernetes.io/part-of=adit")
		left += meshlab.Kubectl(t, "get", "services", "-A", "-o", "name", "--selector=app.kubernetes.io/managed-by=adit-ingress")
		if left = strings.TrimSpace(left); left != "" {
			return leftBehind(left)
		}
		return nil
	})
}

type leftBehind string

func (l leftBehind) Error() string { return "there is " + string(l) }
