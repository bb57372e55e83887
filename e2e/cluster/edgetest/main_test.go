package edgetest

import (
	"context"
	"testing"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

// What the manifests that are applied as they stand name: a controller, and an image that echoes requests.
const (
	envoyController = "gateway.envoyproxy.io/gatewayclass-controller"
	echoImage       = "gcr.io/k8s-staging-ingressconformance/echoserver:v20221109-7ee2f3e"
)

func TestMain(m *testing.M) { meshlab.Main(m, "adit-edgetest", prepare) }

// prepare puts on the cluster what the manifests need.
func prepare(ctx context.Context) error {
	if err := meshlab.Cluster().LoadApp(ctx, echoImage, "echo"); err != nil {
		return err
	}
	if err := meshlab.InstallEdge(ctx, envoyController); err != nil {
		return err
	}
	return balance(ctx)
}
