package capture

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// fingerprint is a digest of a table as the kernel has it, of everything that decides what happens to a
// packet and nothing that changes by itself. The zero value is no table.
type fingerprint [sha256.Size]byte

// intact tells whether the table is as we wrote it. Where nothing in the namespace's ruleset has changed
// since the last look that costs one message.
func (k *kernelTable) intact() (bool, error) {
	gen, err := k.nft.generation()
	if err != nil {
		return false, nftError(k.netns, "ask for the ruleset's generation", err)
	}
	if gen == k.gen {
		return true, nil
	}
	sum, seen, err := k.read()
	if err != nil {
		return false, nftError(k.netns, "read rules", err)
	}
	if sum != k.sum {
		return false, nil
	}
	k.gen = seen
	return true, nil
}

// read takes the table's fingerprint, and the generation at which it was that.
func (k *kernelTable) read() (fingerprint, uint32, error) {
	// A dump is not a snapshot: it counts only if the ruleset was the same before and after.
	for range applyAttempts {
		before, err := k.nft.generation()
		if err != nil {
			return fingerprint{}, 0, err
		}
		sum, err := k.nft.fingerprint(k.id.Name)
		if err != nil {
			return fingerprint{}, 0, err
		}
		after, err := k.nft.generation()
		if err != nil {
			return fingerprint{}, 0, err
		}
		if before == after {
			return sum, after, nil
		}
	}
	return fingerprint{}, 0, fmt.Errorf("the ruleset kept changing while it was read: %w", unix.EINTR)
}

// fingerprint dumps chains, rules, sets and their elements. The library's parsed form leaves out expressions
// that it does not know, so this works on the attributes themselves.
func (c *nft) fingerprint(table string) (fingerprint, error) {
	var sum fingerprint
	tables, err := c.dump(unix.NFT_MSG_GETTABLE, nil)
	if err != nil {
		return sum, err
	}
	h := sha256.New()
	found := false
	for _, m := range tables {
		// The flags: a dormant table does nothing.
		if nameOf(m, unix.NFTA_TABLE_NAME) == table {
			found = true
			writeAttrs(h, m, unix.NFTA_TABLE_FLAGS)
		}
	}
	if !found {
		return sum, nil
	}
	inTable := text0(unix.NFTA_RULE_TABLE, table)
	chains, err := c.dump(unix.NFT_MSG_GETCHAIN, nil)
	if err != nil {
		return sum, err
	}
	for _, m := range chains {
		if nameOf(m, unix.NFTA_CHAIN_TABLE) == table {
			writeAttrs(h, m, unix.NFTA_CHAIN_NAME, unix.NFTA_CHAIN_HOOK, unix.NFTA_CHAIN_POLICY, unix.NFTA_CHAIN_TYPE, nftaChainFlags)
		}
	}
	rules, err := c.dump(unix.NFT_MSG_GETRULE, attrs(inTable))
	if err != nil {
		return sum, err
	}
	for _, m := range rules {
		writeAttrs(h, m, unix.NFTA_RULE_CHAIN)
		writeExpressions(h, m)
	}
	if err := c.readSets(h, inTable); err != nil {
		return sum, err
	}
	h.Sum(sum[:0])
	return sum, nil
}

func (c *nft) readSets(h hash.Hash, inTable netlink.Attribute) error {
	sets, err := c.dump(unix.NFT_MSG_GETSET, attrs(inTable))
	if err != nil {
		return err
	}
	for _, m := range sets {
		writeAttrs(h, m, unix.NFTA_SET_NAME, unix.NFTA_SET_FLAGS, unix.NFTA_SET_KEY_TYPE, unix.NFTA_SET_KEY_LEN)
		set := text0(unix.NFTA_SET_ELEM_LIST_SET, nameOf(m, unix.NFTA_SET_NAME))
		elems, err := c.dump(unix.NFT_MSG_GETSETELEM, attrs(inTable, set))
		if err != nil {
			return err
		}
		// A hash table may be walked in another order after it has grown.
		var keys []string
		for _, e := range elems {
			each(e.Data[4:], unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(list []byte) {
				each(list, unix.NFTA_LIST_ELEM, func(elem []byte) {
					var key string
					for _, a := range attributes(elem) {
						if a.Type == unix.NFTA_SET_ELEM_KEY || a.Type == unix.NFTA_SET_ELEM_FLAGS {
							key += fmt.Sprintf("%d=%x ", a.Type, a.Data)
						}
					}
					keys = append(keys, key)
				})
			})
		}
		slices.Sort(keys)
		fmt.Fprintln(h, keys)
	}
	return nil
}

// writeExpressions writes a rule's expressions without the counters' values.
func writeExpressions(h hash.Hash, m netlink.Message) {
	eachExpression(m, func(name string, data []byte) {
		if name == "counter" {
			data = nil
		}
		fmt.Fprintf(h, "%s %x\n", name, data)
	})
}

// eachExpression calls f with the expressions of a rule in their order.
func eachExpression(m netlink.Message, f func(name string, data []byte)) {
	each(m.Data[4:], unix.NFTA_RULE_EXPRESSIONS, func(list []byte) {
		each(list, unix.NFTA_LIST_ELEM, func(e []byte) {
			var name string
			var data []byte
			each(e, unix.NFTA_EXPR_NAME, func(b []byte) { name = text(b) })
			each(e, unix.NFTA_EXPR_DATA, func(b []byte) { data = b })
			f(name, data)
		})
	})
}

func writeAttrs(h hash.Hash, m netlink.Message, types ...uint16) {
	for _, a := range attributes(m.Data[4:]) {
		if slices.Contains(types, a.Type) {
			fmt.Fprintf(h, "%d %d=%x\n", m.Header.Type, a.Type, a.Data)
		}
	}
}

func nameOf(m netlink.Message, typ uint16) (name string) {
	each(m.Data[4:], typ, func(b []byte) { name = text(b) })
	return name
}

// each calls f with every attribute of a type.
func each(b []byte, typ uint16, f func([]byte)) {
	for _, a := range attributes(b) {
		if a.Type == typ {
			f(a.Data)
		}
	}
}

// attributes decodes the kernel's attributes; what cannot be decoded reads as none, and so as a change.
func attributes(b []byte) []netlink.Attribute {
	attrs, err := netlink.UnmarshalAttributes(b)
	if err != nil {
		return nil
	}
	for i := range attrs {
		attrs[i].Type &^= unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER
	}
	return attrs
}

// text is a C string attribute.
func text(b []byte) string {
	if n := len(b); n > 0 && b[n-1] == 0 {
		b = b[:n-1]
	}
	return string(b)
}

// nftaChainFlags is NFTA_CHAIN_FLAGS of linux/netfilter/nf_tables.h.
const nftaChainFlags = 10

func nftType(msg int) netlink.HeaderType {
	return netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | msg)
}
