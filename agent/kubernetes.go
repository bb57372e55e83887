package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/adit-mesh/adit/agent/enrol"
	"github.com/adit-mesh/adit/agent/kube"
	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/capture"
	"github.com/adit-mesh/adit/capture/cni"
)

// kubernetes is what an agent has whose world is the Kubernetes API.
type kubernetes struct {
	source *kube.Source
	enrol  *enrol.Enrol   // nil without capture
	cni    *cni.Installer // nil without cni
	host   *capture.Host  // nil without probes
	ready  *readiness
	log    *slog.Logger
	// location is the address of the API server.
	location string

	set  func([]LocalPod) // of podSet, before enrol runs
	pods *podSet

	newProbed chan struct{} // one-slot edge

	mu     sync.Mutex                // guards probed
	probed map[string]capture.Probed // by pod UID
}

// newKubernetes connects to the API server in name only: nothing is asked
// before Run.
func (a *Agent) newKubernetes() (*kubernetes, error) {
	cfg := a.cfg.World.Kubernetes
	rest, err := kube.LoadREST(cfg.Kubeconfig)
	if err != nil {
		return nil, &ConfigError{Err: fmt.Errorf("world.kubernetes: %w", err)}
	}
	log := a.log.With("part", "kubernetes")
	kcfg := kube.Config{
		REST: rest, NodeName: a.cfg.NodeName, TrustDomain: a.cfg.TrustDomain, ClusterDomain: cfg.ClusterDomain,
		ClusterID: cfg.ClusterID, RootNamespace: cfg.RootNamespace, Self: a.opt.Self, Logger: log, Registerer: a.registry,
		Observer: !a.cfg.Capture,
	}
	if a.cfg.CNI != nil {
		kcfg.ExcludeNamespaces = a.cfg.CNI.ExcludeNamespaces
	}
	source, err := kube.New(kcfg)
	if err != nil {
		return nil, fmt.Errorf("world.kubernetes: %w", err)
	}
	k := &kubernetes{source: source, ready: a.ready, log: log, location: rest.Host, newProbed: make(chan struct{}, 1)}
	if !a.cfg.Capture {
		return k, nil
	}
	if a.cfg.Probes {
		if k.host, err = capture.OpenHost(capture.HostConfig{Logger: a.log.With("part", "probes"), OnRepair: a.hostRepaired}); err != nil {
			return nil, fmt.Errorf("rules for kubelet's probes: %w", err)
		}
	}
	ecfg := enrol.Config{Kube: source, Enroller: k, Logger: a.log.With("part", "enrolment")}
	if c := a.cfg.CNI; c != nil {
		ecfg.Socket, ecfg.ExcludeNamespaces = c.Socket, c.ExcludeNamespaces
		k.cni = &cni.Installer{
			ConfDir: c.ConfDir, BinDir: c.BinDir, Binary: c.Binary, Socket: c.Socket,
			ExcludeNamespaces: c.ExcludeNamespaces, Logger: a.log.With("part", "cni"),
		}
	}
	k.enrol = enrol.New(ecfg)
	k.ready.wait(waitRunningPods, "they have not been looked for yet")
	return k, nil
}

// Run implements PodSource.
func (k *kubernetes) Run(ctx context.Context, set func([]LocalPod)) error {
	k.set = set
	return k.enrol.Run(ctx)
}

// Set implements enrol.Enroller.
func (k *kubernetes) Set(pods []enrol.Pod) {
	local := make([]LocalPod, len(pods))
	probed := make(map[string]capture.Probed, len(pods))
	for i, p := range pods {
		local[i] = LocalPod{
			UID: p.UID, Ref: p.Ref, Netns: p.Netns, Inode: p.Inode, Identity: p.Identity, Rules: p.Rules, Open: p.Open, Release: p.Release,
		}
		if !p.Release {
			probed[p.Ref.UID] = capture.Probed{Addrs: p.IPs, Ports: probePorts(p.Rules)}
		}
	}
	k.mu.Lock()
	k.probed = probed
	k.mu.Unlock()
	signal(k.newProbed)
	k.set(local)
}

func probePorts(rules capture.Rules) []uint16 {
	var ports []uint16
	for _, r := range rules.ProbePorts {
		ports = append(ports, r.First) // a range of one: probes name single ports
	}
	return ports
}

// tellTimeout bounds how long the start of a pod is held up for the annotation.
// An API server that does not take it tells nobody the pod's address either.
const tellTimeout = 2 * time.Second

