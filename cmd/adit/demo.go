package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/adit-mesh/adit/e2e/demo"
)

const demoDir = "/run/adit-demo"

func newDemoCmd() *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the mesh at work: two nodes, four pods, and evidence for each claim",
		Long: `Build two nodes and four pods out of network namespaces, run an agent on each
node and an HTTP server in some pods, and show with evidence from the wire, the
logs and the metrics what the mesh does. It takes seconds, needs root, uses no
other program, and leaves nothing behind.

Exit status is 0 if every claim held. After a failure the logs and a packet
capture stay in ` + demoDir + `; the next run removes them.`,
		Example: "  adit demo\n  adit demo --keep",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return errors.New("the demo makes network namespaces: run it as root")
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			return demo.Run(ctx, demo.Options{
				Binary: self,
				Dir:    demoDir,
				Out:    cmd.OutOrStdout(),
				Color:  wantsColor(os.Stdout),
				Keep:   keep,
			})
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave everything up at the end, and print what to try, until Ctrl-C")
	cmd.AddCommand(newDemoIngressCmd(), newDemoPodCmd(), newDemoRequestCmd("get", http.MethodGet), newDemoRequestCmd("post", http.MethodPost))
	return cmd
}

// newDemoPodCmd is the application in a pod of the demo.
func newDemoPodCmd() *cobra.Command {
	return &cobra.Command{
		Use:    "pod NAME ADDRESS",
		Hidden: true,
		Args:   twoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM)
			defer stop()
			return demo.ServePod(ctx, args[0], args[1])
		},
	}
}

func newDemoRequestCmd(name, method string) *cobra.Command {
	return &cobra.Command{
		Use:     name + " NODE-OR-POD URL",
		Short:   fmt.Sprintf("Send a %s request from inside a node or pod of a running demo", method),
		Example: fmt.Sprintf("  adit demo %s client http://10.244.2.2:8080", name),
		Args:    twoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if u, err := url.Parse(args[1]); err != nil || u.Scheme != "http" || u.Host == "" {
				return &usageError{fmt.Errorf("%q is not a URL such as http://10.244.2.2:8080", args[1])}
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return demo.Request(ctx, cmd.OutOrStdout(), args[0], method, args[1])
		},
	}
}

func twoArgs(cmd *cobra.Command, args []string) error {
	if len(args) != 2 {
		return &usageError{fmt.Errorf("%s wants two arguments, %s; see %s --help", cmd.CommandPath(), strings.TrimPrefix(cmd.Use, cmd.Name()+" "), cmd.CommandPath())}
	}
	return nil
}

// wantsColor follows https://no-color.org.
func wantsColor(f *os.File) bool {
	if os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
