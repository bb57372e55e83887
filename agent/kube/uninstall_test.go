package kube

import (
	"context"
	"net"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// agentOf makes a DaemonSet in a namespace of its own, with the pod of an agent
// here.
func agentOf(t *testing.T, s *apiServer, namespace string) Config {
	t.Helper()
	s.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+namespace+"}\n---\n"+`
apiVersion: apps/v1
kind: DaemonSet
metadata: {namespace: `+namespace+`, name: adit-agent}
spec:
  selector: {matchLabels: {a: b}}
  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: x}]}}`)
	u, err := s.client.Resource(daemonSets).Namespace(namespace).Get(t.Context(), "adit-agent", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.apply(t, `
apiVersion: v1
kind: Pod
metadata:
  namespace: `+namespace+`
  name: adit-agent-1
  ownerReferences: [{apiVersion: apps/v1, kind: DaemonSet, name: adit-agent, uid: `+string(u.GetUID())+`, controller: true}]
spec: {nodeName: `+here+`, hostNetwork: true, terminationGracePeriodSeconds: 0, containers: [{name: c, image: x}]}`)
	return Config{REST: s.config("admin-token", s.address), NodeName: here, Self: PodRef{Namespace: namespace, Name: "adit-agent-1"}}
}

// A source that does not run follows nothing, as one whose watches have all
// just ended: the API server has the word.
func TestUninstallingIsAskedForWithoutAWatch(t *testing.T) {
	s := server(t)
	cfg := agentOf(t, s, "asked")
	ask := func(why string, cfg Config, want bool) {
		t.Helper()
		src, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer src.api.http.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if got := src.AskUninstalling(ctx); got != want {
			t.Errorf("%s: removed %v, want %v", why, got, want)
		}
		if src.Uninstalling() {
			t.Errorf("%s: known from memory, which is empty", why)
		}
	}
	ask("everything is there", cfg, false)

	stranger := cfg
	stranger.Self = PodRef{Namespace: "asked", Name: "nobody"}
	ask("this agent's pod is gone, of which the DaemonSet makes another", stranger, false)
	stranger.Self = PodRef{}
	ask("no pod at all", stranger, false)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	away, unwelcome := cfg, cfg
	away.REST = s.config("admin-token", l.Addr().String())
	l.Close()
	unwelcome.REST = s.config("nobody's-token", s.address)

	s.delete(t, "apps/v1", "DaemonSet", "asked", "adit-agent")
	ask("the DaemonSet is gone", cfg, true)
	ask("and nobody answers", away, false)
	ask("and the rights are gone too", unwelcome, false)

	cfg = agentOf(t, s, "doomed")
	s.delete(t, "v1", "Namespace", "", "doomed")
	ask("the namespace is on its way, the DaemonSet still there", cfg, true)
}

func TestUninstallingIsAskedForWhileTheWatchIsAway(t *testing.T) {
	s := server(t)
	cfg := agentOf(t, s, "stopped")
	way := newRelay(t, s.address)
	r := run(t, s, func(c *Config) {
		c.Self = cfg.Self
		c.REST = s.config("admin-token", way.Addr().String())
	})
	eventually(t, "the DaemonSet is followed", r.followsUninstall)
	answers := func(why string, want bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if got := r.AskUninstalling(ctx); got != want {
			t.Errorf("%s: removed %v, want %v", why, got, want)
		}
	}
	answers("nothing has happened", false)
	way.set(true)
	eventually(t, "the watch has ended", func() bool { return !r.followsUninstall() })
	s.delete(t, "apps/v1", "DaemonSet", "stopped", "adit-agent")
	answers("nobody can be asked", false)
	way.set(false)
	// Its memory may have caught up by itself: it is the same answer.
	answers("the API server is back", true)
}
