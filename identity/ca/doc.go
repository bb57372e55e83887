// Package ca is a certificate authority for one trust domain: it makes roots, has
// them follow each other, and signs. A [CA] needs nothing but a directory, or not
// even that; a [RootSet] is for whoever keeps roots elsewhere.
//
// # Limitations
//
// A directory has one root and no rotation of it: a new one is made by replacing the
// file on every node that shares it. Whoever can read the root's key can be
// anybody in the trust domain, so keep the directory on the nodes that must
// issue and nowhere else. Nothing is revoked; SVIDs are short-lived instead.
package ca
