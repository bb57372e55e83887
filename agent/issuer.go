package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/agent/mesh"
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
		client.ClusterID, client.DialContext = a.cfg.World.Kubernetes.ClusterID, a.dialService
	}
	source, err := istio.New(client)
	if err != nil {
		return issuer{}, &ConfigError{Err: fmt.Errorf("ca: %w", err)}
	}
	out.Source, out.close = source, func() { source.Close() }
	return out, nil
}

// dialService connects to host:port. The address of a service of the cluster is
// looked up in the store, so that certificates do not wait for the cluster's DNS,
// whose pods may wait for certificates.
func (a *Agent) dialService(ctx context.Context, network, address string) (net.Conn, error) {
	var dialer net.Dialer
	if addr, ok := a.serviceAddress(address); ok {
		return dialer.DialContext(ctx, network, addr.String())
	}
	return dialer.DialContext(ctx, network, address)
}

// serviceAddress is the virtual address behind a name such as
// adit-ca.adit-system.svc.
func (a *Agent) serviceAddress(address string) (netip.AddrPort, bool) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, false
	}
	domain := "." + a.cfg.World.Kubernetes.ClusterDomain
	labels := strings.Split(strings.TrimSuffix(host, domain), ".")
	if len(labels) < 2 || len(labels) > 3 || len(labels) == 3 && labels[2] != "svc" {
		return netip.AddrPort{}, false
	}
	service := a.store.Service(mesh.NamespacedHostname{
		Namespace: labels[1], Hostname: labels[0] + "." + labels[1] + ".svc" + domain,
	})
	if service == nil || len(service.VIPs) == 0 || !service.VIPs[0].Prefix.IsSingleIP() {
		return netip.AddrPort{}, false
	}
	to, err := netip.ParseAddrPort(net.JoinHostPort(service.VIPs[0].Prefix.Addr().String(), port))
	return to, err == nil
}
