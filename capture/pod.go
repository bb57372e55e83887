package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// The marks and ports of Istio's ambient mode, so that tools that know those know ours.
const (
	MarkAgent    = 0x539 // the agent's own sockets: never captured
	MarkAppLeg   = 0x111 // connections from the agent to an app, and the app's replies
	MarkMask     = 0xfff
	PortOutbound = 15001 // captured outbound TCP
	PortInbound  = 15006 // captured inbound plaintext TCP
	PortHBONE    = 15008 // HBONE tunnels
	PortDNS      = 15053 // captured DNS
)

// PodConfig is what Enrol needs to know of a pod.
type PodConfig struct {
	Netns    *Netns        // owned by the Pod once Enrol has returned one
	Rules    Rules         // what is captured
	Logger   *slog.Logger  // nil discards
	OnRepair func(Repair)  // called from Run; may be nil
	Verify   time.Duration // between Run's full checks of the kernel's state; 0 means 30 s

	// SysctlRoot is where the host's /proc/sys is found, "" for /proc/sys. A container has that read-only; what
	// is needed of it is net, and a mount of the host's /proc/sys/net at SysctlRoot/net is enough: the files
	// under it are those of the network namespace of the thread that opens them, whosever mount it is.
	SysctlRoot string
}

// Pod is an enrolled pod. Its methods may be called from any goroutine.
type Pod struct {
	reconciler

	outbound, inbound, hbone *listener
	sysctl                   sysctlRoot

	markAccept atomic.Bool // mode B is possible: what an app accepts takes the mark of the SYN
	marked     portSet     // ports whose apps answer only in mode A

	// mu serialises changes to the namespace. Neither dials nor accepted connections take it.
	mu      sync.Mutex
	rules   Rules
	stage   stage
	table   *kernelTable
	routes  *routes
	sysctls []string // that we turned on
	closed  bool
}

// Enrol captures a pod's traffic: listeners first, so that nothing is redirected to where nobody listens,
// then routes, then the rules in one transaction. Connections that exist are left alone. What an earlier
// agent left behind, also by being killed, is adopted; a live one is an error that says so.
//
// On error nothing new stays behind and the caller keeps cfg.Netns. A Pod is ended by Remove or by Detach.
func Enrol(ctx context.Context, cfg PodConfig) (*Pod, error) {
	if err := cfg.Rules.Validate(); err != nil {
		return nil, err
	}
	if home, err := cfg.Netns.isHome(); err != nil {
		return nil, fmt.Errorf("enrol %s: %w", cfg.Netns, err)
	} else if home {
		return nil, fmt.Errorf("enrol %s: this is the agent's own network namespace; pods with hostNetwork cannot be captured", cfg.Netns)
	}
	p := &Pod{
		reconciler: newReconciler(cfg.Netns, cfg.Logger, cfg.OnRepair, cfg.Verify),
		rules:      cfg.Rules,
		sysctl:     sysctlRoot(cfg.SysctlRoot),
	}
	for _, step := range []func() error{p.openListeners, p.openNetlink, p.install} {
		err := ctx.Err()
		if err == nil {
			err = step()
		}
		if err != nil {
			p.closeAll()
			return nil, fmt.Errorf("enrol %s: %w", cfg.Netns, err)
		}
	}
	return p, nil
}

// openListeners opens the capture ports. OUTPUT redirects to the loopback address, so 15001 needs no other
// and is out of the network's reach; guests behind the pod are redirected to the address of their link.
func (p *Pod) openListeners() (err error) {
	outbound := []netip.AddrPort{
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), PortOutbound),
		netip.AddrPortFrom(netip.IPv6Loopback(), PortOutbound),
	}
	if len(p.rules.VirtualInterfaces) > 0 {
		outbound = []netip.AddrPort{netip.AddrPortFrom(netip.IPv6Unspecified(), PortOutbound)}
	}
	if p.outbound, err = listen(p.netns, p.logger, outboundOriginal, outbound...); err != nil {
		return err
	}
	if p.inbound, err = listen(p.netns, p.logger, inboundOriginal, netip.AddrPortFrom(netip.IPv6Unspecified(), PortInbound)); err != nil {
		return err
	}
	p.hbone, err = listen(p.netns, p.logger, directOriginal, netip.AddrPortFrom(netip.IPv6Unspecified(), PortHBONE))
	return err
}

func (p *Pod) openNetlink() (err error) {
	if p.routes, err = openRoutes(p.netns); err != nil {
		return err
	}
	p.table, err = openTable(p.netns, podTable, p.logger)
	return err
}

