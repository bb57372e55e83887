package cakube

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/adit-mesh/adit/identity/caserver"
)

func status(user string, extra map[string]string) authenticationv1.TokenReviewStatus {
	s := authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{"istio-ca"},
		User: authenticationv1.UserInfo{Username: user, Extra: map[string]authenticationv1.ExtraValue{}}}
	for k, v := range extra {
		s.User.Extra[k] = authenticationv1.ExtraValue{v}
	}
	return s
}

const agentUser = "system:serviceaccount:adit-system:adit-agent"

var bound = map[string]string{extraPodName: "adit-agent-x", extraPodUID: "uid-x", extraNodeName: "node-a"}

func TestReadReview(t *testing.T) {
	tests := []struct {
		why    string
		status authenticationv1.TokenReviewStatus
		text   string // of the refusal
	}{
		{"an agent", status(agentUser, bound), ""},
		{"no token of the cluster's", authenticationv1.TokenReviewStatus{Error: "token has expired"}, "token has expired"},
		{"refused without a reason", authenticationv1.TokenReviewStatus{}, "no reason given"},
		{"another audience", func() authenticationv1.TokenReviewStatus {
			s := status(agentUser, bound)
			s.Audiences = []string{"api"}
			return s
		}(), "audience"},
		{"an authenticator that knows no audiences", func() authenticationv1.TokenReviewStatus {
			s := status(agentUser, bound)
			s.Audiences = nil
			return s
		}(), "audience"},
		{"a person", status("jane", nil), "no service account"},
		{"half a name", status("system:serviceaccount:adit-system:", nil), "no service account"},
	}
	for _, tt := range tests {
		caller, err := readReview(&tt.status, "istio-ca")
		if tt.text == "" {
			want := caserver.Caller{Namespace: "adit-system", ServiceAccount: "adit-agent", Pod: "adit-agent-x", PodUID: "uid-x", Node: "node-a"}
			if err != nil || caller != want {
				t.Errorf("%s: %+v, %v", tt.why, caller, err)
			}
			continue
		}
		if r, ok := errors.AsType[*caserver.Refusal](err); !ok || r.Reason != caserver.ReasonToken || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v; want a refusal about %q", tt.why, err, tt.text)
		}
	}
}

func TestExpiry(t *testing.T) {
	jwt := func(payload string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".c2ln"
	}
	for token, want := range map[string]time.Time{
		jwt(`{"exp":1700000000}`): time.Unix(1700000000, 0),
		jwt(`{}`):                 {},
		jwt(`{"exp":-5}`):         {},
		jwt(`not json`):           {},
		"opaque":                  {},
		"a.!.c":                   {},
		"":                        {},
	} {
		if got := expiry(token); !got.Equal(want) {
			t.Errorf("%q expires at %s, want %s", token, got, want)
		}
	}
}

func pod(namespace, name, account, node string, phase corev1.PodPhase) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("uid-" + namespace + "-" + name)},
		Spec:       corev1.PodSpec{ServiceAccountName: account, NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		Status:     corev1.PodStatus{Phase: phase},
	}
}

// TestNodeOfATokenThatDoesNotSayIt is Kubernetes before 1.30.
func TestNodeOfATokenThatDoesNotSayIt(t *testing.T) {
	api := startAPIServer(t)
	b, a := newBackend(t, api.config()), newAdmin(t, api.config())
	api.tokens["t"] = status(agentUser, map[string]string{extraPodName: "adit-agent-x", extraPodUID: "uid-adit-system-adit-agent-x"})
	api.tokens["unbound"] = status(agentUser, nil)
	api.tokens["reborn"] = status(agentUser, map[string]string{extraPodName: "adit-agent-x", extraPodUID: "uid-of-another"})

	refused := func(why, token, text string) {
		t.Helper()
		_, err := b.Authenticate(t.Context(), token)
		if _, ok := errors.AsType[*caserver.Refusal](err); !ok || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v; want a refusal about %q", why, err, text)
		}
	}
	refused("the pod is gone", "t", "is gone")
	if err := a.c.create(t.Context(), "pods", system, pod(system, "adit-agent-x", "adit-agent", "node-a", corev1.PodRunning), new(corev1.Pod)); err != nil {
		t.Fatal(err)
	}
	if caller, err := b.Authenticate(t.Context(), "t"); err != nil || caller.Node != "node-a" {
		t.Errorf("%+v, %v", caller, err)
	}
	refused("a token of no pod", "unbound", "bound to no pod")
	refused("a pod of the same name", "reborn", "is gone")
	refused("an unknown token", "x", "no reason given")

	api.deny("get", "pods", true)
	_, err := b.Authenticate(t.Context(), "t")
	if _, ok := errors.AsType[*caserver.Refusal](err); ok || err == nil {
		t.Errorf("the API server does not say: %v; that is no refusal", err)
	}
}

