package capture

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// table is a ruleset as a value: what goes to the kernel and what a person reads are made from the same one.
type table struct {
	tableID
	Sets   []set
	Chains []chain
}

// tableID names a table in a namespace.
type tableID struct {
	Family byte // NFPROTO_INET or NFPROTO_BRIDGE
	Name   string
}

// String is the table as nft(8) names it.
func (id tableID) String() string {
	if id.Family == unix.NFPROTO_BRIDGE {
		return "table bridge " + id.Name
	}
	return "table inet " + id.Name
}

// chain is a base chain, or a jump target when Type is empty.
type chain struct {
	Name     string
	Type     nftables.ChainType
	Hook     *nftables.ChainHook
	Priority int
	Rules    []rule
}

type rule []statement

// statement is one match or action: its nft text, and its expressions in the kernel's virtual machine. All
// use register 1, so statements are independent of each other.
type statement struct {
	text  string
	proto byte // the layer 4 protocol it presumes, 0 = any
	fam   byte // the network protocol it presumes, 0 = any
	tells byte // the layer 4 protocol that is certain after it
	exprs []expr.Any
}

const (
	filter = nftables.ChainTypeFilter
	route  = nftables.ChainTypeRoute
	nat    = nftables.ChainTypeNAT
)

var (
	prerouting  = nftables.ChainHookPrerouting
	input       = nftables.ChainHookInput
	output      = nftables.ChainHookOutput
	postrouting = nftables.ChainHookPostrouting
)

// lo is the index of the loopback link, always the first in a namespace.
const lo = 1

type sense bool

const (
	is  sense = true
	not sense = false
)

func (s sense) op() expr.CmpOp {
	if s == is {
		return expr.CmpOpEq
	}
	return expr.CmpOpNeq
}

// blank is how the sense looks in "iif 1" and "iif != 1".
func (s sense) blank() string {
	if s == is {
		return " "
	}
	return " != "
}

type protocol byte

const (
	tcp    protocol = unix.IPPROTO_TCP
	udp    protocol = unix.IPPROTO_UDP
	notTCP protocol = 0
)

func (p protocol) String() string {
	if p == udp {
		return "udp"
	}
	return "tcp"
}

func native(v uint32) []byte { return binaryutil.NativeEndian.PutUint32(v) }
func big16(v uint16) []byte  { return binary.BigEndian.AppendUint16(nil, v) }

