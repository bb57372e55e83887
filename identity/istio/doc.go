// Package istio asks a server of Istio's CreateCertificate, adit ca or istiod,
// for the SVIDs of this node's pods.
//
// The agent proves who it is by its own service account token and names the
// pod's identity in the request; the private key is made here and never leaves.
// https://istio.io/latest/docs/concepts/security/#pki
//
// # Limitations
//
// Peers are verified against the configured roots alone. Roots that come with
// a certificate are not believed, so a certificate under a root that the
// configured ones do not include is worth nothing until they do. Authentication
// by client certificate, Istio's other way, is not there.
package istio
