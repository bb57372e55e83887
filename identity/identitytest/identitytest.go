// Package identitytest gives tests an in-memory certificate authority with a
// running identity manager: real SVIDs, real verification.
package identitytest

import (
	"context"
	"crypto/tls"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/identity"
	"github.com/adit-mesh/adit/identity/ca"
)

// Mesh is one trust domain with its CA. Everything ends with the test.
type Mesh struct {
	Manager *identity.Manager
	CA      *ca.CA

	t  testing.TB
	td spiffeid.TrustDomain
}

// New makes a mesh of the given trust domain. Two meshes of the same name are
// strangers to each other: their roots differ.
func New(t testing.TB, trustDomain string) *Mesh {
	t.Helper()
	td, err := spiffeid.TrustDomainFromString(trustDomain)
	if err != nil {
		t.Fatalf("identitytest: %v", err)
	}
	authority, err := ca.Open(ca.Config{TrustDomain: td})
	if err != nil {
		t.Fatalf("identitytest: %v", err)
	}
	m := identity.NewManager(identity.ManagerConfig{
		Source:       authority,
		TrustDomains: []spiffeid.TrustDomain{td},
	})

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("identitytest: manager: %v", err)
		}
	})
	return &Mesh{Manager: m, CA: authority, t: t, td: td}
}

// ID returns the identity of a service account of the mesh.
func (m *Mesh) ID(namespace, serviceAccount string) spiffeid.ID {
	m.t.Helper()
	id, err := identity.WorkloadID(m.td.Name(), namespace, serviceAccount)
	if err != nil {
		m.t.Fatalf("identitytest: %v", err)
	}
	return id
}

// Acquire holds id until the test ends and waits for its first SVID.
func (m *Mesh) Acquire(id spiffeid.ID) {
	m.t.Helper()
	m.t.Cleanup(m.Manager.Acquire(id))
	if _, err := m.Manager.SVID(m.t.Context(), id); err != nil {
		m.t.Fatalf("identitytest: %v", err)
	}
}

// ServerTLS returns the manager's configuration for a server that is id, which
// it acquires until the test ends.
func (m *Mesh) ServerTLS(id spiffeid.ID) *tls.Config {
	m.t.Helper()
	m.Acquire(id)
	return m.Manager.ServerTLS(id)
}

// ClientTLS returns the manager's configuration for a client that is id, which
// it acquires until the test ends, and that wants its server to be one of
// expect.
func (m *Mesh) ClientTLS(id spiffeid.ID, expect ...spiffeid.ID) *tls.Config {
	m.t.Helper()
	m.Acquire(id)
	return m.Manager.ClientTLS(id, expect)
}
