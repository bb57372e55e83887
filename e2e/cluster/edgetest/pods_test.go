package edgetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

// leader is the pod that has the Lease.
func leader(ctx context.Context) (string, error) {
	l, err := meshlab.Cluster().Client().CoordinationV1().Leases(meshlab.System).Get(ctx, "adit-gateway", metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	if l.Spec.HolderIdentity == nil || *l.Spec.HolderIdentity == "" {
		return "", errors.New("nobody has the Lease")
	}
	name := *l.Spec.HolderIdentity
	return name[strings.LastIndexByte(name, '/')+1:], nil
}

// TestPodsReplaced has the pods of the edge replaced under load: first the one
// that writes statuses, then all.
func TestPodsReplaced(t *testing.T) {
	s := openShop(t, false, 2)
	run := s.load(t)
	t.Run("leader", func(t *testing.T) { leaderDeleted(t, s) })
	run.progress(t, 5)
	t.Run("all", func(t *testing.T) { restartedEdge(t, s) })
	run.unharmed(t, "pods of the edge replaced")
}

// leaderDeleted wants another pod to write statuses as soon as the leader goes.
func leaderDeleted(t *testing.T, s *shop) {
	was, err := leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := meshlab.Cluster().Client().CoreV1().Pods(meshlab.System).Delete(t.Context(), was, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	meshlab.Apply(t, s.ns, `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: later}
spec:
  parentRefs: [{name: shop}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /later}}]
    backendRefs: [{name: shop, port: 80}]`)
	route(t, s.ns, "later", "Accepted", "True", "Accepted")
	took := time.Since(began)
	now := ""
	meshlab.Eventually(t, "another pod has the Lease", func() error {
		now, err = leader(t.Context())
		if err == nil && now == was {
			err = errors.New("it is the one that was deleted")
		}
		return err
	})
	t.Logf("a status %.1f s after the leader was deleted", took.Seconds())
	meshlab.Eventually(t, "the edge has two pods that are ready", func() error { return twoReady(t.Context()) })
}

func twoReady(ctx context.Context) error {
	pods, err := edgePods(ctx)
	if err != nil {
		return err
	}
	ready := 0
	for _, p := range pods {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				ready++
			}
		}
	}
	if ready != 2 || len(pods) != 2 {
		return fmt.Errorf("%d of %d are", ready, len(pods))
	}
	return nil
}

// restartedEdge wants requests that are under way while the edge is rolled out anew to
// be answered whole.
func restartedEdge(t *testing.T, s *shop) {
	before, err := edgePods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Each client has a connection of its own by then. Its next request takes longer than other nodes need to
	// know that the pod stops, and less than the 15 s that a route gives it.
	var under sync.WaitGroup
	ready := make(chan struct{}, 100)
	clients := 0
	for _, v := range []version{h1, h2, h3} {
		for i, path := range []string{"/?wait=6s", "/?last=6s", "/?wait=11s", "/?last=11s"} {
			clients++
			under.Go(func() {
				c := s.client(v)
				defer c.close()
				_, err := c.get(context.Background(), s.url("/"))
				ready <- struct{}{}
				if err != nil {
					t.Errorf("%s, client %d: %v", v, i, err)
					return
				}
				if _, err := c.get(context.Background(), s.url(path)); err != nil {
					t.Errorf("%s, client %d: a request under way in the drain: %v", v, i, err)
				}
			})
		}
	}
	for range clients {
		<-ready
	}
	meshlab.Kubectl(t, "-n", meshlab.System, "rollout", "restart", "deployment/adit-ingress")
	under.Wait()
	if err := meshlab.WaitEdge(t.Context()); err != nil {
		t.Fatal(err)
	}
	meshlab.Eventually(t, "the old pods are gone", func() error {
		for _, p := range before {
			if now, err := meshlab.Cluster().Client().CoreV1().Pods(meshlab.System).Get(t.Context(), p.Name, metav1.GetOptions{}); err == nil {
				return fmt.Errorf("%s is %s", p.Name, now.Status.Phase)
			}
		}
		return nil
	})
}

