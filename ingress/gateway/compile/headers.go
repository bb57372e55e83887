package compile

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/adit-mesh/adit/ingress/proxy"
	"golang.org/x/net/http/httpguts"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// framing are the fields that say where a message ends and what the connection
// does: they are of this hop, and whoever could set them could smuggle requests.
var framing = []string{
	"Connection", "Content-Length", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// headerChange compiles a header modifier. Names that stand in it twice are an
// error if different things are done to them; else the first counts.
func headerChange(in *gatewayv1.HTTPHeaderFilter) (out proxy.HeaderChange, why *invalid) {
	done := make(map[string]string)
	take := func(action, name, value string) (canonical string, first bool, why *invalid) {
		canonical = http.CanonicalHeaderKey(name)
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			return "", false, unsupported("%s: %q is not the name of a header field", action, name)
		case canonical == "Host":
			return "", false, unsupported("%s: Host is changed by the filter URLRewrite", action)
		case slices.Contains(framing, canonical):
			return "", false, unsupported("%s: %s belongs to the connection and is not to be changed", action, canonical)
		case canonical == "X-Forwarded-Client-Cert":
			return "", false, unsupported("%s: %s tells who is at the ends of a tunnel of the mesh, and is not to be changed", action, canonical)
		case !httpguts.ValidHeaderFieldValue(value):
			return "", false, unsupported("%s: the value of %s has characters that a header field cannot have", action, canonical)
		}
		before := done[canonical]
		if before != "" && before != action {
			return "", false, unsupported("%s is in both %s and %s; only one action is possible for each name", canonical, before, action)
		}
		done[canonical] = action
		return canonical, before == "", nil
	}
	for _, action := range []struct {
		name string
		in   []gatewayv1.HTTPHeader
		out  *[]proxy.HeaderValue
	}{{"set", in.Set, &out.Set}, {"add", in.Add, &out.Add}} {
		for i, h := range action.in {
			name, first, why := take(action.name, string(h.Name), h.Value)
			if why != nil {
				why.message = fmt.Sprintf("entry %d of %s", i, why.message)
				return proxy.HeaderChange{}, why
			}
			if first {
				*action.out = append(*action.out, proxy.HeaderValue{Name: name, Value: h.Value})
			}
		}
	}
	for i, h := range in.Remove {
		name, first, why := take("remove", h, "")
		if why != nil {
			why.message = fmt.Sprintf("entry %d of %s", i, why.message)
			return proxy.HeaderChange{}, why
		}
		if first {
			out.Remove = append(out.Remove, name)
		}
	}
	return out, nil
}
