package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// balancer gives addresses away. kube-proxy on every node does the rest, as it
// rewrites what arrives for an address in a Service's status.
type balancer struct {
	client   kubernetes.Interface
	services corelisters.ServiceLister
	pools    []netip.Prefix
	given    map[string][]netip.Addr // by namespace/name; what this process has written and may not have read back
}

func balance(ctx context.Context, client kubernetes.Interface, watched informers.SharedInformerFactory, pools string) error {
	b := &balancer{client: client, services: watched.Core().V1().Services().Lister(), given: map[string][]netip.Addr{}}
	for s := range strings.SplitSeq(pools, ",") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return err
		}
		b.pools = append(b.pools, p)
	}
	changed := make(chan struct{}, 1)
	edge := func(any) {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	_, err := watched.Core().V1().Services().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: edge, UpdateFunc: func(_, now any) { edge(now) }, DeleteFunc: edge,
	})
	if err != nil {
		return err
	}
	watched.Start(ctx.Done())
	watched.WaitForCacheSync(ctx.Done())
	for {
		again := time.Hour
		if err := b.assign(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "balancer:", err)
			again = time.Second
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(again):
		}
	}
}

// assign gives an address of each of its families to every Service that wants one and has none.
func (b *balancer) assign(ctx context.Context) error {
	all, err := b.services.List(labels.Everything())
	if err != nil {
		return err
	}
	used := map[netip.Addr]bool{}
	wanted := map[string]*corev1.Service{}
	for _, svc := range all {
		if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
			continue
		}
		key := svc.Namespace + "/" + svc.Name
		wanted[key] = svc
		for _, in := range svc.Status.LoadBalancer.Ingress {
			if a, err := netip.ParseAddr(in.IP); err == nil {
				used[a] = true
			}
		}
		for _, a := range b.given[key] {
			used[a] = true
		}
	}
	for key := range b.given {
		if wanted[key] == nil {
			delete(b.given, key)
		}
	}
	var failed error
	for key, svc := range wanted {
		if b.served(svc) {
			continue
		}
		if err := b.give(ctx, key, svc, used); err != nil {
			failed = fmt.Errorf("%s: %w", key, err)
		}
	}
	return failed
}

// served reports whether a Service has what it wants, as far as it can be had: an
// address of the pools, or none if it asks for one that is not there.
func (b *balancer) served(svc *corev1.Service) bool {
	has := svc.Status.LoadBalancer.Ingress
	wish := svc.Spec.LoadBalancerIP
	if wish == "" {
		return len(has) > 0
	}
	addr, err := netip.ParseAddr(wish)
	if err != nil || !slices.ContainsFunc(b.pools, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return len(has) == 0
	}
	return len(has) == 1 && has[0].IP == addr.String()
}

func (b *balancer) give(ctx context.Context, key string, svc *corev1.Service, used map[netip.Addr]bool) error {
	addrs := b.given[key]
	if wish, err := netip.ParseAddr(svc.Spec.LoadBalancerIP); err == nil {
		switch {
		case !slices.ContainsFunc(b.pools, func(p netip.Prefix) bool { return p.Contains(wish) }):
			addrs = []netip.Addr{} // none, and what it had is taken back
		case used[wish] && !slices.Contains(b.given[key], wish):
			return fmt.Errorf("%s is another's", wish)
		default:
			used[wish] = true
			addrs = []netip.Addr{wish}
		}
		b.given[key] = addrs
	}
	if len(addrs) == 0 && svc.Spec.LoadBalancerIP == "" {
		for _, family := range svc.Spec.IPFamilies {
			a, err := b.free(family, used)
			if err != nil {
				return err
			}
			used[a] = true
			addrs = append(addrs, a)
		}
		b.given[key] = addrs
	}
	svc = svc.DeepCopy()
	svc.Status.LoadBalancer.Ingress = nil
	for _, a := range addrs {
		svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a.String()})
	}
	_, err := b.client.CoreV1().Services(svc.Namespace).UpdateStatus(ctx, svc, metav1.UpdateOptions{})
	return err
}

// free finds the lowest address that nobody has. The first of a pool is left out: it reads like a network.
func (b *balancer) free(family corev1.IPFamily, used map[netip.Addr]bool) (netip.Addr, error) {
	for _, pool := range b.pools {
		if pool.Addr().Is4() != (family == corev1.IPv4Protocol) {
			continue
		}
		for a := pool.Masked().Addr().Next(); pool.Contains(a); a = a.Next() {
			if !used[a] {
				return a, nil
			}
		}
	}
	return netip.Addr{}, fmt.Errorf("no %s address is left in %v", family, b.pools)
}
