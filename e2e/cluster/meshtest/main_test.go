// Package meshtest shows adit on a real cluster as its users see it: with kubectl, with the adit command, from pods
// and on the wire.
package meshtest

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/adit-mesh/adit/e2e/cluster"
	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

func TestMain(m *testing.M) { meshlab.Main(m, "adit-mesh") }

// The nodes of the cluster. Servers are on the second one, clients on the first.
const near, far = "n1", "n2"

func node(name string) *cluster.Node { return meshlab.Cluster().Node(name) }

// connection is what a user reads in `adit connections -o json`.
type connection struct {
	Direction, Mode, Node, Service, Security          string
	Source, Destination, SourcePod, DestinationPod    string
	SourceIdentity, DestinationIdentity, HBONE, Phase string
}

func connections(which ...string) (list []connection, err error) {
	var answer struct {
		Connections []connection
		Errors      []struct{ Agent, Error string }
	}
	if err := meshlab.AditJSON(&answer, append([]string{"connections"}, which...)...); err != nil {
		return nil, err
	}
	if len(answer.Errors) > 0 {
		return nil, fmt.Errorf("agents that do not answer: %+v", answer.Errors)
	}
	return answer.Connections, nil
}

// wantMutual wants both agents to show a connection between two pods in mTLS, and as whom.
func wantMutual(t *testing.T, client, server *meshlab.Pod, clientAccount, serverAccount string) {
	t.Helper()
	identity := func(ns, account string) string { return "spiffe://cluster.local/ns/" + ns + "/sa/" + account }
	meshlab.Eventually(t, fmt.Sprintf("both agents show mTLS from %s to %s", client.Ref(), server.Ref()), func() error {
		list, err := connections(client.Ref())
		if err != nil {
			return err
		}
		for direction, at := range map[string]string{"outbound": client.Node, "inbound": server.Node} {
			if !slices.ContainsFunc(list, func(c connection) bool {
				return c.Direction == direction && c.Node == at && c.Security == "mTLS" &&
					c.SourcePod == client.Ref() && c.DestinationPod == server.Ref() &&
					c.SourceIdentity == identity(client.Namespace, clientAccount) && c.DestinationIdentity == identity(server.Namespace, serverAccount)
			}) {
				return fmt.Errorf("none %s at %s in %+v", direction, at, list)
			}
		}
		return nil
	})
}

// podInfo is what a user reads in `adit pods --all -o json`.
type podInfo struct {
	Namespace, Name, Node, Reason, State, Error string
	Enrolled                                    bool
}

func podInfos(which ...string) (map[string]podInfo, error) {
	var answer struct{ Pods []podInfo }
	if err := meshlab.AditJSON(&answer, append([]string{"pods", "--all"}, which...)...); err != nil {
		return nil, err
	}
	all := map[string]podInfo{}
	for _, p := range answer.Pods {
		all[p.Namespace+"/"+p.Name] = p
	}
	return all, nil
}

// wantCaptured waits until the agents serve these pods.
func wantCaptured(t *testing.T, pods ...*meshlab.Pod) {
	t.Helper()
	meshlab.Eventually(t, "the pods are captured", func() error {
		all, err := podInfos()
		if err != nil {
			return err
		}
		for _, p := range pods {
			if info := all[p.Ref()]; info.State != "serving" {
				return fmt.Errorf("%s: %+v", p.Ref(), info)
			}
		}
		return nil
	})
}

// wantReleased waits until nothing of ours is in the pods' namespaces.
func wantReleased(t *testing.T, pods ...*meshlab.Pod) {
	t.Helper()
	meshlab.Eventually(t, "the pods are free of rules", func() error {
		for _, p := range pods {
			rules, err := meshlab.Rules(t.Context(), p)
			if err != nil {
				return err
			}
			if rules != "" {
				return fmt.Errorf("in %s there are still: %s", p.Ref(), rules)
			}
		}
		return nil
	})
}

// Explanation is what a user reads in `adit why -o json`.
type explanation struct {
	Verdict, Security, Because string
}

// wantWhy waits until `adit why` says so; "" for because takes any.
func wantWhy(t *testing.T, src, dst, verdict, security, because string) {
	t.Helper()
	meshlab.Eventually(t, fmt.Sprintf("adit why %s %s says %s %s", src, dst, verdict, security), func() error {
		var e explanation
		if err := meshlab.AditJSON(&e, "why", src, dst); err != nil {
			return err
		}
		if e.Verdict != verdict || verdict == "connects" && e.Security != security || !strings.Contains(e.Because, because) {
			return fmt.Errorf("it says %+v, and not because of %q", e, because)
		}
		return nil
	})
}

// dialFromNode connects from a node itself, as root, and wants the echo of testapp.
func dialFromNode(ctx context.Context, nodeName, target string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := node(nodeName).Netns().Dial(ctx, nil, "tcp", target)
	if err != nil {
		return err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(c, "hello"); err != nil {
		return err
	}
	r := bufio.NewReader(c)
	for range 2 { // the greeting and the echo
		if _, err := r.ReadString('\n'); err != nil {
			return err
		}
	}
	return nil
}

// wantNodeRefused wants a connection from a node to be refused. A listener that
// answers nobody would be taken for a refusal, so the caller shows that it answers others.
func wantNodeRefused(t *testing.T, nodeName, target string) {
	t.Helper()
	meshlab.Eventually(t, "node "+nodeName+" is refused by "+target, func() error {
		if err := dialFromNode(t.Context(), nodeName, target); err == nil {
			return fmt.Errorf("it gets through")
		} else if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
			return fmt.Errorf("it is left to wait: %w", err)
		}
		return nil
	})
}

// pair starts a server and a client in a namespace, under accounts of their own.
func pair(t *testing.T, ns string) (client, server *meshlab.Pod) {
	t.Helper()
	meshlab.Create(t, ns, meshlab.PodSpec{Name: "server", Node: far, ServiceAccount: "server"})
	meshlab.Create(t, ns, meshlab.PodSpec{Name: "client", Node: near, ServiceAccount: "client"})
	meshlab.Service(t, ns, "server", nil, nil)
	return meshlab.Ready(t, ns, "client"), meshlab.Ready(t, ns, "server")
}

// peerAuthentication is one for a whole namespace.
func peerAuthentication(t *testing.T, ns, mode string) {
	t.Helper()
	meshlab.Apply(t, ns, `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: `+mode+`}}`)
}

// afterwards undoes something at the end of a test, whose own context has ended by then.
func afterwards(t *testing.T, undo func(context.Context) error) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		if err := undo(ctx); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
}

// restarts sums up those of a pod's containers, init containers too.
func restarts(p *corev1.Pod) (n int32) {
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		n += c.RestartCount
	}
	return n
}
