package identity_test

import (
	"encoding/pem"
	"strings"
	"testing"

	"github.com/adit-mesh/adit/identity"
	"github.com/adit-mesh/adit/identity/identitytest"
)

func rootPEM(t testing.TB, m *identitytest.Mesh) string {
	t.Helper()
	b, err := m.CA.GetX509BundleForTrustDomain(m.ID("a", "b").TrustDomain())
	if err != nil {
		t.Fatal(err)
	}
	return string(identity.EncodeCertificates(b.X509Authorities()))
}

func TestParseRoots(t *testing.T) {
	mesh := identitytest.New(t, "cluster.local")
	one, two := rootPEM(t, mesh), rootPEM(t, identitytest.New(t, "cluster.local"))
	svid, err := mesh.CA.FetchX509SVID(t.Context(), mesh.ID("default", "web"))
	if err != nil {
		t.Fatal(err)
	}
	leaf := string(identity.EncodeCertificates(svid.Certificates))
	tests := []struct {
		why, data string
		want      int
		text      string
	}{
		{"one", one, 1, ""},
		{"two, with a comment between", one + "# the next one\n\n" + two, 2, ""},
		{"the same one twice", one + two + one, 2, ""},
		{"empty", "", 0, "no certificate"},
		{"not PEM", "root", 0, "no certificate"},
		{"cut off", one + two[:len(two)-40], 0, "block 2 is damaged"},
		{"a leaf", one + leaf, 0, "CA:TRUE"},
		{"a key", one + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}})), 0, "certificates only"},
		{"rubbish", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}})), 0, "certificate 1"},
	}
	for _, tt := range tests {
		roots, err := identity.ParseRoots([]byte(tt.data))
		if len(roots) != tt.want || (err == nil) != (tt.text == "") || err != nil && !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %d roots, %v; want %d, %q", tt.why, len(roots), err, tt.want, tt.text)
		}
	}
}

func FuzzParseRoots(f *testing.F) {
	f.Add([]byte(rootPEM(f, identitytest.New(f, "cluster.local"))))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		roots, err := identity.ParseRoots(data)
		if err != nil {
			return
		}
		again, err := identity.ParseRoots(identity.EncodeCertificates(roots))
		if err != nil || len(again) != len(roots) {
			t.Fatalf("%d roots, written and read: %d, %v", len(roots), len(again), err)
		}
		for _, r := range roots {
			if !r.IsCA {
				t.Error("a root that is no CA")
			}
		}
	})
}
