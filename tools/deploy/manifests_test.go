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
	policy "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

// Whatever can be applied is known to the API, to the last field.
func TestEveryManifestIsStrict(t *testing.T) {
	for _, dir := range []string{
		"base/agent", "base/ca", "base/ingress", "base/gatewayclass", "overlays/default", "overlays/monitoring", "overlays/ingress", "overlays/ingress-monitoring",
		"examples/kubernetes", "examples/k3s", "examples/issuer",
	} {
		t.Run(dir, func(t *testing.T) {
			if len(kustomize(t, dir)) == 0 {
				t.Error("builds nothing")
			}
		})
	}
}

func TestDefaultIsTheWhole(t *testing.T) {
	want := []string{
		"ClusterRole adit-agent", "ClusterRole adit-ca",
		"ClusterRoleBinding adit-agent", "ClusterRoleBinding adit-ca",
		"ConfigMap adit-system/adit-agent",
		"DaemonSet adit-system/adit-agent",
		"Deployment adit-system/adit-ca",
		"Namespace adit-system",
		"NetworkPolicy adit-system/adit-ca",
		"PodDisruptionBudget adit-system/adit-ca",
		"Role adit-system/adit-agent", "Role adit-system/adit-ca",
		"RoleBinding adit-system/adit-agent", "RoleBinding adit-system/adit-ca",
		"Service adit-system/adit-ca",
		"ServiceAccount adit-system/adit-agent", "ServiceAccount adit-system/adit-ca",
		"ValidatingAdmissionPolicy adit-agent", "ValidatingAdmissionPolicyBinding adit-agent",
	}
	if got := kustomize(t, "overlays/default").keys(); !slices.Equal(got, want) {
		t.Errorf("overlays/default holds\n%q, want\n%q", got, want)
	}
}

// capabilities says why the agent has each, and what of it breaks without.
var capabilities = map[core.Capability]string{
	"SYS_ADMIN":    "capture: setns(2) into a pod's network namespace, and the trial one at start",
	"NET_ADMIN":    "capture: nftables, routing rules and sysctls in pods; SO_MARK and IP_TRANSPARENT on sockets",
	"SYS_PTRACE":   "agent/enrol: /proc/PID/ns/net of processes that run as other users",
	"DAC_OVERRIDE": "capture/cni: a /opt/cni/bin that belongs to the user the CNI archives name",
}

// hostPaths says what of the node an agent sees, beside its network and processes.
var hostPaths = map[string]string{
	"/run/adit":      "the socket on which adit-cni asks",
	"/etc/cni/net.d": "the runtime's list of plugins, which names adit-cni",
	"/opt/cni/bin":   "adit-cni itself",
	"/proc/sys/net":  "sysctls of pods, which a container's own /proc/sys does not let it write",
}

func TestAgentHasLeastPrivileges(t *testing.T) {
	pod := get[*apps.DaemonSet](t, kustomize(t, "overlays/default"), "DaemonSet adit-system/adit-agent").Spec.Template.Spec
	if n := len(pod.Containers) + len(pod.InitContainers); n != 1 {
		t.Fatalf("%d containers, want one", n)
	}
	c := pod.Containers[0]
	sc := c.SecurityContext
	if sc.Privileged == nil || *sc.Privileged {
		t.Error("the agent is privileged, or may become so by a default")
	}
	if sc.AllowPrivilegeEscalation == nil || *sc.AllowPrivilegeEscalation {
		t.Error("the agent may gain privileges that it was not started with")
	}
	if sc.ReadOnlyRootFilesystem == nil || !*sc.ReadOnlyRootFilesystem {
		t.Error("the agent's file system can be written to")
	}
	if sc.SeccompProfile == nil || sc.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault {
		t.Error("the agent runs without the runtime's seccomp profile")
	}
	if !slices.Equal(sc.Capabilities.Drop, []core.Capability{"ALL"}) {
		t.Errorf("capabilities dropped: %v, want ALL", sc.Capabilities.Drop)
	}
	if got, want := slices.Sorted(slices.Values(sc.Capabilities.Add)), slices.Sorted(maps.Keys(capabilities)); !slices.Equal(got, want) {
		t.Errorf("capabilities %v, want those that have a reason: %v", got, want)
	}
	var paths []string
	for _, v := range pod.Volumes {
		if v.HostPath != nil {
			paths = append(paths, v.HostPath.Path)
		}
	}
	if slices.Sort(paths); !slices.Equal(paths, slices.Sorted(maps.Keys(hostPaths))) {
		t.Errorf("host paths %v, want those that have a reason: %v", paths, slices.Sorted(maps.Keys(hostPaths)))
	}
	for _, m := range c.VolumeMounts {
		if m.MountPropagation != nil && *m.MountPropagation != core.MountPropagationNone {
			t.Errorf("%s takes part in the node's mounts", m.Name)
		}
	}
	if !pod.HostNetwork || !pod.HostPID {
		t.Error("without hostNetwork and hostPID the agent finds no pods")
	}
}

