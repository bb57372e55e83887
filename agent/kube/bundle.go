package kube

import "crypto/x509"

// Bundle is a set of certificates in a ConfigMap that is followed.
type Bundle struct{}

// Bundle follows the certificates (PEM) under key in a ConfigMap. They are read
// while Run runs.
func (s *Source) Bundle(namespace, configMap, key string) *Bundle { return &Bundle{} }

// Current are the certificates as last read, nil before the first. The slice
// must not be changed. A ConfigMap that is deleted or malformed changes
// nothing.
func (b *Bundle) Current() []*x509.Certificate { return nil }

// Subscribe returns a channel that holds one value once Current has changed
// since the last receive. cancel ends the subscription; the channel is never
// closed.
func (b *Bundle) Subscribe() (changed <-chan struct{}, cancel func()) {
	return make(chan struct{}, 1), func() {}
}
