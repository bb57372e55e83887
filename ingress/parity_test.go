package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// misdirectedPort is the Gateway of Gateway API's conformance test
// HTTPRouteHTTPSListenerDetectMisdirectedRequests.
func misdirectedPort(t *testing.T, ca *authority, bind Bind) *Port {
	cert := []*tls.Certificate{ca.issue(t, "example.org", "second-example.org", "unknown-example.org", "*.wildcard.org")}
	return httpsPort(bind, 443,
		httpsListener("any", "", cert, "example.org/"),
		httpsListener("second", "second-example.org", cert, "/"),
		httpsListener("wildcard", "*.wildcard.org", cert, "/"),
		httpsListener("fourth", "fourth-example.wildcard.org", cert, "/"),
	)
}

func TestMisdirectedRequests(t *testing.T) {
	ca := newAuthority(t)
	bind := freeBind(t)
	s := start(t, ServerConfig{})
	s.apply(t, misdirectedPort(t, ca, bind))
	cases := []struct {
		sni, host string
		status    int
		listener  string
	}{
		{"example.org", "example.org", 200, "any"},
		{"example.org", "second-example.org", 421, ""},
		{"example.org", "unknown-example.org", 404, ""},
		{"second-example.org", "second-example.org", 200, "second"},
		{"second-example.org", "SECOND-example.org.:443", 200, "second"},
		{"SECOND-Example.org", "second-example.org", 200, "second"},
		{"second-example.org", "example.org", 421, ""},
		{"second-example.org", "unknown-example.org", 421, ""},
		{"third-example.wildcard.org", "third-example.wildcard.org", 200, "wildcard"},
		{"third-example.wildcard.org", "fith-example.wildcard.org", 200, "wildcard"},
		{"third-example.wildcard.org", "fourth-example.wildcard.org", 421, ""},
		{"third-example.wildcard.org", "second-example.org", 421, ""},
		{"third-example.wildcard.org", "unknown-example.org", 421, ""},
		{"fourth-example.wildcard.org", "fourth-example.wildcard.org", 200, "fourth"},
		{"fourth-example.wildcard.org", "fith-example.wildcard.org", 421, ""},
		{"unknown-example.org", "example.org", 200, "any"},
		{"unknown-example.org", "unknown-example.org", 404, ""},
	}
	for _, v := range versions {
		for _, tc := range cases {
			t.Run(v+"/"+tc.sni+"/"+tc.host, func(t *testing.T) {
				c := dialHTTP(t, v, bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: tc.sni})
				status, a, _ := c.get(t, tc.host, "/detect-misdirected-requests")
				if status != tc.status || a.Listener != tc.listener {
					t.Errorf("got %d from listener %q, want %d from %q", status, a.Listener, tc.status, tc.listener)
				}
			})
		}
	}
}

// TestListenerIsolation: without TLS, too, the most specific listener serves a
// host, and no other's routes do.
func TestListenerIsolation(t *testing.T) {
	bind := freeBind(t)
	s := start(t, ServerConfig{})
	listener := func(name, host string, names ...string) *Listener {
		return &Listener{Owner: "Gateway/infra/gw", Name: name, Hostname: host, Protocol: HTTP, Routes: rules(names...)}
	}
	s.apply(t, &Port{Bind: bind, Gateway: "infra/gw", Public: 80, Listeners: []*Listener{
		listener("empty", "", "/empty"),
		listener("wild", "*.example.com", "/wild"),
		listener("longer", "*.foo.example.com", "/longer"),
		listener("exact", "abc.foo.example.com", "/exact"),
	}})
	for _, v := range []string{"h1", "h2"} {
		c := dialHTTP(t, v, bind.String(), nil)
		for host, want := range map[string]string{
			"bar.com": "empty", "example.com": "empty", "bar.example.com": "wild", "foo.example.com": "wild",
			"bar.foo.example.com": "longer", "a.b.foo.example.com": "longer", "abc.foo.example.com": "exact",
		} {
			for _, path := range []string{"empty", "wild", "longer", "exact"} {
				status, a, _ := c.get(t, host, "/"+path)
				if path == want && (status != 200 || a.Listener != want) || path != want && status != 404 {
					t.Errorf("%s: %s/%s got %d from %q; only listener %s serves this host", v, host, path, status, a.Listener, want)
				}
			}
		}
	}
}

