package weathertest

import (
	"strings"
	"testing"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

// An address goes from one pod to the next as fast as it can. Policy knows the
// pods apart, on either side of a connection.
func TestAddressOfAnotherPod(t *testing.T) {
	s := begin(t)
	meshlab.Apply(t, s.ns, `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: guarded}
spec:
  selector: {matchLabels: {app: guarded}}
  action: ALLOW
  rules: [{from: [{source: {principals: ["cluster.local/ns/`+s.ns+`/sa/friend"]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed}
spec:
  selector: {matchLabels: {app: closed}}
`)
	guarded := meshlab.Start(t, s.ns, meshlab.PodSpec{Name: "guarded", Node: back, ServiceAccount: "guarded"})
	friend := meshlab.Start(t, s.ns, meshlab.PodSpec{Name: "friend", Node: front, ServiceAccount: "friend"})
	friend.Reach(t, guarded.At(9000)) // a tunnel is open now, between these addresses
	deleteNow(t, friend)
	stranger := heir(t, friend, meshlab.PodSpec{Name: "stranger", ServiceAccount: "stranger"})
	for range 5 {
		if total, err := stranger.Try(t, guarded.At(9000), "-timeout", "2s"); err == nil {
			t.Fatalf("a pod with the address of one that is allowed gets through: %s", total)
		}
	}
	stranger.Reach(t, s.target) // where it may

	open := meshlab.Start(t, s.ns, meshlab.PodSpec{Name: "open", Node: back, ServiceAccount: "open"})
	run := meshlab.Load(t, s.ns, meshlab.PodSpec{Name: "caller", Node: front, ServiceAccount: "client", Args: []string{"-timeout", "1s"}}, "client", open.At(9000))
	deleteNow(t, open)
	closed := heir(t, open, meshlab.PodSpec{Name: "closed", ServiceAccount: "closed"})
	for range 5 {
		if total, err := stranger.Try(t, closed.At(9000), "-timeout", "2s"); err == nil {
			t.Fatalf("a pod that lets nobody in is reached at the address of one that did: %s", total)
		}
	}
	if total := run.Stop(t); total.Servers["closed"] > 0 {
		t.Errorf("connections to a pod that is gone have reached its heir: %s", total)
	}
	var list struct {
		Connections []struct{ DestinationPod, DestinationIdentity, SourcePod, SourceIdentity string }
	}
	must(t, meshlab.AditJSON(&list, "connections"))
	for _, c := range list.Connections {
		for pod, id := range map[string]string{c.DestinationPod: c.DestinationIdentity, c.SourcePod: c.SourceIdentity} {
			if account := strings.TrimPrefix(pod, s.ns+"/"); (account == "stranger" || account == "closed") && id != "" && !strings.HasSuffix(id, "/sa/"+account) {
				t.Errorf("%s goes by the identity %s", pod, id)
			}
		}
	}
	s.unaffected(t, "addresses passed on")
}
