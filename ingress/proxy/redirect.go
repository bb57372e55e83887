package proxy

import (
	"net"
	"net/http"
	"strconv"
	"strings"
)

// location returns the Location of a redirect: the port is the redirect's own, or
// the well-known one of its scheme, or the listener's, and is left out where the
// scheme implies it (HTTPRequestRedirectFilter of Gateway API). The query is kept.
func (rd *Redirect) location(r *http.Request, c *Client, prefix string) string {
	scheme, port := rd.Scheme, rd.Port
	if scheme == "" {
		scheme = schemeOf(c)
		if port == 0 {
			port = c.Port
		}
	}
	if port == 0 {
		switch scheme {
		case "http":
			port = 80
		case "https":
			port = 443
		default:
			port = c.Port
		}
	}
	host := rd.Host
	if host == "" {
		host = hostWithoutPort(r.Host)
	}
	var b strings.Builder
	b.Grow(len(host) + len(r.URL.Path) + len(r.URL.RawQuery) + 32)
	b.WriteString(scheme)
	b.WriteString("://")
	b.WriteString(host)
	if !(scheme == "http" && port == 80 || scheme == "https" && port == 443 || port == 0) {
		b.WriteByte(':')
		b.WriteString(strconv.Itoa(int(port)))
	}
	b.WriteString(rd.Path.replaced(rooted(r.URL.EscapedPath()), prefix))
	if r.URL.RawQuery != "" {
		b.WriteByte('?')
		b.WriteString(r.URL.RawQuery)
	}
	return b.String()
}

func schemeOf(c *Client) string {
	if c.TLS != nil {
		return "https"
	}
	return "http"
}

// hostWithoutPort keeps the brackets of an IPv6 address.
func hostWithoutPort(host string) string {
	if strings.IndexByte(host, ':') < 0 {
		return host
	}
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		return host
	}
	if strings.IndexByte(name, ':') >= 0 {
		return "[" + name + "]"
	}
	return name
}
