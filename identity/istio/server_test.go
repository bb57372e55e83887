package istio

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	securityv1alpha1 "istio.io/api/security/v1alpha1"

	"github.com/adit-mesh/adit/identity"
	"github.com/adit-mesh/adit/identity/ca"
)

var (
	domain = spiffeid.RequireTrustDomainFromString("cluster.local")
	web    = spiffeid.RequireFromString("spiffe://cluster.local/ns/default/sa/web")
)

const serverName = "istiod.istio-system.svc"

func newRoot(t testing.TB) *ca.Issuer {
	t.Helper()
	root, err := ca.NewRoot(domain, 1000*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// istiod is a server of CreateCertificate that signs for whoever has a token.
type istiod struct {
	securityv1alpha1.UnimplementedIstioCertificateServiceServer
	address string

	conns atomic.Int32

	mu      sync.Mutex // guards the fields below
	root    *ca.Issuer
	tls     *tls.Certificate
	token   string
	answer  func(context.Context, *securityv1alpha1.IstioCertificateRequest) (*securityv1alpha1.IstioCertificateResponse, error)
	last    *securityv1alpha1.IstioCertificateRequest
	lastCtx metadata.MD
	stop    func()
}

// startIstiod serves until the test ends.
func startIstiod(t *testing.T, root *ca.Issuer) *istiod {
	t.Helper()
	s := &istiod{token: "token-1"}
	s.use(t, root)
	s.start(t, "127.0.0.1:0")
	t.Cleanup(func() { s.stop() })
	return s
}

// use has the server present and issue certificates under root.
func (s *istiod) use(t testing.TB, root *ca.Issuer) {
	t.Helper()
	key := newKey(t)
	chain, err := root.SignServer([]string{serverName, "127.0.0.1"}, key.Public(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.root = root
	s.tls = &tls.Certificate{PrivateKey: key, Certificate: [][]byte{chain[0].Raw}}
}

func (s *istiod) start(t testing.TB, address string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	g := grpc.NewServer(grpc.WaitForHandlers(true), grpc.Creds(credentials.NewTLS(&tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.tls, nil
		},
	})))
	securityv1alpha1.RegisterIstioCertificateServiceServer(g, s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.Serve(countingListener{l, &s.conns})
	}()
	s.stop = sync.OnceFunc(func() { g.Stop(); <-done })
}

type countingListener struct {
	net.Listener
	n *atomic.Int32
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.n.Add(1)
	}
	return c, err
}

func (s *istiod) CreateCertificate(ctx context.Context, in *securityv1alpha1.IstioCertificateRequest) (*securityv1alpha1.IstioCertificateResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	s.mu.Lock()
	s.last, s.lastCtx = in, md
	answer, token := s.answer, s.token
	s.mu.Unlock()
	if !slices.Equal(md.Get("authorization"), []string{"Bearer " + token}) {
		return nil, status.Error(codes.Unauthenticated, "request authentication failure")
	}
	if answer != nil {
		return answer(ctx, in)
	}
	return s.sign(in, in.Metadata.Fields["ImpersonatedIdentity"].GetStringValue())
}

// sign issues a certificate for the key in the request, in Istio's form.
func (s *istiod) sign(in *securityv1alpha1.IstioCertificateRequest, id string) (*securityv1alpha1.IstioCertificateResponse, error) {
	block, _ := pem.Decode([]byte(in.GetCsr()))
	if block == nil {
		return nil, status.Error(codes.InvalidArgument, "no CSR")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		return nil, status.Error(codes.InvalidArgument, "bad CSR")
	}
	named, err := spiffeid.FromString(id)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	s.mu.Lock()
	root := s.root
	s.mu.Unlock()
	chain, err := root.SignSVID(named, csr.PublicKey, time.Duration(in.ValidityDuration)*time.Second)
	if err != nil {
		return nil, err
	}
	return &securityv1alpha1.IstioCertificateResponse{CertChain: []string{
		string(identity.EncodeCertificates(chain)),
		string(identity.EncodeCertificates([]*x509.Certificate{root.Certificate()})),
	}}, nil
}

func (s *istiod) answering(answer func(context.Context, *securityv1alpha1.IstioCertificateRequest) (*securityv1alpha1.IstioCertificateResponse, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// roots is a RootSource that the test changes.
type roots struct {
	mu      sync.Mutex
	current []*x509.Certificate
	waiting []chan struct{}
}

func (r *roots) set(issuers ...*ca.Issuer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current = nil
	for _, i := range issuers {
		r.current = append(r.current, i.Certificate())
	}
	for _, c := range r.waiting {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (r *roots) Current() []*x509.Certificate {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current
}

func (r *roots) Subscribe() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = append(r.waiting, c)
	return c, func() {}
}

func writeToken(t testing.TB, path, token string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
}

// newClient returns a client of s that trusts what r holds.
func newClient(t *testing.T, s *istiod, r RootSource, change ...func(*Config)) *Client {
	t.Helper()
	cfg := Config{
		Address: s.address, ServerName: serverName, TokenFile: filepath.Join(t.TempDir(), "token"),
		Roots: r, TrustDomain: domain, ClusterID: "Kubernetes",
	}
	writeToken(t, cfg.TokenFile, "token-1\n")
	for _, f := range change {
		f(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func trusting(issuers ...*ca.Issuer) *roots {
	r := new(roots)
	r.set(issuers...)
	return r
}
