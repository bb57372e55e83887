// Command machine is what the test cluster's machines run beside Kubernetes.
//
// machine init is process 1: it makes the machine's file system out of the one
// it finds and then reaps orphans until it is killed, which ends every process
// of the machine.
//
// machine forward ADDRESS carries connections from the listener that it inherits
// as file 3, which may belong to another network, to an address in its own.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

func main() {
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == "init":
		err = runInit()
	case len(os.Args) == 3 && os.Args[1] == "forward":
		err = forward(os.Args[2])
	default:
		err = fmt.Errorf("usage: machine init | machine forward ADDRESS")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "machine:", err)
		os.Exit(1)
	}
}

func runInit() error {
	// Ignored, not handled: the kernel then reaps orphans by itself.
	signal.Ignore(unix.SIGCHLD)
	var spec Spec
	if err := json.NewDecoder(os.Stdin).Decode(&spec); err != nil {
		return fmt.Errorf("read the specification: %w", err)
	}
	if err := spec.apply(); err != nil {
		return err
	}
	// The one who waits for this line knows that the file system stands.
	fmt.Println("ready")
	_ = os.Stdout.Close()
	for {
		_ = unix.Pause()
	}
}
