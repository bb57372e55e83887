package enrol

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/adit-mesh/adit/agent/enrol/ask"
	"github.com/adit-mesh/adit/agent/kube"
	"github.com/adit-mesh/adit/capture"
	"github.com/adit-mesh/adit/e2e/lab"
)

func withAddress(p kube.LocalPod, addrs ...string) kube.LocalPod {
	for _, a := range addrs {
		p.IPs = append(p.IPs, netip.MustParseAddr(a))
	}
	return p
}

// podCgroup is where cgroupfs puts a container of a pod.
func podCgroup(uid, container string) []string {
	return []string{"kubepods", "burstable", "pod" + uid, container}
}

// wantMissing waits until the status says why a pod is not captured.
func (n *node) wantMissing(name, want string) {
	n.Helper()
	var list []Unenrolled
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		list = n.agent.Status()
		for _, u := range list {
			if u.Ref.Name == name && strings.Contains(u.Reason, want) {
				return
			}
		}
	}
	n.Fatalf("status is %+v; want %s with %q", list, name, want)
}

func TestRunningPodIsFound(t *testing.T) {
	for _, driver := range []struct {
		name   string
		cgroup func(uid, container string) []string
	}{
		{"cgroupfs", podCgroup},
		{"systemd", func(uid, container string) []string {
			return []string{"kubepods.slice", "kubepods-pod" + strings.ReplaceAll(uid, "-", "_") + ".slice", "cri-" + container + ".scope"}
		}},
	} {
		t.Run(driver.name, func(t *testing.T) {
			n := newNode(t)
			ns := n.netns("a", "10.244.1.7")
			n.process(ns, driver.cgroup("uid-1", "c1")...)
			p := withAddress(pod("web", "uid-1"), "10.244.1.7")
			n.kube.api(func(pods map[string]kube.LocalPod) { pods[p.UID] = p })
			n.start().sync()
			n.wantSet("found at the start", key(p.WorkloadUID, inodeOfNS(t, ns)))
			n.eventually("it is captured", func() bool { return n.present(ns) })
		})
	}
}

// A pod is labelled while it runs, and the label is taken away again.
func TestRunningPodIsLabelled(t *testing.T) {
	n := newNode(t).start().sync()
	ns := n.netns("a", "10.244.1.7")
	n.process(ns, podCgroup("uid-1", "c1")...)
	p := pod("web", "uid-1")
	p.Enrol, p.Reason = false, "no label"
	n.kube.put(p)
	n.wantMissing("web", "no label")
	p.Enrol = true
	n.kube.put(p)
	n.wantMissing("web", "no address yet")
	n.wantSet("without an address nothing is known to be the pod's")
	p = withAddress(p, "fd00::7", "10.244.1.7")
	n.kube.put(p)
	n.wantSet("with its address", key(p.WorkloadUID, inodeOfNS(t, ns)))
	n.eventually("it is captured", func() bool { return n.present(ns) })
	p.Enrol = false
	n.kube.put(p)
	n.wantSet("without the label")
	n.eventually("it is released", func() bool { return !n.present(ns) })
}

// Processes of a pod that are elsewhere do not mislead.
func TestNamespaceIsVerified(t *testing.T) {
	n := newNode(t).start().sync()
	p := withAddress(pod("web", "uid-1"), "10.244.1.7")
	n.kube.put(p)
	n.wantMissing("web", "no process of it is found")

	other := n.netns("other", "10.244.1.8")
	n.process(other, podCgroup("uid-1", "c1")...)
	n.wantMissing("web", "has not the pod's address: it has 10.244.1.8, the pod 10.244.1.7")
	n.wantSet("another pod's namespace")

	ns := n.netns("a", "10.244.1.7")
	n.process(ns, podCgroup("uid-1", "c2")...)
	n.wantSet("its own namespace", key(p.WorkloadUID, inodeOfNS(t, ns)))
}

