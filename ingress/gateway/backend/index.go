package backend

import (
	"crypto/tls"

	"github.com/adit-mesh/adit/ingress/gateway/certs"
	"github.com/adit-mesh/adit/ingress/upstream"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Options are what an Index knows of the place it runs at.
type Options struct {
	// Zone and Node are those of this gateway, for the hints of EndpointSlices.
	// "" = unknown: hints are not heeded.
	Zone, Node string
}

// Index holds everything that a reference to a backend depends on. A change costs
// the work of the Services that it is about. It is for one goroutine, does no
// I/O, and keeps the objects it is given: they may not be changed afterwards.
type Index struct {
	certs *certs.Store
}

// NewIndex makes an empty index.
func NewIndex(o Options) *Index { return &Index{certs: certs.NewStore()} }

// Certs are the Secrets and ConfigMaps that the index was given, for the
// certificates of listeners. They are changed by the index's methods alone.
func (x *Index) Certs() *certs.Store { return x.certs }

// SetService adds or replaces a Service.
func (x *Index) SetService(o *corev1.Service) {}

// DeleteService removes a Service.
func (x *Index) DeleteService(name types.NamespacedName) {}

// SetEndpointSlice adds or replaces an EndpointSlice.
func (x *Index) SetEndpointSlice(o *discoveryv1.EndpointSlice) {}

// DeleteEndpointSlice removes an EndpointSlice.
func (x *Index) DeleteEndpointSlice(name types.NamespacedName) {}

// SetBackendTLSPolicy adds or replaces a BackendTLSPolicy.
func (x *Index) SetBackendTLSPolicy(o *gatewayv1.BackendTLSPolicy) {}

// DeleteBackendTLSPolicy removes a BackendTLSPolicy.
func (x *Index) DeleteBackendTLSPolicy(name types.NamespacedName) {}

// SetReferenceGrant adds or replaces a ReferenceGrant.
func (x *Index) SetReferenceGrant(o *gatewayv1.ReferenceGrant) {}

// DeleteReferenceGrant removes a ReferenceGrant.
func (x *Index) DeleteReferenceGrant(name types.NamespacedName) {}

// SetSecret adds or replaces a Secret, and says whether anything that is kept of
// it is new.
func (x *Index) SetSecret(o *corev1.Secret) (changed bool) { return false }

// DeleteSecret removes a Secret.
func (x *Index) DeleteSecret(name types.NamespacedName) (changed bool) { return false }

// SetConfigMap adds or replaces a ConfigMap, and says whether anything that is
// kept of it is new.
func (x *Index) SetConfigMap(o *corev1.ConfigMap) (changed bool) { return false }

// DeleteConfigMap removes a ConfigMap.
func (x *Index) DeleteConfigMap(name types.NamespacedName) (changed bool) { return false }

// SetClientCertificate is what a Gateway presents to backends over TLS
// (spec.tls.backend.clientCertificateRef). nil, also when the Gateway is gone or
// its reference is wrong: nothing. From.Gateway then gives clusters of its own to
// routes of that Gateway, as far as a BackendTLSPolicy has them use TLS; setting
// the first or removing the last certificate of a Gateway therefore asks for its
// routes to be compiled again.
func (x *Index) SetClientCertificate(gateway types.NamespacedName, c *tls.Certificate) {}

// Cluster is the configuration of a key that Resolve gave, nil if its Service or
// port is gone. The pointer is the same as long as nothing of it changed.
func (x *Index) Cluster(key string) *upstream.Config { return nil }

// Changes is what became different. It says too much rather than too little.
type Changes struct {
	// Services are those for which Resolve may answer otherwise: references to
	// them, existing or not, are to be resolved again.
	Services []types.NamespacedName
	// Clusters are the Services whose Cluster may be another pointer. Those of
	// Services are among them.
	Clusters []types.NamespacedName
	// Grants are the namespaces whose ReferenceGrants changed: references into
	// them from other namespaces are to be resolved again.
	Grants []string
	// Policies says that PolicyStatuses may answer otherwise.
	Policies bool
}

// TakeChanges returns what changed since it was last called, in order of name.
func (x *Index) TakeChanges() Changes { return Changes{} }
