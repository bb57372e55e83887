package compile

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/adit-mesh/adit/ingress/proxy"
	"github.com/adit-mesh/adit/ingress/route"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// filters compiles the filters of a rule or of one of its backends. Those that
// cannot be resolved make Filters.Invalid; others that cannot be carried out make
// the rule invalid.
func (c *compiler) filters(where string, in []gatewayv1.HTTPRouteFilter, matches []route.Match) (out proxy.Filters, why *invalid) {
	seen := make(map[gatewayv1.HTTPRouteFilterType]bool)
	for i := range in {
		f := &in[i]
		if seen[f.Type] && f.Type != gatewayv1.HTTPRouteFilterRequestMirror && f.Type != gatewayv1.HTTPRouteFilterExtensionRef {
			return out, &invalid{gatewayv1.RouteReasonIncompatibleFilters, at(where, i, fmt.Sprintf("%s is there twice", f.Type))}
		}
		seen[f.Type] = true
		if why := c.filter(&out, fmt.Sprintf("%s[%d]", where, i), f, matches); why != nil {
			why.message = at(where, i, why.message)
			return out, why
		}
	}
	if out.Redirect != nil && out.Rewrite != nil {
		return out, &invalid{gatewayv1.RouteReasonIncompatibleFilters, where + ": RequestRedirect and URLRewrite exclude each other"}
	}
	return out, nil
}

func (c *compiler) filter(out *proxy.Filters, where string, f *gatewayv1.HTTPRouteFilter, matches []route.Match) (why *invalid) {
	if c.grpc {
		switch f.Type {
		case gatewayv1.HTTPRouteFilterRequestRedirect, gatewayv1.HTTPRouteFilterURLRewrite, gatewayv1.HTTPRouteFilterCORS, gatewayv1.HTTPRouteFilterExternalAuth:
			return unsupported("%s is no filter of GRPCRoute", f.Type)
		}
	}
	missing := unsupported("a filter of type %s lacks the field of its type", f.Type)
	switch f.Type {
	case gatewayv1.HTTPRouteFilterRequestHeaderModifier:
		if f.RequestHeaderModifier == nil {
			return missing
		}
		out.RequestHeaders, why = headerChange(f.RequestHeaderModifier)
	case gatewayv1.HTTPRouteFilterResponseHeaderModifier:
		if f.ResponseHeaderModifier == nil {
			return missing
		}
		out.ResponseHeaders, why = headerChange(f.ResponseHeaderModifier)
	case gatewayv1.HTTPRouteFilterRequestRedirect:
		if f.RequestRedirect == nil {
			return missing
		}
		out.Redirect, why = redirect(f.RequestRedirect, matches)
	case gatewayv1.HTTPRouteFilterURLRewrite:
		if f.URLRewrite == nil {
			return missing
		}
		out.Rewrite, why = rewrite(f.URLRewrite, matches)
	case gatewayv1.HTTPRouteFilterRequestMirror:
		if f.RequestMirror == nil {
			return missing
		}
		why = c.mirror(out, where, f.RequestMirror)
	case gatewayv1.HTTPRouteFilterCORS:
		if f.CORS == nil {
			return missing
		}
		out.CORS, why = cors(f.CORS)
	case gatewayv1.HTTPRouteFilterExtensionRef:
		if f.ExtensionRef == nil {
			return missing
		}
		// The filter may not be skipped, whatever it would have done.
		out.Invalid = fmt.Sprintf("extension %s of kind %s of group %s is not known", f.ExtensionRef.Name, f.ExtensionRef.Kind, f.ExtensionRef.Group)
		c.unresolve(gatewayv1.RouteReasonInvalidKind, where, out.Invalid)
	default:
		return unsupported("filters of type %q are not supported", f.Type)
	}
	return why
}

// hostname is what PreciseHostname lets stand, which files pass by.
var hostname = regexp.MustCompile(`\A[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\z`)

func host(in *gatewayv1.PreciseHostname) (string, *invalid) {
	if in == nil || *in == "" {
		return "", nil
	}
	h := strings.ToLower(string(*in))
	if !hostname.MatchString(h) {
		return "", unsupported("hostname %q is not the name of a host", h)
	}
	return h, nil
}

