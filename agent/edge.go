package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/agent/kube"
	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/proxy"
	"github.com/adit-mesh/adit/ingress"
	"github.com/adit-mesh/adit/ingress/accesslog"
	"github.com/adit-mesh/adit/ingress/file"
	"github.com/adit-mesh/adit/ingress/gateway"
	edgekube "github.com/adit-mesh/adit/ingress/kube"
	"github.com/adit-mesh/adit/ingress/metrics"
	edgeproxy "github.com/adit-mesh/adit/ingress/proxy"
	"github.com/adit-mesh/adit/ingress/upstream"
)

// edge is the ingress of an agent.
type edge struct {
	agent  *Agent
	cfg    IngressConfig
	log    *slog.Logger
	set    *upstream.Set
	proxy  *edgeproxy.Proxy
	dialer *proxy.Edge
	server *ingress.Server
	source edgeSource
	kube   *edgekube.Source // the source, if it is Kubernetes
	file   *file.Source     // the source, if it is a directory
	metric *metrics.Metrics
	access *accesslog.Log // nil = none
	// generation counts configurations.
	generation atomic.Uint64
	fixed      *mesh.Workload // what the edge is in the mesh, if the configuration says so
}

// edgeSource is where Gateway API's objects come from.
type edgeSource interface {
	Run(ctx context.Context, apply func(*ingress.Config) ingress.Applied) error
	// Recheck looks at what is applied again: a socket could be had, or was lost,
	// after apply.
	Recheck(func() ingress.Applied)
}

const waitGateways = "gateways"

// newEdge makes the parts of the ingress. It takes the mesh's from a.
func (a *Agent) newEdge() (*edge, error) {
	e := &edge{agent: a, cfg: *a.cfg.Ingress, log: a.log.With("part", "ingress")}
	if e.cfg.Identity != "" {
		id, err := spiffeid.FromString(e.cfg.Identity)
		if err != nil {
			return nil, err // Validate has seen it
		}
		if e.fixed = proxy.EdgeWorkload(id, a.cfg.NodeName); e.fixed == nil {
			return nil, &ConfigError{Err: fmt.Errorf("ingress.identity: %s is not of the form spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT", id)}
		}
	}
	var err error
	if e.access, err = e.openAccessLog(); err != nil {
		return nil, err
	}
	var counted metrics.Config
	if e.access != nil {
		counted.AccessLog = e.access
	}
	e.metric = metrics.New(counted)
	a.registry.MustRegister(e.metric)
	if err := e.openSource(e.cfg.options(a.cfg.NodeName, e.log)); err != nil {
		return nil, err
	}
	secret := e.sharedSecret()
	e.dialer = a.proxy.Edge(e.self)
	reach := upstream.SetConfig{Dialer: e, Node: a.cfg.NodeName, IDKey: secret, Logger: e.log}
	if e.kube != nil {
		reach.Resolver = upstream.RemoteOnly(nil) // names are whosever may write an EndpointSlice
	}
	e.set = upstream.NewSet(reach)
	e.proxy = edgeproxy.New(edgeproxy.Config{Set: e.set, Logger: e.log, Record: e.record, Begin: e.metric.Begin})
	e.server, err = ingress.New(ingress.ServerConfig{
		Backends: ingress.FromSet(e.set), Proxy: e.proxy, Logger: e.log, Events: edgeEvents(e.metric), DrainTimeout: a.cfg.DrainTimeout, Secret: secret,
	})
	if err != nil {
		return nil, fmt.Errorf("ingress: %w", err)
	}
	a.ready.wait(waitGateways, "no configuration has been applied yet")
	if e.cfg.Kubernetes != nil {
		a.ready.lasts()
	}
	return e, nil
}

