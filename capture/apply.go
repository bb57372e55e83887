package capture

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// tableName is our table in every pod; family inet.
const tableName = "adit"

// An owned table cannot be changed by anyone else while our socket lives, and persists when it dies. One
// without the other will not do: a table that vanished with its agent would leave the pod uncaptured.
const ownedFlags = tableOwner | tablePersist

// applyAttempts bounds how often a transaction is tried again because somebody else's came between.
const applyAttempts = 8

// errTableOwned means that another live process owns the table.
var errTableOwned = errors.New("another process owns the table")

// kernelTable is our table in one namespace, and what is known of it. It is not safe for concurrent use.
type kernelTable struct {
	netns *Netns
	nft   *nft // lasting: its port is the owner
	flags uint32
	gen   uint32      // of the namespace's ruleset when it was last seen to be right
	sum   fingerprint // of the table as it was right after we wrote it
}

// openTable opens the connection that will own the namespace's table. The caller closes it.
func openTable(n *Netns) (*kernelTable, error) {
	conn, err := dialNFT(n)
	if err != nil {
		return nil, nftError(n, "open nftables", err)
	}
	return &kernelTable{netns: n, nft: conn, flags: ownedFlags}, nil
}

// close lets go of the table, which stays.
func (k *kernelTable) close() error { return k.nft.close() }

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
	t, err := k.nft.table(tableName)
	return t != nil, err
}

// replace swaps the table for t, or for nothing, provided that nobody else changes the ruleset meanwhile. It
// returns the generation that its transaction made.
func (k *kernelTable) replace(t *table) (uint32, error) {
	gen, err := k.nft.generation()
	if err != nil {
		return 0, err
	}
	old, err := k.nft.table(tableName)
	if err != nil {
		return 0, err
	}
	if old == nil && t == nil {
		return gen, nil
	}
	if old != nil && old.flags&tableOwner != 0 && old.owner != 0 && old.owner != k.nft.port() {
		return 0, fmt.Errorf("table inet %s: %w (netlink port %d): another agent serves this pod; stop it first",
			tableName, errTableOwned, old.owner)
	}
	err = errNotInPlace
	if old != nil && t != nil && old.flags&^tableDormant == k.flags {
		err = k.rewrite(gen, *t)
	}
	if err != nil && !errors.Is(err, unix.ERESTART) && !errors.Is(err, unix.ENOBUFS) {
		err = k.exchange(gen, old, t)
	}
	if err != nil {
		return 0, err
	}
	next := gen + 1
	if next == 0 { // the kernel skips it
		next = 1
	}
	return next, nil
}

// errNotInPlace says that a table cannot be rewritten, only exchanged.
var errNotInPlace = errors.New("not in place")

// rewrite gives the table new contents and leaves its chains hooked. To exchange the table would do, but for an
// instant: a packet can pass the new chain, which stands first, before the kernel switches, and the old one,
// which then is empty, after; a connection that began there would leave uncaptured.
func (k *kernelTable) rewrite(gen uint32, t table) error {
	stale, err := k.nft.stale(t)
	if err != nil {
		return err
	}
	add, err := t.add(k.flags)
	if err != nil {
		return err
	}
	// The table comes first: if it was orphaned this adopts it. What is stale goes before what is new.
	msgs := append([]netlink.Message{add[0]}, stale...)
	return k.nft.commit(gen, append(msgs, add[1:]...))
}

// exchange deletes the table that is there, if any, and adds t, if any.
func (k *kernelTable) exchange(gen uint32, old *tableInfo, t *table) error {
	var msgs []netlink.Message
	if old != nil {
		present := table{Name: tableName}
		if old.flags&tableOwner != 0 {
			// Adding a table that lost its owner adopts it; only then may it be deleted.
			msgs = append(msgs, present.create(old.flags&^tableDormant))
		}
		msgs = append(msgs, present.delete())
	}
	if t != nil {
		add, err := t.add(k.flags)
		if err != nil {
			return err
		}
		msgs = append(msgs, add...)
	}
	return k.nft.commit(gen, msgs)
}

// rejected sums the counters of the rules that reject.
func (k *kernelTable) rejected() (packets uint64, err error) {
	rules, err := k.nft.dump(unix.NFT_MSG_GETRULE, attrs(text0(unix.NFTA_RULE_TABLE, tableName)))
	if err != nil {
		return 0, nftError(k.netns, "read counters", err)
	}
	for _, m := range rules {
		counted, rejects := uint64(0), false
		eachExpression(m, func(name string, data []byte) {
			rejects = rejects || name == "reject"
			if name == "counter" {
				each(data, unix.NFTA_COUNTER_PACKETS, func(b []byte) { counted = binary.BigEndian.Uint64(b) })
			}
		})
		if rejects {
			packets += counted
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
