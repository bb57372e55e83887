package kube

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"unique"

	"istio.io/api/annotation"
	"istio.io/api/label"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/adit-mesh/adit/agent/mesh"
)

// pod is what is kept of a Pod. It never changes once others can see it.
type pod struct {
	key
	uid      string
	node     unique.Handle[string]
	template unique.Handle[podTemplate]
	// addrs are those of the status, or until it has them those that the CNI
	// plugin reported, which is when reported is true.
	addrs    []netip.Addr
	reported bool
	// since is when the pod can have got its addresses at the earliest, in Unix
	// seconds: of two pods with one address, the later one has it.
	since int64
	local *localPart // nil for pods of other nodes

	phase       corev1.PodPhase
	redirection redirection
	ready       bool
	terminating bool
	noSandbox   bool // the network of the sandbox is gone, or not there yet
	// looked says that the pod is known from Lookup and the watch has not
	// caught up.
	looked bool
}

// podTemplate is what pods of one controller have in common, and share.
type podTemplate struct {
	serviceAccount, runtimeClass  string
	labels                        labelSet
	mode                          string // label istio.io/dataplane-mode
	network                       string // label topology.istio.io/network
	canonicalName, canonicalRev   string // "" = the workload's name
	workloadName                  string // "" = the pod's name
	workloadType                  mesh.WorkloadType
	hostNetwork, sidecar, tunnels bool
}

// redirection is what the annotation ambient.istio.io/redirection says.
type redirection uint8

const (
	notRedirected redirection = iota
	redirectionPending
	redirected
)

func parseRedirection(s string) redirection {
	switch s {
	case "enabled":
		return redirected
	case "pending":
		return redirectionPending
	}
	return notRedirected
}

const dataplaneMode = "istio.io/dataplane-mode"

// ended reports whether none of the pod's containers will run again. Its
// address may be another pod's already.
func ended(phase corev1.PodPhase) bool {
	return phase == corev1.PodSucceeded || phase == corev1.PodFailed
}

// newPod takes from p what is used. here says that it is a pod of this node.
func newPod(p *corev1.Pod, here bool) *pod {
	t := podTemplate{
		serviceAccount: p.Spec.ServiceAccountName,
		labels:         newLabelSet(p.Labels),
		mode:           p.Labels[dataplaneMode],
		network:        p.Labels[label.TopologyNetwork.Name],
		hostNetwork:    p.Spec.HostNetwork,
		sidecar:        p.Annotations[annotation.SidecarStatus.Name] != "",
		tunnels:        p.Labels["networking.istio.io/tunnel"] == "http",
	}
	if p.Spec.RuntimeClassName != nil {
		t.runtimeClass = *p.Spec.RuntimeClassName
	}
	t.workloadName, t.workloadType = workloadOf(&p.ObjectMeta)
	t.canonicalName = firstOf(p.Labels, "",
		"service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
	t.canonicalRev = firstOf(p.Labels, "latest",
		"service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")
	r := &pod{
		key:         keyOf(&p.ObjectMeta),
		uid:         string(p.UID),
		node:        shared(p.Spec.NodeName),
		template:    unique.Make(t),
		since:       p.CreationTimestamp.Unix(),
		phase:       p.Status.Phase,
		redirection: parseRedirection(p.Annotations[annotation.AmbientRedirection.Name]),
		terminating: p.DeletionTimestamp != nil,
	}
	r.addrs = statusAddrs(&p.Status)
	if p.Status.StartTime != nil {
		r.since = max(r.since, p.Status.StartTime.Unix())
	}
	for i := range p.Status.Conditions {
		c := &p.Status.Conditions[i]
		switch c.Type {
		case corev1.PodReady:
			r.ready = c.Status == corev1.ConditionTrue
		case corev1.PodReadyToStartContainers:
			r.noSandbox = c.Status == corev1.ConditionFalse
			if c.Status == corev1.ConditionTrue {
				r.since = max(r.since, c.LastTransitionTime.Unix())
			}
		}
	}
	if here {
		r.local = newLocalPart(p)
	}
	return r
}

func statusAddrs(s *corev1.PodStatus) []netip.Addr {
	var out []netip.Addr
	add := func(ip string) {
		if a, ok := parseAddr(ip); ok && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	for _, ip := range s.PodIPs {
		add(ip.IP)
	}
	add(s.PodIP)
	return slices.Clip(out)
}

// in reports whether labels of p match a selector.
func (p *pod) in(selector labelSet) bool { return p.template.Value().labels.has(selector) }

func firstOf(labels map[string]string, fallback string, names ...string) string {
	for _, n := range names {
		if v := labels[n]; v != "" {
			return v
		}
	}
	return fallback
}

// cronJobRun is the name that the CronJob controller gives a Job: the CronJob's
// and the scheduled time in minutes.
var cronJobRun = regexp.MustCompile(`^(.+)-\d{8,10}$`)

// workloadOf names what a pod belongs to, as istiod does: its Deployment, Job or
// CronJob, where a ReplicaSet stands for its Deployment and a Job for its
// CronJob. "" is the pod itself.
func workloadOf(m *metav1.ObjectMeta) (string, mesh.WorkloadType) {
	owner := metav1.GetControllerOfNoCopy(m)
	if owner == nil {
		return "", mesh.Pod
	}
	switch owner.Kind {
	case "ReplicaSet":
		hash := m.Labels["pod-template-hash"]
		if name, ok := strings.CutSuffix(owner.Name, "-"+hash); ok && hash != "" {
			return name, mesh.Deployment
		}
	case "Job":
		if run := cronJobRun.FindStringSubmatch(owner.Name); run != nil {
			return run[1], mesh.CronJob
		}
		return owner.Name, mesh.Job
	case "Deployment":
		return owner.Name, mesh.Deployment
	case "CronJob":
		return owner.Name, mesh.CronJob
	}
	return "", mesh.Pod
}