func TestNodeNamespaceIsNoPods(t *testing.T) {
	n := newNode(t).start().sync()
	p := withAddress(pod("web", "uid-1"), "10.244.1.7")
	n.kube.put(p)
	root := cgroupRoot(t)
	dir := filepath.Join(root, "poduid-1")
	n.must(os.Mkdir(dir, 0o755))
	t.Cleanup(func() { removeCgroup(t, dir) })
	cmd := exec.Command("sleep", "1000")
	n.must(cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	n.must(os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, cmd.Process.Pid), 0))
	n.wantMissing("web", "no process of it is found in a network namespace of its own")
}

// The oldest namespace with the address is the pod's: a process in the pod may
// make another, and give it any address.
func TestOldestNamespaceCounts(t *testing.T) {
	n := newNode(t)
	first := n.netns("a", "10.244.1.7")
	n.process(first, podCgroup("uid-1", "c1")...)
	time.Sleep(20 * time.Millisecond) // two clock ticks, or they are of one age
	forged := n.netns("b", "10.244.1.7")
	n.process(forged, podCgroup("uid-1", "c2")...)
	n.kube.put(withAddress(pod("web", "uid-1"), "10.244.1.7"))
	n.start().sync()
	n.wantSet("the oldest", key("Kubernetes//Pod/default/web", inodeOfNS(t, first)))
}

// A label that was removed while no agent was there.
func TestLeftoversAreReleased(t *testing.T) {
	n := newNode(t)
	left, clean := n.netns("a", "10.244.1.7"), n.netns("b", "10.244.1.8")
	n.process(left, podCgroup("uid-1", "c1")...)
	n.process(clean, podCgroup("uid-2", "c2")...)
	h, err := capture.OpenNetns(left.Path())
	n.must(err)
	earlier, err := capture.Enrol(t.Context(), capture.PodConfig{Netns: h})
	n.must(err)
	n.must(earlier.Detach())
	for i, uid := range []string{"uid-1", "uid-2"} {
		p := pod([]string{"left", "clean"}[i], uid)
		p.Enrol = false
		n.kube.put(p)
	}
	n.start().sync()
	n.wantSet("only what is left", key("Kubernetes//Pod/default/left", inodeOfNS(t, left)))
	n.eventually("it is freed", func() bool { return !n.present(left) })
	if p := n.enroller.pods()[0]; !p.Release {
		t.Errorf("%+v is not to be released", p)
	}
	p := pod("left", "uid-1")
	n.kube.put(p)
	n.eventually("labelled again", func() bool {
		pods := n.enroller.pods()
		return len(pods) == 1 && !pods[0].Release
	})
}

// age makes a sandbox older than it is.
func (n *node) age(uid string) {
	n.agent.mu.Lock()
	defer n.agent.mu.Unlock()
	n.agent.sandboxes[uid].since = time.Now().Add(-2 * newborn)
}

// A pod that was deleted by force runs on, captured, until its processes have
// ended, whether its runtime says so or not.
func TestPodDeletedByForceStaysCaptured(t *testing.T) {
	n := newNode(t)
	n.cfg.Interval = 50 * time.Millisecond
	n.start().sync()
	ns := n.netns("a", "10.244.1.7")
	p := withAddress(pod("web", "uid-1"), "10.244.1.7")
	n.kube.put(p)
	n.must(n.plugin(ask.Add, p, "c1", ns, "10.244.1.7"))
	running := n.process(ns, podCgroup("uid-1", "c1")...)
	n.age(p.UID)
	n.kube.remove(p.UID)
	time.Sleep(impatience) // several rounds
	n.wantSet("its processes are there", key(p.WorkloadUID, inodeOfNS(t, ns)))
	running.Kill()
	n.wantSet("its processes have ended")
	if !n.enroller.wasGone(p.WorkloadUID, inodeOfNS(t, ns)) {
		t.Error("it was released rather than ended")
	}
}

