package accesslog

import (
	"fmt"
	"strings"

	"github.com/adit-mesh/adit/ingress/proxy"
)

// DefaultText is Envoy's default format.
const DefaultText = `[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" ` +
	`%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ` +
	`%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" ` +
	`"%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%"`

// DefaultJSON returns the members of the default object, named as Envoy Gateway
// names them.
func DefaultJSON() []Field {
	return []Field{
		{"start_time", "%START_TIME%"},
		{"method", "%REQ(:METHOD)%"},
		{"x-envoy-origin-path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"},
		{"protocol", "%PROTOCOL%"},
		{"response_code", "%RESPONSE_CODE%"},
		{"response_flags", "%RESPONSE_FLAGS%"},
		{"response_code_details", "%RESPONSE_CODE_DETAILS%"},
		{"bytes_received", "%BYTES_RECEIVED%"},
		{"bytes_sent", "%BYTES_SENT%"},
		{"duration", "%DURATION%"},
		{"x-envoy-upstream-service-time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"},
		{"x-forwarded-for", "%REQ(X-FORWARDED-FOR)%"},
		{"user-agent", "%REQ(USER-AGENT)%"},
		{"x-request-id", "%REQ(X-REQUEST-ID)%"},
		{":authority", "%REQ(:AUTHORITY)%"},
		{"upstream_host", "%UPSTREAM_HOST%"},
		{"upstream_cluster", "%UPSTREAM_CLUSTER%"},
		{"downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"},
		{"downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"},
		{"requested_server_name", "%REQUESTED_SERVER_NAME%"},
		{"route_name", "%ROUTE_NAME%"},
	}
}

// Field is a member of a JSON object: its name, and its value as a format string.
type Field struct{ Name, Format string }

// Format writes lines. It is immutable.
type Format struct{ parts []part }

// part appends one piece of a line.
type part func(b []byte, x *proxy.Exchange) []byte

// Append appends the line of x, with a newline at its end. It keeps nothing of x.
//
// A line is one line, whatever the client sent: control characters are escaped,
// and so are quotes and backslashes.
func (f *Format) Append(b []byte, x *proxy.Exchange) []byte {
	for _, p := range f.parts {
		b = p(b, x)
	}
	return append(b, '\n')
}

// Text compiles a format for lines of text. What a request does not have is "-".
// "%%" is a percent sign. An error says where, and what there is instead.
func Text(format string) (*Format, error) {
	pieces, err := parse(strings.TrimSuffix(format, "\n"))
	if err != nil {
		return nil, fmt.Errorf("access log: %w", err)
	}
	return &Format{parts: textParts(pieces)}, nil
}

func textParts(pieces []piece) (parts []part) {
	for _, p := range pieces {
		if p.op == nil {
			parts = append(parts, literally(p.literal))
			continue
		}
		parts = append(parts, p.op.text)
	}
	return parts
}

func literally(s string) part {
	return func(b []byte, _ *proxy.Exchange) []byte { return append(b, s...) }
}

// JSON compiles a format for lines of JSON: an object with these members in this
// order. A member whose format is one operator is a number where the operator is
// one, and null where the request has no such thing. Any other is a string, with
// "-" for what is not there.
func JSON(fields []Field) (*Format, error) {
	if len(fields) == 0 {
		return nil, fmt.Errorf("access log: the JSON object has no members; leave the format out for the default")
	}
	f := &Format{}
	seen := make(map[string]bool)
	open := "{"
	for _, fd := range fields {
		if seen[fd.Name] {
			return nil, fmt.Errorf("access log: JSON member %q is there twice", fd.Name)
		}
		seen[fd.Name] = true
		pieces, err := parse(fd.Format)
		if err != nil {
			return nil, fmt.Errorf("access log: JSON member %q: %w", fd.Name, err)
		}
		f.parts = append(f.parts, literally(open+`"`+string(appendEscaped(nil, fd.Name, inJSON))+`":`))
		f.parts = append(f.parts, jsonParts(pieces)...)
		open = ","
	}
	f.parts = append(f.parts, literally("}"))
	return f, nil
}

func jsonParts(pieces []piece) []part {
	if len(pieces) == 1 && pieces[0].op != nil {
		return []part{pieces[0].op.member}
	}
	parts := []part{literally(`"`)}
	for _, p := range pieces {
		if p.op == nil {
			parts = append(parts, literally(string(appendEscaped(nil, p.literal, inJSON))))
			continue
		}
		parts = append(parts, p.op.inString)
	}
	return append(parts, literally(`"`))
}
