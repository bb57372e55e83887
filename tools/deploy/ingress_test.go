package deploy

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"
)

func edgeOf(t *testing.T) (objects, *apps.Deployment) {
	t.Helper()
	all := kustomize(t, "overlays/ingress")
	return all, get[*apps.Deployment](t, all, "Deployment adit-system/adit-ingress")
}

func TestEdgeIsUnprivilegedAndTwice(t *testing.T) {
	all, d := edgeOf(t)
	pod := d.Spec.Template.Spec
	c := pod.Containers[0]
	sc := c.SecurityContext
	if *d.Spec.Replicas != 2 || d.Spec.Strategy.RollingUpdate.MaxUnavailable.IntValue() != 0 {
		t.Error("the edge is away while one replica is")
	}
	if pod.HostNetwork || pod.HostPID || pod.HostIPC || slices.ContainsFunc(pod.Volumes, func(v core.Volume) bool { return v.HostPath != nil }) {
		t.Error("the edge sees something of its node")
	}
	if !*pod.SecurityContext.RunAsNonRoot || *pod.SecurityContext.RunAsUser == 0 ||
		pod.SecurityContext.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault || *sc.Privileged ||
		*sc.AllowPrivilegeEscalation || !*sc.ReadOnlyRootFilesystem ||
		!slices.Equal(sc.Capabilities.Drop, []core.Capability{"ALL"}) || len(sc.Capabilities.Add) > 0 {
		t.Error("the edge's pod would not pass the restricted Pod Security Standard")
	}
	if pod.Affinity == nil || pod.Affinity.PodAntiAffinity == nil || len(pod.TopologySpreadConstraints) == 0 {
		t.Error("one node may hold both replicas where there are others: with externalTrafficPolicy Local the others are no way in")
	}
	if pdb := get[*policy.PodDisruptionBudget](t, all, "PodDisruptionBudget adit-system/adit-ingress"); pdb.Spec.MaxUnavailable.IntValue() != 1 {
		t.Errorf("a drain may take %v replicas at once", pdb.Spec.MaxUnavailable)
	}
	// ingress/kube selects the pods of Services by this.
	if d.Spec.Template.Labels["app.kubernetes.io/name"] != "adit-ingress" {
		t.Errorf("the Services of Gateways select no pod of labels %v", d.Spec.Template.Labels)
	}
	if d.Spec.Template.Labels["istio.io/dataplane-mode"] != "none" {
		t.Error("an agent may capture the edge")
	}
	ports := make(map[string]int32)
	for _, p := range c.Ports {
		ports[p.Name] = p.ContainerPort
	}
	if want := map[string]int32{"metrics": 15020, "health": 15021}; !maps.Equal(ports, want) {
		t.Errorf("ports %v, want %v", ports, want)
	}
}

// The target ports that ingress/kube gives are let in, for both protocols; what
// the process has beside them is not, but for scrapes and probes.
func TestEdgeIsReachedOnTargetPortsOnly(t *testing.T) {
	all, _ := edgeOf(t)
	np := get[*networking.NetworkPolicy](t, all, "NetworkPolicy adit-system/adit-ingress")
	open := func(port int, protocol core.Protocol) bool {
		for _, rule := range np.Spec.Ingress {
			for _, p := range rule.Ports {
				if *p.Protocol == protocol && p.EndPort != nil && port >= p.Port.IntValue() && port <= int(*p.EndPort) {
					return true
				}
			}
		}
		return false
	}
	for _, protocol := range []core.Protocol{core.ProtocolTCP, core.ProtocolUDP} {
		for port, want := range map[int]bool{
			9999: false, 10000: true, 10443: true, 14999: true, 15000: false, 15020: false, 15099: false, 15100: true, 32000: true, 32001: false,
		} {
			if got := open(port, protocol); got != want {
				t.Errorf("%s port %d is open: %v, want %v", protocol, port, got, want)
			}
		}
	}
}

