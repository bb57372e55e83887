package ingress

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/adit-mesh/adit/ingress/proxy"
	"github.com/adit-mesh/adit/ingress/route"
	"github.com/adit-mesh/adit/ingress/upstream"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "root"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	a := &authority{cert: cert, key: key, pool: x509.NewCertPool()}
	a.pool.AddCert(cert)
	return a
}

var serials struct {
	sync.Mutex
	n int64
}

func (a *authority) issue(t testing.TB, names ...string) *tls.Certificate {
	t.Helper()
	serials.Lock()
	serials.n++
	serial := serials.n
	serials.Unlock()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "leaf"}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, _ := x509.ParseCertificate(der)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// answer is what answering tells of a request.
type answer struct {
	Rule, Listener, Host, Path, Method, Proto string
	Remote                                    string
	AltSvc                                    string
	Client                                    string // common name of a verified certificate
	Early                                     bool
	Body                                      int
	Header                                    http.Header
}

// answering is a Handler that tells what the engine found, without a backend.
type answering struct {
	// under is called while a request is under way, before it is answered.
	under func(w http.ResponseWriter, r *http.Request)
}

func (a answering) Serve(w http.ResponseWriter, r *http.Request, rule *proxy.Rule, x *proxy.Exchange) {
	if x.Client.AltSvc != "" {
		w.Header().Set("Alt-Svc", x.Client.AltSvc)
	}
	if a.under != nil {
		a.under(w, r)
	}
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	out := answer{
		Rule: rule.Name, Listener: x.Client.Listener, Host: r.Host, Path: r.URL.EscapedPath(), Method: r.Method,
		Proto: r.Proto, AltSvc: x.Client.AltSvc, Early: x.Client.Early, Body: int(n), Header: r.Header,
		Remote: x.Client.Remote.String(),
	}
	if s := x.Client.TLS; s != nil && len(s.VerifiedChains) > 0 {
		out.Client = s.PeerCertificates[0].Subject.CommonName
	}
	json.NewEncoder(w).Encode(out)
}

func (answering) Refuse(w http.ResponseWriter, _ *http.Request, x *proxy.Exchange, status int, flags, detail string) {
	if x.Client.AltSvc != "" {
		w.Header().Set("Alt-Svc", x.Client.AltSvc)
	}
	http.Error(w, flags+" "+detail, status)
}

// backends reaches clusters: each key is an address.
func backends(t testing.TB) (Backends, func(addrs ...string) map[string]*upstream.Config) {
	set := upstream.NewSet(upstream.SetConfig{})
	t.Cleanup(func() { set.Close(t.Context()) })
	return FromSet(set), func(addrs ...string) map[string]*upstream.Config {
		all := make(map[string]*upstream.Config)
		for _, a := range addrs {
			all[a] = &upstream.Config{Key: a, Endpoints: []upstream.Endpoint{{Addr: netip.MustParseAddrPort(a)}}}
		}
		return all
	}
}

// rules makes a table of "HOST/PREFIX" to a rule of that name; host "" is any.
func rules(names ...string) *route.Table[*proxy.Rule] {
	b := route.NewBuilder[*proxy.Rule]()
	for _, n := range names {
		host, prefix, _ := strings.Cut(n, "/")
		b.Set(n, []route.Entry[*proxy.Rule]{{
			Host:  host,
			Match: route.Match{Path: route.PathMatch{Value: "/" + prefix}},
			Value: &proxy.Rule{Name: n},
		}})
	}
	return b.Table()
}

var loopback = netip.MustParseAddr("127.0.0.1")

// freeBind is a port of loopback that is free for TCP and UDP.
func freeBind(t testing.TB) Bind {
	t.Helper()
	for range 50 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := ln.Addr().(*net.TCPAddr).Port
		pc, err := net.ListenPacket("udp", ln.Addr().String())
		ln.Close()
		if err == nil {
			pc.Close()
			return Bind{Addr: loopback, Port: uint16(port)}
		}
	}
	t.Fatal("no port is free for both TCP and UDP")
	return Bind{}
}

type testServer struct {
	*Server
	stop func() // drains, and waits
}

// start runs a Server for the test.
func start(t testing.TB, cfg ServerConfig) *testServer {
	t.Helper()
	if cfg.Proxy == nil {
		cfg.Proxy = answering{}
	}
	if cfg.Backends == nil {
		cfg.Backends, _ = backends(t)
	}
	if cfg.DrainTimeout == 0 {
		cfg.DrainTimeout = 5 * time.Second
	}
	if testing.Verbose() && cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	ts := &testServer{s, sync.OnceFunc(func() {
		cancel()
		<-done
	})}
	t.Cleanup(ts.stop)
	return ts
}

