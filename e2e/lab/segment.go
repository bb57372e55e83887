package lab

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// TCP header flags of Segment.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// Segment is one TCP segment over IPv4 or IPv6.
type Segment struct {
	Src, Dst netip.AddrPort
	Flags    uint8
	Seq, Ack uint32
	Payload  []byte
}

const (
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
	protoTCP  = 6
)

// Segment reads the frame as TCP over IPv4 or IPv6 without extension headers; ok is false for anything else.
func (f Frame) Segment() (s Segment, ok bool) {
	b := f.Data
	if len(b) < 14 {
		return s, false
	}
	ether, ip := binary.BigEndian.Uint16(b[12:]), b[14:]
	var src, dst netip.Addr
	var tcp []byte
	switch {
	case ether == etherIPv4 && len(ip) >= 20 && ip[9] == protoTCP:
		head, total := int(ip[0]&0xf)*4, int(binary.BigEndian.Uint16(ip[2:]))
		if total == 0 { // segmentation offload left the length to the device
			total = len(ip)
		}
		if head < 20 || total < head || total > len(ip) {
			return s, false
		}
		src, dst = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
		tcp = ip[head:total]
	case ether == etherIPv6 && len(ip) >= 40 && ip[6] == protoTCP:
		total := 40 + int(binary.BigEndian.Uint16(ip[4:]))
		if total == 40 {
			total = len(ip)
		}
		if total > len(ip) {
			return s, false
		}
		src, dst = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
		tcp = ip[40:total]
	default:
		return s, false
	}
	if len(tcp) < 20 {
		return s, false
	}
	offset := int(tcp[12]>>4) * 4
	if offset < 20 || offset > len(tcp) {
		return s, false
	}
	return Segment{
		Src:     netip.AddrPortFrom(src, binary.BigEndian.Uint16(tcp)),
		Dst:     netip.AddrPortFrom(dst, binary.BigEndian.Uint16(tcp[2:])),
		Seq:     binary.BigEndian.Uint32(tcp[4:]),
		Ack:     binary.BigEndian.Uint32(tcp[8:]),
		Flags:   tcp[13],
		Payload: tcp[offset:],
	}, true
}

// Frame writes the segment as an Ethernet frame with valid checksums, for Namespace.Inject.
func (s Segment) Frame(from, to net.HardwareAddr) []byte {
	tcp := binary.BigEndian.AppendUint16(nil, s.Src.Port())
	tcp = binary.BigEndian.AppendUint16(tcp, s.Dst.Port())
	tcp = binary.BigEndian.AppendUint32(tcp, s.Seq)
	tcp = binary.BigEndian.AppendUint32(tcp, s.Ack)
	tcp = append(tcp, 5<<4, s.Flags, 0xff, 0xff, 0, 0, 0, 0)
	tcp = append(tcp, s.Payload...)

	src, dst := s.Src.Addr().AsSlice(), s.Dst.Addr().AsSlice()
	pseudo := append(append([]byte(nil), src...), dst...)
	pseudo = append(pseudo, 0, protoTCP, byte(len(tcp)>>8), byte(len(tcp)))
	binary.BigEndian.PutUint16(tcp[16:], checksum(append(pseudo, tcp...)))

	frame := append(append([]byte(nil), to...), from...)
	if s.Src.Addr().Is4() {
		ip := []byte{0x45, 0}
		ip = binary.BigEndian.AppendUint16(ip, uint16(20+len(tcp)))
		ip = append(ip, 0, 0, 0, 0, 64, protoTCP, 0, 0)
		ip = append(append(ip, src...), dst...)
		binary.BigEndian.PutUint16(ip[10:], checksum(ip))
		frame = binary.BigEndian.AppendUint16(frame, etherIPv4)
		return append(append(frame, ip...), tcp...)
	}
	ip := []byte{0x60, 0, 0, 0}
	ip = binary.BigEndian.AppendUint16(ip, uint16(len(tcp)))
	ip = append(ip, protoTCP, 64)
	ip = append(append(ip, src...), dst...)
	frame = binary.BigEndian.AppendUint16(frame, etherIPv6)
	return append(append(frame, ip...), tcp...)
}

// checksum is the Internet checksum of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