func load(key expr.MetaKey) expr.Any { return &expr.Meta{Key: key, Register: 1} }
func compare(s sense, data []byte) expr.Any {
	return &expr.Cmp{Op: s.op(), Register: 1, Data: data}
}
func mask(m, xor uint32) expr.Any {
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(m), Xor: native(xor)}
}
func lookup(s sense, set string) expr.Any {
	return &expr.Lookup{SourceRegister: 1, SetName: set, Invert: s == not}
}
func transport(offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: length}
}
func network(offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

func iif(s sense, index uint32) statement {
	return statement{text: fmt.Sprintf("iif%s%d", s.blank(), index), exprs: []expr.Any{load(expr.MetaKeyIIF), compare(s, native(index))}}
}

func oif(s sense, index uint32) statement {
	return statement{text: fmt.Sprintf("oif%s%d", s.blank(), index), exprs: []expr.Any{load(expr.MetaKeyOIF), compare(s, native(index))}}
}

func iifname(s sense, set string) statement {
	return statement{text: "iifname" + s.blank() + "@" + set, exprs: []expr.Any{load(expr.MetaKeyIIFNAME), lookup(s, set)}}
}

func l4proto(p protocol) statement {
	if p == notTCP {
		return statement{text: "meta l4proto != tcp", exprs: []expr.Any{load(expr.MetaKeyL4PROTO), compare(not, []byte{byte(tcp)})}}
	}
	return statement{text: "meta l4proto " + p.String(), tells: byte(p), exprs: l4protoIs(byte(p))}
}

func l4protoIs(p byte) []expr.Any {
	return []expr.Any{load(expr.MetaKeyL4PROTO), compare(is, []byte{p})}
}

func nfprotoIs(p byte) []expr.Any {
	return []expr.Any{load(expr.MetaKeyNFPROTO), compare(is, []byte{p})}
}

func dport(p protocol, port uint16) statement {
	return statement{text: fmt.Sprintf("%s dport %d", p, port), proto: byte(p), exprs: []expr.Any{transport(2, 2), compare(is, big16(port))}}
}

func sport(p protocol, s sense, port uint16) statement {
	return statement{text: fmt.Sprintf("%s sport%s%d", p, s.blank(), port), proto: byte(p), exprs: []expr.Any{transport(0, 2), compare(s, big16(port))}}
}

func dportIn(set string) statement {
	return statement{text: "tcp dport @" + set, proto: byte(tcp), exprs: []expr.Any{transport(2, 2), lookup(is, set)}}
}

func sportNotIn(set string) statement {
	return statement{text: "tcp sport != @" + set, proto: byte(tcp), exprs: []expr.Any{transport(0, 2), lookup(not, set)}}
}

// saddr matches a set of source addresses; the set's name ends in its family.
func saddr(set string) statement { return addrIn(set, "saddr", 12, 8) }

// daddr is saddr for destinations.
func daddr(set string) statement { return addrIn(set, "daddr", 16, 24) }

func addrIn(set, field string, offset4, offset6 uint32) statement {
	if set[len(set)-1] == '4' {
		return statement{text: "ip " + field + " @" + set, fam: unix.NFPROTO_IPV4, exprs: []expr.Any{network(offset4, 4), lookup(is, set)}}
	}
	return statement{text: "ip6 " + field + " @" + set, fam: unix.NFPROTO_IPV6, exprs: []expr.Any{network(offset6, 16), lookup(is, set)}}
}

// saddrIs matches one source address.
func saddrIs(a netip.Addr) statement {
	if a.Is4() {
		return statement{text: "ip saddr " + a.String(), fam: unix.NFPROTO_IPV4, exprs: []expr.Any{network(12, 4), compare(is, a.AsSlice())}}
	}
	return statement{text: "ip6 saddr " + a.String(), fam: unix.NFPROTO_IPV6, exprs: []expr.Any{network(8, 16), compare(is, a.AsSlice())}}
}

// etherSaddrIs is saddrIs in family bridge, where the frame's type tells what is in it.
func etherSaddrIs(a netip.Addr) statement {
	s, name, kind := saddrIs(a), "ip", uint16(unix.ETH_P_IP)
	if a.Is6() {
		name, kind = "ip6", unix.ETH_P_IPV6
	}
	return statement{text: "meta protocol " + name + " " + s.text,
		exprs: append([]expr.Any{load(expr.MetaKeyPROTOCOL), compare(is, big16(kind))}, s.exprs...)}
}

// daddrPortIn matches destination address and port with a set of such pairs; the set's name ends in its family.
// The kernel takes what lies in registers 1 and following as one key: the port is in the fifth word of 4 bytes
// after an IPv6 address, and in the second after one of IPv4.
func daddrPortIn(set string) statement {
	s := statement{text: "ip daddr . tcp dport @" + set, proto: byte(tcp), fam: unix.NFPROTO_IPV4}
	addr, port := network(16, 4), uint32(unix.NFT_REG32_01)
	if set[len(set)-1] == '6' {
		s.text, s.fam = "ip6 daddr . tcp dport @"+set, unix.NFPROTO_IPV6
		addr, port = network(24, 16), unix.NFT_REG32_04
	}
	s.exprs = []expr.Any{addr, &expr.Payload{DestRegister: port, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, lookup(is, set)}
	return s
}

// skuid matches packets of a socket of this machine whose file a user opened. Where there is no socket, or no
// full one, it does not match.
func skuid(uid uint32) statement {
	return statement{text: fmt.Sprintf("meta skuid %d", uid), exprs: []expr.Any{load(expr.MetaKeySKUID), compare(is, native(uid))}}
}

// tcpFlags is the byte of flags; fin, syn, rst and ack tell a first segment from all others.
const (
	tcpFlagMask = 0x01 | 0x02 | 0x04 | 0x10
	tcpFlagSyn  = 0x02
)

func syn() statement { return flags(is) }

func notSyn() statement { return flags(not) }

func flags(s sense) statement {
	op := map[sense]string{is: "==", not: "!="}[s]
	return statement{text: "tcp flags & (fin | syn | rst | ack) " + op + " syn", proto: byte(tcp), exprs: []expr.Any{
		transport(13, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{tcpFlagMask}, Xor: []byte{0}},
		compare(s, []byte{tcpFlagSyn}),
	}}
}

func mark(m uint32) statement {
	return statement{text: fmt.Sprintf("meta mark & 0x%08x == 0x%08x", MarkMask, m),
		exprs: []expr.Any{load(expr.MetaKeyMARK), mask(MarkMask, 0), compare(is, native(m))}}
}

func socketMark(m uint32) statement {
	return statement{text: fmt.Sprintf("socket mark & 0x%08x == 0x%08x", MarkMask, m),
		exprs: []expr.Any{&expr.Socket{Key: expr.SocketKeyMark, Register: 1}, mask(MarkMask, 0), compare(is, native(m))}}
}

func ctLoad(key expr.CtKey) expr.Any { return &expr.Ct{Key: key, Register: 1} }

func ctMark(m uint32) statement {
	return statement{text: fmt.Sprintf("ct mark & 0x%08x == 0x%08x", MarkMask, m),
		exprs: []expr.Any{ctLoad(expr.CtKeyMARK), mask(MarkMask, 0), compare(is, native(m))}}
}

const (
	ctInvalid = expr.CtStateBitINVALID
	ctNew     = expr.CtStateBitNEW
)

func ctState(bit uint32) statement {
	name := map[uint32]string{ctInvalid: "invalid", ctNew: "new"}[bit]
	return statement{text: "ct state " + name, exprs: []expr.Any{ctLoad(expr.CtKeySTATE), mask(bit, 0), compare(not, native(0))}}
}

const (
	dirOriginal = expr.CtDirOriginal
	dirReply    = expr.CtDirReply
)

func ctDirection(dir byte) statement {
	name := map[byte]string{dirOriginal: "original", dirReply: "reply"}[dir]
	return statement{text: "ct direction " + name, exprs: []expr.Any{ctLoad(expr.CtKeyDIRECTION), compare(is, []byte{dir})}}
}

// ipsDstNAT is IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
const ipsDstNAT = 1 << 5

func ctStatusDNAT(s sense) statement {
	op := map[sense]string{is: "==", not: "!="}[s]
	return statement{text: "ct status & dnat " + op + " dnat", exprs: []expr.Any{ctLoad(expr.CtKeySTATUS), mask(ipsDstNAT, 0), compare(s, native(ipsDstNAT))}}
}

// rtnLocal is the address type of the pod's own addresses.
const rtnLocal = unix.RTN_LOCAL

func fib(addr string, s sense, addrType uint32) statement {
	return statement{text: "fib " + addr + " type" + s.blank() + "local", exprs: []expr.Any{
		&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagSADDR: addr == "saddr", FlagDADDR: addr == "daddr"},
		compare(s, native(addrType)),
	}}
}

func setMark(m uint32) statement {
	return statement{text: fmt.Sprintf("meta mark set meta mark & 0x%08x | 0x%08x", ^uint32(MarkMask), m),
		exprs: []expr.Any{load(expr.MetaKeyMARK), mask(^uint32(MarkMask), m), &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1}}}
}

