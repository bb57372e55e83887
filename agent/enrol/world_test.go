package enrol

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/adit-mesh/adit/agent/enrol/ask"
	"github.com/adit-mesh/adit/agent/kube"
	"github.com/adit-mesh/adit/capture"
	"github.com/adit-mesh/adit/e2e/lab"
	"github.com/adit-mesh/adit/e2e/lab/labtest"
)

// patience is how long a test waits for what must happen, impatience for what
// must not.
const (
	patience   = 10 * time.Second
	impatience = 400 * time.Millisecond
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == strangerName {
		os.Exit(stranger())
	}
	// A fuzzer starts itself again by its name, which is not its own in a lab;
	// and it needs none.
	if slices.ContainsFunc(os.Args, func(arg string) bool { return strings.HasPrefix(arg, "-test.fuzz=") }) {
		os.Exit(m.Run())
	}
	os.Exit(labtest.Main(m))
}

// cluster is what Kubernetes says: an API server, and the informer that follows
// it when it is told to.
type cluster struct {
	synced chan struct{}

	mu      sync.Mutex // guards the fields below
	pods    map[string]kube.LocalPod
	listed  []kube.LocalPod
	away    error // what the API server answers instead
	changed chan struct{}
}

func newCluster() *cluster {
	return &cluster{synced: make(chan struct{}), pods: make(map[string]kube.LocalPod), changed: make(chan struct{}, 1)}
}

func (c *cluster) Synced() <-chan struct{} { return c.synced }

func (c *cluster) Local() []kube.LocalPod {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.listed
}

func (c *cluster) SubscribeLocal() (<-chan struct{}, func()) { return c.changed, func() {} }

func (c *cluster) Lookup(_ context.Context, ref kube.PodRef) (kube.LocalPod, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away != nil {
		return kube.LocalPod{}, c.away
	}
	for _, p := range c.pods {
		if p.Namespace == ref.Namespace && p.Name == ref.Name {
			return p, nil
		}
	}
	return kube.LocalPod{}, errors.New("not found")
}

func (c *cluster) SetAddresses(ref kube.PodRef, addrs []netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.pods[ref.UID]; ok && len(p.IPs) == 0 {
		p.IPs = addrs
		c.pods[ref.UID] = p
	}
}

// api changes what the API server has, without the informer.
func (c *cluster) api(f func(pods map[string]kube.LocalPod)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(c.pods)
}

