package kube

import (
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/adit-mesh/adit/ingress/gateway"
)

// object is what the API server has.
type object interface {
	runtime.Object
	metav1.Object
}

// kind is a kind of objects that is followed.
type kind struct {
	name  string // as in manifests
	state *kindState
	from  listWatch
	// example is of the type that the API server sends.
	example runtime.Object
	// convert makes what is kept of what is sent.
	convert func(runtime.Object) (object, error)
	// installed is the resource of a kind that may be absent, and come and go.
	installed *schema.GroupVersionResource
}

// protects says that not to know the objects of this kind would be to send in
// plaintext what they want in TLS. Nothing is served before they can be read.
func (k *kind) protects() bool { return k.name == "BackendTLSPolicy" }

// custom are the kinds of Gateway API and of Envoy Gateway.
var custom = []struct {
	kind     string
	resource schema.GroupVersionResource
	make     func() object
}{
	{"GatewayClass", ours("gatewayclasses"), func() object { return new(gatewayv1.GatewayClass) }},
	{"Gateway", ours("gateways"), func() object { return new(gatewayv1.Gateway) }},
	{"ListenerSet", ours("listenersets"), func() object { return new(gatewayv1.ListenerSet) }},
	{"HTTPRoute", ours("httproutes"), func() object { return new(gatewayv1.HTTPRoute) }},
	{"GRPCRoute", ours("grpcroutes"), func() object { return new(gatewayv1.GRPCRoute) }},
	{"TLSRoute", ours("tlsroutes"), func() object { return new(gatewayv1.TLSRoute) }},
	{"TCPRoute", ours("tcproutes"), func() object { return new(gatewayv1.TCPRoute) }},
	{"UDPRoute", ours("udproutes"), func() object { return new(gatewayv1.UDPRoute) }},
	{"ReferenceGrant", ours("referencegrants"), func() object { return new(gatewayv1.ReferenceGrant) }},
	{"BackendTLSPolicy", ours("backendtlspolicies"), func() object { return new(gatewayv1.BackendTLSPolicy) }},
	{"ClientTrafficPolicy", schema.GroupVersionResource{Group: "gateway.envoyproxy.io", Version: "v1alpha1", Resource: "clienttrafficpolicies"},
		func() object { return new(gateway.ClientTrafficPolicy) }},
}

func ours(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: gatewayv1.GroupName, Version: gatewayv1.GroupVersion.Version, Resource: resource}
}

// resourceOf is where objects of a custom kind are.
func resourceOf(kind string) (schema.GroupVersionResource, func() object, bool) {
	for _, c := range custom {
		if c.kind == kind {
			return c.resource, c.make, true
		}
	}
	return schema.GroupVersionResource{}, nil, false
}

func nameOfResource(r schema.GroupVersionResource) string { return r.Resource + "." + r.Group }

// kinds are all kinds that are followed whole.
func kinds(a *api) []*kind {
	all := []*kind{
		{
			name: "Namespace", state: newKindState("namespaces"), example: &metav1.PartialObjectMetadata{},
			from: metadata(a, "/api/v1/namespaces"), convert: newNamespace,
		},
		{
			name: kindDefinition, state: newKindState("customresourcedefinitions.apiextensions.k8s.io"), example: &metav1.PartialObjectMetadata{},
			from: metadata(a, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"), convert: newDefinition,
		},
		{
			name: "Service", state: newKindState("services"), example: &corev1.Service{}, convert: trimmed[*corev1.Service],
			from: typed(a, a.core, "services", "", "", func() *corev1.ServiceList { return &corev1.ServiceList{} }),
		},
		{
			name: "EndpointSlice", state: newKindState("endpointslices.discovery.k8s.io"), example: &discoveryv1.EndpointSlice{},
			from:    typed(a, a.discovery, "endpointslices", "", "", func() *discoveryv1.EndpointSliceList { return &discoveryv1.EndpointSliceList{} }),
			convert: trimmed[*discoveryv1.EndpointSlice],
		},
		{
			name: kindTLSSecret, state: newKindState("secrets"), example: &corev1.Secret{}, convert: trimmed[*corev1.Secret],
			from: typed(a, a.core, "secrets", "", "type="+string(corev1.SecretTypeTLS), func() *corev1.SecretList { return &corev1.SecretList{} }),
		},
	}
	for _, c := range custom {
		all = append(all, &kind{
			name: c.kind, state: newKindState(nameOfResource(c.resource)), example: &unstructured.Unstructured{},
			from: untyped(a, c.resource), installed: &c.resource,
			convert: func(o runtime.Object) (object, error) { return convert(o.(*unstructured.Unstructured), c.make()) },
		})
	}
	return all
}

// kindTLSSecret is the kind of those Secrets that are followed by their type.
// Others come as "Secret", by their names.
const kindTLSSecret = "Secret of type kubernetes.io/tls"

const (
	kindDefinition = "CustomResourceDefinition"
	// annotationBundle says of a definition which version of Gateway API it is of.
	annotationBundle = "gateway.networking.k8s.io/bundle-version"
)

// newDefinition keeps of a definition which bundle it is of, if any.
func newDefinition(o runtime.Object) (object, error) {
	m := o.(*metav1.PartialObjectMetadata)
	d := &metav1.PartialObjectMetadata{}
	d.Name, d.ResourceVersion = m.Name, m.ResourceVersion
	if v := m.Annotations[annotationBundle]; v != "" && strings.HasSuffix(m.Name, "."+gatewayv1.GroupName) {
		d.Annotations = map[string]string{annotationBundle: v}
	}
	return d, nil
}

// convert gives an object the type that it should have.
func convert(u *unstructured.Unstructured, to object) (object, error) {
	unstructured.RemoveNestedField(u.Object, "metadata", "managedFields")
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, to); err != nil {
		return nil, err
	}
	return to, nil
}

// trimmed drops what nothing here reads.
func trimmed[T object](o runtime.Object) (object, error) {
	m := o.(T)
	m.SetManagedFields(nil)
	if secret, ok := object(m).(*corev1.Secret); ok {
		// kubectl's annotation has the key in it once more.
		secret.Annotations = nil
		kept := make(map[string][]byte, len(tlsKeys))
		for _, name := range tlsKeys {
			if v, ok := secret.Data[name]; ok {
				kept[name] = v
			}
		}
		secret.Data = kept
	}
	return m, nil
}

var tlsKeys = []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey, corev1.ServiceAccountRootCAKey}

func newNamespace(o runtime.Object) (object, error) {
	m := o.(*metav1.PartialObjectMetadata)
	n := &corev1.Namespace{}
	n.Name, n.UID, n.ResourceVersion, n.Labels = m.Name, m.UID, m.ResourceVersion, maps.Clone(m.Labels)
	return n, nil
}
