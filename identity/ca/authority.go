package ca

import (
	"crypto/x509"
	"time"
)

// Authority is what a CA signs with, and what it vouches for, at one moment.
// It is immutable.
type Authority struct {
	// Issuer signs.
	Issuer *Issuer
	// Roots are to be trusted: Issuer's, those that will sign, and those
	// whose SVIDs are still about. In a stable order.
	Roots []*x509.Certificate
	// MaxTTL bounds what may be signed. A root stays trusted for that long
	// after it has signed the last time.
	MaxTTL time.Duration
}
