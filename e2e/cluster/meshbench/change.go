package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	meshNS  = ours + "net"
	plainNS = ours + "plain"
)

// A scene is a client on one node and two servers on the other.
type scene struct {
	ns      string
	client  int // the process of the client
	servers [2]*corev1.Pod
	address string // of the service
}

// change measures how soon a change at the API server is in force: of
// endpoints, for which kube-proxy does the same for pods without adit, and of
// policy.
func (b *bench) change(ctx context.Context, suffix string) error {
	if b.cfg.changes == 0 {
		return nil
	}
	mesh, err := b.scene(ctx, meshNS, true)
	if err != nil {
		return err
	}
	plain, err := b.scene(ctx, plainNS, false)
	if err != nil {
		return err
	}
	var with, without []float64
	for i := range b.cfg.changes {
		for list, s := range map[*[]float64]*scene{&with: mesh, &without: plain} {
			d, err := b.switchover(ctx, s, s.servers[(i+1)%2])
			if err != nil {
				return err
			}
			*list = append(*list, milliseconds(d))
		}
		if i%10 == 9 {
			b.progress("%d of %d changes of endpoints", i+1, b.cfg.changes)
		}
	}
	b.report.values("endpoint change to first connection"+suffix, "ms", with).against("kube-proxy", without)
	b.report.values("endpoint change to first connection by kube-proxy"+suffix, "ms", without)
	return b.denials(ctx, mesh, suffix)
}

// few is a change in a cluster that has little else.
func (b *bench) few(ctx context.Context) error {
	if b.cfg.changes == 0 {
		return nil
	}
	return errors.Join(b.change(ctx, ""), b.clear(ctx, meshNS), b.clear(ctx, plainNS))
}

func (b *bench) scene(ctx context.Context, ns string, enrolled bool) (*scene, error) {
	if err := b.namespace(ctx, ns, enrolled, 2); err != nil {
		return nil, err
	}
	s := &scene{ns: ns}
	nodes := b.cluster.Nodes()
	client, _, err := b.startPod(ctx, ns, aPod("client", nodes[0].Name(), account(0)))
	if err != nil {
		return nil, err
	}
	pids := b.find(nodes[0], "/testapp", "serve", string(client.UID))
	if len(pids) != 1 {
		return nil, fmt.Errorf("pod %s/client has %d processes, want 1", ns, len(pids))
	}
	s.client = pids[0]
	for i := range s.servers {
		if s.servers[i], _, err = b.startPod(ctx, ns, aPod(fmt.Sprintf("server-%d", i), nodes[1].Name(), account(1))); err != nil {
			return nil, err
		}
	}
	svc, err := b.client.CoreV1().Services(ns).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "server"},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 9000}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	s.address = net.JoinHostPort(svc.Spec.ClusterIP, "9000")
	slice := aSlice("server", 9000)
	slice.Endpoints = append(slice.Endpoints, endpointOf(ns, s.servers[0].Name, s.servers[0].Status.PodIP))
	if _, err := b.client.DiscoveryV1().EndpointSlices(ns).Create(ctx, slice, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	// Both ways have been gone once before anything is measured.
	for _, to := range []int{0, 1, 0} {
		if _, err := b.switchover(ctx, s, s.servers[to]); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// switchover makes another pod the only endpoint and returns how long it took,
// from the request on, until the first connection that reaches it.
func (b *bench) switchover(ctx context.Context, s *scene, to *corev1.Pod) (time.Duration, error) {
	slice := aSlice("server", 9000)
	slice.Endpoints = append(slice.Endpoints, endpointOf(s.ns, to.Name, to.Status.PodIP))
	began := time.Now()
	if _, err := b.client.DiscoveryV1().EndpointSlices(s.ns).Update(ctx, slice, metav1.UpdateOptions{}); err != nil {
		return 0, err
	}
	for {
		c, server, err := dialIn(ctx, s.client, s.address)
		if err == nil {
			_ = c.Close()
		}
		if server == to.Name {
			return time.Since(began), nil
		}
		if time.Since(began) > patience {
			return 0, fmt.Errorf("%s leads to %q and not to %s: %w", s.address, server, to.Name, err)
		}
		if err := sleep(ctx, 2*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

var authorizationPolicies = schema.GroupVersionResource{Group: "security.istio.io", Version: "v1", Resource: "authorizationpolicies"}

// denials measures from a policy to the reset of a connection that it forbids,
// and from its deletion to the first connection.
func (b *bench) denials(ctx context.Context, s *scene, suffix string) error {
	deny := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
		"metadata": map[string]any{"name": "deny"},
		"spec": map[string]any{
			"action": "DENY",
			"rules":  []any{map[string]any{"from": []any{map[string]any{"source": map[string]any{"namespaces": []any{s.ns}}}}}},
		},
	}}
	policies := b.policies.Resource(authorizationPolicies).Namespace(s.ns)
	var cut, again, request []float64
	for i := range b.cfg.changes {
		c, _, err := dialIn(ctx, s.client, s.address)
		if err != nil {
			return err
		}
		began := time.Now()
		_, err = policies.Create(ctx, deny, metav1.CreateOptions{})
		if err == nil {
			request = append(request, milliseconds(time.Since(began)))
			err = broken(c)
		}
		cut = append(cut, milliseconds(time.Since(began)))
		_ = c.Close()
		if err != nil {
			return err
		}
		began = time.Now()
		if err := policies.Delete(ctx, "deny", metav1.DeleteOptions{}); err != nil {
			return err
		}
		if err := poll(ctx, patience, func() error {
			c, _, err := dialIn(ctx, s.client, s.address)
			if err == nil {
				_ = c.Close()
			}
			return err
		}); err != nil {
			return err
		}
		again = append(again, milliseconds(time.Since(began)))
		if i%10 == 9 {
			b.progress("%d of %d changes of policy", i+1, b.cfg.changes)
		}
	}
	b.report.values("policy to the reset of a connection"+suffix, "ms", cut).against("the API request alone", request)
	b.report.values("policy deleted to first connection"+suffix, "ms", again)
	return nil
}

// broken waits until a connection is reset. An end would be an answer.
func broken(c net.Conn) error {
	_ = c.SetReadDeadline(time.Now().Add(patience))
	n, err := c.Read(make([]byte, 1))
	var timeout net.Error
	switch {
	case n > 0 || err == nil:
		return errors.New("a connection that a policy forbids brings data")
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("a connection that a policy forbids stays: %w", err)
	}
	return nil
}
