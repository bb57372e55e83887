package identity_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/identity"
	"github.com/adit-mesh/adit/identity/identitytest"
)

// shake performs a handshake over c and s and one byte each way, because a
// TLS 1.3 client learns only by reading that the server refused it.
func shake(ctx context.Context, c, s net.Conn, client, server *tls.Config) meeting {
	m := meeting{client: tls.Client(c, client), server: tls.Server(s, server)}
	done := make(chan error, 1)
	go func() { done <- greet(ctx, m.server) }()
	m.clientErr = greet(ctx, m.client)
	if m.clientErr != nil {
		c.Close()
	}
	m.serverErr = <-done
	return m
}

// meeting is what both sides made of a handshake.
type meeting struct {
	client, server       *tls.Conn
	clientErr, serverErr error
}

func (m meeting) ok(t *testing.T, why string) {
	t.Helper()
	if m.clientErr != nil || m.serverErr != nil {
		t.Errorf("%s: client: %v; server: %v", why, m.clientErr, m.serverErr)
	}
}

func greet(ctx context.Context, c *tls.Conn) error {
	if err := c.HandshakeContext(ctx); err != nil {
		c.Close()
		return err
	}
	go c.Write([]byte{1})
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

// loopback returns the two ends of a TCP connection, closed with the test.
func loopback(t *testing.T) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return client, server
}

