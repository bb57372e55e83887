package compile

import (
	"slices"

	"github.com/adit-mesh/adit/ingress/route"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// HTTPRoute compiles an HTTPRoute. It does not keep r.
func HTTPRoute(r *gatewayv1.HTTPRoute, res Resolver) Compiled {
	c := newCompiler("HTTPRoute", &r.ObjectMeta, res)
	rules := r.Spec.Rules
	if len(rules) == 0 {
		rules = []gatewayv1.HTTPRouteRule{{}} // the default of the field, which files do not get
	}
	for i := range rules {
		in := &rules[i]
		out := &rule{
			index:       i,
			name:        in.Name,
			filters:     in.Filters,
			backends:    in.BackendRefs,
			persistence: in.SessionPersistence,
			timeouts:    in.Timeouts,
			retry:       in.Retry,
		}
		var why *invalid
		if out.matches, why = httpMatches(in.Matches); why != nil {
			c.drop(out, why)
			continue
		}
		c.add(out)
	}
	return c.finish(r.Spec.Hostnames)
}

func httpMatches(in []gatewayv1.HTTPRouteMatch) ([]route.Match, *invalid) {
	if len(in) == 0 {
		return []route.Match{{Path: route.PathMatch{Value: "/"}}}, nil
	}
	out := make([]route.Match, len(in))
	for i := range in {
		m, why := httpMatch(&in[i])
		if why != nil {
			why.message = at("matches", i, why.message)
			return nil, why
		}
		out[i] = m
	}
	return out, nil
}

// methods are those that HTTPMethod may be.
var methods = []gatewayv1.HTTPMethod{
	gatewayv1.HTTPMethodGet, gatewayv1.HTTPMethodHead, gatewayv1.HTTPMethodPost, gatewayv1.HTTPMethodPut, gatewayv1.HTTPMethodDelete,
	gatewayv1.HTTPMethodConnect, gatewayv1.HTTPMethodOptions, gatewayv1.HTTPMethodTrace, gatewayv1.HTTPMethodPatch,
}

func httpMatch(in *gatewayv1.HTTPRouteMatch) (out route.Match, why *invalid) {
	if out.Path, why = pathMatch(in.Path); why != nil {
		return out, why
	}
	if in.Method != nil {
		if !slices.Contains(methods, *in.Method) {
			return out, unsupported("method %q is not known; methods are in upper case", *in.Method)
		}
		out.Method = string(*in.Method)
	}
	for i, h := range in.Headers {
		kind := gatewayv1.HeaderMatchExact
		if h.Type != nil {
			kind = *h.Type
		}
		if why := addHeader(&out.Headers, string(kind), string(h.Name), h.Value); why != nil {
			why.message = at("headers", i, why.message)
			return out, why
		}
	}
	for i, q := range in.QueryParams {
		kind := gatewayv1.QueryParamMatchExact
		if q.Type != nil {
			kind = *q.Type
		}
		if why := addValue(&out.Query, string(kind), string(q.Name), q.Value); why != nil {
			why.message = at("queryParams", i, why.message)
			return out, why
		}
	}
	return out, nil
}