// openSource prepares the source of Gateway API's objects.
func (e *edge) openSource(options gateway.Options) (err error) {
	if e.cfg.Kubernetes == nil {
		if e.file, err = file.New(file.Config{Dir: e.cfg.Config, Gateway: options, Logger: e.log}); err != nil {
			return &ConfigError{Err: fmt.Errorf("ingress.config: %w", err)}
		}
		e.source = e.file
		return nil
	}
	world, self := e.agent.cfg.World.Kubernetes, e.agent.opt.Self
	if self.Name == "" {
		return &ConfigError{Err: errors.New("ingress.kubernetes: the own pod has to be known; pass --pod=$(POD_NAMESPACE)/$(POD_NAME)")}
	}
	rest, err := kube.LoadREST(world.Kubeconfig)
	if err != nil {
		return &ConfigError{Err: fmt.Errorf("world.kubernetes: %w", err)}
	}
	e.kube, err = edgekube.New(edgekube.Config{
		REST: rest, Namespace: self.Namespace, PodName: self.Name, ClusterDomain: world.ClusterDomain, Gateway: options,
		SeparateUDPService: e.cfg.Kubernetes.SeparateUDPService, Logger: e.log,
	})
	if err != nil {
		return fmt.Errorf("ingress.kubernetes: %w", err)
	}
	e.source = e.kube
	return nil
}

// keysTimeout bounds the wait for the secret that pods of the edge share.
const keysTimeout = 10 * time.Second

// sharedSecret is what sessions are recognised by: those of another pod, too, and
// of this one before its restart. nil = only its own.
func (e *edge) sharedSecret() []byte {
	if e.kube == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), keysTimeout)
	defer cancel()
	secret, err := e.kube.Keys(ctx)
	if err != nil {
		e.log.Warn("sessions will not be recognised by the other pods of the edge: the secret that they share cannot be read", "error", err)
		return nil
	}
	return secret
}

// openAccessLog opens the log of requests, nil if there is to be none.
func (e *edge) openAccessLog() (*accesslog.Log, error) {
	if e.cfg.AccessLog.File == "off" {
		return nil, nil
	}
	open := accesslog.To(e.agent.opt.AccessLog)
	if e.cfg.AccessLog.File != "" {
		open = accesslog.File(e.cfg.AccessLog.File)
	}
	format, err := accessFormat(e.cfg.AccessLog.Format)
	if err != nil {
		return nil, &ConfigError{Err: fmt.Errorf("ingress.accessLog.format: %w", err)}
	}
	log, err := accesslog.NewLog(accesslog.Config{Format: format, Open: open, Logger: e.log})
	if err != nil {
		return nil, &ConfigError{Err: fmt.Errorf("ingress.accessLog.file: %w", err)}
	}
	return log, nil
}

func accessFormat(format string) (*accesslog.Format, error) {
	switch format {
	case "text":
		return nil, nil // the default
	case "json":
		return accesslog.JSON(accesslog.DefaultJSON())
	}
	return accesslog.Text(format)
}

// record is told of each request once it is over.
func (e *edge) record(x *edgeproxy.Exchange) {
	e.metric.Record(x)
	if e.access != nil {
		e.access.Record(x)
	}
}

// options are what the translation of Gateway API's objects goes by.
func (c *IngressConfig) options(node string, log *slog.Logger) gateway.Options {
	return gateway.Options{
		ControllerNames: c.ControllerNames, Node: node, Logger: log,
		ClientIP: ingress.ClientIP{
			ProxyProtocol: prefixes(c.ProxyProtocol),
			Trust:         edgeproxy.Trust{CIDRs: prefixes(c.TrustedProxies)},
		},
	}
}

func prefixes(values []string) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(values))
	for _, v := range values {
		if p, err := netip.ParsePrefix(v); err == nil { // Validate has seen the others
			out = append(out, p)
		}
	}
	return out
}

// self is what the edge is in the mesh, nil before that is known.
func (e *edge) self() *mesh.Workload {
	if e.fixed != nil {
		return e.fixed
	}
	pod := e.agent.opt.Self
	return e.agent.store.WorkloadByUID(e.agent.cfg.World.Kubernetes.ClusterID + "//Pod/" + pod.Namespace + "/" + pod.Name)
}

