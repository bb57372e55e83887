package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// HostConfig is what OpenHost needs to know of the node.
type HostConfig struct {
	Netns    *Netns        // the node's, owned by the Host once OpenHost has returned one; nil is the one the agent runs in
	Logger   *slog.Logger  // nil discards
	OnRepair func(Repair)  // called from Run; may be nil
	Verify   time.Duration // between Run's full checks of the kernel's state; 0 means 30 s

	// KubeletUID is the user that kubelet runs as, 0 being root, as the node's network namespace numbers users.
	KubeletUID uint32
}

// Probed is what kubelet probes of one pod.
type Probed struct {
	Addrs []netip.Addr // the pod's addresses, of both families
	Ports []uint16     // the same as the pod's Rules.ProbePorts: HTTP, TCP and gRPC probes and HTTP lifecycle hooks
}

// Host gives kubelet's connections to the probe ports of captured pods a source address of their own, by which
// the pods' rules let them pass. It does so in the kernel, so probes get through while the agent is away, and
// reach the app itself: a TCP probe that a listener of the agent's took would succeed whatever the app does.
//
//	kubelet 10.244.0.1:41000 ── post ──snat──> 169.254.7.127:41000 ──> 10.244.0.3:8080  nat_pre accepts
//	        10.244.0.1:41000 <──conntrack── 169.254.7.127:41000 <── by the pod's default route
//
// What is taken for kubelet is a process of the node, its user kubelet's, that connects to a pod's own address.
// That holds for every process of root in the node's network namespace, pods with hostNetwork included, but
// only at probe ports; anything else that they connect to is captured like the connections of others, and
// comes from the node's address. Which process it is could be told more narrowly only by its cgroup, and is
// not: the kernel lets rules ask for that where a mark would have to carry the answer on to where addresses
// are rewritten, among the marks of the CNI plugin and of kube-proxy; not every node has cgroup v2; and the
// cgroup is known by a number that changes when kubelet's unit is started anew, upon which probes would fail.
//
// Nobody else can use the probe addresses: what arrives with one of them, on any link or bridge, is dropped.
//
// Methods may be called from any goroutine.
type Host struct {
	reconciler
	kubeletUID uint32

	// mu serialises changes to the tables.
	mu      sync.Mutex
	inet    *kernelTable
	bridge  *kernelTable // nil if the kernel has none
	want    table        // of inet
	written bool         // inet is as wanted; before that it may be an earlier agent's
	closed  bool
}

// OpenHost prepares the node. Where an earlier agent has left its table, that stays in force until the first
// SetPods, so that no probe fails between two agents; a live one is an error that says so.
//
// On error nothing new stays behind and the caller keeps cfg.Netns. A Host is ended by Remove or by Detach.
func OpenHost(cfg HostConfig) (*Host, error) {
	n := cfg.Netns
	if n == nil {
		var err error
		if n, err = OpenNetns("/proc/thread-self/ns/net"); err != nil {
			return nil, err
		}
	}
	h := &Host{
		reconciler: newReconciler(n, cfg.Logger, cfg.OnRepair, cfg.Verify),
		kubeletUID: cfg.KubeletUID,
		want:       hostRuleset(cfg.KubeletUID, nil),
	}
	err := h.install()
	if err != nil {
		h.closeTables()
		if cfg.Netns == nil {
			_ = n.Close()
		}
		return nil, fmt.Errorf("prepare the node for kubelet's probes: %w", err)
	}
	return h, nil
}

func (h *Host) install() (err error) {
	if h.inet, err = openTable(h.netns, hostTable, h.logger); err != nil {
		return err
	}
	earlier, err := h.inet.nft.table(hostTable.Name)
	if err != nil {
		return nftError(h.netns, "look for an earlier agent's rules", err)
	}
	if earlier != nil {
		err = h.inet.free(earlier)
	} else {
		err = checked(h.want, h.inet.apply(h.want))
		h.written = err == nil
	}
	if err != nil {
		return err
	}
	if err := h.installBridge(); err != nil {
		if earlier == nil {
			err = errors.Join(err, h.inet.remove())
		}
		return err
	}
	return nil
}

