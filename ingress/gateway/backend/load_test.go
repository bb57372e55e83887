package backend

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"
)

// load gives an index the objects of YAML documents. "CA" in them stands for a
// certificate.
func load(t testing.TB, x *Index, docs string) {
	t.Helper()
	for doc := range strings.SplitSeq(docs, "\n---\n") {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(doc), &kind); err != nil {
			t.Fatalf("%v in %s", err, doc)
		}
		var o metav1.Object
		switch kind.Kind {
		case "Service":
			o = new(corev1.Service)
		case "EndpointSlice":
			o = new(discoveryv1.EndpointSlice)
		case "BackendTLSPolicy":
			o = new(gatewayv1.BackendTLSPolicy)
		case "ReferenceGrant":
			o = new(gatewayv1.ReferenceGrant)
		case "ConfigMap":
			o = new(corev1.ConfigMap)
		case "Secret":
			o = new(corev1.Secret)
		default:
			t.Fatalf("kind %q", kind.Kind)
		}
		if err := yaml.UnmarshalStrict([]byte(doc), o); err != nil {
			t.Fatalf("%v in %s", err, doc)
		}
		if o.GetNamespace() == "" {
			o.SetNamespace("default")
		}
		set(x, o)
	}
}

func set(x *Index, o metav1.Object) {
	switch o := o.(type) {
	case *corev1.Service:
		x.SetService(o)
	case *discoveryv1.EndpointSlice:
		x.SetEndpointSlice(o)
	case *gatewayv1.BackendTLSPolicy:
		x.SetBackendTLSPolicy(o)
	case *gatewayv1.ReferenceGrant:
		x.SetReferenceGrant(o)
	case *corev1.ConfigMap:
		if o.Data["ca.crt"] == "CA" {
			o.Data["ca.crt"] = testCA
		}
		x.SetConfigMap(o)
	case *corev1.Secret:
		if string(o.StringData["ca.crt"]) == "CA" {
			o.StringData["ca.crt"] = testCA
		}
		x.SetSecret(o)
	}
}

func remove(x *Index, o metav1.Object) {
	switch o.(type) {
	case *corev1.Service:
		x.DeleteService(nameOf(o))
	case *discoveryv1.EndpointSlice:
		x.DeleteEndpointSlice(nameOf(o))
	case *gatewayv1.BackendTLSPolicy:
		x.DeleteBackendTLSPolicy(nameOf(o))
	case *gatewayv1.ReferenceGrant:
		x.DeleteReferenceGrant(nameOf(o))
	case *corev1.ConfigMap:
		x.DeleteConfigMap(nameOf(o))
	case *corev1.Secret:
		x.DeleteSecret(nameOf(o))
	}
}

var testCA, otherCA = newCA("one"), newCA("two")

func newCA(cn string) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: cn}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

var (
	clientCert = &tls.Certificate{}
	edge       = types.NamespacedName{Namespace: "infra", Name: "edge"}
	inner      = types.NamespacedName{Namespace: "infra", Name: "inner"}
)

func in(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "default", Name: name}
}

// ref is "NAME:PORT" as a reference, with a namespace if it has one.
func ref(namespace, name string, port int32) gatewayv1.BackendObjectReference {
	r := gatewayv1.BackendObjectReference{Name: gatewayv1.ObjectName(name)}
	if port != 0 {
		r.Port = &port
	}
	if namespace != "" {
		ns := gatewayv1.Namespace(namespace)
		r.Namespace = &ns
	}
	return r
}
