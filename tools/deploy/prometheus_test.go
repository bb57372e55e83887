package deploy

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the PrometheusRule anew from the plain rules")

const ruleObject = "overlays/monitoring/prometheusrule.yaml"

// The operator's object and the plain file hold the same rules. The plain file
// is the one to edit: promtool reads it.
func TestPrometheusRuleIsTheRules(t *testing.T) {
	plain := read(t, "alerts/adit.rules.yaml")
	_, groups, _ := bytes.Cut(plain, []byte("\ngroups:"))
	var want bytes.Buffer
	want.WriteString(`# Written from alerts/adit.rules.yaml by
#   go -C tools test ./deploy -run TestPrometheusRuleIsTheRules -update
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: adit
  namespace: adit-system
  labels:
    app.kubernetes.io/name: adit
    app.kubernetes.io/part-of: adit
spec:
  groups:`)
	for line := range strings.Lines(string(groups)) {
		if strings.TrimSpace(line) != "" {
			line = "  " + line
		}
		want.WriteString(line)
	}
	if *update {
		if err := os.WriteFile(filepath.Join(root, ruleObject), want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var rule struct {
		Spec any `json:"spec"`
	}
	var alerts any
	if err := yaml.Unmarshal(read(t, ruleObject), &rule); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(plain, &alerts); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(alerts, rule.Spec); diff != "" {
		t.Errorf("the rules (-) and the PrometheusRule (+) differ; -update writes it anew:\n%s", diff)
	}
}

// promtool reads the rules as Prometheus does, and plays them.
func TestPromtool(t *testing.T) {
	if _, err := exec.LookPath("promtool"); err != nil {
		const why = "promtool is not installed: apt-get install prometheus"
		if os.Getenv("CI") == "true" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	for _, args := range [][]string{
		{"check", "rules", "adit.rules.yaml"},
		{"test", "rules", "adit.rules.test.yaml"},
	} {
		t.Run(args[0], func(t *testing.T) {
			cmd := exec.Command("promtool", args...)
			cmd.Dir = filepath.Join(root, "alerts")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
			}
		})
	}
}
