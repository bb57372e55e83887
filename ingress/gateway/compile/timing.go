package compile

import (
	"fmt"
	"hash/fnv"
	"net/http"
	"regexp"
	"time"

	"github.com/adit-mesh/adit/ingress/proxy"
	"github.com/adit-mesh/adit/ingress/route"
	"golang.org/x/net/http/httpguts"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// What a retry is if the route does not say: as in Envoy.
const (
	DefaultRetryAttempts = 1
	DefaultRetryBackoff  = 25 * time.Millisecond
)

// durations is the format of GEP-2257.
var durations = regexp.MustCompile(`\A([0-9]{1,5}(h|m|s|ms)){1,4}\z`)

func duration(field string, in *gatewayv1.Duration) (time.Duration, *invalid) {
	if !durations.MatchString(string(*in)) {
		return 0, unsupported("%s %q is not a duration of Gateway API, such as 1m30s or 500ms", field, *in)
	}
	d, err := time.ParseDuration(string(*in))
	if err != nil {
		return 0, unsupported("%s %q is not a duration: %v", field, *in, err)
	}
	return d, nil
}

// timeouts are as proxy.Rule has them: negative for those that are turned off.
func timeouts(in *gatewayv1.HTTPRouteTimeouts) (request, backend time.Duration, why *invalid) {
	if in == nil {
		return 0, 0, nil
	}
	if in.Request != nil {
		if request, why = duration("timeouts.request", in.Request); why != nil {
			return 0, 0, why
		}
	}
	if in.BackendRequest != nil {
		if backend, why = duration("timeouts.backendRequest", in.BackendRequest); why != nil {
			return 0, 0, why
		}
	}
	if request > 0 && backend > request {
		return 0, 0, unsupported("timeouts.backendRequest %s is longer than timeouts.request %s", *in.BackendRequest, *in.Request)
	}
	if in.Request != nil && request == 0 {
		request = -1
	}
	if in.BackendRequest != nil && backend == 0 {
		backend = -1
	}
	return request, backend, nil
}

func retry(in *gatewayv1.HTTPRouteRetry) (*proxy.Retry, *invalid) {
	if in == nil {
		return nil, nil
	}
	out := &proxy.Retry{Attempts: DefaultRetryAttempts, Backoff: DefaultRetryBackoff}
	for _, code := range in.Codes {
		if code < 400 || code > 599 {
			return nil, unsupported("retry.codes: %d is not the status of an error", code)
		}
		out.Codes = append(out.Codes, int(code))
	}
	if in.Attempts != nil {
		if out.Attempts = *in.Attempts; out.Attempts < 0 {
			return nil, unsupported("retry.attempts %d is negative", out.Attempts)
		}
	}
	if in.Backoff != nil {
		var why *invalid
		if out.Backoff, why = duration("retry.backoff", in.Backoff); why != nil {
			return nil, why
		}
	}
	if out.Attempts == 0 {
		return nil, nil
	}
	return out, nil
}

// persistence compiles sessionPersistence (GEP-1619).
func (c *compiler) persistence(r *rule) (*proxy.Persistence, *invalid) {
	in := r.persistence
	if in == nil {
		return nil, nil
	}
	kind, name, out := gatewayv1.CookieBasedSessionPersistence, c.sessionName(r), &proxy.Persistence{}
	if in.Type != nil {
		kind = *in.Type
	}
	if in.SessionName != nil && *in.SessionName != "" {
		name = *in.SessionName
	}
	// The name of a cookie is a token like that of a header field (RFC 6265
	// section 4.1.1).
	if !httpguts.ValidHeaderFieldName(name) {
		return nil, unsupported("sessionPersistence.sessionName %q can name neither cookie nor header field", name)
	}
	var why *invalid
	if in.AbsoluteTimeout != nil {
		if out.Absolute, why = duration("sessionPersistence.absoluteTimeout", in.AbsoluteTimeout); why != nil {
			return nil, why
		}
	}
	switch kind {
	case gatewayv1.CookieBasedSessionPersistence:
		out.Cookie, out.Path = name, cookiePath(r.matches)
	case gatewayv1.HeaderBasedSessionPersistence:
		out.Header = http.CanonicalHeaderKey(name)
	default:
		return nil, unsupported("sessionPersistence.type %q is not known; Cookie and Header are", kind)
	}
	if in.CookieConfig == nil || in.CookieConfig.LifetimeType == nil {
		return out, nil
	}
	switch lifetime := *in.CookieConfig.LifetimeType; {
	case kind != gatewayv1.CookieBasedSessionPersistence:
		return nil, unsupported("sessionPersistence.cookieConfig is for the type Cookie")
	case lifetime == gatewayv1.PermanentCookieLifetimeType && out.Absolute == 0:
		return nil, unsupported("sessionPersistence: a cookie of lifetime Permanent needs absoluteTimeout")
	case lifetime == gatewayv1.PermanentCookieLifetimeType:
		out.Permanent = true
	case lifetime != gatewayv1.SessionCookieLifetimeType:
		return nil, unsupported("sessionPersistence.cookieConfig.lifetimeType %q is not known; Session and Permanent are", lifetime)
	}
	return out, nil
}

// sessionName is one that no other rule has, and that this rule keeps: by its
// name, if it has one, or else by its place.
func (c *compiler) sessionName(r *rule) string {
	h := fnv.New64a()
	if r.name != nil && *r.name != "" {
		fmt.Fprintf(h, "%s/%s/%s#%s", c.owner.Kind, c.owner.Namespace, c.owner.Name, *r.name)
	} else {
		fmt.Fprintf(h, "%s/%s/%s[%d]", c.owner.Kind, c.owner.Namespace, c.owner.Name, r.index)
	}
	return fmt.Sprintf("adit-session-%x", h.Sum64())
}

// cookiePath confines the cookie to the path of the rule's match, if it has just
// one that a Path attribute can say.
func cookiePath(matches []route.Match) string {
	if len(matches) == 1 {
		switch p := matches[0].Path; p.Kind {
		case route.PathExact, route.PathPrefix:
			return p.Value
		}
	}
	return "/"
}
