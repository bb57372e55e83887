package compile

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/adit-mesh/adit/ingress/route"
	"golang.org/x/net/http/httpguts"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

func at(field string, index int, message string) string {
	return fmt.Sprintf("%s[%d]: %s", field, index, message)
}

// pattern compiles an expression that has to match the whole of a value. \A and
// \z hold also in an expression that begins with (?m).
func pattern(expr string) (*regexp.Regexp, *invalid) {
	// By itself first: "a)(b" would be well-formed between the parentheses.
	if _, err := regexp.Compile(expr); err != nil {
		return nil, unsupported("%q is not a regular expression of RE2: %v", expr, err)
	}
	re, err := regexp.Compile(`\A(?:` + expr + `)\z`)
	if err != nil {
		return nil, unsupported("%q is not a regular expression of RE2: %v", expr, err)
	}
	return re, nil
}

func pathMatch(in *gatewayv1.HTTPPathMatch) (route.PathMatch, *invalid) {
	kind, value := gatewayv1.PathMatchPathPrefix, "/"
	if in != nil && in.Type != nil {
		kind = *in.Type
	}
	if in != nil && in.Value != nil {
		value = *in.Value
	}
	switch kind {
	case gatewayv1.PathMatchExact:
		path, why := literalPath(value)
		return route.PathMatch{Kind: route.PathExact, Value: path}, why
	case gatewayv1.PathMatchPathPrefix:
		path, why := literalPath(value)
		if path != "/" {
			path = strings.TrimSuffix(path, "/") // it is ignored; ReplacePrefixMatch too counts on that
		}
		return route.PathMatch{Kind: route.PathPrefix, Value: path}, why
	case gatewayv1.PathMatchRegularExpression:
		re, why := pattern(value)
		if why != nil {
			why.message = "path: " + why.message
		}
		return route.PathMatch{Kind: route.PathRegex, Value: value, Regex: re}, why
	}
	return route.PathMatch{}, unsupported("path is of type %q; Exact, PathPrefix and RegularExpression are supported", kind)
}

// literalPath checks a path as the definition of HTTPPathMatch does, which files
// pass by, and writes it as requests are written when they are matched.
func literalPath(path string) (string, *invalid) {
	bad := ""
	dotted := strings.NewReplacer("%2e", ".", "%2E", ".").Replace(path)
	switch {
	case !strings.HasPrefix(path, "/"):
		bad = "it does not begin with /"
	case strings.Contains(path, "//"):
		bad = "it contains //"
	case strings.Contains(dotted, "/./"), strings.Contains(dotted, "/../"), strings.HasSuffix(dotted, "/."), strings.HasSuffix(dotted, "/.."):
		bad = "it contains a segment . or .."
	case strings.Contains(path, "%2f"), strings.Contains(path, "%2F"):
		bad = "it contains an escaped slash"
	}
	if bad == "" {
		if normal, ok := route.Normalise(path); ok {
			return normal, nil
		}
		bad = "it is not the path of a URL"
	}
	return "", unsupported("path %q: %s", path, bad)
}

// addHeader appends the match of a header field. Of several with one name the
// first counts.
func addHeader(to *[]route.ValueMatch, kind, name, value string) *invalid {
	if !httpguts.ValidHeaderFieldName(name) {
		return unsupported("%q is not the name of a header field", name)
	}
	return addValue(to, kind, http.CanonicalHeaderKey(name), value)
}

// addValue appends the match of a value. Of several with one name the first
// counts, and the others are not even looked at.
func addValue(to *[]route.ValueMatch, kind, name, value string) *invalid {
	if slices.ContainsFunc(*to, func(m route.ValueMatch) bool { return m.Name == name }) {
		return nil
	}
	switch kind {
	case string(gatewayv1.HeaderMatchExact):
		*to = append(*to, route.ValueMatch{Name: name, Value: value})
	case string(gatewayv1.HeaderMatchRegularExpression):
		re, why := pattern(value)
		if why != nil {
			return why
		}
		*to = append(*to, route.ValueMatch{Name: name, Regex: re})
	default:
		return unsupported("it is of type %q; Exact and RegularExpression are supported", kind)
	}
	return nil
}
