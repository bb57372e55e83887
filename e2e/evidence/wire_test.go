package evidence

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"github.com/adit-mesh/adit/e2e/lab"
)

func segment(src, dst string, seq uint32, syn bool, payload string) lab.Segment {
	s := lab.Segment{Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst), Seq: seq, Flags: lab.ACK, Payload: []byte(payload)}
	if syn {
		s.Flags = lab.SYN
	}
	return s
}

func frame(src, dst string, seq uint32, syn bool, payload string) lab.Frame {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	return lab.Frame{Data: segment(src, dst, seq, syn, payload).Frame(mac, mac)}
}

func record(kind byte, body string) string {
	return string([]byte{kind, 3, 3, byte(len(body) >> 8), byte(len(body))}) + body
}

func TestStreamsAreReassembled(t *testing.T) {
	const a, b = "[fd00::1]:4000", "[fd00::2]:8080"
	for _, tt := range []struct {
		why      string
		segments []lab.Segment
		want     string
	}{
		{"in order after a SYN", []lab.Segment{segment(a, b, 100, true, ""), segment(a, b, 101, false, "se"), segment(a, b, 103, false, "cret")}, "secret"},
		{"out of order", []lab.Segment{segment(a, b, 100, true, ""), segment(a, b, 103, false, "cret"), segment(a, b, 101, false, "se")}, "secret"},
		{"retransmitted with overlap", []lab.Segment{segment(a, b, 100, true, ""), segment(a, b, 101, false, "sec"), segment(a, b, 102, false, "ecret")}, "secret"},
		{"sequence numbers wrap", []lab.Segment{segment(a, b, 1<<32-3, true, ""), segment(a, b, 1<<32-2, false, "se"), segment(a, b, 0, false, "cret")}, "secret"},
		{"joined in the middle", []lab.Segment{segment(a, b, 103, false, "cret"), segment(a, b, 101, false, "se")}, "secret"},
		{"a hole ends the stream", []lab.Segment{segment(a, b, 100, true, ""), segment(a, b, 101, false, "se"), segment(a, b, 104, false, "ret")}, "se"},
	} {
		got := flows(tt.segments)
		if len(got) != 1 || string(got[0].bytes()) != tt.want {
			t.Errorf("%s: %d flows, %q; want one with %q", tt.why, len(got), got[0].bytes(), tt.want)
		}
	}
}

func TestPortUsedTwiceIsTwoFlows(t *testing.T) {
	segments := []lab.Segment{
		segment("10.0.0.1:1", "10.0.0.2:2", 10, true, ""), segment("10.0.0.1:1", "10.0.0.2:2", 11, false, "old"),
		segment("10.0.0.1:1", "10.0.0.2:2", 90, true, ""), segment("10.0.0.1:1", "10.0.0.2:2", 91, false, "new"),
	}
	if got := flows(segments); len(got) != 2 || string(got[0].bytes()) != "old" || string(got[1].bytes()) != "new" {
		t.Errorf("%d flows; want the old connection and the new one apart", len(got))
	}
}

func TestTLSRecords(t *testing.T) {
	for _, tt := range []struct {
		why   string
		b     string
		n     int
		whole bool
	}{
		{"nothing", "", 0, true},
		{"handshake and data", record(22, "hello") + record(23, "data"), 2, true},
		{"last record cut by the end of the capture", record(22, "hello") + record(23, "data")[:7], 2, true},
		{"HTTP", "GET / HTTP/1.1\r\n\r\n", 0, false},
		{"plaintext after a record", record(22, "hello") + "GET / HTTP/1.1", 1, false},
		{"SSL 2 version", "\x16\x02\x00\x00\x01a", 0, false},
		{"record longer than any", "\x17\x03\x03\xff\xff", 0, false},
	} {
		if n, whole := tlsRecords([]byte(tt.b)); n != tt.n || whole != tt.whole {
			t.Errorf("%s: %d records, whole %v; want %d, %v", tt.why, n, whole, tt.n, tt.whole)
		}
	}
}

func TestExamineFindsWhatIsThere(t *testing.T) {
	const secret = "token-4711"
	tunnel := []lab.Frame{
		frame("10.0.0.1:5", "10.0.0.2:15008", 1, true, ""),
		frame("10.0.0.1:5", "10.0.0.2:15008", 2, false, record(22, "hello")+record(23, "sealed")),
	}
	e := Examine(tunnel, []byte(secret))
	if e.Records != 2 || e.Tunnel != 1 || e.NotTLS != 0 || e.Exposed != 0 || e.Streams != 0 || e.Plain != 0 {
		t.Errorf("a clean tunnel reads as %+v", e)
	}

	e = Examine(append(tunnel, frame("10.0.0.1:6", "10.0.0.2:80", 1, false, "GET /"+secret)), []byte(secret))
	if e.Exposed != 1 || e.FirstFrame != 3 || e.Streams != 1 || e.Plain != len("GET /"+secret) {
		t.Errorf("a leak reads as %+v", e)
	}

	split := []lab.Frame{
		frame("10.0.0.1:6", "10.0.0.2:80", 1, false, "GET /token-"),
		frame("10.0.0.1:6", "10.0.0.2:80", 12, false, "4711"),
	}
	e = Examine(split, []byte(secret))
	if e.Exposed != 0 || e.Streams != 1 {
		t.Errorf("a secret across two segments reads as %+v; the stream holds it though no frame does", e)
	}

	e = Examine([]lab.Frame{frame("10.0.0.1:6", "10.0.0.2:15008", 1, false, "GET /")}, []byte(secret))
	if e.NotTLS != 1 {
		t.Errorf("HTTP on the tunnel port reads as %+v", e)
	}
}

func TestExamineCountsWhatIsNeitherTCPNorTheLinksOwn(t *testing.T) {
	made := func(ether uint16, at map[int]byte) lab.Frame {
		b := make([]byte, 70)
		binary.BigEndian.PutUint16(b[12:], ether)
		for i, v := range at {
			b[i] = v
		}
		return lab.Frame{Data: b}
	}
	for why, tt := range map[string]struct {
		frame lab.Frame
		want  int
	}{
		"ARP":                    {made(0x0806, nil), 0},
		"the mark of a flush":    {made(markType, nil), 0},
		"neighbour solicitation": {made(0x86dd, map[int]byte{20: 58}), 0},
		"MLD report":             {made(0x86dd, map[int]byte{20: 0, 54: 58}), 0},
		"UDP over IPv4":          {made(0x0800, map[int]byte{14: 0x45, 23: 17}), 1},
		"UDP over IPv6":          {made(0x86dd, map[int]byte{20: 17}), 1},
		"TCP":                    {frame("10.0.0.1:6", "10.0.0.2:15008", 1, false, "x"), 0},
	} {
		if e := Examine([]lab.Frame{tt.frame}, []byte("secret")); e.Others != tt.want {
			t.Errorf("%s: %d frames of another kind, want %d", why, e.Others, tt.want)
		}
	}
}
