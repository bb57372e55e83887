package caserver

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var web = spiffeid.RequireFromString("spiffe://cluster.local/ns/default/sa/web")

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// csr makes a signing request.
func csr(t testing.TB, key crypto.Signer, template *x509.CertificateRequest) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func uris(t testing.TB, texts ...string) []*url.URL {
	t.Helper()
	var list []*url.URL
	for _, text := range texts {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, u)
	}
	return list
}

// san makes a subject alternative name extension out of raw general names.
func san(t testing.TB, names ...asn1.RawValue) pkix.Extension {
	t.Helper()
	value, err := asn1.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: oidSubjectAltName, Value: value}
}

func TestParseCSR(t *testing.T) {
	t.Setenv("GODEBUG", "rsa1024min=0") // to make a key that is refused
	p256 := ecKey(t, elliptic.P256())
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	only := &x509.CertificateRequest{URIs: uris(t, web.String())}
	uriName := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(web.String())}
	directory := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: []byte{0x30, 0}}

	good := csr(t, p256, only)
	block, _ := pem.Decode([]byte(good))
	forged := append([]byte(nil), block.Bytes...)
	forged[len(forged)-1] ^= 1
	tests := []struct{ why, data, text string }{
		{"P-256", good, ""},
		{"P-384", csr(t, ecKey(t, elliptic.P384()), only), ""},
		{"RSA 2048", csr(t, rsaKey(t, 2048), only), ""},
		{"an old name for it", strings.ReplaceAll(good, "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"), ""},
		{"a subject, ignored", csr(t, p256, &x509.CertificateRequest{URIs: only.URIs, Subject: pkix.Name{CommonName: "admin"}}), ""},
		{"RSA 1024", csr(t, rsaKey(t, 1024), only), "1024 bits"},
		{"P-224", csr(t, ecKey(t, elliptic.P224()), only), "P-224"},
		{"Ed25519", csr(t, ed, only), "want ECDSA or RSA"},
		{"no proof of possession", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: forged})), "not signed with its own key"},
		{"no name", csr(t, p256, &x509.CertificateRequest{}), "does not name one URI"},
		{"two URIs", csr(t, p256, &x509.CertificateRequest{URIs: uris(t, web.String(), "spiffe://cluster.local/ns/a/sa/b")}), "one URI alone"},
		{"a DNS name too", csr(t, p256, &x509.CertificateRequest{URIs: only.URIs, DNSNames: []string{"adit-ca.adit-system.svc"}}), "one URI alone"},
		{"an address too", csr(t, p256, &x509.CertificateRequest{URIs: only.URIs, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}), "one URI alone"},
		{"a mail address alone", csr(t, p256, &x509.CertificateRequest{EmailAddresses: []string{"a@b.example"}}), "one URI alone"},
		{"a kind of name that crypto/x509 passes over", csr(t, p256, &x509.CertificateRequest{ExtraExtensions: []pkix.Extension{san(t, uriName, directory)}}), "one URI alone"},
		{"not SPIFFE", csr(t, p256, &x509.CertificateRequest{URIs: uris(t, "https://a.example")}), "its URI"},
		{"not PEM", "x", "not a certificate request"},
		{"a certificate", strings.ReplaceAll(good, "CERTIFICATE REQUEST", "CERTIFICATE"), "not a certificate request"},
		{"two of them", good + good, "something follows"},
		{"huge", good + strings.Repeat("\n", maxCSR), "bytes"},
	}
	for _, tt := range tests {
		_, id, err := parseCSR(tt.data)
		if (err == nil) != (tt.text == "") || err != nil && !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v; want something about %q", tt.why, err, tt.text)
		}
		if err == nil && id != web {
			t.Errorf("%s: it names %s", tt.why, id)
		}
	}
}

func FuzzParseCSR(f *testing.F) {
	key := ecKey(f, elliptic.P256())
	f.Add(csr(f, key, &x509.CertificateRequest{URIs: uris(f, web.String())}))
	f.Add(csr(f, key, &x509.CertificateRequest{URIs: uris(f, web.String()), DNSNames: []string{"a"}}))
	f.Add(csr(f, rsaKey(f, 2048), &x509.CertificateRequest{}))
	f.Fuzz(func(t *testing.T, data string) {
		public, id, err := parseCSR(data)
		if err != nil {
			return
		}
		if id.IsZero() || checkKey(public) != nil {
			t.Errorf("accepted %T for %q", public, id)
		}
	})
}

// decode takes the first PEM block off data.
func decode(t testing.TB, data []byte) (der, rest []byte) {
	t.Helper()
	block, rest := pem.Decode(data)
	if block == nil {
		t.Fatalf("not PEM: %.60q", data)
	}
	return block.Bytes, rest
}
