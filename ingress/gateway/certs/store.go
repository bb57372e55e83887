package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Store holds what Secrets and ConfigMaps have of certificates, and parses each
// once it is asked for. What did not change is the same pointer. It is for one
// goroutine.
type Store struct {
	secrets    map[types.NamespacedName]*secret
	configMaps map[types.NamespacedName]*bundle
}

// NewStore makes an empty store.
func NewStore() *Store {
	return &Store{
		secrets:    make(map[types.NamespacedName]*secret),
		configMaps: make(map[types.NamespacedName]*bundle),
	}
}

// secret is what a Secret has of certificates, parsed when it is first needed.
type secret struct {
	kind     corev1.SecretType
	crt, key []byte
	ca       bundle

	parsed bool
	cert   *tls.Certificate
	err    *Error
}

// bundle is a ca.crt, parsed when it is first needed.
type bundle struct {
	pem    []byte
	parsed bool
	certs  []*x509.Certificate
	err    *Error
}

func newSecret(o *corev1.Secret) *secret {
	field := func(name string) []byte {
		// The API server turns stringData into data; files have it as written.
		if v, ok := o.StringData[name]; ok {
			return []byte(v)
		}
		return o.Data[name]
	}
	return &secret{
		kind: o.Type,
		crt:  field(corev1.TLSCertKey),
		key:  field(corev1.TLSPrivateKeyKey),
		ca:   bundle{pem: field(corev1.ServiceAccountRootCAKey)},
	}
}

func (s *secret) equal(t *secret) bool {
	return s.kind == t.kind && bytes.Equal(s.crt, t.crt) && bytes.Equal(s.key, t.key) && bytes.Equal(s.ca.pem, t.ca.pem)
}

func (s *secret) certificate() (*tls.Certificate, *Error) {
	if !s.parsed {
		s.parsed = true
		s.cert, s.err = s.parse()
	}
	return s.cert, s.err
}

func (s *secret) parse() (*tls.Certificate, *Error) {
	switch s.kind {
	case corev1.SecretTypeTLS, corev1.SecretTypeOpaque, "":
	default:
		return nil, &Error{WrongType, fmt.Sprintf("the Secret is of type %s, and has to be of %s", s.kind, corev1.SecretTypeTLS)}
	}
	switch {
	case len(s.crt) == 0:
		return nil, &Error{MissingKey, "the Secret has no tls.crt"}
	case len(s.key) == 0:
		return nil, &Error{MissingKey, "the Secret has no tls.key"}
	}
	return parsePair(s.crt, s.key)
}

func (b *bundle) parse(kind string) ([]*x509.Certificate, *Error) {
	if !b.parsed {
		b.parsed = true
		if len(b.pem) == 0 {
			b.err = &Error{MissingKey, "the " + kind + " has no ca.crt"}
		} else {
			b.certs, b.err = parseCertificates("ca.crt", b.pem)
		}
	}
	return b.certs, b.err
}

// SetSecret keeps what a Secret holds of tls.crt, tls.key and ca.crt, and says
// whether that is new.
func (s *Store) SetSecret(o *corev1.Secret) (changed bool) {
	name, next := types.NamespacedName{Namespace: o.Namespace, Name: o.Name}, newSecret(o)
	if old := s.secrets[name]; old != nil && old.equal(next) {
		return false
	}
	s.secrets[name] = next
	return true
}

// DeleteSecret forgets a Secret, and says whether it was there.
func (s *Store) DeleteSecret(name types.NamespacedName) (changed bool) {
	_, changed = s.secrets[name]
	delete(s.secrets, name)
	return changed
}

// SetConfigMap keeps a ConfigMap's ca.crt, and says whether that is new.
func (s *Store) SetConfigMap(o *corev1.ConfigMap) (changed bool) {
	name := types.NamespacedName{Namespace: o.Namespace, Name: o.Name}
	pem := []byte(o.Data[corev1.ServiceAccountRootCAKey])
	if len(pem) == 0 {
		pem = o.BinaryData[corev1.ServiceAccountRootCAKey]
	}
	if old := s.configMaps[name]; old != nil && bytes.Equal(old.pem, pem) {
		return false
	}
	s.configMaps[name] = &bundle{pem: pem}
	return true
}

// DeleteConfigMap forgets a ConfigMap, and says whether it was there.
func (s *Store) DeleteConfigMap(name types.NamespacedName) (changed bool) {
	_, changed = s.configMaps[name]
	delete(s.configMaps, name)
	return changed
}

// Certificate is what Certificate makes of the Secret of that name. The pointer
// stays the same as long as the Secret's data does.
func (s *Store) Certificate(name types.NamespacedName) (*tls.Certificate, *Error) {
	o := s.secrets[name]
	if o == nil {
		return nil, &Error{NotFound, fmt.Sprintf("there is no Secret %s", name)}
	}
	return o.certificate()
}

// ConfigMapCAs are the certificates of a ConfigMap's ca.crt, at least one. The
// slice is shared, and the same as long as the data is.
func (s *Store) ConfigMapCAs(name types.NamespacedName) ([]*x509.Certificate, *Error) {
	o := s.configMaps[name]
	if o == nil {
		return nil, &Error{NotFound, fmt.Sprintf("there is no ConfigMap %s", name)}
	}
	return o.parse("ConfigMap")
}

// SecretCAs are the certificates of a Secret's ca.crt, as ConfigMapCAs.
func (s *Store) SecretCAs(name types.NamespacedName) ([]*x509.Certificate, *Error) {
	o := s.secrets[name]
	if o == nil {
		return nil, &Error{NotFound, fmt.Sprintf("there is no Secret %s", name)}
	}
	return o.ca.parse("Secret")
}
