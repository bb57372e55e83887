package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// nft is a netlink connection to the nftables of one namespace. Of the nftables library we use the expressions
// only: its own connection polls with select(2), which panics on a descriptor above 1023, and an agent with a
// thousand connections has no lower ones. It is not safe for concurrent use.
type nft struct {
	conn   *netlink.Conn
	family byte // of the tables that it is asked for
}

// nftAnswer bounds the wait for an answer, which the kernel gives before send returns.
const nftAnswer = 10 * time.Second

func dialNFT(n *Netns, family byte) (*nft, error) {
	var conn *netlink.Conn
	err := control(n.file, func(fd int) (err error) {
		conn, err = netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: fd})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &nft{conn, family}, nil
}

func (c *nft) close() error { return c.conn.Close() }

// port is the connection's netlink port, by which the kernel knows a table's owner.
func (c *nft) port() uint32 { return c.conn.PID() }

// generation numbers the namespace's ruleset: every transaction adds one.
func (c *nft) generation() (uint32, error) {
	msgs, err := c.execute(unix.NFT_MSG_GETGEN, 0, nil)
	if err != nil {
		return 0, err
	}
	for _, m := range msgs {
		if m.Header.Type == nftType(unix.NFT_MSG_NEWGEN) {
			return authorOf(m).gen, nil
		}
	}
	return 0, errors.New("no generation in the kernel's answer")
}

// tableInfo is a table's state apart from its contents.
type tableInfo struct{ flags, owner uint32 }

// nfAccept is NF_ACCEPT of linux/netfilter.h.
const nfAccept = 1

// The flags and the attribute of a table's owner, linux/netfilter/nf_tables.h.
const (
	tableDormant   = 1 << 0
	tableOwner     = 1 << 1
	tablePersist   = 1 << 2
	nftaTableOwner = 7
)

// table returns nil if there is none of that name.
func (c *nft) table(name string) (*tableInfo, error) {
	msgs, err := c.execute(unix.NFT_MSG_GETTABLE, 0, attrs(text0(unix.NFTA_TABLE_NAME, name)))
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	info := new(tableInfo)
	for _, m := range msgs {
		for _, a := range attributes(m.Data[4:]) {
			switch {
			case a.Type == unix.NFTA_TABLE_FLAGS && len(a.Data) == 4:
				info.flags = binary.BigEndian.Uint32(a.Data)
			case a.Type == nftaTableOwner && len(a.Data) == 4:
				info.owner = binary.BigEndian.Uint32(a.Data)
			}
		}
	}
	return info, nil
}

// dump lists objects of all tables, or of those that body selects.
func (c *nft) dump(msg int, body []byte) ([]netlink.Message, error) {
	return c.execute(msg, netlink.Dump, body)
}

func (c *nft) execute(msg int, flags netlink.HeaderFlags, body []byte) ([]netlink.Message, error) {
	if err := c.conn.SetDeadline(time.Now().Add(nftAnswer)); err != nil {
		return nil, err
	}
	msgs, err := c.conn.Execute(message(c.family, msg, flags, body))
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(msgs, func(m netlink.Message) bool { return len(m.Data) < 4 }), nil
}

func message(family byte, msg int, flags netlink.HeaderFlags, body []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: nftType(msg), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, body...), // struct nfgenmsg
	}
}

// commit applies messages as one transaction, provided that the ruleset is still that of a generation:
// ERESTART says that it is not. After ENOBUFS it is unknown whether it was applied.
func (c *nft) commit(generation uint32, msgs []netlink.Message) error {
	if err := c.conn.SetDeadline(time.Now().Add(nftAnswer)); err != nil {
		return err
	}
	// The last message is acknowledged when the transaction is done; one that fails always is.
	msgs[len(msgs)-1].Header.Flags |= netlink.Acknowledge
	edge := func(kind uint16, body []byte) netlink.Message {
		head := []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, unix.NFNL_SUBSYS_NFTABLES >> 8, unix.NFNL_SUBSYS_NFTABLES & 0xff}
		return netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request}, Data: append(head, body...)}
	}
	batch := []netlink.Message{edge(unix.NFNL_MSG_BATCH_BEGIN, attrs(be32(unix.NFNL_BATCH_GENID, generation)))}
	batch = append(batch, msgs...)
	batch = append(batch, edge(unix.NFNL_MSG_BATCH_END, nil))

	size := 0
	for _, m := range batch {
		size += len(m.Data) + 2*unix.NLMSG_HDRLEN
	}
	if size > 64<<10 { // what fits every kernel's default buffer needs none of ours
		if err := c.conn.SetWriteBuffer(2 * size); err != nil {
			return err
		}
	}
	sent, err := c.conn.SendMessages(batch)
	if err != nil {
		return err
	}
	return c.outcome(sent[0].Header.Sequence, sent[len(sent)-2].Header.Sequence)
}

