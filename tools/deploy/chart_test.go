package deploy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// The chart with its own values and the overlays are one thing in two packings.
func TestChartRendersTheOverlays(t *testing.T) {
	for _, c := range []struct {
		overlay string
		values  map[string]any
	}{
		{"overlays/default", nil},
		{"overlays/monitoring", map[string]any{"monitoring": map[string]any{"enabled": true}}},
		{"overlays/ingress", map[string]any{"ingress": map[string]any{"enabled": true}}},
		{"overlays/ingress-monitoring", map[string]any{"ingress": map[string]any{"enabled": true}, "monitoring": map[string]any{"enabled": true}}},
		{"examples/issuer", map[string]any{"ca": map[string]any{"issuerSecret": "cacerts"}}},
	} {
		t.Run(c.overlay, func(t *testing.T) {
			want, got := kustomize(t, c.overlay), chart(t, release{values: c.values})
			if diff := cmp.Diff(want.keys(), got.keys()); diff != "" {
				t.Fatalf("objects of %s (-) and the chart (+):\n%s", c.overlay, diff)
			}
			for key := range want {
				if diff := cmp.Diff(comparable(t, want[key]), comparable(t, got[key])); diff != "" {
					t.Errorf("%s in %s (-) and in the chart (+):\n%s", key, c.overlay, diff)
				}
			}
		})
	}
}

// comparable is a copy of o without what may differ: the chart restarts agents
// whose configuration has changed by a checksum, which kustomize cannot make,
// and the text of a configuration may be laid out in another way.
func comparable(t *testing.T, o runtime.Object) runtime.Object {
	t.Helper()
	o = o.DeepCopyObject()
	switch o := o.(type) {
	case *apps.DaemonSet:
		delete(o.Spec.Template.Annotations, "checksum/config")
	case *apps.Deployment:
		delete(o.Spec.Template.Annotations, "checksum/config")
	case *core.ConfigMap:
		for name, text := range o.Data {
			canonical, err := yaml.YAMLToJSONStrict([]byte(text))
			if err != nil {
				t.Fatalf("%s of ConfigMap %s: %v", name, o.Name, err)
			}
			o.Data[name] = string(canonical)
		}
	}
	return o
}

func TestChartFollowsItsValues(t *testing.T) {
	all := chart(t, release{values: map[string]any{
		"namespace":        "mesh",
		"image":            map[string]any{"repository": "registry.example.com/adit", "tag": "v1", "pullPolicy": "Always"},
		"imagePullSecrets": []any{"registry"},
		"trustDomain":      "example.org",
		"clusterDomain":    "example.internal",
		"agent": map[string]any{
			"maxUnavailable": "10%",
			"resources":      map[string]any{"limits": map[string]any{"memory": "1Gi"}},
			"cni": map[string]any{
				"confDir": "/var/lib/rancher/k3s/agent/etc/cni/net.d", "binDir": "/var/lib/rancher/k3s/data/cni",
				"excludeNamespaces": []any{"kube-system", "storage"},
			},
		},
		"ca":         map[string]any{"replicas": 3},
		"ingress":    map[string]any{"enabled": true, "replicas": 4, "className": "edge", "separateUDPService": true, "drainSeconds": 90},
		"monitoring": map[string]any{"enabled": true, "labels": map[string]any{"release": "prometheus"}},
	}})
	for key, o := range all {
		text, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "adit-system") {
			t.Errorf("%s still speaks of adit-system:\n%s", key, text)
		}
	}
	ds := get[*apps.DaemonSet](t, all, "DaemonSet mesh/adit-agent")
	c := ds.Spec.Template.Spec.Containers[0]
	if c.Image != "registry.example.com/adit:v1" || c.ImagePullPolicy != core.PullAlways {
		t.Errorf("image %s, %s", c.Image, c.ImagePullPolicy)
	}
	if limit := c.Resources.Limits.Memory().String(); limit != "1Gi" {
		t.Errorf("memory limit %s, want 1Gi", limit)
	}
	if got := ds.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable.String(); got != "10%" {
		t.Errorf("maxUnavailable %s, want 10%%", got)
	}
	if got := mountOf(c, "cni-bin"); got != "/var/lib/rancher/k3s/data/cni" {
		t.Errorf("plugins go to %s", got)
	}
	config := get[*core.ConfigMap](t, all, "ConfigMap mesh/adit-agent").Data["agent.yaml"]
	for _, want := range []string{
		"trustDomain: example.org", "clusterDomain: example.internal", "rootNamespace: mesh",
		"address: adit-ca.mesh.svc:15012", "rootConfigMap: mesh/adit-ca-root", "- storage\n", "- mesh\n",
		"binDir: /var/lib/rancher/k3s/data/cni\n",
	} {
		if !strings.Contains(config, want) {
			t.Errorf("agent.yaml lacks %q:\n%s", want, config)
		}
	}
	if n := *get[*apps.Deployment](t, all, "Deployment mesh/adit-ca").Spec.Replicas; n != 3 {
		t.Errorf("%d replicas of the CA, want 3", n)
	}
	edge := get[*apps.Deployment](t, all, "Deployment mesh/adit-ingress").Spec
	if *edge.Replicas != 4 || *edge.Template.Spec.TerminationGracePeriodSeconds != 120 {
		t.Errorf("%d replicas of the edge that are killed after %d s", *edge.Replicas, *edge.Template.Spec.TerminationGracePeriodSeconds)
	}
	if text := get[*core.ConfigMap](t, all, "ConfigMap mesh/adit-ingress").Data["ingress.yaml"]; !strings.Contains(text, "separateUDPService: true") || !strings.Contains(text, "drainTimeout: 90s") {
		t.Errorf("ingress.yaml is\n%s", text)
	}
	if all["GatewayClass edge"] == nil {
		t.Error("the class is not called edge")
	}
	for _, name := range []string{"adit-agent", "adit-ca", "adit-ingress"} {
		if s := get[*core.ServiceAccount](t, all, "ServiceAccount mesh/"+name).ImagePullSecrets; len(s) != 1 || s[0].Name != "registry" {
			t.Errorf("%s pulls with %v", name, s)
		}
	}
}

