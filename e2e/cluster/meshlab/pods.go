package meshlab

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/adit-mesh/adit/e2e/cluster"
)

// ModeLabel enrols a namespace or a pod when it is "ambient".
const ModeLabel = "istio.io/dataplane-mode"

// Namespace makes a namespace, enrolled or not, which goes with the test.
func Namespace(t *testing.T, enrolled bool) string {
	t.Helper()
	name := strings.ToLower(rand.Text()[:6])
	if last := t.Name()[strings.LastIndexByte(t.Name(), '/')+1:]; len(last) > 0 {
		name = strings.ToLower(strings.TrimPrefix(last, "Test")) + "-" + name
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: dnsLabel(name)}}
	if enrolled {
		ns.Labels = map[string]string{ModeLabel: "ambient"}
	}
	if _, err := client().CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Not waited for: the next test has another one.
		if err := client().CoreV1().Namespaces().Delete(context.Background(), ns.Name, metav1.DeleteOptions{}); err != nil {
			t.Errorf("delete namespace %s: %v", ns.Name, err)
		}
	})
	return ns.Name
}

func dnsLabel(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, s)
	return strings.Trim(s[max(0, len(s)-50):], "-")
}

// PodSpec is a pod of one container that runs testapp. Zero fields are left to
// Kubernetes, but for Args, which are then serve.
type PodSpec struct {
	Name           string
	Node           string
	ServiceAccount string // made if there is none of the name
	Labels         map[string]string
	Annotations    map[string]string
	Args           []string // of testapp
	InitArgs       []string // of testapp in an init container; nil = none
	Startup        *corev1.Probe
	Readiness      *corev1.Probe
	Liveness       *corev1.Probe
	Edit           func(*corev1.Pod)
}

// Pod is a pod as it was when it was last looked at.
type Pod struct {
	Namespace, Name, Node string
	UID                   types.UID
	IPs                   []netip.Addr // IPv4 first
	container             string       // containerd's id
}

// IP4 is the pod's IPv4 address.
func (p *Pod) IP4() netip.Addr { return p.IPs[0] }

// IP6 is the pod's IPv6 address.
func (p *Pod) IP6() netip.Addr { return p.IPs[1] }

// Ref is namespace/name.
func (p *Pod) Ref() string { return p.Namespace + "/" + p.Name }

// At is ADDRESS:PORT of the pod, in IPv4.
func (p *Pod) At(port int) string { return net.JoinHostPort(p.IP4().String(), strconv.Itoa(port)) }

// At6 is [ADDRESS]:PORT of the pod, in IPv6.
func (p *Pod) At6(port int) string { return net.JoinHostPort(p.IP6().String(), strconv.Itoa(port)) }

// Object is the pod for the API server.
func (s PodSpec) Object(ns string) *corev1.Pod {
	if s.Args == nil {
		s.Args = []string{"serve"}
	}
	grace := int64(2)
	app := corev1.Container{
		Name: "app", Image: cluster.AppImage, ImagePullPolicy: corev1.PullIfNotPresent, Args: s.Args,
		StartupProbe: s.Startup, ReadinessProbe: s.Readiness, LivenessProbe: s.Liveness,
	}
	if s.Args[0] == "serve" && s.Readiness == nil {
		app.ReadinessProbe = HTTPProbe("/readyz")
	}
	labels := map[string]string{"app": s.Name}
	for k, v := range s.Labels {
		labels[k] = v
	}
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: s.Name, Labels: labels, Annotations: s.Annotations},
		Spec: corev1.PodSpec{
			ServiceAccountName: s.ServiceAccount, TerminationGracePeriodSeconds: &grace,
			RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{app},
		},
	}
	if s.Node != "" {
		p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: s.Node}
	}
	if s.Args[0] == "client" || s.Args[0] == "stream" {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
	}
	if s.InitArgs != nil {
		p.Spec.InitContainers = []corev1.Container{{
			Name: "init", Image: cluster.AppImage, ImagePullPolicy: corev1.PullIfNotPresent, Args: s.InitArgs,
		}}
	}
	if s.Edit != nil {
		s.Edit(p)
	}
	return p
}

// HTTPProbe asks testapp for a page, every second.
func HTTPProbe(path string) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(8080)}},
		PeriodSeconds: 1, TimeoutSeconds: 3,
	}
}

// Create makes the pod and does not wait for it.
func Create(t *testing.T, ns string, s PodSpec) {
	t.Helper()
	if s.ServiceAccount != "" {
		ServiceAccount(t, ns, s.ServiceAccount)
	}
	// The namespace's default service account is made a moment after the namespace.
	Eventually(t, "pod "+ns+"/"+s.Name+" is accepted", func() error {
		_, err := client().CoreV1().Pods(ns).Create(t.Context(), s.Object(ns), metav1.CreateOptions{})
		return err
	})
}

// ServiceAccount makes one if there is none of the name.
func ServiceAccount(t *testing.T, ns, name string) {
	t.Helper()
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	if _, err := client().CoreV1().ServiceAccounts(ns).Create(t.Context(), sa, metav1.CreateOptions{}); err != nil && !exists(err) {
		t.Fatal(err)
	}
}

// Start makes the pod and waits until it is ready, or, if it is not one that
// serves, until it runs.
func Start(t *testing.T, ns string, s PodSpec) *Pod {
	t.Helper()
	Create(t, ns, s)
	return Ready(t, ns, s.Name)
}

