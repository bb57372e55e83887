package ca

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// RootState says what a root of a [RootSet] is good for.
type RootState string

// A root goes through the states in this order.
//
//	     bundle has it        propagation is over       longest SVID has expired
//	made -------------> published ------------> signing ~~~> retiring ---------> gone
//	                                                (the next one signs)
const (
	// RootMade: it waits for the trust bundle to carry it.
	RootMade RootState = "made"
	// RootPublished: it is in the trust bundle, and agents learn of it.
	RootPublished RootState = "published"
	// RootSigning signs. Exactly one does.
	RootSigning RootState = "signing"
	// RootRetiring is trusted for the SVIDs that it has signed. Its key is
	// gone.
	RootRetiring RootState = "retiring"
)

const (
	// renewRootAt is the part of a root's life after which the next is made.
	renewRootAt = 0.8
	// retireMargin is for a replica that has not heard yet that the next
	// root signs, and for clocks that differ.
	retireMargin = 10 * time.Minute
	// maxRootSet bounds the roots: those retiring come from rotations in
	// quick succession.
	maxRootSet = 8
)

// Root is one root of a [RootSet].
type Root struct {
	State RootState
	// Since is when the root came into the state.
	Since time.Time
	// MaxTTL bounds the SVIDs that it signs or has signed; zero before it
	// signs.
	MaxTTL time.Duration

	cert   *x509.Certificate
	issuer *Issuer // nil if retiring
}

// Certificate returns the root certificate.
func (r Root) Certificate() *x509.Certificate { return r.cert }

// RootSet is the roots of one trust domain across their rotations: one that
// signs, at most one that will, and those whose SVIDs are still about. It is
// immutable.
type RootSet struct {
	trustDomain spiffeid.TrustDomain
	roots       []Root // in order of their making
}

// RotationPolicy says how roots follow each other.
type RotationPolicy struct {
	// RootTTL is the life of a root; at four fifths of it the next is made.
	// Zero means 10 years.
	RootTTL time.Duration
	// MaxTTL bounds the life of an SVID. Zero means 24 h.
	MaxTTL time.Duration
	// Propagation is how long a root is in the trust bundle before it signs:
	// the time in which every agent that can be reached learns of it. Zero
	// means 1 h.
	Propagation time.Duration
}

// WithDefaults returns p with the defaults filled in, or why it cannot work.
func (p RotationPolicy) WithDefaults() (RotationPolicy, error) {
	if p.RootTTL < 0 || p.MaxTTL < 0 || p.Propagation < 0 {
		return p, fmt.Errorf("negative root ttl %s, ttl %s, or propagation %s", p.RootTTL, p.MaxTTL, p.Propagation)
	}
	if p.RootTTL == 0 {
		p.RootTTL = defaultRootTTL
	}
	if p.MaxTTL == 0 {
		p.MaxTTL = defaultTTL
	}
	if p.Propagation == 0 {
		p.Propagation = time.Hour
	}
	if left := time.Duration(float64(p.RootTTL) * (1 - renewRootAt)); left < p.Propagation+p.MaxTTL {
		return p, fmt.Errorf("root ttl %s is too short: a fifth of it must hold the propagation of the next root, %s, and the longest certificate, %s",
			p.RootTTL, p.Propagation, p.MaxTTL)
	}
	return p, nil
}

// NewRootSet makes a set of one root that signs at once: nobody trusts another.
func NewRootSet(td spiffeid.TrustDomain, p RotationPolicy) (*RootSet, error) {
	issuer, err := NewRoot(td, p.RootTTL)
	if err != nil {
		return nil, err
	}
	return &RootSet{trustDomain: td, roots: []Root{
		{State: RootSigning, Since: now(), MaxTTL: p.MaxTTL, cert: issuer.cert, issuer: issuer},
	}}, nil
}

// now is cut to what a set's encoding keeps.
func now() time.Time { return time.Now().UTC().Truncate(time.Second) }

// Roots lists the set, oldest first.
func (s *RootSet) Roots() []Root { return slices.Clone(s.roots) }

// Authority returns what the set signs with. ttl is how long SVIDs are to live
// at most: less counts at once, more from when the set says so.
func (s *RootSet) Authority(ttl time.Duration) *Authority {
	signing := s.roots[s.index(RootSigning)]
	return &Authority{Issuer: signing.issuer, Roots: s.Bundle(), MaxTTL: min(ttl, signing.MaxTTL)}
}

// Bundle returns the certificates to trust: all of the set.
func (s *RootSet) Bundle() []*x509.Certificate {
	certs := make([]*x509.Certificate, len(s.roots))
	for i, r := range s.roots {
		certs[i] = r.cert
	}
	return certs
}

// index finds a root by its state, -1 if there is none.
func (s *RootSet) index(state RootState) int {
	return slices.IndexFunc(s.roots, func(r Root) bool { return r.State == state })
}

// upcoming finds the root that will sign.
func (s *RootSet) upcoming() int {
	return max(s.index(RootMade), s.index(RootPublished))
}

