package cluster_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/adit-mesh/adit/e2e/cluster"
	"github.com/adit-mesh/adit/e2e/testbed"
)

// patience is for what takes a second or two on an idle machine.
const patience = time.Minute

// config names a cluster of these tests' own. Without ADIT_CLUSTER=1 they skip.
func config(t *testing.T) cluster.Config {
	t.Helper()
	if os.Getenv("ADIT_CLUSTER") != "1" {
		t.Skip("needs root and `make setup-cluster`; run `make test-cluster`")
	}
	return cluster.Config{Name: "adit-t", Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

func wantNoTraces(t *testing.T, cfg cluster.Config) {
	t.Helper()
	left, err := cluster.Traces(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, trace := range left {
		t.Errorf("left on the machine: %s", trace)
	}
}

// host is what a cluster must not change, whatever else goes on on the machine.
func host(t *testing.T) map[string]string {
	t.Helper()
	state := map[string]string{}
	for _, command := range []string{"ip -o link", "ip -4 rule", "ip -4 route", "ip -6 route", "nft list ruleset", "find /usr/libexec/kubernetes /etc/cni /opt/cni /run/containerd"} {
		args := strings.Fields(command)
		out, _ := exec.CommandContext(t.Context(), args[0], args[1:]...).Output()
		state[command] = string(out)
	}
	for _, key := range []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/hostname", "net/netfilter/nf_conntrack_max"} {
		b, _ := os.ReadFile("/proc/sys/" + key)
		state[key] = string(b)
	}
	return state
}

const workload = `
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: server}}
spec:
  nodeName: n2
  terminationGracePeriodSeconds: 1
  initContainers:
  - {name: first, image: "registry.local/adit-testapp:dev", args: [sleep, 10ms]}
  containers:
  - name: app
    image: registry.local/adit-testapp:dev
    args: [serve]
    startupProbe: {httpGet: {port: 8080, path: /healthz}, periodSeconds: 1}
    readinessProbe: {grpc: {port: 9090}, periodSeconds: 1}
    livenessProbe: {exec: {command: [/testapp, probe]}, periodSeconds: 5}
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  selector: {app: server}
  ports:
  - {name: tcp, port: 9000}
  - {name: http, port: 80, targetPort: 8080}
  - {name: udp, port: 9001, protocol: UDP}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  nodeName: n1
  terminationGracePeriodSeconds: 1
  containers:
  - {name: app, image: "registry.local/adit-testapp:dev", args: [stream, "server:9000"]}
`

// One cluster for all of them, in this order: the later ones are rougher.
func TestCluster(t *testing.T) {
	cfg := config(t)
	before := host(t)
	c, err := cluster.Up(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Down(); err != nil {
			t.Errorf("take the cluster down: %v", err)
		}
		wantNoTraces(t, cfg)
	})
	l := &lab{Cluster: c}
	l.start(t)
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"pods talk through services", l.services},
		{"from outside by way of the load balancer", l.balancer},
		{"logs, exec and port-forward", l.kubelet},
		{"a second process attaches", l.attach},
		{"nodes have file systems of their own", l.files},
		{"API server away and back", l.apiServer},
		{"node daemons restart under pods", l.daemons},
		{"a node reboots", l.reboot},
	} {
		if !t.Run(part.name, part.run) {
			l.explain(t)
		}
	}
	if err := c.Down(); err != nil {
		t.Fatal(err)
	}
	for key, was := range before {
		if is := host(t)[key]; is != was {
			t.Errorf("the host changed: %s was\n%s\nand is\n%s", key, was, is)
		}
	}
}

type lab struct {
	*cluster.Cluster
	server string // address of the server pod; it is needed while the API is away
}

