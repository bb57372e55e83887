// Command testapp is the workload of the cluster's tests: what they let talk to
// each other, in one static program.
//
//	testapp serve                      TCP, UDP, HTTP and gRPC health on all addresses; see serve.go
//	testapp echo                       answers HTTP requests with what it saw of them; see echo.go
//	testapp client TARGET [flags]      makes connections and counts them; see client.go
//	testapp stream TARGET [flags]      keeps connections open and counts breaks; see stream.go
//	testapp probe                      exits 0, for exec probes
//	testapp sleep DURATION             for init containers and jobs that take their time
//
// client and stream print one JSON object on a line each second and another, the
// total, when they end: when time is up, on SIGTERM, or after a number of tries.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "testapp:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("usage: testapp serve | echo | client | stream | probe | sleep")
	}
	switch args[0] {
	case "serve":
		return serve(ctx, args[1:])
	case "echo":
		return echoHTTP(ctx, args[1:])
	case "client":
		return client(ctx, args[1:])
	case "stream":
		return stream(ctx, args[1:])
	case "probe":
		return nil
	case "sleep":
		if len(args) != 2 {
			return errors.New("usage: testapp sleep DURATION")
		}
		d, err := time.ParseDuration(args[1])
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
		return nil
	}
	return fmt.Errorf("%s: no such command", args[0])
}
