package kube

import (
	"istio.io/api/label"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/adit-mesh/adit/agent/mesh"
)

// namespace is what is kept of a Namespace.
type namespace struct {
	name         string
	mode         string // label istio.io/dataplane-mode
	distribution distribution
	terminating  bool
}

func newNamespace(n *metav1.ObjectMeta) *namespace {
	return &namespace{
		name:         n.Name,
		mode:         n.Labels[dataplaneMode],
		distribution: distributionOf(nil, n.Annotations),
		terminating:  n.DeletionTimestamp != nil,
	}
}

// node is what is kept of a Node.
type node struct {
	name     string
	locality mesh.Locality
}

func newNode(n *metav1.ObjectMeta) *node {
	return &node{name: n.Name, locality: mesh.Locality{
		Region:  firstOf(n.Labels, "", corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaRegion),
		Zone:    firstOf(n.Labels, "", corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaZone),
		Subzone: n.Labels[label.TopologySubzone.Name],
	}}
}