// outcome reads answers up to the one for the last message, and returns the first error. An answer to the
// batch itself comes alone when the kernel would not even begin; when it could not finish, the last one's
// follows and is passed over by the next reader.
func (c *nft) outcome(begin, last uint32) (first error) {
	for {
		msgs, err := c.conn.Receive()
		if err != nil {
			op := new(netlink.OpError)
			if !errors.As(err, &op) || op.Sequence == 0 {
				return errors.Join(first, err)
			}
			if int32(op.Sequence-begin) < 0 {
				continue // of an earlier transaction
			}
			if first == nil {
				first = err
			}
			if op.Sequence == begin || op.Sequence == last {
				return first
			}
			continue
		}
		for _, m := range msgs {
			if m.Header.Sequence == last {
				return first
			}
		}
	}
}

// add returns the messages that make a table.
func (t table) add(flags uint32) ([]netlink.Message, error) {
	name := text0(unix.NFTA_TABLE_NAME, t.Name)
	msgs := []netlink.Message{t.create(flags)}
	for i, s := range t.Sets {
		msgs = append(msgs, s.create(t.tableID, uint32(i+1)))
		msgs = append(msgs, elementMessages(unix.NFT_MSG_NEWSETELEM, t.tableID, s.name, uint32(i+1), s.elements)...)
	}
	for _, c := range t.Chains {
		body := []netlink.Attribute{name, text0(unix.NFTA_CHAIN_NAME, c.Name)}
		if c.Type != "" {
			body = append(body,
				nested(unix.NFTA_CHAIN_HOOK, be32(unix.NFTA_HOOK_HOOKNUM, uint32(*c.Hook)), be32(unix.NFTA_HOOK_PRIORITY, uint32(int32(c.Priority)))),
				be32(unix.NFTA_CHAIN_POLICY, nfAccept),
				text0(unix.NFTA_CHAIN_TYPE, string(c.Type)))
		}
		msgs = append(msgs, message(t.Family, unix.NFT_MSG_NEWCHAIN, netlink.Create, attrs(body...)))
	}
	for _, c := range t.Chains {
		for _, r := range c.Rules {
			var list []netlink.Attribute
			for _, e := range r.exprs() {
				b, err := expr.Marshal(t.Family, e)
				if err != nil {
					return nil, fmt.Errorf("rule %q: %w", r, err)
				}
				list = append(list, netlink.Attribute{Type: unix.NFTA_LIST_ELEM | unix.NLA_F_NESTED, Data: b})
			}
			msgs = append(msgs, message(t.Family, unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append,
				attrs(name, text0(unix.NFTA_RULE_CHAIN, c.Name), nested(unix.NFTA_RULE_EXPRESSIONS, list...))))
		}
	}
	return msgs, nil
}

// stale returns the messages that empty the table that is there, but for chains and sets that t has too.
func (c *nft) stale(t table) ([]netlink.Message, error) {
	name := text0(unix.NFTA_TABLE_NAME, t.Name)
	msgs := []netlink.Message{message(t.Family, unix.NFT_MSG_DELRULE, 0, attrs(name))}
	chains, err := c.dump(unix.NFT_MSG_GETCHAIN, nil)
	if err != nil {
		return nil, err
	}
	for _, m := range chains {
		gone := nameOf(m, unix.NFTA_CHAIN_NAME)
		if nameOf(m, unix.NFTA_CHAIN_TABLE) == t.Name && !slices.ContainsFunc(t.Chains, func(x chain) bool { return x.Name == gone }) {
			msgs = append(msgs, message(t.Family, unix.NFT_MSG_DELCHAIN, 0, attrs(name, text0(unix.NFTA_CHAIN_NAME, gone))))
		}
	}
	sets, err := c.dump(unix.NFT_MSG_GETSET, attrs(name))
	if err != nil {
		return nil, err
	}
	for _, m := range sets {
		there := nameOf(m, unix.NFTA_SET_NAME)
		if slices.ContainsFunc(t.Sets, func(x set) bool { return x.name == there }) {
			// Without elements this deletes all of them.
			msgs = append(msgs, message(t.Family, unix.NFT_MSG_DELSETELEM, 0, attrs(name, text0(unix.NFTA_SET_ELEM_LIST_SET, there))))
		} else {
			msgs = append(msgs, message(t.Family, unix.NFT_MSG_DELSET, 0, attrs(name, text0(unix.NFTA_SET_NAME, there))))
		}
	}
	return msgs, nil
}

