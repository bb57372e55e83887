package h1

import "net/http"

// The classes of bytes that the grammars of RFC 9110 and RFC 3986 tell apart.
const (
	isToken     uint8 = 1 << iota // tchar, RFC 9110 section 5.6.2
	isLower                       // a to z
	isUpper                       // A to Z
	isValue                       // of field values: HTAB, SP, VCHAR, obs-text
	isTarget                      // of request targets; see validTarget
	isHost                        // of reg-name and port: RFC 3986 section 3.2.2
	isPlainPath                   // what url.URL keeps in Path alone, unescaped
	isHex
)

var class = classes()

func classes() (t [256]uint8) {
	mark := func(s string, c uint8) {
		for i := range len(s) {
			t[s[i]] |= c
		}
	}
	const (
		lower = "abcdefghijklmnopqrstuvwxyz"
		upper = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
		digit = "0123456789"
	)
	mark(lower, isToken|isLower|isHost|isPlainPath)
	mark(upper, isToken|isUpper|isHost|isPlainPath)
	mark(digit, isToken|isHost|isPlainPath|isHex)
	mark("abcdefABCDEF", isHex)
	mark("!#$%&'*+-.^_`|~", isToken)
	mark("-._~!$&'()*+,;=%", isHost)
	mark("-_.~$&+,/:;=@", isPlainPath)
	for c := range 256 {
		if c == '\t' || c >= ' ' && c != 0x7f {
			t[c] |= isValue
		}
		if c > ' ' && c != 0x7f && c != '#' {
			t[c] |= isTarget
		}
	}
	return t
}

// all says whether every byte of s is of class c.
func all[T string | []byte](s T, c uint8) bool {
	for i := range len(s) {
		if class[s[i]]&c == 0 {
			return false
		}
	}
	return true
}

func validToken(s string) bool { return s != "" && all(s, isToken) }
func validValue(s string) bool { return all(s, isValue) }

// validTarget says whether s can be part of a request target. Bytes that RFC
// 3986 wants escaped, 8-bit ones among them, are let through as every server
// does: they cannot move the end of a message. Spaces, controls and fragments
// are not.
func validTarget[T string | []byte](s T) bool { return len(s) > 0 && all(s, isTarget) }

// canonicalName returns a field name in the form of http.CanonicalHeaderKey, and
// whether it is one. It returns s itself if that has the form, which is what most
// clients send: the string is part of the head that the values pin anyway.
func canonicalName(s string) (string, bool) {
	upper, canonical := true, true
	for i := range len(s) {
		k := class[s[i]]
		switch {
		case k&isToken == 0:
			return "", false
		case upper && k&isLower != 0, !upper && k&isUpper != 0:
			canonical = false
		}
		upper = s[i] == '-'
	}
	if canonical {
		return s, s != ""
	}
	return recase(s), true
}

// recase makes a token canonical. Names in the table cost no allocation.
func recase(s string) string {
	var a [64]byte
	b := a[:0]
	upper := true
	for i := range len(s) {
		c := s[i]
		switch {
		case upper && class[c]&isLower != 0:
			c -= 'a' - 'A'
		case !upper && class[c]&isUpper != 0:
			c += 'a' - 'A'
		}
		upper = s[i] == '-'
		b = append(b, c)
	}
	if known, ok := commonNames[string(b)]; ok {
		return known
	}
	return string(b)
}

// commonNames are the field names that are usual in requests and answers.
var commonNames = names(
	"Accept", "Accept-Charset", "Accept-Encoding", "Accept-Language",
	"Accept-Ranges", "Access-Control-Allow-Credentials",
	"Access-Control-Allow-Headers", "Access-Control-Allow-Methods",
	"Access-Control-Allow-Origin", "Access-Control-Expose-Headers",
	"Access-Control-Max-Age", "Access-Control-Request-Headers",
	"Access-Control-Request-Method", "Age", "Allow", "Alt-Svc", "Authorization",
	"Baggage", "Cache-Control", "Connection", "Content-Disposition",
	"Content-Encoding", "Content-Language", "Content-Length", "Content-Location",
	"Content-Range", "Content-Security-Policy", "Content-Type", "Cookie", "Date",
	"Dnt", "Etag", "Expect", "Expires", "Forwarded", "From", "Grpc-Status",
	"Host", "If-Match", "If-Modified-Since", "If-None-Match", "If-Range",
	"If-Unmodified-Since", "Keep-Alive", "Last-Modified", "Link", "Location",
	"Origin", "Pragma", "Priority", "Proxy-Authenticate", "Proxy-Authorization",
	"Range", "Referer", "Referrer-Policy", "Retry-After", "Sec-Ch-Ua",
	"Sec-Ch-Ua-Mobile", "Sec-Ch-Ua-Platform", "Sec-Fetch-Dest", "Sec-Fetch-Mode",
	"Sec-Fetch-Site", "Sec-Fetch-User", "Sec-Websocket-Accept",
	"Sec-Websocket-Extensions", "Sec-Websocket-Key", "Sec-Websocket-Protocol",
	"Sec-Websocket-Version", "Server", "Set-Cookie", "Strict-Transport-Security",
	"Te", "Traceparent", "Tracestate", "Trailer", "Transfer-Encoding", "Upgrade",
	"Upgrade-Insecure-Requests", "User-Agent", "Vary", "Via", "Warning",
	"Www-Authenticate", "X-B3-Parentspanid", "X-B3-Sampled", "X-B3-Spanid",
	"X-B3-Traceid", "X-Content-Type-Options", "X-Envoy-Attempt-Count",
	"X-Envoy-Expected-Rq-Timeout-Ms", "X-Envoy-Upstream-Service-Time",
	"X-Forwarded-Client-Cert", "X-Forwarded-For", "X-Forwarded-Host",
	"X-Forwarded-Proto", "X-Frame-Options", "X-Real-Ip", "X-Request-Id",
	"X-Requested-With", "X-Xss-Protection",
)

func names(ss ...string) map[string]string {
	m := make(map[string]string, len(ss))
	for _, s := range ss {
		m[http.CanonicalHeaderKey(s)] = http.CanonicalHeaderKey(s)
	}
	return m
}

// trimOWS removes optional whitespace, RFC 9110 section 5.6.3.
func trimOWS(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// equalFold compares ASCII without case: strings.EqualFold would take a Kelvin
// sign for a k.
func equalFold(s, lower string) bool {
	if len(s) != len(lower) {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if class[c]&isUpper != 0 {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// hasToken says whether one of a field's lists names a token, in lower case.
func hasToken(values []string, token string) bool {
	for _, v := range values {
		for v != "" {
			i := 0
			for i < len(v) && v[i] != ',' {
				i++
			}
			if equalFold(trimOWS(v[:i]), token) {
				return true
			}
			v = v[min(i+1, len(v)):]
		}
	}
	return false
}
