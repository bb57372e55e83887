package kube

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/netip"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/adit-mesh/adit/agent/mesh"
)

func TestLookupBeforeTheWatch(t *testing.T) {
	s := server(t)
	s.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: early, labels: {istio.io/dataplane-mode: ambient}}")
	r := run(t, s)
	s.apply(t, `
apiVersion: v1
kind: Pod
metadata: {namespace: early, name: web}
spec: {nodeName: `+here+`, serviceAccountName: web, containers: [{name: c, image: x}]}`)
	l, err := r.Lookup(t.Context(), PodRef{Namespace: "early", Name: "web"})
	if err != nil || !l.Enrol || l.UID == "" || len(l.IPs) != 0 {
		t.Fatalf("lookup: %+v, %v", l, err)
	}
	addr := netip.MustParseAddr("10.4.0.1")
	r.SetAddresses(l.PodRef, []netip.Addr{addr})
	if m := r.at("10.4.0.1"); m == nil || m.Name != "web" {
		t.Fatalf("the store has %v at the address that the CNI plugin reported", m)
	}
	r.Annotate(l.PodRef, "enabled")
	eventually(t, "it is dialled by tunnel from here", func() bool { return r.at("10.4.0.1").Protocol == mesh.HBONE })
	if err := r.Told(t.Context(), l.WorkloadUID); err != nil {
		t.Fatal(err)
	}
	pods := s.client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).Namespace("early")
	u, err := pods.Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil || u.GetAnnotations()["ambient.istio.io/redirection"] != "enabled" {
		t.Errorf("annotations %v, %v", u.GetAnnotations(), err)
	}
	if _, err := pods.Patch(t.Context(), "web", types.MergePatchType, []byte(`{"metadata":{"annotations":null}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what somebody else took off is put back", func() bool {
		r.sayAgain() // as it does now and then
		u, err := pods.Get(t.Context(), "web", metav1.GetOptions{})
		return err == nil && r.annotator.written.Load() > 1 && u.GetAnnotations()["ambient.istio.io/redirection"] == "enabled"
	})
	r.Annotate(l.PodRef, "")
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if u, err = pods.Get(t.Context(), "web", metav1.GetOptions{}); err != nil || len(u.GetAnnotations()) != 0 {
		t.Errorf("annotations %v, %v", u.GetAnnotations(), err)
	}
	eventually(t, "it is dialled in plaintext from here", func() bool { return r.at("10.4.0.1").Protocol == mesh.TCP })

	r.Event(l.PodRef, "Warning", "CaptureWaits", "no certificate")
	r.Event(l.PodRef, "Warning", "CaptureWaits", "no certificate")
	events := s.client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "events"}).Namespace("early")
	eventually(t, "the event is there, counted", func() bool {
		list, err := events.List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=web"})
		if err != nil {
			t.Fatal(err)
		}
		n := int64(0)
		if len(list.Items) == 1 {
			n, _, _ = unstructured.NestedInt64(list.Items[0].Object, "count")
		}
		return n == 2
	})

	// Another pod by the same name: the old decision is not its.
	s.delete(t, "v1", "Pod", "early", "web")
	s.apply(t, `
apiVersion: v1
kind: Pod
metadata: {namespace: early, name: web, labels: {istio.io/dataplane-mode: none}}
spec: {nodeName: `+here+`, containers: [{name: c, image: x}]}`)
	if _, err := r.Lookup(t.Context(), l.PodRef); err == nil {
		t.Error("the pod of that UID is gone, and is decided about")
	}
	l2, err := r.Lookup(t.Context(), PodRef{Namespace: "early", Name: "web"})
	if err != nil || l2.Enrol || l2.UID == l.UID {
		t.Errorf("lookup: %+v, %v", l2, err)
	}
	s.delete(t, "v1", "Pod", "early", "web")
	if _, err := r.Lookup(t.Context(), PodRef{Namespace: "early", Name: "web"}); err == nil {
		t.Error("a pod that does not exist is decided about")
	}
}

// The label came by one watch and the pod by another: a pod that is not to be
// captured by what is known is asked about again.
func TestLookupSeesAFreshLabel(t *testing.T) {
	s := server(t)
	s.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: fresh}\n---\n"+podYAML("fresh", "web", here, "10.5.0.1"))
	r := run(t, s)
	eventually(t, "the pod is seen", func() bool {
		return slices.ContainsFunc(r.Local(), func(l LocalPod) bool { return l.Namespace == "fresh" })
	})
	ref := r.Local()[slices.IndexFunc(r.Local(), func(l LocalPod) bool { return l.Namespace == "fresh" })].PodRef
	if l, err := r.Lookup(t.Context(), ref); err != nil || l.Enrol {
		t.Fatalf("lookup: %+v, %v", l, err)
	}
	// As if the watch of namespaces were behind.
	s.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: fresh, labels: {istio.io/dataplane-mode: ambient}}")
	r.world.change(func() { r.world.setNamespace("fresh", &namespace{name: "fresh"}) })
	if l, err := r.Lookup(t.Context(), ref); err != nil || !l.Enrol {
		t.Errorf("lookup: %+v, %v", l, err)
	}
}

func TestBundleFollowsAConfigMap(t *testing.T) {
	s := server(t)
	s.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: roots}")
	r := run(t, s)
	b := r.Bundle("roots", "ca-root", "root-cert.pem")
	changed, cancel := b.Subscribe()
	defer cancel()
	if b.Current() != nil {
		t.Error("certificates before there are any")
	}
	put := func(pem string) {
		u := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"namespace": "roots", "name": "ca-root"},
			"data": map[string]any{"root-cert.pem": pem},
		}}
		raw, err := u.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		s.apply(t, string(raw))
	}
	wait := func(n int) {
		t.Helper()
		select {
		case <-changed:
		case <-time.After(30 * time.Second):
			t.Fatal("nobody is told")
		}
		if len(b.Current()) != n {
			t.Errorf("%d certificates, want %d", len(b.Current()), n)
		}
	}
	one, two := aCertificate(t, "one"), aCertificate(t, "two")
	put(one)
	wait(1)
	put("rubbish\n")
	put(one + two)
	wait(2)
	s.delete(t, "v1", "ConfigMap", "roots", "ca-root")
	put(two)
	wait(1)
}

func TestUninstalling(t *testing.T) {
	s := server(t)
	daemonSet := `
apiVersion: apps/v1
kind: DaemonSet
metadata: {namespace: agents, name: adit-agent}
spec:
  selector: {matchLabels: {a: b}}
  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: x}]}}`
	s.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: agents}\n---"+daemonSet)
	u, err := s.client.Resource(daemonSets).Namespace("agents").Get(t.Context(), "adit-agent", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.apply(t, `
