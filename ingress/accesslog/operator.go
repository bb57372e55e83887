package accesslog

import (
	"strconv"
	"unicode/utf8"

	"github.com/adit-mesh/adit/ingress/proxy"
)

// operator is a command operator with its arguments. One of its funcs is set;
// each says that the request has no such thing by "" or false.
type operator struct {
	// value may have been chosen by a stranger.
	value func(x *proxy.Exchange) string
	// number is written as such in JSON.
	number func(x *proxy.Exchange) (int64, bool)
	// plain appends what needs no escaping in text or JSON.
	plain func(b []byte, x *proxy.Exchange) ([]byte, bool)
	// limit bounds the value in bytes. 0 = not.
	limit int
}

func (o *operator) text(b []byte, x *proxy.Exchange) []byte {
	if b, ok := o.append(b, x, inText); ok {
		return b
	}
	return append(b, '-')
}

func (o *operator) inString(b []byte, x *proxy.Exchange) []byte {
	if b, ok := o.append(b, x, inJSON); ok {
		return b
	}
	return append(b, '-')
}

// member appends a whole JSON value.
func (o *operator) member(b []byte, x *proxy.Exchange) []byte {
	start := len(b)
	if o.number == nil {
		b = append(b, '"')
	}
	b, ok := o.append(b, x, inJSON)
	if !ok {
		return append(b[:start], "null"...)
	}
	if o.number == nil {
		b = append(b, '"')
	}
	return b
}

func (o *operator) append(b []byte, x *proxy.Exchange, in place) ([]byte, bool) {
	switch {
	case o.number != nil:
		n, ok := o.number(x)
		if !ok {
			return b, false
		}
		return strconv.AppendInt(b, n, 10), true
	case o.plain != nil:
		start := len(b)
		b, ok := o.plain(b, x)
		if o.limit > 0 && len(b)-start > o.limit {
			b = b[:start+o.limit]
		}
		return b, ok
	}
	v := o.value(x)
	if v == "" {
		return b, false
	}
	return appendEscaped(b, cut(v, o.limit), in), true
}

// cut shortens v to limit bytes, or less if a character would be torn.
func cut(v string, limit int) string {
	if limit <= 0 || len(v) <= limit {
		return v
	}
	for end := limit; end > limit-utf8.UTFMax && end > 0; end-- {
		if utf8.RuneStart(v[end]) {
			return v[:end]
		}
	}
	return v[:limit]
}
