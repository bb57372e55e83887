package compile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/adit-mesh/adit/ingress/gateway/backend"
	"github.com/adit-mesh/adit/ingress/proxy"
	"github.com/adit-mesh/adit/ingress/route"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Resolver finds what a route's references lead to. backend.Index.For makes one.
// A route that is attached to a Gateway with a client certificate for backends
// has to be compiled for that Gateway by itself, with backend.From.Gateway.
type Resolver interface {
	Resolve(ref gatewayv1.BackendObjectReference) (backend.Target, *backend.Problem)
}

// Compiled is what a route comes to, whatever it is attached to.
type Compiled struct {
	// Hostnames are in lower case. None: any.
	Hostnames []string
	// Entries lack Host. They are to be served even if Accepted is not true: a
	// rule whose filters cannot be carried out answers 500 rather than leave its
	// requests to a less specific rule. A rule whose matches make no sense has
	// none.
	Entries []route.Entry[*proxy.Rule]
	// Accepted is true unless no rule at all can be carried out. Attachment may
	// still make it false.
	Accepted     Condition
	ResolvedRefs Condition
	// PartiallyInvalid is nil unless some rules, not all, cannot be carried out.
	PartiallyInvalid *Condition
	// Services are those that the route refers to, existing or not, each once, in
	// order of name: if one of them is among backend.Changes.Services, or one in
	// another namespace among Changes.Grants, the route has to be compiled again.
	Services []types.NamespacedName
	// Clusters are the keys that the rules use, each once, in order.
	Clusters []string
}

// Condition is a condition of a route without its type.
type Condition struct {
	True    bool
	Reason  gatewayv1.RouteConditionReason
	Message string
}

// maxMessage is what metav1.Condition lets a message have.
const maxMessage = 32768

// invalid is why a rule cannot be carried out.
type invalid struct {
	reason  gatewayv1.RouteConditionReason
	message string
}

func unsupported(format string, args ...any) *invalid {
	return &invalid{gatewayv1.RouteReasonUnsupportedValue, fmt.Sprintf(format, args...)}
}

// compiler is the state of compiling one route.
type compiler struct {
	owner    route.Owner
	meta     *metav1.ObjectMeta
	resolver Resolver
	grpc     bool

	entries    []route.Entry[*proxy.Rule]
	services   map[types.NamespacedName]struct{}
	clusters   map[string]struct{}
	label      string // of the rule that is being compiled
	unresolved []backend.Problem
	rules      int
	broken     []brokenRule
}

type brokenRule struct {
	invalid
	label   string
	answers bool // with 500: its matches make sense
}

func newCompiler(kind string, meta *metav1.ObjectMeta, res Resolver) *compiler {
	return &compiler{
		owner:    route.Owner{Kind: kind, Namespace: meta.Namespace, Name: meta.Name},
		meta:     meta,
		resolver: res,
		grpc:     kind == "GRPCRoute",
		services: make(map[types.NamespacedName]struct{}),
		clusters: make(map[string]struct{}),
	}
}

// rule is one rule of a route while it is compiled: the part that HTTPRoute and
// GRPCRoute share.
type rule struct {
	index   int
	name    *gatewayv1.SectionName
	matches []route.Match
	filters []gatewayv1.HTTPRouteFilter
	// backends have their filters in the form of HTTPRoute.
	backends    []gatewayv1.HTTPBackendRef
	persistence *gatewayv1.SessionPersistence
	timeouts    *gatewayv1.HTTPRouteTimeouts
	retry       *gatewayv1.HTTPRouteRetry
}

func (r *rule) label() string {
	if r.name != nil && *r.name != "" {
		return fmt.Sprintf("rules[%d] (%s)", r.index, *r.name)
	}
	return fmt.Sprintf("rules[%d]", r.index)
}

// drop notes a rule that nothing can match.
func (c *compiler) drop(r *rule, why *invalid) {
	c.rules++
	c.broken = append(c.broken, brokenRule{invalid: *why, label: r.label()})
}

// add compiles a rule whose matches are known. One that cannot be carried out
// answers 500.
func (c *compiler) add(r *rule) {
	c.rules++
	c.label = r.label()
	out, why := c.compile(r)
	if why != nil {
		c.broken = append(c.broken, brokenRule{*why, c.label, true})
		out = &proxy.Rule{Filters: proxy.Filters{Invalid: c.label + ": " + why.message}}
	}
	out.Owner, out.Index, out.GRPC = c.owner, r.index, c.grpc
	if r.name != nil {
		out.Name = string(*r.name)
	}
	ownPrefix := replacesPrefix(out)
	for i, m := range r.matches {
		value := out
		if ownPrefix {
			clone := *out
			clone.Prefix, value = m.Path.Value, &clone
		}
		c.entries = append(c.entries, route.Entry[*proxy.Rule]{
			Match: m, Created: c.meta.CreationTimestamp.Time, Owner: c.owner, Rule: r.index, Index: i, Value: value,
		})
	}
}

