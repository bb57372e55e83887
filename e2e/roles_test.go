package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/e2e/lab"
	"github.com/adit-mesh/adit/e2e/lab/labtest"
	"github.com/adit-mesh/adit/e2e/testbed"
	"github.com/adit-mesh/adit/hbone"
	"github.com/adit-mesh/adit/identity"
	"github.com/adit-mesh/adit/identity/ca"
)

// An HTTPS client whose own TLS session reaches its server through a tunnel
// that neither knows of:
//
//	client ── TLS ──► :10000 encapsulate ══ mTLS, CONNECT ══► :10001 terminate ── TLS ──► origin

const (
	clientID  = "spiffe://cluster.local/ns/default/sa/client"
	gatewayID = "spiffe://cluster.local/ns/default/sa/gateway"

	encapsulating = `encapsulate:
- listen: 127.0.0.1:10000
  peer: 127.0.0.1:10001
  authority: host.com:443
  identity: ` + clientID + `
  expect: [` + gatewayID + `]
  headers: {original_dst_port: "%DOWNSTREAM_LOCAL_PORT%"}
`
	terminating = `terminate:
- listen: 127.0.0.1:10001
  identity: ` + gatewayID + `
  allow: [%s]
  upstream: %s
`
)

// startRole runs an agent that captures nothing, and waits until it listens.
func startRole(t *testing.T, ns *lab.Namespace, dir, name, listens, config string) *lab.Process {
	t.Helper()
	path := filepath.Join(dir, name+".yaml")
	config = "ca: {directory: ca, ttl: 1h}\nadmin: \"\"\nmetrics: \"\"\nreadiness: \"\"\n" + config
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(mustBinary(t), "agent", "--config", path)
	cmd.Stdout, cmd.Stderr, cmd.Env = out, out, []string{}
	p, err := ns.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			for _, line := range testbed.LastLines(out.Name(), 30) {
				t.Logf("%s: %s", name, line)
			}
		}
	})
	err = testbed.Poll(t.Context(), patience, func() error {
		select {
		case <-p.Done():
			return testbed.Permanent{Err: fmt.Errorf("%s ended: %w", name, p.Wait())}
		default:
		}
		c, err := ns.Dial(t.Context(), nil, "tcp", listens)
		if err != nil {
			return err
		}
		return c.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func host(t *testing.T) *lab.Namespace {
	t.Helper()
	ns, err := labtest.New(t).Namespace("host")
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// origin is an HTTPS server inside ns.
func origin(t *testing.T, ns *lab.Namespace) *httptest.Server {
	t.Helper()
	l, err := ns.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s asked for by %s", r.URL.Path, r.TLS.ServerName)
	}))
	_ = s.Listener.Close()
	s.Listener = l
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // probes hang up before the handshake
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// httpsThrough asks for a page over a TCP connection to entry, verifying the
// origin's own certificate.
func httpsThrough(ctx context.Context, ns *lab.Namespace, entry string, origin *httptest.Server) (string, error) {
	config := origin.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.ServerName = "example.com" // a name in the certificate of httptest
	client := &http.Client{
		Timeout: patience,
		Transport: &http.Transport{
			TLSClientConfig:   config,
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return ns.Dial(ctx, nil, network, entry)
			},
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://example.com/page", nil)
	if err != nil {
		return "", err
	}
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), err
}

func TestHTTPSThroughEncapsulateAndTerminate(t *testing.T) {
	for _, together := range []bool{false, true} {
		t.Run(map[bool]string{false: "two processes", true: "one process"}[together], func(t *testing.T) {
			ns, dir := host(t), t.TempDir()
			server := origin(t, ns)
			out := fmt.Sprintf(terminating, clientID, server.Listener.Addr())
			var processes []*lab.Process
			if together {
				processes = append(processes, startRole(t, ns, dir, "both", "127.0.0.1:10001", encapsulating+out))
			} else {
				processes = append(processes,
					startRole(t, ns, dir, "terminate", "127.0.0.1:10001", out),
					startRole(t, ns, dir, "encapsulate", "127.0.0.1:10000", encapsulating))
			}
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					got, err := httpsThrough(t.Context(), ns, "127.0.0.1:10000", server)
					if err != nil || got != "/page asked for by example.com" {
						t.Errorf("got %q, %v", got, err)
					}
				})
			}
			wg.Wait()
			for _, p := range processes {
				if err := p.Stop(patience); err != nil {
					t.Errorf("after SIGTERM: %v", err)
				}
			}
		})
	}
}

func TestTerminateRefusesWhoIsNotAllowed(t *testing.T) {
	ns, dir := host(t), t.TempDir()
	server := origin(t, ns)
	startRole(t, ns, dir, "terminate", "127.0.0.1:10001",
		fmt.Sprintf(terminating, "spiffe://cluster.local/ns/default/sa/somebody-else", server.Listener.Addr()))
	startRole(t, ns, dir, "encapsulate", "127.0.0.1:10000", encapsulating)
	_, err := httpsThrough(t.Context(), ns, "127.0.0.1:10000", server)
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a peer that is not allowed gets %v, want a reset", err)
	}
}

// The peer of an encapsulating agent need not be adit: what it sees is a plain
// CONNECT with the configured authority and headers.
func TestEncapsulateSendsConfiguredHeaders(t *testing.T) {
	ns, dir := host(t), t.TempDir()
	td := spiffeid.RequireTrustDomainFromString(testbed.TrustDomain)
	issuer, err := ca.Open(ca.Config{Dir: filepath.Join(dir, "ca"), TrustDomain: td, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	ids := identity.NewManager(identity.ManagerConfig{Source: issuer, TrustDomains: []spiffeid.TrustDomain{td}})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = ids.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	id := spiffeid.RequireFromString(gatewayID)
	t.Cleanup(ids.Acquire(id))

	type seen struct {
		request *hbone.Request
		peer    tls.ConnectionState
	}
	streams := make(chan seen, 16)
	server := hbone.NewServer(hbone.ServerConfig{TLS: ids.ServerTLS(id), Handler: func(_ context.Context, s *hbone.Stream) {
		select {
		case streams <- seen{s.Request(), s.ConnectionState()}:
		default:
		}
		if s.Accept() == nil {
			_, _ = io.Copy(s, s)
		}
		_ = s.Close()
	}})
	l, err := ns.Listen("tcp", "127.0.0.1:10001")
	if err != nil {
		t.Fatal(err)
	}
	running.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() { _ = server.Close() })

	// After its peer: a peer that refuses is left alone for a while.
	startRole(t, ns, dir, "encapsulate", "127.0.0.1:10000", encapsulating)
	c, err := ns.Dial(t.Context(), nil, "tcp", "127.0.0.1:10000")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := roundTrip(c, "through the tunnel"); err != nil {
		t.Fatal(err)
	}
	got := <-streams
	r := got.request
	if r.Authority != "host.com:443" {
		t.Errorf("authority %q, want host.com:443", r.Authority)
	}
	if !slices.Contains(r.Header, hbone.Header{Name: "original_dst_port", Value: "10000"}) {
		t.Errorf("headers %v, want original_dst_port: 10000, the port that the client connected to", r.Header)
	}
	if peer, err := identity.PeerID(got.peer); err != nil || peer.String() != clientID {
		t.Errorf("the peer proves to be %s (%v), want %s", peer, err, clientID)
	}
}