func TestAuthorize(t *testing.T) {
	api := startAPIServer(t)
	b, a := newBackend(t, api.config()), newAdmin(t, api.config())
	for _, p := range []*corev1.Pod{
		pod("default", "web-1", "web", "node-a", corev1.PodRunning),
		pod("default", "job-1", "job", "node-a", corev1.PodSucceeded),
		pod("default", "far-1", "far", "node-b", corev1.PodRunning),
		pod("default", "wait-1", "wait", "", corev1.PodPending),
		pod("shop", "db-1", "default", "node-a", corev1.PodPending),
		pod(system, "adit-ingress-1", "adit-ingress", "node-a", corev1.PodRunning),
	} {
		if err := a.c.create(t.Context(), "pods", p.Namespace, p, new(corev1.Pod)); err != nil {
			t.Fatal(err)
		}
	}
	caller := caserver.Caller{Namespace: system, ServiceAccount: "adit-agent", Node: "node-a"}
	edge := caserver.Caller{Namespace: system, ServiceAccount: "adit-ingress", Node: "node-a"}
	away := edge
	away.Node = "node-b"
	tests := []struct {
		why    string
		caller caserver.Caller
		id     string
		reason caserver.Reason
	}{
		{"the edge for itself", edge, "spiffe://cluster.local/ns/" + system + "/sa/adit-ingress", ""},
		{"the edge for a pod of its node", edge, "spiffe://cluster.local/ns/default/sa/web", caserver.ReasonIdentity},
		{"the edge for its name elsewhere", edge, "spiffe://cluster.local/ns/default/sa/adit-ingress", caserver.ReasonIdentity},
		{"the edge for the agents", edge, "spiffe://cluster.local/ns/" + system + "/sa/adit-agent", caserver.ReasonIdentity},
		{"the edge from where it does not run", away, "spiffe://cluster.local/ns/" + system + "/sa/adit-ingress", caserver.ReasonIdentity},
		{"the edge's name elsewhere", caserver.Caller{Namespace: "default", ServiceAccount: "adit-ingress", Node: "node-a"}, "spiffe://cluster.local/ns/default/sa/adit-ingress", caserver.ReasonCaller},
		{"an agent for the edge", caller, "spiffe://cluster.local/ns/" + system + "/sa/adit-ingress", ""},
		{"a pod of the node", caller, "spiffe://cluster.local/ns/default/sa/web", ""},
		{"one that has not started", caller, "spiffe://cluster.local/ns/shop/sa/default", ""},
		{"one that has ended", caller, "spiffe://cluster.local/ns/default/sa/job", caserver.ReasonIdentity},
		{"of another node", caller, "spiffe://cluster.local/ns/default/sa/far", caserver.ReasonIdentity},
		{"of no node", caller, "spiffe://cluster.local/ns/default/sa/wait", caserver.ReasonIdentity},
		{"of another namespace", caller, "spiffe://cluster.local/ns/shop/sa/web", caserver.ReasonIdentity},
		{"nobody", caller, "spiffe://cluster.local/ns/none/sa/none", caserver.ReasonIdentity},
		{"an application asks", caserver.Caller{Namespace: "default", ServiceAccount: "web", Node: "node-a"}, "spiffe://cluster.local/ns/default/sa/web", caserver.ReasonCaller},
		{"the agents' name elsewhere", caserver.Caller{Namespace: "default", ServiceAccount: "adit-agent", Node: "node-a"}, "spiffe://cluster.local/ns/default/sa/web", caserver.ReasonCaller},
		{"no node", caserver.Caller{Namespace: system, ServiceAccount: "adit-agent"}, "spiffe://cluster.local/ns/default/sa/web", caserver.ReasonToken},
	}
	check := func(stage string) {
		t.Helper()
		for _, tt := range tests {
			err := b.Authorize(t.Context(), tt.caller, spiffeid.RequireFromString(tt.id))
			if tt.reason == "" {
				if err != nil {
					t.Errorf("%s, %s: %v", stage, tt.why, err)
				}
			} else if r, ok := errors.AsType[*caserver.Refusal](err); !ok || r.Reason != tt.reason {
				t.Errorf("%s, %s: %v; want a refusal because of %s", stage, tt.why, err, tt.reason)
			}
		}
	}
	check("before the pods are listed")
	run(t, b)
	<-b.pods.synced
	check("once they are")

	// What is known costs no question; what is not can be the API server's to say.
	api.deny("list", "pods", true)
	if err := b.Authorize(t.Context(), caller, web); err != nil {
		t.Errorf("a known pod: %v", err)
	}
	err := b.Authorize(t.Context(), caller, spiffeid.RequireFromString("spiffe://cluster.local/ns/default/sa/new"))
	if _, ok := errors.AsType[*caserver.Refusal](err); ok || err == nil {
		t.Errorf("an unknown pod while the API server does not answer: %v; that is no refusal", err)
	}
	api.deny("list", "pods", false)

	a.delete("default", "pods", "web-1")
	until(t, "the pod is gone", func() error {
		if err := b.Authorize(context.Background(), caller, web); err == nil {
			return fmt.Errorf("still authorized")
		}
		return nil
	})
}

func TestPodIndex(t *testing.T) {
	x := newPodIndex()
	has := func(why, node, account string, want bool) {
		t.Helper()
		if got := x.has(node, "default", account); got != want {
			t.Errorf("%s: %s on %s is known: %v, want %v", why, account, node, got, want)
		}
	}
	x.Add(pod("default", "web-1", "web", "node-a", corev1.PodRunning))
	x.Add(pod("default", "web-2", "web", "node-a", corev1.PodRunning))
	has("two pods", "node-a", "web", true)
	x.Delete(pod("default", "web-1", "web", "node-a", corev1.PodRunning))
	has("one left", "node-a", "web", true)
	x.Update(pod("default", "web-2", "web", "node-a", corev1.PodFailed))
	has("and ended", "node-a", "web", false)
	x.Delete(pod("default", "web-2", "web", "node-a", corev1.PodFailed))
	x.Add(pod("default", "late", "late", "", corev1.PodPending))
	x.Update(pod("default", "late", "late", "node-b", corev1.PodPending))
	has("scheduled later", "node-b", "late", true)
	x.Replace([]any{pod("default", "new", "", "node-c", corev1.PodRunning)}, "")
	has("not in the new list", "node-b", "late", false)
	has("without a name it has none", "node-c", "default", false)
	x.Delete(pod("default", "new", "", "node-c", corev1.PodRunning))
	if len(x.pods) != 0 || len(x.counts) != 0 {
		t.Errorf("%d pods and %d counts are left of none", len(x.pods), len(x.counts))
	}
}
