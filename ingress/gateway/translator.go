package gateway

import (
	"log/slog"
	"time"

	"github.com/adit-mesh/adit/ingress"
	"github.com/adit-mesh/adit/ingress/gateway/backend"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// DefaultControllerName is the spec.controllerName of a GatewayClass that is ours
// if Options names no other.
const DefaultControllerName = "adit-mesh.github.io/gateway-controller"

// BindFunc says on which socket a port of a Gateway is served: false if that is
// not known yet. It is asked in every Build, and must neither block nor be slow.
type BindFunc func(gateway types.NamespacedName, port uint16, udp bool) (ingress.Bind, bool)

// Options are what a Translator knows besides the objects.
type Options struct {
	// ControllerNames are those of the GatewayClasses to translate. None:
	// DefaultControllerName.
	ControllerNames []string
	// Bind is where ports are served. nil: all addresses, the port itself.
	Bind BindFunc
	// ClientIP is that of every port.
	ClientIP ingress.ClientIP
	// CRDVersions are the distinct values of the annotation
	// gateway.networking.k8s.io/bundle-version that the definitions of Gateway API
	// have in the cluster. None: there is no cluster.
	CRDVersions []string
	// Zone and Node are where this process runs. "" = unknown.
	Zone, Node string
	Logger     *slog.Logger     // nil: nothing is logged
	Now        func() time.Time // nil: time.Now
}

// Translator keeps Gateway API objects and what they come to. It is for one
// goroutine. It keeps the objects that it is given, and never changes them.
type Translator struct {
	options Options
	index   *backend.Index
	clients *trafficPolicies

	classes    map[string]*gatewayv1.GatewayClass
	gateways   map[types.NamespacedName]*gateway
	sets       map[types.NamespacedName]*listenerSet
	routes     map[routeKey]*routeState
	namespaces map[string]labels.Set

	// Who refers to whom.
	setsOf   links[types.NamespacedName, types.NamespacedName] // Gateway: its ListenerSets
	setsIn   links[string, types.NamespacedName]               // namespace: ListenerSets
	routesOf links[parent, routeKey]                           // parent: routes
	routesIn links[string, routeKey]                           // namespace: routes
	routesTo links[types.NamespacedName, routeKey]             // Service: routes
	usedBy   links[reference, types.NamespacedName]            // Secret, ConfigMap: Gateways
	clusters clusterUses

	// What the next Build has to look at.
	staleGateways  set[types.NamespacedName]
	staleSecrets   set[types.NamespacedName]
	staleRoutes    set[routeKey]
	staleListeners set[*listener]
	policiesStale  bool

	// lastGood are the certificates of Secrets in use as they were when they were
	// last in order.
	lastGood map[types.NamespacedName]*certificate

	order   []*gateway // the Gateways that are ours, by name; nil: to be made
	byAge   []*gateway // the same, the oldest first; made with order
	bound   map[types.NamespacedName][]bound
	scratch []bound
	config  *ingress.Config
	cache   statusCache
}

// New makes a Translator that has no objects.
func New(o Options) *Translator {
	if len(o.ControllerNames) == 0 {
		o.ControllerNames = []string{DefaultControllerName}
	}
	if o.Bind == nil {
		o.Bind = func(_ types.NamespacedName, port uint16, udp bool) (ingress.Bind, bool) {
			return ingress.Bind{Port: port, UDP: udp}, true
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Translator{
		options:        o,
		index:          backend.NewIndex(backend.Options{Zone: o.Zone, Node: o.Node}),
		clients:        newTrafficPolicies(),
		classes:        make(map[string]*gatewayv1.GatewayClass),
		gateways:       make(map[types.NamespacedName]*gateway),
		sets:           make(map[types.NamespacedName]*listenerSet),
		routes:         make(map[routeKey]*routeState),
		namespaces:     make(map[string]labels.Set),
		setsOf:         make(links[types.NamespacedName, types.NamespacedName]),
		setsIn:         make(links[string, types.NamespacedName]),
		routesOf:       make(links[parent, routeKey]),
		routesIn:       make(links[string, routeKey]),
		routesTo:       make(links[types.NamespacedName, routeKey]),
		usedBy:         make(links[reference, types.NamespacedName]),
		clusters:       newClusterUses(),
		staleGateways:  make(set[types.NamespacedName]),
		staleSecrets:   make(set[types.NamespacedName]),
		staleRoutes:    make(set[routeKey]),
		staleListeners: make(set[*listener]),
		lastGood:       make(map[types.NamespacedName]*certificate),
		bound:          make(map[types.NamespacedName][]bound),
		config:         &ingress.Config{},
	}
}

// Build compiles what changed since it was last called. It returns the same
// Config, and false, if nothing did that requests could tell.
func (t *Translator) Build() (*ingress.Config, bool) {
	t.takeBackendChanges()
	t.renewCertificates()
	for name := range t.staleGateways {
		t.replan(name)
	}
	clear(t.staleGateways)
	// A plan may have changed which routes are attached where.
	for key := range t.staleRoutes {
		t.attach(key)
	}
	clear(t.staleRoutes)
	for l := range t.staleListeners {
		t.settle(l)
	}
	clear(t.staleListeners)
	before := t.config
	t.assemble()
	return t.config, t.config != before
}

// takeBackendChanges marks what depends on backends that changed.
func (t *Translator) takeBackendChanges() {
	changes := t.index.TakeChanges()
	for _, service := range changes.Services {
		for key := range t.routesTo[service] {
			t.recompile(key)
		}
	}
	for _, service := range changes.Clusters {
		t.clusters.staleService(service)
	}
	for _, namespace := range changes.Grants {
		t.grantsChanged(namespace)
	}
	if changes.Policies {
		t.policiesStale = true
	}
}

func (t *Translator) recompile(key routeKey) {
	t.routes[key].recompile = true
	t.staleRoutes.add(key)
}

// grantsChanged marks what refers into a namespace from others.
func (t *Translator) grantsChanged(namespace string) {
	for service, routes := range t.routesTo {
		if service.Namespace != namespace {
			continue
		}
		for key := range routes {
			if key.Namespace != namespace {
				t.recompile(key)
			}
		}
	}
	for ref, gateways := range t.usedBy {
		if ref.Namespace == namespace {
			t.staleGateways.addAll(gateways)
		}
	}
}
