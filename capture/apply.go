package capture

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is our table in every pod; family inet.
const tableName = "adit"

// An owned table cannot be changed by anyone else while our socket lives, and persists when it dies. One
// without the other will not do: a table that vanished with its agent would leave the pod uncaptured.
const ownedFlags = nftables.TableFlagOwner | nftables.TableFlagPersist

// applyAttempts bounds how often a transaction is tried again because somebody else's came between.
const applyAttempts = 8

// errTableOwned means that another live process owns the table.
var errTableOwned = errors.New("another process owns the table")

// kernelTable is our table in one namespace, and what is known of it. It is not safe for concurrent use.
type kernelTable struct {
	netns *Netns
	conn  *nftables.Conn // lasting: its port is the owner
	flags nftables.TableFlags
	gen   uint32      // of the namespace's ruleset when it was last seen to be right
	sum   fingerprint // of the table as it was right after we wrote it
}

// openTable opens the connection that will own the namespace's table. The caller closes it.
func openTable(n *Netns) (*kernelTable, error) {
	var conn *nftables.Conn
	err := control(n.file, func(fd int) (err error) {
		conn, err = nftables.New(nftables.WithNetNSFd(fd), nftables.AsLasting())
		return err
	})
	if err != nil {
		return nil, nftError(n, "open nftables", err)
	}
	return &kernelTable{netns: n, conn: conn, flags: ownedFlags}, nil
}

// close lets go of the table, which stays.
func (k *kernelTable) close() error { return k.conn.CloseLasting() }

// apply makes the kernel's table t, in one transaction: there is no moment without rules.
func (k *kernelTable) apply(t table) error {
	for range applyAttempts {
		gen, err := k.replace(&t)
		switch {
		case errors.Is(err, unix.ERESTART), errors.Is(err, unix.ENOBUFS):
			// Somebody else was first, or the answer was lost, and with it whether it was done.
			continue
		case k.flags != 0 && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)):
			// A kernel before 6.9 does not have the flags. Where it was something else that it did not like,
			// the next attempt tells.
			k.flags = 0
			continue
		case err != nil:
			return nftError(k.netns, "load rules", err)
		}
		sum, seen, err := k.read()
		if err != nil {
			return nftError(k.netns, "read rules back", err)
		}
		if seen != gen {
			continue // what was read may not be what was written
		}
		k.gen, k.sum = gen, sum
		return nil
	}
	return fmt.Errorf("load rules in network namespace %s: somebody keeps changing nftables there; `nft monitor` inside shows who", k.netns)
}

// remove deletes the table. That it was not there is no error.
func (k *kernelTable) remove() error {
	for range applyAttempts {
		_, err := k.replace(nil)
		if errors.Is(err, unix.ERESTART) || errors.Is(err, unix.ENOBUFS) {
			continue
		}
		return nftError(k.netns, "delete rules", err)
	}
	return fmt.Errorf("delete rules in network namespace %s: somebody keeps changing nftables there", k.netns)
}

// exists tells whether a table of ours is there, whoever made it.
func (k *kernelTable) exists() (bool, error) {
	t, err := k.current()
	return t != nil, err
}

func (k *kernelTable) current() (*nftables.Table, error) {
	t, err := k.conn.ListTableOfFamily(tableName, nftables.TableFamilyINet)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return t, err
}

// replace swaps the table for t, or for nothing, provided that nobody else changes the ruleset meanwhile. It
// returns the generation that its transaction made.
func (k *kernelTable) replace(t *table) (uint32, error) {
	gen, err := k.conn.GetGen()
	if err != nil {
		return 0, err
	}
	old, err := k.current()
	if err != nil {
		return 0, err
	}
	if old == nil && t == nil {
		return gen.ID, nil
	}
	if old != nil {
		if err := k.mayReplace(old); err != nil {
			return 0, err
		}
		if old.Flags&nftables.TableFlagOwner != 0 {
			// Adding a table that lost its owner adopts it; only then may it be deleted.
			k.conn.AddTable(&nftables.Table{Name: tableName, Family: nftables.TableFamilyINet, Flags: old.Flags &^ nftables.TableFlagDormant})
		}
		k.conn.DelTable(&nftables.Table{Name: tableName, Family: nftables.TableFamilyINet})
	}
	if t != nil {
		if err := k.add(*t); err != nil {
			return 0, err
		}
	}
	if err := k.conn.FlushWithGenID(gen.ID); err != nil {
		return 0, err
	}
	next := gen.ID + 1
	if next == 0 { // the kernel skips it
		next = 1
	}
	return next, nil
}

func (k *kernelTable) mayReplace(old *nftables.Table) error {
	if old.Flags&nftables.TableFlagOwner == 0 || old.Owner == 0 {
		return nil
	}
	own, err := k.conn.GetPortID()
	if err != nil {
		return err
	}
	if old.Owner != own {
		return fmt.Errorf("table inet %s: %w (netlink port %d): another agent serves this pod; stop it first",
			tableName, errTableOwned, old.Owner)
	}
	return nil
}

// add queues the messages that make the table.
func (k *kernelTable) add(t table) error {
	kt := k.conn.AddTable(&nftables.Table{Name: t.Name, Family: nftables.TableFamilyINet, Flags: k.flags})
	for _, s := range t.Sets {
		if err := k.conn.AddSet(s.kernel(kt), s.elements); err != nil {
			return fmt.Errorf("set %s: %w", s.name, err)
		}
	}
	chains := make([]*nftables.Chain, len(t.Chains))
	for i, c := range t.Chains {
		kc := &nftables.Chain{Name: c.Name, Table: kt}
		if c.Type != "" {
			policy := nftables.ChainPolicyAccept
			kc.Type, kc.Hooknum, kc.Policy = c.Type, c.Hook, &policy
			kc.Priority = nftables.ChainPriorityRef(nftables.ChainPriority(c.Priority))
		}
		chains[i] = k.conn.AddChain(kc)
	}
	for i, c := range t.Chains {
		for _, r := range c.Rules {
			k.conn.AddRule(&nftables.Rule{Table: kt, Chain: chains[i], Exprs: r.exprs()})
		}
	}
	return nil
}

// rejected sums the counters of the rules that reject.
func (k *kernelTable) rejected() (packets uint64, err error) {
	t := &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
	for _, name := range []string{"in_guard", "in_syn"} {
		rules, err := k.conn.GetRules(t, &nftables.Chain{Name: name, Table: t})
		if errors.Is(err, unix.ENOENT) {
			continue // not in every stage
		} else if err != nil {
			return 0, nftError(k.netns, "read counters", err)
		}
		for _, r := range rules {
			rejects := slices.ContainsFunc(r.Exprs, func(e expr.Any) bool { _, ok := e.(*expr.Reject); return ok })
			for _, e := range r.Exprs {
				if c, ok := e.(*expr.Counter); ok && rejects {
					packets += c.Packets
				}
			}
		}
	}
	return packets, nil
}

// nftError says where an error happened, and for the usual causes what to do. It passes nil through.
func nftError(n *Netns, what string, err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s in network namespace %s: %w", what, n, err)
	switch {
	case errors.Is(err, errTableOwned):
		return err
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w; the agent needs CAP_NET_ADMIN there, and no other process may own the table", err)
	case errors.Is(err, unix.EPROTONOSUPPORT):
		return fmt.Errorf("%w; the kernel has no nftables (CONFIG_NF_TABLES, module nf_tables)", err)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w; the kernel may lack an expression: the agent's start-up check names it", err)
	}
	return err
}
