package upstream

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// tlsProfile is one way to speak TLS, which all clusters share that are configured
// equally.
type tlsProfile struct {
	cfg *TLS
	key string
	// refs is guarded by Set.mu.
	refs int
}

// tlsProfiles are the profiles in use, by a text of everything but the roots, which
// have no text. It is guarded by Set.mu.
type tlsProfiles map[string][]*tlsProfile

func (ps *tlsProfiles) acquire(cfg *TLS) *tlsProfile {
	if *ps == nil {
		*ps = make(tlsProfiles)
	}
	key := profileText(cfg)
	for _, p := range (*ps)[key] {
		if p.cfg == cfg || sameRoots(p.cfg.Roots, cfg.Roots) {
			p.refs++
			return p
		}
	}
	p := &tlsProfile{cfg: cfg, key: key, refs: 1}
	(*ps)[key] = append((*ps)[key], p)
	return p
}

func (ps tlsProfiles) release(p *tlsProfile) {
	if p.refs--; p.refs > 0 {
		return
	}
	list := ps[p.key]
	if len(list) == 1 {
		delete(ps, p.key)
		return
	}
	rest := make([]*tlsProfile, 0, len(list)-1)
	for _, q := range list {
		if q != p {
			rest = append(rest, q)
		}
	}
	ps[p.key] = rest
}

func sameRoots(a, b *x509.CertPool) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Equal(b)
}

func profileText(cfg *TLS) string {
	var sb strings.Builder
	fmt.Fprintf(&sb, "%q %q", cfg.ServerName, cfg.Invalid)
	for _, s := range cfg.SANs {
		fmt.Fprintf(&sb, " %q %q", s.DNS, s.URI)
	}
	if c := cfg.Certificate; c != nil {
		for _, der := range c.Certificate {
			fmt.Fprintf(&sb, " %x", sha256.Sum256(der))
		}
	}
	return sb.String()
}

// clientConfig is crypto/tls's configuration for one endpoint, with a session
// cache of its own: endpoints do not share ticket keys.
func (p *tlsProfile) clientConfig(sessions tls.ClientSessionCache, protos ...string) *tls.Config {
	c := &tls.Config{
		ServerName: p.cfg.ServerName,
		MinVersion: tls.VersionTLS12,
		NextProtos: protos,
		// VerifyConnection does all of the verification, on resumed sessions too:
		// crypto/tls knows no SANs beside the server's name.
		InsecureSkipVerify: true,
		VerifyConnection:   func(cs tls.ConnectionState) error { return verifyBackend(p.cfg, cs.PeerCertificates, time.Now()) },
		ClientSessionCache: sessions,
	}
	if cert := p.cfg.Certificate; cert != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return c
}

// handshakeError is a handshake that did not end well.
type handshakeError struct{ err error }

func (e *handshakeError) Error() string { return "TLS handshake: " + e.err.Error() }
func (e *handshakeError) Unwrap() error { return e.err }

// handshake makes a TLS connection of c, which it closes if it cannot.
func handshake(ctx context.Context, c net.Conn, cfg *tls.Config) (*tls.Conn, error) {
	tc := tls.Client(c, cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		c.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		var record tls.RecordHeaderError
		switch {
		case errors.As(err, &record):
			err = fmt.Errorf("%w; does the backend speak TLS on this port?", err)
		case strings.HasSuffix(err.Error(), "no application protocol"): // an alert has no type
			err = fmt.Errorf("%w: the backend does not speak %s", err, strings.Join(cfg.NextProtos, " or "))
		}
		return nil, &handshakeError{err}
	}
	return tc, nil
}

// certificateError is a certificate that is not what the configuration wants.
type certificateError struct{ reason string }

func (e *certificateError) Error() string { return "certificate of the backend: " + e.reason }

// verifyBackend says whether a backend that presented these certificates is the one
// that cfg describes. Its errors are for the operator of the BackendTLSPolicy.
func verifyBackend(cfg *TLS, certs []*x509.Certificate, now time.Time) error {
	if len(certs) == 0 {
		return &certificateError{"there is none"}
	}
	leaf := certs[0]
	opts := x509.VerifyOptions{Roots: cfg.Roots, Intermediates: x509.NewCertPool(), CurrentTime: now}
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(opts); err != nil {
		return &certificateError{chainProblem(leaf, err, now)}
	}
	if len(cfg.SANs) == 0 {
		if err := leaf.VerifyHostname(cfg.ServerName); err != nil {
			return &certificateError{fmt.Sprintf("is for %s, and not for %q", namesOf(leaf), cfg.ServerName)}
		}
		return nil
	}
	for _, want := range cfg.SANs {
		if want.in(leaf) {
			return nil
		}
	}
	return &certificateError{fmt.Sprintf("is for %s, and has none of the policy's subjectAltNames: %s", namesOf(leaf), wanted(cfg.SANs))}
}

func chainProblem(leaf *x509.Certificate, err error, now time.Time) string {
	var unknown x509.UnknownAuthorityError
	switch {
	case now.After(leaf.NotAfter):
		return fmt.Sprintf("expired at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return fmt.Sprintf("is not valid before %s; are the clocks right?", leaf.NotBefore.UTC().Format(time.RFC3339))
	case errors.As(err, &unknown):
		return fmt.Sprintf("is signed by no CA that the policy names: subject %q, issuer %q", leaf.Subject, leaf.Issuer)
	}
	return err.Error()
}

// in says whether the certificate has the name. A wildcard in the certificate
// stands for one label, as everywhere; one in the policy is the name that the
// certificate has, or stands for one label, too.
func (want SAN) in(leaf *x509.Certificate) bool {
	if want.URI != "" {
		for _, u := range leaf.URIs {
			if u.String() == want.URI {
				return true
			}
		}
		return false
	}
	if rest, ok := strings.CutPrefix(want.DNS, "*."); ok {
		for _, name := range leaf.DNSNames {
			_, parent, ok := strings.Cut(name, ".")
			if ok && strings.EqualFold(parent, rest) {
				return true
			}
		}
		return false
	}
	return want.DNS != "" && len(leaf.DNSNames) > 0 && leaf.VerifyHostname(want.DNS) == nil
}

func namesOf(leaf *x509.Certificate) string {
	names := append([]string(nil), leaf.DNSNames...)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	for _, u := range leaf.URIs {
		names = append(names, u.String())
	}
	if len(names) == 0 {
		return fmt.Sprintf("no name at all (subject %q)", leaf.Subject)
	}
	const most = 8
	if len(names) > most {
		names = append(names[:most], "…")
	}
	return strings.Join(names, ", ")
}

func wanted(sans []SAN) string {
	var names []string
	for _, s := range sans {
		names = append(names, s.DNS+s.URI)
	}
	return strings.Join(names, ", ")
}
