package h1

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// RefusedError is why a server refused a request.
type RefusedError struct {
	Status int // that was answered
	Err    error
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("request refused with %d: %v", e.Status, e.Err)
}
func (e *RefusedError) Unwrap() error { return e.Err }

func refuse(status int, err error) *RefusedError { return &RefusedError{status, err} }

var (
	errRequestLine  = errors.New("invalid request line")
	errMethod       = errors.New("invalid method")
	errTarget       = errors.New("invalid request target")
	errUserinfo     = errors.New("userinfo in the request target")
	errTargetLong   = errors.New("request target too long")
	errVersion      = errors.New("unsupported HTTP version")
	errNoHost       = errors.New("no Host in HTTP/1.1")
	errHosts        = errors.New("several Host")
	errHost         = errors.New("invalid Host")
	errExpect       = errors.New("unknown expectation")
	errConnect      = errors.New("CONNECT is not served here")
	errPreface      = errors.New("HTTP/2 is not served here")
	errBodyTooLarge = errors.New("request body too large")
)

// requestHead is what a request says besides its fields.
type requestHead struct {
	method, target string
	http11         bool
	length         int64 // as messageLength, 0 instead of lengthUnknown
	expect         bool  // 100-continue
	close          bool  // the connection ends with this request
	oldKeepAlive   bool  // HTTP/1.0 that asks to keep the connection
}

// preface is the head that HTTP/2 begins with (RFC 9113 section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\n"