func TestClientCertificates(t *testing.T) {
	ca, clients, strangers := newAuthority(t), newAuthority(t), newAuthority(t)
	bind := freeBind(t)
	var failed failures
	s := start(t, ServerConfig{Events: failed.events()})
	cert := []*tls.Certificate{ca.issue(t, "open.org", "strict.org", "lax.org")}
	strict, lax := httpsListener("strict", "strict.org", cert, "/"), httpsListener("lax", "lax.org", cert, "/")
	strict.TLS.ClientCAs, lax.TLS.ClientCAs, lax.TLS.AllowInvalid = clients.pool, clients.pool, true
	s.apply(t, httpsPort(bind, 443, httpsListener("open", "open.org", cert, "/"), strict, lax))
	good, bad := clients.issue(t, "me"), strangers.issue(t, "stranger")
	for _, v := range versions {
		for _, tc := range []struct {
			name, host string
			cert       *tls.Certificate
			ok         bool
			client     string
		}{
			{"open without", "open.org", nil, true, ""},
			{"open with one", "open.org", good, true, ""},
			{"strict without", "strict.org", nil, false, ""},
			{"strict with a stranger's", "strict.org", bad, false, ""},
			{"strict with a good one", "strict.org", good, true, "leaf"},
			{"lax without", "lax.org", nil, true, ""},
			{"lax with a stranger's", "lax.org", bad, true, ""},
		} {
			t.Run(v+"/"+tc.name, func(t *testing.T) {
				conf := &tls.Config{RootCAs: ca.pool, ServerName: tc.host}
				if tc.cert != nil {
					conf.Certificates = []tls.Certificate{*tc.cert}
					// Sent even if its issuer is not one that the server names.
					conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return tc.cert, nil }
				}
				before := failed.count(FailedClientCertificate)
				c := dialHTTP(t, v, bind.String(), conf)
				status, a, _, err := c.try(tc.host, "/")
				if tc.ok != (err == nil && status == 200) {
					t.Fatalf("got %d, %v; want success %v", status, err, tc.ok)
				}
				if a.Client != tc.client {
					t.Errorf("the verified client is %q, want %q", a.Client, tc.client)
				}
				if !tc.ok {
					eventually(t, "the failed handshake is counted, by its reason", func() bool {
						return failed.count(FailedClientCertificate) == before+1
					})
				}
			})
		}
	}
}

// TestDemandsThatGrow: a connection from before a listener asked for certificates
// brings no more requests to it.
func TestDemandsThatGrow(t *testing.T) {
	ca, clients := newAuthority(t), newAuthority(t)
	bind := freeBind(t)
	s := start(t, ServerConfig{})
	cert := []*tls.Certificate{ca.issue(t, "a.org")}
	for _, v := range versions {
		s.apply(t, httpsPort(bind, 443, httpsListener("a", "a.org", cert, "/")))
		c := dialHTTP(t, v, bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: "a.org"})
		if status, _, _ := c.get(t, "a.org", "/"); status != 200 {
			t.Fatalf("%s: got %d", v, status)
		}
		l := httpsListener("a", "a.org", cert, "/")
		l.TLS.ClientCAs = clients.pool
		s.apply(t, httpsPort(bind, 443, l))
		if status, _, _, err := c.try("a.org", "/"); err != nil || status != 421 {
			t.Errorf("%s: got %d, %v; want 421, so that the client connects anew and is asked", v, status, err)
		}
		if v == "h1" {
			if _, _, _, err := c.try("a.org", "/"); err == nil {
				t.Error("h1: the connection was kept after 421")
			}
		}
	}
}

