package meshlab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/adit-mesh/adit/e2e/cluster"
)

// System is the namespace of agents and CA.
const System = "adit-system"

// Overlay is what [Install] applies, as a user writes it in the checkout.
const Overlay = "deploy/overlays/default"

var (
	current *cluster.Cluster
	root    string // of the checkout
	asIs    bool   // what is installed is not to be touched before the tests
)

// Main is for TestMain: it runs the tests on a cluster of that name, or of
// ADIT_CLUSTER_NAME, and takes the cluster down. Without ADIT_CLUSTER=1 it runs
// nothing and says so. With ADIT_CLUSTER_KEEP=1 a cluster that is up is used, with
// adit of this checkout, and left up; with ADIT_CLUSTER_KEEP=asis also the adit
// that runs there is left as it is. What else a binary's tests need is prepared
// once adit is installed.
func Main(m *testing.M, name string, prepare ...func(context.Context) error) {
	if os.Getenv("ADIT_CLUSTER") != "1" {
		fmt.Println("SKIP: needs a cluster of its own, which takes root and `make setup-cluster`; run `make test-cluster`")
		os.Exit(0)
	}
	if other := os.Getenv("ADIT_CLUSTER_NAME"); other != "" {
		name = other
	}
	os.Exit(run(m, name, Kept(), prepare))
}

func run(m *testing.M, name string, keep bool, prepare []func(context.Context) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	cfg := cluster.Config{Name: name, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	err := start(ctx, cfg, keep)
	for _, p := range prepare {
		if err == nil {
			err = p(ctx)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "meshlab:", err)
		if current != nil && !keep {
			if err := current.Down(); err != nil {
				fmt.Fprintln(os.Stderr, "meshlab:", err)
			}
		}
		return 1
	}
	interrupted := context.AfterFunc(ctx, func() {
		if !keep {
			_ = current.Down()
		}
		os.Exit(1)
	})
	code := m.Run()
	interrupted()
	end := current.Down
	if keep {
		end = current.Close
	}
	if err := end(); err != nil {
		fmt.Fprintln(os.Stderr, "meshlab:", err)
		return 1
	}
	return code
}

func start(ctx context.Context, cfg cluster.Config, keep bool) (err error) {
	if root, err = checkout(); err != nil {
		return err
	}
	attached := false
	if keep {
		current, err = cluster.Attach(cfg)
		attached = err == nil
	}
	if !attached {
		if current, err = cluster.Up(ctx, cfg); err != nil {
			return err
		}
	}
	if asIs = attached && os.Getenv("ADIT_CLUSTER_KEEP") == "asis"; asIs {
		return nil
	}
	archive, err := current.BuildAdit(ctx, cluster.DefaultImage)
	if err != nil {
		return err
	}
	if err := current.LoadImage(ctx, archive); err != nil {
		return err
	}
	crds := exec.CommandContext(ctx, "go", "-C", "tools", "run", "./crds", "-out", "../deploy/crds")
	crds.Dir = root
	if out, err := crds.CombinedOutput(); err != nil {
		return fmt.Errorf("write deploy/crds: %w: %s", err, out)
	}
	if _, err := current.Kubectl(ctx, "apply", "--server-side", "-f", "deploy/crds"); err != nil {
		return err
	}
	if _, err := current.Kubectl(ctx, "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"); err != nil {
		return err
	}
	if err := Install(ctx); err != nil || !attached {
		return err
	}
	// Those of an earlier run go on with the image that they were started with.
	if _, err := current.Kubectl(ctx, "-n", System, "rollout", "restart", "daemonset/adit-agent", "deployment/adit-ca"); err != nil {
		return err
	}
	return WaitInstalled(ctx)
}

// checkout is the nearest directory above that has a go.mod.
func checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("no go.mod above the working directory")
}

// Cluster is the one that the tests of this binary run on.
func Cluster() *cluster.Cluster { return current }

// Kept reports whether the cluster stays after the tests.
func Kept() bool { return os.Getenv("ADIT_CLUSTER_KEEP") != "" }

// Root is the checkout's directory.
func Root() string { return root }

func client() kubernetes.Interface { return current.Client() }

// Install applies the manifests and waits until agents and CA are ready, with
// the image that is loaded now.
func Install(ctx context.Context) error {
	if _, err := current.Kubectl(ctx, "apply", "-k", Overlay); err != nil {
		return err
	}
	return WaitInstalled(ctx)
}

// WaitInstalled waits until the agents of all nodes and the CA are ready.
func WaitInstalled(ctx context.Context) error {
	for _, what := range []string{"deployment/adit-ca", "daemonset/adit-agent"} {
		if _, err := current.Kubectl(ctx, "-n", System, "rollout", "status", what, "--timeout=180s"); err != nil {
			return err
		}
	}
	return nil
}

// Uninstall deletes what [Install] applied, and waits until it is gone.
func Uninstall(ctx context.Context) error {
	_, err := current.Kubectl(ctx, "delete", "-k", Overlay, "--ignore-not-found", "--wait=true", "--timeout=180s")
	return err
}

// patience is how long a test waits for what takes a second on an idle machine.
const patience = 90 * time.Second
