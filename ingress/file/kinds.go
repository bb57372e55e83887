package file

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/adit-mesh/adit/ingress/file/schema"
	"github.com/adit-mesh/adit/ingress/gateway"
)

// object is what the files are made of.
type object interface {
	runtime.Object
	metav1.Object
}

// key names an object. Of all kinds here no two have one name.
type key struct{ kind, namespace, name string }

func (k key) String() string {
	if k.namespace == "" {
		return k.kind + " " + k.name
	}
	return k.kind + " " + k.namespace + "/" + k.name
}

// kind is one kind of objects that may be in a file.
type kind struct {
	versions []string // that are read; the type is that of the first
	make     func() object
	cluster  bool // not in a namespace
	// finish fills in what an API server would, and returns what it would
	// refuse. nil with a schema.
	finish func(object) []schema.Problem
	schema bool // the kind has one
	spec   bool // it has generations
}

// groups are the kinds by group.
var groups = map[string]map[string]*kind{
	"": {
		"Service":   {versions: []string{"v1"}, make: func() object { return new(corev1.Service) }, finish: finishService},
		"Secret":    {versions: []string{"v1"}, make: func() object { return new(corev1.Secret) }, finish: finishSecret},
		"ConfigMap": {versions: []string{"v1"}, make: func() object { return new(corev1.ConfigMap) }, finish: finishConfigMap},
		"Namespace": {versions: []string{"v1"}, make: func() object { return new(corev1.Namespace) }, cluster: true, finish: finishNamespace},
	},
	"discovery.k8s.io": {
		"EndpointSlice": {versions: []string{"v1"}, make: func() object { return new(discoveryv1.EndpointSlice) }, finish: finishSlice},
	},
	"gateway.envoyproxy.io": {
		"ClientTrafficPolicy": {versions: []string{"v1alpha1"}, make: func() object { return new(gateway.ClientTrafficPolicy) }, spec: true},
	},
	schema.Group: {
		"GatewayClass":     gatewayKind(func() object { return new(gatewayv1.GatewayClass) }, "v1", "v1beta1"),
		"Gateway":          gatewayKind(func() object { return new(gatewayv1.Gateway) }, "v1", "v1beta1"),
		"ListenerSet":      gatewayKind(func() object { return new(gatewayv1.ListenerSet) }, "v1"),
		"HTTPRoute":        gatewayKind(func() object { return new(gatewayv1.HTTPRoute) }, "v1", "v1beta1"),
		"GRPCRoute":        gatewayKind(func() object { return new(gatewayv1.GRPCRoute) }, "v1"),
		"TLSRoute":         gatewayKind(func() object { return new(gatewayv1.TLSRoute) }, "v1", "v1alpha3", "v1alpha2"),
		"TCPRoute":         gatewayKind(func() object { return new(gatewayv1.TCPRoute) }, "v1", "v1alpha2"),
		"UDPRoute":         gatewayKind(func() object { return new(gatewayv1.UDPRoute) }, "v1", "v1alpha2"),
		"ReferenceGrant":   gatewayKind(func() object { return new(gatewayv1.ReferenceGrant) }, "v1", "v1beta1"),
		"BackendTLSPolicy": gatewayKind(func() object { return new(gatewayv1.BackendTLSPolicy) }, "v1", "v1alpha3"),
	},
}

func gatewayKind(make func() object, versions ...string) *kind {
	_, class := make().(*gatewayv1.GatewayClass)
	return &kind{versions: versions, make: make, cluster: class, schema: true, spec: true}
}

// reads says whether a version of the kind is read.
func (k *kind) reads(version string) bool { return slices.Contains(k.versions, version) }
