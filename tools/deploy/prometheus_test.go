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
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
	promyaml "go.yaml.in/yaml/v2"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
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

// Where the example configuration finds an agent and the CA, and what it calls
// them: the alerts rely on the job.
func TestExampleFindsTheTargets(t *testing.T) {
	var example struct {
		Scrape []struct {
			Honor bool              `yaml:"honor_labels"`
			Rules []*relabel.Config `yaml:"relabel_configs"`
		} `yaml:"scrape_configs"`
	}
	if err := promyaml.Unmarshal(read(t, "examples/prometheus.yml"), &example); err != nil {
		t.Fatal(err)
	}
	if len(example.Scrape) != 1 || !example.Scrape[0].Honor {
		t.Fatal("want one job that leaves the label pod to the series that have it")
	}
	for _, r := range example.Scrape[0].Rules {
		if err := r.Validate(model.UTF8Validation); err != nil {
			t.Fatal(err)
		}
	}
	all := kustomize(t, "overlays/default")
	agent := get[*apps.DaemonSet](t, all, "DaemonSet adit-system/adit-agent").Spec.Template
	ca := get[*apps.Deployment](t, all, "Deployment adit-system/adit-ca").Spec.Template
	for _, c := range []struct {
		name    string
		pod     core.PodTemplateSpec
		address string // one of the pod's ports
		want    string // "" = not scraped
	}{
		{"an agent's metrics port", agent, "172.30.0.11:15020", "adit-agent 172.30.0.11:15020"},
		{"an agent's other port", agent, "172.30.0.11:15021", "adit-agent 172.30.0.11:15020"},
		{"an agent by IPv6", agent, "[fd00::1]:15021", "adit-agent [fd00::1]:15020"},
		{"the CA", ca, "10.244.1.2:15012", "adit-ca 10.244.1.2:15014"},
		{"a pod that does not ask for it", core.PodTemplateSpec{}, "10.244.1.3:8080", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			found := labels.NewBuilder(labels.FromStrings("__address__", c.address, "__metrics_path__", "/",
				"__meta_kubernetes_pod_node_name", "node-a"))
			for k, v := range c.pod.Annotations {
				found.Set("__meta_kubernetes_pod_annotation_"+underscores(k), v)
			}
			for k, v := range c.pod.Labels {
				found.Set("__meta_kubernetes_pod_label_"+underscores(k), v)
			}
			got := ""
			if relabel.ProcessBuilder(found, example.Scrape[0].Rules...) {
				got = found.Get("job") + " " + found.Get("__address__")
				if found.Get("__metrics_path__") != "/metrics" || found.Get("node") != "node-a" {
					t.Errorf("path %s, node %s", found.Get("__metrics_path__"), found.Get("node"))
				}
			}
			if got != c.want {
				t.Errorf("scrapes %q, want %q", got, c.want)
			}
		})
	}
}

// underscores is a name as Prometheus' discovery makes a label of it.
func underscores(name string) string {
	return strings.NewReplacer(".", "_", "/", "_", "-", "_").Replace(name)
}
