package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

var noon = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

func issue(t testing.TB, key crypto.Signer, edit func(*x509.Certificate)) []byte {
	t.Helper()
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(7),
		Subject:      pkix.Name{CommonName: "example"},
		DNSNames:     []string{"example.com"},
		NotBefore:    noon.Add(-time.Hour),
		NotAfter:     noon.Add(time.Hour),
	}
	if edit != nil {
		edit(tpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return block("CERTIFICATE", der)
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func pkcs8(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return block("PRIVATE KEY", der)
}

func newEC(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newRSA(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestCertificate(t *testing.T) {
	ec, other := newEC(t, elliptic.P256()), newEC(t, elliptic.P256())
	ecDER, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsa2048, rsa1024 := newRSA(t, 2048), newRSA(t, 1024)
	p224 := newEC(t, elliptic.P224())
	good := issue(t, ec, nil)
	issuer := issue(t, other, func(c *x509.Certificate) { c.DNSNames = nil; c.Subject.CommonName = "the issuer" })
	params := block("EC PARAMETERS", []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7})

	for _, tt := range []struct {
		name     string
		kind     corev1.SecretType
		crt, key []byte
		want     Reason
		says     string
	}{
		{name: "PKCS #8", crt: good, key: pkcs8(t, ec)},
		{name: "SEC 1 after its parameters, as openssl writes it", crt: good, key: slices.Concat(params, block("EC PRIVATE KEY", ecDER))},
		{name: "PKCS #1", crt: issue(t, rsa2048, nil), key: block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsa2048))},
		{name: "Ed25519", crt: issue(t, ed, nil), key: pkcs8(t, ed)},
		{name: "a chain", crt: slices.Concat(good, issuer), key: pkcs8(t, ec)},
		{name: "words around the blocks", crt: slices.Concat([]byte("subject=example\n"), good, []byte("end\n")), key: pkcs8(t, ec)},
		{name: "common name only, as openssl makes it", crt: issue(t, ec, func(c *x509.Certificate) { c.DNSNames = nil }), key: pkcs8(t, ec)},
		{name: "opaque", kind: corev1.SecretTypeOpaque, crt: good, key: pkcs8(t, ec)},

		{name: "another type", kind: corev1.SecretTypeDockercfg, crt: good, key: pkcs8(t, ec), want: WrongType, says: "kubernetes.io/dockercfg"},
		{name: "no certificate", key: pkcs8(t, ec), want: MissingKey, says: "tls.crt"},
		{name: "no key", crt: good, want: MissingKey, says: "tls.key"},
		{name: "no PEM", crt: []byte("Hello world\n"), key: []byte("Hello world\n"), want: MalformedCertificate, says: "no PEM block"},
		{name: "the key in the certificate's place", crt: pkcs8(t, ec), key: pkcs8(t, ec), want: MalformedCertificate, says: "no PEM block of type CERTIFICATE"},
		{name: "a broken certificate", crt: block("CERTIFICATE", []byte("no DER")), key: pkcs8(t, ec), want: MalformedCertificate, says: "certificate 1 of tls.crt"},
		{name: "a broken issuer", crt: slices.Concat(good, block("CERTIFICATE", []byte("no DER"))), key: pkcs8(t, ec), want: MalformedCertificate, says: "certificate 2 of tls.crt"},
		{name: "a key that is no PEM", crt: good, key: []byte("x"), want: MalformedKey, says: "no PEM block with a private key"},
		{name: "the certificate in the key's place", crt: good, key: good, want: MalformedKey},
		{name: "a broken key", crt: good, key: block("PRIVATE KEY", []byte("no DER")), want: MalformedKey, says: "cannot be read"},
		{name: "an encrypted key", crt: good, key: block("ENCRYPTED PRIVATE KEY", []byte("x")), want: MalformedKey, says: "passphrase"},
		{name: "a key encrypted as of old", crt: good,
			key:  pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED"}, Bytes: []byte("x")}),
			want: MalformedKey, says: "passphrase"},
		{name: "another key", crt: good, key: pkcs8(t, other), want: KeyMismatch, says: "example.com"},
		{name: "another kind of key", crt: good, key: pkcs8(t, rsa2048), want: KeyMismatch},
		{name: "the chain the wrong way round", crt: slices.Concat(issuer, good), key: pkcs8(t, ec), want: KeyMismatch, says: "put the server's own certificate first"},
		{name: "a short key", crt: issue(t, rsa1024, nil), key: pkcs8(t, rsa1024), want: WeakKey, says: "1024 bits"},
		{name: "a curve that TLS has not", crt: issue(t, p224, nil), key: pkcs8(t, p224), want: WeakKey, says: "P-224"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.kind == "" {
				tt.kind = corev1.SecretTypeTLS
			}
			c, err := Certificate(&corev1.Secret{Type: tt.kind, Data: map[string][]byte{"tls.crt": tt.crt, "tls.key": tt.key}})
			if tt.want != "" {
				if err == nil || err.Reason != tt.want || !strings.Contains(err.Message, tt.says) {
					t.Fatalf("got %+v, want reason %s that says %q", err, tt.want, tt.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.Leaf == nil {
				t.Error("Leaf has to be set: each handshake would parse it again")
			}
			ref, stdErr := tls.X509KeyPair(tt.crt, tt.key)
			if stdErr != nil {
				t.Fatal(stdErr)
			}
			if !slices.EqualFunc(c.Certificate, ref.Certificate, bytes.Equal) {
				t.Error("the chain differs from that of crypto/tls")
			}
		})
	}
}

func TestStringDataWinsAsInTheAPIServer(t *testing.T) {
	key := newEC(t, elliptic.P256())
	s := &corev1.Secret{
		StringData: map[string]string{"tls.crt": string(issue(t, key, nil))},
		Data:       map[string][]byte{"tls.crt": []byte("old"), "tls.key": pkcs8(t, key)},
	}
	if _, err := Certificate(s); err != nil {
		t.Error(err)
	}
}

func TestValidity(t *testing.T) {
	key := newEC(t, elliptic.P256())
	c, err := Certificate(&corev1.Secret{Data: map[string][]byte{"tls.crt": issue(t, key, nil), "tls.key": pkcs8(t, key)}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		at   time.Time
		want Reason
	}{
		{noon, ""},
		{noon.Add(-time.Hour), ""},
		{noon.Add(-time.Hour - time.Second), NotYetValid},
		{noon.Add(time.Hour), ""},
		{noon.Add(time.Hour + time.Second), Expired},
	} {
		err := Validity(c, tt.at)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || err.Reason != tt.want || !strings.Contains(err.Message, "2030-01-01T1")) {
			t.Errorf("at %v: got %v, want %q", tt.at, err, tt.want)
		}
	}
}

// A Secret is written by whoever may write one in their own namespace.
func FuzzCertificate(f *testing.F) {
	key := newEC(f, elliptic.P256())
	f.Add(issue(f, key, nil), pkcs8(f, key))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n"), []byte("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"))
	f.Fuzz(func(t *testing.T, crt, key []byte) {
		c, err := Certificate(&corev1.Secret{Data: map[string][]byte{"tls.crt": crt, "tls.key": key}})
		if (c == nil) == (err == nil) {
			t.Fatalf("got certificate %v and error %v", c, err)
		}
		if c == nil {
			return
		}
		if _, err := tls.X509KeyPair(crt, key); err != nil {
			t.Fatalf("crypto/tls refuses what was taken: %v", err)
		}
		Validity(c, noon)
	})
}