// statuses are those that a redirect may answer with.
var statuses = []int{301, 302, 303, 307, 308}

func redirect(in *gatewayv1.HTTPRequestRedirectFilter, matches []route.Match) (*proxy.Redirect, *invalid) {
	out := &proxy.Redirect{Status: 302}
	var why *invalid
	if out.Host, why = host(in.Hostname); why != nil {
		return nil, why
	}
	if out.Path, why = pathModifier(in.Path, matches); why != nil {
		return nil, why
	}
	if in.Scheme != nil {
		out.Scheme = *in.Scheme
		if out.Scheme != "http" && out.Scheme != "https" {
			return nil, unsupported("scheme %q is not supported; http and https are", out.Scheme)
		}
	}
	if in.Port != nil {
		if *in.Port < 1 || *in.Port > 65535 {
			return nil, unsupported("%d is not a port", *in.Port)
		}
		out.Port = uint16(*in.Port)
	}
	if in.StatusCode != nil {
		out.Status = *in.StatusCode
		if !slices.Contains(statuses, out.Status) {
			return nil, unsupported("statusCode %d does not redirect; 301, 302, 303, 307 and 308 do", out.Status)
		}
	}
	return out, nil
}

func rewrite(in *gatewayv1.HTTPURLRewriteFilter, matches []route.Match) (*proxy.Rewrite, *invalid) {
	out := &proxy.Rewrite{}
	var why *invalid
	if out.Host, why = host(in.Hostname); why != nil {
		return nil, why
	}
	if out.Path, why = pathModifier(in.Path, matches); why != nil {
		return nil, why
	}
	return out, nil
}

func pathModifier(in *gatewayv1.HTTPPathModifier, matches []route.Match) (out proxy.Path, why *invalid) {
	if in == nil {
		return out, nil
	}
	switch in.Type {
	case gatewayv1.FullPathHTTPPathModifier:
		if in.ReplaceFullPath == nil {
			return out, unsupported("path has no replaceFullPath")
		}
		out.Full, why = replacement(*in.ReplaceFullPath)
		return out, why
	case gatewayv1.PrefixMatchHTTPPathModifier:
		if in.ReplacePrefixMatch == nil {
			return out, unsupported("path has no replacePrefixMatch")
		}
		for _, m := range matches {
			if m.Path.Kind != route.PathPrefix {
				return out, unsupported("ReplacePrefixMatch needs matches of type PathPrefix")
			}
		}
		prefix, why := replacement(*in.ReplacePrefixMatch)
		out.Prefix = &prefix
		return out, why
	}
	return out, unsupported("path is of type %q; ReplaceFullPath and ReplacePrefixMatch are supported", in.Type)
}

// replacement is an escaped path that requests are given.
func replacement(path string) (string, *invalid) {
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	normal, ok := route.Normalise(path)
	if !ok {
		return "", unsupported("path %q is not the path of a URL", path)
	}
	return normal, nil
}

// mirror adds a mirror. One whose reference leads nowhere is left out.
func (c *compiler) mirror(out *proxy.Filters, where string, in *gatewayv1.HTTPRequestMirrorFilter) *invalid {
	m := proxy.Mirror{Backend: c.backend(where, in.BackendRef)}
	m.Backend.Weight = 1
	switch {
	case in.Percent != nil && in.Fraction != nil:
		return unsupported("percent and fraction exclude each other")
	case in.Percent != nil:
		m.Numerator, m.Denominator = *in.Percent, 100
	case in.Fraction != nil:
		m.Numerator, m.Denominator = in.Fraction.Numerator, 100
		if in.Fraction.Denominator != nil {
			m.Denominator = *in.Fraction.Denominator
		}
	}
	if m.Numerator < 0 || m.Numerator > m.Denominator || m.Denominator < 1 && (in.Percent != nil || in.Fraction != nil) {
		return unsupported("%d of %d is not a share of the requests", m.Numerator, m.Denominator)
	}
	none := m.Denominator > 0 && m.Numerator == 0
	if m.Backend.Cluster != "" && !none {
		out.Mirrors = append(out.Mirrors, m)
	}
	return nil
}
