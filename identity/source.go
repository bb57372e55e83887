package identity

import (
	"context"
	"errors"
	"strings"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Source is where SVIDs and trust bundles come from.
type Source interface {
	// FetchX509SVID returns an SVID for id with its private key. It may
	// block on a network and returns when ctx ends. The manager asks for
	// one identity at a time, for several identities at once.
	//
	// An error that asking again cannot cure wraps [ErrRefused].
	FetchX509SVID(ctx context.Context, id spiffeid.ID) (*x509svid.SVID, error)

	// Source gives the trust bundle of a trust domain. It is asked within
	// every handshake, so it answers from memory.
	x509bundle.Source
}

// ErrRefused says that the source will not issue this identity, however often
// it is asked.
var ErrRefused = errors.New("identity refused")

// WorkloadID returns spiffe://<trustDomain>/ns/<namespace>/sa/<serviceAccount>,
// the identity Istio gives to a Kubernetes service account.
func WorkloadID(trustDomain, namespace, serviceAccount string) (spiffeid.ID, error) {
	td, err := spiffeid.TrustDomainFromString(trustDomain)
	if err != nil {
		return spiffeid.ID{}, err
	}
	return spiffeid.FromSegments(td, "ns", namespace, "sa", serviceAccount)
}

// ParseWorkloadID is the inverse of [WorkloadID]. It reports false for an ID
// of any other shape, the zero ID included.
func ParseWorkloadID(id spiffeid.ID) (namespace, serviceAccount string, ok bool) {
	if id.IsZero() {
		return "", "", false
	}
	rest, ok := strings.CutPrefix(id.Path(), "/ns/")
	if !ok {
		return "", "", false
	}
	namespace, rest, ok = strings.Cut(rest, "/sa/")
	if !ok || namespace == "" || rest == "" ||
		strings.Contains(namespace, "/") || strings.Contains(rest, "/") {
		return "", "", false
	}
	return namespace, rest, true
}
