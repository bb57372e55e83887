package evidence

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/adit-mesh/adit/e2e/lab"
)

// HBONEPort is where agents meet.
const HBONEPort = 15008

// flow is one direction of one connection, as far as the capture saw it.
type flow struct {
	src, dst netip.AddrPort
	segments []lab.Segment
}

// flows sorts lab.Segments into connections. A SYN starts a new flow, so that a
// port used twice is not glued together.
func flows(segments []lab.Segment) []*flow {
	type key struct{ src, dst netip.AddrPort }
	current := make(map[key]*flow)
	var all []*flow
	for _, s := range segments {
		k := key{s.Src, s.Dst}
		f := current[k]
		if f == nil || syn(s) && len(f.segments) > 0 && f.segments[0].Seq != s.Seq {
			f = &flow{src: s.Src, dst: s.Dst}
			current[k] = f
			all = append(all, f)
		}
		f.segments = append(f.segments, s)
	}
	return all
}

func syn(s lab.Segment) bool { return s.Flags&lab.SYN != 0 }

// bytes is the flow's payload in order, up to the first hole. Retransmissions
// count once.
func (f *flow) bytes() []byte {
	if len(f.segments) == 0 {
		return nil
	}
	base := f.segments[0].Seq
	// Sequence numbers wrap: what matters is the distance from the first.
	at := func(s lab.Segment) int64 {
		n := int64(int32(s.Seq - base))
		if !syn(s) && syn(f.segments[0]) {
			n-- // SYN takes one number
		}
		return n
	}
	ordered := slices.Clone(f.segments)
	slices.SortStableFunc(ordered, func(a, b lab.Segment) int { return int(at(a) - at(b)) })
	var out []byte
	next := at(ordered[0])
	for _, s := range ordered {
		start, end := at(s), at(s)+int64(len(s.Payload))
		if end <= next {
			continue
		}
		if start > next {
			break
		}
		out = append(out, s.Payload[next-start:]...)
		next = end
	}
	return out
}

// tlsRecords counts the TLS records that b consists of, from its first byte
// on. whole says that nothing but TLS records is in b: the last one may be cut
// short, since a capture ends somewhere.
func tlsRecords(b []byte) (n int, whole bool) {
	const (
		changeCipherSpec = 20
		applicationData  = 23
		// RFC 8446, section 5.2: 2^14 bytes and at most 256 of expansion.
		largest = 1<<14 + 256
	)
	for len(b) > 0 {
		if b[0] < changeCipherSpec || b[0] > applicationData {
			return n, false
		}
		if len(b) < 5 {
			return n, true
		}
		length := int(binary.BigEndian.Uint16(b[3:]))
		if b[1] != 3 || b[2] < 1 || b[2] > 3 || length == 0 || length > largest {
			return n, false
		}
		n++
		if len(b) < 5+length {
			return n, true
		}
		b = b[5+length:]
	}
	return n, true
}

// Traffic is what a stretch of captured traffic says.
type Traffic struct {
	Frames     int // everything that crossed, TCP or not
	Tunnel     int // TCP segments with payload from or to the HBONE port
	Records    int // TLS records in them
	NotTLS     int // flows of that port that are anything else
	Plain      int // TCP payload bytes of every other port
	Others     int // frames that are neither TCP nor what finds neighbours
	Exposed    int // frames that hold the secret
	FirstFrame int // the first of those, counted from 1
	Streams    int // flows that hold it once put together
}

// Examine looks for secret in every frame, and once more in the reassembled
// streams, where a segment boundary cannot hide it.
func Examine(frames []lab.Frame, secret []byte) Traffic {
	e := Traffic{Frames: len(frames)}
	var segments []lab.Segment
	for i, frame := range frames {
		if bytes.Contains(frame.Data, secret) {
			e.Exposed++
			if e.FirstFrame == 0 {
				e.FirstFrame = i + 1
			}
		}
		if s, ok := frame.Segment(); ok {
			segments = append(segments, s)
		} else if !housekeeping(frame.Data) {
			e.Others++
		}
	}
	for _, f := range flows(segments) {
		stream := f.bytes()
		if bytes.Contains(stream, secret) {
			e.Streams++
		}
		if f.src.Port() != HBONEPort && f.dst.Port() != HBONEPort {
			e.Plain += len(stream)
			continue
		}
		for _, s := range f.segments {
			if len(s.Payload) > 0 {
				e.Tunnel++
			}
		}
		n, whole := tlsRecords(stream)
		e.Records += n
		if !whole {
			e.NotTLS++
		}
	}
	return e
}

// housekeeping says that an Ethernet frame is the link's own: ARP, ICMPv6,
// which finds neighbours, or the mark that Flush sends.
func housekeeping(b []byte) bool {
	if len(b) < 14 {
		return false
	}
	const icmpv6 = 58
	switch binary.BigEndian.Uint16(b[12:]) {
	case 0x0806, markType:
		return true
	case 0x86dd:
		// MLD reports (RFC 3810) come behind a hop-by-hop header of 8 bytes.
		return len(b) >= 62 && (b[20] == icmpv6 || b[20] == 0 && b[54] == icmpv6)
	}
	return false
}