// DialEndpoint implements upstream.Dialer.
func (e *edge) DialEndpoint(ctx context.Context, src, dst netip.AddrPort) (upstream.Conn, error) {
	if k := e.agent.kube; k != nil {
		// Before all of the mesh is known, one of its workloads looks like any
		// other address, and would be dialled in plaintext.
		select {
		case <-k.source.Synced():
		case <-ctx.Done():
			return upstream.Conn{}, fmt.Errorf("which addresses are of the mesh is not known yet: %w", context.Cause(ctx))
		}
	}
	c, err := e.dialer.Dial(ctx, src, dst)
	if err != nil || c.Peer.IsZero() {
		return upstream.Conn{Conn: c.Conn}, err
	}
	return upstream.Conn{Conn: c.Conn, Mesh: &upstream.Mesh{Self: c.Self, Peer: c.Peer, CertHash: c.CertHash}}, nil
}

// start runs what brings requests in until soft ends, and what they need until
// hard does.
func (e *edge) start(soft, hard context.Context, traffic, supports *group) {
	supports.run("identity of the ingress", func() error { return e.keepIdentity(hard) })
	supports.run("endpoints of the ingress", func() error { return e.followMesh(hard) })
	if e.access != nil {
		supports.run("request log", func() error { return e.access.Run(hard) })
	}
	supports.run("gateways", func() error { return e.source.Run(hard, e.apply) })
	supports.run("sockets of the ingress", func() error { return e.followSockets(hard) })
	traffic.run("ingress", func() error { return e.serve(soft) })
}

// endpointsGone is how long other nodes may take to notice that this pod is no
// endpoint of its Services any more.
const endpointsGone = 5 * time.Second

func (e *edge) serve(soft context.Context) error {
	var waiting sync.WaitGroup
	defer waiting.Wait()
	serving, drain := context.WithCancel(context.WithoutCancel(soft))
	defer drain()
	waiting.Go(func() {
		select {
		case <-soft.Done():
		case <-serving.Done():
			return
		}
		if e.cfg.Kubernetes != nil {
			select {
			case <-time.After(endpointsGone):
			case <-serving.Done():
			}
		}
		drain()
	})
	err := e.server.Run(serving)
	closing, cancel := context.WithTimeout(context.WithoutCancel(soft), time.Second)
	defer cancel()
	e.proxy.Close(closing) // mirrored requests
	err = errors.Join(err, ignoreDeadline(e.set.Close(closing)))
	e.dialer.Close()
	return err
}

func ignoreDeadline(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return nil // what was cut had its time
	}
	return err
}

func (e *edge) apply(cfg *ingress.Config) ingress.Applied {
	e.metric.Retain(liveSeries(cfg))
	applied := e.server.Apply(cfg)
	e.metric.SetCertificates(expiries(cfg))
	e.metric.Applied(e.generation.Add(1), time.Now())
	e.agent.ready.done(waitGateways)
	return applied
}

// keepIdentity holds the certificate of the edge as long as ctx lasts.
func (e *edge) keepIdentity(ctx context.Context) error {
	changed, cancel := e.agent.store.Subscribe()
	defer cancel()
	var held spiffeid.ID
	release := func() {}
	defer func() { release() }()
	for {
		if self := e.self(); self != nil && self.Identity() != held {
			held = self.Identity()
			release()
			release = e.agent.ids.Acquire(held)
		}
		if e.fixed != nil {
			<-ctx.Done()
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// followSockets tells the source of sockets that could be had later than the rest.
func (e *edge) followSockets(ctx context.Context) error {
	for {
		select {
		case <-e.server.Changed():
			e.source.Recheck(e.server.Applied)
		case <-ctx.Done():
			return nil
		}
	}
}

// member is who has an address, as far as it matters to a connection there.
type member struct {
	uid   string
	hbone bool
}

// followMesh keeps connections from outliving the reason for the way they were
// made: an address that has joined the mesh, or left it, or is another pod's.
func (e *edge) followMesh(ctx context.Context) error {
	changed, cancel := e.agent.store.Subscribe()
	defer cancel()
	var seen map[netip.Addr]member
	for {
		now := make(map[netip.Addr]member, len(seen))
		e.set.Evict(func(a netip.Addr) bool {
			var m member
			if w := e.agent.store.Workload(a); w != nil {
				m = member{w.UID, w.Protocol == mesh.HBONE}
			}
			now[a] = m
			was, known := seen[a]
			return !known || was != m
		})
		seen = now
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}
