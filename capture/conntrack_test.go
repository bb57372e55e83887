package capture_test

import (
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tracked counts the conntrack entries of the pod's namespace that have to do with a port.
func (a *agent) tracked(port uint16) int {
	a.t.Helper()
	n := 0
	err := a.pod.Netns().Do(func() error {
		for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
			if err != nil {
				return err
			}
			for _, f := range flows {
				if f.Forward.SrcPort == port || f.Forward.DstPort == port {
					n++
				}
			}
		}
		return nil
	})
	if err != nil {
		a.t.Fatal(err)
	}
	return n
}

// wantUntracked fails if conntrack knows anything of a port.
func (a *agent) wantUntracked(why string, port uint16) {
	a.t.Helper()
	if n := a.tracked(port); n != 0 {
		a.t.Errorf("%s: conntrack has %d entries for port %d, want 0", why, n, port)
	}
}
