package conformance

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/adit-mesh/adit/e2e/cluster"
)

// The suite runs in a second process, in the network that addresses of load
// balancers are routed from.
const (
	insideEnv  = "ADIT_CONFORMANCE_INSIDE"
	versionEnv = "ADIT_CONFORMANCE_VERSION"
)

var (
	only    = flag.String("only", "", "short `names` of the tests to run, between commas; no report is written")
	keep    = flag.Bool("keep", false, "leave the cluster up, and use the one that an earlier run left")
	verbose = flag.Bool("verbose", false, "log requests and answers")
	root    string
)

func TestMain(m *testing.M) {
	flag.Parse()
	var err error
	if root, err = filepath.Abs("../.."); err != nil {
		fatal(err)
	}
	if os.Getenv(insideEnv) != "" || os.Getenv("ADIT_CLUSTER") == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := outside(ctx); err != nil {
		fatal(err)
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "conformance:", err)
	os.Exit(1)
}

// outside brings a cluster up, with adit on it, and runs this program again in its
// network.
func outside(ctx context.Context) (err error) {
	began := time.Now()
	cfg := cluster.Config{Name: "adit-conformance", Root: root, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	up := cluster.Up
	if *keep {
		up = cluster.Ensure
	}
	c, err := up(ctx, cfg)
	if err != nil {
		return err
	}
	if *keep {
		defer c.Close()
		fmt.Fprintf(os.Stderr, "the cluster stays; KUBECONFIG=%s\n", c.Kubeconfig())
	} else {
		defer func() {
			if down := c.Down(); err == nil {
				err = down
			}
		}()
	}
	if err := backends(ctx, c); err != nil {
		return err
	}
	if err := install(ctx, c); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "cluster ready after %s\n", time.Since(began).Round(time.Second))
	// The suite waits more than it works: more of its tests at a time than there are processors.
	cmd := exec.Command(os.Args[0], append([]string{"-test.parallel=12"}, os.Args[1:]...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideEnv+"=1", versionEnv+"="+version(), "KUBECONFIG="+filepath.Join(c.Dir(), "pki", "admin.conf"))
	p, err := c.Outside().Start(cmd)
	if err != nil {
		return err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		_ = p.Stop(10 * time.Second)
	}
	if err := p.Wait(); err != nil {
		keepLogs(c)
		return err
	}
	fmt.Fprintf(os.Stderr, "done after %s\n", time.Since(began).Round(time.Second))
	return nil
}

// keepLogs saves what the pods of the edge said, which go with the cluster.
func keepLogs(c *cluster.Cluster) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := c.Kubectl(ctx, "-n", "adit-system", "logs", "--prefix", "--tail=-1", "--selector=app.kubernetes.io/name=adit-ingress")
	file := filepath.Join(os.TempDir(), "adit-conformance-ingress.log")
	if err == nil {
		err = os.WriteFile(file, []byte(out), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance: logs of the edge:", err)
		return
	}
	fmt.Fprintln(os.Stderr, "logs of the edge are in", file)
}

// version is what the report says was tested.
func version() string {
	out, err := exec.Command("git", "-C", root, "describe", "--tags", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
