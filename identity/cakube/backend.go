package cakube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/adit-mesh/adit/identity/ca"
	"github.com/adit-mesh/adit/identity/caserver"
)

// Config configures a [Backend].
type Config struct {
	// REST is how the API server is reached. Required.
	REST *rest.Config
	// Namespace is that of Secret and ConfigMap. Required.
	Namespace string
	// Secret keeps the roots. "" is adit-ca.
	Secret string
	// ConfigMap carries the trust bundle under root-cert.pem. "" is
	// adit-ca-root.
	ConfigMap string
	// TrustDomain is that of the roots. Required.
	TrustDomain spiffeid.TrustDomain
	// Policy says how roots follow each other.
	Policy ca.RotationPolicy
	// IssuerDir holds a given issuer and its roots, see [ca.LoadGiven]; it is
	// read again when it changes, and no Secret is used. "" = the Secret.
	IssuerDir string
	// Agents are the service accounts, NAMESPACE/NAME, whose pods may have
	// certificates for the pods of their node. Required.
	Agents []string
	// Workloads are service accounts, NAMESPACE/NAME, whose pods may ask for
	// themselves: they get their own identity and no other. nil is adit-ingress
	// in Namespace, the edge, which is in the mesh without being captured.
	Workloads []string
	// Audience is that of their tokens. "" is istio-ca.
	Audience string
	// Logger receives what changes. nil discards it.
	Logger *slog.Logger
}

// Backend is what a [caserver.Server] on Kubernetes stands on: it is its
// authenticator, its authorizer, and its source of roots.
type Backend struct {
	cfg  Config
	log  *slog.Logger
	core client
	auth client
	pods *podIndex

	changed   chan struct{} // one-slot edge: Secret or ConfigMap is not what it was
	republish time.Time     // not before; owned by keep

	mu        sync.Mutex // guards the fields below
	authority *ca.Authority
	roots     *ca.RootSet      // nil with a given issuer
	bundled   bool             // the ConfigMap has carried authority's root
	checked   time.Time        // when roots were last known to be those of the Secret
	err       error            // of the latest reconciliation
	watchErrs map[string]error // by resource, of the latest list or watch
}

var (
	_ caserver.Authenticator = (*Backend)(nil)
	_ caserver.Authorizer    = (*Backend)(nil)
)

// New checks cfg and returns a backend that knows nothing until Run.
func New(cfg Config) (*Backend, error) {
	switch {
	case cfg.REST == nil:
		return nil, errors.New("ca: no API server configured")
	case cfg.Namespace == "":
		return nil, errors.New("ca: no namespace configured")
	case cfg.TrustDomain.IsZero():
		return nil, errors.New("ca: no trust domain configured")
	case len(cfg.Agents) == 0:
		return nil, errors.New("ca: no service account of agents configured")
	}
	var err error
	if cfg.Policy, err = cfg.Policy.WithDefaults(); err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	cfg.Agents = slices.Clone(cfg.Agents)
	if cfg.Workloads = slices.Clone(cfg.Workloads); cfg.Workloads == nil {
		cfg.Workloads = []string{cfg.Namespace + "/adit-ingress"}
	}
	cfg.Secret = orDefault(cfg.Secret, "adit-ca")
	cfg.ConfigMap = orDefault(cfg.ConfigMap, "adit-ca-root")
	cfg.Audience = orDefault(cfg.Audience, "istio-ca")
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	b := &Backend{cfg: cfg, log: cfg.Logger, pods: newPodIndex(), changed: make(chan struct{}, 1), watchErrs: make(map[string]error)}
	if b.core, err = newClient(cfg.REST, corev1.SchemeGroupVersion); err != nil {
		return nil, err
	}
	if b.auth, err = newClient(cfg.REST, authenticationv1.SchemeGroupVersion); err != nil {
		return nil, err
	}
	return b, nil
}

func orDefault(s, d string) string {
	if s == "" {
		return d
	}
	return s
}