func (l *lab) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := l.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (l *lab) start(t *testing.T) {
	t.Helper()
	// The controller that makes it is as young as the cluster.
	eventually(t, func() error {
		_, err := l.Kubectl(t.Context(), "get", "serviceaccount", "default")
		return err
	})
	if err := l.Apply(t.Context(), workload); err != nil {
		t.Fatal(err)
	}
	l.kubectl(t, "wait", "--for=condition=Ready", "pod/server", "pod/client", "--timeout=60s")
	l.findServer(t)
}

func (l *lab) findServer(t *testing.T) {
	t.Helper()
	l.server = l.kubectl(t, "get", "pod", "server", "-o", "jsonpath={.status.podIP}")
}

func (l *lab) explain(t *testing.T) {
	for _, args := range []string{"get nodes,pods,services -A -o wide", "get events"} {
		out, err := l.Kubectl(context.WithoutCancel(t.Context()), strings.Fields(args)...)
		t.Logf("kubectl %s: %v\n%s", args, err, out)
	}
}

func eventually(t *testing.T, f func() error) {
	t.Helper()
	if err := testbed.Poll(t.Context(), patience, f); err != nil {
		t.Fatal(err)
	}
}

// count is the part of testapp's total that is looked at here.
type count struct {
	OK, Failed int
	Peers      map[string]int
	Last       string
}

// try runs testapp's client in the client pod.
func (l *lab) try(t *testing.T, target string, flags ...string) count {
	t.Helper()
	args := append([]string{"exec", "client", "--", "/testapp", "client", target, "-count", "2", "-every", "1ms"}, flags...)
	var n count
	if err := json.Unmarshal([]byte(l.kubectl(t, args...)), &n); err != nil {
		t.Fatal(err)
	}
	if n.OK != 2 {
		t.Errorf("client %s: %+v", target, n)
	}
	return n
}

// addresses are those of the Service and of its load balancer, of either family, as in a URL.
func (l *lab) addresses(t *testing.T) (cluster, external []string) {
	t.Helper()
	var svc *corev1.Service
	eventually(t, func() (err error) {
		svc, err = l.Client().CoreV1().Services("default").Get(t.Context(), "server", metav1.GetOptions{})
		if err == nil && len(svc.Status.LoadBalancer.Ingress) < 2 {
			err = fmt.Errorf("the balancer has given %v; want an address of each family", svc.Status.LoadBalancer.Ingress)
		}
		return err
	})
	literal := func(ip string) string {
		if strings.Contains(ip, ":") {
			return "[" + ip + "]"
		}
		return ip
	}
	for _, ip := range svc.Spec.ClusterIPs {
		cluster = append(cluster, literal(ip))
	}
	for _, in := range svc.Status.LoadBalancer.Ingress {
		external = append(external, literal(in.IP))
	}
	return cluster, external
}

func (l *lab) services(t *testing.T) {
	for _, name := range []string{"server", "server.default", "server.default.svc", "server.default.svc.cluster.local."} {
		l.try(t, name+":9000")
	}
	l.try(t, "http://server/")
	l.try(t, "server:9001", "-udp")
	ips, _ := l.addresses(t)
	if len(ips) != 2 {
		t.Fatalf("cluster addresses %v; want one of each family", ips)
	}
	for _, ip := range ips {
		for peer := range l.try(t, ip+":9000").Peers {
			if !strings.HasPrefix(peer, "10.244.1.") && !strings.HasPrefix(peer, "fd00:10:244:1:") {
				t.Errorf("the server took the client for %s, which is no pod of n1", peer)
			}
		}
	}
}

func (l *lab) balancer(t *testing.T) {
	_, ips := l.addresses(t)
	for _, ip := range ips {
		for _, to := range []struct{ network, port string }{{"tcp", "9000"}, {"udp", "9001"}} {
			eventually(t, func() error { return l.greet(t, to.network, ip+":"+to.port) })
		}
	}
	for _, nobodys := range []string{"172.30.1.250:9000", "[fd00:172:30:1::250]:9000"} {
		if err := l.greet(t, "tcp", nobodys); !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("%s, an address that no Service has: %v; want it to be unreachable", nobodys, err)
		}
	}
}