// A sandbox was replaced, and nobody called the plugin.
func TestSandboxReplacedBehindOurBack(t *testing.T) {
	n := newNode(t)
	n.cfg.Interval = 50 * time.Millisecond
	n.start().sync()
	first, second := n.netns("a", "10.244.1.7"), n.netns("b", "10.244.1.8")
	p := withAddress(pod("web", "uid-1"), "10.244.1.7")
	n.kube.put(p)
	running := n.process(first, podCgroup("uid-1", "c1")...)
	n.wantSet("the first sandbox", key(p.WorkloadUID, inodeOfNS(t, first)))
	running.Kill()
	n.wantSet("no sandbox has come yet", key(p.WorkloadUID, inodeOfNS(t, first)))
	n.process(second, podCgroup("uid-1", "c2")...)
	p.IPs = []netip.Addr{netip.MustParseAddr("10.244.1.8")}
	n.kube.put(p)
	n.wantSet("the second sandbox", key(p.WorkloadUID, inodeOfNS(t, second)))
	if !n.present(first) {
		t.Error("the first sandbox was released")
	}
}

// After DEL the processes of a pod may be there for a moment: that is no reason
// to capture it again.
func TestSandboxThatEndsIsNotFoundAgain(t *testing.T) {
	n := newNode(t).start().sync()
	ns := n.netns("a", "10.244.1.7")
	p := withAddress(pod("web", "uid-1"), "10.244.1.7")
	n.kube.put(p)
	n.process(ns, podCgroup("uid-1", "c1")...)
	n.must(n.plugin(ask.Add, p, "c1", ns, "10.244.1.7"))
	n.must(n.plugin(ask.Del, p, "c1", ns))
	n.wantSet("after DEL")
	n.wantMissing("web", "being torn down")
	n.wantSet("while its processes are there")
	// The runtime may change its mind.
	n.must(n.plugin(ask.Add, p, "c1", ns, "10.244.1.7"))
	n.wantSet("added again", key(p.WorkloadUID, inodeOfNS(t, ns)))
}

// proc is a proc(5) of somebody else's making, for what this machine has not.
type proc struct {
	t    *testing.T
	root string
}

func (p proc) add(pid int, ns *lab.Namespace, cgroup string, start int) {
	p.t.Helper()
	dir := filepath.Join(p.root, fmt.Sprint(pid))
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "ns"), 0o755),
		os.Symlink(ns.Path(), filepath.Join(dir, "ns", "net")),
		os.WriteFile(filepath.Join(dir, "cgroup"), []byte(cgroup), 0o644),
		os.WriteFile(filepath.Join(dir, "stat"), fmt.Appendf(nil, "%d (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 %d 20", pid, start), 0o644),
	} {
		if err != nil {
			p.t.Fatal(err)
		}
	}
}

// The number of a namespace that has ended is another's in time.
func TestQuarantineEnds(t *testing.T) {
	e := New(Config{})
	now := time.Now()
	e.ended[1], e.ended[2] = now, now.Add(-quarantine-time.Second)
	for inode, want := range map[uint64]bool{1: true, 2: false, 3: false} {
		if got := e.hasEnded(inode); got != want {
			t.Errorf("namespace %d is taken to be ending: %t, want %t", inode, got, want)
		}
	}
}

