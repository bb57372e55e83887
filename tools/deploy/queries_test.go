package deploy

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"
)

// targetLabels are those that Prometheus gives every series of a target, as
// deploy/examples/prometheus.yml and the PodMonitors have it.
var targetLabels = []string{"job", "instance", "namespace", "pod", "node"}

// check says what is wrong with a query: its syntax, a metric that adit does not
// make, a label that the metric does not have, a rate of what is no counter.
func (m metrics) check(query string) error {
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		return err
	}
	parser.Inspect(expr, func(n parser.Node, path []parser.Node) error {
		if err != nil {
			return err
		}
		switch n := n.(type) {
		case *parser.VectorSelector:
			err = m.checkSelector(n, path)
		case *parser.AggregateExpr:
			err = m.checkGrouping(n)
		}
		return err
	})
	return err
}

func (m metrics) checkSelector(sel *parser.VectorSelector, path []parser.Node) error {
	made, ok := m[sel.Name]
	if !ok {
		return fmt.Errorf("adit makes no metric %s", sel.Name)
	}
	for _, matcher := range sel.LabelMatchers {
		if matcher.Name != "__name__" && !made.has(matcher.Name) {
			return fmt.Errorf("%s has no label %s", sel.Name, matcher.Name)
		}
	}
	for _, above := range path {
		call, ok := above.(*parser.Call)
		if !ok || !slices.Contains([]string{"rate", "irate", "increase"}, call.Func.Name) {
			continue
		}
		counts := made.kind == "counter" || made.kind == "" && strings.HasSuffix(sel.Name, "_total") ||
			made.kind == "histogram"
		if !counts {
			return fmt.Errorf("%s is no counter, so it has no %s", sel.Name, call.Func.Name)
		}
	}
	return nil
}

// checkGrouping holds the labels of a `by` against all metrics below it.
func (m metrics) checkGrouping(agg *parser.AggregateExpr) (err error) {
	parser.Inspect(agg.Expr, func(n parser.Node, _ []parser.Node) error {
		sel, ok := n.(*parser.VectorSelector)
		if !ok || err != nil {
			return err
		}
		for _, label := range agg.Grouping {
			if made, ok := m[sel.Name]; ok && !made.has(label) {
				err = fmt.Errorf("%s has no label %s to group by", sel.Name, label)
			}
		}
		return err
	})
	return err
}

func (d metric) has(label string) bool {
	return slices.Contains(targetLabels, label) || slices.Contains(d.labels, label)
}

func TestCheckRefusesWrongQueries(t *testing.T) {
	m := registered(t)
	for _, c := range []struct{ query, want string }{
		{"sum(adit_pool_streams", "parse error"},
		{"adit_pool_streamz", "no metric adit_pool_streamz"},
		{`adit_capture_repairs_total{reason="x"}`, "no label reason"},
		{`istio_tcp_sent_bytes_total{from="x"}`, "no label from"},
		{"sum by (reason) (adit_capture_repairs_total)", "no label reason to group by"},
		{"rate(adit_pool_streams[5m])", "no counter"},
		{"histogram_quantile(0.9, rate(adit_handshake_duration_seconds[5m]))", "no metric adit_handshake_duration_seconds"},
	} {
		if err := m.check(c.query); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one that says %q", c.query, err, c.want)
		}
	}
}

type dashboard struct {
	UID           string
	Title         string
	SchemaVersion int
	Templating    struct {
		List []struct {
			Name, Type, Definition string
		}
	}
	Panels []panel
}

type panel struct {
	ID          int
	Type, Title string
	GridPos     struct{ H, W, X, Y int }
	Targets     []struct{ RefID, Expr string }
	Datasource  struct{ UID string }
}

func TestDashboard(t *testing.T) {
	var d dashboard
	if err := json.Unmarshal(read(t, "dashboards/adit.json"), &d); err != nil {
		t.Fatal(err)
	}
	if d.UID == "" || d.Title == "" || d.SchemaVersion == 0 || len(d.Panels) == 0 {
		t.Fatalf("Grafana needs a uid, a title, a schema version and panels: %+v", d)
	}
	m := registered(t)
	for _, v := range d.Templating.List {
		if inner, ok := strings.CutPrefix(v.Definition, "label_values("); ok {
			query, label, _ := strings.Cut(strings.TrimSuffix(inner, ")"), ", ")
			if err := m.check(fmt.Sprintf("count by (%s) (%s)", label, query)); err != nil {
				t.Errorf("variable %s: %v", v.Name, err)
			}
		}
	}
	ids := make(map[int]string)
	for i, p := range d.Panels {
		if ids[p.ID] != "" {
			t.Errorf("%s and %s have one id", ids[p.ID], p.Title)
		}
		ids[p.ID] = p.Title
		if g := p.GridPos; g.W <= 0 || g.H <= 0 || g.X < 0 || g.X+g.W > 24 {
			t.Errorf("%s is outside the 24 columns: %+v", p.Title, g)
		}
		for _, q := range d.Panels[:i] {
			a, b := p.GridPos, q.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("%s lies over %s", p.Title, q.Title)
			}
		}
		if p.Type == "row" {
			continue
		}
		if len(p.Targets) == 0 || p.Datasource.UID != "${datasource}" {
			t.Errorf("%s asks nothing, or a data source that other installations lack", p.Title)
		}
		for _, target := range p.Targets {
			// What Grafana puts in before it asks.
			query := strings.NewReplacer("$__rate_interval", "5m", "$node", ".*").Replace(target.Expr)
			if err := m.check(query); err != nil {
				t.Errorf("%s, query %s: %v\n%s", p.Title, target.RefID, err, target.Expr)
			}
		}
	}
}

type rules struct {
	Groups []struct {
		Name  string `json:"name"`
		Rules []struct {
			Alert       string            `json:"alert"`
			Expr        string            `json:"expr"`
			For         string            `json:"for"`
			Labels      map[string]string `json:"labels"`
			Annotations map[string]string `json:"annotations"`
		} `json:"rules"`
	} `json:"groups"`
}

func TestAlertsAskWhatThereIs(t *testing.T) {
	var r rules
	if err := yaml.UnmarshalStrict(read(t, "alerts/adit.rules.yaml"), &r); err != nil {
		t.Fatal(err)
	}
	m := registered(t)
	seen := make(map[string]bool)
	for _, g := range r.Groups {
		for _, rule := range g.Rules {
			if err := m.check(rule.Expr); err != nil {
				t.Errorf("%s: %v", rule.Alert, err)
			}
			if seen[rule.Alert] || !strings.HasPrefix(rule.Alert, "Adit") {
				t.Errorf("%q is there twice, or does not say whose alert it is", rule.Alert)
			}
			seen[rule.Alert] = true
			if s := rule.Labels["severity"]; s != "critical" && s != "warning" {
				t.Errorf("%s: severity %q", rule.Alert, s)
			}
			if rule.For == "" || rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
				t.Errorf("%s needs a for, a summary and a description: what it means and what to do", rule.Alert)
			}
		}
	}
	if len(seen) == 0 {
		t.Error("no alerts")
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}