// greet wants an answer of the server to a client outside of the cluster.
func (l *lab) greet(t *testing.T, network, addr string) error {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	c, err := l.Outside().Dial(ctx, nil, network, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := io.WriteString(c, "who?\n"); err != nil {
		return err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && !strings.HasPrefix(line, "server ") {
		err = fmt.Errorf("%s %s says %q", network, addr, line)
	}
	return err
}

func (l *lab) kubelet(t *testing.T) {
	eventually(t, func() error {
		out, err := l.Kubectl(t.Context(), "logs", "client", "--tail=1")
		if err == nil && !strings.Contains(out, `"OK":`) {
			err = fmt.Errorf("the log is %q", out)
		}
		return err
	})
	l.kubectl(t, "exec", "server", "--", "/testapp", "probe")
	if _, err := l.Kubectl(t.Context(), "exec", "server", "--", "/testapp", "nonsense"); err == nil {
		t.Error("exec hides that the command failed")
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	forward := exec.CommandContext(ctx, l.KubectlPath(), "--kubeconfig", l.Kubeconfig(), "port-forward", "pod/server", ":8080")
	out, err := forward.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := forward.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = forward.Wait() }()
	line, err := bufio.NewReader(out).ReadString('\n')
	var port int
	if _, scanErr := fmt.Sscanf(line, "Forwarding from 127.0.0.1:%d", &port); err != nil || scanErr != nil {
		t.Fatalf("port-forward says %q, %v", line, err)
	}
	res, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if !strings.Contains(string(body), `"Host":"server"`) {
		t.Errorf("through port-forward came %q", body)
	}
}

func (l *lab) attach(t *testing.T) {
	again, err := cluster.Attach(config(t))
	if err != nil {
		t.Fatal(err)
	}
	name, err := again.Node("n2").Exec(t.Context(), "hostname")
	if err != nil || name != "n2\n" {
		t.Errorf("n2 calls itself %q, %v", name, err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.greet(t, "tcp", l.server+":9000"); err != nil {
		t.Errorf("letting go of a cluster broke it: %v", err)
	}
}

func (l *lab) files(t *testing.T) {
	for _, dir := range []string{cluster.CNIConfDir, cluster.CNIBinDir, "/run", "/var/lib/kubelet"} {
		mark := dir + "/adit-test-mark"
		if _, err := l.Node("n1").Exec(t.Context(), "touch", mark); err != nil {
			t.Error(err)
			continue
		}
		if _, err := os.Stat(l.Node("n1").Path(mark)); err != nil {
			t.Errorf("Path does not lead to what a program on the node made: %v", err)
		}
		for where, name := range map[string]string{"the host": mark, "n2": l.Node("n2").Path(mark)} {
			if _, err := os.Stat(name); err == nil {
				t.Errorf("%s of n1 is seen on %s", dir, where)
			}
		}
		if _, err := l.Node("n1").Exec(t.Context(), "rm", mark); err != nil {
			t.Error(err)
		}
	}
	init, err := l.Node("n1").Exec(t.Context(), "readlink", "/proc/1/ns/net", "/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Fields(init); len(lines) != 2 || lines[0] != lines[1] {
		t.Errorf("process 1 of the node is in another network: %q", init)
	}
}

// streamed is how many lines the client's stream has sent, and how often it broke.
func (l *lab) streamed(t *testing.T) (count, error) {
	var n count
	out, err := l.Kubectl(t.Context(), "logs", "client", "--tail=1")
	if err != nil {
		return n, err
	}
	return n, json.Unmarshal([]byte(out), &n)
}

// goesOn wants the stream between the pods to be unbroken and to move.
func (l *lab) goesOn(t *testing.T, since count) {
	t.Helper()
	eventually(t, func() error {
		now, err := l.streamed(t)
		if err == nil && now.OK < since.OK+10 {
			err = fmt.Errorf("the stream between the pods stands still: %+v", now)
		}
		if now.Failed > since.Failed {
			return testbed.Permanent{Err: fmt.Errorf("the stream between the pods broke: %+v", now)}
		}
		return err
	})
}

func (l *lab) apiServer(t *testing.T) {
	since, err := l.streamed(t)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.StopAPIServer(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Kubectl(t.Context(), "get", "nodes", "--request-timeout=2s"); err == nil {
		t.Error("kubectl gets an answer from an API server that is stopped")
	}
	if err := l.greet(t, "tcp", l.server+":9000"); err != nil {
		t.Errorf("a pod went away with the API server: %v", err)
	}
	if err := l.StartAPIServer(); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.goesOn(t, since)
}

func (l *lab) daemons(t *testing.T) {
	n := l.Node("n2")
	since, err := l.streamed(t)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.StopKubelet(); err != nil {
		t.Fatal(err)
	}
	if err := n.StopContainerd(); err != nil {
		t.Fatal(err)
	}
	if err := l.greet(t, "tcp", l.server+":9000"); err != nil {
		t.Errorf("a pod went away with its kubelet and containerd: %v", err)
	}
	if err := n.StartContainerd(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.StartKubelet(); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.goesOn(t, since)
	// A kubelet that is up may not have seen its pods yet.
	eventually(t, func() error {
		_, err := l.Kubectl(t.Context(), "exec", "server", "--", "/testapp", "probe")
		return err
	})
}

func (l *lab) reboot(t *testing.T) {
	n := l.Node("n2")
	const container = "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].ready}"
	was := l.kubectl(t, "get", "pod", "server", "-o", container)
	if err := n.Halt(); err != nil {
		t.Fatal(err)
	}
	if err := l.greet(t, "tcp", l.server+":9000"); err == nil {
		t.Error("a pod of a halted node answers")
	}
	if err := n.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The pod is the same object, in a new sandbox.
	eventually(t, func() error {
		is := l.kubectl(t, "get", "pod", "server", "-o", container)
		if is == was || !strings.HasSuffix(is, "true") {
			return fmt.Errorf("the pod's container was %q and is %q; want another one that is ready", was, is)
		}
		l.findServer(t)
		return l.greet(t, "tcp", l.server+":9000")
	})
	if err := l.StopAPIServer(); err != nil { // whatever state a cluster is in, Down removes it
		t.Fatal(err)
	}
}

// Killed at several points, among them while it builds and while nodes boot.
func TestInterruptedUpIsCleanedUp(t *testing.T) {
	cfg := config(t)
	cfg.Name = "adit-t-killed"
	program := t.TempDir() + "/up"
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./cmd").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for _, sign := range []string{"bin/machine", "n1/etc", "n1/init.json", "n1/kubelet.daemon.json"} {
		up := exec.Command(program, "up", "-adit=false", "-name", cfg.Name)
		if err := up.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { _ = up.Wait(); close(ended) }()
		eventually(t, func() error {
			select {
			case <-ended:
				return testbed.Permanent{Err: fmt.Errorf("up has ended before it made %s", sign)}
			default:
			}
			_, err := os.Stat("/var/tmp/" + cfg.Name + "/" + sign)
			return err
		})
		_ = up.Process.Kill()
		<-ended
		if _, err := cluster.Attach(cfg); err == nil {
			t.Errorf("half a cluster, killed at %s, passes for one", sign)
		}
		if err := cluster.Down(cfg); err != nil {
			t.Errorf("killed at %s: %v", sign, err)
		}
		wantNoTraces(t, cfg)
	}
}

func TestNamesKeepClustersApart(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, name := range []string{"a/b", "../x", "a_", "-", "UP"} {
		if err := cluster.Down(cluster.Config{Name: name}); err == nil {
			t.Errorf("%q was taken for a name; it starts the names of what is removed", name)
		}
	}
}
