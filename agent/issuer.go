package agent

import (
	"context"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/identity"
	"github.com/adit-mesh/adit/identity/ca"
	"github.com/adit-mesh/adit/identity/istio"
)

// issuer is where the agent's certificates come from.
type issuer struct {
	identity.Source
	// run follows what the source depends on, until its context ends. nil =
	// nothing.
	run   func(context.Context) error
	close func()
	// name is for an operator.
	name string
}

// openIssuer is the embedded CA, or a client of the configured server.
func (a *Agent) openIssuer(td spiffeid.TrustDomain, aliases []spiffeid.TrustDomain) (issuer, error) {
	cfg, log := a.cfg.CA, a.log.With("part", "ca")
	if cfg.Address == "" {
		embedded, err := ca.Open(ca.Config{Dir: cfg.Directory, TrustDomain: td, Aliases: aliases, TTL: cfg.TTL, Logger: log})
		if err != nil {
			return issuer{}, &ConfigError{Err: fmt.Errorf("ca.directory: %w", err)}
		}
		return issuer{Source: embedded, close: func() {}, name: "embedded"}, nil
	}
	client := istio.Config{
		Address: cfg.Address, TokenFile: cfg.TokenFile, TrustDomain: td, Aliases: aliases, TTL: cfg.TTL, Logger: log,
	}
	out := issuer{name: cfg.Address}
	if cfg.RootConfigMap != "" {
		client.Roots = a.kube.bundle(cfg.RootConfigMap)
	} else {
		roots := istio.NewFileRoots(cfg.RootFile, log)
		client.Roots, out.run = roots, roots.Run
		if err := roots.Err(); err != nil {
			log.Warn("no root is trusted until this file is there", "ca.rootFile", cfg.RootFile, "error", err)
		}
	}
	if a.kube != nil {
		client.ClusterID = a.cfg.World.Kubernetes.ClusterID
	}
	source, err := istio.New(client)
	if err != nil {
		return issuer{}, &ConfigError{Err: fmt.Errorf("ca: %w", err)}
	}
	out.Source, out.close = source, func() { source.Close() }
	return out, nil
}