func handshake(t *testing.T, client, server *tls.Config) meeting {
	t.Helper()
	c, s := loopback(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return shake(ctx, c, s, client, server)
}

func TestHandshake(t *testing.T) {
	mesh := identitytest.New(t, "cluster.local")
	web, db := mesh.ID("default", "web"), mesh.ID("default", "db")
	m := handshake(t, mesh.ClientTLS(web, mesh.ID("default", "x"), db), mesh.ServerTLS(db))
	m.ok(t, "the expected peers")
	for _, tt := range []struct {
		side string
		conn *tls.Conn
		peer spiffeid.ID
	}{{"client", m.client, db}, {"server", m.server, web}} {
		cs := tt.conn.ConnectionState()
		if got, err := identity.PeerID(cs); err != nil || got != tt.peer {
			t.Errorf("%s: peer %s, %v; want %s", tt.side, got, err, tt.peer)
		}
		if cs.Version != tls.VersionTLS13 || cs.NegotiatedProtocol != "h2" || cs.DidResume || cs.ServerName != "" {
			t.Errorf("%s: version %x, ALPN %q, resumed %v, server name %q; want TLS 1.3, h2, no, none",
				tt.side, cs.Version, cs.NegotiatedProtocol, cs.DidResume, cs.ServerName)
		}
	}
}

// signed is a certificate as somebody else's CA, or a careless one, makes it.
func signed(t *testing.T, parent *tls.Certificate, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(time.Hour),
		URIs:                  []*url.URL{alice.URL()},
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	change(template)
	issuer, issuerKey := template, any(key)
	if parent != nil {
		issuer, issuerKey = parent.Leaf, parent.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func asRoot(c *x509.Certificate) {
	c.IsCA, c.URIs = true, []*url.URL{domain.ID().URL()}
	c.KeyUsage, c.ExtKeyUsage = x509.KeyUsageCertSign, nil
	c.Subject.CommonName = "test root"
}

func TestServerRefuses(t *testing.T) {
	root := signed(t, nil, asRoot)
	m := start(t, rootSource{root}, domain)
	defer m.Acquire(bob)()
	server := m.ServerTLS(bob)

	tests := []struct {
		why    string
		change func(*x509.Certificate)
		is     error
		text   string // in the server's error
	}{
		{"an SVID of our trust domain", func(*x509.Certificate) {}, nil, ""},
		{"an SVID without extended key usage is one too", func(c *x509.Certificate) { c.ExtKeyUsage = nil }, nil, ""},
		{"expired", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }, identity.ErrExpired, "valid from"},
		{"from the future", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, identity.ErrExpired, "clocks"},
		{"foreign trust domain", func(c *x509.Certificate) {
			c.URIs[0] = &url.URL{Scheme: "spiffe", Host: "evil.org", Path: "/ns/a/sa/b"}
		},
			identity.ErrForeignTrustDomain, "spiffe://evil.org/ns/a/sa/b; accepted: cluster.local"},
		{"no URI", func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"cluster.local"} }, identity.ErrNotSVID, "no URI SAN"},
		{"two URIs", func(c *x509.Certificate) { c.URIs = append(c.URIs, bob.URL()) }, identity.ErrNotSVID, "more than one"},
		{"not a SPIFFE URI", func(c *x509.Certificate) {
			c.URIs[0] = &url.URL{Scheme: "https", Host: "cluster.local", Path: "/ns/a/sa/b"}
		},
			identity.ErrNotSVID, "scheme"},
		{"a trust domain is not a workload", func(c *x509.Certificate) { c.URIs[0] = domain.ID().URL() }, identity.ErrNotSVID, "not a workload"},
		{"a CA", func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }, identity.ErrNotSVID, "CA certificate"},
		{"may sign", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }, identity.ErrNotSVID, "sign others"},
		{"for servers only", func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }, identity.ErrUntrusted, "key usage"},
	}
	for _, tt := range tests {
		t.Run(tt.why, func(t *testing.T) {
			cert := signed(t, &root, tt.change)
			m := handshake(t, careless(&cert), server)
			checkRefusal(t, "server", m.serverErr, tt.is, tt.text)
			if (m.clientErr != nil) != (tt.is != nil) {
				t.Errorf("client: %v", m.clientErr)
			}
		})
	}

	t.Run("self-signed", func(t *testing.T) {
		cert := signed(t, nil, func(*x509.Certificate) {})
		m := handshake(t, careless(&cert), server)
		checkRefusal(t, "server", m.serverErr, identity.ErrUntrusted, alice.String())
	})
	t.Run("another root of the same name", func(t *testing.T) {
		other := signed(t, nil, asRoot)
		cert := signed(t, &other, func(*x509.Certificate) {})
		m := handshake(t, careless(&cert), server)
		checkRefusal(t, "server", m.serverErr, identity.ErrUntrusted, alice.String())
	})
	t.Run("through an intermediate", func(t *testing.T) {
		middle := signed(t, &root, asRoot)
		cert := signed(t, &middle, func(*x509.Certificate) {})
		cert.Certificate = append(cert.Certificate, middle.Certificate[0])
		handshake(t, careless(&cert), server).ok(t, "a chain of three")
	})
	t.Run("no certificate", func(t *testing.T) {
		m := handshake(t, careless(nil), server)
		if m.serverErr == nil || !strings.Contains(m.serverErr.Error(), "didn't provide a certificate") {
			t.Errorf("server: %v", m.serverErr)
		}
		if m.clientErr == nil || !strings.Contains(m.clientErr.Error(), "certificate required") {
			t.Errorf("client: %v", m.clientErr)
		}
	})
	t.Run("TLS 1.2", func(t *testing.T) {
		cert := signed(t, &root, func(*x509.Certificate) {})
		old := careless(&cert)
		old.MaxVersion = tls.VersionTLS12
		if m := handshake(t, old, server); m.clientErr == nil || m.serverErr == nil {
			t.Errorf("TLS 1.2 was accepted: client: %v; server: %v", m.clientErr, m.serverErr)
		}
	})
	t.Run("stolen certificate without its key", func(t *testing.T) {
		cert := signed(t, &root, func(*x509.Certificate) {})
		cert.PrivateKey = signed(t, nil, func(*x509.Certificate) {}).PrivateKey
		m := handshake(t, careless(&cert), server)
		if m.serverErr == nil || !strings.Contains(m.serverErr.Error(), "invalid signature") {
			t.Errorf("server: %v", m.serverErr)
		}
	})
	t.Run("offers tickets to nobody", func(t *testing.T) {
		cert := signed(t, &root, func(*x509.Certificate) {})
		eager := careless(&cert)
		eager.ClientSessionCache = tls.NewLRUClientSessionCache(4)
		for range 2 {
			if handshake(t, eager, server).client.ConnectionState().DidResume {
				t.Error("the session was resumed")
			}
		}
	})
}