// TestSessionsStayWithTheirPolicy: a TLS session that began without a client
// certificate resumes with its own listener and no other.
func TestSessionsStayWithTheirPolicy(t *testing.T) {
	ca, clients := newAuthority(t), newAuthority(t)
	bind := freeBind(t)
	s := start(t, ServerConfig{})
	cert := []*tls.Certificate{ca.issue(t, "open.org", "strict.org")}
	strict := httpsListener("strict", "strict.org", cert, "/")
	strict.TLS.ClientCAs = clients.pool
	s.apply(t, httpsPort(bind, 443, httpsListener("open", "open.org", cert, "/"), strict))
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			cache := &oneSession{ClientSessionCache: tls.NewLRUClientSessionCache(1)}
			dial := func(name string) (bool, error) {
				c := dialHTTP(t, v, bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: name, ClientSessionCache: cache})
				defer c.close()
				resp, err := c.Get("https://" + name + "/")
				if err != nil {
					return false, err
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				return resp.TLS.DidResume, nil
			}
			if _, err := dial("open.org"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "a session to resume", func() bool { return cache.has() })
			if resumed, err := dial("open.org"); err != nil || !resumed {
				t.Errorf("its own listener: resumed %v, %v; want a resumption", resumed, err)
			}
			if _, err := dial("strict.org"); err == nil {
				t.Error("the session got past the demand for a certificate")
			}
		})
	}
}