func (c *compiler) compile(r *rule) (*proxy.Rule, *invalid) {
	out := &proxy.Rule{}
	filters, why := c.filters("filters", r.filters, r.matches)
	if why != nil {
		// The references count nevertheless: what they need must not look
		// unneeded while somebody mends the filter.
		c.backends(r)
		return nil, why
	}
	out.Filters = filters
	if out.Backends, why = c.backends(r); why != nil {
		return nil, why
	}
	if out.RequestTimeout, out.BackendTimeout, why = timeouts(r.timeouts); why != nil {
		return nil, why
	}
	if out.Retry, why = retry(r.retry); why != nil {
		return nil, why
	}
	if out.Persistence, why = c.persistence(r); why != nil {
		return nil, why
	}
	return out, nil
}

func (c *compiler) backends(r *rule) (out []proxy.Backend, why *invalid) {
	for i := range r.backends {
		ref := &r.backends[i]
		b := c.backend(fmt.Sprintf("backendRefs[%d]", i), ref.BackendObjectReference)
		b.Weight = 1
		if ref.Weight != nil {
			b.Weight = max(*ref.Weight, 0)
		}
		filters, bad := c.filters(fmt.Sprintf("backendRefs[%d].filters", i), ref.Filters, r.matches)
		switch {
		case bad != nil:
			why = cmp.Or(why, bad)
		case filters.Invalid != "":
			b.Cluster, b.Status, b.Reason = "", 500, filters.Invalid
		default:
			b.Filters = filters
		}
		out = append(out, b)
	}
	return out, why
}

// backend resolves a reference. One that leads nowhere answers 500.
func (c *compiler) backend(where string, ref gatewayv1.BackendObjectReference) proxy.Backend {
	if name, ok := backend.ServiceOf(c.owner.Namespace, ref); ok {
		c.services[name] = struct{}{}
	}
	target, p := c.resolver.Resolve(ref)
	if p != nil {
		c.unresolve(p.Reason, where, p.Message)
		return proxy.Backend{Status: 500, Reason: p.Message}
	}
	c.clusters[target.Cluster] = struct{}{}
	return proxy.Backend{Cluster: target.Cluster, UpgradeHTTP1: target.UpgradeHTTP1}
}

func (c *compiler) unresolve(reason gatewayv1.RouteConditionReason, where, message string) {
	c.unresolved = append(c.unresolved, backend.Problem{Reason: reason, Message: c.label + "." + where + ": " + message})
}

// replacesPrefix says whether a rule has to know which match led to it.
func replacesPrefix(r *proxy.Rule) bool {
	replaces := func(f *proxy.Filters) bool {
		return f.Redirect != nil && f.Redirect.Path.Prefix != nil || f.Rewrite != nil && f.Rewrite.Path.Prefix != nil
	}
	return replaces(&r.Filters) || slices.ContainsFunc(r.Backends, func(b proxy.Backend) bool { return replaces(&b.Filters) })
}

func (c *compiler) finish(hostnames []gatewayv1.Hostname) Compiled {
	out := Compiled{
		Entries:      c.entries,
		Accepted:     Condition{true, gatewayv1.RouteReasonAccepted, "the route is accepted"},
		ResolvedRefs: Condition{true, gatewayv1.RouteReasonResolvedRefs, "all references are resolved"},
		Clusters:     slices.Sorted(maps.Keys(c.clusters)),
		Services: slices.SortedFunc(maps.Keys(c.services), func(a, b types.NamespacedName) int {
			return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
		}),
	}
	for _, h := range hostnames {
		if h != "" {
			out.Hostnames = append(out.Hostnames, strings.ToLower(string(h)))
		}
	}
	if len(c.unresolved) > 0 {
		var messages []string
		for _, p := range c.unresolved {
			messages = append(messages, p.Message)
		}
		out.ResolvedRefs = Condition{false, c.unresolved[0].Reason, joined(messages)}
	}
	switch len(c.broken) {
	case 0:
	case c.rules:
		out.Accepted = c.brokenRules("no rule can be carried out: ")
	default:
		broken := c.brokenRules("Dropped Rule: ") // what the message has to begin with
		broken.True = true
		out.PartiallyInvalid = &broken
	}
	return out
}

// brokenRules tells of the rules that are not carried out.
func (c *compiler) brokenRules(prefix string) Condition {
	var messages []string
	for _, b := range c.broken {
		m := b.label + ": " + b.message
		if b.answers {
			m += " (its requests are answered with 500)"
		}
		messages = append(messages, m)
	}
	return Condition{Reason: c.broken[0].reason, Message: joined(append([]string{prefix + messages[0]}, messages[1:]...))}
}

func joined(messages []string) string {
	m := strings.Join(messages, "; ")
	if len(m) > maxMessage {
		m = strings.ToValidUTF8(m[:maxMessage-3], "") + "..."
	}
	return m
}
