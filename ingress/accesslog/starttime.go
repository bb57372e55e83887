package accesslog

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/adit-mesh/adit/ingress/proxy"
)

// iso is the default of %START_TIME%.
const iso = "2006-01-02T15:04:05.000Z"

// startTime compiles %START_TIME% and %START_TIME(FORMAT)%, in UTC. FORMAT is that
// of strftime(3), with %f for fractions of a second: %3f are three digits, %f nine.
func startTime(name string, arg argument) (*operator, error) {
	if arg.text == "" {
		return &operator{plain: func(b []byte, x *proxy.Exchange) ([]byte, bool) {
			if x.Start.IsZero() {
				return b, false
			}
			return x.Start.UTC().AppendFormat(b, iso), true
		}}, nil
	}
	parts, err := strftime(arg.text)
	if err != nil {
		return nil, fmt.Errorf("%%%s(%s)%%: %w", name, short(arg.text), err)
	}
	// A stranger has no say in it, but the operator may have put quotes there.
	return &operator{value: func(x *proxy.Exchange) string {
		if x.Start.IsZero() {
			return ""
		}
		var buf [64]byte
		b, t := buf[:0], x.Start.UTC()
		for _, p := range parts {
			b = p(b, t)
		}
		return string(b)
	}}, nil
}

// layouts are the conversions that package time has a layout for.
var layouts = map[byte]string{
	'a': "Mon", 'A': "Monday", 'b': "Jan", 'B': "January", 'c': "Mon Jan _2 15:04:05 2006",
	'd': "02", 'D': "01/02/06", 'e': "_2", 'F': "2006-01-02", 'h': "Jan", 'H': "15", 'I': "03",
	'j': "002", 'm': "01", 'M': "04", 'p': "PM", 'r': "03:04:05 PM", 'R': "15:04", 'S': "05",
	'T': "15:04:05", 'x': "01/02/06", 'X': "15:04:05", 'y': "06", 'Y': "2006", 'z': "-0700", 'Z': "MST",
}

func strftime(format string) (parts []func([]byte, time.Time) []byte, err error) {
	layout := func(l string) {
		parts = append(parts, func(b []byte, t time.Time) []byte { return t.AppendFormat(b, l) })
	}
	literal := func(s string) {
		if s != "" {
			parts = append(parts, func(b []byte, _ time.Time) []byte { return append(b, s...) })
		}
	}
	for rest := format; rest != ""; {
		before, after, found := strings.Cut(rest, "%")
		literal(before)
		if !found {
			break
		}
		if after == "" {
			return nil, fmt.Errorf("the time format ends in a percent sign")
		}
		c := after[0]
		rest = after[1:]
		switch {
		case c == '%':
			literal("%")
		case c == 'n', c == 't':
			literal(" ") // a line stays one
		case c == 's':
			parts = append(parts, func(b []byte, t time.Time) []byte { return strconv.AppendInt(b, t.Unix(), 10) })
		case c == 'f':
			parts = append(parts, fraction(9))
		case '1' <= c && c <= '9' && strings.HasPrefix(rest, "f"):
			parts = append(parts, fraction(int(c-'0')))
			rest = rest[1:]
		default:
			l, ok := layouts[c]
			if !ok {
				return nil, fmt.Errorf("%%%c is no conversion for times; there are %%Y %%m %%d %%H %%M %%S %%3f %%z %%s and others of strftime(3)", c)
			}
			layout(l)
		}
	}
	return parts, nil
}

func fraction(digits int) func([]byte, time.Time) []byte {
	return func(b []byte, t time.Time) []byte {
		v, unit := t.Nanosecond(), 100_000_000
		for range digits {
			b = append(b, byte('0'+v/unit%10))
			unit /= 10
		}
		return b
	}
}
