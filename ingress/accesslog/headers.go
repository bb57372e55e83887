package accesslog

import (
	"fmt"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/adit-mesh/adit/ingress/proxy"
)

// field finds a value by which a header operator was given.
type field func(x *proxy.Exchange) string

// header compiles %REQ(A?B)% and its like: A, and B if there is no A.
func header(of func(name string) (field, error)) func(string, argument) (*operator, error) {
	return func(op string, arg argument) (*operator, error) {
		if arg.text == "" {
			return nil, fmt.Errorf("%%%s%% takes the name of a header: %%%s(NAME)%%, or %%%s(NAME?OTHER)%%", op, op, op)
		}
		first, second, two := strings.Cut(arg.text, "?")
		a, err := of(first)
		if err != nil {
			return nil, fmt.Errorf("%%%s(%s)%%: %w", op, short(arg.text), err)
		}
		if !two {
			return &operator{value: a}, nil
		}
		b, err := of(second)
		if err != nil {
			return nil, fmt.Errorf("%%%s(%s)%%: %w", op, short(arg.text), err)
		}
		return &operator{value: func(x *proxy.Exchange) string {
			if v := a(x); v != "" {
				return v
			}
			return b(x)
		}}, nil
	}
}

// requestField knows HTTP/2's names for the request line, and takes from the
// Exchange what clients may claim but not decide.
func requestField(name string) (field, error) {
	switch strings.ToLower(name) {
	case ":method":
		return func(x *proxy.Exchange) string { return x.Method }, nil
	case ":path":
		return func(x *proxy.Exchange) string { return x.Path }, nil
	case ":authority", "host":
		return func(x *proxy.Exchange) string { return x.Host }, nil
	case ":scheme":
		return func(x *proxy.Exchange) string {
			if x.Client.TLS != nil {
				return "https"
			}
			return "http"
		}, nil
	case "x-request-id":
		return func(x *proxy.Exchange) string { return x.RequestID }, nil
	case "x-forwarded-for":
		return func(x *proxy.Exchange) string {
			if x.ForwardedFor == "" && x.Client.Remote.IsValid() { // it was refused before
				return x.Client.Remote.Addr().Unmap().WithZone("").String()
			}
			return x.ForwardedFor
		}, nil
	}
	f, err := fieldOf(name, func(x *proxy.Exchange) http.Header { return x.RequestHeader })
	if err != nil || !isClaim(name) {
		return f, err
	}
	return func(x *proxy.Exchange) string {
		if x.ForwardedFor == "" { // of a request that was refused nobody removed them
			return ""
		}
		return f(x)
	}, nil
}

// isClaim says that a header tells of what proxies before this one saw or did.
// That of a client who is not one would hide in the log what was really asked for.
func isClaim(name string) bool {
	name = strings.ToLower(name)
	return strings.HasPrefix(name, "x-envoy-") || strings.HasPrefix(name, "x-forwarded-") ||
		strings.HasPrefix(name, "x-original-") || name == "x-real-ip"
}

func responseField(name string) (field, error) {
	return fieldOf(name, func(x *proxy.Exchange) http.Header { return x.RespHeader })
}

func trailerField(name string) (field, error) {
	return fieldOf(name, func(x *proxy.Exchange) http.Header { return x.Trailer })
}

func fieldOf(name string, in func(*proxy.Exchange) http.Header) (field, error) {
	if !httpguts.ValidHeaderFieldName(name) {
		return nil, fmt.Errorf("%q is no name of a header", short(name))
	}
	name = http.CanonicalHeaderKey(name)
	return func(x *proxy.Exchange) string {
		if vs := in(x)[name]; len(vs) > 0 {
			return vs[0]
		}
		return ""
	}, nil
}
