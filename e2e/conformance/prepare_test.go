package conformance

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/gateway-api/conformance"

	"github.com/adit-mesh/adit/e2e/cluster"
)

// programs are what the images in the suite's manifests consist of, by repository.
var programs = map[string]struct{ name, dir, pkg string }{
	"registry.k8s.io/gateway-api/echo-basic": {"echo-basic", ".", "sigs.k8s.io/gateway-api/conformance/echo-basic"},
	"registry.k8s.io/coredns/coredns":        {"coredns", "dns", "."},
}

// images are the names of all images in the suite's manifests.
func images() ([]string, error) {
	named := make(map[string]bool)
	pattern := regexp.MustCompile(`(?m)^\s*(?:- )?image:\s*(\S+)`)
	err := fs.WalkDir(conformance.Manifests, ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".yaml") || strings.HasPrefix(path, "mesh/") || strings.HasPrefix(path, "tests/mesh/") {
			return err
		}
		raw, err := conformance.Manifests.ReadFile(path)
		for _, m := range pattern.FindAllSubmatch(raw, -1) {
			named[string(m[1])] = true
		}
		return err
	})
	return slices.Sorted(maps.Keys(named)), err
}

// backends builds the images of the suite's backends and puts them on the nodes.
func backends(ctx context.Context, c *cluster.Cluster) error {
	names, err := images()
	if err != nil {
		return err
	}
	dir := filepath.Join(c.Dir(), "images")
	for _, name := range names {
		repository, _, _ := strings.Cut(name, ":")
		p, ok := programs[repository]
		if !ok {
			return fmt.Errorf("the suite's image %s: it is not known what it is built from", name)
		}
		binary := filepath.Join(dir, p.name)
		if err := run(ctx, p.dir, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, p.pkg); err != nil {
			return err
		}
		archive := filepath.Join(dir, strings.NewReplacer("/", "_", ":", "_").Replace(name)+".tar")
		if err := run(ctx, ".", filepath.Join(c.Dir(), "bin", "image"), "-tag", name, "-out", archive, "/"+p.name+"="+binary); err != nil {
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
	kubectl := func(args ...string) (string, error) {
		began := time.Now()
		out, err := c.Kubectl(ctx, args...)
		if err != nil {
			return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
		}
		fmt.Fprintf(os.Stderr, "kubectl %s (%s)\n", strings.Join(args, " "), time.Since(began).Round(time.Millisecond))
		return out, nil
	}
	workloads := []string{"deployment/adit-ca", "daemonset/adit-agent", "deployment/adit-ingress"}
	steps := [][]string{
		{"apply", "--server-side", "-f", filepath.Join(root, "deploy/crds/gateway-api/experimental")},
		{"wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"},
		{"apply", "-k", filepath.Join(root, "deploy/overlays/ingress")},
	}
	before, err := kubectl("get", "pods", "--namespace=adit-system", "--output=name")
	if err != nil {
		return err
	}
	if before != "" { // of an earlier run, and of an image that had the same name
		steps = append(steps, append([]string{"rollout", "restart", "--namespace=adit-system"}, workloads...))
	}
	for _, w := range workloads {
		steps = append(steps, []string{"rollout", "status", "--namespace=adit-system", "--timeout=180s", w})
	}
	for _, args := range steps {
		if _, err := kubectl(args...); err != nil {
			return err
		}
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
