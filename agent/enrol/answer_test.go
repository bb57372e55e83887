package enrol

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/adit-mesh/adit/agent/enrol/ask"
	"github.com/adit-mesh/adit/agent/kube"
)

func (n *node) wantSet(why string, want ...string) {
	n.Helper()
	var got []string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if got = n.enroller.set(); slices.Equal(got, want) {
			return
		}
	}
	n.Fatalf("%s: the set is %q; want %q", why, got, want)
}

func wantRefusal(t testing.TB, why string, err error, want string) {
	t.Helper()
	refused := new(ask.RefusedError)
	if !errors.As(err, &refused) || !strings.Contains(refused.Reason, want) {
		t.Errorf("%s: the plugin hears %v; want a refusal with %q", why, err, want)
	}
}

func TestPodStartsCaptured(t *testing.T) {
	n := newNode(t).start().sync()
	ns := n.netns("a", "10.244.1.7")
	p := pod("web", "uid-1")
	p.ProbePorts = []uint16{8080}
	n.kube.put(p)
	if err := n.plugin(ask.Add, p, "c1", ns, "10.244.1.7"); err != nil {
		t.Fatal(err)
	}
	if !n.present(ns) {
		t.Error("the pod may start and there are no rules")
	}
	n.wantSet("after ADD", key(p.WorkloadUID, inodeOfNS(t, ns)))
	if rules := n.enroller.pods()[0].Rules; len(rules.ProbePorts) != 1 || rules.ProbePorts[0].First != 8080 {
		t.Errorf("the rules are %+v; want the probe's port in them", rules)
	}
	n.must(n.plugin(ask.Check, p, "c1", ns))
	if list := n.agent.Status(); len(list) != 0 {
		t.Errorf("status names %+v", list)
	}

	// The runtime may add it twice.
	n.must(n.plugin(ask.Add, p, "c1", ns, "10.244.1.7"))
	n.wantSet("after the second ADD", key(p.WorkloadUID, inodeOfNS(t, ns)))
	if n.enroller.wasGone(p.WorkloadUID, inodeOfNS(t, ns)) {
		t.Error("the second ADD ended the first")
	}

	n.must(n.plugin(ask.Del, p, "c1", ns))
	if !n.enroller.wasGone(p.WorkloadUID, inodeOfNS(t, ns)) {
		t.Error("peers were not told that the pod ends")
	}
	n.wantSet("after DEL")
	n.must(n.plugin(ask.Del, p, "c1", ns))
	if lines := strings.Count(n.log.String(), "pod starts captured"); lines != 2 {
		t.Errorf("the log has %d lines about 2 enrolments:\n%s", lines, n.log)
	}
}

func TestPodThatIsNotToBeCapturedStartsAtOnce(t *testing.T) {
	n := newNode(t).start() // the informer has nothing
	ns := n.netns("a", "10.244.1.7")
	p := pod("web", "uid-1")
	p.Enrol, p.Reason = false, "no label"
	n.kube.api(func(pods map[string]kube.LocalPod) { pods[p.UID] = p })
	n.must(n.plugin(ask.Add, p, "c1", ns, "10.244.1.7"))
	n.must(n.plugin(ask.Check, p, "c1", ns))
	n.wantSet("nothing is to be captured")
	if n.present(ns) {
		t.Error("there are rules")
	}

	// Nor does one of an excluded namespace, which nobody is asked about.
	n.kube.api(func(map[string]kube.LocalPod) { n.kube.away = errors.New("no route to host") })
	dns := pod("coredns", "uid-2")
	dns.Namespace = "kube-system"
	n.must(n.plugin(ask.Add, dns, "c2", ns, "10.244.1.7"))
}

func TestPodThatNobodyKnowsDoesNotStart(t *testing.T) {
	n := newNode(t).start().sync()
	ns := n.netns("a", "10.244.1.7")
	p := pod("web", "uid-1")
	wantRefusal(t, "unknown pod", n.plugin(ask.Add, p, "c1", ns, "10.244.1.7"), "not known whether pod default/web is to be captured: not found")
	n.kube.api(func(map[string]kube.LocalPod) { n.kube.away = errors.New("no route to host") })
	wantRefusal(t, "API server away", n.plugin(ask.Add, p, "c1", ns, "10.244.1.7"), "no route to host")
	n.kube.api(func(pods map[string]kube.LocalPod) { n.kube.away = nil; pods["uid-2"] = pod("web", "uid-2") })
	wantRefusal(t, "another pod of the name", n.plugin(ask.Add, p, "c1", ns, "10.244.1.7"), "has been deleted")
	n.wantSet("none may start")
}

