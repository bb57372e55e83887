package ingress

import "strings"

// maxHost is the longest host that is looked at: 253 bytes of a name
// (RFC 1035 section 2.3.4), brackets or a trailing dot, and a port.
const maxHost = 261

// normaliseHost turns the authority of a request (Host, :authority) into the
// name that listeners and routes are looked up by: lower case, without port and
// trailing dot. An IPv6 literal keeps its brackets. It says false if host is none
// that a browser or RFC 3986 section 3.2.2 would write; such a request is
// refused, because whoever stands behind this gateway may read it otherwise.
// "" is a valid host: that of HTTP/1.0.
func normaliseHost(host string) (string, bool) {
	if host == "" {
		return "", true
	}
	if len(host) > maxHost {
		return "", false
	}
	if host[0] == '[' {
		return normaliseLiteral(host)
	}
	name, upper := host, false
	for i := 0; i < len(host); i++ {
		switch c := host[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '.', c == '_':
		case 'A' <= c && c <= 'Z':
			upper = true
		case c == ':':
			if !validPort(host[i+1:]) {
				return "", false
			}
			name = host[:i]
			i = len(host)
		default:
			return "", false
		}
	}
	name = strings.TrimSuffix(name, ".")
	if name == "" || name[0] == '.' || strings.Contains(name, "..") || name[len(name)-1] == '.' {
		return "", false
	}
	if upper {
		name = strings.ToLower(name)
	}
	return name, true
}

// normaliseLiteral is normaliseHost for "[…]" with or without port.
func normaliseLiteral(host string) (string, bool) {
	end := strings.IndexByte(host, ']')
	if end < 3 { // the shortest is [::]
		return "", false
	}
	for i := 1; i < end; i++ {
		c := host[i]
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F' || c == ':' || c == '.') {
			return "", false
		}
	}
	if rest := host[end+1:]; rest != "" && (rest[0] != ':' || !validPort(rest[1:])) {
		return "", false
	}
	return strings.ToLower(host[:end+1]), true
}

// validPort says whether s may follow a host's colon. RFC 3986 lets it be empty.
func validPort(s string) bool {
	if len(s) > 5 {
		return false
	}
	n := 0
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n <= 65535
}

// normaliseSNI is the server name of a ClientHello as it is looked up. crypto/tls
// has refused trailing dots and literals already; a hello that is only peeked at
// comes the same way.
func normaliseSNI(name string) string {
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

// hostTable finds the most specific of several hostnames that covers a host: the
// name itself, then the longest wildcard ("*." covers any number of labels, but
// not none), then "". The zero value is empty.
type hostTable[T any] struct {
	exact map[string]T
	wild  map[string]T // by the suffix with its leading dot
	any   T
	isAny bool
}

// set adds hostname unless it is there already, and says whether it was added.
func (t *hostTable[T]) set(hostname string, v T) bool {
	switch {
	case hostname == "" || hostname == "*":
		if t.isAny {
			return false
		}
		t.any, t.isAny = v, true
		return true
	case strings.HasPrefix(hostname, "*."):
		return setOnce(&t.wild, hostname[1:], v)
	default:
		return setOnce(&t.exact, hostname, v)
	}
}

func setOnce[T any](m *map[string]T, key string, v T) bool {
	if _, ok := (*m)[key]; ok {
		return false
	}
	if *m == nil {
		*m = make(map[string]T)
	}
	(*m)[key] = v
	return true
}

// get looks host up, which is normalised.
func (t *hostTable[T]) get(host string) (T, bool) {
	if v, ok := t.exact[host]; ok {
		return v, true
	}
	if len(t.wild) > 0 && host != "" && host[0] != '[' {
		for rest := host[1:]; ; { // a wildcard stands for at least one label
			i := strings.IndexByte(rest, '.')
			if i < 0 {
				break
			}
			if v, ok := t.wild[rest[i:]]; ok {
				return v, true
			}
			rest = rest[i+1:]
		}
	}
	return t.any, t.isAny
}