apiVersion: v1
kind: Pod
metadata:
  namespace: agents
  name: adit-agent-1
  ownerReferences: [{apiVersion: apps/v1, kind: DaemonSet, name: adit-agent, uid: `+string(u.GetUID())+`, controller: true}]
spec: {nodeName: `+here+`, hostNetwork: true, containers: [{name: c, image: x}]}`)
	r := run(t, s, func(c *Config) { c.Self = PodRef{Namespace: "agents", Name: "adit-agent-1"} })
	if r.Uninstalling() {
		t.Fatal("uninstalling from the start")
	}
	s.delete(t, "apps/v1", "DaemonSet", "agents", "adit-agent")
	eventually(t, "the DaemonSet is gone", r.Uninstalling)
	s.apply(t, daemonSet)
	eventually(t, "it was only replaced", func() bool { return !r.Uninstalling() })
	s.delete(t, "apps/v1", "DaemonSet", "agents", "adit-agent")
	eventually(t, "the DaemonSet is gone again", r.Uninstalling)
	pods := s.client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).Namespace("agents")
	if _, err := pods.Patch(t.Context(), "adit-agent-1", types.MergePatchType, []byte(`{"metadata":{"ownerReferences":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its pods have been left to another", func() bool { return !r.Uninstalling() })
	s.delete(t, "v1", "Namespace", "", "agents")
	eventually(t, "the namespace is on its way", r.Uninstalling)
}

// aCertificate is a self-signed certificate in PEM.
func aCertificate(t *testing.T, name string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
