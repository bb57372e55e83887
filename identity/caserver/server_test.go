package caserver

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	securityv1alpha1 "istio.io/api/security/v1alpha1"

	"github.com/adit-mesh/adit/identity"
)

func TestIssues(t *testing.T) {
	w := startWorld(t)
	conn := w.dial(t)
	chain, err := call(t, conn, "token-a", newRequest(t, web.String()))
	if err != nil {
		t.Fatal(err)
	}
	a, _ := w.Authority()
	if id, _, err := x509svid.Verify(chain, x509bundle.FromX509Authorities(domain, a.Roots)); err != nil || id != web {
		t.Errorf("verifies as %s, %v", id, err)
	}
	if d := time.Until(chain[0].NotAfter); d > time.Hour || d < 59*time.Minute {
		t.Errorf("lives for %s, asked for was an hour", d)
	}
	if !chain[0].NotBefore.Before(time.Now().Add(-30 * time.Second)) {
		t.Error("a peer whose clock is a little behind refuses it")
	}

	for why, tt := range map[string]struct {
		seconds int64
		want    time.Duration
	}{
		"no wish":           {0, 24 * time.Hour},
		"a day too much":    {2 * 86400, 24 * time.Hour},
		"more than an int":  {1 << 62, 24 * time.Hour},
		"a second will do":  {1, time.Second},
		"the most there is": {1<<63 - 1, 24 * time.Hour},
	} {
		in := newRequest(t, web.String())
		in.ValidityDuration = tt.seconds
		chain, err := call(t, conn, "token-a", in)
		if err != nil {
			t.Errorf("%s: %v", why, err)
			continue
		}
		if d := time.Until(chain[0].NotAfter); d > tt.want || d < tt.want-time.Minute {
			t.Errorf("%s: lives for %s, want %s", why, d, tt.want)
		}
	}
}

func TestLastElementIsTheBundle(t *testing.T) {
	w := startWorld(t)
	next := newRoot(t)
	a, _ := w.Authority()
	w.sign(a.Issuer, next)
	conn := w.dial(t)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer token-a")
	out, err := securityv1alpha1.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, newRequest(t, web.String()))
	if err != nil {
		t.Fatal(err)
	}
	if len(out.CertChain) != 2 {
		t.Errorf("%d elements, want leaf and roots", len(out.CertChain))
	}
	roots, err := identity.ParseRoots([]byte(out.CertChain[len(out.CertChain)-1]))
	if err != nil || len(roots) != 2 || !roots[1].Equal(next.Certificate()) {
		t.Errorf("%d roots, %v; want both", len(roots), err)
	}
}

