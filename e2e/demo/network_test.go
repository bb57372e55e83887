package demo

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/adit-mesh/adit/e2e/evidence"
	"github.com/adit-mesh/adit/e2e/lab/labtest"
	"github.com/adit-mesh/adit/e2e/testbed"
)

// The test binary is also the program that runs in the pods.
func TestMain(m *testing.M) {
	if len(os.Args) == 5 && os.Args[1] == "demo" && os.Args[2] == "pod" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := ServePod(ctx, os.Args[3], os.Args[4]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(labtest.Main(m))
}

// Without agents everything is readable. If this fails, an empty capture later
// on proves nothing.
func TestTheCaptureFindsPlaintext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	l := labtest.New(t)
	n, err := testbed.Build(l)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	d := &demo{Options: Options{Binary: "/proc/self/exe", Dir: t.TempDir()}, Report: &evidence.Report{Out: &out}, Network: n}
	err = d.plaintextIsReadable(ctx)
	if d.open != nil {
		defer d.open.Close()
	}
	if err != nil || d.Failed > 0 {
		t.Fatalf("%v\n%s", err, &out)
	}
	for _, to := range []string{url(n.ServerB.V6, testbed.AppPort), url(n.ServerA.V4, testbed.AppPort), url(n.ServerA.V6, testbed.AppPort)} {
		if _, err := ask(ctx, n.Intruder.NS, to, "x"); err != nil {
			t.Errorf("intruder to %s before there is a policy: %v", to, err)
		}
	}
	before := d.open.last.Load()
	if err := d.open.advance(ctx, 3); err != nil {
		t.Errorf("a stream does not go on after tick %d: %v", before, err)
	}
}