// Step returns the set that follows s at this time and what has changed, for
// the log; or s itself and when there may be more to do, the zero time if only
// a rotation that is asked for. Published is what agents are told to trust: the
// trust bundle as it stands where they read it. rotate asks for a new root; it
// is over once a root is on its way.
//
// Every change is small, so that replicas that compete for storing it agree on
// the outcome whoever wins.
func (s *RootSet) Step(p RotationPolicy, published []*x509.Certificate, rotate bool) (next *RootSet, what string, again time.Time, err error) {
	t := now()
	signing, up := s.index(RootSigning), s.upcoming()
	current := s.roots[signing]

	if !t.Before(current.cert.NotAfter) {
		next, err := s.replaceExpired(p, t)
		return next, "the signing root has expired and is replaced at once", time.Time{}, err
	}
	if current.MaxTTL < p.MaxTTL {
		next = s.clone()
		next.roots[signing].MaxTTL = p.MaxTTL
		return next, fmt.Sprintf("certificates may live for %s, was %s", p.MaxTTL, current.MaxTTL), time.Time{}, nil
	}

	for i, r := range s.roots {
		if r.State != RootRetiring {
			continue
		}
		end := r.Since.Add(r.MaxTTL + retireMargin)
		if r.cert.NotAfter.Before(end) {
			end = r.cert.NotAfter
		}
		if !t.Before(end) {
			next = s.clone()
			next.roots = slices.Delete(next.roots, i, i+1)
			return next, fmt.Sprintf("root %s is retired: the last certificate under it has expired", name(r.cert)), time.Time{}, nil
		}
		again = earliest(again, end)
	}

	if up >= 0 {
		r := s.roots[up]
		there := slices.ContainsFunc(published, r.cert.Equal)
		switch {
		case !there: // whoever publishes it steps again
		case r.State == RootMade:
			next = s.clone()
			next.roots[up].State, next.roots[up].Since = RootPublished, t
			return next, fmt.Sprintf("root %s is published and signs from %s", name(r.cert), stamp(t.Add(p.Propagation))), time.Time{}, nil
		case !t.Before(r.Since.Add(p.Propagation)):
			return s.promote(up, p, t), fmt.Sprintf("root %s signs; %s retires", name(r.cert), name(current.cert)), time.Time{}, nil
		default:
			again = earliest(again, r.Since.Add(p.Propagation))
		}
		return s, "", again, nil
	}

	life := current.cert.NotAfter.Sub(current.cert.NotBefore)
	due := current.cert.NotBefore.Add(time.Duration(float64(life) * renewRootAt))
	if !rotate && t.Before(due) {
		return s, "", earliest(again, due), nil
	}
	if len(s.roots) == maxRootSet {
		return s, "", again, fmt.Errorf("%d roots are still trusted; the next one waits until the oldest retires at %s", maxRootSet, stamp(again))
	}
	issuer, err := NewRoot(s.trustDomain, p.RootTTL)
	if err != nil {
		return s, "", again, err
	}
	next = s.clone()
	next.roots = append(next.roots, Root{State: RootMade, Since: t, cert: issuer.cert, issuer: issuer})
	return next, fmt.Sprintf("root %s is made and will follow %s", name(issuer.cert), name(current.cert)), time.Time{}, nil
}

func (s *RootSet) clone() *RootSet {
	return &RootSet{trustDomain: s.trustDomain, roots: slices.Clone(s.roots)}
}

func (s *RootSet) promote(up int, p RotationPolicy, t time.Time) *RootSet {
	next := s.clone()
	old := &next.roots[s.index(RootSigning)]
	old.State, old.Since, old.issuer = RootRetiring, t, nil
	r := &next.roots[up]
	r.State, r.Since, r.MaxTTL = RootSigning, t, p.MaxTTL
	return next
}

// replaceExpired ends an outage: nothing under the expired root is valid any
// more, so there is no overlap to keep.
func (s *RootSet) replaceExpired(p RotationPolicy, t time.Time) (*RootSet, error) {
	if up := s.upcoming(); up >= 0 && t.Before(s.roots[up].cert.NotAfter) {
		return s.promote(up, p, t), nil
	}
	return NewRootSet(s.trustDomain, p)
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// name tells roots of equal subjects apart.
func name(cert *x509.Certificate) string { return fmt.Sprintf("%.8x", cert.SerialNumber.Bytes()) }

// validate refuses a set that no sequence of steps makes.
func (s *RootSet) validate() error {
	count := map[RootState]int{}
	for i, r := range s.roots {
		count[r.State]++
		if err := checkRootShape(r.cert, []spiffeid.TrustDomain{s.trustDomain}); err != nil {
			return fmt.Errorf("root %d: %w", i+1, err)
		}
		for _, other := range s.roots[:i] {
			if other.cert.Equal(r.cert) {
				return fmt.Errorf("root %d is there twice", i+1)
			}
		}
		switch {
		case r.Since.IsZero():
			return fmt.Errorf("root %d: no time of its state", i+1)
		case r.State == RootRetiring && r.issuer != nil:
			return fmt.Errorf("root %d is retiring and still has its key", i+1)
		case r.State != RootRetiring && r.issuer == nil:
			return fmt.Errorf("root %d is %s and has no key", i+1, r.State)
		case r.MaxTTL < 0 || r.MaxTTL == 0 && (r.State == RootSigning || r.State == RootRetiring):
			return fmt.Errorf("root %d: maxTTL is %s", i+1, r.MaxTTL)
		}
	}
	switch {
	case len(s.roots) > maxRootSet:
		return fmt.Errorf("%d roots, more than %d", len(s.roots), maxRootSet)
	case count[RootSigning] != 1:
		return fmt.Errorf("%d roots sign; want 1", count[RootSigning])
	case count[RootMade]+count[RootPublished] > 1:
		return errors.New("more than one root is to sign next")
	case count[RootMade]+count[RootPublished]+count[RootSigning]+count[RootRetiring] != len(s.roots):
		return errors.New("a root is in a state that this version does not know")
	}
	return nil
}
