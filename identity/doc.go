// Package identity holds the X.509-SVIDs of the pods on this node: it fetches
// them, renews them, and hands out the TLS configurations that present and
// verify them.
//
// The types are those of go-spiffe. Where the SVIDs come from is a [Source];
// identity/ca is one that needs nothing but a directory.
//
// # Limitations
//
// Certificates are not checked for revocation: an SVID is good until it
// expires. A connection is verified once, at its handshake; whoever keeps
// connections bounds their age. SVIDs live in memory only, so a restarted
// agent asks its source again.
package identity
