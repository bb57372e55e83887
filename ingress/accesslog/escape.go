package accesslog

import (
	"unicode"
	"unicode/utf8"
)

// place is what a value stands in.
type place uint8

const (
	inText place = iota
	inJSON
)

// appendEscaped appends what a stranger sent so that it ends neither line nor
// quotes, and does nothing to a terminal: control and formatting characters (those
// that turn the direction of writing included), line separators and bytes that are
// no UTF-8 are escaped.
func appendEscaped(b []byte, s string, in place) []byte {
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' && c != 0x7f {
				i++
				continue
			}
			b = appendASCII(append(b, s[from:i]...), c, in)
			i++
			from = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			b = append(b, s[from:i]...)
			if in == inJSON {
				b = append(b, `\ufffd`...) // JSON has no way to tell of a byte
			} else {
				b = appendHex(append(b, `\x`...), uint32(c), 2)
			}
			from = i + size
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp):
			b = appendRune(append(b, s[from:i]...), r)
			from = i + size
		}
		i += size
	}
	return append(b, s[from:]...)
}

func appendASCII(b []byte, c byte, in place) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\n':
		return append(b, `\n`...)
	case '\r':
		return append(b, `\r`...)
	case '\t':
		return append(b, `\t`...)
	}
	if in == inJSON {
		return appendHex(append(b, `\u`...), uint32(c), 4)
	}
	return appendHex(append(b, `\x`...), uint32(c), 2)
}

// appendRune escapes as JSON does: beyond four digits by surrogates.
func appendRune(b []byte, r rune) []byte {
	if r > 0xffff {
		r -= 0x10000
		b = appendHex(append(b, `\u`...), uint32(0xd800+r>>10), 4)
		r = 0xdc00 + r&0x3ff
	}
	return appendHex(append(b, `\u`...), uint32(r), 4)
}

func appendHex(b []byte, v uint32, digits int) []byte {
	for d := digits - 1; d >= 0; d-- {
		b = append(b, "0123456789abcdef"[v>>(4*d)&15])
	}
	return b
}
