package caserver

import (
	"context"
	"crypto/x509"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	securityv1alpha1 "istio.io/api/security/v1alpha1"

	"github.com/adit-mesh/adit/identity"
)

const (
	// callTimeout bounds one request.
	callTimeout = 10 * time.Second
	// maxToken bounds a token. Service account tokens are one or two
	// kilobytes.
	maxToken = 16 << 10
)

// request is what is known of one while it is handled, for the log.
type request struct {
	peer     string
	caller   Caller
	identity string
}

// CreateCertificate implements Istio's IstioCertificateService.
func (s *Server) CreateCertificate(ctx context.Context, in *securityv1alpha1.IstioCertificateRequest) (*securityv1alpha1.IstioCertificateResponse, error) {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()

	var req request
	out, err := s.create(ctx, in, &req)
	s.metrics.duration.Observe(time.Since(begin).Seconds())
	if err != nil {
		r := refusal(ctx, err)
		s.metrics.refused.WithLabelValues(string(r.Reason)).Inc()
		s.logRefusal(&req, r)
		return nil, r.status()
	}
	s.metrics.issued.Inc()
	return out, nil
}

// create goes from cheap to dear: strangers get as far as their token.
func (s *Server) create(ctx context.Context, in *securityv1alpha1.IstioCertificateRequest, req *request) (*securityv1alpha1.IstioCertificateResponse, error) {
	addr := peerAddr(ctx)
	req.peer = addr.String()
	req.identity = in.GetMetadata().GetFields()["ImpersonatedIdentity"].GetStringValue()

	var err error
	if req.caller, err = s.authenticate(ctx, addr); err != nil {
		return nil, err
	}
	if !s.callers.allow(req.caller.Node + "/" + req.caller.PodUID) {
		return nil, Refuse(ReasonRate, "more than %d certificates a second for %s", callerRate, req.caller)
	}
	id, err := s.wanted(req.identity)
	if err != nil {
		return nil, err
	}
	public, named, err := parseCSR(in.GetCsr())
	if err != nil {
		return nil, Refuse(ReasonRequest, "certificate request: %w", err)
	}
	if named != id {
		return nil, Refuse(ReasonRequest, "the certificate request names %s, the metadata %s", named, id)
	}
	if in.GetValidityDuration() < 0 {
		return nil, Refuse(ReasonRequest, "negative validity %d s", in.GetValidityDuration())
	}
	if err := s.cfg.Authorizer.Authorize(ctx, req.caller, id); err != nil {
		return nil, err
	}

	authority, err := s.cfg.Authority()
	if err != nil {
		return nil, err
	}
	ttl := min(s.cfg.DefaultTTL, authority.MaxTTL)
	if seconds := in.GetValidityDuration(); seconds > 0 {
		ttl = authority.MaxTTL
		if seconds < int64(math.MaxInt64/time.Second) {
			ttl = min(ttl, time.Duration(seconds)*time.Second)
		}
	}
	chain, err := authority.Issuer.SignSVID(id, public, ttl)
	if err != nil {
		return nil, err
	}
	out := new(securityv1alpha1.IstioCertificateResponse)
	for _, c := range chain {
		out.CertChain = append(out.CertChain, string(identity.EncodeCertificates([]*x509.Certificate{c})))
	}
	out.CertChain = append(out.CertChain, string(identity.EncodeCertificates(authority.Roots)))
	s.log.Debug("certificate issued", "identity", id.String(), "caller", req.caller,
		"serial", fmt.Sprintf("%x", chain[0].SerialNumber), "not_after", chain[0].NotAfter)
	return out, nil
}

func (s *Server) authenticate(ctx context.Context, addr netip.Addr) (Caller, error) {
	token, err := bearerToken(ctx)
	if err != nil {
		return Caller{}, err
	}
	if caller, ok := s.tokens.remembered(token); ok {
		return caller, nil
	}
	if !s.strangers.allow(addr) {
		return Caller{}, Refuse(ReasonRate, "too many unknown tokens from %s", addr)
	}
	return s.tokens.authenticate(ctx, token)
}

func bearerToken(ctx context.Context) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) != 1 {
		return "", Refuse(ReasonToken, "%d authorization headers; want one bearer token", len(values))
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", Refuse(ReasonToken, "the authorization header holds no bearer token")
	}
	if len(token) > maxToken {
		return "", Refuse(ReasonToken, "the token has %d bytes, more than %d", len(token), maxToken)
	}
	return token, nil
}

// wanted reads the identity that a request is for.
func (s *Server) wanted(text string) (spiffeid.ID, error) {
	if text == "" {
		return spiffeid.ID{}, Refuse(ReasonRequest, "the metadata names no ImpersonatedIdentity: whose certificate is wanted must be said")
	}
	id, err := spiffeid.FromString(text)
	if err != nil {
		return spiffeid.ID{}, Refuse(ReasonRequest, "identity %.256q: %w", text, err)
	}
	if id.TrustDomain() != s.cfg.TrustDomain {
		return spiffeid.ID{}, Refuse(ReasonRequest, "identity %.256q is not in trust domain %q of this CA", text, s.cfg.TrustDomain.Name())
	}
	if _, _, ok := identity.ParseWorkloadID(id); !ok {
		return spiffeid.ID{}, Refuse(ReasonRequest, "identity %.256q is not of the form spiffe://%s/ns/<namespace>/sa/<service account>",
			text, s.cfg.TrustDomain.Name())
	}
	return id, nil
}

func peerAddr(ctx context.Context) netip.Addr {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return netip.Addr{}
	}
	if tcp, ok := p.Addr.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// logRefusal says who asked for what from where, and why not. A flood of
// refusals is a few lines a second; the next of them says how many are missing.
func (s *Server) logRefusal(req *request, r *Refusal) {
	if !s.refusalLog.Allow() {
		s.unlogged.Add(1)
		return
	}
	attrs := []any{"reason", string(r.Reason), "error", r.Err, "identity", shorten(req.identity), "peer", req.peer}
	if req.caller != (Caller{}) {
		attrs = append(attrs, "caller", req.caller)
	}
	if n := s.unlogged.Swap(0); n > 0 {
		attrs = append(attrs, "not_logged", n)
	}
	s.log.Warn("certificate refused", attrs...)
}

func shorten(s string) string {
	if len(s) > 256 {
		return s[:256] + "..."
	}
	return s
}