// careless is a client that verifies nothing.
func careless(cert *tls.Certificate) *tls.Config {
	cfg := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}
	if cert != nil {
		// Not Certificates: crypto/tls would hold back one it deems unfit.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return cfg
}

func checkRefusal(t *testing.T, side string, err, is error, text string) {
	t.Helper()
	switch {
	case is == nil && err != nil:
		t.Errorf("%s: %v; want success", side, err)
	case is != nil && (!errors.Is(err, is) || !strings.Contains(err.Error(), text)):
		t.Errorf("%s: %v; want %v with %q", side, err, is, text)
	}
}

func TestClientRefuses(t *testing.T) {
	mesh, other := identitytest.New(t, "cluster.local"), identitytest.New(t, "cluster.local")
	foreign := identitytest.New(t, "evil.org")
	web, db, cache := mesh.ID("default", "web"), mesh.ID("default", "db"), mesh.ID("default", "cache")
	var zero spiffeid.ID

	// The servers here take any client: it is the client that is tested.
	open := func(cfg *tls.Config) *tls.Config {
		cfg = cfg.Clone()
		cfg.VerifyConnection = nil
		return cfg
	}
	tests := []struct {
		why    string
		expect []spiffeid.ID
		server *tls.Config
		is     error
		text   string
	}{
		{"one of the expected", []spiffeid.ID{cache, db}, mesh.ServerTLS(db), nil, ""},
		{"not the expected", []spiffeid.ID{cache}, mesh.ServerTLS(db), identity.ErrUnexpectedPeer, "it is " + db.String() + "; expected " + cache.String()},
		{"nobody expected", nil, mesh.ServerTLS(db), identity.ErrUnexpectedPeer, "no identity is known"},
		{"the zero ID matches nobody", []spiffeid.ID{zero}, mesh.ServerTLS(db), identity.ErrUnexpectedPeer, db.String()},
		{"right name, wrong root", []spiffeid.ID{db}, other.ServerTLS(db), identity.ErrUntrusted, db.String()},
		{"foreign trust domain", []spiffeid.ID{foreign.ID("default", "db")}, foreign.ServerTLS(foreign.ID("default", "db")), identity.ErrForeignTrustDomain, "accepted: cluster.local"},
	}
	for _, tt := range tests {
		t.Run(tt.why, func(t *testing.T) {
			m := handshake(t, mesh.ClientTLS(web, tt.expect...), open(tt.server))
			checkRefusal(t, "client", m.clientErr, tt.is, tt.text)
			if (m.serverErr != nil) != (tt.is != nil) {
				t.Errorf("server: %v", m.serverErr)
			}
		})
	}
}

func TestOwnSideWithoutCertificate(t *testing.T) {
	mesh := identitytest.New(t, "cluster.local")
	web, db := mesh.ID("default", "web"), mesh.ID("default", "db")

	m := handshake(t, mesh.Manager.ClientTLS(web, []spiffeid.ID{db}), mesh.ServerTLS(db))
	if !errors.Is(m.clientErr, identity.ErrNotInUse) {
		t.Errorf("client whose identity nobody acquired: %v; want ErrNotInUse", m.clientErr)
	}
	m = handshake(t, mesh.ClientTLS(web, db), mesh.Manager.ServerTLS(mesh.ID("default", "gone")))
	if !errors.Is(m.serverErr, identity.ErrNotInUse) {
		t.Errorf("server whose identity nobody acquired: %v; want ErrNotInUse", m.serverErr)
	}
}

func TestExpiryIsSeenAtTheHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t, time.Hour)
		ours, theirs := start(t, source), start(t, source)
		defer ours.Acquire(alice)()
		defer theirs.Acquire(bob)()
		client, server := ours.ClientTLS(alice, []spiffeid.ID{bob}), theirs.ServerTLS(bob)

		try := func() meeting {
			c, s := net.Pipe()
			defer s.Close()
			defer c.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			return shake(ctx, c, s, client, server)
		}
		try().ok(t, "both certificates are fresh")
		source.fail(errLine)
		time.Sleep(2 * time.Hour)
		if m := try(); m.clientErr == nil || !errors.Is(m.serverErr, errLine) {
			t.Errorf("server presented an expired certificate: client: %v; server: %v", m.clientErr, m.serverErr)
		}
		source.fail(nil)
		time.Sleep(5 * time.Minute)
		try().ok(t, "the source is back, the configurations are the same")
	})
}

func TestRotationKeepsConnections(t *testing.T) {
	mesh := identitytest.New(t, "cluster.local")
	web, db := mesh.ID("default", "web"), mesh.ID("default", "db")
	client, server := mesh.ClientTLS(web, db), mesh.ServerTLS(db)
	first := handshake(t, client, server)
	first.ok(t, "before rotation")
	before := first.client.ConnectionState().PeerCertificates[0].SerialNumber
	if err := mesh.Manager.Rotate(t.Context(), db); err != nil {
		t.Fatal(err)
	}

	go first.server.Write([]byte("still here"))
	buf := make([]byte, 10)
	if _, err := io.ReadFull(first.client, buf); err != nil {
		t.Errorf("open connection after rotation: %v", err)
	}
	second := handshake(t, client, server)
	second.ok(t, "after rotation")
	if after := second.client.ConnectionState().PeerCertificates[0].SerialNumber; after.Cmp(before) == 0 {
		t.Error("the same configuration still presents the old certificate")
	}
}

func TestConfigurationsAreCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, newSource(t, 24*time.Hour))
		release := m.Acquire(alice)
		synctest.Wait()
		carol := spiffeid.RequireFromString("spiffe://cluster.local/ns/default/sa/carol")

		server := m.ServerTLS(alice)
		both := m.ClientTLS(alice, []spiffeid.ID{bob, carol})
		if m.ServerTLS(alice) != server {
			t.Error("ServerTLS builds a configuration per call")
		}
		if m.ClientTLS(alice, []spiffeid.ID{carol, bob, bob}) != both {
			t.Error("ClientTLS of an equal set is another configuration")
		}
		if m.ClientTLS(alice, []spiffeid.ID{bob}) == both {
			t.Error("ClientTLS ignores the expected peers")
		}

		for range 3 {
			time.Sleep(9 * time.Minute)
			if m.ClientTLS(alice, []spiffeid.ID{bob, carol}) != both {
				t.Error("a configuration in use was forgotten")
			}
		}
		time.Sleep(20 * time.Minute)
		if m.ClientTLS(alice, []spiffeid.ID{bob, carol}) == both {
			t.Error("a configuration unused for 20 minutes was kept")
		}

		release()
		defer m.Acquire(alice)()
		if m.ServerTLS(alice) == server {
			t.Error("the identity was dropped and its configuration kept")
		}
	})
}

func TestExpectedSetIsCopied(t *testing.T) {
	mesh := identitytest.New(t, "cluster.local")
	web, db := mesh.ID("default", "web"), mesh.ID("default", "db")
	mesh.Acquire(web)
	expect := []spiffeid.ID{mesh.ID("default", "cache")}
	client := mesh.Manager.ClientTLS(web, expect)
	expect[0] = db
	if m := handshake(t, client, mesh.ServerTLS(db)); !errors.Is(m.clientErr, identity.ErrUnexpectedPeer) {
		t.Errorf("the caller's slice changed whom the configuration trusts: %v", m.clientErr)
	}
}

func TestPeerIDOfNobody(t *testing.T) {
	if _, err := identity.PeerID(tls.ConnectionState{}); !errors.Is(err, identity.ErrNoCertificate) {
		t.Errorf("PeerID without a handshake: %v", err)
	}
}
