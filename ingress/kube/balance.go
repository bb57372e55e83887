package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// syncServices makes the Services of Gateways what they should be, and reports
// whether nothing is left to be tried again.
func (w *writer) syncServices(ctx context.Context, now *work) bool {
	var tasks []func() error
	var mu sync.Mutex // guards conflicts
	conflicts := make(map[types.NamespacedName]string)
	wanted := make(map[types.NamespacedName]bool)
	settled := make(map[types.NamespacedName]bool) // by Gateway: what it needs is known
	for _, p := range now.plans {
		services := p.desired(w.services)
		settled[p.name] = len(services) > 0
		for _, want := range services {
			name := types.NamespacedName{Namespace: want.Namespace, Name: want.Name}
			wanted[name] = true
			have := now.services[name]
			if have != nil && asWanted(have, want) {
				continue
			}
			tasks = append(tasks, func() error {
				conflict, err := w.applyService(ctx, have, want)
				if err != nil {
					return fmt.Errorf("service %s of Gateway %s cannot be written: %w", name, p.name, err)
				}
				if conflict != "" && want.Labels[labelRole] != string(roleAlias) {
					mu.Lock()
					conflicts[p.name] = conflict
					mu.Unlock()
				}
				return nil
			})
		}
	}
	for name, s := range now.services {
		gw, _, _ := isOurs(s, w.services.namespace)
		planned, ok := settled[gw]
		if wanted[name] || ok && !planned || !now.gatewaysKnown {
			continue
		}
		tasks = append(tasks, func() error {
			if err := w.removeService(ctx, gw, s, planned); err != nil {
				return fmt.Errorf("service %s, which no Gateway needs, cannot be removed: %w", name, err)
			}
			return nil
		})
	}
	all := w.each(ctx, tasks)
	if ctx.Err() == nil && w.work.setConflicts(conflicts) {
		signal(w.inbox.wake)
	}
	return all
}

// each does tasks, some at a time and no faster than the limit, and reports
// whether none failed. What fails because ctx ended is not said.
func (w *writer) each(ctx context.Context, tasks []func() error) bool {
	queue := make(chan func() error)
	var mu sync.Mutex // guards failed
	var failed []error
	var wg sync.WaitGroup
	for range min(writers, len(tasks)) {
		wg.Go(func() {
			for task := range queue {
				if err := task(); err != nil {
					mu.Lock()
					failed = append(failed, err)
					mu.Unlock()
				}
			}
		})
	}
	for _, task := range tasks {
		if w.limit.Wait(ctx) != nil {
			break
		}
		queue <- task
	}
	close(queue)
	wg.Wait()
	if len(failed) > 0 && ctx.Err() == nil {
		w.log.Warn("what cannot be written is tried again", "count", len(failed), "first", failed[0])
	}
	return len(failed) == 0
}

// applyService makes a Service what it should be. One that somebody else has
// made is left alone: conflict says so.
func (w *writer) applyService(ctx context.Context, have, want *corev1.Service) (conflict string, err error) {
	if have == nil {
		there := new(corev1.Service)
		err := w.api.core.Get().Namespace(want.Namespace).Resource("services").Name(want.Name).Do(ctx).Into(there)
		switch {
		case err == nil:
			if _, _, ok := isOurs(there, w.services.namespace); !ok {
				return fmt.Sprintf("Service %s/%s is there and not adit's; remove or rename it", want.Namespace, want.Name), nil
			}
			have = there
		case !apierrors.IsNotFound(err):
			return "", err
		}
	}
	if have != nil && len(want.Spec.IPFamilies) > 0 && len(have.Spec.IPFamilies) > 0 && have.Spec.IPFamilies[0] != want.Spec.IPFamilies[0] {
		// The first family of a Service cannot be changed.
		return "", w.deleteService(ctx, have)
	}
	body, err := applied(want)
	if err != nil {
		return "", err
	}
	err = w.api.core.Patch(types.ApplyPatchType).Namespace(want.Namespace).Resource("services").Name(want.Name).
		Param("fieldManager", managedBy).Param("force", "true").Body(body).Do(ctx).Error()
	return "", err
}

// applied is a Service as it is applied: what is ours of it, and nothing else.
func applied(want *corev1.Service) ([]byte, error) {
	u, err := runtime.DefaultUnstructuredConverter.ToUnstructured(want)
	if err != nil {
		return nil, err
	}
	delete(u, "status")
	if m, ok := u["metadata"].(map[string]any); ok {
		delete(m, "creationTimestamp")
		if a, ok := m["annotations"].(map[string]any); ok {
			a[annotationSum] = sumOf(want)
		}
	}
	return json.Marshal(u)
}

// removeService deletes a Service that its Gateway does not need, or whose
// Gateway is gone, or somebody else's by now. A Service is an address that
// clients know: unless certain, the API server is asked, and that the class of a
// Gateway is away is no reason.
func (w *writer) removeService(ctx context.Context, gw types.NamespacedName, s *corev1.Service, certain bool) error {
	if !certain {
		there, err := w.api.dynamic.Resource(ours("gateways")).Namespace(gw.Namespace).Get(ctx, gw.Name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		if err == nil {
			class, _, _ := unstructured.NestedString(there.Object, "spec", "gatewayClassName")
			if theirs, err := w.somebodyElses(ctx, class); err != nil || !theirs {
				return err
			}
		}
	}
	w.log.Info("removing a Service that no Gateway needs", "service", s.Namespace+"/"+s.Name, "gateway", gw.String())
	return w.deleteService(ctx, s)
}

// somebodyElses says whether a class is there, and another controller's.
func (w *writer) somebodyElses(ctx context.Context, class string) (bool, error) {
	there, err := w.api.dynamic.Resource(ours("gatewayclasses")).Get(ctx, class, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	controller, _, _ := unstructured.NestedString(there.Object, "spec", "controllerName")
	return !slices.Contains(w.controllers(), controller), nil
}

func (w *writer) deleteService(ctx context.Context, s *corev1.Service) error {
	uid := s.UID
	err := w.api.core.Delete().Namespace(s.Namespace).Resource("services").Name(s.Name).
		Body(&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}).Do(ctx).Error()
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