func TestEdgeDrainsBeforeItIsKilled(t *testing.T) {
	all, d := edgeOf(t)
	config := edgeConfig(t, all)
	drain, err := time.ParseDuration(config["drainTimeout"].(string))
	if err != nil {
		t.Fatal(err)
	}
	if grace := time.Duration(*d.Spec.Template.Spec.TerminationGracePeriodSeconds) * time.Second; grace < drain+10*time.Second {
		t.Errorf("killed after %v, but draining takes up to %v", grace, drain)
	}
	// The CA and the configuration agree on the token, as for the agent.
	tokenFile := config["ca"].(map[string]any)["tokenFile"].(string)
	if !slices.ContainsFunc(d.Spec.Template.Spec.Volumes, func(v core.Volume) bool {
		if v.Projected == nil {
			return false
		}
		token := v.Projected.Sources[0].ServiceAccountToken
		return token.Audience == "istio-ca" && tokenFile == filepath.Join(mountOf(d.Spec.Template.Spec.Containers[0], v.Name), token.Path)
	}) {
		t.Errorf("no token for istio-ca at %s", tokenFile)
	}
	class := get[*gateway.GatewayClass](t, all, "GatewayClass adit")
	names := config["ingress"].(map[string]any)["controllerNames"].([]any)
	if len(names) != 1 || names[0] != string(class.Spec.ControllerName) {
		t.Errorf("the edge serves classes of %v, and class adit is of %s", names, class.Spec.ControllerName)
	}
}

func edgeConfig(t *testing.T, all objects) map[string]any {
	t.Helper()
	var config map[string]any
	text := get[*core.ConfigMap](t, all, "ConfigMap adit-system/adit-ingress").Data["ingress.yaml"]
	if err := yaml.UnmarshalStrict([]byte(text), &config); err != nil {
		t.Fatal(err)
	}
	return config
}

// The program itself reads the configuration that is shipped, and knows the
// flags that it is started with.
func TestEdgeTakesItsConfiguration(t *testing.T) {
	adit := build(t)
	for name, all := range map[string]objects{
		"kustomize": kustomize(t, "overlays/ingress"),
		"chart":     chart(t, release{values: map[string]any{"ingress": map[string]any{"enabled": true}}}),
		"chart with other values": chart(t, release{values: map[string]any{
			"trustDomain": "example.org", "clusterDomain": "example.internal",
			"ingress": map[string]any{"enabled": true, "separateUDPService": true, "drainSeconds": 5, "log": map[string]any{"level": "debug", "format": "text"}},
		}}),
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "ingress.yaml")
			text := get[*core.ConfigMap](t, all, "ConfigMap adit-system/adit-ingress").Data["ingress.yaml"]
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			args := []string{"ingress", "--check", "--config", file, "--pod", "adit-system/adit-ingress-x", "--node-name", "n"}
			if out, err := exec.Command(adit, args...).CombinedOutput(); err != nil {
				t.Errorf("adit %q: %v\n%s\n%s", args, err, out, text)
			}
			d := get[*apps.Deployment](t, all, "Deployment adit-system/adit-ingress")
			flags := slices.Concat(d.Spec.Template.Spec.Containers[0].Args, []string{"--help"})
			if out, err := exec.Command(adit, flags...).CombinedOutput(); err != nil {
				t.Errorf("adit %q: %v\n%s", flags, err, out)
			}
		})
	}
}

// The edge reads Secrets, and nothing more than that.
func TestEdgeWritesNoSecretAndGrantsNothing(t *testing.T) {
	all, _ := edgeOf(t)
	for _, r := range get[*rbac.ClusterRole](t, all, "ClusterRole adit-ingress").Rules {
		for _, word := range slices.Concat(r.APIGroups, r.Resources, r.Verbs) {
			if word == "*" || word == "escalate" || word == "bind" || word == "impersonate" || word == "serviceaccounts/token" {
				t.Error(word)
			}
		}
		if slices.Contains(r.Resources, "secrets") && !slices.Equal(r.Verbs, []string{"list", "watch"}) {
			t.Errorf("the edge may %v Secrets", r.Verbs)
		}
	}
}

