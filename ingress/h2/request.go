package h2

import (
	"net/http"
	"net/url"
	"strings"
)

// request fills req from a whole block (RFC 9113 section 8.3.1). u is what req.URL
// becomes.
func (b *block) request(maxTarget int, req *http.Request, u *url.URL) *MalformedError {
	switch {
	case b.tooLarge:
		return &MalformedError{http.StatusRequestHeaderFieldsTooLarge, errHeaderTooLarge}
	case b.err != nil:
		return &MalformedError{0, b.err}
	case len(b.path) > maxTarget:
		return &MalformedError{http.StatusRequestURITooLong, errTargetTooLong}
	}
	host, err := b.host()
	if err == nil {
		err = b.target(u)
	}
	if err != nil {
		return &MalformedError{0, err}
	}
	req.Method, req.URL, req.Header, req.Host = b.method, u, b.header, host
	req.Proto, req.ProtoMajor, req.ProtoMinor = "HTTP/2.0", 2, 0
	req.RequestURI = b.path
	if b.method == http.MethodConnect {
		if b.protocol != "" {
			// As quic-go's http3 tells of extended CONNECT.
			req.Proto = b.protocol
		} else {
			req.RequestURI = b.authority
		}
	}
	if tr, ok := b.header["Trailer"]; ok {
		delete(b.header, "Trailer")
		req.Trailer = announced(tr)
	}
	return nil
}

// announced makes the keys of http.Request.Trailer. Those that may not be in a
// trailer are not announced; that they are not there is seen when it comes.
func announced(lists []string) http.Header {
	t := make(http.Header)
	for _, list := range lists {
		for name := range strings.SplitSeq(list, ",") {
			name = http.CanonicalHeaderKey(strings.Trim(name, " \t"))
			if validToken(name) && !forbiddenTrailer[name] {
				t[name] = nil
			}
		}
	}
	return t
}

// host is whom the request is for: :authority, with which Host agrees if it is
// there, or else Host.
func (b *block) host() (string, error) {
	hosts := b.header["Host"]
	if hosts != nil {
		delete(b.header, "Host")
	}
	host := b.authority
	switch {
	case len(hosts) > 1:
		return "", errHosts
	case len(hosts) == 1 && host == "":
		host = hosts[0]
	case len(hosts) == 1 && !equalFold(hosts[0], host):
		return "", errHosts
	}
	if !validHost(host) {
		return "", errAuthority
	}
	return host, nil
}

// target checks what is asked for, and fills u.
func (b *block) target(u *url.URL) error {
	connect := b.method == http.MethodConnect
	switch {
	case b.pseudos&pseudoMethod == 0:
		return errPseudoMissing
	case !validToken(b.method):
		return errMethod
	case b.pseudos&pseudoProtocol != 0 && (!connect || !validToken(b.protocol) || strings.HasPrefix(b.protocol, "HTTP/")):
		return errProtocol
	case connect && b.protocol == "":
		return b.connect(u)
	case b.pseudos&pseudoScheme == 0 || b.pseudos&pseudoPath == 0,
		connect && b.pseudos&pseudoAuthority == 0: // RFC 8441 section 4
		return errPseudoMissing
	case b.scheme != "http" && b.scheme != "https":
		return errScheme
	case b.path == "*":
		if b.method != http.MethodOptions {
			return errPath
		}
		u.Path = b.path
		return nil
	case b.path[0] != '/' || !all(b.path, isTarget):
		return errPath
	}
	if parseOrigin(b.path, u) {
		return nil
	}
	parsed, err := url.ParseRequestURI(b.path)
	if err != nil || parsed.Host != "" || parsed.Scheme != "" {
		return errPath
	}
	*u = *parsed
	return nil
}

// connect checks a CONNECT without a protocol, which has an authority with a port
// and nothing else (RFC 9113 section 8.5).
func (b *block) connect(u *url.URL) error {
	if b.pseudos&(pseudoScheme|pseudoPath) != 0 {
		return errConnectForm
	}
	i := strings.LastIndexByte(b.authority, ':')
	if i < 0 || i == len(b.authority)-1 || b.authority[i+1] == ']' {
		return errAuthority
	}
	u.Host = b.authority
	return nil
}

// parseOrigin does what url.ParseRequestURI does for a path without an escape and
// its query, at a tenth of the cost: no allocation.
func parseOrigin(target string, u *url.URL) bool {
	path, query, found := strings.Cut(target, "?")
	if !all(path, isPlainPath) || strings.HasPrefix(path, "//") {
		return false
	}
	u.Path, u.RawQuery, u.ForceQuery = path, query, found && query == ""
	return true
}
