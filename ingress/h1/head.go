package h1

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
)

// What is wrong with a message, whoever sent it. A [RefusedError] or a
// [ProtocolError] carries it.
var (
	errBareLF       = errors.New("a line ends in LF without CR")
	errLineTooLong  = errors.New("line too long")
	errFold         = errors.New("a header line begins with whitespace: obsolete line folding")
	errNoColon      = errors.New("a header line has no colon")
	errName         = errors.New("invalid header name")
	errValue        = errors.New("control character in a header value")
	errTooMany      = errors.New("too many header fields")
	errHeadTooLarge = errors.New("header too large")
)

// headScan looks for the end of a head, or of a trailer section, and counts its
// lines, wherever reads cut it.
type headScan struct {
	pos, start int // bytes looked at; where the line begins
	lines      int // complete ones, the empty one not counted
}

// scan returns the length of the head in b, with the empty line; 0 if b has not
// all of it.
func (s *headScan) scan(b []byte) (int, error) {
	for {
		i := bytes.IndexByte(b[s.pos:], '\n')
		if i < 0 {
			s.pos = len(b)
			return 0, nil
		}
		end := s.pos + i
		if end == s.start || b[end-1] != '\r' {
			return 0, errBareLF
		}
		empty := end == s.start+1
		s.pos, s.start = end+1, end+1
		if empty {
			return end + 1, nil
		}
		s.lines++
	}
}

// cutLine returns the first line of s without its CRLF, and what follows.
func cutLine(s string) (line, rest string) {
	i := strings.IndexByte(s, '\n')
	return s[:i-1], s[i+1:]
}

// parseField splits a header line.
func parseField(line string) (name, value string, err error) {
	if line[0] == ' ' || line[0] == '\t' {
		return "", "", errFold
	}
	i := strings.IndexByte(line, ':')
	if i < 0 {
		return "", "", errNoColon
	}
	name, ok := canonicalName(line[:i])
	if !ok {
		return "", "", errName // whitespace before the colon among them
	}
	value = trimOWS(line[i+1:])
	if !validValue(value) {
		return "", "", errValue // a bare CR among them
	}
	return name, value, nil
}

// parseFields parses n header lines, up to the empty one, which ends s. The
// values of a field keep their order, and share one array: strings and array are
// all that a head costs, besides the map, which has room for as many more.
func parseFields(s string, n, more int) (http.Header, error) {
	h := make(http.Header, n+more)
	values := make([]string, n)
	for range n {
		var line string
		line, s = cutLine(s)
		name, value, err := parseField(line)
		if err != nil {
			return nil, err
		}
		if vv, ok := h[name]; ok {
			h[name] = append(vv, value)
			continue
		}
		values[0] = value
		h[name], values = values[:1:1], values[1:]
	}
	return h, nil
}