// The order of ends: connections, then the agent's pods, then the kubelet's patience.
func TestAgentDrainsBeforeItIsKilled(t *testing.T) {
	all := kustomize(t, "overlays/default")
	pod := get[*apps.DaemonSet](t, all, "DaemonSet adit-system/adit-agent").Spec.Template.Spec
	drain, err := time.ParseDuration(agentConfig(t, all)["drainTimeout"].(string))
	if err != nil {
		t.Fatal(err)
	}
	const letGo = 15 * time.Second // of 250 pods, some ms each, on a busy node
	if grace := time.Duration(*pod.TerminationGracePeriodSeconds) * time.Second; grace < drain+letGo {
		t.Errorf("killed after %v, but draining takes up to %v and letting go of the pods up to %v", grace, drain, letGo)
	}
}

func TestAgentComesFirstAndStays(t *testing.T) {
	ds := get[*apps.DaemonSet](t, kustomize(t, "overlays/default"), "DaemonSet adit-system/adit-agent")
	pod := ds.Spec.Template.Spec
	if pod.PriorityClassName != "system-node-critical" {
		t.Errorf("priority class %q: other pods could push the agent off its node", pod.PriorityClassName)
	}
	if !slices.Equal(pod.Tolerations, []core.Toleration{{Operator: core.TolerationOpExists}}) {
		t.Errorf("tolerations %v: some taint keeps the agent from a node whose pods wait for it", pod.Tolerations)
	}
	up := ds.Spec.UpdateStrategy
	if up.Type != apps.RollingUpdateDaemonSetStrategyType || up.RollingUpdate.MaxSurge.IntValue() != 0 ||
		*up.RollingUpdate.MaxUnavailable != intstr.FromInt32(1) {
		t.Errorf("update strategy %+v: two agents cannot share a node's ports", up)
	}
	if pod.DNSPolicy != core.DNSClusterFirstWithHostNet {
		t.Errorf("DNS policy %s: on the host network the CA's name would not be found", pod.DNSPolicy)
	}
	requests := pod.Containers[0].Resources.Requests
	if requests.Cpu().IsZero() || requests.Memory().IsZero() {
		t.Error("the agent requests nothing and is among the first to be starved")
	}
}

// Ports, paths and the token are agreements with other programs.
func TestAgentIsWhereOthersLook(t *testing.T) {
	all := kustomize(t, "overlays/default")
	ds := get[*apps.DaemonSet](t, all, "DaemonSet adit-system/adit-agent")
	c := ds.Spec.Template.Spec.Containers[0]
	ports := make(map[string]int32)
	for _, p := range c.Ports {
		ports[p.Name] = p.ContainerPort
	}
	if want := map[string]int32{"metrics": 15020, "health": 15021}; !maps.Equal(ports, want) {
		t.Errorf("ports %v, want %v", ports, want)
	}
	for name, probe := range map[string]*core.Probe{"startup": c.StartupProbe, "liveness": c.LivenessProbe, "readiness": c.ReadinessProbe} {
		want := "/healthz/live"
		if name == "readiness" {
			want = "/healthz/ready"
		}
		if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != want || probe.HTTPGet.Port.String() != "health" {
			t.Errorf("%s probe asks %+v, want %s of port health", name, probe, want)
		}
	}
	notes := ds.Spec.Template.Annotations
	if notes["prometheus.io/scrape"] != "true" || notes["prometheus.io/port"] != "15020" || notes["prometheus.io/path"] != "/metrics" {
		t.Errorf("annotations %v do not lead to the metrics", notes)
	}

	config := agentConfig(t, all)
	tokenFile := config["ca"].(map[string]any)["tokenFile"].(string)
	found := false
	for _, v := range ds.Spec.Template.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			token := s.ServiceAccountToken
			found = token != nil && token.Audience == "istio-ca" && *token.ExpirationSeconds == 3600 &&
				tokenFile == filepath.Join(mountOf(c, v.Name), token.Path)
		}
	}
	if !found {
		t.Errorf("no token for istio-ca of an hour at %s", tokenFile)
	}
	for _, m := range []string{"confDir", "binDir"} {
		dir := config["cni"].(map[string]any)[m].(string)
		if !slices.ContainsFunc(c.VolumeMounts, func(v core.VolumeMount) bool { return v.MountPath == dir && !v.ReadOnly }) {
			t.Errorf("cni.%s is %s, which is not the node's", m, dir)
		}
	}
}