// A digest says which image, whatever the tag says.
func TestChartPrefersADigest(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0", 64)
	all := chart(t, release{values: map[string]any{"image": map[string]any{"tag": "v1", "digest": digest}}})
	if got := get[*apps.Deployment](t, all, "Deployment adit-system/adit-ca").Spec.Template.Spec.Containers[0].Image; got != "adit@"+digest {
		t.Errorf("image %s", got)
	}
}

// Installed into adit's namespace, helm has made it already.
func TestChartMakesTheNamespaceOnce(t *testing.T) {
	inside := chart(t, release{namespace: "adit-system"})
	if inside["Namespace adit-system"] != nil {
		t.Error("the chart makes the namespace that its release is in")
	}
	if len(inside) != len(chart(t, release{}))-1 {
		t.Error("more differs than the namespace")
	}
}

// A configuration that changes restarts the agents.
func TestChartRestartsAgents(t *testing.T) {
	sum := func(values map[string]any) string {
		return get[*apps.DaemonSet](t, chart(t, release{values: values}), "DaemonSet adit-system/adit-agent").
			Spec.Template.Annotations["checksum/config"]
	}
	if a, b := sum(nil), sum(map[string]any{"trustDomain": "example.org"}); a == "" || a == b {
		t.Errorf("checksums %q and %q for two configurations", a, b)
	}
	if sum(nil) != sum(map[string]any{"ca": map[string]any{"replicas": 3}}) {
		t.Error("agents restart for a change that is not theirs")
	}
}

func TestChartRefusesValues(t *testing.T) {
	for _, c := range []struct {
		name   string
		values map[string]any
		want   string // in the error
	}{
		{"an unknown key", map[string]any{"trustdomain": "example.org"}, "trustdomain"},
		{"an unknown key below", map[string]any{"agent": map[string]any{"limits": map[string]any{}}}, "limits"},
		{"no replicas", map[string]any{"ca": map[string]any{"replicas": 0}}, "replicas"},
		{"a trust domain that is no name", map[string]any{"trustDomain": "Example Org"}, "trustDomain"},
		{"a duration without a unit", map[string]any{"certificateTTL": "24"}, "certificateTTL"},
		{"a word that the agent does not know", map[string]any{"agent": map[string]any{"sameNode": "splice"}}, "sameNode"},
		{"a relative directory", map[string]any{"agent": map[string]any{"cni": map[string]any{"binDir": "opt/cni/bin"}}}, "binDir"},
		{"a digest that is none", map[string]any{"image": map[string]any{"digest": "latest"}}, "digest"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := helm(release{values: c.values})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one about %s", err, c.want)
			}
		})
	}
}

// What a person reads after the installation names what to do next.
func TestChartNotes(t *testing.T) {
	for _, c := range []struct {
		namespace string
		label     bool
	}{{"default", false}, {"adit-system", true}} {
		files, err := helm(release{namespace: c.namespace})
		if err != nil {
			t.Fatal(err)
		}
		notes := files["adit/templates/NOTES.txt"]
		if !strings.Contains(notes, "istio.io/dataplane-mode=ambient") {
			t.Errorf("the notes do not say how to enrol a namespace:\n%s", notes)
		}
		if strings.Contains(notes, "gateways") {
			t.Errorf("the notes speak of an edge that is not there:\n%s", notes)
		}
		if strings.Contains(notes, "pod-security.kubernetes.io") != c.label {
			t.Errorf("released in %s, the notes speak of Pod Security: want %v", c.namespace, c.label)
		}
	}
}

func TestChartNotesOfTheEdge(t *testing.T) {
	files, err := helm(release{values: map[string]any{"ingress": map[string]any{"enabled": true, "className": "edge"}}})
	if err != nil {
		t.Fatal(err)
	}
	if notes := files["adit/templates/NOTES.txt"]; !strings.Contains(notes, "class edge") {
		t.Errorf("the notes do not say which Gateways are served:\n%s", notes)
	}
}
