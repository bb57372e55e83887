package kube

import (
	"fmt"
	"slices"
	"strings"
)

const (
	modeAmbient = "ambient"
	modeNone    = "none"
)

// partOf marks what adit itself consists of.
var partOf = labelSet("\x00app.kubernetes.io/part-of\x01adit\x00")

// decide says whether a pod is to be captured, and why or why not. First what
// the labels ask for, then what stands against it.
func (w *world) decide(p *pod) (enrol bool, reason string) {
	mode, known := w.namespaceMode(p.namespace)
	return w.judge(p, mode, known, w.runtimes)
}

func (s *settings) judge(p *pod, namespaceMode string, namespaceKnown bool, runtimes map[string]string) (bool, string) {
	t := p.template.Value()
	switch {
	case ended(p.phase):
		return false, fmt.Sprintf("the pod has ended (%s)", p.phase)
	case t.mode == modeNone:
		reason := "pod label " + dataplaneMode + "=" + modeNone
		return false, reason
	case t.mode == modeAmbient:
		reason := "pod label " + dataplaneMode + "=" + modeAmbient
		return s.eligible(p, reason, runtimes)
	case namespaceMode == modeAmbient:
		reason := "namespace label " + dataplaneMode + "=" + modeAmbient
		return s.eligible(p, reason, runtimes)
	case !namespaceKnown:
		return false, "the namespace is gone"
	}
	return false, "neither the pod nor its namespace has the label " + dataplaneMode + "=" + modeAmbient
}

func (s *settings) eligible(p *pod, reason string, runtimes map[string]string) (bool, string) {
	t := p.template.Value()
	switch {
	case t.hostNetwork:
		return false, "hostNetwork: it shares the node's network, which is not captured"
	case p.uid == s.self.UID && s.self.UID != "" || p.namespace == s.self.Namespace && p.name == s.self.Name && s.self.Name != "":
		return false, "it is this agent"
	case (p.namespace == s.self.Namespace || p.namespace == s.root) && p.in(partOf):
		return false, "it is part of adit, which the mesh depends on"
	case slices.Contains(s.excluded, p.namespace):
		return false, "its namespace is excluded by cni.excludeNamespaces"
	case t.serviceAccount == "":
		return false, "kubelet made it from a file, so it has no service account and can have no identity"
	case t.sidecar:
		return false, "it has an Istio sidecar (annotation sidecar.istio.io/status)"
	}
	if handler, ok := sandboxed(t.runtimeClass, runtimes); ok {
		return false, fmt.Sprintf("runtime class %s (handler %s) runs it on a network stack of its own, which rules in the pod's namespace do not see",
			t.runtimeClass, handler)
	}
	return true, reason
}

// sandboxed reports whether pods of a runtime class have a kernel, and so a
// network stack, of their own, and by which handler. A class whose handler
// cannot be seen is judged by its name.
func sandboxed(class string, runtimes map[string]string) (string, bool) {
	if class == "" {
		return "", false
	}
	handler, ok := runtimes[class]
	if !ok {
		handler = class
	}
	h := strings.ToLower(handler)
	return handler, strings.HasPrefix(h, "kata") || strings.HasPrefix(h, "runsc") || strings.HasPrefix(h, "gvisor")
}