func TestSandboxThatMakesNoSense(t *testing.T) {
	n := newNode(t).start().sync()
	ns := n.netns("a", "10.244.1.7")
	p := pod("web", "uid-1")
	n.kube.put(p)
	wantRefusal(t, "no namespace", n.plugin(ask.Add, p, "c1", nil, "10.244.1.7"), "no network namespace")
	wantRefusal(t, "no address", n.plugin(ask.Add, p, "c1", ns), "has no address")
	wantRefusal(t, "another's address", n.plugin(ask.Add, p, "c1", ns, "10.244.1.8"), "it has 10.244.1.7, the pod 10.244.1.8")
	wantRefusal(t, "check", n.plugin(ask.Check, p, "c1", ns), "not captured")

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	own, err := os.Open("/proc/thread-self/ns/net")
	n.must(err)
	defer own.Close()
	file, err := os.Open(os.DevNull)
	n.must(err)
	defer file.Close()
	r := ask.Request{Command: ask.Add, Namespace: p.Namespace, Name: p.Name, UID: p.UID}
	wantRefusal(t, "the node's namespace", ask.Agent(ctx, n.cfg.Socket, 0, r, own), "namespace of the node")
	wantRefusal(t, "some file", ask.Agent(ctx, n.cfg.Socket, 0, r, file), "not a network namespace")
	n.wantSet("none may start")
}

// A pod that cannot be captured in time does not start, and the reason gets to
// the runtime. It stays as captured as it is.
func TestPodWithoutCertificateDoesNotStart(t *testing.T) {
	n := newNode(t)
	n.cfg.AddTimeout = 300 * time.Millisecond
	n.start().sync()
	n.enroller.certify(false)
	ns := n.netns("a", "10.244.1.7")
	p := pod("web", "uid-1")
	n.kube.put(p)
	wantRefusal(t, "no certificate", n.plugin(ask.Add, p, "c1", ns, "10.244.1.7"), "the CA is away")
	if !n.present(ns) {
		t.Error("there are no rules")
	}
	n.wantSet("it stays", key(p.WorkloadUID, inodeOfNS(t, ns)))
	n.enroller.certify(true)
	n.must(n.plugin(ask.Add, p, "c1", ns, "10.244.1.7"))
}

// waiting starts an ADD that waits for a certificate.
func (n *node) waiting(p kube.LocalPod, addr string) (inode uint64, answer <-chan error, give func()) {
	n.Helper()
	n.enroller.certify(false)
	ns := n.netns("w", addr)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	c := make(chan error, 1)
	go func() { c <- n.pluginContext(ctx, ask.Add, p, "c1", ns, addr) }()
	n.wantSet("while ADD waits", key(p.WorkloadUID, inodeOfNS(n, ns)))
	n.Cleanup(cancel)
	return inodeOfNS(n, ns), c, cancel
}

func TestPodDeletedWhileItWaits(t *testing.T) {
	n := newNode(t).start().sync()
	p := pod("web", "uid-1")
	n.kube.put(p)
	inode, answer, _ := n.waiting(p, "10.244.1.7")
	n.kube.remove(p.UID)
	wantRefusal(t, "deleted", <-answer, "deleted meanwhile")
	// Its sandbox is there until the runtime says otherwise.
	n.wantSet("after the deletion", key(p.WorkloadUID, inode))
	n.must(n.plugin(ask.Del, p, "c1", nil))
	n.wantSet("after DEL")
	if !n.enroller.wasGone(p.WorkloadUID, inode) {
		t.Error("its capture did not end as that of a pod that ends")
	}
}

func TestSandboxTornDownWhileItWaits(t *testing.T) {
	n := newNode(t).start().sync()
	p := pod("web", "uid-1")
	n.kube.put(p)
	_, answer, _ := n.waiting(p, "10.244.1.7")
	n.must(n.plugin(ask.Del, p, "c1", nil))
	wantRefusal(t, "torn down", <-answer, "ended meanwhile")
}

func TestLabelRemovedWhileItWaits(t *testing.T) {
	n := newNode(t).start().sync()
	p := pod("web", "uid-1")
	n.kube.put(p)
	_, answer, _ := n.waiting(p, "10.244.1.7")
	p.Enrol = false
	n.kube.put(p)
	if err := <-answer; err != nil {
		t.Errorf("a pod that is not to be captured any more waits: %v", err)
	}
	n.wantSet("after the label is gone")
}

