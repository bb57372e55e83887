package meshtest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
	"github.com/adit-mesh/adit/e2e/testbed"
)

// Debian's Prometheus cannot discover in Kubernetes, so its targets are written
// down. It runs beside the control plane, where a server outside of the cluster is.
func TestPrometheus(t *testing.T) {
	binary, err := exec.LookPath("prometheus")
	if err != nil {
		t.Fatalf("%v; `apt-get install prometheus`", err)
	}
	ns := meshlab.Namespace(t, true)
	client, _ := pair(t, ns)
	client.Reach(t, "server:9000")

	startPrometheus(t, binary)
	query := fmt.Sprintf(`sum by (reporter, source_principal, destination_principal) (istio_tcp_connections_opened_total{connection_security_policy="mutual_tls",source_workload_namespace=%q,source_workload="client",destination_workload="server"})`, ns)
	meshlab.Eventually(t, "a query returns the connection, told by both agents", func() error {
		var data struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any
			}
		}
		if err := askPrometheus(t.Context(), "/api/v1/query?query="+url.QueryEscape(query), &data); err != nil {
			return err
		}
		reporters := map[string]bool{}
		for _, r := range data.Result {
			if r.Value[1] != "0" && r.Metric["source_principal"] == "spiffe://cluster.local/ns/"+ns+"/sa/client" &&
				r.Metric["destination_principal"] == "spiffe://cluster.local/ns/"+ns+"/sa/server" {
				reporters[r.Metric["reporter"]] = true
			}
		}
		if !reporters["source"] || !reporters["destination"] {
			return fmt.Errorf("it returns %+v", data.Result)
		}
		return nil
	})
	meshlab.Eventually(t, "agents and CA are scraped", func() error {
		var data struct {
			ActiveTargets []struct{ ScrapeURL, Health, LastError string }
		}
		if err := askPrometheus(t.Context(), "/api/v1/targets", &data); err != nil {
			return err
		}
		up := 0
		for _, target := range data.ActiveTargets {
			if target.Health != "up" {
				return fmt.Errorf("%s is %s: %s", target.ScrapeURL, target.Health, target.LastError)
			}
			up++
		}
		if up < 4 {
			return fmt.Errorf("%d targets, want two agents and two replicas of the CA", up)
		}
		return nil
	})
	meshlab.Eventually(t, "the alert rules are evaluated, and none fires", func() error {
		var data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError, State string }
			}
		}
		if err := askPrometheus(t.Context(), "/api/v1/rules", &data); err != nil {
			return err
		}
		rules := 0
		for _, g := range data.Groups {
			for _, r := range g.Rules {
				if r.Health != "ok" || r.State == "firing" {
					return fmt.Errorf("%+v", r)
				}
				rules++
			}
		}
		if rules < 10 {
			return fmt.Errorf("%d rules are loaded", rules)
		}
		return nil
	})
}

func startPrometheus(t *testing.T, binary string) {
	t.Helper()
	var agents, cas []string
	for _, name := range []string{near, far} {
		p, err := meshlab.AgentOf(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		agents = append(agents, p.Status.PodIP+":15020")
	}
	for ip := range strings.FieldsSeq(meshlab.Kubectl(t, "-n", meshlab.System, "get", "pods", "-l", "app.kubernetes.io/name=adit-ca",
		"--field-selector=status.phase=Running", "-o", "jsonpath={.items[*].status.podIP}")) {
		cas = append(cas, ip+":15014")
	}
	quoted := func(list []string) string { b, _ := json.Marshal(list); return string(b) }
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	err := os.WriteFile(config, []byte(`
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [`+filepath.Join(meshlab.Root(), "deploy/alerts/adit.rules.yaml")+`]
scrape_configs:
- {job_name: adit-agent, honor_labels: true, static_configs: [{targets: `+quoted(agents)+`}]}
- {job_name: adit-ca, honor_labels: true, static_configs: [{targets: `+quoted(cas)+`}]}
`), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(binary, "--config.file="+config, "--storage.tsdb.path="+dir, "--web.listen-address=127.0.0.1:9090")
	cmd.Stdout, cmd.Stderr = log, log
	server, err := meshlab.Cluster().Outside().Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(10 * time.Second); err != nil {
			t.Errorf("prometheus: %v", err)
		}
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			t.Logf("prometheus:\n%s", b)
		}
	})
}

func askPrometheus(ctx context.Context, path string, data any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:9090"+path, nil)
	if err != nil {
		return err
	}
	res, err := testbed.HTTPFrom(meshlab.Cluster().Outside()).Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return fmt.Errorf("%s: %s: %w", path, res.Status, err)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", path, answer.Error)
	}
	return nil
}