// parseRequestLine splits a request line: exactly one space between the parts.
func parseRequestLine(line string, maxTarget int) (head requestHead, err *RefusedError) {
	method, rest, ok := strings.Cut(line, " ")
	if !ok {
		return head, refuse(http.StatusBadRequest, errRequestLine)
	}
	i := strings.LastIndexByte(rest, ' ')
	if i < 0 {
		return head, refuse(http.StatusBadRequest, errRequestLine) // HTTP/0.9 among them
	}
	target, version := rest[:i], rest[i+1:]
	switch {
	case !validToken(method):
		return head, refuse(http.StatusBadRequest, errMethod)
	case len(target) > maxTarget:
		return head, refuse(http.StatusRequestURITooLong, errTargetLong)
	case !validTarget(target):
		return head, refuse(http.StatusBadRequest, errTarget)
	}
	head.method, head.target = method, target
	switch version {
	case "HTTP/1.1":
		head.http11 = true
	case "HTTP/1.0":
	default:
		if len(version) == len("HTTP/1.1") && version[:5] == "HTTP/" && version[6] == '.' &&
			isDigit(version[5]) && isDigit(version[7]) {
			return head, refuse(http.StatusHTTPVersionNotSupported, errVersion)
		}
		return head, refuse(http.StatusBadRequest, errRequestLine)
	}
	return head, nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// proxyFields is how many fields a proxy adds to a request: to make a larger map of
// the one they are added to costs as much as parsing the request.
const proxyFields = 12

// parseRequest fills req from a whole head of n lines, the request line counted.
// u is what req.URL becomes.
func parseRequest(s string, n, maxTarget int, req *http.Request, u *url.URL) (head requestHead, err *RefusedError) {
	line, s := cutLine(s)
	if head, err = parseRequestLine(line, maxTarget); err != nil {
		return head, err
	}
	h, ferr := parseFields(s, n-1, proxyFields)
	if ferr != nil {
		return head, refuse(http.StatusBadRequest, ferr)
	}
	if err := head.fields(h); err != nil {
		return head, err
	}
	hosts := h["Host"]
	switch {
	case len(hosts) > 1:
		return head, refuse(http.StatusBadRequest, errHosts)
	case len(hosts) == 0 && head.http11:
		return head, refuse(http.StatusBadRequest, errNoHost)
	case len(hosts) == 1 && !validHost(hosts[0]) && (head.http11 || hosts[0] != ""):
		return head, refuse(http.StatusBadRequest, errHost)
	case len(hosts) == 1:
		req.Host = hosts[0]
		delete(h, "Host")
	}
	if err := parseTarget(head.method, head.target, u); err != nil {
		return head, err
	}
	if u.Host != "" {
		// The target's authority wins, RFC 9112 section 3.2.2.
		req.Host = u.Host
	}
	if te := h["Transfer-Encoding"]; te != nil {
		delete(h, "Transfer-Encoding")
		te[0] = "chunked"
		req.TransferEncoding = te
	}
	if tr, ok := h["Trailer"]; ok {
		delete(h, "Trailer")
		if head.length == lengthChunked {
			if req.Trailer, ferr = announced(tr); ferr != nil {
				return head, refuse(http.StatusBadRequest, ferr)
			}
		}
	}
	req.Method, req.RequestURI, req.URL, req.Header = head.method, head.target, u, h
	req.ProtoMajor, req.ProtoMinor, req.Proto = 1, 0, "HTTP/1.0"
	if head.http11 {
		req.ProtoMinor, req.Proto = 1, "HTTP/1.1"
	}
	req.ContentLength, req.Close = head.length, head.close
	return head, nil
}

// fields reads the fields that frame the message and rule the connection.
func (head *requestHead) fields(h http.Header) *RefusedError {
	var err error
	switch head.length, err = messageLength(h, head.http11); err {
	case nil:
	case errCodingUnknown:
		return refuse(http.StatusNotImplemented, err)
	default:
		return refuse(http.StatusBadRequest, err)
	}
	if head.length == lengthUnknown {
		head.length = 0
	}
	if v := h["Expect"]; v != nil && head.http11 {
		if len(v) != 1 || !equalFold(v[0], "100-continue") {
			return refuse(http.StatusExpectationFailed, errExpect)
		}
		head.expect = head.length != 0
	}
	connection := h["Connection"]
	head.close = !head.http11
	if connection != nil {
		head.close = hasToken(connection, "close")
		if !head.http11 {
			head.oldKeepAlive = !head.close && hasToken(connection, "keep-alive")
			head.close = !head.oldKeepAlive
		}
	}
	return nil
}

// announced makes the keys of http.Request.Trailer. Who announces that the framing
// is told afterwards is refused; other fields that may not be in a trailer are left
// out, and refused if they come.
func announced(lists []string) (http.Header, error) {
	t := make(http.Header)
	for _, list := range lists {
		for name := range strings.SplitSeq(list, ",") {
			name, ok := canonicalName(trimOWS(name))
			switch {
			case name == "Content-Length", name == "Transfer-Encoding", name == "Trailer":
				return nil, errTrailerField
			case ok && !forbiddenTrailer[name]:
				t[name] = nil
			}
		}
	}
	return t, nil
}

// parseTarget parses a request target, in one of its four forms (RFC 9112
// section 3.2).
func parseTarget(method, target string, u *url.URL) *RefusedError {
	bad := func(err error) *RefusedError { return refuse(http.StatusBadRequest, err) }
	switch {
	case method == http.MethodConnect:
		// authority-form, with a port
		i := strings.LastIndexByte(target, ':')
		if i < 0 || i == len(target)-1 || !validHost(target) {
			return bad(errTarget)
		}
		u.Host = target
		return nil
	case target == "*":
		if method != http.MethodOptions {
			return bad(errTarget)
		}
		u.Path = target
		return nil
	case target[0] == '/':
		if parseOrigin(target, u) {
			return nil
		}
		parsed, err := url.ParseRequestURI(target)
		if err != nil {
			return bad(errTarget)
		}
		*u = *parsed
		return nil
	}
	parsed, err := url.ParseRequestURI(target)
	if err != nil || parsed.Scheme != "http" && parsed.Scheme != "https" || parsed.Opaque != "" {
		return bad(errTarget)
	}
	if parsed.User != nil {
		return bad(errUserinfo)
	}
	if !validHost(parsed.Host) {
		return bad(errTarget)
	}
	*u = *parsed
	return nil
}

// parseOrigin does what url.ParseRequestURI does for a path without an escape and
// its query, at a tenth of the cost: no allocation.
func parseOrigin(target string, u *url.URL) bool {
	path, query, found := strings.Cut(target, "?")
	if !all(path, isPlainPath) {
		return false
	}
	u.Path, u.RawQuery, u.ForceQuery = path, query, found && query == ""
	return true
}

// validHost says whether s is uri-host [ ":" port ] (RFC 9110 section 7.2) of an
// http URI: not empty, without userinfo.
func validHost(s string) bool {
	host, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i >= 0 && (s[0] != '[' || s[i-1] == ']') {
		host, port = s[:i], s[i+1:]
	}
	if len(port) > 5 {
		return false
	}
	for i := range len(port) {
		if !isDigit(port[i]) {
			return false
		}
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
