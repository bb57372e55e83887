// Package authz translates Istio's AuthorizationPolicy and PeerAuthentication
// into policies of layer 4.
//
// What it translates is decided as istiod decides it for ztunnel. A rule that
// needs more than layer 4 shows never matches in an ALLOW policy, and matches
// whatever its layer 4 part does in a DENY policy. PeerAuthentication becomes a
// DENY policy on sources without an identity.
//
// A policy that cannot be read as a whole never widens access. Each rule is
// read for itself, and strictly: a field that this version does not know is a
// restriction that it cannot check. What is malformed in an ALLOW policy allows
// nothing; what is malformed in a DENY policy, or in where a policy applies, is
// taken for everything that it could mean. istiod drops such values one by one,
// which can widen a policy.
//
// A CUSTOM policy delegates to somebody who cannot be asked here, so it denies
// what it would have asked about, where istiod leaves it out.
//
// # Limitations
//
// Policies with targetRefs are for gateways and services, which is to say for
// waypoints, and are left out. Conditions other than source.ip,
// source.namespace, source.principal, destination.ip and destination.port are
// beyond layer 4.
package authz
