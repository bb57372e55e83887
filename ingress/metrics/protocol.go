package metrics

import "strings"

// protocol is a version of HTTP.
type protocol uint8

const (
	unknown protocol = iota
	h1
	h2
	h3
)

func protocolOf(proto string) protocol {
	switch {
	case strings.HasPrefix(proto, "HTTP/1."):
		return h1
	case strings.HasPrefix(proto, "HTTP/2"):
		return h2
	case strings.HasPrefix(proto, "HTTP/3"):
		return h3
	}
	return unknown
}

func (p protocol) String() string { return [...]string{"other", "h1", "h2", "h3"}[p] }

// codeOf is 0 for a request that ended without an answer, and for what is no
// status code.
func codeOf(status int) uint16 {
	if status < 100 || status > 999 {
		return 0
	}
	return uint16(status)
}
