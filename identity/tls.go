package identity

import (
	"context"
	"crypto/tls"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	// clientIdle is how long a client configuration is kept unused.
	clientIdle = 10 * time.Minute
	// handshakeWait bounds the wait of a handshake for an SVID.
	handshakeWait = 5 * time.Second
	// maxClients bounds the client configurations of one identity.
	maxClients = 1024
)

// clientConfig is a cached configuration toward one set of peers.
type clientConfig struct {
	config *tls.Config
	used   time.Time
}

// ServerTLS returns the configuration of a server that is id: TLS 1.3, ALPN
// h2, a client SVID of the manager's trust domains required. It presents
// whatever SVID is current at each handshake, so it serves across rotations;
// a handshake before the first SVID waits for it, for 5 s or three quarters of
// the time its context leaves.
// The configuration is shared and must not be changed.
func (m *Manager) ServerTLS(id spiffeid.ID) *tls.Config {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[id]
	if e == nil {
		// Works, that is: refuses, until the identity is acquired. Not
		// cached, since nothing would drop it.
		return m.newServerConfig(id)
	}
	if e.server == nil {
		e.server = m.newServerConfig(id)
	}
	return e.server
}

// ClientTLS returns the configuration of a client that is id and whose server
// must be one of expect; an empty expect refuses every server. TLS 1.3, ALPN
// h2, no server name is sent. The configuration is shared and must not be
// changed.
func (m *Manager) ClientTLS(id spiffeid.ID, expect []spiffeid.ID) *tls.Config {
	key := peersKey(expect)
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[id]
	if e == nil {
		return m.newClientConfig(id, slices.Clone(expect))
	}
	c := e.clients[key]
	if c == nil {
		if len(e.clients) >= maxClients {
			e.forgetOldestClient()
		}
		c = &clientConfig{config: m.newClientConfig(id, slices.Clone(expect))}
		e.clients[key] = c
	}
	c.used = time.Now()
	return c.config
}

// peersKey is equal for equal sets.
func peersKey(expect []spiffeid.ID) string {
	switch len(expect) {
	case 0:
		return ""
	case 1:
		return expect[0].String() // the usual case costs no allocation
	}
	names := make([]string, len(expect))
	for i, id := range expect {
		names[i] = id.String()
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), " ")
}

func (e *entry) forgetOldestClient() {
	var oldest string
	var used time.Time
	for key, c := range e.clients {
		if used.IsZero() || c.used.Before(used) {
			oldest, used = key, c.used
		}
	}
	delete(e.clients, oldest)
}

// sweepClients forgets the configurations toward peers that nobody dials any
// more. Who holds one may go on using it.
func (m *Manager) sweepClients(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.entries {
		for key, c := range e.clients {
			if now.Sub(c.used) >= clientIdle {
				delete(e.clients, key)
			}
		}
	}
}

func (m *Manager) newServerConfig(id spiffeid.ID) *tls.Config {
	cfg := baseConfig()
	cfg.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		return m.present(hello.Context(), id)
	}
	// The chain is verified in verifyClient: crypto/tls knows one pool of
	// roots, SPIFFE one per trust domain.
	cfg.ClientAuth = tls.RequireAnyClientCert
	cfg.VerifyConnection = m.verifyClient
	return cfg
}

func (m *Manager) newClientConfig(id spiffeid.ID, expect []spiffeid.ID) *tls.Config {
	cfg := baseConfig()
	cfg.GetClientCertificate = func(req *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return m.present(req.Context(), id)
	}
	// Not a weakening: it switches off the check of a DNS name against the
	// system's roots. VerifyConnection is always called, and is the check.
	cfg.InsecureSkipVerify = true
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		return m.verifyServer(cs, expect)
	}
	return cfg
}

// present returns the certificate for a handshake whose context is ctx. It
// gives up before ctx does: a handshake whose context has ended reports that
// and nothing else, and the reason there is no certificate would be lost.
func (m *Manager) present(ctx context.Context, id spiffeid.ID) (*tls.Certificate, error) {
	wait := handshakeWait
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline)*3/4)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	got, err := m.get(ctx, id)
	if err != nil {
		return nil, err
	}
	return got.cert, nil
}

func baseConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		// A resumed session would outlive the certificate it was made
		// with, and the tunnel pool resumes nothing anyway.
		SessionTicketsDisabled: true,
		// Tunnels carry bulk data: full records from the first byte.
		DynamicRecordSizingDisabled: true,
	}
}
