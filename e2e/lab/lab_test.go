package lab_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/adit-mesh/adit/e2e/lab"
	"github.com/adit-mesh/adit/e2e/lab/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// Two hosts on a bridge in a third namespace.
func hosts(t *testing.T) (l *lab.Lab, a, b, sw *lab.Namespace) {
	t.Helper()
	l = labtest.New(t)
	made := func(name string) *lab.Namespace {
		n, err := l.Namespace(name)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	a, b, sw = made("a"), made("b"), made("switch")
	for _, err := range []error{
		l.Veth(a, "eth0", sw, "to-a"),
		l.Veth(b, "eth0", sw, "to-b"),
		sw.Bridge("br0", "to-a", "to-b"),
		a.AddAddr("eth0", netip.MustParsePrefix("10.9.0.1/24")),
		a.AddAddr("eth0", netip.MustParsePrefix("fd09::1/64")),
		b.AddAddr("eth0", netip.MustParsePrefix("10.9.0.2/24")),
		b.AddAddr("eth0", netip.MustParsePrefix("fd09::2/64")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Settle(); err != nil {
		t.Fatal(err)
	}
	return l, a, b, sw
}

func TestTrafficAndSniff(t *testing.T) {
	_, a, b, sw := hosts(t)
	sniff, err := sw.Sniff("to-a")
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"10.9.0.2:80", "[fd09::2]:80"} {
		l, err := b.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			c, err := l.Accept()
			if err == nil {
				_, _ = io.WriteString(c, "hello from b")
				_ = c.Close()
			}
		}()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		c, err := a.Dial(ctx, nil, "tcp", addr)
		cancel()
		if err != nil {
			t.Fatalf("dial %s across the bridge: %v", addr, err)
		}
		got, _ := io.ReadAll(c)
		_ = c.Close()
		_ = l.Close()
		if string(got) != "hello from b" {
			t.Errorf("read %q over %s", got, addr)
		}
		if _, ok := sniff.WaitFor(5*time.Second, func(f lab.Frame) bool {
			s, ok := f.Segment()
			return ok && s.Src.String() == addr && string(s.Payload) == "hello from b"
		}); !ok {
			t.Errorf("the payload from %s was not seen on the link", addr)
		}
	}
	var pcap bytes.Buffer
	if err := sniff.WritePcap(&pcap); err != nil || !bytes.Contains(pcap.Bytes(), []byte("hello from b")) {
		t.Errorf("pcap lacks the payload (err %v)", err)
	}
}

func TestSegmentRoundTrip(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	for _, dst := range []string{"10.0.0.2:80", "[fd00::2]:80"} {
		src := netip.MustParseAddrPort(strings.Replace(dst, "2:80", "1:99", 1))
		if src.Addr().Is6() {
			src = netip.MustParseAddrPort("[fd00::1]:99")
		}
		in := lab.Segment{Src: src, Dst: netip.MustParseAddrPort(dst), Flags: lab.ACK | lab.PSH, Seq: 1 << 31, Ack: 7, Payload: []byte("odd")}
		out, ok := lab.Frame{Data: in.Frame(mac, mac)}.Segment()
		if !ok || out.Src != in.Src || out.Dst != in.Dst || out.Seq != in.Seq || out.Ack != in.Ack || out.Flags != in.Flags || string(out.Payload) != "odd" {
			t.Errorf("segment to %s came back as %+v, %v", dst, out, ok)
		}
	}
}

func TestProcessRunsInside(t *testing.T) {
	_, a, _, _ := hosts(t)
	cmd := exec.Command("readlink", "/proc/self/ns/net")
	var out bytes.Buffer
	cmd.Stdout = &out
	p, err := a.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	var inside string
	if err := a.Do(func() (err error) { inside, err = os.Readlink("/proc/thread-self/ns/net"); return err }); err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(out.String()) != inside {
		t.Errorf("the child ran in %s, the namespace is %s", out.String(), inside)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	l, a, _, _ := hosts(t)
	p, err := a.Start(exec.Command("sleep", "60"))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	default:
		t.Error("a child outlived the lab")
	}
	if left, _ := os.ReadDir(lab.Dir); len(left) != 0 {
		t.Errorf("left behind in %s: %v", lab.Dir, left)
	}
	if _, err := l.Namespace("late"); err == nil {
		t.Error("a closed lab made a namespace")
	}
}

func TestSweep(t *testing.T) {
	l := labtest.New(t)
	n, err := l.Namespace("left")
	if err != nil {
		t.Fatal(err)
	}
	name := strings.TrimPrefix(n.Path(), lab.Dir+"/")
	removed, err := lab.Sweep(name)
	if err != nil || len(removed) != 1 {
		t.Fatalf("sweep: %v, %v", removed, err)
	}
	if _, err := os.Stat(n.Path()); !os.IsNotExist(err) {
		t.Errorf("%s is still there", n.Path())
	}
}

func TestKeptNamespaceOutlivesItsLab(t *testing.T) {
	labtest.Require(t)
	const prefix = "kept-"
	first, err := lab.New(prefix)
	if err != nil {
		t.Fatal(err)
	}
	n, err := first.Namespace("n")
	if err != nil {
		t.Fatal(err)
	}
	first.Keep()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := lab.New(prefix)
	if err != nil {
		t.Fatal(err)
	}
	again, err := second.Open("n")
	if err != nil {
		t.Fatalf("open what the first lab kept: %v", err)
	}
	if err := again.Bridge("br0"); err != nil {
		t.Errorf("the namespace came back but cannot be used: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(n.Path()); err != nil {
		t.Errorf("a lab that joined a namespace removed it: %v", err)
	}
	if names, err := lab.Sweep(prefix); err != nil || len(names) != 1 {
		t.Errorf("sweep found %v, %v; want the one that was kept", names, err)
	}
}

func TestSniffIfRecordsOnlyWhatItIsAskedFor(t *testing.T) {
	_, a, b, sw := hosts(t)
	sniff, err := sw.SniffIf("to-a", func(f lab.Frame) bool {
		s, ok := f.Segment()
		return ok && s.Flags&lab.SYN != 0
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := b.Listen("tcp", "10.9.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := a.Dial(ctx, nil, "tcp", "10.9.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, "not a SYN")
	_ = c.Close()
	if _, ok := sniff.WaitFor(5*time.Second, func(f lab.Frame) bool { return true }); !ok {
		t.Fatal("the SYN was not recorded")
	}
	for _, f := range sniff.Frames() {
		if s, _ := f.Segment(); s.Flags&lab.SYN == 0 {
			t.Errorf("recorded %+v, which is no SYN", s)
		}
	}
	if lost, err := sniff.Lost(); err != nil || lost != 0 {
		t.Errorf("lost %d frames, %v", lost, err)
	}
}
