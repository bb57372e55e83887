package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/agent/kube"
	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/proxy"
	"github.com/adit-mesh/adit/agent/telemetry"
	"github.com/adit-mesh/adit/capture"
	"github.com/adit-mesh/adit/identity"
)

// Options are what an agent gets from the process around it. The zero value
// works.
type Options struct {
	// Logger is the agent's own log. nil discards.
	Logger *slog.Logger
	// Level is what POST /logging on the admin port sets. nil = it cannot.
	Level *slog.LevelVar
	// AccessLog takes one line per connection, unless the configuration names
	// a file for them. nil = standard output.
	AccessLog io.Writer
	// Version is shown to operators.
	Version string
	// Self is the agent's own pod; zero outside a cluster.
	Self kube.PodRef
}

// Agent is one node agent.
type Agent struct {
	cfg Config
	opt Options
	log *slog.Logger

	store    *mesh.Store
	file     *mesh.File  // nil without a mesh file
	kube     *kubernetes // nil without a Kubernetes API
	issuer   issuer      // of certificates
	ids      *identity.Manager
	tel      *telemetry.Telemetry
	proxy    *proxy.Proxy
	edge     *edge     // nil without ingress
	source   PodSource // of pods; build sets it unless it is set
	pods     *podSet
	ready    *readiness
	registry *prometheus.Registry
	stop     context.CancelCauseFunc // asks Run to end, while it runs
	removed  atomic.Bool             // the API server says that this stop is a removal
}

// New returns an agent that will run with cfg. The error is a [*ConfigError].
func New(cfg Config, opt Options) (*Agent, error) {
	cfg.complete()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	if opt.AccessLog == nil {
		opt.AccessLog = os.Stdout
	}
	return &Agent{cfg: cfg, opt: opt, log: opt.Logger, ready: newReadiness()}, nil
}

// addressQuarantine is longer than a kubelet takes to end a pod that was deleted
// by force, and than the API server may be away.
const addressQuarantine = 5 * time.Minute

// errQuit ends an agent by POST /quitquitquit.
var errQuit = errors.New("asked to quit on the admin port")

// Run runs the agent until ctx ends, or a part of it breaks. Then it stops
// softly: live connections may go on for Config.DrainTimeout. As long as some
// do, new ones are served, too, since nobody else can; in the last moment of that
// time none is taken and peers get GOAWAY. Capture rules stay in the pods, so
// that nothing leaves them in plaintext while no agent runs.
//
// The error is a [*ConfigError] if it takes another configuration to go on.
func (a *Agent) Run(ctx context.Context) error {
	raiseLimits(a.log)
	accessLog, closeLog, err := a.openAccessLog()
	if err != nil {
		return err
	}
	defer closeLog()
	if err := a.build(accessLog); err != nil {
		return err
	}
	roles, err := a.listenRoles()
	if err != nil {
		return err
	}
	defer roles.close()
	servers, err := a.listenServers()
	if err != nil {
		return err
	}
	defer servers.close()

	asked, ask := context.WithCancelCause(ctx)
	defer ask(nil)
	a.stop = ask
	soft, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	defer context.AfterFunc(asked, func() { stop(lastMoment{a.linger(soft, asked)}) })()
	// What connections need to end well outlives what brings new ones.
	hard, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()

	supports := newGroup(stop)
	supports.run("certificates", func() error { return a.ids.Run(hard) })
	supports.run("telemetry", func() error { return a.tel.Run(hard) })
	supports.run("policy watch", func() error { return a.proxy.Run(hard) })
	if a.file != nil {
		supports.run("mesh file", func() error { return a.file.Run(hard, a.store) })
	}
	if a.issuer.run != nil {
		supports.run("trusted roots", func() error { return a.issuer.run(hard) })
	}
	servers.serve(supports)

	traffic := newGroup(stop)
	if a.kube != nil {
		a.kube.start(soft, hard, a.store, traffic, supports)
	}
	traffic.run("local pods", func() error { return a.pods.Run(soft) })
	roles.serve(soft, a, traffic)
	if a.edge != nil {
		a.edge.start(soft, hard, traffic, supports)
	}
	a.log.Info("agent started", "version", a.version(), "node", a.cfg.NodeName, "trustDomain", a.cfg.TrustDomain,
		"workloads", len(a.store.World().Workloads), "admin", a.cfg.Admin)

	<-soft.Done()
	a.ready.stopping()
	a.log.Info("agent takes no more connections", "because", context.Cause(soft), "live", a.proxy.LiveAll())
	traffic.wait()
	if a.kube != nil {
		a.kube.leave(errors.Is(context.Cause(soft), errRemoved))
	}
	closing, cancel := context.WithTimeout(hard, time.Second)
	_ = a.proxy.Close(closing)
	cancel()
	servers.close()
	end()
	supports.wait()
	a.issuer.close()
	a.tel.Flush()
	a.log.Info("agent stopped")
	return errors.Join(traffic.err(), supports.err())
}

