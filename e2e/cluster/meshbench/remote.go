package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"golang.org/x/sys/unix"
)

const (
	remoteNamespaces = 50
	remoteNodes      = 100
)

// others is what agents need for the pods of other nodes.
func (b *bench) others(ctx context.Context) (err error) {
	if b.cfg.remote == 0 {
		return nil
	}
	node := b.cluster.Nodes()[1]
	a, err := b.agent(ctx, node)
	if err != nil {
		return err
	}
	before, err := a.heap(ctx)
	if err != nil {
		return err
	}
	used, err := usageOf(a.pid)
	if err != nil {
		return err
	}
	again, err := b.suspend()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, again()) }()
	if err := b.makeOthers(ctx); err != nil {
		return err
	}
	err = poll(ctx, patience, func() error {
		s, err := a.status(ctx)
		if err == nil && s.World.Workloads < b.cfg.remote {
			err = fmt.Errorf("agent of %s knows %d of %d pods", node.Name(), s.World.Workloads, b.cfg.remote)
		}
		return err
	})
	if err != nil {
		return err
	}
	after, err := usageOf(a.pid)
	if err != nil {
		return err
	}
	b.report.value("CPU of an agent for one pod of another node: created and ready", "ms", milliseconds(after.cpu-used.cpu)/float64(b.cfg.remote))
	what := fmt.Sprintf("%d pods of other nodes", b.cfg.remote)
	f, err := b.idle(ctx, node, what)
	if err != nil {
		return err
	}
	b.report.value("heap for one pod of another node, services included", "KiB", (float64(f.heap)-float64(before))/float64(b.cfg.remote)/1024)
	if err := b.authority(what); err != nil {
		return err
	}
	if err := b.change(ctx, ", "+what); err != nil {
		return err
	}
	return b.restart(ctx, a, what)
}

// suspend stops the controllers, which would put in order what is out of order
// here: pods on nodes without a kubelet, and on nodes that do not exist.
func (b *bench) suspend() (again func() error, err error) {
	controllers := findBy(func(_ int, argv []string) bool { return argv[0] == b.cluster.Dir()+"/bin/kube-controller-manager" })
	return func() error { return send(controllers, unix.SIGCONT) }, send(controllers, unix.SIGSTOP)
}

// makeOthers creates services of ten pods each, on nodes that have no object either.
func (b *bench) makeOthers(ctx context.Context) error {
	for i := range remoteNamespaces {
		if err := b.namespace(ctx, teamOf(i), true, accounts); err != nil {
			return err
		}
	}
	var done atomic.Int32
	perService := (b.cfg.remote + b.cfg.services - 1) / b.cfg.services
	return each(ctx, b.cfg.services, 16, func(ctx context.Context, s int) error {
		ns, name := teamOf(s), fmt.Sprintf("service-%d", s)
		svc := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{noProxy: "none"}},
			Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}}},
		}
		if _, err := b.client.CoreV1().Services(ns).Create(ctx, svc, metav1.CreateOptions{}); err != nil {
			return err
		}
		slice := aSlice(name, 8080)
		slice.Labels[noProxy] = "none"
		for i := range min(perService, b.cfg.remote-s*perService) {
			n := s*perService + i
			pod := remotePod(name, n, ns)
			p, err := b.client.CoreV1().Pods(ns).Create(ctx, pod, metav1.CreateOptions{})
			if err != nil {
				return err
			}
			addr := fmt.Sprintf("10.%d.%d.%d", 100+n/50000, n/200%250, n%200+2)
			if err := b.patchStatus(ctx, ns, p.Name, addr, fmt.Sprintf("fd00:99::%x", n+2)); err != nil {
				return err
			}
			slice.Endpoints = append(slice.Endpoints, endpointOf(ns, p.Name, addr))
			if n := done.Add(1); n%1000 == 0 {
				b.progress("%d of %d remote pods", n, b.cfg.remote)
			}
		}
		_, err := b.client.DiscoveryV1().EndpointSlices(ns).Create(ctx, slice, metav1.CreateOptions{})
		return err
	})
}

