package proxy

import (
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// isPreflight says whether r is a CORS preflight: OPTIONS with an Origin and the
// method that is asked for (Fetch Standard, 3.2.2).
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && headerValue(r.Header, "Origin") != "" &&
		headerValue(r.Header, "Access-Control-Request-Method") != ""
}

// allows says whether scripts of origin may read answers.
func (c *CORS) allows(origin string) bool {
	if origin == "" {
		return false
	}
	if c.AnyOrigin {
		return true
	}
	short := withoutDefaultPort(origin)
	for i := range c.Origins {
		o := &c.Origins[i]
		switch {
		case o.Regex != nil:
			if o.Regex.MatchString(origin) || short != origin && o.Regex.MatchString(short) {
				return true
			}
		case strings.EqualFold(withoutDefaultPort(o.Exact), short):
			return true
		}
	}
	return false
}

// withoutDefaultPort returns an origin as browsers write it: port 80 of http and
// port 443 of https are not spelt out.
func withoutDefaultPort(origin string) string {
	if s, ok := strings.CutSuffix(origin, ":443"); ok && strings.HasPrefix(origin, "https:") {
		return s
	}
	if s, ok := strings.CutSuffix(origin, ":80"); ok && strings.HasPrefix(origin, "http:") {
		return s
	}
	return origin
}

// mark puts c's headers for an answer to a request from origin, which c allows
// or not, into h. The backend's own opinion is removed: the filter decides.
func (c *CORS) mark(h http.Header, origin string) {
	delete(h, "Access-Control-Allow-Origin")
	delete(h, "Access-Control-Allow-Credentials")
	delete(h, "Access-Control-Expose-Headers")
	star := c.AnyOrigin && !c.Credentials
	if !star {
		// Also for who is refused or sent no Origin: a cache must not give one's
		// answer to another.
		addVary(h, "Origin")
	}
	if !c.allows(origin) || !httpguts.ValidHeaderFieldValue(origin) {
		return
	}
	if star {
		h["Access-Control-Allow-Origin"] = []string{"*"}
	} else {
		h["Access-Control-Allow-Origin"] = []string{origin}
	}
	if c.Credentials {
		h["Access-Control-Allow-Credentials"] = []string{"true"}
	}
	if c.AnyExposeHdr && !c.Credentials {
		h["Access-Control-Expose-Headers"] = []string{"*"}
	} else if len(c.Expose) > 0 {
		h["Access-Control-Expose-Headers"] = []string{strings.Join(c.Expose, ", ")}
	}
}

// preflight puts the answer to a preflight into h, besides what mark puts there.
// A wildcard is answered with what was asked for: that is right with credentials
// and without, and allows Authorization, which a literal "*" does not.
func (c *CORS) preflight(h http.Header, r *http.Request) {
	if c.AnyMethod {
		echo(h, "Access-Control-Allow-Methods", headerValue(r.Header, "Access-Control-Request-Method"))
	} else if len(c.Methods) > 0 {
		h["Access-Control-Allow-Methods"] = []string{strings.Join(c.Methods, ", ")}
	}
	if c.AnyHeader {
		echo(h, "Access-Control-Allow-Headers", headerValue(r.Header, "Access-Control-Request-Headers"))
	} else if len(c.Headers) > 0 {
		h["Access-Control-Allow-Headers"] = []string{strings.Join(c.Headers, ", ")}
	}
	age := int64(c.MaxAge.Seconds())
	if age <= 0 {
		age = 5 // what HTTPCORSFilter says unset means
	}
	h["Access-Control-Max-Age"] = []string{strconv.FormatInt(age, 10)}
}

func echo(h http.Header, name, value string) {
	if value != "" && httpguts.ValidHeaderFieldValue(value) {
		h[name] = []string{value}
	}
}

func addVary(h http.Header, name string) {
	for _, line := range h["Vary"] {
		for v := range strings.SplitSeq(line, ",") {
			if v = strings.TrimSpace(v); v == "*" || strings.EqualFold(v, name) {
				return
			}
		}
	}
	h["Vary"] = append(h["Vary"][:len(h["Vary"]):len(h["Vary"])], name)
}

func headerValue(h http.Header, canonical string) string {
	if v := h[canonical]; len(v) > 0 {
		return v[0]
	}
	return ""
}