func TestEdgeWritesItsOwnServicesOnly(t *testing.T) {
	for name, all := range map[string]objects{
		"kustomize": kustomize(t, "overlays/ingress"),
		"chart":     chart(t, release{values: map[string]any{"ingress": map[string]any{"enabled": true}}}),
	} {
		t.Run(name, func(t *testing.T) { edgeServices(t, newJudge(t, all, "adit-ingress")) })
	}
}

func edgeServices(t *testing.T, judge *judge) {
	marks := map[string]string{"app.kubernetes.io/managed-by": "adit-ingress", "app.kubernetes.io/instance": "adit-system"}
	balancer := &core.Service{
		TypeMeta:   meta.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: meta.ObjectMeta{Namespace: "adit-system", Name: "gw", Labels: marks},
		Spec:       core.ServiceSpec{Type: core.ServiceTypeLoadBalancer, Selector: map[string]string{"app.kubernetes.io/name": "adit-ingress"}},
	}
	alias := &core.Service{
		TypeMeta:   meta.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: meta.ObjectMeta{Namespace: "shop", Name: "eg-adit", Labels: marks},
		Spec:       core.ServiceSpec{Type: core.ServiceTypeExternalName, ExternalName: "gw.adit-system.svc.cluster.local"},
	}
	bank := &core.Service{
		TypeMeta:   meta.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: meta.ObjectMeta{Namespace: "shop", Name: "bank"},
		Spec:       core.ServiceSpec{Type: core.ServiceTypeClusterIP, Selector: map[string]string{"app": "bank"}},
	}
	with := func(s *core.Service, change func(*core.Service)) *core.Service {
		c := s.DeepCopy()
		c.Labels = maps.Clone(c.Labels)
		change(c)
		return c
	}
	edge := &user.DefaultInfo{Name: "system:serviceaccount:adit-system:adit-ingress"}
	for _, c := range []struct {
		name          string
		who           *user.DefaultInfo
		before, after *core.Service
		want          bool
	}{
		{"makes a balancer", edge, nil, balancer, true},
		{"changes it", edge, balancer, with(balancer, func(s *core.Service) { s.Spec.LoadBalancerIP = "192.0.2.1" }), true},
		{"removes it", edge, balancer, nil, true},
		{"makes an alias", edge, nil, alias, true},
		{"changes somebody's Service", edge, bank, with(bank, func(s *core.Service) { s.Spec.Selector = balancer.Spec.Selector }), false},
		{"takes somebody's Service over", edge, bank, with(bank, func(s *core.Service) { s.Labels = marks }), false},
		{"removes somebody's Service", edge, bank, nil, false},
		{"turns its Service to somebody's pods", edge, balancer, with(balancer, func(s *core.Service) { s.Spec.Selector = map[string]string{"app": "bank"} }), false},
		{"selects everything", edge, nil, with(balancer, func(s *core.Service) { s.Spec.Selector = nil }), false},
		{"makes a balancer elsewhere", edge, nil, with(balancer, func(s *core.Service) { s.Namespace = "shop" }), false},
		{"makes an alias of somebody", edge, nil, with(alias, func(s *core.Service) { s.Spec.ExternalName = "evil.example" }), false},
		{"makes one without its mark", edge, nil, with(alias, func(s *core.Service) { s.Labels = nil }), false},
		{"changes another installation's", edge, with(balancer, func(s *core.Service) { s.Labels["app.kubernetes.io/instance"] = "other" }), balancer, false},
		{"is somebody else", &user.DefaultInfo{Name: "jane"}, bank, nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var before, after runtime.Object
			operation, named := admission.Update, c.after
			if c.before == nil {
				operation = admission.Create
			} else {
				before = c.before
			}
			if c.after == nil {
				operation, named = admission.Delete, c.before
			} else {
				after = c.after
			}
			attr := admission.NewAttributesRecord(after, before, schema.GroupVersionKind{Version: "v1", Kind: "Service"}, named.Namespace, named.Name,
				schema.GroupVersionResource{Version: "v1", Resource: "services"}, "", operation, nil, false, c.who)
			if got := judge.allows(t, attr, before, after); got != c.want {
				t.Errorf("allowed: %v, want %v", got, c.want)
			}
		})
	}
}