// list lets the informer catch up.
func (c *cluster) list() {
	c.mu.Lock()
	c.listed = nil
	for _, p := range c.pods {
		c.listed = append(c.listed, p)
	}
	slices.SortFunc(c.listed, func(a, b kube.LocalPod) int { return strings.Compare(a.UID, b.UID) })
	c.mu.Unlock()
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

func (c *cluster) put(p kube.LocalPod) {
	c.api(func(pods map[string]kube.LocalPod) { pods[p.UID] = p })
	c.list()
}

func (c *cluster) remove(uid string) {
	c.api(func(pods map[string]kube.LocalPod) { delete(pods, uid) })
	c.list()
}

// enroller captures pods in earnest, one attempt for each change.
type enroller struct {
	t    testing.TB
	wake chan struct{}
	done chan struct{}
	stop context.CancelFunc

	mu       sync.Mutex // guards the fields below
	want     []Pod
	captured map[string]*capture.Pod // by key
	gone     map[string]bool         // as long as they are wanted
	told     map[string]bool         // what Gone was ever called for
	freed    []string                // pods of Release
	noCert   bool
	failures []error
	changed  chan struct{}
}

func key(uid string, inode uint64) string { return fmt.Sprintf("%s@%d", uid, inode) }

func newEnroller(t testing.TB) *enroller {
	ctx, stop := context.WithCancel(context.Background())
	e := &enroller{
		t: t, wake: make(chan struct{}, 1), done: make(chan struct{}), stop: stop,
		captured: make(map[string]*capture.Pod), gone: make(map[string]bool), told: make(map[string]bool), changed: make(chan struct{}),
	}
	go e.run(ctx)
	t.Cleanup(e.close)
	return e
}

// close leaves the rules, as an agent that ends.
func (e *enroller) close() {
	e.stop()
	<-e.done
	e.mu.Lock()
	defer e.mu.Unlock()
	for k, p := range e.captured {
		_ = p.Detach()
		delete(e.captured, k)
	}
}

func (e *enroller) Set(pods []Pod) {
	e.mu.Lock()
	e.want = pods
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

func (e *enroller) run(ctx context.Context) {
	defer close(e.done)
	for {
		select {
		case <-e.wake:
			e.reconcile(ctx)
		case <-ctx.Done():
			return
		}
	}
}

func (e *enroller) reconcile(ctx context.Context) {
	e.mu.Lock()
	defer e.mu.Unlock()
	wanted := make(map[string]bool)
	for _, p := range e.want {
		k := key(p.UID, p.Inode)
		wanted[k] = true
		if e.captured[k] == nil && !e.gone[k] {
			if err := e.capture(ctx, k, p); err != nil {
				e.failures = append(e.failures, err)
			}
		}
	}
	maps.DeleteFunc(e.gone, func(k string, _ bool) bool { return !wanted[k] })
	for k, p := range e.captured {
		if !wanted[k] {
			_ = p.Remove()
			delete(e.captured, k)
		}
	}
	close(e.changed)
	e.changed = make(chan struct{})
}

func (e *enroller) capture(ctx context.Context, k string, p Pod) error {
	netns, err := p.Open()
	if err != nil {
		return err
	}
	if netns.Inode() != p.Inode {
		e.t.Errorf("Open gives namespace %d, Inode says %d", netns.Inode(), p.Inode)
	}
	captured, err := capture.Enrol(ctx, capture.PodConfig{Netns: netns, Rules: p.Rules})
	if err != nil {
		netns.Close()
		return err
	}
	if p.Release {
		e.freed = append(e.freed, p.UID)
		e.gone[k] = true
		return captured.Remove()
	}
	e.captured[k] = captured
	return nil
}

func (e *enroller) Wait(ctx context.Context, uid string, inode uint64) error {
	for {
		e.mu.Lock()
		ok := e.captured[key(uid, inode)] != nil && !e.noCert
		changed := e.changed
		e.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errors.New("no certificate: the CA is away")
		}
	}
}

func (e *enroller) Gone(_ context.Context, uid string, inode uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	k := key(uid, inode)
	e.gone[k], e.told[k] = true, true
	if p := e.captured[k]; p != nil {
		_ = p.Detach()
		delete(e.captured, k)
	}
}

func (e *enroller) certify(yes bool) {
	e.mu.Lock()
	e.noCert = !yes
	close(e.changed)
	e.changed = make(chan struct{})
	e.mu.Unlock()
}

// set is what the Enroller was last told, as text: uid@inode.
func (e *enroller) set() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []string
	for _, p := range e.want {
		list = append(list, key(p.UID, p.Inode))
	}
	return list
}

// pods is what the Enroller was last told.
func (e *enroller) pods() []Pod {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.want
}

func (e *enroller) wasGone(uid string, inode uint64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.told[key(uid, inode)]
}

// node is a node with its agent:
//
//	plugin ─ socket ─ Enrol ─ enroller
//	                    └── /proc, cgroups, network namespaces of the lab
type node struct {
	testing.TB
	lab      *lab.Lab
	kube     *cluster
	enroller *enroller
	cfg      Config
	agent    *Enrol
	log      *logBuffer
	stop     func()
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newNode returns a node whose agent does not run yet.
func newNode(t testing.TB) *node {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
	n := &node{TB: t, lab: labtest.New(t), kube: newCluster(), log: new(logBuffer)}
	n.enroller = newEnroller(t)
	n.cfg = Config{
		Kube: n.kube, Enroller: n.enroller, Socket: filepath.Join(t.TempDir(), "adit", "cni.sock"),
		ExcludeNamespaces: []string{"kube-system"}, Logger: slog.New(slog.NewTextHandler(n.log, nil)),
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%s", n.log)
		}
	})
	return n
}

// start runs the agent until the test ends or calls stop.
func (n *node) start() *node {
	n.Helper()
	n.agent = New(n.cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	agent := n.agent
	go func() { done <- agent.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			n.Errorf("Run: %v", err)
		}
	})
	n.Cleanup(n.stop)
	n.eventually("the agent answers", func() bool {
		return ask.Agent(context.Background(), n.cfg.Socket, 0, ask.Request{Command: ask.Status}, nil) == nil
	})
	return n
}

// sync says that the informer has everything.
func (n *node) sync() *node {
	n.kube.list()
	close(n.kube.synced)
	return n
}

func (n *node) must(err error) {
	n.Helper()
	if err != nil {
		n.Fatal(err)
	}
}

