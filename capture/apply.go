package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// podTable is our table in every pod.
var podTable = tableID{unix.NFPROTO_INET, "adit"}

// An owned table cannot be changed by anyone else while our socket lives, and persists when it dies. One
// without the other will not do: a table that vanished with its agent would leave the pod uncaptured.
const ownedFlags = tableOwner | tablePersist

// applyAttempts bounds how often a transaction is tried again because somebody else's came between.
const applyAttempts = 8

// errTableOwned means that another live process owns the table.
var errTableOwned = errors.New("another process owns the table")

// kernelTable is our table in one namespace, and what is known of it. It is not safe for concurrent use.
type kernelTable struct {
	netns  *Netns
	id     tableID
	logger *slog.Logger
	nft    *nft // lasting: its port is the owner
	flags  uint32
	gen    uint32      // of the namespace's ruleset when it was last seen to be right
	sum    fingerprint // of the table as it was right after we wrote it
}

// openTable opens the connection that will own a table of the namespace. The caller closes it.
func openTable(n *Netns, id tableID, logger *slog.Logger) (*kernelTable, error) {
	conn, err := dialNFT(n, id.Family)
	if err != nil {
		return nil, nftError(n, "open nftables", err)
	}
	return &kernelTable{netns: n, id: id, logger: logger, nft: conn, flags: ownedFlags}, nil
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

// amend brings the table from one state to another that differs in the elements of sets without intervals
// alone. Where the table is not in that state any more, it is written anew.
func (k *kernelTable) amend(was, want table) error {
	msgs := amendments(was, want)
	for len(msgs) > 0 {
		intact, err := k.intact()
		if err != nil || !intact {
			return k.apply(want)
		}
		switch err := k.nft.commit(k.gen, msgs); {
		case errors.Is(err, unix.ERESTART):
			continue // somebody else was first
		case err != nil:
			return k.apply(want)
		}
		sum, seen, err := k.read()
		if err != nil || seen != following(k.gen) {
			return k.apply(want) // what is there now may not be what was there and this alone
		}
		k.gen, k.sum = seen, sum
		return nil
	}
	return nil
}

// amendments returns the messages that change elements, deletions first.
func amendments(was, want table) (msgs []netlink.Message) {
	lacking := func(in, of set) []element {
		keys := make(map[string]struct{}, len(in.elements))
		for _, e := range in.elements {
			keys[string(e.key)] = struct{}{}
		}
		return slices.DeleteFunc(slices.Clone(of.elements), func(e element) bool { _, ok := keys[string(e.key)]; return ok })
	}
	for i, s := range want.Sets {
		msgs = append(msgs, elementMessages(unix.NFT_MSG_DELSETELEM, want.tableID, s.name, 0, lacking(s, was.Sets[i]))...)
	}
	for i, s := range want.Sets {
		msgs = append(msgs, elementMessages(unix.NFT_MSG_NEWSETELEM, want.tableID, s.name, 0, lacking(was.Sets[i], s))...)
	}
	return msgs
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

// repair compares the table with what it should be, and where it is not that makes it so. ok tells that nothing
// was wrong.
func (k *kernelTable) repair(want table) (r Repair, ok bool) {
	r = Repair{Kind: RepairTable, What: k.id.String() + " was changed or deleted"}
	r.span.after = k.gen
	intact, err := k.intact()
	if err == nil && intact {
		return Repair{}, true
	}
	if err != nil {
		r.What = k.id.String() + " cannot be read"
	}
	r.Err = errors.Join(err, k.apply(want))
	r.span.before = k.gen
	return r, false
}

// exists tells whether a table of ours is there, whoever made it.
func (k *kernelTable) exists() (bool, error) {
	t, err := k.nft.table(k.id.Name)
	return t != nil, err
}

// replace swaps the table for t, or for nothing, provided that nobody else changes the ruleset meanwhile. It
// returns the generation that its transaction made.
func (k *kernelTable) replace(t *table) (uint32, error) {
	gen, err := k.nft.generation()
	if err != nil {
		return 0, err
	}
	old, err := k.nft.table(k.id.Name)
	if err != nil {
		return 0, err
	}
	if old == nil && t == nil {
		return gen, nil
	}
	if old != nil {
		if err := k.free(old); err != nil {
			return 0, err
		}
	}
	if old != nil && t != nil && old.flags&^tableDormant == k.flags {
		err = k.rewrite(gen, *t)
		if err == nil || errors.Is(err, unix.ERESTART) || errors.Is(err, unix.ENOBUFS) {
			return following(gen), err
		}
		k.logger.Warn("rules cannot be changed in place; exchanging them, in which instant a connection may be refused or pass",
			"table", k.id.String(), "error", err)
	}
	return following(gen), k.exchange(gen, old, t)
}

// free is an error if somebody else owns the table.
func (k *kernelTable) free(old *tableInfo) error {
	if old.flags&tableOwner != 0 && old.owner != 0 && old.owner != k.nft.port() {
		return fmt.Errorf("%s: %w (netlink port %d): another agent serves this network namespace; stop it first",
			k.id, errTableOwned, old.owner)
	}
	return nil
}

// following is the generation that a transaction upon gen makes.
func following(gen uint32) uint32 {
	if gen+1 == 0 { // the kernel skips it
		return 1
	}
	return gen + 1
}

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
		if old.flags&tableOwner != 0 {
			// Adding a table that lost its owner adopts it; only then may it be deleted.
			msgs = append(msgs, k.id.create(old.flags&^tableDormant))
		}
		msgs = append(msgs, k.id.delete())
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

// counted sums the counters of some rules.
func (k *kernelTable) counted(among func(rule netlink.Message) bool) (packets uint64, err error) {
	rules, err := k.nft.dump(unix.NFT_MSG_GETRULE, attrs(text0(unix.NFTA_RULE_TABLE, k.id.Name)))
	if err != nil {
		return 0, nftError(k.netns, "read counters", err)
	}
	for _, m := range rules {
		if !among(m) {
			continue
		}
		eachExpression(m, func(name string, data []byte) {
			if name == "counter" {
				each(data, unix.NFTA_COUNTER_PACKETS, func(b []byte) { packets += binary.BigEndian.Uint64(b) })
			}
		})
	}
	return packets, nil
}

// rejects tells whether a rule rejects what it matches.
func rejects(rule netlink.Message) (yes bool) {
	eachExpression(rule, func(name string, _ []byte) { yes = yes || name == "reject" })
	return yes
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