// Several nodes share a PID namespace, processes are half gone, cgroups are of
// any kind.
func TestScan(t *testing.T) {
	n := newNode(t)
	a, b, c, host := n.netns("a", ""), n.netns("b", ""), n.netns("c", ""), n.netns("host", "")
	p := proc{t, t.TempDir()}
	p.add(1, host, "0::/init.scope\n", 1)
	p.add(10, a, "0::/n1/kubepods.slice/kubepods-podu_1.slice/cri-1.scope\n", 200)
	p.add(11, a, "0::/n1/kubepods.slice/kubepods-podu_1.slice/cri-2.scope\n", 100)
	p.add(12, b, "0::/n1/kubepods.slice/kubepods-podu_1.slice/cri-2.scope\n", 300)
	p.add(20, c, "3:cpu:/n2/kubepods/podu-9/x\n", 50) // another node's
	p.add(30, host, "3:cpu:/kubepods/podu-2/x\n", 50)
	n.must(os.MkdirAll(filepath.Join(p.root, "40", "ns"), 0o755)) // half gone
	n.must(os.WriteFile(filepath.Join(p.root, "uptime"), []byte("1 2"), 0o644))
	p.add(50, b, "3:cpu:/kubepods/podu-3/x\n", 50)
	n.must(os.Remove(filepath.Join(p.root, "50", "stat"))) // gone by now

	s := &scanner{root: p.root}
	found, err := s.scan(map[string]bool{"u-1": true, "u-2": true, "u-3": true})
	n.must(err)
	want := []namespace{{inodeOfNS(t, a), 11, 100}, {inodeOfNS(t, b), 12, 300}}
	if got := found["u-1"]; got == nil || len(got.namespaces) != 2 || got.namespaces[0] != want[0] || got.namespaces[1] != want[1] {
		t.Errorf("u-1: %+v; want %+v", got, want)
	}
	if got := found["u-2"]; got != nil {
		t.Errorf("u-2: %+v; the node's own namespace is no pod's", got)
	}
	if got := found["u-3"]; got != nil && len(got.namespaces) != 0 {
		t.Errorf("u-3: %+v; want nothing of a process that is gone", got)
	}
	if found["u-9"] != nil {
		t.Error("another node's pod was found")
	}

	// The process ends between the scan and the opening.
	if f, err := s.open(want[0], "u-2"); err == nil {
		f.Close()
		t.Error("a process of another pod has its PID now, and was believed")
	}
	f, err := s.open(want[0], "u-1")
	n.must(err)
	f.Close()
	if _, err := (&scanner{root: filepath.Join(p.root, "none")}).scan(nil); err == nil {
		t.Error("no proc at all is no error")
	}
}

// A pod that may make cgroups names one after another pod, whose namespace it
// would have its own taken for. A node that is a pod itself has its pods inside.
func TestNestedCgroups(t *testing.T) {
	n := newNode(t)
	own, host := n.netns("a", ""), n.netns("host", "")
	p := proc{t, t.TempDir()}
	p.add(1, host, "0::/init.scope\n", 1)
	p.add(10, own, "0::/kubepods/podforger/c1/kubepods/podvictim/c2\n", 100)
	s := &scanner{root: p.root}
	for _, c := range []struct {
		why   string
		pods  map[string]bool
		found bool
	}{
		{"a cgroup inside of another pod's", map[string]bool{"victim": true, "forger": false}, false},
		{"both are looked for", map[string]bool{"victim": true, "forger": true}, false},
		{"the outer one is no pod of this node", map[string]bool{"victim": true}, true},
	} {
		found, err := s.scan(c.pods)
		n.must(err)
		if got := found["victim"] != nil; got != c.found {
			t.Errorf("%s: found is %t, want %t", c.why, got, c.found)
		}
	}
}

func TestPacer(t *testing.T) {
	lost := func(uids ...string) map[string]struct{} {
		m := make(map[string]struct{})
		for _, uid := range uids {
			m[uid] = struct{}{}
		}
		return m
	}
	now := time.Unix(1000, 0)
	var p pacer
	if wait := p.due(now, lost("a")); wait != 0 {
		t.Errorf("the first scan waits %v", wait)
	}
	for _, want := range []time.Duration{100, 200, 400, 800, 1600, 3200, 5000, 5000} {
		p.done(now, lost("a"))
		if wait := p.due(now, lost("a")); wait != want*time.Millisecond {
			t.Errorf("after a scan in vain the next waits %v, want %d ms", wait, want)
		}
	}
	if wait := p.due(now, lost("a", "b")); wait != firstGap {
		t.Errorf("the scan for another pod waits %v, want %v", wait, firstGap)
	}
	if wait := p.due(now.Add(time.Second), lost("a", "b")); wait != 0 {
		t.Errorf("a second later it waits %v", wait)
	}
}

// What a look costs that finds everything as it was, and one through /proc.
func BenchmarkScan(b *testing.B) {
	s := &scanner{root: "/proc"}
	uids := map[string]bool{"no pod's": true}
	for b.Loop() {
		if _, err := s.scan(uids); err != nil {
			b.Fatal(err)
		}
	}
	procs, _ := filepath.Glob("/proc/[0-9]*")
	b.ReportMetric(float64(len(procs)), "processes")
}
