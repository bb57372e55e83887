// Command infra is what a cluster needs and a cloud has: names for Services, and
// addresses for those of type LoadBalancer.
//
//	infra dns               answers for cluster.local on port 53
//	infra balancer POOLS    assigns addresses out of comma-separated prefixes
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "infra:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	watched := informers.NewSharedInformerFactory(client, 10*time.Minute)
	switch {
	case len(args) == 1 && args[0] == "dns":
		return serveDNS(ctx, watched)
	case len(args) == 2 && args[0] == "balancer":
		return balance(ctx, client, watched, args[1])
	}
	return errors.New("usage: infra dns | infra balancer POOLS")
}
