package kube

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"unique"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// key names a namespaced object.
type key struct{ namespace, name string }

func (k key) String() string { return k.namespace + "/" + k.name }

func keyOf(m *metav1.ObjectMeta) key { return key{m.Namespace, m.Name} }

// labelSet are labels in one string, sorted, each as "\x00name\x01value\x00".
// Pods of one ReplicaSet share it. Neither byte can be part of a label.
type labelSet string

func newLabelSet(labels map[string]string) labelSet {
	if len(labels) == 0 {
		return ""
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		b.WriteByte(0)
		b.WriteString(name)
		b.WriteByte(1)
		b.WriteString(labels[name])
		b.WriteByte(0)
	}
	return labelSet(b.String())
}

// has reports whether the labels match every one of a selector.
func (l labelSet) has(selector labelSet) bool {
	for len(selector) > 0 {
		end := strings.IndexByte(string(selector[1:]), 0) + 2
		if !strings.Contains(string(l), string(selector[:end])) {
			return false
		}
		selector = selector[end:]
	}
	return true
}

func parseAddr(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.IsUnspecified() {
		return netip.Addr{}, false
	}
	return a.Unmap().WithZone(""), true
}

// shared returns s with bytes that equal strings share.
func shared(s string) unique.Handle[string] { return unique.Make(s) }