func TestCAIsUnprivilegedAndTwice(t *testing.T) {
	all := kustomize(t, "overlays/default")
	d := get[*apps.Deployment](t, all, "Deployment adit-system/adit-ca")
	pod := d.Spec.Template.Spec
	sc := pod.Containers[0].SecurityContext
	if *d.Spec.Replicas != 2 || d.Spec.Strategy.RollingUpdate.MaxUnavailable.IntValue() != 0 {
		t.Error("the CA is away while one replica is")
	}
	if pod.HostNetwork || pod.HostPID || pod.HostIPC || slices.ContainsFunc(pod.Volumes, func(v core.Volume) bool { return v.HostPath != nil }) {
		t.Error("the CA sees something of its node")
	}
	if !*pod.SecurityContext.RunAsNonRoot || *pod.SecurityContext.RunAsUser == 0 ||
		pod.SecurityContext.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault ||
		*sc.AllowPrivilegeEscalation || !*sc.ReadOnlyRootFilesystem ||
		!slices.Equal(sc.Capabilities.Drop, []core.Capability{"ALL"}) || len(sc.Capabilities.Add) > 0 {
		t.Error("the CA's pod would not pass the restricted Pod Security Standard")
	}
	if pod.Affinity == nil || pod.Affinity.PodAntiAffinity == nil || len(pod.TopologySpreadConstraints) == 0 {
		t.Error("one node may hold both replicas where there are others")
	}
	pdb := get[*policy.PodDisruptionBudget](t, all, "PodDisruptionBudget adit-system/adit-ca")
	if pdb.Spec.MaxUnavailable.IntValue() != 1 {
		t.Errorf("a drain may take %v replicas at once", pdb.Spec.MaxUnavailable)
	}
	svc := get[*core.Service](t, all, "Service adit-system/adit-ca")
	if len(svc.Spec.Ports) != 1 || svc.Spec.Ports[0].Port != 15012 {
		t.Errorf("the Service's ports are %v, want 15012", svc.Spec.Ports)
	}
	for k, v := range svc.Spec.Selector {
		if d.Spec.Template.Labels[k] != v {
			t.Errorf("the Service selects %s=%s, which the CA's pods do not have", k, v)
		}
	}
}

// The agent itself reads the configuration that is shipped.
func TestAgentTakesItsConfiguration(t *testing.T) {
	adit := build(t)
	for name, all := range map[string]objects{
		"kustomize": kustomize(t, "overlays/default"),
		"chart":     chart(t, release{}),
		"chart with other values": chart(t, release{values: map[string]any{
			"namespace": "mesh", "trustDomain": "example.org", "clusterDomain": "example.internal", "certificateTTL": "1h",
			"agent": map[string]any{"sameNode": "direct", "drainSeconds": 90, "log": map[string]any{"level": "debug", "format": "text"}},
		}}),
	} {
		t.Run(name, func(t *testing.T) {
			ns := "adit-system"
			if all["Namespace mesh"] != nil {
				ns = "mesh"
			}
			file := filepath.Join(t.TempDir(), "agent.yaml")
			text := get[*core.ConfigMap](t, all, "ConfigMap "+ns+"/adit-agent").Data["agent.yaml"]
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(adit, "agent", "--check", "--config", file).CombinedOutput(); err != nil {
				t.Errorf("adit agent --check: %v\n%s\n%s", err, out, text)
			}
		})
	}
}

// The programs know the flags that they are started with.
func TestArguments(t *testing.T) {
	adit := build(t)
	for _, all := range []objects{kustomize(t, "overlays/default"), kustomize(t, "examples/issuer"), chart(t, release{})} {
		for _, pod := range []core.PodTemplateSpec{
			get[*apps.DaemonSet](t, all, "DaemonSet adit-system/adit-agent").Spec.Template,
			get[*apps.Deployment](t, all, "Deployment adit-system/adit-ca").Spec.Template,
		} {
			// Flags are read before help is given, and an unknown one is an error.
			args := slices.Concat(pod.Spec.Containers[0].Args, []string{"--help"})
			if out, err := exec.Command(adit, args...).CombinedOutput(); err != nil {
				t.Errorf("adit %q: %v\n%s", args, err, out)
			}
		}
	}
}

// build makes the program whose manifests these are.
func build(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "adit")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", out, "./cmd/adit")
	cmd.Dir = filepath.Dir(root)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build ./cmd/adit: %v\n%s", err, text)
	}
	return out
}

func agentConfig(t *testing.T, all objects) map[string]any {
	t.Helper()
	var config map[string]any
	text := get[*core.ConfigMap](t, all, "ConfigMap adit-system/adit-agent").Data["agent.yaml"]
	if err := yaml.UnmarshalStrict([]byte(text), &config); err != nil {
		t.Fatal(err)
	}
	return config
}

func mountOf(c core.Container, volume string) string {
	for _, m := range c.VolumeMounts {
		if m.Name == volume {
			return m.MountPath
		}
	}
	return ""
}