func (n *node) eventually(why string, ok func() bool) {
	n.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	n.Fatalf("%s: not within %s", why, patience)
}

// netns makes a network namespace with an address, as the plugins before ours.
func (n *node) netns(name, addr string) *lab.Namespace {
	n.Helper()
	ns, err := n.lab.Namespace(name)
	n.must(err)
	peer, err := n.lab.Namespace(name + "-node")
	n.must(err)
	n.must(n.lab.Veth(ns, "eth0", peer, "veth0"))
	if addr != "" {
		n.must(ns.AddAddr("eth0", netip.MustParsePrefix(addr+"/24")))
	}
	return ns
}

func inodeOfNS(t testing.TB, ns *lab.Namespace) uint64 {
	t.Helper()
	inode, err := inodeOf(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	return inode
}

func pod(name, uid string) kube.LocalPod {
	return kube.LocalPod{
		PodRef:      kube.PodRef{Namespace: "default", Name: name, UID: uid},
		WorkloadUID: "Kubernetes//Pod/default/" + name,
		Enrol:       true, Reason: "label of its namespace",
	}
}

// plugin is what adit-cni sends for a pod.
func (n *node) plugin(command ask.Command, p kube.LocalPod, container string, ns *lab.Namespace, addrs ...string) error {
	n.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return n.pluginContext(ctx, command, p, container, ns, addrs...)
}

func (n *node) pluginContext(ctx context.Context, command ask.Command, p kube.LocalPod, container string, ns *lab.Namespace, addrs ...string) error {
	r := ask.Request{Command: command, Namespace: p.Namespace, Name: p.Name, UID: p.UID, ContainerID: container}
	for _, a := range addrs {
		r.Addresses = append(r.Addresses, netip.MustParseAddr(a))
	}
	var f *os.File
	if ns != nil {
		var err error
		if f, err = os.Open(ns.Path()); err != nil {
			return err
		}
		defer f.Close()
		r.Netns = ns.Path()
	}
	return ask.Agent(ctx, n.cfg.Socket, patience, r, f)
}

// present says whether the rules of an agent are in a namespace.
func (n *node) present(ns *lab.Namespace) bool {
	n.Helper()
	h, err := capture.OpenNetns(ns.Path())
	n.must(err)
	defer h.Close()
	there, err := capture.Present(h)
	n.must(err)
	return there
}

// cgroupRoot is a hierarchy in which processes can be put by pod.
func cgroupRoot(t testing.TB) string {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		dir, err := os.MkdirTemp(root, "adit-enrol-test-")
		if err != nil {
			continue
		}
		t.Cleanup(func() { removeCgroup(t, dir) })
		return dir
	}
	if strings.EqualFold(os.Getenv("CI"), "true") {
		t.Fatal("cgroups are required when CI=true, and none can be made")
	}
	t.Skip("no cgroup can be made; run the tests as root")
	return ""
}

// removeCgroup waits until the kernel has forgotten what was in it.
func removeCgroup(t testing.TB, dir string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%v", err)
			return
		}
	}
}

// process runs one in a network namespace and in the cgroup of a pod.
func (n *node) process(ns *lab.Namespace, cgroup ...string) *lab.Process {
	n.Helper()
	root := cgroupRoot(n)
	p, err := ns.Start(exec.Command("sleep", "1000"))
	n.must(err)
	dir := root
	for _, segment := range cgroup {
		below := filepath.Join(dir, segment)
		n.must(os.Mkdir(below, 0o755))
		n.Cleanup(func() { removeCgroup(n, below) })
		dir = below
	}
	n.must(os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(p.Cmd.Process.Pid)), 0))
	n.Cleanup(func() {
		p.Kill()
		<-p.Done()
	})
	return p
}

// strangerName is argv[0] of a test binary that asks the agent as somebody else
// than root.
const strangerName = "adit-enrol-stranger"

func stranger() int {
	c, err := net.Dial("unixpacket", os.Args[1])
	if err != nil {
		fmt.Println("dial:", err)
		return 1
	}
	defer c.Close()
	_, _ = c.Write([]byte(`{"command": "STATUS"}`))
	answer := make([]byte, 1000)
	n, _ := c.Read(answer) // end, or reset
	fmt.Printf("answer %q\n", answer[:n])
	return 0
}

func runStranger(t testing.TB, socket string) string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", socket)
	cmd.Args[0] = strangerName
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("stranger: %v: %s", err, out)
	}
	return string(out)
}