// Wait implements enrol.Enroller. The pod is also announced as one of the mesh
// when it returns: whoever hears of its address, which kubelet tells after this,
// is to hear of that before, or would connect to it in plaintext.
func (k *kubernetes) Wait(ctx context.Context, uid string, inode uint64) error {
	if err := k.pods.Wait(ctx, uid, inode); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	if err := k.source.Told(ctx, uid); err != nil {
		k.log.Warn("pod starts before the API server has taken that it is captured; peers may connect to it in plaintext for a moment", "pod", uid, "after", tellTimeout)
	}
	return nil
}

// Gone implements enrol.Enroller.
func (k *kubernetes) Gone(ctx context.Context, uid string, inode uint64) {
	k.pods.Gone(ctx, uid, inode)
}

// captured tells peers that the pod takes tunnels, released that it does not.
func (k *kubernetes) captured(p LocalPod) { k.annotate(p, "enabled") }
func (k *kubernetes) released(p LocalPod) { k.annotate(p, "") }

func (k *kubernetes) annotate(p LocalPod, state string) { k.source.Annotate(p.Ref, state) }

// trouble tells whoever looks at the pod with kubectl describe.
func (k *kubernetes) trouble(p LocalPod, reason, message string) {
	k.source.Event(p.Ref, "Warning", reason, message)
}

const waitRunningPods = "running pods"

// awaitSweep holds readiness up until the pods that run already are known. They
// are known one after the other, and a rollout that goes on to the next node
// after the first of them leaves the others without an agent.
func (k *kubernetes) awaitSweep(ctx context.Context) error {
	select {
	case <-k.enrol.Swept():
		k.ready.done(waitRunningPods)
	case <-ctx.Done():
	}
	return nil
}

// runProbes keeps kubelet's exemption at the pods that are captured. Until they
// are all known, that of an earlier agent stays in force: the first SetPods takes
// away what it is not told of.
func (k *kubernetes) runProbes(ctx context.Context) error {
	select {
	case <-k.enrol.Swept():
	case <-ctx.Done():
		return nil
	}
	retry := time.NewTimer(0)
	retry.Stop()
	for pause := firstRetry; ; {
		select {
		case <-k.newProbed:
		case <-retry.C:
		case <-ctx.Done():
			retry.Stop()
			return nil
		}
		k.mu.Lock()
		probed := k.probed
		k.mu.Unlock()
		if err := k.host.SetPods(probed); err != nil {
			k.log.Error("kubelet's probes of new pods are held against policy; trying again", "error", err, "in", pause)
			retry.Reset(pause)
			pause = min(2*pause, lastRetry)
			continue
		}
		pause = firstRetry
	}
}

// runCNI installs the plugin once there is somebody whom it can ask.
func (k *kubernetes) runCNI(ctx context.Context) error {
	select {
	case <-k.source.Synced():
	case <-ctx.Done():
		return nil
	}
	return k.cni.Run(ctx)
}

// start runs what follows the cluster until hard ends, since live connections
// and their ends need it, and what brings new pods until soft does.
func (k *kubernetes) start(soft, hard context.Context, store *mesh.Store, traffic, supports *group) {
	supports.run("kubernetes", func() error { return k.source.Run(hard, store) })
	if k.enrol == nil {
		return
	}
	traffic.run("running pods", func() error { return k.awaitSweep(soft) })
	if k.host != nil {
		supports.run("rules for probes", func() error { return k.host.Run(hard) })
		supports.run("probed pods", func() error { return k.runProbes(hard) })
	}
	if k.cni != nil {
		traffic.run("cni plugin", func() error { return k.runCNI(soft) })
	}
}

// lastWords is how long the annotations of released pods may take.
const lastWords = 2 * time.Second

// leave lets go of the node. The pods have been let go of already.
func (k *kubernetes) leave(uninstall bool) {
	var err error
	switch {
	case uninstall:
		err = k.uninstall()
	case k.host != nil:
		err = k.host.Detach()
	}
	if err != nil {
		k.log.Error("the node was not left as it should be", "error", err)
	}
}

// uninstall removes from the node what outlives an agent. The pods have been
// released by then.
func (k *kubernetes) uninstall() error {
	ctx, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	k.source.Flush(ctx) // as far as the permissions are still there
	var errs []error
	if k.cni != nil {
		errs = append(errs, k.cni.Uninstall())
	}
	if k.host != nil {
		errs = append(errs, k.host.Remove())
	}
	return errors.Join(errs...)
}

// bundle is the ConfigMap of the trusted roots.
func (k *kubernetes) bundle(configMap string) *kube.Bundle {
	namespace, name, _ := strings.Cut(configMap, "/")
	return k.source.Bundle(namespace, name, "root-cert.pem")
}

// hostRepaired counts what somebody else changed of the node's rules.
func (a *Agent) hostRepaired(repair capture.Repair) {
	a.tel.CaptureRepair("", string(repair.Kind))
}