// lameDuck is the last part of the drain, in which nothing new is taken. It is
// for requests that have begun; as long as it lasts, whoever connects is refused.
const lameDuck = 2 * time.Second

// askTimeout bounds the question to the API server whether a stop is a removal.
const askTimeout = 2 * time.Second

// lastMoment is a reason to stop that leaves what still lives lameDuck.
type lastMoment struct{ why error }

func (m lastMoment) Error() string   { return m.why.Error() }
func (m lastMoment) Unwrap() []error { return []error{m.why, proxy.DrainWithin(lameDuck)} }

// linger returns why the agent stops once live connections have ended, or have
// had their time but for the lame duck's, or soft has ended for a reason of its
// own.
func (a *Agent) linger(soft, asked context.Context) error {
	a.ready.stopping()
	a.log.Info("agent stops; live connections may end", "because", a.whyStop(asked), "live", a.proxy.LiveAll(), "drainTimeout", a.cfg.DrainTimeout)
	deadline := time.NewTimer(a.cfg.DrainTimeout - lameDuck)
	defer deadline.Stop()
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	if a.kube != nil && a.cfg.Capture {
		// What the API server was last heard of may be older than this.
		ctx, cancel := context.WithTimeout(soft, askTimeout)
		a.removed.Store(a.kube.source.AskUninstalling(ctx))
		cancel()
	}
	for a.proxy.LiveAll() > 0 {
		if why := a.whyStop(asked); errors.Is(why, errRemoved) {
			return why // the pods go on without us
		}
		select {
		case <-poll.C:
			continue
		case <-deadline.C:
		case <-soft.Done():
		}
		break
	}
	return a.whyStop(asked)
}

// whyStop is why the agent stops when its process is asked to: to be started
// again, or for good.
func (a *Agent) whyStop(ctx context.Context) error {
	if a.kube != nil && (a.removed.Load() || a.kube.source.Uninstalling()) {
		return fmt.Errorf("adit is being removed from the cluster: %w", errRemoved)
	}
	return context.Cause(ctx)
}