func (s *testServer) apply(t testing.TB, ports ...*Port) {
	t.Helper()
	a := s.Apply(&Config{Ports: ports})
	if len(a.Failed) > 0 || len(a.NoQUIC) > 0 {
		t.Fatalf("not everything could be opened: %v %v", a.Failed, a.NoQUIC)
	}
}

// client is one connection's worth of a version of HTTP.
type client struct {
	*http.Client
	scheme string
	close  func()
}

// versions are the ways in. Each call of a way is a connection of its own.
var versions = []string{"h1", "h2", "h3"}

// dialHTTP returns a client of version that connects to addr whatever the URL.
func dialHTTP(t testing.TB, version, addr string, conf *tls.Config) *client {
	t.Helper()
	c := &client{scheme: "https"}
	dial := func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
	if conf != nil {
		conf = conf.Clone()
	}
	switch version {
	case "h1":
		if conf == nil {
			c.scheme = "http"
		}
		tr := &http.Transport{
			DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			TLSClientConfig:   conf,
			ForceAttemptHTTP2: false,
			TLSNextProto:      map[string]func(string, *tls.Conn) http.RoundTripper{},
			MaxConnsPerHost:   1,
		}
		c.Client, c.close = &http.Client{Transport: tr}, tr.CloseIdleConnections
	case "h2":
		tr := &http.Transport{
			DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			TLSClientConfig: conf,
			Protocols:       new(http.Protocols),
		}
		tr.Protocols.SetHTTP2(true)
		if conf == nil {
			c.scheme = "http"
			tr.Protocols.SetUnencryptedHTTP2(true)
		}
		c.Client, c.close = &http.Client{Transport: tr}, tr.CloseIdleConnections
	case "h3":
		tr := &http3.Transport{
			TLSClientConfig: conf,
			Dial: func(ctx context.Context, _ string, tlsConf *tls.Config, qc *quic.Config) (*quic.Conn, error) {
				tlsConf = tlsConf.Clone()
				tlsConf.ServerName = conf.ServerName
				return quic.DialAddrEarly(ctx, addr, tlsConf, qc)
			},
		}
		c.Client, c.close = &http.Client{Transport: tr}, func() { tr.Close() }
	}
	c.Client.Timeout = 10 * time.Second
	c.Client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	t.Cleanup(c.close)
	return c
}

// get asks for host and path, and reads the answer if it is 200.
func (c *client) get(t testing.TB, host, path string) (int, answer, http.Header) {
	t.Helper()
	status, a, h, err := c.try(host, path)
	if err != nil {
		t.Fatalf("GET %s%s: %v", host, path, err)
	}
	return status, a, h
}

func (c *client) try(host, path string) (int, answer, http.Header, error) {
	var a answer
	resp, err := c.Get(c.scheme + "://" + host + path)
	if err != nil {
		return 0, a, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode == 200 {
		if err = json.Unmarshal(body, &a); err != nil {
			err = fmt.Errorf("%w in %q", err, body)
		}
	}
	return resp.StatusCode, a, resp.Header, err
}

// eventually waits for what a socket or goroutine has to do by itself.
func eventually(t testing.TB, why string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatal("never came: ", why)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// failures counts Events.
type failures struct {
	mu             sync.Mutex
	byReason       map[HandshakeReason]int
	refusals       map[RefuseReason]int
	opened, closed int
}

func (f *failures) events() Events {
	f.byReason, f.refusals = make(map[HandshakeReason]int), make(map[RefuseReason]int)
	return Events{
		Opened:          func(Where) { f.mu.Lock(); f.opened++; f.mu.Unlock() },
		Closed:          func(Where) { f.mu.Lock(); f.closed++; f.mu.Unlock() },
		Refused:         func(_ Where, r RefuseReason) { f.mu.Lock(); f.refusals[r]++; f.mu.Unlock() },
		HandshakeFailed: func(_ Where, r HandshakeReason) { f.mu.Lock(); f.byReason[r]++; f.mu.Unlock() },
	}
}

func (f *failures) count(r HandshakeReason) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.byReason[r]
}

func (f *failures) refused(r RefuseReason) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refusals[r]
}

func (f *failures) open() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.opened - f.closed
}

// oneSession gives every server the same session: a client that does not care
// whose it is.
type oneSession struct {
	tls.ClientSessionCache
	mu  sync.Mutex
	got *tls.ClientSessionState
}

func (s *oneSession) Put(_ string, cs *tls.ClientSessionState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cs != nil {
		s.got = cs
	}
}

func (s *oneSession) Get(string) (*tls.ClientSessionState, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got, s.got != nil
}

func (s *oneSession) has() bool { _, ok := s.Get(""); return ok }
