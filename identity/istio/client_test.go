package istio

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	securityv1alpha1 "istio.io/api/security/v1alpha1"

	"github.com/adit-mesh/adit/identity"
)

func TestFetch(t *testing.T) {
	root := newRoot(t)
	s := startIstiod(t, root)
	c := newClient(t, s, trusting(root), func(cfg *Config) { cfg.TTL = 90 * time.Minute })
	svid, err := c.FetchX509SVID(t.Context(), web)
	if err != nil {
		t.Fatal(err)
	}
	if id, _, err := x509svid.Verify(svid.Certificates, c); err != nil || id != web || svid.ID != web {
		t.Errorf("it is for %s and verifies as %s, %v", svid.ID, id, err)
	}
	if len(svid.Certificates) != 1 {
		t.Errorf("%d certificates; the root is not presented", len(svid.Certificates))
	}
	if key, ok := svid.PrivateKey.(*ecdsa.PrivateKey); !ok || key.Curve != elliptic.P256() {
		t.Errorf("key %T; want P-256", svid.PrivateKey)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if got := s.lastCtx.Get("clusterid"); len(got) != 1 || got[0] != "Kubernetes" {
		t.Errorf("clusterid %q", got)
	}
	if s.last.ValidityDuration != 5400 {
		t.Errorf("asked for %d s, want 5400", s.last.ValidityDuration)
	}
	block, rest := pem.Decode([]byte(s.last.Csr))
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) != 0 {
		t.Fatalf("CSR %q", s.last.Csr)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if len(csr.URIs) != 1 || csr.URIs[0].String() != web.String() || len(csr.Subject.Names) != 0 || len(csr.Extensions) != 1 {
		t.Errorf("the CSR carries more than the URI: %v %v, %d extensions", csr.URIs, csr.Subject, len(csr.Extensions))
	}
}

func TestTokenIsReadForEachCall(t *testing.T) {
	root := newRoot(t)
	s := startIstiod(t, root)
	c := newClient(t, s, trusting(root))
	if _, err := c.FetchX509SVID(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.token = "token-2"
	s.mu.Unlock()
	_, err := c.FetchX509SVID(t.Context(), web)
	if err == nil || errors.Is(err, identity.ErrRefused) || !strings.Contains(err.Error(), c.cfg.TokenFile) {
		t.Errorf("an old token: %v; want the file's name, and that it may pass", err)
	}
	writeToken(t, c.cfg.TokenFile, "token-2")
	if _, err := c.FetchX509SVID(t.Context(), web); err != nil {
		t.Errorf("kubelet has renewed the token: %v", err)
	}

	for _, bad := range []string{"", " \n", "two words", "tok\x00en", strings.Repeat("x", maxToken+1)} {
		writeToken(t, c.cfg.TokenFile, bad)
		if _, err := c.FetchX509SVID(t.Context(), web); err == nil || !strings.Contains(err.Error(), "token for the CA") {
			t.Errorf("token %.20q: %v", bad, err)
		}
	}
}

func TestForeignTrustDomainIsNotAskedFor(t *testing.T) {
	root := newRoot(t)
	s := startIstiod(t, root)
	c := newClient(t, s, trusting(root))
	_, err := c.FetchX509SVID(t.Context(), spiffeid.RequireFromString("spiffe://other.example/ns/default/sa/web"))
	if !errors.Is(err, identity.ErrRefused) || s.conns.Load() != 0 {
		t.Errorf("%v after %d connections; want ErrRefused without one", err, s.conns.Load())
	}
}

func TestAnswersOtherThanAskedFor(t *testing.T) {
	root := newRoot(t)
	s := startIstiod(t, root)
	c := newClient(t, s, trusting(root))
	type request = securityv1alpha1.IstioCertificateRequest
	type response = securityv1alpha1.IstioCertificateResponse
	tests := []struct {
		why    string
		answer func(*request) (*response, error)
		text   string
	}{
		{"another identity", func(in *request) (*response, error) {
			return s.sign(in, "spiffe://cluster.local/ns/default/sa/other")
		}, "it is for spiffe://cluster.local/ns/default/sa/other"},
		{"another key", func(in *request) (*response, error) {
			_, csr, err := newRequest(web)
			if err != nil {
				return nil, err
			}
			return s.sign(&request{Csr: string(csr), ValidityDuration: 60}, web.String())
		}, "another public key"},
		{"a server's certificate", func(in *request) (*response, error) {
			chain, err := root.SignServer([]string{"a.example"}, newKey(t).Public(), time.Hour)
			return &response{CertChain: []string{string(identity.EncodeCertificates(chain)), "root"}}, err
		}, "no URI"},
		{"no chain", func(*request) (*response, error) { return &response{}, nil }, "chain is empty"},
		{"not PEM", func(*request) (*response, error) { return &response{CertChain: []string{"x", "y"}}, nil }, "not PEM"},
	}
	for _, tt := range tests {
		s.answering(func(_ context.Context, in *request) (*response, error) { return tt.answer(in) })
		if _, err := c.FetchX509SVID(t.Context(), web); err == nil || !strings.Contains(err.Error(), tt.text) || errors.Is(err, identity.ErrRefused) {
			t.Errorf("%s: %v; want something about %q", tt.why, err, tt.text)
		}
	}
}

func TestRefusalAndTroubleAreToldApart(t *testing.T) {
	root := newRoot(t)
	s := startIstiod(t, root)
	c := newClient(t, s, trusting(root))
	tests := []struct {
		code    codes.Code
		refused bool
		text    string
	}{
		{codes.InvalidArgument, true, "refused by ca"},
		{codes.PermissionDenied, false, "not seen the pod yet"},
		{codes.Unauthenticated, false, "token"},
		{codes.Unavailable, false, "is unavailable"},
		{codes.ResourceExhausted, false, "ResourceExhausted"},
		{codes.Internal, false, "Internal"},
		{codes.Unimplemented, false, "adit ca or istiod"},
	}
	for _, tt := range tests {
		s.answering(func(context.Context, *securityv1alpha1.IstioCertificateRequest) (*securityv1alpha1.IstioCertificateResponse, error) {
			return nil, status.Error(tt.code, "because "+strings.Repeat("x", 2000))
		})
		_, err := c.FetchX509SVID(t.Context(), web)
		if err == nil || errors.Is(err, identity.ErrRefused) != tt.refused || !strings.Contains(err.Error(), tt.text) ||
			!strings.Contains(err.Error(), "because") || !strings.Contains(err.Error(), s.address) {
			t.Errorf("%s: %v; want refused %v and something about %q", tt.code, err, tt.refused, tt.text)
		}
		if len(err.Error()) > 600 {
			t.Errorf("%s: a message of %d bytes; the server writes our log", tt.code, len(err.Error()))
		}
	}
}

func TestSlowServer(t *testing.T) {
	root := newRoot(t)
	s := startIstiod(t, root)
	s.answering(func(ctx context.Context, _ *securityv1alpha1.IstioCertificateRequest) (*securityv1alpha1.IstioCertificateResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	c := newClient(t, s, trusting(root))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := c.FetchX509SVID(ctx, web); err == nil || !strings.Contains(err.Error(), "not answered in time") {
		t.Errorf("%v", err)
	}

	failed := make(chan error, 1)
	go func() {
		_, err := c.FetchX509SVID(context.Background(), web)
		failed <- err
	}()
	for c.calls() == 0 {
		time.Sleep(time.Millisecond)
	}
	c.Close()
	if err := <-failed; err == nil {
		t.Error("Close left a call under way")
	}
	if _, err := c.FetchX509SVID(t.Context(), web); !errors.Is(err, errClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func (c *Client) calls() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return 0
	}
	return c.conn.calls
}

func TestOneConnection(t *testing.T) {
	root := newRoot(t)
	s := startIstiod(t, root)
	c := newClient(t, s, trusting(root))
	var fetches sync.WaitGroup
	for range 20 {
		fetches.Go(func() {
			if _, err := c.FetchX509SVID(t.Context(), web); err != nil {
				t.Error(err)
			}
		})
	}
	fetches.Wait()
	if n := s.conns.Load(); n != 1 {
		t.Errorf("%d connections for 20 requests, want 1", n)
	}
}

func TestServerMustBeWhoItIs(t *testing.T) {
	root := newRoot(t)
	s := startIstiod(t, root)
	c := newClient(t, s, trusting(root), func(cfg *Config) { cfg.ServerName = "other.svc" })
	if _, err := c.FetchX509SVID(t.Context(), web); err == nil || !strings.Contains(err.Error(), "other.svc") {
		t.Errorf("another name: %v", err)
	}
	s.mu.Lock()
	sent := s.last != nil
	s.mu.Unlock()
	if sent {
		t.Error("a token went to a server that is somebody else")
	}

	c = newClient(t, s, trusting(root), func(cfg *Config) { cfg.ServerName = "" })
	if _, err := c.FetchX509SVID(t.Context(), web); err != nil {
		t.Errorf("the address itself is in the certificate: %v", err)
	}

	// A pod of the mesh that gets in the way has an SVID, and no name.
	svid, err := c.FetchX509SVID(t.Context(), web)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.tls = &tls.Certificate{PrivateKey: svid.PrivateKey, Certificate: [][]byte{svid.Certificates[0].Raw}}
	s.mu.Unlock()
	c = newClient(t, s, trusting(root))
	if _, err := c.FetchX509SVID(t.Context(), web); err == nil {
		t.Error("a workload's SVID passes for the CA's certificate")
	}
}

func TestServerComesBack(t *testing.T) {
	root := newRoot(t)
	s := startIstiod(t, root)
	c := newClient(t, s, trusting(root))
	if _, err := c.FetchX509SVID(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	s.stop()
	_, err := c.FetchX509SVID(t.Context(), web)
	if err == nil || errors.Is(err, identity.ErrRefused) {
		t.Errorf("server away: %v", err)
	}
	s.start(t, s.address)
	defer s.stop()
	deadline := time.Now().Add(20 * time.Second)
	for {
		if _, err = c.FetchX509SVID(t.Context(), web); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server is back: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestConfig(t *testing.T) {
	good := Config{Address: "ca:15012", TokenFile: "/t", Roots: trusting(), TrustDomain: domain}
	if c, err := New(good); err != nil || c.serverName != "ca" || c.cfg.TTL != 24*time.Hour {
		t.Errorf("%v", err)
	}
	for why, change := range map[string]func(*Config){
		"no port":         func(c *Config) { c.Address = "ca" },
		"no host":         func(c *Config) { c.Address = ":15012" },
		"no token":        func(c *Config) { c.TokenFile = "" },
		"no roots":        func(c *Config) { c.Roots = nil },
		"no trust domain": func(c *Config) { c.TrustDomain = spiffeid.TrustDomain{} },
		"negative ttl":    func(c *Config) { c.TTL = -1 },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", why)
		}
	}
}
