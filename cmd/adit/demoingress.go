package main

import (
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/adit-mesh/adit/e2e/edgedemo"
)

const demoIngressDir = "/run/adit-demo-ingress"

func newDemoIngressCmd() *cobra.Command {
	var o edgedemo.Options
	cmd := &cobra.Command{
		Use:   "ingress",
		Short: "Show the edge at work: HTTP/1.1, 2 and 3 into a pod of the mesh, and a browser",
		Long: `Build a client, an edge and a node with two pods out of network namespaces, run
adit ingress on a directory of YAML and an agent on the node, and show what curl,
gtlsclient, Chromium and clients of adit's own see, what the pod sees, and what
crosses the link between edge and node. It needs root, and leaves nothing behind
but pictures of the browser. Programs that are not installed are left out, and
the report says what is not shown.

Exit status is 0 if every claim held. After a failure the logs and a packet
capture stay in ` + demoIngressDir + `; the next run removes them.`,
		Example: "  adit demo ingress\n  adit demo ingress --keep",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if os.Geteuid() != 0 {
				return errors.New("the demo makes network namespaces: run it as root")
			}
			if o.Binary, err = os.Executable(); err != nil {
				return err
			}
			if o.Pictures, err = filepath.Abs(o.Pictures); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			o.Dir, o.Out, o.Color = demoIngressDir, cmd.OutOrStdout(), wantsColor(os.Stdout)
			return edgedemo.Run(ctx, o)
		},
	}
	fl := cmd.Flags()
	fl.BoolVar(&o.Keep, "keep", false, "leave everything up at the end, and print what to try, until Ctrl-C")
	fl.BoolVar(&o.NoBrowser, "no-browser", false, "leave the browser out")
	fl.StringVar(&o.Pictures, "pictures", "adit-demo-ingress", "the `folder` for pictures of the browser, which stays")
	return cmd
}
