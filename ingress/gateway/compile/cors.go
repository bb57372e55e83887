package compile

import (
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/adit-mesh/adit/ingress/proxy"
	"golang.org/x/net/http/httpguts"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// defaultMaxAge is what maxAge says of being unspecified.
const defaultMaxAge = 5 * time.Second

func cors(in *gatewayv1.HTTPCORSFilter) (*proxy.CORS, *invalid) {
	out := &proxy.CORS{MaxAge: defaultMaxAge}
	if in.MaxAge < 0 {
		return nil, unsupported("maxAge %d is negative", in.MaxAge)
	}
	if in.MaxAge > 0 {
		out.MaxAge = time.Duration(in.MaxAge) * time.Second
	}
	if in.AllowCredentials != nil {
		out.Credentials = *in.AllowCredentials
	}
	for _, o := range in.AllowOrigins {
		if o == "*" {
			out.AnyOrigin = true
			continue
		}
		origin, why := origin(string(o))
		if why != nil {
			return nil, why
		}
		out.Origins = append(out.Origins, origin)
	}
	for _, m := range in.AllowMethods {
		if m == "*" {
			out.AnyMethod = true
			continue
		}
		if !httpguts.ValidHeaderFieldName(string(m)) {
			return nil, unsupported("allowMethods: %q is not a method", m)
		}
		out.Methods = append(out.Methods, string(m))
	}
	for _, list := range []struct {
		field string
		in    []gatewayv1.HTTPHeaderName
		out   *[]string
		any   *bool
	}{
		{"allowHeaders", in.AllowHeaders, &out.Headers, &out.AnyHeader},
		{"exposeHeaders", in.ExposeHeaders, &out.Expose, &out.AnyExposeHdr},
	} {
		for _, h := range list.in {
			if h == "*" {
				*list.any = true
				continue
			}
			if !httpguts.ValidHeaderFieldName(string(h)) {
				return nil, unsupported("%s: %q is not the name of a header field", list.field, h)
			}
			// As it is written: that is how browsers and people compare it.
			*list.out = append(*list.out, string(h))
		}
	}
	return out, nil
}

// origin compiles one of allowOrigins. Browsers write origins in lower case and
// without the port that the scheme implies, and so does it.
func origin(in string) (proxy.Origin, *invalid) {
	bad := unsupported("allowOrigins: %q is not SCHEME://HOST or SCHEME://HOST:PORT with http or https", in)
	scheme, rest, ok := strings.Cut(strings.ToLower(in), "://")
	if !ok || scheme != "http" && scheme != "https" || rest == "" {
		return proxy.Origin{}, bad
	}
	host, port := rest, ""
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.HasSuffix(rest, "]") {
		host, port = rest[:i], rest[i+1:]
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return proxy.Origin{}, bad
		}
	}
	if port == "443" && scheme == "https" || port == "80" && scheme == "http" {
		port = ""
	}
	plain := strings.ReplaceAll(host, "*", "x")
	if u, err := url.Parse(scheme + "://" + plain); err != nil || u.Host != plain || plain == "" || strings.ContainsAny(plain, "%@ ") {
		return proxy.Origin{}, bad
	}
	if port != "" {
		port = ":" + port
	}
	if !strings.Contains(host, "*") {
		return proxy.Origin{Exact: scheme + "://" + host + port}, nil
	}
	if host == "*" {
		// Addresses too, which have colons and brackets if they are of IPv6.
		return proxy.Origin{Regex: regexp.MustCompile(`(?i)\A` + scheme + `://(?:[^/:?#@\[\]]+|\[[0-9a-f:.]+\])` + port + `\z`)}, nil
	}
	// A wildcard is of labels: it goes over dots, but not out of the host.
	expr := strings.ReplaceAll(regexp.QuoteMeta(host), `\*`, `[^/:?#@\[\]]+`)
	return proxy.Origin{Regex: regexp.MustCompile(`(?i)\A` + scheme + `://` + expr + port + `\z`)}, nil
}
