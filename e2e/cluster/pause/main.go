// Command pause holds the namespaces of a pod of the test cluster open.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// As process 1 of a pod that shares its processes it has orphans to reap.
	signal.Ignore(syscall.SIGCHLD)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}