// Ready waits until a pod is ready, or has ended well.
func Ready(t *testing.T, ns, name string) *Pod {
	t.Helper()
	var pod *Pod
	Eventually(t, "pod "+ns+"/"+name+" is ready", func() error {
		p, err := client().CoreV1().Pods(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		pod, err = podOf(p)
		if err != nil {
			return err
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status != corev1.ConditionTrue && p.Status.Phase != corev1.PodSucceeded {
				return fmt.Errorf("not ready: %s; %s", c.Message, containers(p))
			}
		}
		return nil
	})
	return pod
}

func podOf(p *corev1.Pod) (*Pod, error) {
	pod := &Pod{Namespace: p.Namespace, Name: p.Name, Node: p.Spec.NodeName, UID: p.UID}
	for _, ip := range p.Status.PodIPs {
		a, err := netip.ParseAddr(ip.IP)
		if err != nil {
			return nil, err
		}
		pod.IPs = append(pod.IPs, a)
	}
	if len(pod.IPs) == 0 {
		return nil, fmt.Errorf("%s, no address; %s", p.Status.Phase, containers(p))
	}
	for _, c := range p.Status.ContainerStatuses {
		pod.container = strings.TrimPrefix(c.ContainerID, "containerd://")
	}
	return pod, nil
}

// containers says how the containers of a pod are.
func containers(p *corev1.Pod) string {
	var all []string
	for _, c := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		switch s := c.State; {
		case s.Waiting != nil:
			all = append(all, fmt.Sprintf("%s waits: %s %s", c.Name, s.Waiting.Reason, s.Waiting.Message))
		case s.Terminated != nil:
			all = append(all, fmt.Sprintf("%s ended: %d %s", c.Name, s.Terminated.ExitCode, s.Terminated.Message))
		default:
			all = append(all, fmt.Sprintf("%s runs, ready %v, restarts %d", c.Name, c.Ready, c.RestartCount))
		}
	}
	return strings.Join(all, ", ")
}

// Get looks at a pod now.
func Get(t *testing.T, ns, name string) *corev1.Pod {
	t.Helper()
	p, err := client().CoreV1().Pods(ns).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Delete deletes a pod and waits until it is gone.
func Delete(t *testing.T, ns, name string) {
	t.Helper()
	if err := client().CoreV1().Pods(ns).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil && !gone(err) {
		t.Fatal(err)
	}
	Eventually(t, "pod "+ns+"/"+name+" is gone", func() error {
		_, err := client().CoreV1().Pods(ns).Get(t.Context(), name, metav1.GetOptions{})
		if gone(err) {
			return nil
		}
		return fmt.Errorf("it is there still, or: %v", err)
	})
}

// SetMode sets the label of a namespace: "ambient", "none", or "" for none at all.
func SetMode(t *testing.T, ns, mode string) {
	t.Helper()
	if _, err := client().CoreV1().Namespaces().Patch(t.Context(), ns, types.MergePatchType, modePatch(mode), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// SetPodMode sets the label of one pod.
func SetPodMode(t *testing.T, ns, name, mode string) {
	t.Helper()
	if _, err := client().CoreV1().Pods(ns).Patch(t.Context(), name, types.MergePatchType, modePatch(mode), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

func modePatch(mode string) []byte {
	value := "null"
	if mode != "" {
		value = strconv.Quote(mode)
	}
	return fmt.Appendf(nil, `{"metadata":{"labels":{%q:%s}}}`, ModeLabel, value)
}

// Ports of testapp: what a Service of it has.
var Ports = []corev1.ServicePort{
	{Name: "tcp", Port: 9000, TargetPort: intstr.FromInt32(9000)},
	{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)},
}

// Service makes a dual-stack Service with a ClusterIP, for pods with these
// labels; nil means app=NAME. Without ports it has [Ports]. Edits, if any, are made before.
func Service(t *testing.T, ns, name string, selector map[string]string, ports []corev1.ServicePort, edit ...func(*corev1.Service)) *corev1.Service {
	t.Helper()
	if selector == nil {
		selector = map[string]string{"app": name}
	}
	if ports == nil {
		ports = Ports
	}
	both := corev1.IPFamilyPolicyRequireDualStack
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec:       corev1.ServiceSpec{Selector: selector, Ports: ports, IPFamilyPolicy: &both},
	}
	for _, e := range edit {
		e(s)
	}
	s, err := client().CoreV1().Services(ns).Create(t.Context(), s, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Deployment makes replicas of a pod, labelled app=NAME, and waits until all are available.
func Deployment(t *testing.T, ns, name string, replicas int32, s PodSpec) {
	t.Helper()
	if s.ServiceAccount != "" {
		ServiceAccount(t, ns, s.ServiceAccount)
	}
	s.Name = name
	p := s.Object(ns)
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: p.Labels, Annotations: p.Annotations},
				Spec:       p.Spec,
			},
		},
	}
	if _, err := client().AppsV1().Deployments(ns).Create(t.Context(), d, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	Available(t, ns, name)
}

// Available waits until all replicas of a Deployment are.
func Available(t *testing.T, ns, name string) {
	t.Helper()
	Eventually(t, "deployment "+ns+"/"+name+" is available", func() error {
		d, err := client().AppsV1().Deployments(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if s := d.Status; d.Generation != s.ObservedGeneration || s.AvailableReplicas != *d.Spec.Replicas || s.Replicas != *d.Spec.Replicas {
			return fmt.Errorf("%d of %d available, %d in all", s.AvailableReplicas, *d.Spec.Replicas, s.Replicas)
		}
		return nil
	})
}

// Pods are those with a label app=NAME that have an address and do not terminate.
func Pods(t *testing.T, ns, app string) []*Pod {
	t.Helper()
	list, err := client().CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		t.Fatal(err)
	}
	var pods []*Pod
	for i := range list.Items {
		if p, err := podOf(&list.Items[i]); err == nil && list.Items[i].DeletionTimestamp == nil {
			pods = append(pods, p)
		}
	}
	return pods
}
