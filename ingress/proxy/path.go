package proxy

import (
	"net/url"
	"strings"
)

// replaced returns the escaped path that p makes of an escaped path that was
// matched by prefix. Replacing a prefix works on whole segments, and a slash at the
// end of prefix or replacement does not count (HTTPPathModifier of Gateway API
// shows the table).
func (p Path) replaced(path, prefix string) string {
	switch {
	case p.Full != "":
		return rooted(p.Full)
	case p.Prefix == nil:
		return path
	}
	prefix = strings.TrimSuffix(prefix, "/")
	rest, ok := strings.CutPrefix(path, prefix)
	if !ok || rest != "" && rest[0] != '/' {
		return path
	}
	if rest == "" {
		return rooted(*p.Prefix)
	}
	return rooted(strings.TrimSuffix(*p.Prefix, "/") + rest)
}

func (p Path) isZero() bool { return p.Full == "" && p.Prefix == nil }

func rooted(path string) string {
	if path == "" || path[0] != '/' {
		return "/" + path
	}
	return path
}

// setPath gives u an escaped path, so that u.EscapedPath returns exactly it
// whenever it is a valid one.
func setPath(u *url.URL, escaped string) {
	plain, err := url.PathUnescape(escaped)
	if err != nil {
		// Not an escaped path at all: somebody configured a lone per cent sign.
		u.Path, u.RawPath = escaped, ""
		return
	}
	u.Path, u.RawPath = plain, escaped
}
