package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"testing"

	"github.com/adit-mesh/adit/identity/identitytest"
)

// FuzzPeerCertificate: whatever parses as a stranger's chain, nothing that our
// root did not sign gets in, and nothing makes us panic.
func FuzzPeerCertificate(f *testing.F) {
	mesh, other := identitytest.New(f, "cluster.local"), identitytest.New(f, "cluster.local")
	id := mesh.ID("default", "web")
	forged, err := other.CA.FetchX509SVID(f.Context(), id)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(forged.Certificates[0].Raw)
	roots, err := other.CA.GetX509BundleForTrustDomain(id.TrustDomain())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(append([]byte(nil), forged.Certificates[0].Raw...), roots.X509Authorities()[0].Raw...))

	server, client := mesh.ServerTLS(id), mesh.ClientTLS(id, id)
	f.Fuzz(func(t *testing.T, der []byte) {
		certs, err := x509.ParseCertificates(der)
		if err != nil {
			return
		}
		cs := tls.ConnectionState{HandshakeComplete: true, PeerCertificates: certs}
		if server.VerifyConnection(cs) == nil {
			t.Error("the server accepted a certificate that its root did not sign")
		}
		if client.VerifyConnection(cs) == nil {
			t.Error("the client accepted a certificate that its root did not sign")
		}
	})
}
