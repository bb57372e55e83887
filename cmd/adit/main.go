// Command adit is the mesh's node agent, and what comes with it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/adit-mesh/adit/agent"
)

// version is set by the linker.
var version = "unknown"

// Exit codes. Scripts and units may tell them apart: a restart helps with one
// of them at most.
const (
	exitRuntime = 1
	exitConfig  = 2
	exitRefused = 3 // adit why: the connection would not come about
	exitSignal  = 130
)

func main() {
	// A reader that goes away, of the access log or of a report, ends neither
	// an agent nor a demo before it has cleaned up. Notify rather than Ignore,
	// which programs started from here would inherit.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go exitAtSecondSignal(ctx, signals)

	err := newRootCmd().ExecuteContext(ctx)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, message(err))
	os.Exit(exitCode(err))
}

// sameSignal is how long after the first signal another one is the same wish:
// timeout(1) signals its child and then the process group that the child is in.
const sameSignal = 300 * time.Millisecond

// exitAtSecondSignal ends the process when whoever sent the first signal does
// not want to wait for what it began.
func exitAtSecondSignal(ctx context.Context, signals <-chan os.Signal) {
	<-ctx.Done()
	<-signals // the one that ended ctx
	for first := time.Now(); ; {
		<-signals
		if time.Since(first) > sameSignal {
			break
		}
	}
	fmt.Fprintln(os.Stderr, "adit: second signal, exiting at once")
	os.Exit(exitSignal)
}

// usageError is a command line that makes no sense.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func exitCode(err error) int {
	if usage := new(usageError); errors.As(err, &usage) || agent.IsConfigError(err) {
		return exitConfig
	}
	if verdict := new(verdictError); errors.As(err, &verdict) {
		return exitRefused
	}
	if none := new(noRuleError); errors.As(err, &none) {
		return exitRefused
	}
	return exitRuntime
}

// message begins with the program's name, except where a file's name comes
// first, as in a compiler's messages.
func message(err error) string {
	if ce := new(agent.ConfigError); errors.As(err, &ce) && len(ce.Problems) > 0 {
		return err.Error()
	}
	return "adit: " + err.Error()
}

// knownCommand refuses a first argument that is no command.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := "see adit --help"
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf("did you mean %q?", near[0])
	}
	return &usageError{fmt.Errorf("unknown command %q; %s", args[0], hint)}
}

func newRootCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "adit",
		Short:   "A service mesh's node agent: captured traffic, mutual TLS, policy",
		Version: versionLine(),
		Long: `adit captures the TCP connections of pods, carries them to other pods in
mutual TLS (HBONE, the wire of Istio's ambient mode), decides who may talk to
whom, and reports what it saw. The applications know nothing of it.`,
		SilenceErrors:              true,
		SuggestionsMinimumDistance: 2,
		SilenceUsage:               true,
		Args:                       knownCommand,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())}
	})
	cmd.SetVersionTemplate("{{.Version}}\n") // as adit version
	cmd.CompletionOptions.HiddenDefaultCmd = true
	cmd.AddCommand(newAgentCmd(), newBenchCmd(), newCACmd(), newDemoCmd(), newIngressCmd(), newVersionCmd())
	cmd.AddCommand(newStatusCmd(), newPodsCmd(), newConnectionsCmd(), newWhyCmd())
	return cmd
}
