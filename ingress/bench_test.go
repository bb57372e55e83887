package ingress

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"

	"github.com/adit-mesh/adit/ingress/proxy"
)

// fast is a Handler that does as little as can be.
type fast struct{}

func (fast) Serve(w http.ResponseWriter, _ *http.Request, _ *proxy.Rule, _ *proxy.Exchange) {
	w.Header()["Content-Length"] = []string{"2"}
	io.WriteString(w, "ok")
}

func (fast) Refuse(w http.ResponseWriter, _ *http.Request, _ *proxy.Exchange, status int, _, _ string) {
	w.WriteHeader(status)
}

// BenchmarkRequest is the engine's part of a request over HTTP/1.1, server and
// client and kernel together.
func BenchmarkRequest(b *testing.B) {
	bind := freeBind(b)
	s := start(b, ServerConfig{Proxy: fast{}})
	s.apply(b, &Port{Bind: bind, Gateway: "infra/gw", Public: 80, Listeners: []*Listener{{Protocol: HTTP, Routes: rules("/", "/api")}}})
	c, err := net.Dial("tcp", bind.String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	b.ReportAllocs()
	for b.Loop() {
		io.WriteString(c, "GET /api/x HTTP/1.1\r\nHost: example.org\r\nUser-Agent: b\r\nAccept: */*\r\n\r\n")
		for {
			line, err := r.ReadSlice('\n')
			if err != nil {
				b.Fatal(err)
			}
			if len(line) == 2 {
				break
			}
		}
		r.Discard(2)
	}
}

// BenchmarkHandshake is a new connection with a full or resumed TLS handshake and
// one request.
func BenchmarkHandshake(b *testing.B) {
	ca := newAuthority(b)
	bind := freeBind(b)
	s := start(b, ServerConfig{Proxy: fast{}})
	s.apply(b, httpsPort(bind, 443, httpsListener("a", "a.org", []*tls.Certificate{ca.issue(b, "a.org")}, "/")))
	for name, cache := range map[string]tls.ClientSessionCache{"full": nil, "resumed": tls.NewLRUClientSessionCache(1)} {
		b.Run(name, func(b *testing.B) {
			conf := &tls.Config{RootCAs: ca.pool, ServerName: "a.org", ClientSessionCache: cache}
			buf := make([]byte, 4096)
			b.ReportAllocs()
			for b.Loop() {
				c, err := tls.Dial("tcp", bind.String(), conf)
				if err != nil {
					b.Fatal(err)
				}
				io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.org\r\nConnection: close\r\n\r\n")
				for err == nil {
					_, err = c.Read(buf)
				}
				c.Close()
			}
		})
	}
}

// BenchmarkDecide is the TLS decision and the choice of a site, of many listeners.
func BenchmarkDecide(b *testing.B) {
	p := &Port{Gateway: "infra/gw", Public: 443}
	for i := range 1000 {
		p.Listeners = append(p.Listeners, &Listener{Name: "l", Hostname: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).String() + ".example.org", Protocol: HTTPS, TLS: &TLSConfig{}})
	}
	x := newIndex(p, nil, keys{make([]byte, 32)})
	b.ReportAllocs()
	for b.Loop() {
		x.decide("10.0.1.7.example.org", overTCP)
		x.siteFor("10.0.1.7.example.org", true, "10.0.1.7.example.org", nil)
	}
}
