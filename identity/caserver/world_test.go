package caserver

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"
	securityv1alpha1 "istio.io/api/security/v1alpha1"

	"github.com/adit-mesh/adit/identity/ca"
)

var domain = spiffeid.RequireTrustDomainFromString("cluster.local")

const serverName = "adit-ca.adit-system.svc"

// world is a server with all that it asks.
type world struct {
	server  *Server
	address string
	auth    *register
	metrics *prometheus.Registry
	stop    context.CancelFunc
	served  chan error

	mu        sync.Mutex // guards the fields below
	authority *ca.Authority
	allowed   map[string]error // node and identity to what Authorize says
	log       bytes.Buffer
}

func (w *world) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

func (w *world) logged() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

func (w *world) Authorize(ctx context.Context, caller Caller, id spiffeid.ID) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err, ok := w.allowed[caller.Node+" "+id.String()]
	if !ok {
		return Refuse(ReasonIdentity, "no such pod on node %s", caller.Node)
	}
	return err
}

func (w *world) Authority() (*ca.Authority, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.authority == nil {
		return nil, errors.New("there is no root yet")
	}
	return w.authority, nil
}

func (w *world) sign(issuer *ca.Issuer, trusted ...*ca.Issuer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.authority = &ca.Authority{Issuer: issuer, MaxTTL: 24 * time.Hour}
	for _, i := range append([]*ca.Issuer{issuer}, trusted...) {
		w.authority.Roots = append(w.authority.Roots, i.Certificate())
	}
}

func newRoot(t testing.TB) *ca.Issuer {
	t.Helper()
	root, err := ca.NewRoot(domain, 1000*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// startWorld serves until the test ends. The agent of node-a has the token
// token-a, and default/web runs there.
func startWorld(t *testing.T, change ...func(*Config)) *world {
	t.Helper()
	w := &world{
		auth:    &register{of: map[string]Caller{"token-a": agent("node-a", time.Hour), "token-b": agent("node-b", time.Hour)}},
		metrics: prometheus.NewRegistry(),
		allowed: map[string]error{"node-a " + web.String(): nil},
		served:  make(chan error, 1),
	}
	w.sign(newRoot(t))
	cfg := Config{
		TrustDomain: domain, Authority: w.Authority, Authenticator: w.auth, Authorizer: w,
		ServerNames: []string{serverName}, Registerer: w.metrics,
		Logger: slog.New(slog.NewTextHandler(w, nil)),
	}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if w.server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.address = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	w.stop = cancel
	go func() { w.served <- w.server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-w.served; err != nil {
			t.Errorf("Serve returned %v", err)
		}
		w.served <- nil
	})
	return w
}

func (w *world) dial(t *testing.T) *grpc.ClientConn {
	t.Helper()
	pool := x509.NewCertPool()
	a, err := w.Authority()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range a.Roots {
		pool.AddCert(r)
	}
	conn, err := grpc.NewClient("passthrough:///"+w.address,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool, ServerName: serverName})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func newRequest(t testing.TB, id string) *securityv1alpha1.IstioCertificateRequest {
	t.Helper()
	return &securityv1alpha1.IstioCertificateRequest{
		Csr:              csr(t, ecKey(t, elliptic.P256()), &x509.CertificateRequest{URIs: uris(t, id)}),
		ValidityDuration: 3600,
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
			"ImpersonatedIdentity": structpb.NewStringValue(id),
		}},
	}
}

func call(t *testing.T, conn *grpc.ClientConn, token string, in *securityv1alpha1.IstioCertificateRequest) ([]*x509.Certificate, error) {
	t.Helper()
	ctx := t.Context()
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	out, err := securityv1alpha1.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, in)
	if err != nil {
		return nil, err
	}
	return parse(t, strings.Join(out.CertChain[:len(out.CertChain)-1], "")), nil
}

func parse(t *testing.T, text string) []*x509.Certificate {
	t.Helper()
	var certs []*x509.Certificate
	for rest := []byte(text); len(bytes.TrimSpace(rest)) > 0; {
		block, next := decode(t, rest)
		cert, err := x509.ParseCertificate(block)
		if err != nil {
			t.Fatal(err)
		}
		certs, rest = append(certs, cert), next
	}
	return certs
}

func (w *world) count(t *testing.T, name, reason string) float64 {
	t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if reason == "" || m.GetLabel()[0].GetValue() == reason {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	t.Errorf("no metric %s{reason=%q}", name, reason)
	return -1
}