// A plugin that is killed leaves the pod as captured as it is, and nothing of
// the agent's waits for it.
func TestPluginKilledWhileItWaits(t *testing.T) {
	n := newNode(t).start().sync()
	p := pod("web", "uid-1")
	n.kube.put(p)
	inode, answer, kill := n.waiting(p, "10.244.1.7")
	kill()
	if err := <-answer; err == nil {
		t.Error("a plugin that gave up was told that the pod may start")
	}
	n.eventually("the agent gives up", func() bool { return strings.Contains(n.log.String(), "does not wait any longer") })
	n.wantSet("afterwards", key(p.WorkloadUID, inode))
}

// The next agent answers a plugin that has asked the one before it.
func TestAgentRestartsWhilePodWaits(t *testing.T) {
	n := newNode(t).start().sync()
	p := pod("web", "uid-1")
	n.kube.put(p)
	inode, answer, _ := n.waiting(p, "10.244.1.7")
	n.stop()
	n.enroller.close()
	select {
	case err := <-answer:
		t.Fatalf("an agent that ends answered %v", err)
	case <-time.After(impatience):
	}
	n.enroller = newEnroller(t)
	n.cfg.Enroller = n.enroller
	n.start()
	if err := <-answer; err != nil {
		t.Error(err)
	}
	n.wantSet("with the next agent", key(p.WorkloadUID, inode))
}

// The informer is behind: what Lookup knew counts until it has caught up, and
// the pod is not let go because it is not listed.
func TestPodThatIsNotListedYet(t *testing.T) {
	n := newNode(t)
	n.cfg.Interval = 50 * time.Millisecond
	n.start().sync()
	ns := n.netns("a", "10.244.1.7")
	p := pod("web", "uid-1")
	n.kube.api(func(pods map[string]kube.LocalPod) { pods[p.UID] = p })
	n.must(n.plugin(ask.Add, p, "c1", ns, "10.244.1.7"))
	want := key(p.WorkloadUID, inodeOfNS(t, ns))
	n.wantSet("not listed", want)
	time.Sleep(impatience) // it would be let go by now
	n.wantSet("still not listed", want)
	n.kube.list()
	p.Enrol = false
	n.kube.put(p)
	n.wantSet("listed, and not to be captured")
}

func TestSandboxIsReplaced(t *testing.T) {
	n := newNode(t).start().sync()
	first, second := n.netns("a", "10.244.1.7"), n.netns("b", "10.244.1.7")
	p := pod("web", "uid-1")
	n.kube.put(p)
	n.must(n.plugin(ask.Add, p, "c1", first, "10.244.1.7"))
	n.must(n.plugin(ask.Add, p, "c2", second, "10.244.1.7"))
	want := key(p.WorkloadUID, inodeOfNS(t, second))
	n.wantSet("the new sandbox", want)
	if !n.enroller.wasGone(p.WorkloadUID, inodeOfNS(t, first)) {
		t.Error("the old sandbox was released: what runs there is not captured any more")
	}
	if !n.present(first) || !n.present(second) {
		t.Error("one of the sandboxes has no rules")
	}
	// The runtime takes its time with the old one.
	n.must(n.plugin(ask.Del, p, "c1", first))
	n.must(n.plugin(ask.Del, p, "c1", nil))
	n.wantSet("DEL of the old sandbox", want)
	n.must(n.plugin(ask.Del, p, "c2", nil))
	n.wantSet("DEL of the new sandbox")
}

// A pod deleted by force still runs when the next of its name starts.
func TestNextPodOfTheName(t *testing.T) {
	n := newNode(t).start().sync()
	first, second := n.netns("a", "10.244.1.7"), n.netns("b", "10.244.1.8")
	p, q := pod("web-0", "uid-1"), pod("web-0", "uid-2")
	n.kube.put(p)
	n.must(n.plugin(ask.Add, p, "c1", first, "10.244.1.7"))
	n.kube.remove(p.UID)
	n.kube.put(q)
	n.must(n.plugin(ask.Add, q, "c2", second, "10.244.1.8"))
	n.wantSet("the next pod", key(q.WorkloadUID, inodeOfNS(t, second)))
	if !n.present(first) {
		t.Error("the pod before it was released while it runs")
	}
	n.must(n.plugin(ask.Del, p, "c1", first))
	n.wantSet("after DEL of the pod before it", key(q.WorkloadUID, inodeOfNS(t, second)))
}

