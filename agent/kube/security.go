package kube

import (
	"encoding/json"
	"slices"

	"istio.io/api/annotation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/adit-mesh/adit/agent/kube/authz"
)

// authorization is an AuthorizationPolicy.
type authorization struct {
	key
	uid        string
	generation int64
	version    string // resourceVersion
	conditions []any  // of its status, as they are
	authz.Authorization
	selector labelSet
}

func newAuthorization(u *unstructured.Unstructured, root string) *authorization {
	a := &authorization{
		key:           key{u.GetNamespace(), u.GetName()},
		uid:           string(u.GetUID()),
		generation:    u.GetGeneration(),
		version:       u.GetResourceVersion(),
		Authorization: authz.ConvertAuthorization(root, objectOf(u)),
	}
	a.conditions, _, _ = unstructured.NestedSlice(u.Object, "status", "conditions")
	a.selector = newLabelSet(a.Selector)
	return a
}

// lists reports whether workloads list the policy, which those do that it
// selects.
func (a *authorization) lists() bool { return a != nil && a.Bound && a.selector != "" }

// peerAuthentication is a PeerAuthentication.
type peerAuthentication struct {
	key
	created int64
	authz.Peer
	selector labelSet
}

func newPeerAuthentication(u *unstructured.Unstructured) *peerAuthentication {
	p := &peerAuthentication{
		key:     key{u.GetNamespace(), u.GetName()},
		created: u.GetCreationTimestamp().Unix(),
		Peer:    authz.ConvertPeer(objectOf(u)),
	}
	p.selector = newLabelSet(p.Selector)
	return p
}

// older orders PeerAuthentications of one scope: the oldest counts.
func (p *peerAuthentication) older(o *peerAuthentication) bool {
	return o == nil || p.created < o.created || p.created == o.created && p.name < o.name
}

func (p *peerAuthentication) peer() *authz.Peer {
	if p == nil {
		return nil
	}
	return &p.Peer
}

func objectOf(u *unstructured.Unstructured) authz.Object {
	o := authz.Object{
		Namespace: u.GetNamespace(),
		Name:      u.GetName(),
		DryRun:    u.GetAnnotations()[annotation.IoIstioDryRun.Name],
	}
	if spec, ok := u.Object["spec"]; ok {
		// It came out of JSON, so it goes back.
		o.Spec, _ = json.Marshal(spec)
	}
	return o
}

// peers are the PeerAuthentications of one namespace.
type peers struct {
	whole    *peerAuthentication // the oldest without a selector
	selected []*peerAuthentication
	broken   []*peerAuthentication
}

func newPeers(list []*peerAuthentication) *peers {
	var out peers
	for _, p := range list {
		switch {
		case p.Malformed:
			out.broken = append(out.broken, p)
		case p.selector != "":
			out.selected = append(out.selected, p)
		case p.older(out.whole):
			out.whole = p
		}
	}
	slices.SortFunc(out.selected, func(a, b *peerAuthentication) int {
		if a.older(b) {
			return -1
		}
		return 1
	})
	return &out
}

// of is the PeerAuthentication that selects p, nil for none.
func (s *peers) of(p *pod) *peerAuthentication {
	for _, pa := range s.selected {
		if p.in(pa.selector) {
			return pa
		}
	}
	return nil
}
