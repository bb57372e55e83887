package bench

import (
	"fmt"
	"os"
	"testing"
)

// TestMain lets the test binary be the workers of its own benches: it answers to the arguments that adit answers to.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "bench" && os.Args[2] == "worker" {
		if err := Worker(os.Args[3], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}
