package kube

import (
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/adit-mesh/adit/agent/mesh"
)

// rig is a world with a store, fed with objects as the API server has them.
type rig struct {
	t     testing.TB
	w     *world
	store *mesh.Store
}

const here = "node-1"

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{t: t, store: mesh.NewStore(), w: newWorld(settings{
		node: here, trustDomain: "cluster.local", clusterDomain: "cluster.local", clusterID: "Kubernetes",
		root: "adit-system", self: PodRef{"adit-system", "adit-agent-x", "uid-of-adit-agent-x"},
	}, slog.New(slog.DiscardHandler))}
	r.store.Node = here
	r.w.marks.policies = true // as when everything has been seen
	return r
}

// put gives the world objects and applies what follows.
func (r *rig) put(objects ...any) mesh.Update {
	r.t.Helper()
	r.feed(false, objects...)
	return r.apply()
}

// remove takes objects away.
func (r *rig) remove(objects ...any) mesh.Update {
	r.t.Helper()
	r.feed(true, objects...)
	return r.apply()
}

// feed gives the world objects, or takes them away.
func (r *rig) feed(gone bool, objects ...any) {
	r.t.Helper()
	w := r.w
	w.change(func() {
		for _, o := range objects {
			switch o := o.(type) {
			case *corev1.Pod:
				if k := keyOf(&o.ObjectMeta); gone {
					w.forgetPod(k, string(o.UID))
				} else {
					w.observePod(k, string(o.UID), newPod(o, o.Spec.NodeName == here))
				}
			case *corev1.Service:
				w.setService(keyOf(&o.ObjectMeta), unless(gone, newService(o, w.clusterDomain)))
			case *discoveryv1.EndpointSlice:
				w.setSlice(keyOf(&o.ObjectMeta), unless(gone, newSlice(o)))
			case *corev1.Namespace:
				w.setNamespace(o.Name, unless(gone, newNamespace(&o.ObjectMeta)))
			case *corev1.Node:
				w.setNode(o.Name, unless(gone, newNode(&o.ObjectMeta)))
			case *unstructured.Unstructured:
				k := key{o.GetNamespace(), o.GetName()}
				if o.GetKind() == "PeerAuthentication" {
					w.setPeer(k, unless(gone, newPeerAuthentication(o)))
				} else {
					w.setAuthorization(k, unless(gone, newAuthorization(o, w.root)))
				}
			default:
				r.t.Fatalf("%T", o)
			}
		}
	})
}

func unless[T any](gone bool, v *T) *T {
	if gone {
		return nil
	}
	return v
}

func (r *rig) apply() mesh.Update {
	r.t.Helper()
	u, _ := r.w.batch(r.store)
	if err := r.store.Apply(u); err != nil {
		r.t.Fatalf("apply: %v", err)
	}
	return u
}

// cost is the work that f causes.
func (r *rig) cost(f func()) work {
	before := r.w.workDone()
	f()
	after := r.w.workDone()
	return work{after.workloads - before.workloads, after.services - before.services, after.policies - before.policies}
}

func (r *rig) workload(namespace, name string) *mesh.Workload {
	return r.store.WorkloadByUID("Kubernetes//Pod/" + namespace + "/" + name)
}

func (r *rig) want(namespace, name string) *mesh.Workload {
	r.t.Helper()
	m := r.workload(namespace, name)
	if m == nil {
		r.t.Fatalf("no workload for pod %s/%s", namespace, name)
	}
	return m
}

var epoch = time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)

// aPod is a running, ready pod; edit changes it.
func aPod(namespace, name, node, ip string, edit ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, UID: types.UID("uid-of-" + name), CreationTimestamp: metav1.NewTime(epoch),
			Labels: map[string]string{"app": "web"},
		},
		Spec: corev1.PodSpec{NodeName: node, ServiceAccountName: "web"},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
	if ip == "" {
		p.Status.PodIPs = nil
	}
	for _, f := range edit {
		f(p)
	}
	return p
}

func annotated(k, v string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations = with(p.Annotations, k, v) }
}

func labelled(k, v string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels = with(p.Labels, k, v) }
}

func with(m map[string]string, k, v string) map[string]string {
	m = maps.Clone(m)
	if m == nil {
		m = map[string]string{}
	}
	m[k] = v
	return m
}

var enabled = annotated("ambient.istio.io/redirection", "enabled")

func aNamespace(name, mode string) *corev1.Namespace {
	n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if mode != "" {
		n.Labels = map[string]string{dataplaneMode: mode}
	}
	return n
}

// from reads an object from YAML.
func from[T any](t testing.TB, text string) *T {
	t.Helper()
	out := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), out); err != nil {
		t.Fatal(err)
	}
	return out
}

func aPolicy(t testing.TB, kind, namespace, name, spec string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{}}
	var v any
	if err := yaml.Unmarshal([]byte(spec), &v); err != nil {
		t.Fatal(err)
	}
	u.Object["spec"] = v
	u.SetAPIVersion("security.istio.io/v1")
	u.SetKind(kind)
	u.SetNamespace(namespace)
	u.SetName(name)
	u.SetUID(types.UID("uid-of-" + name))
	u.SetGeneration(1)
	u.SetCreationTimestamp(metav1.NewTime(epoch))
	return u
}

// aSlice has one endpoint for each pod.
func aSlice(service, name string, port int32, pods ...*corev1.Pod) *discoveryv1.EndpointSlice {
	tcp, none := corev1.ProtocolTCP, ""
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &none, Protocol: &tcp, Port: &port}},
	}
	for _, p := range pods {
		s.Namespace = p.Namespace
		ready := true
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{p.Status.PodIP}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name},
		})
	}
	return s
}

func aService(namespace, name, ip string, edit ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip}, Selector: map[string]string{"app": "web"},
			Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
		},
	}
	for _, f := range edit {
		f(s)
	}
	return s
}

func uids(ws []*mesh.Workload) (out []string) {
	for _, w := range ws {
		out = append(out, w.UID)
	}
	slices.Sort(out)
	return out
}