// build makes the parts, in the order in which they depend on each other.
func (a *Agent) build(accessLog io.Writer) error {
	td, err := spiffeid.TrustDomainFromString(a.cfg.TrustDomain)
	if err != nil {
		return err // Validate has seen it
	}
	accepted := []spiffeid.TrustDomain{td}
	for _, alias := range a.cfg.TrustDomainAliases {
		if other, err := spiffeid.TrustDomainFromString(alias); err == nil {
			accepted = append(accepted, other)
		}
	}
	a.registry = newRegistry(a.version())
	if a.cfg.World.Kubernetes != nil {
		if a.kube, err = a.newKubernetes(); err != nil {
			return err
		}
		if a.cfg.Capture {
			a.source = a.kube
		}
	}
	if a.issuer, err = a.openIssuer(td, accepted[1:]); err != nil {
		return err
	}
	a.ids = identity.NewManager(identity.ManagerConfig{
		Source: a.issuer, TrustDomains: accepted, Logger: a.log.With("part", "identity"),
	})

	a.store = mesh.NewStore()
	a.store.Node = a.cfg.NodeName
	if a.kube != nil {
		a.store.Quarantine = addressQuarantine
	}
	if a.cfg.Capture && (a.cfg.World.File != "" || a.kube != nil) {
		// Before the world is loaded: what the kernel lacks is one message
		// now, not one for each pod for ever.
		if err := capture.Preflight(); err != nil {
			return fmt.Errorf("this machine cannot capture pods: %w", err)
		}
	}
	if a.cfg.World.File != "" {
		if a.file, err = loadWorld(a.cfg, a.store, a.log.With("part", "mesh")); err != nil {
			return err
		}
	}

	a.tel = telemetry.New(telemetry.Config{
		Registerer: a.registry, AccessLog: accessLog, Format: a.cfg.AccessLog.Format, Logger: a.log.With("part", "telemetry"),
		Exists: func(uid string) bool { return a.store.WorkloadByUID(uid) != nil },
	})
	a.proxy = proxy.New(proxy.Config{
		Store: a.store, Identity: a.ids, Telemetry: a.tel, Logger: a.log.With("part", "proxy"),
		SameNode: sameNode(a.cfg.SameNode), DialTimeout: a.cfg.DialTimeout,
		HalfCloseIdle: a.cfg.HalfCloseTimeout, DrainTimeout: a.cfg.DrainTimeout,
	})
	a.tel.RegisterPool(a.proxy.PoolStats)
	a.tel.RegisterCertificates(a.ids.Certificates)
	switch {
	case !a.cfg.Capture:
		a.source = noPods{}
	case a.source == nil:
		a.source = storePods{a.store}
	}
	cfg := podSetConfig{
		Source: a.source, Store: a.store, Identity: a.ids, Proxy: a.proxy, Telemetry: a.tel,
		Ready: a.ready, DrainTimeout: a.cfg.DrainTimeout, SysctlRoot: a.cfg.SysctlRoot, Logger: a.log.With("part", "pods"),
	}
	if a.kube != nil && a.cfg.Capture {
		cfg.Captured, cfg.Released, cfg.Trouble = a.kube.captured, a.kube.released, a.kube.trouble
	}
	a.pods = newPodSet(cfg)
	if a.kube != nil {
		a.kube.pods = a.pods
	}
	a.registry.MustRegister(podStates{a})
	if a.cfg.Ingress != nil {
		a.edge, err = a.newEdge()
	}
	return err
}

// loadWorld reads the mesh file into store.
func loadWorld(cfg Config, store *mesh.Store, log *slog.Logger) (*mesh.File, error) {
	file := &mesh.File{Path: cfg.World.File, TrustDomain: cfg.TrustDomain, Logger: log}
	if err := file.Load(store); err != nil {
		if errors.As(err, new(*fs.PathError)) {
			return nil, &ConfigError{Err: fmt.Errorf("world.file: %w", err)}
		}
		return nil, &ConfigError{Err: fmt.Errorf("world.file:\n%w", err)} // a line for each mistake
	}
	for _, w := range store.Local() {
		if id := w.Identity(); !id.IsZero() && id.TrustDomain().Name() != cfg.TrustDomain {
			log.Warn("local pod is of another trust domain, so its connections will fail: no certificate for it is issued here; "+
				"change its trustDomain in the mesh file, or the agent's", "pod", w.UID, "identity", id.String(), "trustDomain", cfg.TrustDomain)
		}
	}
	return file, nil
}

// Check reports what keeps an agent from running with cfg, as far as files
// tell: the configuration itself, the mesh file that it names, and the directory of
// Gateway API's objects. What is legal and probably not meant is logged. The error
// is a [*ConfigError].
func Check(cfg Config, log *slog.Logger) error {
	cfg.complete()
	if err := cfg.Validate(); err != nil {
		return err
	}
	if cfg.World.File != "" {
		store := mesh.NewStore()
		store.Node = cfg.NodeName
		if _, err := loadWorld(cfg, store, log); err != nil {
			return err
		}
	}
	if cfg.Ingress != nil && cfg.Ingress.Config != "" {
		return checkGateways(cfg, log)
	}
	return nil
}

func sameNode(s string) proxy.SameNode {
	if s == "direct" {
		return proxy.SameNodeDirect
	}
	return proxy.SameNodeHBONE
}

func (a *Agent) openAccessLog() (io.Writer, func(), error) {
	if a.cfg.AccessLog.File == "" {
		return a.opt.AccessLog, func() {}, nil
	}
	f, err := os.OpenFile(a.cfg.AccessLog.File, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, nil, &ConfigError{Err: fmt.Errorf("accessLog.file: %w", err)}
	}
	return f, func() { f.Close() }, nil
}

// version is what an operator is told, whatever the build knew.
func (a *Agent) version() string { return cmp.Or(a.opt.Version, "unknown") }