// installBridge does without where the kernel has no nftables for bridges.
func (h *Host) installBridge() error {
	k, err := openTable(h.netns, bridgeTable, h.logger)
	if err != nil {
		return err
	}
	err = k.apply(bridgeRuleset())
	if err == nil {
		h.bridge = k
		return nil
	}
	_ = k.close()
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) {
		h.logger.Warn("the kernel has no nftables for bridges (CONFIG_NF_TABLES_BRIDGE); between pods on one bridge, one with NET_RAW could forge the probe address",
			"error", err)
		return nil
	}
	return err
}

// SetPods replaces the pods that are probed, by UID. It changes only what differs, in one transaction. An
// address stays as long as one pod claims it, so that the late end of a pod does not take it from the next one
// that was given it. Where two claim one address, the ports of both count here: what a pod exempts from its
// policy is up to its own rules.
//
// A pod is to be in here before it is enrolled, and until it is removed: probes between the two would be held
// against its policy. The first call writes what is there anew, so it must know all pods of the node. On error
// the pods stay as they were.
func (h *Host) SetPods(pods map[string]Probed) error {
	for _, uid := range slices.Sorted(maps.Keys(pods)) {
		for _, a := range pods[uid].Addrs {
			if !a.IsValid() || a.Zone() != "" {
				return fmt.Errorf("probed pods: %q of pod %s is not a plain address", a, uid)
			}
		}
	}
	want := hostRuleset(h.kubeletUID, pods)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return fmt.Errorf("set the probed pods in %s: %w", h.netns, net.ErrClosed)
	}
	var err error
	if h.written {
		err = h.inet.amend(h.want, want)
	} else {
		err = h.inet.apply(want)
	}
	if err != nil {
		return err
	}
	h.want, h.written = want, true
	return nil
}

// Spoofed counts, since the tables were last written, packets that were dropped because they came from a probe
// address that nobody may have. It should stay 0.
func (h *Host) Spoofed() (packets uint64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return 0, fmt.Errorf("count forged packets in %s: %w", h.netns, net.ErrClosed)
	}
	for _, k := range h.tables() {
		n, err := k.counted(func(rule netlink.Message) bool {
			return strings.HasPrefix(nameOf(rule, unix.NFTA_RULE_CHAIN), "spoofed")
		})
		if err != nil {
			return 0, err
		}
		packets += n
	}
	return packets, nil
}

// Run keeps the tables as they should be, as Pod.Run does. It returns nil when ctx ends, or when the Host is
// removed or detached.
func (h *Host) Run(ctx context.Context) error {
	return h.run(ctx, startWatch(ctx, h.netns, h.logger, hostTable.Name, false), h.verify)
}

func (h *Host) verify() (repairs []Repair, open bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, false
	}
	if h.written {
		if r, ok := h.inet.repair(h.want); !ok {
			repairs = append(repairs, r)
		}
	}
	if h.bridge != nil {
		if r, ok := h.bridge.repair(bridgeRuleset()); !ok {
			repairs = append(repairs, r)
		}
	}
	return repairs, true
}

// Remove undoes OpenHost: it deletes the tables and closes everything. Probes of pods that are still captured
// are held against their policy from then on. On error the Host stays and Remove may be tried again; when it is
// done it does nothing.
func (h *Host) Remove() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	for _, k := range h.tables() {
		if err := k.remove(); err != nil {
			return err
		}
	}
	return h.closeLocked()
}

// Detach lets go of the node when the agent ends: the tables stay, so that probes pass until an agent opens the
// node again. It is idempotent.
func (h *Host) Detach() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	return h.closeLocked()
}

func (h *Host) closeLocked() error {
	h.closed = true
	h.closeTables()
	return h.netns.Close()
}

func (h *Host) tables() []*kernelTable {
	return slices.DeleteFunc([]*kernelTable{h.inet, h.bridge}, func(k *kernelTable) bool { return k == nil })
}

func (h *Host) closeTables() {
	for _, k := range h.tables() {
		_ = k.close()
	}
}