// Two pods have one address, one after the other.
func TestAddressMovesOn(t *testing.T) {
	n := newNode(t).start().sync()
	first, second := n.netns("a", "10.244.1.7"), n.netns("b", "10.244.1.7")
	p, q := pod("one", "uid-1"), pod("two", "uid-2")
	n.kube.put(p)
	n.kube.put(q)
	n.must(n.plugin(ask.Add, p, "c1", first, "10.244.1.7"))
	n.must(n.plugin(ask.Add, q, "c2", second, "10.244.1.7"))
	n.must(n.plugin(ask.Del, p, "c1", first))
	n.wantSet("the second owner", key(q.WorkloadUID, inodeOfNS(t, second)))
	if n.enroller.wasGone(q.WorkloadUID, inodeOfNS(t, second)) {
		t.Error("the end of the first owner ended the second")
	}
}

func TestManyPluginsAtATime(t *testing.T) {
	n := newNode(t).start().sync()
	p := pod("web", "uid-1")
	p.Enrol = false
	n.kube.put(p)
	const many = 2 * maxRequests
	answers := make(chan error, many)
	for range many {
		go func() { answers <- n.plugin(ask.Add, p, "c", nil, "10.244.1.7") }()
	}
	for range many {
		if err := <-answers; err != nil {
			t.Fatal(err)
		}
	}
}

// What connects and says nothing, or nonsense, costs nobody an answer.
func TestPluginsThatMakeNoSense(t *testing.T) {
	n := newNode(t).start().sync()
	for _, message := range []string{"", "nonsense", `{"command": "ADD"}`} {
		c, err := net.Dial("unixpacket", n.cfg.Socket)
		n.must(err)
		defer c.Close()
		if message == "" {
			continue
		}
		_, err = c.Write([]byte(message))
		n.must(err)
		n.must(c.SetReadDeadline(time.Now().Add(patience)))
		answer := make([]byte, 1000)
		if l, err := c.Read(answer); err != nil || !strings.Contains(string(answer[:l]), `"ok":false`) {
			t.Errorf("%q is answered %q, %v", message, answer[:l], err)
		}
	}
	n.must(ask.Agent(t.Context(), n.cfg.Socket, 0, ask.Request{Command: ask.Status}, nil))
}

// An agent with the name of another node finds no pod its own. None may start for
// that.
func TestPodOfAnotherNodeDoesNotStart(t *testing.T) {
	n := newNode(t).start().sync()
	ns := n.netns("a", "10.244.1.7")
	p := pod("web", "uid-1")
	p.WorkloadUID, p.Enrol, p.Reason = "", false, `it is a pod of node "n2", and this is "n1"`
	n.kube.api(func(pods map[string]kube.LocalPod) { pods[p.UID] = p })
	wantRefusal(t, "another node's pod", n.plugin(ask.Add, p, "c1", ns, "10.244.1.7"), "--node-name")
}

// Should two pods claim one UID, that none is captured takes both to say.
func TestTwoPodsOfOneUID(t *testing.T) {
	n := newNode(t).start().sync()
	ns := n.netns("a", "10.244.1.7")
	p, forged := pod("web", "uid-1"), pod("forged", "uid-1")
	forged.Enrol = false
	n.kube.put(p)
	n.must(n.plugin(ask.Add, p, "c1", ns, "10.244.1.7"))
	for _, order := range [][]kube.LocalPod{{p, forged}, {forged, p}} {
		n.kube.mu.Lock()
		n.kube.listed = order
		n.kube.mu.Unlock()
		n.agent.change(func() []*sandbox { return nil })
		n.wantSet("two of one UID", key(p.WorkloadUID, inodeOfNS(t, ns)))
	}
}

// What it takes from the plugin's question to its answer: looking into the
// namespace, listeners, routes and rules there.
func BenchmarkAdd(b *testing.B) {
	n := newNode(b).start().sync()
	ns := n.netns("a", "10.244.1.7")
	p := pod("web", "uid-1")
	n.kube.put(p)
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		if err := n.plugin(ask.Add, p, "c1", ns, "10.244.1.7"); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
		b.StopTimer()
		p.Enrol = false
		n.kube.put(p)
		n.eventually("released", func() bool { return !n.present(ns) })
		p.Enrol = true
		n.kube.put(p)
		b.StartTimer()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
