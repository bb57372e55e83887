package cluster

import (
	"fmt"
	"os/exec"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// resetNetwork takes away what a reboot takes away: rules, bridges, tunnels and
// routes that were added to a halted node's network.
func (n *Node) resetNetwork() error {
	nft := exec.Command("nft", "flush", "ruleset")
	if err := n.ns.Do(nft.Run); err != nil {
		return fmt.Errorf("flush the rules of %s: %w", n.name, err)
	}
	h := n.ns.Netlink()
	links, err := h.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		// The other end of eth0 is the cable; a pod's end is gone with the pod.
		if name := l.Attrs().Name; name != "lo" && name != "eth0" {
			if err := h.LinkDel(l); err != nil && !isGone(err) {
				return fmt.Errorf("remove %s from %s: %w", name, n.name, err)
			}
		}
	}
	rules, err := h.RuleList(netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, r := range rules {
		if r.Table == unix.RT_TABLE_LOCAL || r.Table == unix.RT_TABLE_MAIN || r.Table == unix.RT_TABLE_DEFAULT {
			continue
		}
		if err := h.RuleDel(&r); err != nil && !isGone(err) {
			return fmt.Errorf("remove a routing rule of %s: %w", n.name, err)
		}
	}
	return nil
}

func isGone(err error) bool { return err == unix.ENODEV || err == unix.ENOENT }
