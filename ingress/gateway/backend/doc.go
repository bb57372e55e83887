// Package backend makes upstream clusters out of Services, EndpointSlices and
// BackendTLSPolicies.
package backend