// noProxy makes kube-proxy leave a service alone; an agent takes it as any other.
const noProxy = "service.kubernetes.io/service-proxy-name"

// team starts the names of the namespaces of remote pods.
const team = ours + "team-"

func teamOf(i int) string { return fmt.Sprint(team, i%remoteNamespaces) }

// remotePod is as large as a pod usually is.
func remotePod(service string, n int, ns string) *corev1.Pod {
	p := aPod(fmt.Sprintf("%s-6d4b75cb6d-%05d", service, n), fmt.Sprintf("other-%d", n%remoteNodes), account(n%accounts))
	p.Annotations = map[string]string{
		"ambient.istio.io/redirection":    "enabled",
		"checksum/config":                 "6a8f0f1c2d5b4e7788990011223344556677889900aabbccddeeff0011223344",
		"prometheus.io/scrape":            "true",
		"kubectl.kubernetes.io/restarted": "2026-01-01T00:00:00Z",
	}
	p.Labels = map[string]string{
		"app.kubernetes.io/name": service, "app.kubernetes.io/instance": service, "app.kubernetes.io/version": "1.2.3",
		"pod-template-hash": "6d4b75cb6d", "team": ns,
	}
	p.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: "apps/v1", Kind: "ReplicaSet", Name: service + "-6d4b75cb6d", UID: "6fd6e0b1-96bb-4b34-9c1e-2b6a0d9a8a11", Controller: ptr(true),
	}}
	for i := range 20 {
		p.Spec.Containers[0].Env = append(p.Spec.Containers[0].Env, corev1.EnvVar{
			Name: fmt.Sprintf("SETTING_NUMBER_%d", i), Value: "a value of the length that values usually have",
		})
	}
	probe := func(path string) *corev1.Probe {
		return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(8080)}}}
	}
	p.Spec.Containers[0].LivenessProbe, p.Spec.Containers[0].ReadinessProbe = probe("/healthz"), probe("/readyz")
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}
	return p
}

func aSlice(service string, port int32) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service, discoveryv1.LabelManagedBy: "meshbench"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr("http"), Port: ptr(port), Protocol: ptr(corev1.ProtocolTCP)}},
	}
}

func endpointOf(ns, pod, addr string) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{
		Addresses: []string{addr}, Conditions: discoveryv1.EndpointConditions{Ready: ptr(true), Serving: ptr(true)},
		TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: pod},
	}
}

// restart kills an agent and measures how soon the next one knows everything.
func (b *bench) restart(ctx context.Context, a *agent, what string) error {
	var synced, ready, peak []float64
	for range b.cfg.restarts {
		old := a.pid
		b.progress("restarting an agent")
		if err := send([]int{old}, unix.SIGKILL); err != nil {
			return err
		}
		if err := poll(ctx, patience, func() error {
			if pids := b.find(a.node, "/adit", "agent", ""); len(pids) != 1 || pids[0] == old {
				return errors.New("the kubelet has not started another agent")
			}
			return nil
		}); err != nil {
			return err
		}
		a.pid = b.find(a.node, "/adit", "agent", "")[0]
		both := map[*[]float64]func(status) bool{
			&synced: func(s status) bool { return s.World.Synced && s.World.Workloads >= b.cfg.remote },
			&ready:  func(s status) bool { return s.Ready },
		}
		if err := poll(ctx, patience, func() error {
			s, err := a.status(ctx)
			if err != nil {
				return err
			}
			d, err := age(a.pid)
			if err != nil {
				return err
			}
			for list, yes := range both {
				if yes(s) {
					*list = append(*list, milliseconds(d))
					delete(both, list)
				}
			}
			if len(both) > 0 {
				return errors.New("the new agent is not ready")
			}
			return nil
		}); err != nil {
			return err
		}
		if err := sleep(ctx, 5*time.Second); err != nil {
			return err
		}
		u, err := usageOf(a.pid)
		if err != nil {
			return err
		}
		peak = append(peak, mebibytes(u.peak))
	}
	b.report.values("agent start to synced, "+what, "ms", synced)
	b.report.values("agent start to ready, "+what, "ms", ready)
	b.report.values("agent start, "+what+": resident at most", "MiB", peak)
	return nil
}
