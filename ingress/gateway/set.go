package gateway

import (
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayv1beta1 "sigs.k8s.io/gateway-api/apis/v1beta1"
)

// Set adds or replaces an object. What differs in its status, or in metadata that
// nothing depends on, does not count as a change. Kinds that mean nothing here
// are passed over.
func (t *Translator) Set(obj runtime.Object) {
	switch o := obj.(type) {
	case *gatewayv1.GatewayClass:
		t.setClass(o)
	case *gatewayv1.Gateway:
		t.setGateway(o)
	case *gatewayv1.ListenerSet:
		t.setListenerSet(o)
	case *gatewayv1.HTTPRoute, *gatewayv1.GRPCRoute, *gatewayv1.TLSRoute, *gatewayv1.TCPRoute, *gatewayv1.UDPRoute:
		t.setRoute(newRouteState(obj))
	case *ClientTrafficPolicy:
		t.clients.set(o)
	case *gatewayv1.BackendTLSPolicy:
		t.index.SetBackendTLSPolicy(o)
		t.cache.setPolicy(o)
	case *gatewayv1.ReferenceGrant:
		t.index.SetReferenceGrant(o)
	case *corev1.Namespace:
		t.setNamespace(o)
	case *corev1.Service:
		t.index.SetService(o)
	case *discoveryv1.EndpointSlice:
		t.index.SetEndpointSlice(o)
	case *corev1.Secret:
		if t.index.SetSecret(o) {
			t.staleSecrets.add(nameOf(o))
		}
	case *corev1.ConfigMap:
		if t.index.SetConfigMap(o) {
			t.staleGateways.addAll(t.usedBy[reference{"ConfigMap", nameOf(o)}])
		}

	case *gatewayv1beta1.GatewayClass:
		t.setClass(&gatewayv1.GatewayClass{ObjectMeta: o.ObjectMeta, Spec: o.Spec, Status: o.Status})
	case *gatewayv1beta1.Gateway:
		t.setGateway(&gatewayv1.Gateway{ObjectMeta: o.ObjectMeta, Spec: o.Spec, Status: o.Status})
	case *gatewayv1beta1.HTTPRoute:
		t.setRoute(newRouteState(&gatewayv1.HTTPRoute{ObjectMeta: o.ObjectMeta, Spec: o.Spec, Status: o.Status}))
	case *gatewayv1beta1.ReferenceGrant:
		t.index.SetReferenceGrant(&gatewayv1.ReferenceGrant{ObjectMeta: o.ObjectMeta, Spec: o.Spec})
	default:
		t.options.Logger.Debug("an object of a kind that the gateway has no use for", "type", fmt.Sprintf("%T", obj))
	}
}

// Delete removes an object. kind is as in its manifest; namespace is "" for
// GatewayClass and Namespace.
func (t *Translator) Delete(kind, namespace, name string) {
	n := types.NamespacedName{Namespace: namespace, Name: name}
	switch kind {
	case "GatewayClass":
		t.deleteClass(name)
	case kindGateway:
		t.deleteGateway(n)
	case kindListenerSet:
		t.deleteListenerSet(n)
	case kindHTTPRoute, kindGRPCRoute, kindTLSRoute, kindTCPRoute, kindUDPRoute:
		t.deleteRoute(routeKey{kind, n})
	case "ClientTrafficPolicy":
		t.clients.delete(n)
	case "BackendTLSPolicy":
		t.index.DeleteBackendTLSPolicy(n)
		t.cache.deletePolicy(n)
	case "ReferenceGrant":
		t.index.DeleteReferenceGrant(n)
	case "Namespace":
		t.deleteNamespace(name)
	case "Service":
		t.index.DeleteService(n)
	case "EndpointSlice":
		t.index.DeleteEndpointSlice(n)
	case "Secret":
		if t.index.DeleteSecret(n) {
			t.staleSecrets.add(n)
		}
	case "ConfigMap":
		if t.index.DeleteConfigMap(n) {
			t.staleGateways.addAll(t.usedBy[reference{"ConfigMap", n}])
		}
	}
}

// Kinds by which objects refer to each other.
const (
	kindGateway     = "Gateway"
	kindListenerSet = "ListenerSet"
	kindHTTPRoute   = "HTTPRoute"
	kindGRPCRoute   = "GRPCRoute"
	kindTLSRoute    = "TLSRoute"
	kindTCPRoute    = "TCPRoute"
	kindUDPRoute    = "UDPRoute"
)

func nameOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// unchanged says that nothing which is translated differs: the specifications,
// and the age, which orders objects.
func unchanged(a, b metav1.Object, specA, specB any) bool {
	return a.GetUID() == b.GetUID() && a.GetCreationTimestamp().Time.Equal(b.GetCreationTimestamp().Time) &&
		equality.Semantic.DeepEqual(specA, specB)
}

func (t *Translator) setClass(c *gatewayv1.GatewayClass) {
	before := t.classes[c.Name]
	t.classes[c.Name] = c
	t.cache.dropClass(c.Name)
	if before == nil || !unchanged(before, c, before.Spec, c.Spec) {
		t.classChanged(c.Name)
	}
}

func (t *Translator) deleteClass(name string) {
	delete(t.classes, name)
	t.cache.dropClass(name)
	t.classChanged(name)
}

func (t *Translator) classChanged(name string) {
	for _, g := range t.gateways {
		if string(g.obj.Spec.GatewayClassName) == name {
			t.staleGateways.add(g.name())
		}
	}
}

func (t *Translator) setGateway(o *gatewayv1.Gateway) {
	name := nameOf(o)
	g := t.gateways[name]
	if g == nil {
		g = newGateway()
		t.gateways[name] = g
		g.obj = o
		t.staleGateways.add(name)
		return
	}
	same := !g.deleted && unchanged(g.obj, o, g.obj.Spec, o.Spec)
	g.obj, g.deleted, g.status = o, false, nil
	if !same {
		t.staleGateways.add(name)
	}
}

func (t *Translator) deleteGateway(name types.NamespacedName) {
	if t.gateways[name] != nil {
		t.gateways[name].deleted = true
		t.staleGateways.add(name)
	}
}

func (t *Translator) setNamespace(o *corev1.Namespace) {
	before, known := t.namespaces[o.Name]
	if known && maps.Equal(before, labels.Set(o.Labels)) {
		return
	}
	t.namespaces[o.Name] = o.Labels
	t.namespaceChanged(o.Name)
}

func (t *Translator) deleteNamespace(name string) {
	if _, known := t.namespaces[name]; known {
		delete(t.namespaces, name)
		t.namespaceChanged(name)
	}
}

// namespaceChanged marks what the labels of a namespace may let in or keep out.
func (t *Translator) namespaceChanged(name string) {
	t.staleRoutes.addAll(t.routesIn[name])
	for set := range t.setsIn[name] {
		t.staleGateways.add(t.sets[set].gateway())
	}
}