func setCtMark(m uint32) statement {
	return statement{text: fmt.Sprintf("ct mark set ct mark & 0x%08x | 0x%08x", ^uint32(MarkMask), m),
		exprs: []expr.Any{ctLoad(expr.CtKeyMARK), mask(^uint32(MarkMask), m), &expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: 1}}}
}

func verdict(text string, kind expr.VerdictKind, target string) statement {
	return statement{text: text, exprs: []expr.Any{&expr.Verdict{Kind: kind, Chain: target}}}
}

func accept() statement { return verdict("accept", expr.VerdictAccept, "") }

func drop() statement { return verdict("drop", expr.VerdictDrop, "") }

func jump(target string) statement { return verdict("jump "+target, expr.VerdictJump, target) }

func notrack() statement { return statement{text: "notrack", exprs: []expr.Any{&expr.Notrack{}}} }

func count() statement { return statement{text: "counter", exprs: []expr.Any{&expr.Counter{}}} }

func rejectTCP() statement {
	return statement{text: "reject with tcp reset", proto: byte(tcp), exprs: []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}}
}

// natRangeProto is NF_NAT_RANGE_PROTO_SPECIFIED of linux/netfilter/nf_nat.h.
const natRangeProto = 1 << 1

// redirect needs a rule that matches a protocol with ports before it.
func redirect(port uint16) statement {
	return statement{text: fmt.Sprintf("redirect to :%d", port), exprs: []expr.Any{
		&expr.Immediate{Register: 1, Data: big16(port)},
		&expr.Redir{RegisterProtoMin: 1, Flags: natRangeProto},
	}}
}

// snat needs a rule that matches its family before it.
func snat(to netip.Addr) statement {
	s := statement{text: "snat ip to " + to.String(), fam: unix.NFPROTO_IPV4}
	if to.Is6() {
		s.text, s.fam = "snat ip6 to "+to.String(), unix.NFPROTO_IPV6
	}
	s.exprs = []expr.Any{
		&expr.Immediate{Register: 1, Data: to.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(s.fam), RegAddrMin: 1},
	}
	return s
}

// exprs is the rule for the kernel. What the statements presume of the packet is matched first, once.
func (r rule) exprs() []expr.Any {
	var out []expr.Any
	var proto, fam byte
	for _, s := range r {
		if s.fam != 0 && s.fam != fam {
			fam = s.fam
			out = append(out, nfprotoIs(fam)...)
		}
		if s.proto != 0 && s.proto != proto {
			proto = s.proto
			out = append(out, l4protoIs(proto)...)
		}
		if s.tells != 0 {
			proto = s.tells
		}
		out = append(out, s.exprs...)
	}
	return out
}
