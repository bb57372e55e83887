package kube

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The permissions that the manifests give are all that the agent needs.
func TestAsTheAgentsServiceAccount(t *testing.T) {
	s := server(t)
	s.apply(t, crds(t))
	s.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: adit-system}")
	s.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: lowly, labels: {istio.io/dataplane-mode: ambient}}\n---\n"+podYAML("lowly", "web", here, "10.6.0.1")+`
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: lowly-secure}
handler: runsc
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {namespace: adit-system, name: adit-agent}
spec:
  selector: {matchLabels: {a: b}}
  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: x}]}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {namespace: lowly, name: p}
spec: {rules: [{}]}`)
	for _, name := range [...]string{"clusterrole.yaml", "role.yaml"} {
		raw, err := os.ReadFile("../../deploy/base/agent/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for doc := range strings.SplitSeq(string(raw), "\n---\n") {
			if name == "role.yaml" { // kustomize adds the namespace
				doc = strings.Replace(doc, "\nmetadata:\n", "\nmetadata:\n  namespace: adit-system\n", 1)
			}
			s.apply(t, doc)
		}
	}
	u, err := s.client.Resource(daemonSets).Namespace("adit-system").Get(t.Context(), "adit-agent", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.apply(t, `
apiVersion: v1
kind: Pod
metadata:
  namespace: adit-system
  name: adit-agent-1
  ownerReferences: [{apiVersion: apps/v1, kind: DaemonSet, name: adit-agent, uid: `+string(u.GetUID())+`, controller: true}]
spec: {nodeName: `+here+`, hostNetwork: true, containers: [{name: c, image: x}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {namespace: adit-system, name: adit-ca-root}
data:
  root-cert.pem: |
    `+strings.ReplaceAll(aCertificate(t, "root"), "\n", "\n    "))

	r := run(t, s, func(c *Config) { c.REST = s.config("agent-token", s.address) })
	eventually(t, "every kind is followed", func() bool {
		for _, k := range r.Kinds() {
			if !k.Synced {
				return false
			}
		}
		return true
	})
	b := r.Bundle("adit-system", "adit-ca-root", "root-cert.pem")
	eventually(t, "the bundle is read", func() bool { return len(b.Current()) == 1 })
	eventually(t, "the condition of a policy is written", func() bool { return r.status.written.Load() > 0 })

	eventually(t, "the pod is seen", func() bool { return r.at("10.6.0.1") != nil })
	l, err := r.Lookup(t.Context(), PodRef{Namespace: "lowly", Name: "web"})
	if err != nil || !l.Enrol {
		t.Fatalf("lookup: %+v, %v", l, err)
	}
	r.SetAddresses(l.PodRef, []netip.Addr{netip.MustParseAddr("10.6.0.1")})
	r.Annotate(l.PodRef, "enabled")
	if err := r.Flush(t.Context()); err != nil || r.annotator.written.Load() != 1 {
		t.Errorf("flush: %v, %d annotations written, %d attempts failed", err, r.annotator.written.Load(), r.annotator.failed.Load())
	}
	for range 2 {
		written := r.events.written.Load()
		r.Event(l.PodRef, "Warning", "CaptureWaits", "no certificate")
		eventually(t, "the event is written", func() bool { return r.events.written.Load() > written || r.events.lost.Load() > 0 })
	}
	if n := r.events.lost.Load(); n > 0 {
		t.Errorf("%d events lost", n)
	}
	for _, k := range r.Kinds() {
		if !k.Connected || k.Error != "" {
			t.Errorf("%+v", k)
		}
	}
	s.delete(t, "apps/v1", "DaemonSet", "adit-system", "adit-agent")
	eventually(t, "the DaemonSet is gone", r.Uninstalling)
	s.delete(t, "node.k8s.io/v1", "RuntimeClass", "", "lowly-secure")
	s.delete(t, "v1", "Pod", "adit-system", "adit-agent-1")
}
