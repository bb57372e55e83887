package h1

import (
	"net/http"
	"strconv"
)

// bodyLength is the length of a request's body, -1 if it is not known.
func bodyLength(req *http.Request) int64 {
	switch {
	case req.Body == nil || req.Body == http.NoBody:
		return 0
	case req.ContentLength > 0:
		return req.ContentLength
	}
	return -1
}

func waitsForContinue(req *http.Request) bool {
	v := req.Header["Expect"]
	return len(v) == 1 && equalFold(v[0], "100-continue")
}

// appendRequestTrailer ends a chunked body.
func appendRequestTrailer(b []byte, trailer http.Header) ([]byte, error) {
	b = append(b, "0\r\n"...)
	for name, values := range trailer {
		if forbiddenTrailer[name] {
			continue
		}
		for _, v := range values {
			if !validToken(name) || !validValue(v) {
				return nil, errTrailerWrite
			}
			b = appendField(b, name, v)
		}
	}
	return append(b, "\r\n"...), nil
}

// appendRequest appends the head of a request.
func appendRequest(b []byte, req *http.Request, length int64) ([]byte, error) {
	host := req.Host
	if host == "" {
		host = req.URL.Host
	}
	switch {
	case req.Method == http.MethodConnect:
		return nil, &RequestError{errConnectMethod}
	case req.Method != "" && !validToken(req.Method):
		return nil, &RequestError{errMethod}
	case host != "" && !validHost(host):
		return nil, &RequestError{errHost}
	case req.Method == "":
		b = append(b, http.MethodGet...)
	default:
		b = append(b, req.Method...)
	}
	b = append(b, ' ')
	at := len(b)
	b = appendTarget(b, req)
	if !validTarget(b[at:]) {
		return nil, &RequestError{errTarget}
	}
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, host...)
	b = append(b, "\r\n"...)
	for name, values := range req.Header {
		switch name {
		case "Host", "Content-Length", "Transfer-Encoding", "Trailer":
			continue
		}
		for _, v := range values {
			if !validToken(name) {
				return nil, &RequestError{errName}
			}
			if !validValue(v) {
				return nil, &RequestError{errValue}
			}
			b = append(b, name...)
			b = append(b, ": "...)
			b = append(b, v...)
			b = append(b, "\r\n"...)
		}
	}
	if req.Close && !hasToken(req.Header["Connection"], "close") {
		b = append(b, "Connection: close\r\n"...)
	}
	switch {
	case length > 0:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, length, 10)
		b = append(b, "\r\n"...)
	case length < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		b = appendTrailerNames(b, req.Trailer)
	case req.Method == http.MethodPost, req.Method == http.MethodPut, req.Method == http.MethodPatch:
		b = append(b, "Content-Length: 0\r\n"...)
	}
	return append(b, "\r\n"...), nil
}

// appendTarget appends what url.URL.RequestURI returns.
func appendTarget(b []byte, req *http.Request) []byte {
	u := req.URL
	if u.Opaque != "" || u.Path == "" {
		return append(b, u.RequestURI()...)
	}
	b = append(b, u.EscapedPath()...)
	if u.ForceQuery || u.RawQuery != "" {
		b = append(b, '?')
		b = append(b, u.RawQuery...)
	}
	return b
}

// appendTrailerNames announces the trailer.
func appendTrailerNames(b []byte, trailer http.Header) []byte {
	sep := "Trailer: "
	for name := range trailer {
		if validToken(name) && !forbiddenTrailer[name] {
			b = append(b, sep...)
			b = append(b, name...)
			sep = ", "
		}
	}
	if sep == ", " {
		b = append(b, "\r\n"...)
	}
	return b
}