// TestManyGateways has several Gateways on one port share the pods, each with an
// address and certificate of its own, and one of them go.
func TestManyGateways(t *testing.T) {
	const gateways = 5
	ns, ca := meshlab.Namespace(t, false), newAuthority(t)
	var all strings.Builder
	all.WriteString(echoDeployment("echo", "echo", "80"))
	host := func(i int) string { return fmt.Sprintf("g%d.example", i) }
	name := func(i int) string { return fmt.Sprintf("g%d", i) }
	for i := range gateways {
		all.WriteString(secret(name(i), ca.fresh(t, host(i))))
		fmt.Fprintf(&all, `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: %[1]s}
spec:
  gatewayClassName: adit
  infrastructure:
    labels: {team: "%[1]s"}
  listeners:
  - {name: https, protocol: HTTPS, port: 443, tls: {certificateRefs: [{name: %[1]s}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %[1]s}
spec:
  parentRefs: [{name: %[1]s}]
  hostnames: [%[2]s]
  rules:
  - backendRefs: [{name: echo, port: 80}]
---
`, name(i), host(i))
	}
	meshlab.Apply(t, ns, all.String())
	addrs := map[netip.Addr]int{}
	for i := range gateways {
		addrs[addressOf(t, ns, name(i))] = i
	}
	if len(addrs) != gateways {
		t.Errorf("%d Gateways have %d addresses: %v", gateways, len(addrs), addrs)
	}
	ports := map[int32]string{}
	for _, svc := range servicesOf(t, ns) {
		if svc.Namespace != meshlab.System {
			continue
		}
		if svc.Labels["team"] == "" || svc.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
			t.Errorf("%s: labels %v, externalTrafficPolicy %s", svc.Name, svc.Labels, svc.Spec.ExternalTrafficPolicy)
		}
		for _, p := range svc.Spec.Ports {
			key := p.TargetPort.IntVal
			if other := ports[key]; p.Protocol == corev1.ProtocolTCP && other != "" {
				t.Errorf("%s and %s share target port %d", svc.Name, other, key)
			}
			ports[key] = svc.Name
		}
	}
	for at, i := range addrs {
		for _, v := range []version{h2, h3} {
			c := newClient(v, at, ca.roots)
			c.reach(t, "echo-", "https://"+host(i)+"/")
			// Another Gateway's name is not known here: its certificate is not shown, its route not taken.
			if _, err := c.get(t.Context(), "https://"+host((i+1)%gateways)+"/"); err == nil || !strings.Contains(err.Error(), "certificate") {
				t.Errorf("%s at %s, Gateway of %s: %v; want a certificate for another name", host((i+1)%gateways), at, host(i), err)
			}
			c.close()
		}
	}

	meshlab.Kubectl(t, "-n", ns, "delete", "gateway", name(0))
	meshlab.Eventually(t, "the Services of a deleted Gateway are gone", func() error {
		if left := servicesOf(t, ns); len(left) != 2*(gateways-1) {
			var names []string
			for _, s := range left {
				names = append(names, s.Namespace+"/"+s.Name)
			}
			return fmt.Errorf("there are %v", names)
		}
		return nil
	})
	for at, i := range addrs {
		c := newClient(h3, at, ca.roots)
		if i != 0 {
			c.reach(t, "echo-", "https://"+host(i)+"/")
		} else if _, err := c.get(t.Context(), "https://"+host(i)+"/"); err == nil {
			t.Errorf("the deleted Gateway's address still answers")
		}
		c.close()
	}
	meshlab.Eventually(t, "the route of a deleted Gateway has no status of ours", func() error {
		var r routeObject
		if err := getJSON(t.Context(), &r, "-n", ns, "httproute", name(0)); err != nil {
			return err
		}
		if len(r.Status.Parents) > 0 {
			return fmt.Errorf("it has %+v", r.Status.Parents)
		}
		return nil
	})
}

// servicesOf are those that the edge made for the Gateways of a namespace: balancers, and names for them.
func servicesOf(t *testing.T, ns string) []corev1.Service {
	t.Helper()
	list, err := meshlab.Cluster().Client().CoreV1().Services("").List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=adit-ingress"})
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(list.Items, func(s corev1.Service) bool {
		return s.Namespace != ns && !slices.Contains(slices.Collect(maps.Values(s.Labels)), ns) && !slices.Contains(slices.Collect(maps.Values(s.Annotations)), ns)
	})
}
