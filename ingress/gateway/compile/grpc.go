package compile

import (
	"regexp"

	"github.com/adit-mesh/adit/ingress/route"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// GRPCRoute compiles a GRPCRoute. It does not keep r.
func GRPCRoute(r *gatewayv1.GRPCRoute, res Resolver) Compiled {
	c := newCompiler("GRPCRoute", &r.ObjectMeta, res)
	for i := range r.Spec.Rules {
		in := &r.Spec.Rules[i]
		out := &rule{index: i, name: in.Name, filters: asHTTP(in.Filters), persistence: in.SessionPersistence}
		for _, b := range in.BackendRefs {
			out.backends = append(out.backends, gatewayv1.HTTPBackendRef{BackendRef: b.BackendRef, Filters: asHTTP(b.Filters)})
		}
		var why *invalid
		if out.matches, why = grpcMatches(in.Matches); why != nil {
			c.drop(out, why)
			continue
		}
		c.add(out)
	}
	return c.finish(r.Spec.Hostnames)
}

// asHTTP gives filters the form that they have in HTTPRoute, of which they are a
// part.
func asHTTP(in []gatewayv1.GRPCRouteFilter) []gatewayv1.HTTPRouteFilter {
	var out []gatewayv1.HTTPRouteFilter
	for _, f := range in {
		out = append(out, gatewayv1.HTTPRouteFilter{
			Type:                   gatewayv1.HTTPRouteFilterType(f.Type),
			RequestHeaderModifier:  f.RequestHeaderModifier,
			ResponseHeaderModifier: f.ResponseHeaderModifier,
			RequestMirror:          f.RequestMirror,
			ExtensionRef:           f.ExtensionRef,
		})
	}
	return out
}

func grpcMatches(in []gatewayv1.GRPCRouteMatch) ([]route.Match, *invalid) {
	if len(in) == 0 {
		return []route.Match{{Path: route.PathMatch{Value: "/"}}}, nil
	}
	out := make([]route.Match, len(in))
	for i := range in {
		m, why := grpcMatch(&in[i])
		if why != nil {
			why.message = at("matches", i, why.message)
			return nil, why
		}
		out[i] = m
	}
	return out, nil
}

func grpcMatch(in *gatewayv1.GRPCRouteMatch) (out route.Match, why *invalid) {
	if out.Path, why = grpcPath(in.Method); why != nil {
		return out, why
	}
	for i, h := range in.Headers {
		kind := gatewayv1.GRPCHeaderMatchExact
		if h.Type != nil {
			kind = *h.Type
		}
		if why := addHeader(&out.Headers, string(kind), string(h.Name), h.Value); why != nil {
			why.message = at("headers", i, why.message)
			return out, why
		}
	}
	return out, nil
}

// The names that GRPCMethodMatch lets stand in an exact match.
var (
	grpcServiceName = regexp.MustCompile(`\A\.?[A-Za-z_][A-Za-z_0-9]*(\.[A-Za-z_][A-Za-z_0-9]*)*\z`)
	grpcMethodName  = regexp.MustCompile(`\A[A-Za-z_][A-Za-z_0-9]*\z`)
)

// grpcPath turns a method into the path that gRPC has for it: "/SERVICE/METHOD".
func grpcPath(in *gatewayv1.GRPCMethodMatch) (route.PathMatch, *invalid) {
	if in == nil {
		return route.PathMatch{Value: "/"}, nil
	}
	kind, service, method := gatewayv1.GRPCMethodMatchExact, "", ""
	if in.Type != nil {
		kind = *in.Type
	}
	if in.Service != nil {
		service = *in.Service
	}
	if in.Method != nil {
		method = *in.Method
	}
	if service == "" && method == "" {
		return route.PathMatch{}, unsupported("method names neither service nor method")
	}
	switch kind {
	case gatewayv1.GRPCMethodMatchExact:
		if service != "" && !grpcServiceName.MatchString(service) {
			return route.PathMatch{}, unsupported("method.service %q is not the name of a service", service)
		}
		if method != "" && !grpcMethodName.MatchString(method) {
			return route.PathMatch{}, unsupported("method.method %q is not the name of a method", method)
		}
		switch {
		case method == "":
			return route.PathMatch{Kind: route.PathPrefix, Value: "/" + service}, nil
		case service == "":
			return route.PathMatch{Kind: route.PathMethod, Value: "/" + method}, nil
		}
		return route.PathMatch{Kind: route.PathExact, Value: "/" + service + "/" + method}, nil
	case gatewayv1.GRPCMethodMatchRegularExpression:
		return grpcRegex(service, method)
	}
	return route.PathMatch{}, unsupported("method is of type %q; Exact and RegularExpression are supported", kind)
}

func grpcRegex(service, method string) (route.PathMatch, *invalid) {
	const whatever = "[^/]+"
	for _, expr := range []*string{&service, &method} {
		if *expr == "" {
			*expr = whatever
		} else if _, why := pattern(*expr); why != nil {
			why.message = "method: " + why.message
			return route.PathMatch{}, why
		}
	}
	value := "/(?:" + service + ")/(?:" + method + ")"
	re, why := pattern(value)
	return route.PathMatch{Kind: route.PathRegex, Value: value, Regex: re}, why
}
