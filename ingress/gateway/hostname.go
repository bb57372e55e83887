package gateway

import (
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// intersect is the host names that both a and b match: "" is every name, and
// "*." and a suffix every name with at least one label before the suffix. It
// says false if there is none.
func intersect(a, b string) (string, bool) {
	switch {
	case a == b, b == "":
		return a, true
	case a == "":
		return b, true
	case within(a, b):
		return a, true
	case within(b, a):
		return b, true
	}
	return "", false
}

// within says that wildcard matches every name that host does, and more.
func within(host, wildcard string) bool {
	suffix, ok := strings.CutPrefix(wildcard, "*")
	return ok && len(host) > len(suffix) && strings.HasSuffix(host, suffix) && host != wildcard
}

// intersections are the host names of a route that a listener serves: those of
// the route that lie within the listener's, or the listener's if they are wider.
// No hostnames are any. Each is given once, in the order of the route.
func intersections(listener string, route []string) []string {
	if len(route) == 0 {
		return []string{listener}
	}
	var hosts []string
	for _, name := range route {
		if host, ok := intersect(listener, name); ok {
			hosts = appendNew(hosts, host)
		}
	}
	return hosts
}

func hostname(h *gatewayv1.Hostname) string {
	if h == nil {
		return ""
	}
	return strings.ToLower(string(*h))
}

func hostnames(names []gatewayv1.Hostname) []string {
	var lower []string
	for _, name := range names {
		if name != "" {
			lower = appendNew(lower, strings.ToLower(string(name)))
		}
	}
	return lower
}

// appendNew appends s unless it is there. Routes have at most 16 hostnames.
func appendNew(list []string, s string) []string {
	for _, have := range list {
		if have == s {
			return list
		}
	}
	return append(list, s)
}