// Run keeps roots, bundle and pods up to date until ctx ends, then waits for
// what it has begun and returns nil.
func (b *Backend) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(func() {
		b.core.follow(ctx, b.log, b.note("pods"), "pods", "", runningPods, &corev1.Pod{}, b.pods)
	})
	parts.Go(func() {
		b.core.follow(ctx, b.log, b.note("configmaps"), "configmaps", b.cfg.Namespace, "metadata.name="+b.cfg.ConfigMap, &corev1.ConfigMap{}, edge(b.changed))
	})
	if b.cfg.IssuerDir == "" {
		parts.Go(func() {
			b.core.follow(ctx, b.log, b.note("secrets"), "secrets", b.cfg.Namespace, "metadata.name="+b.cfg.Secret, &corev1.Secret{}, edge(b.changed))
		})
	}
	b.keep(ctx)
	return nil
}

// note keeps, and logs once, why a resource cannot be followed.
func (b *Backend) note(resource string) func(error) {
	return func(err error) {
		if errors.Is(err, context.Canceled) {
			return
		}
		b.mu.Lock()
		old := b.watchErrs[resource]
		b.watchErrs[resource] = err
		b.mu.Unlock()
		switch {
		case err != nil && (old == nil || old.Error() != err.Error()):
			b.log.Warn("cannot follow what the API server has", "resource", resource, "error", err)
		case err == nil && old != nil:
			b.log.Info("following again what the API server has", "resource", resource)
		}
	}
}

// edge is a [cache.ReflectorStore] that keeps nothing and tells of everything.
type edge chan struct{}

func (e edge) signal() error {
	select {
	case e <- struct{}{}:
	default:
	}
	return nil
}

func (e edge) Add(any) error               { return e.signal() }
func (e edge) Update(any) error            { return e.signal() }
func (e edge) Delete(any) error            { return e.signal() }
func (e edge) Replace([]any, string) error { return e.signal() }
func (e edge) Resync() error               { return nil }

// Authority returns what signs. It answers from memory, and not for longer than
// that can be believed: another replica may have retired the root meanwhile.
func (b *Backend) Authority() (*ca.Authority, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.authority == nil && b.err != nil:
		return nil, fmt.Errorf("there is no root to sign with: %w", b.err)
	case b.authority == nil:
		return nil, errors.New("there is no root to sign with yet")
	case b.roots != nil && time.Since(b.checked) > rootsBelieved:
		return nil, fmt.Errorf("the roots were last read at %s, too long ago to sign with: %w",
			b.checked.UTC().Format(time.RFC3339), cmp.Or(b.err, errors.New("no answer yet")))
	}
	return b.authority, nil
}

// Ready returns nil once the pods are known and agents have been told to trust
// what signs.
func (b *Backend) Ready() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.pods.synced:
	default:
		return fmt.Errorf("the pods of the cluster are not listed: %w", cmp.Or(b.watchErrs["pods"], errors.New("not yet")))
	}
	if !b.bundled {
		return fmt.Errorf("the trust bundle is not published in ConfigMap %s/%s: %w",
			b.cfg.Namespace, b.cfg.ConfigMap, cmp.Or(b.err, errors.New("not yet")))
	}
	return nil
}

// Roots lists the roots of the Secret, oldest first; none with a given issuer.
func (b *Backend) Roots() []ca.Root {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.roots == nil {
		return nil
	}
	return b.roots.Roots()
}

func (b *Backend) adopt(a *ca.Authority, roots *ca.RootSet) {
	b.mu.Lock()
	defer b.mu.Unlock()
	// The same certificate means the same issuer to whoever caches by it.
	if b.authority != nil && b.authority.Issuer.Certificate().Equal(a.Issuer.Certificate()) {
		a = &ca.Authority{Issuer: b.authority.Issuer, Roots: a.Roots, MaxTTL: a.MaxTTL}
	}
	b.authority, b.roots, b.checked = a, roots, time.Now()
}
