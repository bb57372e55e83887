package identity_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/adit-mesh/adit/identity"
	"github.com/adit-mesh/adit/identity/ca"
)

var (
	domain = spiffeid.RequireTrustDomainFromString("cluster.local")
	alice  = spiffeid.RequireFromString("spiffe://cluster.local/ns/default/sa/alice")
	bob    = spiffeid.RequireFromString("spiffe://cluster.local/ns/default/sa/bob")
)

// tracedSource is a CA behind a line that can be slow or cut.
type tracedSource struct {
	*ca.CA
	delay time.Duration

	mu       sync.Mutex
	fetches  []time.Time
	active   int
	maxAtOne int
	perID    map[spiffeid.ID]int // under way
	err      error
	alter    func(*x509svid.SVID) *x509svid.SVID
	overlap  bool // two fetches of one identity at once
}

func newSource(t testing.TB, ttl time.Duration) *tracedSource {
	t.Helper()
	c, err := ca.Open(ca.Config{TrustDomain: domain, TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	return &tracedSource{CA: c, perID: make(map[spiffeid.ID]int)}
}

func (s *tracedSource) FetchX509SVID(ctx context.Context, id spiffeid.ID) (*x509svid.SVID, error) {
	s.mu.Lock()
	s.fetches = append(s.fetches, time.Now())
	s.active++
	s.maxAtOne = max(s.maxAtOne, s.active)
	s.perID[id]++
	s.overlap = s.overlap || s.perID[id] > 1
	err, alter := s.err, s.alter
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.active--
		s.perID[id]--
		s.mu.Unlock()
	}()

	if s.delay > 0 {
		select {
		case <-time.After(s.delay):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err != nil {
		return nil, err
	}
	svid, err := s.CA.FetchX509SVID(ctx, id)
	if err == nil && alter != nil {
		svid = alter(svid)
	}
	return svid, err
}

func (s *tracedSource) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *tracedSource) times() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Time(nil), s.fetches...)
}

// start runs a manager until the test (or its synctest bubble) ends.
func start(t testing.TB, source identity.Source, domains ...spiffeid.TrustDomain) *identity.Manager {
	t.Helper()
	if len(domains) == 0 {
		domains = []spiffeid.TrustDomain{domain}
	}
	m := identity.NewManager(identity.ManagerConfig{Source: source, TrustDomains: domains})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
	return m
}

func TestWorkloadID(t *testing.T) {
	tests := []struct {
		why, domain, namespace, account string
		want                            string
	}{
		{"the usual shape", "cluster.local", "default", "web", "spiffe://cluster.local/ns/default/sa/web"},
		{"dots are legal in account names", "td", "a-b", "x.y", "spiffe://td/ns/a-b/sa/x.y"},
		{"no namespace", "td", "", "web", ""},
		{"no account", "td", "ns", "", ""},
		{"a slash would add a segment", "td", "a/sa/b", "web", ""},
		{"dot segments are not IDs", "td", "..", "web", ""},
		{"no trust domain", "", "ns", "web", ""},
	}
	for _, tt := range tests {
		id, err := identity.WorkloadID(tt.domain, tt.namespace, tt.account)
		if got := id.String(); got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: WorkloadID = %q, %v; want %q", tt.why, got, err, tt.want)
			continue
		}
		if tt.want == "" {
			continue
		}
		if ns, sa, ok := identity.ParseWorkloadID(id); ns != tt.namespace || sa != tt.account || !ok {
			t.Errorf("%s: ParseWorkloadID(%s) = %q, %q, %v", tt.why, id, ns, sa, ok)
		}
	}
}

func TestParseWorkloadIDRefusesOtherShapes(t *testing.T) {
	for _, s := range []string{
		"", "spiffe://td", "spiffe://td/ns/a", "spiffe://td/ns/a/sa", "spiffe://td/sa/b/ns/a",
		"spiffe://td/ns/a/sa/b/c", "spiffe://td/ns/a/b/sa/c", "spiffe://td/x/ns/a/sa/b",
	} {
		var id spiffeid.ID
		if s != "" {
			id = spiffeid.RequireFromString(s)
		}
		if ns, sa, ok := identity.ParseWorkloadID(id); ok {
			t.Errorf("ParseWorkloadID(%q) = %q, %q; want none", s, ns, sa)
		}
	}
}

func FuzzParseWorkloadID(f *testing.F) {
	f.Add("spiffe://td/ns/a/sa/b")
	f.Add("spiffe://td/ns/sa/sa/sa/sa")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := spiffeid.FromString(s)
		if err != nil {
			return
		}
		ns, sa, ok := identity.ParseWorkloadID(id)
		if !ok {
			return
		}
		back, err := identity.WorkloadID(id.TrustDomain().Name(), ns, sa)
		if err != nil || back != id {
			t.Errorf("%q read as %q, %q, which is %q, %v", s, ns, sa, back, err)
		}
	})
}

var errLine = errors.New("connect to the CA at 192.0.2.1:15012: connection refused")
