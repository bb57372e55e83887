// Package caserver serves Istio's CreateCertificate: it knows a caller by its
// token, asks whether it may have the identity it names, and signs.
//
// Who callers are and what they may have is for an [Authenticator] and an
// [Authorizer] to say, what signs for the configuration. The server keeps
// nothing but a short memory of tokens, so any number of replicas may run.
//
// # Limitations
//
// Callers are node agents: each request names in its metadata the identity that
// it is for (ImpersonatedIdentity). A workload that asks for its own, as
// Istio's sidecars do, is refused. What has been issued is not recorded, and
// cannot be revoked before it expires.
package caserver
