package meshtest

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

func probe(h corev1.ProbeHandler) *corev1.Probe {
	return &corev1.Probe{ProbeHandler: h, PeriodSeconds: 1, TimeoutSeconds: 3, FailureThreshold: 3}
}

// The kubelet's probes of each kind work in STRICT mode.
func TestProbes(t *testing.T) {
	t.Parallel()
	ns := meshlab.Namespace(t, true)
	peerAuthentication(t, ns, "STRICT")
	kinds := map[string]corev1.ProbeHandler{
		"http": {HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}},
		"tcp":  {TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(9000)}},
		"grpc": {GRPC: &corev1.GRPCAction{Port: 9090}},
		"exec": {Exec: &corev1.ExecAction{Command: []string{"/testapp", "probe"}}},
	}
	for name, handler := range kinds {
		meshlab.Create(t, ns, meshlab.PodSpec{
			Name: name, Node: near, Startup: probe(handler), Readiness: probe(handler), Liveness: probe(handler),
		})
	}
	var pods []*meshlab.Pod
	for name := range kinds {
		pods = append(pods, meshlab.Ready(t, ns, name))
	}
	wantCaptured(t, pods...)
	// Long enough for a liveness probe that fails to be noticed: the kubelet kills after three.
	accepted := map[string]int64{}
	for _, p := range pods {
		accepted[p.Name] = restartsAfterSomeProbes(t, p)
	}
	for name, n := range accepted {
		if n != 0 {
			t.Errorf("%s: %d restarts, want none", name, n)
		}
	}
}

// restartsAfterSomeProbes waits until the agents of the pod's node have let some more probes
// in, if it is probed over the network at all, and says how often it was restarted.
func restartsAfterSomeProbes(t *testing.T, p *meshlab.Pod) int64 {
	t.Helper()
	if p.Name != "exec" {
		first := letIn(t, p)
		meshlab.Eventually(t, "six more probes of "+p.Ref()+" are let in", func() error {
			if now := letIn(t, p); now < first+6 {
				return fmt.Errorf("%d, at first %d", now, first)
			}
			return nil
		})
	}
	object := meshlab.Get(t, p.Namespace, p.Name)
	for _, c := range object.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status != corev1.ConditionTrue {
			t.Errorf("%s is not ready: %s", p.Ref(), c.Message)
		}
	}
	return int64(restarts(object))
}

// letIn reads the counter of the rule that lets probes in.
func letIn(t *testing.T, p *meshlab.Pod) (n int) {
	t.Helper()
	rules, err := meshlab.Rules(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(rules) {
		_, after, ok := strings.Cut(line, "@probe_port counter packets ")
		if !ok {
			continue
		}
		word, _, _ := strings.Cut(after, " ")
		packets, err := strconv.Atoi(word)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		n += packets
	}
	return n
}

// An application that fails is still noticed.
func TestFailingProbes(t *testing.T) {
	t.Parallel()
	ns := meshlab.Namespace(t, true)
	peerAuthentication(t, ns, "STRICT")
	ready := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/readyz", Port: intstr.FromInt32(8080)}}
	meshlab.Create(t, ns, meshlab.PodSpec{Name: "flaky", Node: near, Readiness: probe(ready)})
	meshlab.Create(t, ns, meshlab.PodSpec{Name: "sick", Node: near, Liveness: probe(corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: 9090}}), Readiness: probe(ready)})
	flaky, sick := meshlab.Ready(t, ns, "flaky"), meshlab.Ready(t, ns, "sick")
	wantCaptured(t, flaky, sick)
	say := func(p *meshlab.Pod, ready bool) {
		t.Helper()
		if _, err := p.InNetns(t.Context(), "curl", "-sf", "-X", "POST", "http://127.0.0.1:8080/readyz?to="+strconv.FormatBool(ready)); err != nil {
			t.Fatal(err)
		}
	}
	say(flaky, false)
	say(sick, false)
	meshlab.Eventually(t, "the kubelet notices that flaky is not ready", func() error {
		for _, c := range meshlab.Get(t, ns, "flaky").Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionFalse {
				return nil
			}
		}
		return fmt.Errorf("it is said to be ready")
	})
	say(flaky, true)
	meshlab.Ready(t, ns, "flaky")
	meshlab.Eventually(t, "the kubelet restarts sick", func() error {
		if restarts(meshlab.Get(t, ns, "sick")) == 0 {
			return fmt.Errorf("no restart")
		}
		return nil
	})
	if n := restarts(meshlab.Get(t, ns, "flaky")); n != 0 {
		t.Errorf("flaky was restarted %d times; it has no liveness probe", n)
	}
}

// What lets the kubelet in lets nobody else in: no other user of the node, no other port, no other node.
func TestOnlyProbesGetIn(t *testing.T) {
	t.Parallel()
	ns := meshlab.Namespace(t, true)
	server := meshlab.Start(t, ns, meshlab.PodSpec{Name: "server", Node: near})
	peerAuthentication(t, ns, "STRICT")
	wantCaptured(t, server)
	get := func(at, uid string, address string, port int) error {
		_, err := node(at).Exec(t.Context(), "/usr/bin/setpriv", "--reuid", uid, "--clear-groups",
			"curl", "-sf", "--max-time", "5", "http://"+net.JoinHostPort(address, strconv.Itoa(port))+"/healthz")
		return err
	}
	for _, ip := range server.IPs {
		a := ip.String()
		meshlab.Eventually(t, "nobody but root gets to the probed port at "+a, func() error {
			if get(near, "65534", a, 8080) == nil {
				return fmt.Errorf("uid 65534 of the node gets in")
			}
			return nil
		})
		if err := get(near, "0", a, 8080); err != nil {
			t.Errorf("as the kubelet does, to %s: %v", ip, err)
		}
		if get(far, "0", a, 8080) == nil {
			t.Errorf("root of another node gets to the probed port at %s", ip)
		}
		wantNodeRefused(t, near, net.JoinHostPort(a, "9000"))
	}
}
