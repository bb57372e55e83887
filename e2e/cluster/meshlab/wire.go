package meshlab

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/adit-mesh/adit/e2e/lab"
)

// tunnelPort is where HBONE arrives.
const tunnelPort = 15008

// Of every cluster; see package cluster.
var podNetworks = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")}

func isPod(a netip.Addr) bool {
	return slices.ContainsFunc(podNetworks, func(p netip.Prefix) bool { return p.Contains(a) })
}

// WireWatch records TCP between pods on the links of all nodes that is not, or
// does not look like, a tunnel.
type WireWatch struct {
	sniffers map[string]*lab.Sniffer // by node
}

// Wire watches from now to the end of the test.
func Wire(t *testing.T) *WireWatch {
	t.Helper()
	w := &WireWatch{map[string]*lab.Sniffer{}}
	for _, n := range current.Nodes() {
		s, err := n.Netns().SniffIf("eth0", suspicious)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		w.sniffers[n.Name()] = s
	}
	return w
}

// words are what testapp says: nobody should be able to read them.
var words = [][]byte{[]byte("and back\n"), []byte("line 1"), []byte("HTTP/1.1")}

func suspicious(f lab.Frame) bool {
	s, ok := f.Segment()
	if !ok || !isPod(s.Src.Addr()) || !isPod(s.Dst.Addr()) {
		return false
	}
	if s.Src.Port() != tunnelPort && s.Dst.Port() != tunnelPort {
		return true
	}
	return slices.ContainsFunc(words, func(w []byte) bool { return bytes.Contains(s.Payload, w) })
}

// Plaintext says what has gone by outside of tunnels from or to any of these
// addresses, or of all pods if there are none; resets, which carry nothing, aside.
// What is counted was on the wire when it is called.
func (w *WireWatch) Plaintext(pods ...netip.Addr) []string {
	var found []string
	for node, s := range w.sniffers {
		if lost, err := s.Lost(); err != nil || lost > 0 || s.Dropped() > 0 {
			found = append(found, fmt.Sprintf("%s: the recording has holes: %d lost, %d dropped, %v", node, lost, s.Dropped(), err))
		}
		for _, f := range s.Frames() {
			seg, _ := f.Segment()
			if seg.Flags&lab.RST != 0 && len(seg.Payload) == 0 {
				continue
			}
			if len(pods) == 0 || slices.Contains(pods, seg.Src.Addr()) || slices.Contains(pods, seg.Dst.Addr()) {
				found = append(found, fmt.Sprintf("%s %s: %s -> %s flags %#x %q", node, f.Time.Format("15:04:05.000"), seg.Src, seg.Dst, seg.Flags, seg.Payload[:min(len(seg.Payload), 60)]))
			}
		}
	}
	return found[:min(len(found), 20)]
}

// Clean wants nothing of these pods to have gone by in plaintext.
func (w *WireWatch) Clean(t *testing.T, pods ...*Pod) {
	t.Helper()
	var addrs []netip.Addr
	for _, p := range pods {
		addrs = append(addrs, p.IPs...)
	}
	for _, line := range w.Plaintext(addrs...) {
		t.Errorf("plaintext between the nodes: %s", line)
	}
}
