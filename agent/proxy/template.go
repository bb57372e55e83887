package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Template is text with variables of a client's connection, written as in
// Envoy's format strings: %DOWNSTREAM_LOCAL_PORT%. "%%" is a percent sign.
type Template struct {
	text  string
	parts []part
}

// part is literal text, or a variable if value is set.
type part struct {
	text  string
	value func(local, remote netip.AddrPort) string
}

// variables are those that a connection can answer. Local is where the client
// connected to, remote is the client.
var variables = map[string]func(local, remote netip.AddrPort) string{
	"DOWNSTREAM_LOCAL_ADDRESS":               func(l, _ netip.AddrPort) string { return l.String() },
	"DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT":  func(l, _ netip.AddrPort) string { return l.Addr().String() },
	"DOWNSTREAM_LOCAL_PORT":                  func(l, _ netip.AddrPort) string { return fmt.Sprint(l.Port()) },
	"DOWNSTREAM_REMOTE_ADDRESS":              func(_, r netip.AddrPort) string { return r.String() },
	"DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": func(_, r netip.AddrPort) string { return r.Addr().String() },
	"DOWNSTREAM_REMOTE_PORT":                 func(_, r netip.AddrPort) string { return fmt.Sprint(r.Port()) },
}

// Variables are the names that a Template knows.
func Variables() []string {
	names := make([]string, 0, len(variables))
	for name := range variables {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// ParseTemplate reads a template. A variable that it does not know is an error,
// rather than text for the peer to wonder about.
func ParseTemplate(text string) (Template, error) {
	t := Template{text: text}
	for rest := text; rest != ""; {
		before, after, found := strings.Cut(rest, "%")
		if before != "" {
			t.parts = append(t.parts, part{text: before})
		}
		if !found {
			break
		}
		name, tail, closed := strings.Cut(after, "%")
		switch {
		case !closed:
			return Template{}, fmt.Errorf("%q: a variable begins with %% and does not end with one; write %%%% for a percent sign", text)
		case name == "":
			t.parts = append(t.parts, part{text: "%"})
		case variables[name] == nil:
			return Template{}, fmt.Errorf("%q: unknown variable %%%s%%; known are %%%s%%", text, name, strings.Join(Variables(), "%, %"))
		default:
			t.parts = append(t.parts, part{value: variables[name]})
		}
		rest = tail
	}
	return t, nil
}

// String is the text that the template was read from.
func (t Template) String() string { return t.text }

// Expand fills in the variables for a client at remote that connected to local.
func (t Template) Expand(local, remote netip.AddrPort) string {
	var sb strings.Builder
	for _, p := range t.parts {
		if p.value != nil {
			sb.WriteString(p.value(local, remote))
		} else {
			sb.WriteString(p.text)
		}
	}
	return sb.String()
}

// HeaderTemplate is a header field of CONNECT requests.
type HeaderTemplate struct {
	Name  string // lower case
	Value Template
}

// ParseHeaderTemplate reads a header field that may go into a CONNECT request.
func ParseHeaderTemplate(name, value string) (HeaderTemplate, error) {
	if name != strings.ToLower(name) {
		return HeaderTemplate{}, fmt.Errorf("header names are lower case in HTTP/2; write %q", strings.ToLower(name))
	}
	if name == "" || strings.ContainsFunc(name, notToken) {
		return HeaderTemplate{}, fmt.Errorf("%q is not a header name", name)
	}
	switch name {
	// RFC 9113, section 8.2.2, and what the request says by itself.
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade", "te", "host", "content-length":
		return HeaderTemplate{}, fmt.Errorf("header %q cannot be part of a CONNECT request", name)
	}
	if value != strings.TrimSpace(value) || strings.ContainsFunc(value, notFieldValue) {
		return HeaderTemplate{}, fmt.Errorf("header %q: the value has a control character, or a space at an end", name)
	}
	t, err := ParseTemplate(value)
	return HeaderTemplate{Name: name, Value: t}, err
}

// notToken holds for what a header name cannot have (RFC 9110, section 5.6.2).
func notToken(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
}

// notFieldValue holds for what a header value cannot have (RFC 9113, section
// 8.2.1).
func notFieldValue(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }
