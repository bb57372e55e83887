//lint:file-ignore SA1019 only x/net/http2 sends requests on a connection that the caller made

package proxy

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"

	"github.com/adit-mesh/adit/ingress/h1"
	"github.com/adit-mesh/adit/ingress/h2"
	"github.com/adit-mesh/adit/ingress/upstream"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// edge is a Proxy behind the servers that it works with.
type edge struct {
	t    testing.TB
	p    *Proxy
	set  *upstream.Set
	conf map[string]*upstream.Config
	rule *Rule
	cl   Client
	url  string // of the HTTP/1.1 server
	// After serveTLS: the HTTP/2 server, and a client that trusts it.
	h2url    string
	h2client *http.Client
	stopTLS  func()

	served atomic.Int64

	mu      sync.Mutex
	records []Exchange
}

func newEdge(t testing.TB, conf map[string]*upstream.Config, rule *Rule, tweak ...func(*Config)) *edge {
	t.Helper()
	e := &edge{t: t, set: upstream.NewSet(upstream.SetConfig{}), conf: conf, rule: rule}
	e.set.Apply(conf)
	c := Config{Set: e.set, Record: e.record}
	for _, f := range tweak {
		f(&c)
	}
	e.p = New(c)
	stop := e.listen()
	t.Cleanup(func() {
		stop()
		if e.stopTLS != nil {
			e.stopTLS()
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		e.p.Close(ctx)
		e.set.Close(ctx)
	})
	return e
}

// listen serves HTTP/1.1 until stop is called, which waits for all requests.
func (e *edge) listen() (stop func()) {
	e.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		e.t.Fatal(err)
	}
	e.url = "http://" + ln.Addr().String()
	srv := &h1.Server{Connect: true}
	ctx, drain := context.WithCancel(context.Background())
	wg := serveLoop(ln, func(c net.Conn) { srv.ServeConn(ctx, c, http.HandlerFunc(e.serve)) })
	return func() { ln.Close(); drain(); wg.Wait() }
}

// serveTLS adds HTTP/2 over TLS, and returns a client for it.
func (e *edge) serveTLS() *http.Client {
	e.t.Helper()
	certs := httptest.NewUnstartedServer(nil)
	certs.EnableHTTP2 = true
	certs.StartTLS() // for its certificate, and a client that trusts it
	certs.Listener.Close()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: certs.TLS.Certificates, NextProtos: []string{"h2"}})
	if err != nil {
		e.t.Fatal(err)
	}
	e.h2url = "https://" + ln.Addr().String()
	e.h2client = certs.Client()
	srv := &h2.Server{}
	ctx, drain := context.WithCancel(context.Background())
	wg := serveLoop(ln, func(c net.Conn) { srv.ServeConn(ctx, c, http.HandlerFunc(e.serve)) })
	e.stopTLS = func() {
		certs.Close()
		ln.Close()
		drain()
		e.h2client.CloseIdleConnections()
		wg.Wait()
	}
	return e.h2client
}

// serveForeign makes e.url that of a server whose ResponseWriter is nobody's of
// ours, as HTTP/3's is.
func (e *edge) serveForeign() {
	srv := httptest.NewServer(http.HandlerFunc(e.serve))
	e.t.Cleanup(srv.Close)
	e.url = srv.URL
}

func serveLoop(ln net.Listener, serve func(net.Conn)) *sync.WaitGroup {
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serve(c) })
		}
	})
	return &wg
}

func (e *edge) serve(w http.ResponseWriter, r *http.Request) {
	e.served.Add(1)
	x := NewExchange()
	x.Client = e.cl
	x.Client.Remote = netip.MustParseAddrPort(r.RemoteAddr)
	x.Client.TLS = r.TLS
	if x.Client.Port == 0 {
		x.Client.Port = 80
	}
	e.p.Serve(w, r, e.rule, x)
}

func (e *edge) record(x *Exchange) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := *x
	c.RequestHeader, c.RespHeader = x.RequestHeader.Clone(), x.RespHeader.Clone()
	e.records = append(e.records, c)
}

// last waits for the n-th record, and returns it.
func (e *edge) last(n int) Exchange {
	e.t.Helper()
	var got Exchange
	eventually(e.t, "a record of each request", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		if len(e.records) < n {
			return false
		}
		if len(e.records) > n {
			e.t.Fatalf("%d records of %d requests", len(e.records), n)
		}
		got = e.records[n-1]
		return true
	})
	return got
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("no %s within 10 s", what)
		}
	}
}

// backend starts one and returns its configuration.
func backend(t testing.TB, h http.HandlerFunc) *upstream.Config {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return clusterOf(upstream.HTTP1, srv.Listener.Addr())
}

func h2cBackend(t testing.TB, h http.Handler) *upstream.Config {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{Handler: h, Protocols: protocols}
	done := make(chan struct{})
	go func() { _ = srv.Serve(ln); close(done) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return clusterOf(upstream.H2, ln.Addr())
}

// rawBackend answers every connection with f.
func rawBackend(t testing.TB, f func(net.Conn)) *upstream.Config {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	wg := serveLoop(ln, func(c net.Conn) { defer c.Close(); f(c) })
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return clusterOf(upstream.HTTP1, ln.Addr())
}

// closedPort is an address that refuses connections.
func closedPort(t testing.TB) net.Addr {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	return ln.Addr()
}

func clusterOf(p upstream.Protocol, addrs ...net.Addr) *upstream.Config {
	c := &upstream.Config{Protocol: p}
	for _, a := range addrs {
		c.Endpoints = append(c.Endpoints, upstream.Endpoint{Addr: netip.MustParseAddrPort(a.String())})
		c.Key = a.String()
	}
	return c
}

func one(c *upstream.Config) map[string]*upstream.Config {
	return map[string]*upstream.Config{"a": c}
}

func toA() *Rule { return &Rule{Backends: []Backend{{Cluster: "a", Weight: 1}}} }

func (e *edge) do(req *http.Request) (*http.Response, string) {
	e.t.Helper()
	res, body, err := e.try(req)
	if err != nil {
		e.t.Fatal(err)
	}
	return res, body
}

var client = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func (e *edge) try(req *http.Request) (*http.Response, string, error) {
	res, err := client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res, string(b), err
}

func (e *edge) request(method, path string, body io.Reader, headers ...string) *http.Request {
	e.t.Helper()
	req, err := http.NewRequest(method, e.url+path, body)
	if err != nil {
		e.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	return req
}

func (e *edge) get(path string, headers ...string) (*http.Response, string) {
	e.t.Helper()
	return e.do(e.request("GET", path, nil, headers...))
}

// h2raw dials the HTTP/2 server without the client of the standard library, for
// what that does not send.
func (e *edge) h2raw() *http2.ClientConn {
	e.t.Helper()
	pool := e.h2client.Transport.(*http.Transport).TLSClientConfig.Clone()
	pool.NextProtos = []string{"h2"}
	c, err := tls.Dial("tcp", strings.TrimPrefix(e.h2url, "https://"), pool)
	if err != nil {
		e.t.Fatal(err)
	}
	cc, err := (&http2.Transport{}).NewClientConn(c)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { cc.Close() })
	return cc
}
