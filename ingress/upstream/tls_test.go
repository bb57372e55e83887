package upstream

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// authority signs certificates of tests.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	n    int64
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key, n: 1}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, err = x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// issue signs a certificate for DNS names, and URIs if they have a scheme.
func (a *authority) issue(validity time.Duration, names ...string) *tls.Certificate {
	a.t.Helper()
	a.n++
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(a.n), Subject: pkix.Name{CommonName: "leaf"},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(validity),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, n := range names {
		if u, err := url.Parse(n); err == nil && u.Scheme != "" {
			tmpl.URIs = append(tmpl.URIs, u)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func tlsServer(t testing.TB, cert *tls.Certificate, h http.HandlerFunc, change func(*tls.Config)) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = true
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
	srv.Config.ErrorLog = quiet
	if change != nil {
		change(srv.TLS)
	}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

func TestVerifyBackend(t *testing.T) {
	ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
	const hour = time.Hour
	for _, tt := range []struct {
		why  string
		cert *tls.Certificate
		cfg  TLS
		want string // in the error; "" = trusted
	}{
		{"its name", ca.issue(hour, "a.example"), TLS{ServerName: "a.example", Roots: ca.pool()}, ""},
		{"wildcard in the certificate", ca.issue(hour, "*.example"), TLS{ServerName: "a.example", Roots: ca.pool()}, ""},
		{"another name", ca.issue(hour, "b.example"), TLS{ServerName: "a.example", Roots: ca.pool()}, `is for b.example, and not for "a.example"`},
		{"no name", ca.issue(hour), TLS{ServerName: "a.example", Roots: ca.pool()}, "no name at all"},
		{"another CA", other.issue(hour, "a.example"), TLS{ServerName: "a.example", Roots: ca.pool()}, "signed by no CA that the policy names"},
		{"expired", ca.issue(-hour, "a.example"), TLS{ServerName: "a.example", Roots: ca.pool()}, "expired at"},
		{"SAN instead of the name", ca.issue(hour, "b.example"), TLS{ServerName: "a.example", Roots: ca.pool(), SANs: []SAN{{DNS: "b.example"}}}, ""},
		{"the name, but not the SAN", ca.issue(hour, "a.example"), TLS{ServerName: "a.example", Roots: ca.pool(), SANs: []SAN{{DNS: "b.example"}}}, "none of the policy's subjectAltNames: b.example"},
		{"one of the SANs", ca.issue(hour, "x.example", "b.example"), TLS{Roots: ca.pool(), SANs: []SAN{{DNS: "c.example"}, {DNS: "b.example"}}}, ""},
		{"wildcard SAN, that the certificate has", ca.issue(hour, "*.example"), TLS{Roots: ca.pool(), SANs: []SAN{{DNS: "*.example"}}}, ""},
		{"wildcard SAN, for one label", ca.issue(hour, "b.example"), TLS{Roots: ca.pool(), SANs: []SAN{{DNS: "*.EXAMPLE"}}}, ""},
		{"wildcard SAN, for no two labels", ca.issue(hour, "c.b.example"), TLS{Roots: ca.pool(), SANs: []SAN{{DNS: "*.example"}}}, "none of the policy's"},
		{"SAN in a certificate with a wildcard", ca.issue(hour, "*.example"), TLS{Roots: ca.pool(), SANs: []SAN{{DNS: "b.example"}}}, ""},
		{"URI", ca.issue(hour, "spiffe://td/ns/a/sa/b"), TLS{Roots: ca.pool(), SANs: []SAN{{URI: "spiffe://td/ns/a/sa/b"}}}, ""},
		{"another URI", ca.issue(hour, "spiffe://td/ns/a/sa/c"), TLS{Roots: ca.pool(), SANs: []SAN{{URI: "spiffe://td/ns/a/sa/b"}}}, "none of the policy's"},
		{"a URI is no DNS name", ca.issue(hour, "spiffe://td/x"), TLS{Roots: ca.pool(), SANs: []SAN{{DNS: "td"}}}, "none of the policy's"},
		{"SAN of another CA", other.issue(hour, "b.example"), TLS{Roots: ca.pool(), SANs: []SAN{{DNS: "b.example"}}}, "signed by no CA"},
		{"an empty SAN is nobody's", ca.issue(hour, "b.example"), TLS{Roots: ca.pool(), SANs: []SAN{{}}}, "none of the policy's"},
	} {
		t.Run(tt.why, func(t *testing.T) {
			srv := tlsServer(t, tt.cert, func(w http.ResponseWriter, r *http.Request) {
				if r.TLS.ServerName != tt.cfg.ServerName {
					t.Errorf("SNI %q, want %q", r.TLS.ServerName, tt.cfg.ServerName)
				}
				io.WriteString(w, r.Proto)
			}, nil)
			for _, proto := range []Protocol{HTTP1, H2} {
				s := newSet(t, SetConfig{})
				cfg := tt.cfg
				c := one(t, s, Config{Protocol: proto, TLS: &cfg, Endpoints: []Endpoint{at(t, srv.URL)}})
				_, got, err := send(c, request(t, "GET", "/", ""))
				if tt.want == "" {
					if want := [...]string{"HTTP/1.1", "HTTP/2.0"}[proto]; err != nil || got != want {
						t.Errorf("got %q, %v; want %s", got, err, want)
					}
					continue
				}
				e := wantKind(t, err, TLSFailed, tt.why)
				if !strings.Contains(e.Error(), tt.want) || e.Sent || e.Flag() != "UF" {
					t.Errorf("%v; want …%s…", e, tt.want)
				}
			}
		})
	}
}

func TestClientCertificate(t *testing.T) {
	ca := newAuthority(t, "ca")
	srv := tlsServer(t, ca.issue(time.Hour, "a.example"), func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.Join(r.TLS.PeerCertificates[0].DNSNames, ","))
	}, func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, ca.pool() })
	s := newSet(t, SetConfig{})
	plain := TLS{ServerName: "a.example", Roots: ca.pool()}
	with := plain
	with.Certificate = ca.issue(time.Hour, "gateway.example")
	e := at(t, srv.URL)
	s.Apply(map[string]*Config{
		"with":    {Key: "with", TLS: &with, Endpoints: []Endpoint{e}},
		"without": {Key: "without", TLS: &plain, Endpoints: []Endpoint{e}},
	})
	for range 2 {
		mustSend(t, s.Cluster("with"), request(t, "GET", "/", ""), "gateway.example")
		// Not on the other's connection. In TLS 1.3 the refusal comes after the
		// client's side of the handshake.
		if _, _, err := send(s.Cluster("without"), request(t, "GET", "/", "")); err == nil {
			t.Error("a cluster without a certificate was served")
		}
	}
}

