package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/adit-mesh/adit/e2e/cluster"
)

// enrolments are the milliseconds from the CNI plugin's question to the answer
// that a pod of the namespace may start, by the log of the node's agent. It is
// read from the node's disk, so the kubelet need not run.
func (b *bench) enrolments(node *cluster.Node, ns string, since time.Time) ([]float64, error) {
	files, _ := filepath.Glob(node.Path("/var/log/pods/" + system + "_adit-agent-*/agent/*.log"))
	slices.Sort(files)
	var took []float64
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		s := bufio.NewScanner(f)
		s.Buffer(nil, 1<<20)
		for s.Scan() {
			// TIME STREAM F LINE, the format of CRI.
			parts := strings.SplitN(s.Text(), " ", 4)
			if len(parts) < 4 || !strings.Contains(parts[3], "pod starts captured") {
				continue
			}
			var line struct {
				Time     time.Time
				Msg, Pod string
				Took     time.Duration
			}
			if json.Unmarshal([]byte(parts[3]), &line) == nil && line.Msg == "pod starts captured" &&
				strings.HasPrefix(line.Pod, ns+"/") && line.Time.After(since) {
				took = append(took, milliseconds(line.Took))
			}
		}
		err = s.Err()
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return took, nil
}
