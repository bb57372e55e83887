package conformance

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/adit-mesh/adit/e2e/cluster"
)

// The images that the suite's manifests name, and what they are built from.
var images = []struct{ program, dir, pkg, tag string }{
	{"echo-basic", ".", "sigs.k8s.io/gateway-api/conformance/echo-basic", "registry.k8s.io/gateway-api/echo-basic:v1.5.1"},
	{"echo-basic", ".", "sigs.k8s.io/gateway-api/conformance/echo-basic", "registry.k8s.io/gateway-api/echo-basic:v1.6.0-dev.3"},
	{"coredns", "dns", ".", "registry.k8s.io/coredns/coredns:v1.12.2"},
}

// backends builds the images of the suite's backends and puts them on the nodes.
func backends(ctx context.Context, c *cluster.Cluster) error {
	dir := filepath.Join(c.Dir(), "images")
	for _, i := range images {
		binary := filepath.Join(dir, i.program)
		if err := run(ctx, i.dir, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, i.pkg); err != nil {
			return err
		}
		archive := filepath.Join(dir, strings.NewReplacer("/", "_", ":", "_").Replace(i.tag)+".tar")
		if err := run(ctx, ".", filepath.Join(c.Dir(), "bin", "image"), "-tag", i.tag, "-out", archive, "/"+i.program+"="+binary); err != nil {
			return err
		}
		if err := c.LoadImage(ctx, archive); err != nil {
			return err
		}
	}
	return nil
}

// install puts adit on the cluster as its README does, with the experimental
// channel of Gateway API, whose fields the suite tests, too.
func install(ctx context.Context, c *cluster.Cluster) error {
	archive, err := c.BuildAdit(ctx, cluster.DefaultImage)
	if err != nil {
		return err
	}
	if err := c.LoadImage(ctx, archive); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"apply", "--server-side", "-k", filepath.Join(root, "deploy/crds/gateway-api/experimental")},
		{"wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"},
		{"apply", "-k", filepath.Join(root, "deploy/overlays/ingress")},
		{"-n", "adit-system", "rollout", "status", "--timeout=180s", "deployment/adit-ca"},
		{"-n", "adit-system", "rollout", "status", "--timeout=180s", "daemonset/adit"},
		{"-n", "adit-system", "rollout", "status", "--timeout=180s", "deployment/adit-ingress"},
	} {
		began := time.Now()
		out, err := c.Kubectl(ctx, args...)
		if err != nil {
			return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
		}
		fmt.Fprintf(os.Stderr, "kubectl %s (%s)\n", strings.Join(args, " "), time.Since(began).Round(time.Millisecond))
	}
	return nil
}

func run(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
