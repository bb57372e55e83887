package h2

import (
	"net/http"
	"strings"
)

// The classes of bytes that the grammars of RFC 9110 and RFC 3986 tell apart.
const (
	isToken     uint8 = 1 << iota // tchar, RFC 9110 section 5.6.2
	isName                        // tchar in lower case
	isValue                       // of field values: HTAB, SP, VCHAR, obs-text
	isTarget                      // of :path
	isHost                        // of reg-name: RFC 3986 section 3.2.2
	isPlainPath                   // what url.URL keeps in Path alone, unescaped
	isHex
	isDigit
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
	mark(lower, isToken|isName|isHost|isPlainPath)
	mark(upper, isToken|isHost|isPlainPath)
	mark(digit, isToken|isName|isHost|isPlainPath|isHex|isDigit)
	mark("abcdefABCDEF", isHex)
	mark("!#$%&'*+-.^_`|~", isToken|isName)
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
func all(s string, c uint8) bool {
	for i := range len(s) {
		if class[s[i]]&c == 0 {
			return false
		}
	}
	return true
}

// validValue says whether s is a field value: RFC 9113 section 8.2.1 forbids
// whitespace around it, and RFC 9110 section 5.5 control characters in it.
func validValue(s string) bool {
	return s == "" || all(s, isValue) && s[0] > ' ' && s[len(s)-1] > ' '
}

func validToken(s string) bool { return s != "" && all(s, isToken) }

// validHost says whether s is uri-host [ ":" port ] (RFC 9110 section 7.2): not
// empty, without userinfo.
func validHost(s string) bool {
	host, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i >= 0 && (s[0] != '[' || s[i-1] == ']') {
		host, port = s[:i], s[i+1:]
	}
	if len(port) > 5 || !all(port, isDigit) {
		return false
	}
	if len(host) > 2 && host[0] == '[' && host[len(host)-1] == ']' {
		host = host[1 : len(host)-1]
		for i := range len(host) {
			if c := host[i]; class[c]&isHex == 0 && c != ':' && c != '.' {
				return false // an IPvFuture among them, and a zone
			}
		}
		return true
	}
	return host != "" && all(host, isHost)
}

// equalFold compares ASCII without case: strings.EqualFold would take a Kelvin
// sign for a k.
func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		x, y := a[i], b[i]
		if x != y && (x|0x20 != y|0x20 || x|0x20 < 'a' || x|0x20 > 'z') {
			return false
		}
	}
	return true
}

// knownNames are the field names that are usual in requests and answers, from the
// form on the wire to that of http.CanonicalHeaderKey, and back.
var knownNames, knownFields = func() (map[string]string, map[string]fieldName) {
	names := []string{
		"Accept", "Accept-Charset", "Accept-Encoding", "Accept-Language",
		"Accept-Ranges", "Access-Control-Allow-Credentials",
		"Access-Control-Allow-Headers", "Access-Control-Allow-Methods",
		"Access-Control-Allow-Origin", "Access-Control-Expose-Headers",
		"Access-Control-Max-Age", "Access-Control-Request-Headers",
		"Access-Control-Request-Method", "Age", "Allow", "Alt-Svc", "Authorization",
		"Baggage", "Cache-Control", "Content-Disposition", "Content-Encoding",
		"Content-Language", "Content-Length", "Content-Location", "Content-Range",
		"Content-Security-Policy", "Content-Type", "Cookie", "Date", "Dnt", "Etag",
		"Expect", "Expires", "Forwarded", "From", "Grpc-Accept-Encoding",
		"Grpc-Encoding", "Grpc-Message", "Grpc-Status", "Grpc-Status-Details-Bin",
		"Grpc-Timeout", "Host", "If-Match", "If-Modified-Since", "If-None-Match",
		"If-Range", "If-Unmodified-Since", "Last-Modified", "Link", "Location",
		"Max-Forwards", "Origin", "Pragma", "Priority", "Proxy-Authenticate",
		"Proxy-Authorization", "Range", "Referer", "Referrer-Policy", "Retry-After",
		"Sec-Ch-Ua", "Sec-Ch-Ua-Mobile", "Sec-Ch-Ua-Platform", "Sec-Fetch-Dest",
		"Sec-Fetch-Mode", "Sec-Fetch-Site", "Sec-Fetch-User",
		"Sec-Websocket-Extensions", "Sec-Websocket-Protocol",
		"Sec-Websocket-Version", "Server", "Server-Timing", "Set-Cookie",
		"Strict-Transport-Security", "Te", "Traceparent", "Tracestate", "Trailer",
		"Upgrade-Insecure-Requests", "User-Agent", "Vary", "Via", "Warning",
		"Www-Authenticate", "X-B3-Parentspanid", "X-B3-Sampled", "X-B3-Spanid",
		"X-B3-Traceid", "X-Content-Type-Options", "X-Envoy-Attempt-Count",
		"X-Envoy-Expected-Rq-Timeout-Ms", "X-Envoy-Upstream-Service-Time",
		"X-Forwarded-Client-Cert", "X-Forwarded-For", "X-Forwarded-Host",
		"X-Forwarded-Proto", "X-Frame-Options", "X-Real-Ip", "X-Request-Id",
		"X-Requested-With", "X-Xss-Protection",
	}
	canonical, fields := make(map[string]string, len(names)), make(map[string]fieldName, len(names)+8)
	for _, n := range names {
		n = http.CanonicalHeaderKey(n)
		lower := strings.ToLower(n)
		canonical[lower] = n
		fields[n] = fieldName{lower: lower, index: staticNames[lower], how: indexing(lower)}
	}
	for _, n := range []string{"Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade"} {
		fields[n] = fieldName{how: neverSent}
	}
	return canonical, fields
}()
