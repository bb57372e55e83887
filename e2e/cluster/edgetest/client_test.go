package edgetest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

// version is what a client speaks.
type version string

const (
	h1 version = "HTTP/1.1"
	h2 version = "HTTP/2"
	h3 version = "HTTP/3"
)

// client is one outside of the cluster that knows where a name is: at a Gateway's address.
type client struct {
	http.Client
	version version
	close   func()
	// leaf is the certificate of the last handshake.
	leaf atomic.Pointer[x509.Certificate]
}

// newClient makes one that keeps its connections, and that trusts roots; nil is
// anything, as curl -k does.
func newClient(v version, at netip.Addr, roots *x509.CertPool) *client {
	c := &client{version: v, close: func() {}}
	config := &tls.Config{
		RootCAs: roots, InsecureSkipVerify: roots == nil,
		VerifyConnection: func(s tls.ConnectionState) error {
			c.leaf.Store(s.PeerCertificates[0])
			return nil
		},
	}
	if v == h3 {
		tr := &http3.Transport{TLSClientConfig: config, QUICConfig: &quic.Config{HandshakeIdleTimeout: 5 * time.Second, MaxIdleTimeout: 30 * time.Second},
			Dial: func(ctx context.Context, addr string, config *tls.Config, qc *quic.Config) (*quic.Conn, error) {
				return dialQUIC(ctx, relocate(addr, at), config, qc)
			}}
		c.Transport, c.close = tr, func() { _ = tr.Close() }
		return c
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(v == h1)
	protocols.SetHTTP2(v == h2)
	tr := &http.Transport{TLSClientConfig: config, Protocols: protocols, TLSHandshakeTimeout: 5 * time.Second,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return meshlab.Cluster().Outside().Dial(ctx, &net.Dialer{Timeout: 5 * time.Second}, "tcp", relocate(addr, at))
		}}
	c.Transport, c.close = tr, tr.CloseIdleConnections
	return c
}

// newClientH2C is for HTTP/2 without TLS.
func newClientH2C(at netip.Addr) *client {
	c := newClient(h1, at, nil)
	c.version = h2
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	c.Transport.(*http.Transport).Protocols = protocols
	return c
}

// relocate keeps the port of HOST:PORT.
func relocate(addr string, at netip.Addr) string {
	_, port, _ := net.SplitHostPort(addr)
	return net.JoinHostPort(at.String(), port)
}

// dialQUIC makes a connection on a socket of its own, which goes with it.
func dialQUIC(ctx context.Context, addr string, config *tls.Config, qc *quic.Config) (*quic.Conn, error) {
	to, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, err
	}
	socket, err := freshSocket()
	if err != nil {
		return nil, err
	}
	tr := &quic.Transport{Conn: socket}
	end := func() { _, _ = tr.Close(), socket.Close() }
	conn, err := tr.Dial(ctx, to, config, qc)
	if err != nil {
		end()
		return nil, err
	}
	// Its last packet is sent after its context ends.
	context.AfterFunc(conn.Context(), func() { time.AfterFunc(100*time.Millisecond, end) })
	return conn, nil
}

var socketPort atomic.Uint32 // how many have been tried

// freshSocket has a port that no other had before it, as far as there are ports.
// A node knows a UDP flow by its ports for two minutes after its last packet, so a
// port used again goes where the one before it went: to a pod that drains, perhaps,
// and refuses new connections. One client seldom makes so many that this happens.
func freshSocket() (c net.PacketConn, err error) {
	for range 100 {
		port := 10000 + socketPort.Add(1)%50000
		if c, err = meshlab.Cluster().Outside().ListenPacket("udp", fmt.Sprintf(":%d", port)); err == nil {
			return c, nil
		}
	}
	return nil, err
}

// answer is what came back, and what the backend saw.
type answer struct {
	status int
	proto  string
	header http.Header
	body   []byte
	echo
}

// echo is the body of the echo server.
type echo struct {
	Path, Host, Method, Proto, Namespace, Pod string
	Headers                                   http.Header
}

// get asks once; header is NAME, VALUE, …
func (c *client) get(ctx context.Context, url string, header ...string) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "edgetest")
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
			continue
		}
		req.Header.Set(header[i], header[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	a := &answer{status: res.StatusCode, header: res.Header, proto: res.Proto}
	if a.body, err = io.ReadAll(res.Body); err != nil {
		return a, fmt.Errorf("status %d, body: %w", a.status, err)
	}
	if a.status != http.StatusOK {
		return a, fmt.Errorf("status %d: %s", a.status, bytes.TrimSpace(a.body))
	}
	if err := json.Unmarshal(a.body, &a.echo); err != nil {
		return a, fmt.Errorf("%w in %q", err, a.body)
	}
	return a, nil
}

// reach wants an answer in the end, of a backend whose pod's name begins so.
func (c *client) reach(t *testing.T, pod, url string, header ...string) *answer {
	t.Helper()
	var a *answer
	meshlab.Eventually(t, fmt.Sprintf("%s over %s is answered by %s…", url, c.version, pod), func() (err error) {
		if a, err = c.get(t.Context(), url, header...); err != nil {
			return err
		}
		if !bytes.HasPrefix([]byte(a.Pod), []byte(pod)) {
			return fmt.Errorf("answered by %q", a.Pod)
		}
		return nil
	})
	return a
}

// refused wants a status in the end.
func (c *client) refused(t *testing.T, status int, url string, header ...string) {
	t.Helper()
	meshlab.Eventually(t, fmt.Sprintf("%s over %s is answered %d", url, c.version, status), func() error {
		a, err := c.get(t.Context(), url, header...)
		if a == nil {
			return err
		}
		if a.status != status {
			return fmt.Errorf("it is %d", a.status)
		}
		return nil
	})
}

var (
	errNoAddress = errors.New("no address")
	errNoStatus  = errors.New("no status")
)

// addressOf waits for a Gateway's first address.
func addressOf(t *testing.T, ns, name string) netip.Addr {
	t.Helper()
	var at netip.Addr
	meshlab.Eventually(t, "Gateway "+ns+"/"+name+" has an address and is programmed", func() error {
		var gw gatewayObject
		if err := getJSON(t.Context(), &gw, "-n", ns, "gateway", name); err != nil {
			return err
		}
		if len(gw.Status.Addresses) == 0 {
			return errNoAddress
		}
		var err error
		if at, err = netip.ParseAddr(gw.Status.Addresses[0].Value); err != nil {
			return err
		}
		return wantCondition(gw.Status.Conditions, gw.Metadata.Generation, "Programmed", "True", "Programmed")
	})
	return at
}
