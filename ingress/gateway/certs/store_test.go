package certs

import (
	"crypto/elliptic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var name = types.NamespacedName{Namespace: "a", Name: "b"}

func TestStoreKeepsPointersWhileDataStays(t *testing.T) {
	key := newEC(t, elliptic.P256())
	crt, ca := issue(t, key, nil), issue(t, key, nil)
	secret := func() *corev1.Secret {
		return &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "b", ResourceVersion: "1"},
			Data:       map[string][]byte{"tls.crt": crt, "tls.key": pkcs8(t, key), "ca.crt": ca},
		}
	}
	s := NewStore()
	if _, err := s.Certificate(name); err == nil || err.Reason != NotFound {
		t.Errorf("got %v, want NotFound", err)
	}
	if !s.SetSecret(secret()) {
		t.Error("a new Secret is a change")
	}
	before, err := s.Certificate(name)
	if err != nil {
		t.Fatal(err)
	}
	same := secret()
	same.ResourceVersion, same.Annotations = "2", map[string]string{"x": "y"}
	same.Data["notes"] = []byte("unrelated")
	if s.SetSecret(same) {
		t.Error("nothing of certificates changed")
	}
	if after, _ := s.Certificate(name); after != before {
		t.Error("the same certificate must stay the same pointer: it is what says that nothing changed")
	}
	renewed := secret()
	renewed.Data["tls.crt"] = issue(t, key, nil)
	if !s.SetSecret(renewed) {
		t.Error("a renewed certificate is a change")
	}
	if after, _ := s.Certificate(name); after == before {
		t.Error("the renewed certificate is not served")
	}
	if cas, err := s.SecretCAs(name); err != nil || len(cas) != 1 {
		t.Errorf("got %v, %v", cas, err)
	}
	if !s.DeleteSecret(name) || s.DeleteSecret(name) {
		t.Error("a Secret goes once")
	}
	if _, err := s.SecretCAs(name); err == nil || err.Reason != NotFound {
		t.Errorf("got %v, want NotFound", err)
	}
}

func TestConfigMapCAs(t *testing.T) {
	key := newEC(t, elliptic.P256())
	two := string(issue(t, key, nil)) + string(issue(t, key, nil))
	for _, tt := range []struct {
		what string
		o    corev1.ConfigMap
		n    int
		want Reason
	}{
		{"two certificates", corev1.ConfigMap{Data: map[string]string{"ca.crt": two}}, 2, ""},
		{"binary data", corev1.ConfigMap{BinaryData: map[string][]byte{"ca.crt": []byte(two)}}, 2, ""},
		{"nothing", corev1.ConfigMap{}, 0, MissingKey},
		{"an empty key", corev1.ConfigMap{Data: map[string]string{"ca.crt": ""}}, 0, MissingKey},
		{"no PEM", corev1.ConfigMap{Data: map[string]string{"ca.crt": "CA"}}, 0, MalformedCertificate},
	} {
		s := NewStore()
		tt.o.Namespace, tt.o.Name = "a", "b"
		if !s.SetConfigMap(&tt.o) || s.SetConfigMap(&tt.o) {
			t.Errorf("%s: it is new once", tt.what)
		}
		cas, err := s.ConfigMapCAs(name)
		if len(cas) != tt.n || (err == nil) != (tt.want == "") || err != nil && err.Reason != tt.want {
			t.Errorf("%s: got %d certificates, %v; want %d, %q", tt.what, len(cas), err, tt.n, tt.want)
		}
		if !s.DeleteConfigMap(name) || s.DeleteConfigMap(name) {
			t.Errorf("%s: it goes once", tt.what)
		}
	}
}