// create adds the table itself, or adopts one that has lost its owner.
func (id tableID) create(flags uint32) netlink.Message {
	return message(id.Family, unix.NFT_MSG_NEWTABLE, netlink.Create, attrs(text0(unix.NFTA_TABLE_NAME, id.Name), be32(unix.NFTA_TABLE_FLAGS, flags)))
}

func (id tableID) delete() netlink.Message {
	return message(id.Family, unix.NFT_MSG_DELTABLE, 0, attrs(text0(unix.NFTA_TABLE_NAME, id.Name)))
}

// elementsPerMessage keeps a list of elements below the 64 KiB that an attribute can hold.
const elementsPerMessage = 1000

// create returns the message that makes the set without its elements; id refers to it in the same transaction.
func (s set) create(in tableID, id uint32) netlink.Message {
	var flags uint32
	if s.interval {
		flags |= unix.NFT_SET_INTERVAL
	}
	return message(in.Family, unix.NFT_MSG_NEWSET, netlink.Create, attrs(
		text0(unix.NFTA_SET_TABLE, in.Name),
		text0(unix.NFTA_SET_NAME, s.name),
		be32(unix.NFTA_SET_FLAGS, flags),
		be32(unix.NFTA_SET_KEY_TYPE, s.kind.GetNFTMagic()),
		be32(unix.NFTA_SET_KEY_LEN, s.kind.Bytes),
		be32(unix.NFTA_SET_ID, id),
	))
}

// elementMessages returns the messages that add elements to a set or delete them from it. id is of a set that
// the same transaction makes, and 0 for one that is there.
func elementMessages(msg int, in tableID, set string, id uint32, elements []element) (msgs []netlink.Message) {
	for some := range slices.Chunk(elements, elementsPerMessage) {
		var list []netlink.Attribute
		for _, e := range some {
			elem := []netlink.Attribute{nested(unix.NFTA_SET_ELEM_KEY, netlink.Attribute{Type: unix.NFTA_DATA_VALUE, Data: e.key})}
			if e.end {
				elem = append(elem, be32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END))
			}
			list = append(list, nested(unix.NFTA_LIST_ELEM, elem...))
		}
		body := []netlink.Attribute{
			text0(unix.NFTA_SET_ELEM_LIST_TABLE, in.Name),
			text0(unix.NFTA_SET_ELEM_LIST_SET, set),
			nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, list...),
		}
		var flags netlink.HeaderFlags
		if msg == unix.NFT_MSG_NEWSETELEM {
			flags = netlink.Create
		}
		if id != 0 {
			body = append(body, be32(unix.NFTA_SET_ELEM_LIST_SET_ID, id))
		}
		msgs = append(msgs, message(in.Family, msg, flags, attrs(body...)))
	}
	return msgs
}

func text0(typ uint16, s string) netlink.Attribute {
	return netlink.Attribute{Type: typ, Data: append([]byte(s), 0)}
}

func be32(typ uint16, v uint32) netlink.Attribute {
	return netlink.Attribute{Type: typ, Data: binary.BigEndian.AppendUint32(nil, v)}
}

func nested(typ uint16, list ...netlink.Attribute) netlink.Attribute {
	return netlink.Attribute{Type: typ | unix.NLA_F_NESTED, Data: attrs(list...)}
}

// attrs encodes attributes. What we write is far below the one limit, 64 KiB for each.
func attrs(list ...netlink.Attribute) []byte {
	b, err := netlink.MarshalAttributes(list)
	if err != nil {
		panic(fmt.Sprintf("capture: attribute too long: %v", err))
	}
	return b
}
