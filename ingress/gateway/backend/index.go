package backend

import (
	"crypto/tls"
	"reflect"
	"slices"

	"github.com/adit-mesh/adit/ingress/gateway/certs"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	options  Options
	certs    *certs.Store
	services map[types.NamespacedName]*service
	// slices says which Service an EndpointSlice was last about: its label may
	// change.
	slices   map[types.NamespacedName]types.NamespacedName
	policies map[types.NamespacedName]*policy
	grants   map[string]map[string]*gatewayv1.ReferenceGrant // by namespace and name
	clients  map[types.NamespacedName]*tls.Certificate       // by Gateway
	changes  changes
}

// NewIndex makes an empty index.
func NewIndex(o Options) *Index {
	return &Index{
		options:  o,
		certs:    certs.NewStore(),
		services: make(map[types.NamespacedName]*service),
		slices:   make(map[types.NamespacedName]types.NamespacedName),
		policies: make(map[types.NamespacedName]*policy),
		grants:   make(map[string]map[string]*gatewayv1.ReferenceGrant),
		clients:  make(map[types.NamespacedName]*tls.Certificate),
		changes:  newChanges(),
	}
}

// Certs are the Secrets and ConfigMaps that the index was given, for the
// certificates of listeners. They are changed by the index's methods alone.
func (x *Index) Certs() *certs.Store { return x.certs }

// SetService adds or replaces a Service.
func (x *Index) SetService(o *corev1.Service) {
	name := nameOf(o)
	s := x.service(name)
	old := s.object
	s.object = o
	if old != nil && reflect.DeepEqual(&old.Spec, &o.Spec) {
		return
	}
	s.dropClustersOfMissingPorts()
	if old == nil || !sameReferents(&old.Spec, &o.Spec) {
		x.changes.resolve(name)
		x.changes.policies = x.changes.policies || len(s.policies) > 0
	}
	x.stale(s)
}

// DeleteService removes a Service.
func (x *Index) DeleteService(name types.NamespacedName) {
	s := x.services[name]
	if s == nil || s.object == nil {
		return
	}
	s.object, s.clusters = nil, nil
	x.changes.resolve(name)
	x.changes.policies = x.changes.policies || len(s.policies) > 0
	x.release(s)
}

// SetEndpointSlice adds or replaces an EndpointSlice.
func (x *Index) SetEndpointSlice(o *discoveryv1.EndpointSlice) {
	name := nameOf(o)
	owner := types.NamespacedName{Namespace: o.Namespace, Name: o.Labels[discoveryv1.LabelServiceName]}
	if before, ok := x.slices[name]; ok && before != owner {
		x.DeleteEndpointSlice(name)
	}
	if owner.Name == "" {
		return
	}
	s := x.service(owner)
	old := s.slices[name]
	if s.slices == nil {
		s.slices = make(map[types.NamespacedName]*discoveryv1.EndpointSlice)
	}
	s.slices[name] = o
	x.slices[name] = owner
	if old == nil || !sameEndpoints(old, o) {
		x.stale(s)
	}
}

// DeleteEndpointSlice removes an EndpointSlice.
func (x *Index) DeleteEndpointSlice(name types.NamespacedName) {
	owner, ok := x.slices[name]
	if !ok {
		return
	}
	delete(x.slices, name)
	s := x.services[owner]
	delete(s.slices, name)
	x.stale(s)
	x.release(s)
}

// SetReferenceGrant adds or replaces a ReferenceGrant.
func (x *Index) SetReferenceGrant(o *gatewayv1.ReferenceGrant) {
	grants := x.grants[o.Namespace]
	if grants == nil {
		grants = make(map[string]*gatewayv1.ReferenceGrant)
		x.grants[o.Namespace] = grants
	}
	old := grants[o.Name]
	grants[o.Name] = o
	if old == nil || !reflect.DeepEqual(&old.Spec, &o.Spec) {
		x.changes.grants[o.Namespace] = struct{}{}
	}
}

// DeleteReferenceGrant removes a ReferenceGrant.
func (x *Index) DeleteReferenceGrant(name types.NamespacedName) {
	grants := x.grants[name.Namespace]
	if _, ok := grants[name.Name]; !ok {
		return
	}
	if delete(grants, name.Name); len(grants) == 0 {
		delete(x.grants, name.Namespace)
	}
	x.changes.grants[name.Namespace] = struct{}{}
}

// SetSecret adds or replaces a Secret, and says whether anything that is kept of
// it is new.
func (x *Index) SetSecret(o *corev1.Secret) (changed bool) {
	if changed = x.certs.SetSecret(o); changed {
		x.authorityChanged("Secret", nameOf(o))
	}
	return changed
}

// DeleteSecret removes a Secret.
func (x *Index) DeleteSecret(name types.NamespacedName) (changed bool) {
	if changed = x.certs.DeleteSecret(name); changed {
		x.authorityChanged("Secret", name)
	}
	return changed
}

// SetConfigMap adds or replaces a ConfigMap, and says whether anything that is
// kept of it is new.
func (x *Index) SetConfigMap(o *corev1.ConfigMap) (changed bool) {
	if changed = x.certs.SetConfigMap(o); changed {
		x.authorityChanged("ConfigMap", nameOf(o))
	}
	return changed
}

// DeleteConfigMap removes a ConfigMap.
func (x *Index) DeleteConfigMap(name types.NamespacedName) (changed bool) {
	if changed = x.certs.DeleteConfigMap(name); changed {
		x.authorityChanged("ConfigMap", name)
	}
	return changed
}

// SetClientCertificate is what a Gateway presents to backends over TLS
// (spec.tls.backend.clientCertificateRef). nil, also when the Gateway is gone or
// its reference is wrong: nothing. From.Gateway then gives clusters of its own to
// routes of that Gateway, as far as a BackendTLSPolicy has them use TLS; setting
// the first or removing the last certificate of a Gateway therefore asks for its
// routes to be compiled again.
func (x *Index) SetClientCertificate(gateway types.NamespacedName, c *tls.Certificate) {
	if x.clients[gateway] == c {
		return
	}
	if c == nil {
		delete(x.clients, gateway)
	} else {
		x.clients[gateway] = c
	}
	for _, s := range x.services {
		for key, cl := range s.clusters {
			if cl.gateway != gateway {
				continue
			}
			if c == nil {
				delete(s.clusters, key)
			} else {
				cl.stale = true
			}
			x.changes.clusters[s.name] = struct{}{}
		}
	}
}

// service is the entry of a name, made if need be.
func (x *Index) service(name types.NamespacedName) *service {
	s := x.services[name]
	if s == nil {
		s = &service{name: name}
		x.services[name] = s
	}
	return s
}

// release forgets a Service of which nothing is left.
func (x *Index) release(s *service) {
	if s.object == nil && len(s.slices) == 0 && len(s.policies) == 0 {
		delete(x.services, s.name)
	}
}

// stale has the clusters of a Service made anew when they are next asked for.
func (x *Index) stale(s *service) {
	for _, c := range s.clusters {
		c.stale = true
	}
	x.changes.clusters[s.name] = struct{}{}
}

func nameOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

func compareNames(a, b types.NamespacedName) int {
	if a.Namespace != b.Namespace {
		if a.Namespace < b.Namespace {
			return -1
		}
		return 1
	}
	switch {
	case a.Name < b.Name:
		return -1
	case a.Name > b.Name:
		return 1
	}
	return 0
}

func sortedNames[V any](m map[types.NamespacedName]V) []types.NamespacedName {
	if len(m) == 0 {
		return nil
	}
	names := make([]types.NamespacedName, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.SortFunc(names, compareNames)
	return names
}
