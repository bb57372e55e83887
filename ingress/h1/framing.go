package h1

import (
	"errors"
	"net/http"
)

var (
	errContentLength  = errors.New("invalid Content-Length")
	errLengths        = errors.New("several Content-Length")
	errBothLengths    = errors.New("both Content-Length and Transfer-Encoding")
	errCodings        = errors.New("several Transfer-Encoding")
	errCodingUnknown  = errors.New("unsupported Transfer-Encoding")
	errCodingNotFinal = errors.New("Transfer-Encoding that does not end in chunked")
	errCodingOld      = errors.New("Transfer-Encoding in HTTP/1.0")
)

// messageLength says how long a body is by its header: a length, -1 if it is
// chunked, -2 if the header does not say. RFC 9112 section 6.3; where it lets a
// recipient choose between repair and refusal, this refuses. Two equal
// Content-Length are refused too.
func messageLength(h http.Header, http11 bool) (int64, error) {
	cl, te := h["Content-Length"], h["Transfer-Encoding"]
	if te != nil {
		switch {
		case cl != nil:
			return 0, errBothLengths
		case !http11:
			return 0, errCodingOld
		case len(te) > 1:
			return 0, errCodings
		case equalFold(te[0], "chunked"):
			return lengthChunked, nil
		case hasToken(lastOf(te[0]), "chunked"):
			return 0, errCodingUnknown
		}
		return 0, errCodingNotFinal
	}
	if cl == nil {
		return lengthUnknown, nil
	}
	if len(cl) > 1 {
		return 0, errLengths
	}
	return parseLength(cl[0])
}

const (
	lengthChunked = -1
	lengthUnknown = -2
)

// lastOf is the last element of a list.
func lastOf(s string) []string {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == ',' {
			return []string{s[i+1:]}
		}
	}
	return []string{s}
}

// parseLength parses 1*DIGIT.
func parseLength(s string) (int64, error) {
	if s == "" || len(s) > 18 { // of which none overflows
		return 0, errContentLength
	}
	var n int64
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, errContentLength
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, nil
}

// forbiddenTrailer are fields that may not come behind a body: what frames or
// routes a message has been acted on by then (RFC 9110 section 6.5.1).
var forbiddenTrailer = map[string]bool{
	"Authorization": true, "Cache-Control": true, "Connection": true,
	"Content-Encoding": true, "Content-Length": true, "Content-Range": true,
	"Content-Type": true, "Cookie": true, "Expect": true, "Host": true,
	"Keep-Alive": true, "Max-Forwards": true, "Pragma": true,
	"Proxy-Authenticate": true, "Proxy-Authorization": true,
	"Proxy-Connection": true, "Range": true, "Realm": true, "Set-Cookie": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
	"Www-Authenticate": true,
}