func TestRefuses(t *testing.T) {
	w := startWorld(t)
	conn := w.dial(t)
	away := "spiffe://cluster.local/ns/default/sa/away"
	w.allowed["node-a "+away] = errors.New("ask the API server: connection refused")
	w.allowed["node-a spiffe://cluster.local/ns/default/sa/other"] = nil
	in := func(change func(*securityv1alpha1.IstioCertificateRequest)) *securityv1alpha1.IstioCertificateRequest {
		r := newRequest(t, web.String())
		change(r)
		return r
	}
	tests := []struct {
		why, token string
		in         *securityv1alpha1.IstioCertificateRequest
		code       codes.Code
		reason     Reason
		text       string
	}{
		{"no token", "", newRequest(t, web.String()), codes.Unauthenticated, ReasonToken, "bearer token"},
		{"an unknown token", "x", newRequest(t, web.String()), codes.Unauthenticated, ReasonToken, "unknown token"},
		{"a huge token", strings.Repeat("x", maxToken+1), newRequest(t, web.String()), codes.Unauthenticated, ReasonToken, "bytes"},
		{"a pod of another node", "token-b", newRequest(t, web.String()), codes.PermissionDenied, ReasonIdentity, "no such pod on node node-b"},
		{"nobody can say now", "token-a", newRequest(t, away), codes.Unavailable, ReasonUnavailable, "API server"},
		{"a foreign trust domain", "token-a", newRequest(t, "spiffe://other.example/ns/default/sa/web"), codes.InvalidArgument, ReasonRequest, "trust domain"},
		{"no workload", "token-a", newRequest(t, "spiffe://cluster.local/ca"), codes.InvalidArgument, ReasonRequest, "form"},
		{"the trust domain itself", "token-a", newRequest(t, "spiffe://cluster.local"), codes.InvalidArgument, ReasonRequest, "form"},
		{"a workload that asks for itself", "token-a", in(func(r *securityv1alpha1.IstioCertificateRequest) { r.Metadata = nil }), codes.InvalidArgument, ReasonRequest, "ImpersonatedIdentity"},
		{"a CSR for another", "token-a", in(func(r *securityv1alpha1.IstioCertificateRequest) {
			r.Csr = newRequest(t, "spiffe://cluster.local/ns/default/sa/other").Csr
		}), codes.InvalidArgument, ReasonRequest, "the certificate request names"},
		{"no CSR", "token-a", in(func(r *securityv1alpha1.IstioCertificateRequest) { r.Csr = "" }), codes.InvalidArgument, ReasonRequest, "not a certificate request"},
		{"a negative life", "token-a", in(func(r *securityv1alpha1.IstioCertificateRequest) { r.ValidityDuration = -1 }), codes.InvalidArgument, ReasonRequest, "negative"},
	}
	counted := map[Reason]float64{}
	for _, tt := range tests {
		_, err := call(t, conn, tt.token, tt.in)
		if status.Code(err) != tt.code || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v; want %s and something about %q", tt.why, err, tt.code, tt.text)
		}
		counted[tt.reason]++
		if got := w.count(t, "adit_ca_requests_refused_total", string(tt.reason)); got != counted[tt.reason] {
			t.Errorf("%s: counted %v as %s, want %v", tt.why, got, tt.reason, counted[tt.reason])
		}
	}
	if w.count(t, "adit_ca_certificates_issued_total", "") != 0 {
		t.Error("something was issued")
	}
	for _, want := range []string{"node=node-b", "adit-system/adit-agent", "identity=" + web.String(), "peer=127.0.0.1", "no such pod"} {
		if !strings.Contains(w.logged(), want) {
			t.Errorf("the log does not say %q:\n%s", want, w.logged())
		}
	}
	if strings.Contains(w.logged(), "token-a") {
		t.Error("a token is in the log")
	}
	if len(w.logged()) > 40000 {
		t.Errorf("the log has %d bytes", len(w.logged()))
	}

	big := newRequest(t, web.String())
	big.Csr = strings.Repeat("x", maxRequest)
	if _, err := call(t, conn, "token-a", big); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a message too large: %v", err)
	}
}

func TestStrangersAreHeldBackAndAgentsAreNot(t *testing.T) {
	w := startWorld(t)
	conn := w.dial(t)
	if _, err := call(t, conn, "token-a", newRequest(t, web.String())); err != nil {
		t.Fatal(err)
	}
	var last error
	for i := range 3 * strangerBurst {
		_, last = call(t, conn, fmt.Sprintf("guess-%d", i), new(securityv1alpha1.IstioCertificateRequest))
	}
	if status.Code(last) != codes.ResourceExhausted {
		t.Errorf("after %d guesses: %v", 3*strangerBurst, last)
	}
	if n := w.auth.questions(); n > 2*strangerBurst {
		t.Errorf("%d questions were passed on for %d guesses", n, 3*strangerBurst)
	}
	if _, err := call(t, conn, "token-a", newRequest(t, web.String())); err != nil {
		t.Errorf("the agent at the same address is known, and held back: %v", err)
	}
	if lines := strings.Count(w.logged(), "\n"); lines > 2*refusalLogBurst {
		t.Errorf("%d lines about %d refusals", lines, 3*strangerBurst)
	}
}

