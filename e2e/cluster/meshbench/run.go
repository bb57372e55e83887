package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/adit-mesh/adit/e2e/cluster"
	"github.com/adit-mesh/adit/e2e/testbed"
)

type config struct {
	name               string
	keep               bool
	rounds, pods, made int
	remote, services   int
	changes, restarts  int
	idle               time.Duration
}

type bench struct {
	cfg      config
	cluster  *cluster.Cluster
	client   kubernetes.Interface // protobuf, no limit of requests
	policies dynamic.Interface
	report   *report
	began    time.Time
}

// run brings the cluster up, measures, and takes it down, interrupted or not.
// The report is what there is of it, nil if there is none.
func run(ctx context.Context, cfg config) (r *report, err error) {
	b := &bench{cfg: cfg, report: newReport(), began: time.Now()}
	if err := b.up(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.end()) }()
	if err := b.install(ctx); err != nil {
		return nil, err
	}
	for _, stage := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"agents without pods", b.nothing},
		{"pod start with adit and without", b.start},
		{"changes in a small cluster", b.few},
		{"pods of one node", b.local},
		{"pods of other nodes", b.others},
	} {
		b.progress("%s", stage.what)
		if err := stage.do(ctx); err != nil {
			b.report.finish()
			return b.report, fmt.Errorf("%s: %w", stage.what, err)
		}
	}
	b.report.finish()
	return b.report, nil
}

// up attaches to the cluster or makes it.
func (b *bench) up(ctx context.Context) (err error) {
	cfg := cluster.Config{Name: b.cfg.name, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	if b.cfg.keep {
		b.cluster, err = cluster.Attach(cfg)
	}
	if b.cluster == nil || err != nil {
		if b.cluster, err = cluster.Up(ctx, cfg); err != nil {
			return err
		}
	}
	plain := rest.CopyConfig(b.cluster.REST())
	plain.QPS, plain.Burst = -1, 0
	if b.policies, err = dynamic.NewForConfig(plain); err != nil {
		return errors.Join(err, b.end())
	}
	plain.ContentType = "application/vnd.kubernetes.protobuf"
	if b.client, err = kubernetes.NewForConfig(plain); err != nil {
		return errors.Join(err, b.end())
	}
	return nil
}

func (b *bench) end() error {
	if b.cfg.keep {
		return b.cluster.Close()
	}
	b.progress("taking the cluster down")
	return b.cluster.Down()
}

// install puts adit of this checkout on the cluster, as a user does.
func (b *bench) install(ctx context.Context) error {
	b.progress("building and installing adit")
	archive, err := b.cluster.BuildAdit(ctx, cluster.DefaultImage)
	if err != nil {
		return err
	}
	if err := b.cluster.LoadImage(ctx, archive); err != nil {
		return err
	}
	root, err := checkout()
	if err != nil {
		return err
	}
	crds := filepath.Join(b.cluster.Dir(), "crds")
	write := exec.CommandContext(ctx, "go", "-C", filepath.Join(root, "tools"), "run", "./crds", "-out", crds)
	if out, err := write.CombinedOutput(); err != nil {
		return fmt.Errorf("write the CRDs: %w: %s", err, out)
	}
	for _, args := range [][]string{
		{"apply", "--server-side", "-f", crds},
		{"wait", "--for=condition=Established", "--timeout=60s", "-f", crds},
		{"apply", "-k", "deploy/overlays/default"},
		{"-n", system, "rollout", "restart", "daemonset/adit-agent", "deployment/adit-ca"}, // of an earlier run
		{"-n", system, "rollout", "status", "deployment/adit-ca", "--timeout=180s"},
		{"-n", system, "rollout", "status", "daemonset/adit-agent", "--timeout=180s"},
	} {
		if _, err := b.cluster.Kubectl(ctx, args...); err != nil {
			logs, _ := b.cluster.Kubectl(ctx, "-n", system, "logs", "-l", "app.kubernetes.io/part-of=adit", "--prefix", "--tail=5")
			return fmt.Errorf("%w\n%s", err, logs)
		}
	}
	return b.sweep(ctx)
}

// system is the namespace of agents and CA.
const system = "adit-system"

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
	return "", errors.New("no go.mod above the working directory; run it in the checkout")
}

func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%6.1fs  %s\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...))
}

// patience is for what takes seconds on an idle machine.
const patience = 3 * time.Minute

func poll(ctx context.Context, patience time.Duration, f func() error) error {
	return testbed.Poll(ctx, patience, f)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
