package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := command(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "meshbench:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string) error {
	var cfg config
	flags := flag.NewFlagSet("meshbench", flag.ContinueOnError)
	flags.StringVar(&cfg.name, "name", "adit-b", "the cluster's `name`; others on this machine are left alone")
	flags.BoolVar(&cfg.keep, "keep", false, "use the cluster of that name if it is up, and leave it up")
	flags.IntVar(&cfg.rounds, "rounds", 20, "pods that are started with adit and without, in alternation")
	flags.IntVar(&cfg.pods, "pods", 100, "real pods on one node")
	flags.IntVar(&cfg.made, "made", 150, "further pods there that are network namespaces only")
	flags.IntVar(&cfg.remote, "remote", 10000, "pods on nodes that do not exist")
	flags.IntVar(&cfg.services, "services", 1000, "services of those")
	flags.IntVar(&cfg.changes, "changes", 50, "changes of endpoints, and of policy")
	flags.IntVar(&cfg.restarts, "restarts", 3, "restarts of an agent that knows all of these")
	flags.DurationVar(&cfg.idle, "idle", time.Minute, "how long an idle agent is watched")
	format := flags.String("format", "table", "table or json")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *format != "table" && *format != "json" {
		return fmt.Errorf("-format %s: want table or json", *format)
	}
	r, err := run(ctx, cfg)
	if r == nil {
		return err
	}
	write := r.writeTable
	if *format == "json" {
		write = r.writeJSON
	}
	return errors.Join(err, write(os.Stdout))
}
