package edgetest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

// authority issues certificates for names that do not exist.
type authority struct {
	key   *ecdsa.PrivateKey
	cert  *x509.Certificate
	roots *x509.CertPool
}

var serial atomic.Int64 // the last one

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{roots: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial.Add(1)), Subject: pkix.Name{CommonName: "edgetest"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.key, a.cert = sign(t, template, nil, nil)
	a.roots.AddCert(a.cert)
	return a
}

func sign(t *testing.T, template, parent *x509.Certificate, by *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if by == nil {
		parent, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}

// issued is a certificate with its key, in PEM.
type issued struct {
	serial    string
	cert, key []byte
}

// issue makes a certificate that is valid until then.
func (a *authority) issue(t *testing.T, until time.Time, names ...string) issued {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial.Add(1)), DNSNames: names,
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	key, cert := sign(t, template, a.cert, a.key)
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return issued{
		serial: cert.SerialNumber.String(),
		cert:   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}),
		key:    pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}),
	}
}

// fresh is one for a day.
func (a *authority) fresh(t *testing.T, names ...string) issued {
	t.Helper()
	return a.issue(t, time.Now().Add(24*time.Hour), names...)
}

// secret is the manifest of a Secret with a certificate.
func secret(name string, i issued) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: %s}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n%s  tls.key: |\n%s---\n",
		name, indent(i.cert), indent(i.key))
}

func indent(text []byte) []byte {
	var out []byte
	for line := range bytes.Lines(text) {
		out = append(append(out, "    "...), line...)
	}
	return out
}

// shop is a backend behind a Gateway for HTTPS, in a namespace of its own.
type shop struct {
	ns   string
	at   netip.Addr
	ca   *authority
	host string
}

// openShop makes one, with a Gateway of the edge's own class.
func openShop(t *testing.T, enrolled bool, replicas int32) *shop {
	t.Helper()
	s := &shop{ns: meshlab.Namespace(t, enrolled), ca: newAuthority(t), host: "shop.example"}
	meshlab.Apply(t, s.ns, secret("shop", s.ca.fresh(t, s.host))+`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: shop}
spec:
  gatewayClassName: adit
  listeners:
  - {name: https, protocol: HTTPS, port: 443, hostname: shop.example, tls: {certificateRefs: [{name: shop}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  parentRefs: [{name: shop}]
  rules:
  - backendRefs: [{name: shop, port: 80}]`)
	meshlab.Service(t, s.ns, "shop", nil, nil)
	meshlab.Deployment(t, s.ns, "shop", replicas, meshlab.PodSpec{
		ServiceAccount: "shop", Args: []string{"echo", "-http", ":8080", "-linger", "3s"},
		Readiness: meshlab.HTTPProbe("/readyz"),
		Edit: func(p *corev1.Pod) {
			grace := int64(30)
			p.Spec.TerminationGracePeriodSeconds = &grace
			for name, path := range map[string]string{"POD_NAME": "metadata.name", "NAMESPACE": "metadata.namespace"} {
				p.Spec.Containers[0].Env = append(p.Spec.Containers[0].Env, corev1.EnvVar{
					Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}},
				})
			}
		},
	})
	s.at = addressOf(t, s.ns, "shop")
	return s
}

func (s *shop) url(path string) string { return "https://" + s.host + path }

// client is one that trusts the shop's authority.
func (s *shop) client(v version) *client { return newClient(v, s.at, s.ca.roots) }

// load has all kinds of clients ask the shop.
func (s *shop) load(t *testing.T) *load {
	t.Helper()
	return traffic{at: s.at, url: s.url("/"), roots: s.ca.roots}.start(t)
}

// edgePods are the pods of the edge that do not terminate.
func edgePods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := meshlab.Cluster().Client().CoreV1().Pods(meshlab.System).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=adit-ingress"})
	if err != nil {
		return nil, err
	}
	var pods []corev1.Pod
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			pods = append(pods, p)
		}
	}
	return pods, nil
}

// edgeAddrs are the IPv4 addresses of the edge's pods.
func edgeAddrs(t *testing.T) (addrs []netip.Addr) {
	t.Helper()
	pods, err := edgePods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		addrs = append(addrs, netip.MustParseAddr(p.Status.PodIP))
	}
	return addrs
}
