package cakube

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/adit-mesh/adit/identity/caserver"
	"github.com/adit-mesh/adit/identity/istio"
)

const serverName = "adit-ca.adit-system.svc"

// serve runs a replica: backend and server. It returns its address.
func serve(t *testing.T, rc *rest.Config, change ...func(*Config)) (*Backend, string) {
	t.Helper()
	b := newBackend(t, rc, change...)
	run(t, b)
	s, err := caserver.New(caserver.Config{
		TrustDomain: domain, Authority: b.Authority, Ready: b.Ready, Authenticator: b, Authorizer: b,
		ServerNames: []string{serverName}, Logger: b.log,
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve returned %v", err)
		}
	})
	ready(t, b)
	return b, l.Addr().String()
}

// known is what an agent trusts: the bundle as it has last seen it.
type known struct {
	mu    sync.Mutex
	certs []*x509.Certificate
}

func (k *known) Current() []*x509.Certificate {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.certs
}

func (k *known) Subscribe() (<-chan struct{}, func()) { return make(chan struct{}), func() {} }

func (k *known) learn(certs []*x509.Certificate) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.certs = certs
}

// newAgent returns the client of an agent that has token.
func newAgent(t *testing.T, address, token string, roots istio.RootSource) *istio.Client {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := istio.New(istio.Config{Address: address, ServerName: serverName, TokenFile: file, Roots: roots, TrustDomain: domain})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// pretend has a root be in its state for longer than it is. The Secret is all
// that replicas know of time past.
func (a admin) pretend(state string, longer time.Duration) {
	a.t.Helper()
	a.changeSecret(func(s *corev1.Secret) {
		var doc map[string]any
		if err := json.Unmarshal(s.Data[rootsKey], &doc); err != nil {
			a.t.Fatal(err)
		}
		found := false
		for _, r := range doc["roots"].([]any) {
			root := r.(map[string]any)
			if root["state"] != state {
				continue
			}
			found = true
			since, err := time.Parse(time.RFC3339, root["since"].(string))
			if err != nil {
				a.t.Fatal(err)
			}
			root["since"] = since.Add(-longer).Format(time.RFC3339)
		}
		if !found {
			a.t.Fatalf("no root is %s", state)
		}
		s.Data[rootsKey], _ = json.Marshal(doc)
	})
}

// TestRotation goes through a rotation with two replicas, an agent that learns
// at once and one that learns as late as it may: whatever is issued verifies
// everywhere, at every step.
func TestRotation(t *testing.T) {
	api := startAPIServer(t)
	s := status(agentUser, bound)
	api.tokens["token"] = s
	rotationAs(t, api.config(), api.config(), "token")
}

// rotationAs has an administrator act by admin, the replicas by ca, and agents
// by a token of node-a.
func rotationAs(t *testing.T, rc, ca *rest.Config, token string) {
	a := newAdmin(t, rc)
	if err := a.c.create(t.Context(), "pods", "default", pod("default", "web-1", "web", "node-a", corev1.PodRunning), new(corev1.Pod)); err != nil {
		t.Fatal(err)
	}
	one, addressOne := serve(t, ca)
	two, addressTwo := serve(t, ca)
	first := signing(t, one)

	prompt, late := new(known), new(known)
	agents := map[string]*istio.Client{
		"prompt agent at replica one": newAgent(t, addressOne, token, prompt),
		"prompt agent at replica two": newAgent(t, addressTwo, token, prompt),
		"late agent at replica one":   newAgent(t, addressOne, token, late),
		"late agent at replica two":   newAgent(t, addressTwo, token, late),
	}
	var svids []*x509svid.SVID
	check := func(step string) {
		t.Helper()
		bundle, err := a.bundle()
		if err != nil {
			t.Fatal(err)
		}
		prompt.learn(bundle)
		for who, c := range agents {
			svid, err := c.FetchX509SVID(t.Context(), web)
			if err != nil {
				t.Errorf("%s, %s: %v", step, who, err)
				continue
			}
			svids = append(svids, svid)
		}
		for who, c := range agents {
			for _, svid := range svids {
				if _, _, err := x509svid.Verify(svid.Certificates, c); err != nil {
					t.Errorf("%s, %s refuses a peer whose certificate is valid: %v", step, who, err)
				}
			}
		}
	}
	learnLate := func() { late.learn(prompt.Current()) }
	sign := func(b *Backend, want func(*x509.Certificate) bool) func() error {
		return func() error {
			if authority, err := b.Authority(); err != nil || !want(authority.Issuer.Certificate()) {
				return fmt.Errorf("not yet: %v", err)
			}
			return nil
		}
	}

	late.learn([]*x509.Certificate{first})
	check("before")
	if err := RequestRotation(t.Context(), rc, system, "adit-ca"); err != nil {
		t.Fatal(err)
	}
	until(t, "the next root is published", func() error {
		if roots, err := a.bundle(); err != nil || len(roots) != 2 || !roots[0].Equal(first) {
			return fmt.Errorf("%d roots, %v", len(roots), err)
		}
		if s := a.secret(); s.Annotations[RotateAnnotation] != "" || !strings.Contains(string(s.Data[rootsKey]), `"published"`) {
			return fmt.Errorf("the request stands, or the root is not published")
		}
		return nil
	})
	check("published, and one agent has not heard")
	learnLate()
	if err := RequestRotation(t.Context(), rc, system, "adit-ca"); err != nil {
		t.Fatal(err)
	}
	until(t, "a second request is over", func() error {
		if s := a.secret(); s.Annotations[RotateAnnotation] != "" {
			return fmt.Errorf("it stands")
		}
		return nil
	})
	if roots, err := a.bundle(); err != nil || len(roots) != 2 {
		t.Errorf("one rotation at a time: %d roots, %v", len(roots), err)
	}

	a.pretend("published", 2*time.Hour)
	isNew := func(c *x509.Certificate) bool { return !c.Equal(first) }
	until(t, "replica one signs with the new root", sign(one, isNew))
	until(t, "replica two signs with the new root", sign(two, isNew))
	second := signing(t, one)
	if !signing(t, two).Equal(second) {
		t.Error("the replicas sign with different roots")
	}
	check("the new root signs")
	if n := strings.Count(string(a.secret().Data[rootsKey]), "BEGIN PRIVATE KEY"); n != 1 {
		t.Errorf("%d keys in the Secret; that of the old root should be gone", n)
	}

	svids = slices.DeleteFunc(svids, func(s *x509svid.SVID) bool { return s.Certificates[0].CheckSignatureFrom(second) != nil })
	if len(svids) != len(agents) {
		t.Errorf("%d of %d certificates are under the new root", len(svids), len(agents))
	}
	a.pretend("retiring", 25*time.Hour)
	until(t, "the old root is retired", func() error { return a.publishes(second) })
	check("retired, and one agent has not heard")
	learnLate()
	check("after")
}