func TestServerCertificateFollowsTheRoot(t *testing.T) {
	w := startWorld(t)
	first, _ := w.Authority()
	serial := func(roots ...*x509.Certificate) string {
		t.Helper()
		pool := x509.NewCertPool()
		for _, r := range roots {
			pool.AddCert(r)
		}
		conn, err := tls.Dial("tcp", w.address, &tls.Config{RootCAs: pool, ServerName: serverName, NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return fmt.Sprintf("%x", conn.ConnectionState().PeerCertificates[0].SerialNumber)
	}
	one := serial(first.Roots...)
	if again := serial(first.Roots...); again != one {
		t.Error("a certificate for each connection")
	}
	second := newRoot(t)
	w.sign(second, first.Issuer)
	if serial(second.Certificate()) == one {
		t.Error("the server's certificate is of the old root")
	}
}

func TestNotReady(t *testing.T) {
	ready := errors.New("the pods are not listed yet")
	w := startWorld(t, func(cfg *Config) { cfg.Ready = func() error { return ready } })
	conn := w.dial(t)
	web := httptest.NewServer(w.server.Handler(w.metrics))
	defer web.Close()
	check := func(why string, code int, text string, serving healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		resp, err := web.Client().Get(web.URL + "/healthz/ready")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != code || !strings.Contains(string(body), text) {
			t.Errorf("%s: %d %q; want %d, %q", why, resp.StatusCode, body, code, text)
		}
		h, err := healthpb.NewHealthClient(conn).Check(t.Context(), new(healthpb.HealthCheckRequest))
		if err != nil || h.Status != serving {
			t.Errorf("%s: gRPC health %v, %v", why, h.GetStatus(), err)
		}
	}
	check("not yet", 503, "pods are not listed", healthpb.HealthCheckResponse_NOT_SERVING)
	ready = nil
	check("now", 200, "ok", healthpb.HealthCheckResponse_SERVING)
	w.mu.Lock()
	w.authority = nil
	w.mu.Unlock()
	check("without a root", 503, "no root", healthpb.HealthCheckResponse_NOT_SERVING)
	if _, err := call(t, conn, "token-a", newRequest(t, "spiffe://cluster.local/ns/default/sa/web")); status.Code(err) != codes.Unavailable {
		t.Errorf("without a root: %v", err)
	}
	for path, want := range map[string]string{"/healthz/live": "ok", "/metrics": "adit_ca_root_expiry_timestamp_seconds 0"} {
		resp, err := web.Client().Get(web.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || !strings.Contains(string(body), want) {
			t.Errorf("%s: %d, without %q", path, resp.StatusCode, want)
		}
	}
}

// TestStopsSoftly: a request under way is answered, and the server says that it
// is not ready before it takes no more.
func TestStopsSoftly(t *testing.T) {
	w := startWorld(t, func(cfg *Config) { cfg.Linger = 300 * time.Millisecond })
	conn := w.dial(t)
	w.auth.mu.Lock()
	w.auth.delay = 600 * time.Millisecond
	w.auth.mu.Unlock()
	answered := make(chan error, 1)
	go func() {
		_, err := call(t, conn, "token-a", newRequest(t, web.String()))
		answered <- err
	}()
	for w.auth.questions() == 0 {
		time.Sleep(time.Millisecond)
	}
	w.stop()
	for w.server.Ready() == nil {
		time.Sleep(time.Millisecond)
	}
	if c, err := net.Dial("tcp", w.address); err != nil {
		t.Errorf("not ready, but still there while others learn of it: %v", err)
	} else {
		c.Close()
	}
	if err := <-answered; err != nil {
		t.Errorf("the request under way: %v", err)
	}
	err := <-w.served
	w.served <- err
	if err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", w.address); err == nil {
		c.Close()
		t.Error("it still listens")
	}
}

func TestCallersAreLimited(t *testing.T) {
	w := startWorld(t)
	for range callerBurst {
		w.server.callers.allow("node-a/uid-node-a")
	}
	_, err := call(t, w.dial(t), "token-a", newRequest(t, web.String()))
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "node-a") {
		t.Errorf("%v", err)
	}
}
