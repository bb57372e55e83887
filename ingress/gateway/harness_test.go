package gateway

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayv1beta1 "sigs.k8s.io/gateway-api/apis/v1beta1"
)

// now is when every test takes place.
var now = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func newTestTranslator(change ...func(*Options)) *Translator {
	o := Options{
		ControllerNames: []string{DefaultControllerName, "gateway.envoyproxy.io/gatewayclass-controller"},
		Now:             func() time.Time { return now },
	}
	for _, c := range change {
		c(&o)
	}
	return New(o)
}

var scheme = sync.OnceValue(func() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, install := range []func(*runtime.Scheme) error{
		gatewayv1.Install, gatewayv1beta1.Install, corev1.AddToScheme, discoveryv1.AddToScheme,
	} {
		if err := install(s); err != nil {
			panic(err)
		}
	}
	return s
})

// objects reads the documents of a manifest, in order.
func objects(t testing.TB, manifest []byte) []runtime.Object {
	t.Helper()
	decoder := serializer.NewCodecFactory(scheme(), serializer.EnableStrict).UniversalDeserializer()
	documents := yaml.NewYAMLReader(newReader(manifest))
	var list []runtime.Object
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatalf("read the manifest: %v", err)
		}
		if len(bytes.TrimSpace(document)) == 0 {
			continue
		}
		if bytes.Contains(document, []byte("kind: ClientTrafficPolicy")) {
			raw, err := yaml.ToJSON(document)
			if err != nil {
				t.Fatal(err)
			}
			p, err := DecodeClientTrafficPolicy(raw)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, p)
			continue
		}
		o, _, err := decoder.Decode(document, nil, nil)
		if err != nil {
			t.Fatalf("decode %s: %v", document, err)
		}
		fill(t, o)
		list = append(list, o)
	}
}

// fill gives a Secret or ConfigMap the certificates that its annotation
// "test/certificate" or "test/ca" asks for.
func fill(t testing.TB, o runtime.Object) {
	switch o := o.(type) {
	case *corev1.Secret:
		if names, ok := o.Annotations["test/certificate"]; ok {
			certificate, key := issue(t, strings.Split(names, ","), now.Add(-time.Hour), validUntil(t, o.Annotations["test/until"]))
			if o.Annotations["test/key"] == "other" {
				_, key = issue(t, []string{"other.test"}, now.Add(-time.Hour), now.Add(time.Hour))
			}
			o.Data = map[string][]byte{"tls.crt": certificate, "tls.key": key}
		}
	case *corev1.ConfigMap:
		if name, ok := o.Annotations["test/ca"]; ok {
			certificate, _ := issue(t, []string{name}, now.Add(-time.Hour), now.Add(24*time.Hour))
			o.Data = map[string]string{"ca.crt": string(certificate)}
		}
	}
}

func validUntil(t testing.TB, after string) time.Time {
	if after == "" {
		return now.Add(24 * time.Hour)
	}
	d, err := time.ParseDuration(after)
	if err != nil {
		t.Fatal(err)
	}
	return now.Add(d)
}

var issued struct {
	sync.Mutex
	pairs map[string][2][]byte
}

// issue makes a certificate that signs itself, or the one that it made before of
// the same names and dates.
func issue(t testing.TB, names []string, from, until time.Time) (certificate, key []byte) {
	t.Helper()
	id := fmt.Sprint(names, from, until)
	issued.Lock()
	defer issued.Unlock()
	if pair, ok := issued.pairs[id]; ok {
		return pair[0], pair[1]
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(int64(len(issued.pairs)) + 1), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: from, NotAfter: until, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	if issued.pairs == nil {
		issued.pairs = make(map[string][2][]byte)
	}
	issued.pairs[id] = [2][]byte{certificate, key}
	return certificate, key
}

func manifest(t testing.TB, path string) []runtime.Object {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return objects(t, data)
}
