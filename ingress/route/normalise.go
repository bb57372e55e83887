package route

import "strings"

// Normalise writes an escaped path in the one way that routes are compared with,
// and that is sent to backends, so that no two readers of a path disagree on what
// it names. false means that the request has to be refused as 400.
//
//   - Dot segments are removed (RFC 3986 section 5.2.4), however their dots are
//     written. What leads above the root stays there.
//   - Escapes are upper case, and those of unreserved characters are resolved
//     (section 6.2.2); what may not stand in a path is escaped. Nothing else is
//     unescaped: %2F is never a slash, and %252E is not a dot.
//   - Slashes are not merged: "/a//b" is not "/a/b". Gateway API does not ask for
//     it, and to a backend they may differ.
//
// Refused are control characters, spaces, "\", "?" and "#" as they are, escapes
// that are none, and %00. So is "." or ".." beside %2F, %5C or ";", as in
// "/public/..%2Fadmin" and "/public/..;/admin": some backends resolve these, out
// of the prefix that a route confines them to.
//
// It does not allocate if there is nothing to change. An empty path is "/"; one
// that does not begin with a slash is refused, "*" of OPTIONS included.
func Normalise(escaped string) (string, bool) {
	if escaped == "" {
		return "/", true
	}
	if escaped[0] != '/' {
		return "", false
	}
	p, ok := canonicalEscapes(escaped)
	if !ok {
		return "", false
	}
	if strings.IndexByte(p, '.') < 0 {
		return p, true
	}
	dots := false
	for rest := p[1:]; ; {
		seg, after, more := strings.Cut(rest, "/")
		switch {
		case isDots(seg):
			dots = true
		case disguised(seg):
			return "", false
		}
		if !more {
			break
		}
		rest = after
	}
	if dots {
		p = removeDots(p)
	}
	return p, true
}

func isDots(s string) bool { return s == "." || s == ".." }

// disguised says that a segment has a dot segment in it for readers who take %2F
// or %5C for a slash, or cut parameters off.
func disguised(seg string) bool {
	if strings.IndexByte(seg, '.') < 0 || !strings.ContainsAny(seg, "%;") {
		return false
	}
	for start := 0; start <= len(seg); {
		end := len(seg)
		next := end + 1
		for i := start; i+2 < len(seg); i++ {
			if e := seg[i : i+3]; e == "%2F" || e == "%5C" {
				end, next = i, i+3
				break
			}
		}
		name, _, _ := strings.Cut(seg[start:end], ";")
		if isDots(name) {
			return true
		}
		start = next
	}
	return false
}

// removeDots is RFC 3986 section 5.2.4 for a path that begins with a slash.
func removeDots(p string) string {
	out := make([]byte, 0, len(p))
	for rest := p[1:]; ; {
		seg, after, more := strings.Cut(rest, "/")
		switch seg {
		case "..":
			for i := len(out) - 1; i >= 0; i-- {
				if out[i] == '/' {
					out = out[:i]
					break
				}
			}
		case ".":
		default:
			out = append(append(out, '/'), seg...)
		}
		if !more {
			if isDots(seg) {
				out = append(out, '/')
			}
			return string(out)
		}
		rest = after
	}
}

// What a byte of a path is.
const (
	refused byte = iota
	foreign      // may not stand in a path (RFC 3986 section 3.3), and is escaped
	reserved
	unreserved
)

var classes = func() (c [256]byte) {
	for b := range c {
		switch {
		case b > 0x7f:
			c[b] = foreign
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9':
			c[b] = unreserved
		}
	}
	for _, b := range []byte("-._~") {
		c[b] = unreserved
	}
	for _, b := range []byte("/!$&'()*+,;=:@%") {
		c[b] = reserved
	}
	for _, b := range []byte("\"<>^`{|}[]") {
		c[b] = foreign
	}
	return c
}()

// canonicalEscapes writes each character in one way.
func canonicalEscapes(p string) (string, bool) {
	i := 0
	for ; i < len(p); i++ {
		if b := p[i]; b == '%' {
			if i+2 >= len(p) || !canonicalEscape(p[i+1], p[i+2]) {
				break
			}
			i += 2
		} else if classes[b] < reserved {
			break
		}
	}
	if i == len(p) {
		return p, true
	}
	const hex = "0123456789ABCDEF"
	out := append(make([]byte, 0, len(p)+8), p[:i]...)
	for ; i < len(p); i++ {
		b := p[i]
		if b == '%' {
			if i+2 >= len(p) {
				return "", false
			}
			hi, lo := unhex(p[i+1]), unhex(p[i+2])
			if hi > 15 || lo > 15 {
				return "", false
			}
			b = hi<<4 | lo
			if b == 0 {
				return "", false
			}
			i += 2
			if classes[b] == unreserved {
				out = append(out, b)
			} else {
				out = append(out, '%', hex[hi], hex[lo])
			}
			continue
		}
		switch classes[b] {
		case refused:
			return "", false
		case foreign:
			out = append(out, '%', hex[b>>4], hex[b&15])
		default:
			out = append(out, b)
		}
	}
	return string(out), true
}

func canonicalEscape(hi, lo byte) bool {
	upper := func(b byte) bool { return '0' <= b && b <= '9' || 'A' <= b && b <= 'F' }
	b := unhex(hi)<<4 | unhex(lo)
	return upper(hi) && upper(lo) && b != 0 && classes[b] != unreserved
}

func unhex(b byte) byte {
	switch {
	case '0' <= b && b <= '9':
		return b - '0'
	case 'a' <= b && b <= 'f':
		return b - 'a' + 10
	case 'A' <= b && b <= 'F':
		return b - 'A' + 10
	}
	return 255
}
