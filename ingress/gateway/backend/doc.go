// Package backend makes upstream clusters out of Services, EndpointSlices and
// BackendTLSPolicies.
//
// # Limitations
//
// Backends are Services of the core group; those of type ExternalName are refused,
// as Gateway API advises. A Service's internalTrafficPolicy and sessionAffinity,
// which are for its cluster IP, are not heeded: requests go to its endpoints.
// EndpointSlices of the type FQDN, whose meaning Kubernetes leaves open, are names
// that are resolved when they are dialled; they are used if no address is ready.
// The options of a BackendTLSPolicy are not heeded, and its Accepted condition
// says so.
package backend
