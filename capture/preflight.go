package capture

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Preflight loads the whole table, with every option on, and the routes into a namespace made for it, and
// tries the socket options that capture needs. Its error names what the kernel lacks or what the agent may not do.
func Preflight() error {
	n, err := throwaway()
	if err != nil {
		return fmt.Errorf("capture check: %w", err)
	}
	defer n.Close()
	if err := checkKernel(n, ruleset(preflightRules(), capturing)); err != nil {
		return fmt.Errorf("capture check: %w", err)
	}
	return nil
}

func preflightRules() Rules {
	return Rules{
		DNS:               true,
		ProbePorts:        []PortRange{Port(8080)},
		SkipOutbound:      []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")},
		SkipOutboundPorts: []PortRange{Port(25)},
		SkipInboundPorts:  []PortRange{Port(22)},
		VirtualInterfaces: []string{"guest0"},
	}
}

// throwaway makes a namespace that goes when it is closed.
func throwaway() (*Netns, error) {
	type result struct {
		n   *Netns
		err error
	}
	c := make(chan result, 1)
	go func() {
		n, err := newNamespace()
		c <- result{n, err}
	}()
	r := <-c
	return r.n, r.err
}

// newNamespace leaves its thread locked, so that it ends with the goroutine, unless it could go home.
func newNamespace() (*Netns, error) {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		_ = home.Close()
		return nil, fmt.Errorf("make a network namespace: %w; the agent needs CAP_SYS_ADMIN: run it as root", err)
	}
	f, err := os.Open("/proc/thread-self/ns/net")
	if control(home, func(fd int) error { return unix.Setns(fd, unix.CLONE_NEWNET) }) == nil {
		runtime.UnlockOSThread()
	}
	if err != nil {
		_ = home.Close()
		return nil, err
	}
	return &Netns{name: "made for the check", file: f, home: home}, nil
}

func checkKernel(n *Netns, t table) error {
	if err := checkTable(n, t); err != nil {
		return err
	}
	r, err := openRoutes(n)
	if err != nil {
		return err
	}
	defer r.close()
	link, err := r.handle.LinkByIndex(lo)
	if err == nil {
		err = r.handle.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	if _, err := r.ensure(); err != nil {
		return fmt.Errorf("%w; routing by mark needs CONFIG_IP_MULTIPLE_TABLES and CONFIG_IPV6_MULTIPLE_TABLES", err)
	}
	fd, err := n.socket(unix.AF_INET)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return setsockopts(fd, sockopt{unix.SOL_SOCKET, unix.SO_MARK, MarkAgent}, sockopt{unix.SOL_IP, unix.IP_TRANSPARENT, 1})
}

func checkTable(n *Netns, t table) error {
	k, err := openTable(n, t.tableID, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer k.close()
	if err := k.apply(t); err != nil {
		return explain(k, t, err)
	}
	return nil
}

// checked explains why a table could not be loaded where it is wanted, if it cannot be loaded elsewhere either.
func checked(t table, err error) error {
	if err == nil {
		return nil
	}
	n, elsewhere := throwaway()
	if elsewhere != nil {
		return err
	}
	defer n.Close()
	if why := checkTable(n, t); why != nil {
		return why
	}
	return err
}

// explain finds what the kernel refused: it loads the table's parts one by one, each rule statement by
// statement.
func explain(k *kernelTable, t table, cause error) error {
	if errors.Is(cause, unix.EPERM) || errors.Is(cause, unix.EPROTONOSUPPORT) {
		return cause
	}
	bare := table{tableID: t.tableID}
	for _, s := range t.Sets {
		bare.Sets = append(bare.Sets, s)
		if err := k.apply(bare); err != nil {
			return lacks("set "+s.name+" of "+s.kind.Name, "Linux 4.1 with CONFIG_NF_TABLES", err)
		}
	}
	for _, c := range t.Chains {
		c.Rules = nil
		bare.Chains = append(bare.Chains, c)
		if err := k.apply(bare); err != nil {
			return lacks(fmt.Sprintf("chain type %s in family inet", c.Type), "Linux 5.2 with CONFIG_NF_TABLES_INET and CONFIG_NFT_NAT", err)
		}
	}
	for i, c := range t.Chains {
		for _, r := range c.Rules {
			for n := range r {
				bare.Chains[i].Rules = []rule{r[:n+1]}
				if err := k.apply(bare); err != nil {
					return lacks(fmt.Sprintf("%q (chain %s, rule %q)", r[n].text, c.Name, r), since(r[n]), err)
				}
			}
		}
		bare.Chains[i].Rules = nil
	}
	return cause
}

func lacks(what, has string, err error) error {
	var u unix.Utsname
	_ = unix.Uname(&u)
	return fmt.Errorf("kernel %s does not have %s: %s has it: %w", unix.ByteSliceToString(u.Release[:]), what, has, err)
}

// since tells which kernel has a statement.
func since(s statement) string {
	for _, e := range s.exprs {
		switch e.(type) {
		case *expr.Socket:
			return "Linux 4.18 with CONFIG_NFT_SOCKET"
		case *expr.Fib:
			return "Linux 4.10 with CONFIG_NFT_FIB_INET"
		case *expr.Notrack:
			return "Linux 4.10 with CONFIG_NFT_CT"
		case *expr.Ct:
			return "Linux 3.13 with CONFIG_NFT_CT"
		case *expr.Redir:
			return "Linux 5.2 with CONFIG_NFT_REDIR"
		case *expr.NAT:
			return "Linux 5.2 with CONFIG_NFT_NAT"
		case *expr.Reject:
			return "Linux 3.16 with CONFIG_NFT_REJECT_INET"
		}
	}
	if strings.HasPrefix(s.text, "jump") {
		return "Linux 3.13 with CONFIG_NF_TABLES"
	}
	return "Linux 4.1 with CONFIG_NF_TABLES"
}