// install makes routes, then rules. When it cannot, it leaves what an earlier agent had in place: without
// that agent's table a pod would go uncaptured.
func (p *Pod) install() error {
	p.enableMarkAccept()
	adopted, err := p.table.exists()
	if err != nil {
		return nftError(p.netns, "look for an earlier agent's rules", err)
	}
	_, err = p.routes.ensure()
	if err == nil {
		err = p.table.apply(ruleset(p.rules, capturing))
	}
	if err == nil {
		if p.table.flags == 0 {
			p.logger.Info("the kernel cannot give the agent ownership of its rules (Linux 6.9 can); changes are repaired, not prevented")
		}
		return nil
	}
	if !adopted {
		err = errors.Join(err, p.routes.remove(), p.sysctl.clear(p.netns, p.sysctls))
	}
	return err
}

// enableMarkAccept chooses between the two ways to keep an app's replies inside the pod.
func (p *Pod) enableMarkAccept() {
	changed, err := p.sysctl.setMark(p.netns)
	p.sysctls = append(p.sysctls, changed...)
	p.markAccept.Store(err == nil)
	if err != nil {
		p.logger.Info("app connections use conntrack marks; mount the host's /proc/sys/net writable for the cheaper way", "error", err)
	}
}

// Netns is the pod's network namespace, open until Remove or Detach.
func (p *Pod) Netns() *Netns { return p.netns }

// Outbound accepts what the pod connects to. Connections are *Conn, their LocalAddr the original destination.
// Remove and Detach close it.
func (p *Pod) Outbound() net.Listener { return p.outbound }

// Inbound accepts plaintext that others connect to the pod. As Outbound.
func (p *Pod) Inbound() net.Listener { return p.inbound }

// HBONE accepts connections to the pod's port 15008. As Outbound.
func (p *Pod) HBONE() net.Listener { return p.hbone }

// Refused counts connections to a capture port that were reset because they had not been captured.
func (p *Pod) Refused() uint64 {
	return p.outbound.refused.Load() + p.inbound.refused.Load() + p.hbone.refused.Load()
}

// Rejected counts, since the table was last written, packets that the rules' second lock refused: connections
// from the wire that nothing allowed, and the pod's own to capture ports. It should stay 0; what raises it is
// an attack or a bug.
func (p *Pod) Rejected() (packets uint64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, p.closedError("count rejected packets in")
	}
	return p.table.counted(rejects)
}

// Drain stops capturing: new connections pass the agent by, both ways, and those it has go on. Listeners stay
// open. To capture again, Detach and Enrol.
func (p *Pod) Drain() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return p.closedError("drain")
	}
	if err := p.table.apply(ruleset(p.rules, draining)); err != nil {
		return err
	}
	p.stage = draining
	return nil
}

// SetRules changes what is captured, at once and in one transaction: connections that exist go on, and there is
// no moment at which something is let out or in that neither the old rules nor the new ones let. Whether there
// are VirtualInterfaces at all cannot be changed so, because the outbound listener depends on it: Detach, upon
// which the rules stay, and Enrol. On error the rules stay as they were.
func (p *Pod) SetRules(r Rules) error {
	if err := r.Validate(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return p.closedError("change the rules of")
	}
	if (len(r.VirtualInterfaces) > 0) != (len(p.rules.VirtualInterfaces) > 0) {
		return fmt.Errorf("change the rules of %s: whether it has virtual interfaces decides how its outbound listener is opened; detach it and enrol it again", p.netns)
	}
	want := ruleset(r, p.stage)
	if want.String() != ruleset(p.rules, p.stage).String() {
		if err := p.table.apply(want); err != nil {
			return err
		}
	}
	p.rules = r
	return nil
}

// Remove undoes Enrol: it deletes rules, routes and sysctls, and closes everything. Captured connections that
// still exist are reset, so call Drain first and wait for them. On error the pod stays enrolled and Remove
// may be tried again; when it is done it does nothing.
func (p *Pod) Remove() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	if err := p.table.remove(); err != nil {
		return err
	}
	if err := errors.Join(p.routes.remove(), p.sysctl.clear(p.netns, p.sysctls)); err != nil {
		return err
	}
	p.closed = true
	p.closeAll()
	return p.netns.Close()
}

// Detach lets go of a pod whose agent ends: everything of the agent's is closed and the rules stay, so the pod
// has no network rather than an uncaptured one until an agent enrols it again. It is idempotent.
func (p *Pod) Detach() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	p.closeAll()
	return p.netns.Close()
}

// closeAll closes what there is, and waits for the accept loops.
func (p *Pod) closeAll() {
	for _, l := range []*listener{p.outbound, p.inbound, p.hbone} {
		if l != nil {
			_ = l.Close()
		}
	}
	if p.table != nil {
		_ = p.table.close()
	}
	if p.routes != nil {
		p.routes.close()
	}
}

func (p *Pod) closedError(what string) error {
	return fmt.Errorf("%s %s: %w", what, p.netns, net.ErrClosed)
}
