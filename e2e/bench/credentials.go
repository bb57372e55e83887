package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/identity"
	"github.com/adit-mesh/adit/identity/ca"
)

const benchTrustDomain = "bench.local"

// newManager runs a manager, as long as the worker lives, whose SVIDs are signed by the root that all workers share.
func newManager(caDir string) (*identity.Manager, error) {
	td, err := spiffeid.TrustDomainFromString(benchTrustDomain)
	if err != nil {
		return nil, err
	}
	authority, err := ca.Open(ca.Config{Dir: caDir, TrustDomain: td, TTL: time.Hour})
	if err != nil {
		return nil, err
	}
	manager := identity.NewManager(identity.ManagerConfig{Source: authority, TrustDomains: []spiffeid.TrustDomain{td}})
	go manager.Run(context.Background())
	return manager, nil
}

// tlsConfig is the configuration for a side of a path, made by the same code for every path that has TLS:
// TLS 1.3, ECDSA P-256 SVIDs on both sides, each verifying the other's SPIFFE ID.
func tlsConfig(o agentOrder) (*tls.Config, error) {
	manager, err := newManager(o.CADir)
	if err != nil {
		return nil, err
	}
	own, peer, err := sideIDs(o.Side)
	if err != nil {
		return nil, err
	}
	manager.Acquire(own)
	if o.Side == sideB {
		return manager.ServerTLS(own), nil
	}
	return manager.ClientTLS(own, []spiffeid.ID{peer}), nil
}

// sideIDs returns the identity of a side and of the one opposite.
func sideIDs(side string) (own, peer spiffeid.ID, err error) {
	a, errA := identity.WorkloadID(benchTrustDomain, "bench", "client")
	b, errB := identity.WorkloadID(benchTrustDomain, "bench", "server")
	if side == sideB {
		a, b = b, a
	}
	return a, b, errors.Join(errA, errB)
}
