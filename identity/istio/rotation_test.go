package istio

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/identity"
)

func TestNewRootsCountAtOnce(t *testing.T) {
	first, second := newRoot(t), newRoot(t)
	s := startIstiod(t, first)
	r := trusting(first)
	c := newClient(t, s, r)
	if _, err := c.FetchX509SVID(t.Context(), web); err != nil {
		t.Fatal(err)
	}

	// The overlap: both are trusted, then the second signs.
	r.set(first, second)
	if _, err := c.FetchX509SVID(t.Context(), web); err != nil {
		t.Errorf("both roots are trusted, the first signs: %v", err)
	}
	s.use(t, second)
	if _, err := c.FetchX509SVID(t.Context(), web); err != nil {
		t.Errorf("both roots are trusted, the second signs: %v", err)
	}
	r.set(second)
	before := s.conns.Load()
	if _, err := c.FetchX509SVID(t.Context(), web); err != nil {
		t.Errorf("the first root is retired: %v", err)
	}
	if s.conns.Load() == before {
		t.Error("the connection that was made under withdrawn roots goes on")
	}

	// A server whose root is not trusted gets no request, until it is.
	third := newRoot(t)
	s.use(t, third)
	r.set(first)
	if _, err := c.FetchX509SVID(t.Context(), web); err == nil || errors.Is(err, identity.ErrRefused) {
		t.Errorf("no root of the server's is trusted: %v", err)
	}
	r.set(first, third)
	if _, err := c.FetchX509SVID(t.Context(), web); err != nil {
		t.Errorf("it is now, and no back-off of the old connection counts: %v", err)
	}
}

func TestWaitsForTheFirstRoot(t *testing.T) {
	root := newRoot(t)
	s := startIstiod(t, root)
	r := new(roots)
	c := newClient(t, s, r)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.FetchX509SVID(ctx, web); !errors.Is(err, errNoRoots) {
		t.Errorf("no root: %v", err)
	}
	if _, err := c.GetX509BundleForTrustDomain(domain); !errors.Is(err, errNoRoots) {
		t.Errorf("no root, no bundle: %v", err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := c.FetchX509SVID(t.Context(), web)
		done <- err
	}()
	r.set(root)
	if err := <-done; err != nil {
		t.Errorf("there is one now: %v", err)
	}
}

// TestPeersAreVerifiedWithTheRootsOfNow goes through a rotation with a server
// and a client that each have a manager and learn at different times.
func TestPeersAreVerifiedWithTheRootsOfNow(t *testing.T) {
	first, second := newRoot(t), newRoot(t)
	s := startIstiod(t, first)
	r := trusting(first)
	c := newClient(t, s, r)
	manager := identity.NewManager(identity.ManagerConfig{Source: c, TrustDomains: []spiffeid.TrustDomain{domain}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- manager.Run(ctx) }()
	defer func() { cancel(); <-done }()
	defer manager.Acquire(web)()
	if _, err := manager.SVID(t.Context(), web); err != nil {
		t.Fatal(err)
	}

	peer := func() error {
		key := newKey(t)
		chain, err := second.SignSVID(web, key.Public(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return manager.ServerTLS(web).VerifyConnection(tls.ConnectionState{HandshakeComplete: true, PeerCertificates: chain})
	}
	if err := peer(); !errors.Is(err, identity.ErrUntrusted) {
		t.Errorf("the second root is nobody's yet: %v", err)
	}
	r.set(first, second)
	if err := peer(); err != nil {
		t.Errorf("it is trusted now, without a word to the manager: %v", err)
	}
	r.set(first)
	if err := peer(); !errors.Is(err, identity.ErrUntrusted) {
		t.Errorf("it was withdrawn: %v", err)
	}

	// A certificate under a root that peers do not know is not used.
	r.set(first, second)
	s.use(t, second)
	r.set(second)
	if err := manager.Rotate(t.Context(), web); err != nil {
		t.Errorf("the second root signs and is trusted: %v", err)
	}
	third := newRoot(t)
	s.mu.Lock()
	s.root = third // the server's own certificate stays under the second
	s.mu.Unlock()
	if err := manager.Rotate(t.Context(), web); err == nil || !strings.Contains(err.Error(), "peers will refuse") {
		t.Errorf("an SVID under a root that is not published: %v", err)
	}
}

func TestBundleOfOtherTrustDomains(t *testing.T) {
	root := newRoot(t)
	alias := spiffeid.RequireTrustDomainFromString("old.example")
	c := newClient(t, startIstiod(t, root), trusting(root), func(cfg *Config) { cfg.Aliases = []spiffeid.TrustDomain{alias} })
	if b, err := c.GetX509BundleForTrustDomain(alias); err != nil || b.TrustDomain() != alias || !b.HasX509Authority(root.Certificate()) {
		t.Errorf("alias: %v", err)
	}
	if _, err := c.GetX509BundleForTrustDomain(spiffeid.RequireTrustDomainFromString("other.example")); err == nil {
		t.Error("a bundle for a stranger's trust domain")
	}
}
