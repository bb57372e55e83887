package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/adit-mesh/adit/e2e/demo"
	"github.com/adit-mesh/adit/e2e/lab/labtest"
	"github.com/adit-mesh/adit/e2e/testbed"
)

// example is a command of the README and the first line that follows it there,
// if that is output.
type example struct{ command, output string }

// examples are the commands of the tour that are typed beside a running demo.
func examples(t *testing.T) []example {
	t.Helper()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, tour, ok := strings.Cut(string(readme), "In a second terminal")
	if !ok {
		t.Fatal("the README has no tour any more")
	}
	tour, _, _ = strings.Cut(tour, "\n## ")
	var all []example
	lines := strings.Split(tour, "\n")
	for i, line := range lines[:len(lines)-1] {
		command, ok := strings.CutPrefix(line, "$ ")
		if !ok {
			continue
		}
		e := example{command: command}
		if next := lines[i+1]; !strings.HasPrefix(next, "$ ") && !strings.HasPrefix(next, "```") {
			e.output = next
		}
		all = append(all, e)
	}
	return all
}

// The tour of the README, typed as it is written. Numbers and times may differ
// in what is printed; success, failure and the kind of output may not.
func TestReadmeTour(t *testing.T) {
	labtest.Require(t)
	ctx, cancel := context.WithCancel(t.Context())
	up := newWaitFor("everything is up")
	ended := make(chan error, 1)
	bin := mustBinary(t)
	go func() {
		// The directory that the README names: /run is this test's own.
		ended <- demo.Run(ctx, demo.Options{Binary: bin, Dir: "/run/adit-demo", Out: up, Keep: true})
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-up.seen:
	case err := <-ended:
		ended <- err
		t.Fatal("the demo did not stay up")
	}
	all := examples(t)
	if len(all) < 10 {
		t.Errorf("only %d commands found in the tour", len(all))
	}
	for _, e := range all {
		// The agents follow the file at once, but not before sed returns.
		err := testbed.Poll(ctx, patience, func() error { return e.try(ctx, bin) })
		if err != nil {
			t.Errorf("$ %s\n%v", e.command, err)
		}
	}
}

func (e example) try(ctx context.Context, bin string) error {
	cmd := exec.CommandContext(ctx, "bash", "-o", "pipefail", "-c", strings.ReplaceAll(e.command, "bin/adit", bin))
	cmd.Dir = ".."
	b, err := cmd.CombinedOutput()
	out := string(b)
	refused := strings.HasPrefix(e.output, "adit: ")
	switch {
	case refused && err == nil:
		return fmt.Errorf("succeeds, and should be refused:\n%s", out)
	case !refused && err != nil:
		return fmt.Errorf("%w:\n%s", err, out)
	case e.output != "" && !strings.Contains(out, ending(e.output)):
		return fmt.Errorf("prints\n%s\nbut the README has\n%s", out, e.output)
	}
	return nil
}

// ending is the part of a line of output that every run prints.
func ending(line string) string {
	for _, stable := range []string{"connection reset by peer", "polices: unknown key; did you mean policies?", `"pod":"server-b","remoteAddr":"10.244.1.`} {
		if strings.Contains(line, stable) {
			return stable
		}
	}
	return line
}

// waitFor is a writer that tells when a text has been written to it.
type waitFor struct {
	text string
	seen chan struct{}
	got  strings.Builder
}

func newWaitFor(text string) *waitFor { return &waitFor{text: text, seen: make(chan struct{})} }

func (w *waitFor) Write(b []byte) (int, error) {
	before := strings.Contains(w.got.String(), w.text)
	w.got.Write(b)
	if !before && strings.Contains(w.got.String(), w.text) {
		close(w.seen)
	}
	return len(b), nil
}