func TestLimitsAndErrors(t *testing.T) {
	ca := newAuthority(t)
	bind := freeBind(t)
	s := start(t, ServerConfig{})
	s.apply(t, httpsPort(bind, 443, httpsListener("a", "", []*tls.Certificate{ca.issue(t, "a.org")}, "/only")))
	conf := &tls.Config{RootCAs: ca.pool, ServerName: "a.org"}
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			c := dialHTTP(t, v, bind.String(), conf)
			if status, _, _ := c.get(t, "a.org", "/other"); status != 404 {
				t.Errorf("no rule: got %d", status)
			}
			if status, _, _ := c.get(t, "a.org", "/only/%2e%2e/secret"); status != 404 {
				t.Errorf("a path out of the prefix: got %d, want 404 as the path is /secret", status)
			}
			if status, _, _ := c.get(t, "a.org", "/only/..%2fsecret"); status != 400 {
				t.Errorf("a path that some readers leave the prefix with: got %d", status)
			}
			if status, a, _ := c.get(t, "a.org", "/only/x/../y"); status != 200 || a.Path != "/only/y" {
				t.Errorf("dot segments: got %d %q", status, a.Path)
			}
			req, _ := http.NewRequest("GET", "https://a.org/only", nil)
			req.Host = "a.org:bad"
			// Over HTTP/2 its stream is reset, and net/http's client asks again and
			// again after a reset.
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			if resp, err := c.Do(req.WithContext(ctx)); err == nil {
				resp.Body.Close()
				if resp.StatusCode != 400 {
					t.Errorf("host with a bad port: got %d", resp.StatusCode)
				}
			}
			req, _ = http.NewRequest("GET", "https://a.org/only", nil)
			req.Header.Set("Big", strings.Repeat("x", 80<<10))
			resp, err := c.Do(req)
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode != 431 {
					t.Errorf("a header of 80 KiB: got %d, want 431", resp.StatusCode)
				}
			} else if v == "h1" {
				t.Errorf("a header of 80 KiB: %v, want 431", err)
			}
			c = dialHTTP(t, v, bind.String(), conf)
			const size = 2 << 20
			req, _ = http.NewRequest("POST", "https://a.org/only", io.LimitReader(zeros{}, size))
			resp, err = c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if body, _ := io.ReadAll(resp.Body); !strings.Contains(string(body), `"Body":2097152,`) {
				t.Errorf("an upload of 2 MiB: got %s", body)
			}
			if v == "h1" {
				nc, err := tls.Dial("tcp", bind.String(), conf)
				if err != nil {
					t.Fatal(err)
				}
				defer nc.Close()
				io.WriteString(nc, "CONNECT a.org:443 HTTP/1.1\r\nHost: a.org:443\r\n\r\n")
				line := make([]byte, 12)
				if io.ReadFull(nc, line); string(line) != "HTTP/1.1 405" {
					t.Errorf("CONNECT: got %q, want 405", line)
				}
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestNoSNIAndNoListener(t *testing.T) {
	ca := newAuthority(t)
	bind := freeBind(t)
	var failed failures
	s := start(t, ServerConfig{Events: failed.events()})
	cert := []*tls.Certificate{ca.issue(t, "a.org")}
	broken := httpsListener("broken", "broken.org", nil, "/")
	s.apply(t, httpsPort(bind, 443, httpsListener("a", "a.org", cert, "/"), broken))
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			try := func(sni string, want HandshakeReason) {
				t.Helper()
				before := failed.count(want)
				c := dialHTTP(t, v, bind.String(), &tls.Config{InsecureSkipVerify: true, ServerName: sni})
				_, _, _, err := c.try("a.org", "/")
				if err == nil {
					t.Fatalf("SNI %q was served", sni)
				}
				if !strings.Contains(err.Error(), "unrecognized name") && !errors.Is(err, tls.AlertError(112)) {
					t.Errorf("SNI %q: %v, want the alert unrecognized_name", sni, err)
				}
				eventually(t, string("a failure by "+want), func() bool { return failed.count(want) == before+1 })
			}
			try("other.org", FailedNoListener)
			try("broken.org", FailedNoCertificate)
			if v == "h1" { // the clients of the others always send a name
				before := failed.count(FailedNoListener)
				if _, err := tls.Dial("tcp", bind.String(), &tls.Config{InsecureSkipVerify: true}); err == nil {
					t.Error("no SNI, and no listener for all hosts, but there was an answer")
				}
				eventually(t, "a failure by no_listener", func() bool { return failed.count(FailedNoListener) == before+1 })
			}
			c := dialHTTP(t, v, bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: "a.org"})
			if status, _, _ := c.get(t, "a.org", "/"); status != 200 {
				t.Errorf("the sound listener beside a broken one: got %d", status)
			}
		})
	}
	s.apply(t, httpsPort(bind, 443, httpsListener("any", "", cert, "/")))
	nc, err := tls.Dial("tcp", bind.String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatalf("no SNI, and a listener for all hosts: %v", err)
	}
	defer nc.Close()
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a.org\r\nConnection: close\r\n\r\n")
	if got, _ := io.ReadAll(nc); !strings.HasPrefix(string(got), "HTTP/1.1 200") {
		t.Errorf("no SNI, and a listener for all hosts: got %q", got)
	}
}

// TestQueriesThatEndElsewhere: what would be the end of a request line, or of the
// query, for whoever stands behind this gateway is refused. (Of HTTP/2, ingress/h2
// tests it: net/http repeats what is reset, with pauses.)
func TestQueriesThatEndElsewhere(t *testing.T) {
	ca := newAuthority(t)
	bind := freeBind(t)
	s := start(t, ServerConfig{})
	s.apply(t, httpsPort(bind, 443, httpsListener("a", "a.org", []*tls.Certificate{ca.issue(t, "a.org")}, "/")))
	for _, v := range []string{"h1", "h3"} {
		for query, want := range map[string]int{"a HTTP/1.1": 400, "a%20b": 200, "a+b": 200} {
			c := dialHTTP(t, v, bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: "a.org"})
			req, err := http.NewRequest("GET", "https://a.org/", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.URL.RawQuery = query
			resp, err := c.Do(req)
			if err != nil {
				t.Fatalf("%s %q: %v", v, query, err)
			}
			resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("%s %q: got %d, want %d", v, query, resp.StatusCode, want)
			}
		}
	}
}
