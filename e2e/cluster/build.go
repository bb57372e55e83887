package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Images that every cluster has.
const (
	AppImage   = "registry.local/adit-testapp:dev" // command testapp
	infraImage = "registry.local/adit-testinfra:dev"
)

// DefaultImage is the name that BuildAdit gives the product's image when it is asked for no other.
const DefaultImage = "adit:latest"

var components = []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl"}

// bin is a program that the cluster has its own copy of.
func (c *Cluster) bin(name string) string { return filepath.Join(c.dir, "bin", name) }

func (c *Cluster) images() string { return filepath.Join(c.dir, "images") }

// buildTools compiles what the cluster consists of and the project has source of.
func (c *Cluster) buildTools(ctx context.Context) error {
	for _, dir := range []string{filepath.Join(c.dir, "bin"), c.images()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	// A copy, because the node's file system hides some of the host's.
	all := filepath.Join(c.cfg.Root, ".tools/kubernetes/kubernetes")
	if err := os.Link(all, c.bin("kubernetes")); err != nil {
		if err := copyFile(all, c.bin("kubernetes"), 0o755); err != nil {
			return fmt.Errorf("%w; run `make setup-cluster`", err)
		}
	}
	for _, name := range components {
		if err := os.Symlink("kubernetes", c.bin(name)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if err := c.goBuild(ctx, "machine", "pause", "testapp", "infra"); err != nil {
		return err
	}
	for _, image := range []struct{ name, program string }{
		{pauseImage, "pause"}, {AppImage, "testapp"}, {infraImage, "infra"},
	} {
		archive := filepath.Join(c.images(), image.program+".tar")
		if err := c.pack(ctx, archive, image.name, "/"+image.program+"="+c.bin(image.program)); err != nil {
			return err
		}
	}
	return nil
}

// LoadApp puts command testapp on all nodes under another image's name, for
// manifests that name that image. Its containers run it with these arguments if
// the manifest has none.
func (c *Cluster) LoadApp(ctx context.Context, tag string, args ...string) error {
	if err := c.goBuild(ctx, "testapp"); err != nil {
		return err
	}
	archive := filepath.Join(c.images(), strings.NewReplacer("/", "_", ":", "_").Replace(tag)+".tar")
	if err := c.pack(ctx, archive, tag, "-cmd", strings.Join(args, " "), "/testapp="+c.bin("testapp")); err != nil {
		return err
	}
	return c.LoadImage(ctx, archive)
}

// goBuild builds commands of this package's directory, and the image packer.
func (c *Cluster) goBuild(ctx context.Context, names ...string) error {
	packages := []string{"build", "-trimpath", "-ldflags", "-s -w", "-o", c.bin("") + "/"}
	for _, name := range names {
		packages = append(packages, "./e2e/cluster/"+name)
	}
	if err := c.golang(ctx, c.cfg.Root, packages...); err != nil {
		return err
	}
	return c.golang(ctx, filepath.Join(c.cfg.Root, "tools"), "build", "-o", c.bin("image"), "./image")
}

// BuildAdit builds the product from the checkout and packs it under a name such
// as adit:dev; it returns the archive, for LoadImage.
func (c *Cluster) BuildAdit(ctx context.Context, tag string) (archive string, err error) {
	archive = filepath.Join(c.images(), strings.NewReplacer("/", "_", ":", "_").Replace(tag)+".tar")
	var files []string
	for _, name := range []string{"adit", "adit-cni"} {
		out := filepath.Join(c.images(), name)
		if err := c.golang(ctx, c.cfg.Root, "build", "-trimpath", "-ldflags", "-s -w -X main.version="+tag, "-o", out, "./cmd/"+name); err != nil {
			return "", err
		}
		files = append(files, "/"+name+"="+out)
	}
	return archive, c.pack(ctx, archive, tag, files...)
}

// pack writes an image whose entry point is its first file.
func (c *Cluster) pack(ctx context.Context, archive, tag string, files ...string) error {
	out, err := exec.CommandContext(ctx, c.bin("image"), append([]string{"-tag", tag, "-out", archive}, files...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("pack %s: %w: %s", tag, err, strings.TrimSpace(string(out)))
	}
	return nil
}

func (c *Cluster) golang(ctx context.Context, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	// It writes into the cluster's directory, which whoever cleans up after us removes.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// LoadImage puts an image archive on every node. A tag that is there already moves
// to the new image; pods that run go on with the old one.
func (c *Cluster) LoadImage(ctx context.Context, archive string) error {
	archive, err := filepath.Abs(archive)
	if err != nil {
		return err
	}
	for _, n := range c.nodes {
		if err := n.loadImage(ctx, archive); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) loadImage(ctx context.Context, archive string) error {
	f, err := os.Open(archive) // here: the path may be hidden on the node
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := n.exec(ctx, f, "/usr/bin/ctr", "-n", "k8s.io", "images", "import", "-"); err != nil {
		return fmt.Errorf("load %s: %w", archive, err)
	}
	return nil
}

func copyFile(from, to string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}
