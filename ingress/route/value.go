package route

import (
	"net/url"
	"strings"
)

// matches says whether all but host and path fit.
func (m *Match) matches(r *Request) bool {
	if m.Method != "" && m.Method != r.Method {
		return false
	}
	for i := range m.Headers {
		if v, ok := r.header(m.Headers[i].Name); !ok || !m.Headers[i].matches(v) {
			return false
		}
	}
	for i := range m.Query {
		if v, ok := r.query(m.Query[i].Name); !ok || !m.Query[i].matches(v) {
			return false
		}
	}
	return true
}

func (m *ValueMatch) matches(v string) bool {
	if m.Regex != nil {
		return m.Regex.MatchString(v)
	}
	return m.Value == v
}

// header is the value of a field. It allocates for a repeated one only.
func (r *Request) header(name string) (string, bool) {
	vs := r.Header[name]
	switch {
	case len(vs) == 1:
		return vs[0], true
	case len(vs) > 1:
		return strings.Join(vs, ","), true
	case name == "Host": // net/http takes it out of the fields
		return r.Host, r.Host != ""
	}
	return "", false
}

// query is the first value of a parameter. Like url.ParseQuery it passes over
// what is badly escaped; unlike it, it allocates for escaped values only.
func (r *Request) query(name string) (string, bool) {
	for rest := r.RawQuery; rest != ""; {
		var pair string
		pair, rest, _ = strings.Cut(rest, "&")
		key, value, _ := strings.Cut(pair, "=")
		if key != name {
			if !strings.ContainsAny(key, "%+") {
				continue
			}
			if k, err := url.QueryUnescape(key); err != nil || k != name {
				continue
			}
		} else if strings.ContainsAny(key, "%+") {
			continue // name has escapes of its own; unescaped, key is another
		}
		if pair == "" {
			continue
		}
		if !strings.ContainsAny(value, "%+") {
			return value, true
		}
		if v, err := url.QueryUnescape(value); err == nil {
			return v, true
		}
	}
	return "", false
}
