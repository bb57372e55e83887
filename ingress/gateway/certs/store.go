package certs

import (
	"crypto/tls"
	"crypto/x509"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Store holds Secrets and ConfigMaps, and parses each once it is asked for. What
// did not change is the same pointer. It is for one goroutine.
type Store struct {
	secrets    map[types.NamespacedName]*entry
	configMaps map[types.NamespacedName]*entry
}

type entry struct{}

// NewStore makes an empty store.
func NewStore() *Store { return &Store{} }

// SetSecret keeps what a Secret holds of tls.crt, tls.key and ca.crt, and says
// whether that is new.
func (s *Store) SetSecret(o *corev1.Secret) (changed bool) { return false }

// DeleteSecret forgets a Secret, and says whether it was there.
func (s *Store) DeleteSecret(name types.NamespacedName) (changed bool) { return false }

// SetConfigMap keeps a ConfigMap's ca.crt, and says whether that is new.
func (s *Store) SetConfigMap(o *corev1.ConfigMap) (changed bool) { return false }

// DeleteConfigMap forgets a ConfigMap, and says whether it was there.
func (s *Store) DeleteConfigMap(name types.NamespacedName) (changed bool) { return false }

// Certificate is what Certificate makes of the Secret of that name. The pointer
// stays the same as long as the Secret's data does.
func (s *Store) Certificate(name types.NamespacedName) (*tls.Certificate, *Error) {
	return nil, &Error{Reason: NotFound}
}

// ConfigMapCAs are the certificates of a ConfigMap's ca.crt. The slice is shared,
// and the same as long as the data is.
func (s *Store) ConfigMapCAs(name types.NamespacedName) ([]*x509.Certificate, *Error) {
	return nil, &Error{Reason: NotFound}
}

// SecretCAs are the certificates of a Secret's ca.crt, as ConfigMapCAs.
func (s *Store) SecretCAs(name types.NamespacedName) ([]*x509.Certificate, *Error) {
	return nil, &Error{Reason: NotFound}
}
