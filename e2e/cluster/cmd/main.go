// Command cmd brings the test cluster up and takes it down.
//
//	go run ./e2e/cluster/cmd up [-nodes N] [-adit=false]
//	go run ./e2e/cluster/cmd load [-tag adit:dev] [ARCHIVE]
//	go run ./e2e/cluster/cmd exec NODE COMMAND...
//	go run ./e2e/cluster/cmd down
//
// Each takes -name for another cluster than the one of `make cluster`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/adit-mesh/adit/e2e/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("usage: cluster up | load | exec | down")
	}
	name, args := args[0], args[1:]
	cfg := cluster.Config{Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	switch name {
	case "up":
		return up(ctx, cfg, args)
	case "load":
		return load(ctx, cfg, args)
	case "exec":
		return execute(ctx, cfg, args)
	case "down":
		return down(cfg, args)
	}
	return fmt.Errorf("%s: no such command", name)
}

func up(ctx context.Context, cfg cluster.Config, args []string) error {
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	flags.StringVar(&cfg.Name, "name", "", "which cluster")
	flags.IntVar(&cfg.Nodes, "nodes", 2, "worker nodes")
	adit := flags.Bool("adit", true, "build adit and load its image")
	if err := flags.Parse(args); err != nil {
		return err
	}
	c, err := cluster.Ensure(ctx, cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	if *adit {
		if err := buildAndLoad(ctx, c, cluster.DefaultImage); err != nil {
			return err
		}
	}
	fmt.Printf(`The cluster is up. Use it with

  export KUBECONFIG=%s
  alias kubectl=%s
  kubectl get nodes,pods -A -o wide

Logs of its daemons are in %s/{cp,n1,n2}/*.log. It has the images %s and %s.
Run something on a node with %s; take it all down with %s.
`, c.Kubeconfig(), c.KubectlPath(), c.Dir(), cluster.DefaultImage, cluster.AppImage,
		"`go run ./e2e/cluster/cmd exec n1 nft list ruleset`", "`make cluster-down`")
	return nil
}

func load(ctx context.Context, cfg cluster.Config, args []string) error {
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	flags.StringVar(&cfg.Name, "name", "", "which cluster")
	tag := flags.String("tag", cluster.DefaultImage, "name of the image that is built when no archive is given")
	if err := flags.Parse(args); err != nil {
		return err
	}
	c, err := cluster.Attach(cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	if flags.NArg() == 0 {
		return buildAndLoad(ctx, c, *tag)
	}
	for _, archive := range flags.Args() {
		if err := c.LoadImage(ctx, archive); err != nil {
			return err
		}
	}
	return nil
}

func buildAndLoad(ctx context.Context, c *cluster.Cluster, tag string) error {
	archive, err := c.BuildAdit(ctx, tag)
	if err != nil {
		return err
	}
	return c.LoadImage(ctx, archive)
}

func down(cfg cluster.Config, args []string) error {
	flags := flag.NewFlagSet("down", flag.ContinueOnError)
	flags.StringVar(&cfg.Name, "name", "", "which cluster")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return cluster.Down(cfg)
}

func execute(ctx context.Context, cfg cluster.Config, args []string) error {
	flags := flag.NewFlagSet("exec", flag.ContinueOnError)
	flags.StringVar(&cfg.Name, "name", "", "which cluster")
	if err := flags.Parse(args); err != nil {
		return err
	}
	args = flags.Args()
	if len(args) < 2 {
		return errors.New("usage: cluster exec NODE COMMAND [ARGUMENT]")
	}
	c, err := cluster.Attach(cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	n := c.Node(args[0])
	if n == nil {
		return fmt.Errorf("%s: no such node", args[0])
	}
	out, err := n.Exec(ctx, args[1:]...)
	fmt.Print(out)
	return err
}
