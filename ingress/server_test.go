package ingress

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"testing"
)

// httpsPort is a port as most tests want it.
func httpsPort(bind Bind, public uint16, ls ...*Listener) *Port {
	return &Port{Bind: bind, Gateway: "infra/gw", Public: public, Listeners: ls}
}

func httpsListener(name, hostname string, certs []*tls.Certificate, names ...string) *Listener {
	return &Listener{
		Owner: "Gateway/infra/gw", Name: name, Hostname: hostname, Protocol: HTTPS,
		TLS: &TLSConfig{Certificates: certs}, Routes: rules(names...),
	}
}

func TestServesEveryVersion(t *testing.T) {
	ca := newAuthority(t)
	bind, plain := freeBind(t), freeBind(t)
	s := start(t, ServerConfig{})
	s.apply(t,
		httpsPort(bind, 443, httpsListener("https", "", []*tls.Certificate{ca.issue(t, "example.org")}, "/", "/api")),
		&Port{Bind: plain, Gateway: "infra/gw", Public: 80, Listeners: []*Listener{{Owner: "Gateway/infra/gw", Name: "http", Protocol: HTTP, Routes: rules("/")}}},
	)
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			c := dialHTTP(t, v, bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: "example.org"})
			status, a, h := c.get(t, "example.org", "/api/x%2Fy?z=1")
			if status != 200 || a.Rule != "/api" || a.Path != "/api/x%2Fy" || a.Listener != "https" {
				t.Errorf("got %d %+v, want rule /api of listener https", status, a)
			}
			if got, want := h.Get("Alt-Svc"), `h3=":443"; ma=86400`; got != want {
				t.Errorf("alt-svc is %q, want %q on every version", got, want)
			}
		})
	}
	for _, v := range []string{"h1", "h2"} {
		t.Run(v+" in the clear", func(t *testing.T) {
			c := dialHTTP(t, v, plain.String(), nil)
			status, a, h := c.get(t, "example.org", "/")
			if status != http.StatusOK || a.Listener != "http" || h.Get("Alt-Svc") != "" {
				t.Errorf("got %d %+v %v", status, a, h)
			}
			if want := map[string]string{"h1": "HTTP/1.1", "h2": "HTTP/2.0"}[v]; a.Proto != want {
				t.Errorf("the request came as %s, want %s", a.Proto, want)
			}
		})
	}
}

// TestWildcard: a Bind without an address is of both families, on TCP and UDP.
func TestWildcard(t *testing.T) {
	ca := newAuthority(t)
	bind := freeBind(t)
	bind.Addr = netip.Addr{}
	s := start(t, ServerConfig{})
	s.apply(t, quicPort(t, ca, bind))
	for _, host := range []string{"127.0.0.1", "::1"} {
		addr := net.JoinHostPort(host, fmt.Sprint(bind.Port))
		if c, err := net.Dial("udp", addr); err != nil {
			t.Logf("no %s here: %v", host, err)
			continue
		} else {
			c.Close()
		}
		for _, v := range versions {
			c := dialHTTP(t, v, addr, &tls.Config{RootCAs: ca.pool, ServerName: "a.org"})
			status, a, _ := c.get(t, "a.org", "/")
			if remote, err := netip.ParseAddrPort(a.Remote); status != 200 || err != nil || remote.Addr() != netip.MustParseAddr(host) {
				t.Errorf("%s by %s: got %d from client %q; want the client unmapped", v, host, status, a.Remote)
			}
		}
	}
}