func TestTLSResumes(t *testing.T) {
	ca := newAuthority(t, "ca")
	resumed := make(chan bool, 10)
	srv := tlsServer(t, ca.issue(time.Hour, "a.example"), func(w http.ResponseWriter, r *http.Request) { resumed <- r.TLS.DidResume }, nil)
	s := newSet(t, SetConfig{MaxAge: time.Nanosecond}) // a connection for each request
	c := one(t, s, Config{TLS: &TLS{ServerName: "a.example", Roots: ca.pool()}, Endpoints: []Endpoint{at(t, srv.URL)}})
	for i, want := range []bool{false, true, true} {
		mustSend(t, c, request(t, "GET", "/", ""), "")
		if got := <-resumed; got != want {
			t.Errorf("connection %d: resumed %v, want %v", i+1, got, want)
		}
	}
	// Other roots: what was trusted before is not.
	one(t, s, Config{TLS: &TLS{ServerName: "a.example", Roots: newAuthority(t, "new").pool()}, Endpoints: []Endpoint{at(t, srv.URL)}})
	_, _, err := send(c, request(t, "GET", "/", ""))
	wantKind(t, err, TLSFailed, "a session of a CA that is trusted no more")
}

func TestTLSProblems(t *testing.T) {
	ca := newAuthority(t, "ca")
	cert := ca.issue(time.Hour, "a.example")
	ok := &TLS{ServerName: "a.example", Roots: ca.pool()}
	plain := serve(t, echo)
	h1only := httptest.NewUnstartedServer(http.HandlerFunc(echo))
	h1only.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
	h1only.Config.ErrorLog = quiet
	h1only.StartTLS()
	t.Cleanup(h1only.Close)
	noALPN := rawServer(t, func(c net.Conn) {
		tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*cert}}).Handshake()
		io.Copy(io.Discard, c)
	})
	old := tlsServer(t, cert, echo, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS11, tls.VersionTLS11 })
	for _, tt := range []struct {
		why   string
		addr  string
		proto Protocol
		tls   *TLS
		kind  Kind
		want  string
	}{
		{"speaks no TLS", plain.URL, HTTP1, ok, TLSFailed, "does the backend speak TLS on this port?"},
		{"speaks HTTP/1.1 alone", h1only.URL, H2, ok, TLSFailed, "does not speak h2"},
		{"chooses nothing", noALPN, H2, ok, TLSFailed, "does not speak HTTP/2"},
		{"speaks TLS 1.1", old.URL, HTTP1, ok, TLSFailed, "protocol version"},
		{"is behind a CA that does not resolve", plain.URL, HTTP1, &TLS{Invalid: "ConfigMap a/b does not exist"}, Invalid, "ConfigMap a/b does not exist"},
	} {
		t.Run(tt.why, func(t *testing.T) {
			s := newSet(t, SetConfig{})
			c := one(t, s, Config{Protocol: tt.proto, TLS: tt.tls, Endpoints: []Endpoint{at(t, tt.addr)}})
			_, _, err := send(c, request(t, "POST", "/", "x"))
			e := wantKind(t, err, tt.kind, "a backend that "+tt.why)
			if !strings.Contains(e.Error(), tt.want) || e.Sent || e.BodyRead {
				t.Errorf("%v; want …%s…, and nothing sent", e, tt.want)
			}
		})
	}
}

func TestEqualTLSIsShared(t *testing.T) {
	ca := newAuthority(t, "ca")
	srv := tlsServer(t, ca.issue(time.Hour, "a.example"), echo, nil)
	s := newSet(t, SetConfig{})
	e := at(t, srv.URL)
	s.Apply(map[string]*Config{
		"a": {Key: "a", TLS: &TLS{ServerName: "a.example", Roots: ca.pool()}, Endpoints: []Endpoint{e}},
		"b": {Key: "b", TLS: &TLS{ServerName: "a.example", Roots: ca.pool()}, Endpoints: []Endpoint{e}},
		"c": {Key: "c", TLS: &TLS{ServerName: "a.example", Roots: newAuthority(t, "other").pool()}, Endpoints: []Endpoint{e}},
	})
	mustSend(t, s.Cluster("a"), request(t, "GET", "/", ""), "GET / backend.example ")
	mustSend(t, s.Cluster("b"), request(t, "GET", "/", ""), "GET / backend.example ")
	if n := s.Totals().Connects; n != 1 {
		t.Errorf("%d connections of clusters with equal TLS, want 1", n)
	}
	if _, _, err := send(s.Cluster("c"), request(t, "GET", "/", "")); err == nil {
		t.Error("a cluster with other roots used their connection")
	}
	s.Apply(nil)
	if len(s.profiles) != 0 {
		t.Errorf("%d TLS profiles are left of an empty configuration", len(s.profiles))
	}
}
